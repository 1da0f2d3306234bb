"""COCO's segmentations, checked before pycocotools sees them, which believes sizes and coordinates, and crashes.

A segmentation is a list of polygons, or runs that go down the columns: plain (a list of counts) or compressed (text).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["check_segment", "decode_segment"]

_LAPS = 100
"""A polygon's outline may be so many times as long as the image's sides together; pycocotools lists all its pixels."""


def check_segment(segment: Any, height: int, width: int) -> None:
    """Refuse what is no segmentation of an image of this size.

    Raises:
        ValueError: In words, without a place.
    """
    if isinstance(segment, list):
        for polygon in segment:
            _check_polygon(polygon, height, width)
        if segment:
            return
    if not isinstance(segment, Mapping) or "counts" not in segment or "size" not in segment:
        raise ValueError("is neither polygons nor runs with size and counts")
    if list(segment["size"] if isinstance(segment["size"], list | tuple) else ()) != [height, width]:
        raise ValueError(f"is of another size than its image of {width}x{height}")
    counts = segment["counts"]
    if isinstance(counts, list):
        if not all(type(count) is int and count >= 0 for count in counts) or sum(counts) != height * width:
            raise ValueError(f"has runs that are not {height * width} pixels together")
    elif not isinstance(counts, str | bytes) or (isinstance(counts, str) and not counts.isascii()):
        raise ValueError("has counts that are neither a list nor text")


def _check_polygon(polygon: Any, height: int, width: int) -> None:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        raise ValueError("has a polygon of less than three corners, or half a corner")
    for value, side in zip(polygon, (width, height) * (len(polygon) // 2), strict=True):
        if type(value) not in (int, float) or not -side <= value <= 2 * side:
            raise ValueError("has a polygon with a corner that is no place in the image or near it")
    corners = list(zip(polygon[::2], polygon[1::2], strict=True))
    outline = sum(max(abs(a[0] - b[0]), abs(a[1] - b[1])) for a, b in pairwise([*corners, corners[0]]))
    if outline > _LAPS * (height + width):
        raise ValueError("has a polygon that goes to and fro without end")


def decode_segment(segment: Any, height: int, width: int) -> NDArray[np.bool_]:
    """A segmentation as a mask `[H, W]`.

    Raises:
        ValueError: It is none of an image of this size; in words, without a place.
    """
    from pycocotools import mask as codec

    check_segment(segment, height, width)
    try:
        if isinstance(segment, list):
            segment = codec.merge(codec.frPyObjects(segment, height, width))
        elif isinstance(segment["counts"], list):
            segment = codec.frPyObjects(segment, height, width)
        mask: NDArray[np.bool_] = codec.decode(segment).astype(bool)
    # What is left to it are compressed runs, at which it can fail in any way.
    except Exception as error:
        raise ValueError(f"is not to be decoded ({error})") from error
    return mask
