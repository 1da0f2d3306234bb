"""Cascades as OpenCV's training program writes them: XML of Haar features or of local binary patterns.

The format since OpenCV 2.4 (`opencv-cascade-classifier`): stages of weak classifiers, each a decision tree whose nodes
are `left right feature threshold` (Haar) or `left right feature` and eight words of a set of codes (LBP); a child over
0 is a node, one of 0 or less is minus the number of a leaf. The features stand at the end, as rectangles.

A file is not believed: documents that declare types or entities are refused unread, and every count, index and number
is checked before it is used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml import DefusedXmlException, ElementTree
from numpy.typing import NDArray

__all__ = ["Cascade", "CascadeError", "read_cascade"]

_LARGEST = 20_000_000
"""Bytes; the largest that OpenCV ships has 2.7 million."""

_CODES = 256

_ROOM = 50_000
"""Nodes of all trees, were each as large as the largest."""


class CascadeError(ValueError):
    """A cascade cannot be read; the message names the file, the entry and the remedy."""


@dataclass(frozen=True)
class Cascade:
    """A cascade in arrays. Weak classifier `n` has up to D nodes; what it does not need is 0.

    Attributes:
        kind: `HAAR` or `LBP`.
        window: Rows and columns of the window, pixels.
        ends: int64 `[S]`: stage `s` ends before this weak classifier.
        stage_thresholds: float32 `[S]`: a window whose sum of leaves is less is rejected.
        rectangles: uint8 `[N, D, 3, 4]` of each node's feature, `(x, y, width, height)`; of LBP the first of the nine
            cells, the other two unused.
        weights: float32 `[N, D, 3]` of the rectangles; of LBP 0.
        tilted: bool `[N, D]`.
        thresholds: float32 `[N, D]`: below goes left; of LBP 0.
        codes: bool `[N, D, 256]`, codes that go left; of Haar `[N, D, 0]`.
        branches: int8 `[N, D, 2]`, left and right, as the file has them.
        leaves: float32 `[N, D + 1]`.
    """

    kind: Literal["HAAR", "LBP"]
    window: tuple[int, int]
    ends: NDArray[np.int64]
    stage_thresholds: NDArray[np.float32]
    rectangles: NDArray[np.uint8]
    weights: NDArray[np.float32]
    tilted: NDArray[np.bool_]
    thresholds: NDArray[np.float32]
    codes: NDArray[np.bool_]
    branches: NDArray[np.int8]
    leaves: NDArray[np.float32]


def read_cascade(path: Path) -> Cascade:
    """Read a cascade.

    Raises:
        CascadeError: The file cannot be read, declares entities, or is no whole cascade of this format.
    """
    return _Reader(path).cascade()


class _Reader:
    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            if path.stat().st_size > _LARGEST:
                raise self.wrong("file", f"has {path.stat().st_size:,} bytes, more than any cascade needs")
            root = ElementTree.fromstring(path.read_bytes(), forbid_dtd=True)
        except OSError as error:
            raise CascadeError(f"{path}: cannot be read ({error.strerror}); give the XML of a cascade") from error
        except DefusedXmlException as error:
            raise self.wrong("document", "declares types or entities, which no cascade needs") from error
        except (ParseError, LookupError, ValueError) as error:
            if isinstance(error, CascadeError):
                raise
            raise self.wrong("document", f"is no whole XML ({error})") from error
        found = root.find("cascade")
        if root.tag != "opencv_storage" or found is None:
            old = root.tag == "opencv_storage" and root.find("./*/stages/_/trees") is not None
            what = "is of the format before OpenCV 2.4" if old else "holds no <cascade>"
            raise self.wrong("opencv_storage", what)
        self.root = found

    def wrong(self, entry: str, reason: str) -> CascadeError:
        return CascadeError(f"{self.path}: {entry}: {reason}; get a cascade that opencv_traincascade wrote")

    def cascade(self) -> Cascade:
        kind = self._text(self.root, "featureType", "cascade")
        if kind not in ("HAAR", "LBP"):
            raise self.wrong("cascade/featureType", f"is {kind[:40]!r}, neither HAAR nor LBP")
        if self._text(self.root, "stageType", "cascade") != "BOOST":
            raise self.wrong("cascade/stageType", "is not BOOST")
        height, width = (self._whole(self.root, name, "cascade", 3, 255) for name in ("height", "width"))
        self.kind, self.window = kind, (height, width)
        categories = self._whole(self._child(self.root, "featureParams", "cascade"), "maxCatCount", "featureParams")
        if categories != (_CODES if kind == "LBP" else 0):
            raise self.wrong("featureParams/maxCatCount", f"is {categories}, which does not fit {kind}")
        stages = self._children(self.root, "stages", "cascade")
        count = self._whole(self.root, "stageNum", "cascade", 1)
        if count != len(stages):
            raise self.wrong("cascade/stageNum", f"is {count}, but there are {len(stages)} stages")
        features = [
            self._feature(feature, f"features[{index}]")
            for index, feature in enumerate(self._children(self.root, "features", "cascade"))
        ]
        weak, ends, limits = [], [], []
        for index, stage in enumerate(stages):
            entry = f"stages[{index}]"
            limits.append(self._numbers(self._text(stage, "stageThreshold", entry), f"{entry}/stageThreshold", 1)[0])
            members = self._children(stage, "weakClassifiers", entry)
            weak += [
                self._tree(tree, f"{entry}/weakClassifiers[{number}]", len(features))
                for number, tree in enumerate(members)
            ]
            ends.append(len(weak))
        return self._arrays(weak, ends, limits, features)

    def _arrays(
        self,
        weak: list[tuple[list[list[float]], list[float]]],
        ends: list[int],
        limits: list[float],
        features: list[tuple[NDArray[np.uint8], NDArray[np.float32], bool]],
    ) -> Cascade:
        shape = (len(weak), max(len(nodes) for nodes, _ in weak))
        codes = _CODES if self.kind == "LBP" else 0
        if math.prod(shape) > max(_ROOM, 4 * sum(len(nodes) for nodes, _ in weak)):
            raise self.wrong("cascade/stages", f"hold trees too different in size, up to {shape[1]} nodes among stumps")
        found = Cascade(
            kind="LBP" if self.kind == "LBP" else "HAAR",
            window=self.window,
            ends=np.array(ends, dtype=np.int64),
            stage_thresholds=np.array(limits, dtype=np.float32),
            rectangles=np.zeros((*shape, 3, 4), dtype=np.uint8),
            weights=np.zeros((*shape, 3), dtype=np.float32),
            tilted=np.zeros(shape, dtype=np.bool_),
            thresholds=np.zeros(shape, dtype=np.float32),
            codes=np.zeros((*shape, codes), dtype=np.bool_),
            branches=np.zeros((*shape, 2), dtype=np.int8),
            leaves=np.zeros((shape[0], shape[1] + 1), dtype=np.float32),
        )
        for n, (nodes, leaves) in enumerate(weak):
            found.leaves[n, : len(leaves)] = leaves
            for d, (left, right, feature, *rest) in enumerate(nodes):
                found.branches[n, d] = left, right
                found.rectangles[n, d], found.weights[n, d], found.tilted[n, d] = features[int(feature)]
                if codes:
                    words = np.array(rest, dtype=np.int64).astype("<u4").view(np.uint8)
                    found.codes[n, d] = np.unpackbits(words, bitorder="little")
                else:
                    found.thresholds[n, d] = rest[0]
        return found

    def _tree(self, tree: Element, entry: str, features: int) -> tuple[list[list[float]], list[float]]:
        """Nodes and leaves of a weak classifier."""
        length = 3 + (8 if self.kind == "LBP" else 1)
        flat = self._numbers(self._text(tree, "internalNodes", entry), f"{entry}/internalNodes")
        if not flat or len(flat) % length or len(flat) > 127 * length:
            raise self.wrong(f"{entry}/internalNodes", f"has {len(flat)} numbers, where a node takes {length}")
        nodes = [flat[start : start + length] for start in range(0, len(flat), length)]
        leaves = self._numbers(self._text(tree, "leafValues", entry), f"{entry}/leafValues", len(nodes) + 1)
        for number, (left, right, feature, *rest) in enumerate(nodes):
            whole = [left, right, feature, *(rest if self.kind == "LBP" else [])]
            if any(value != int(value) for value in whole):
                raise self.wrong(f"{entry}/internalNodes", f"node {number} has a fraction for an index")
            for child in (left, right):
                # A node comes after its parent, so that no walk can go round.
                if not (number < child < len(nodes) or -len(nodes) <= child <= 0):
                    raise self.wrong(f"{entry}/internalNodes", f"node {number} leads to {int(child)}, which is nowhere")
            if not 0 <= feature < features:
                raise self.wrong(f"{entry}/internalNodes", f"node {number} asks feature {int(feature)} of {features}")
            if self.kind == "LBP" and any(not -(2**31) <= word < 2**32 for word in rest):
                raise self.wrong(f"{entry}/internalNodes", f"node {number} has a word of over 32 bits")
        return nodes, leaves

    def _feature(self, feature: Element, entry: str) -> tuple[NDArray[np.uint8], NDArray[np.float32], bool]:
        """Rectangles `[3, 4]`, their weights `[3]`, and whether they are tilted."""
        rectangles, weights = np.zeros((3, 4), dtype=np.uint8), np.zeros(3, dtype=np.float32)
        if self.kind == "LBP":
            cell = self._numbers(self._text(feature, "rect", entry), f"{entry}/rect", 4)
            self._inside([*cell[:2], 3 * cell[2], 3 * cell[3]], False, f"{entry}/rect")
            rectangles[0] = cell
            return rectangles, weights, False
        parts = self._children(feature, "rects", entry)
        if len(parts) > 3:
            raise self.wrong(f"{entry}/rects", f"has {len(parts)} rectangles, where three are the most")
        tilted = feature.find("tilted") is not None and bool(self._whole(feature, "tilted", entry, 0, 1))
        for index, part in enumerate(parts):
            place = f"{entry}/rects[{index}]"
            *rectangle, weight = self._numbers(part.text or "", place, 5)
            self._inside(rectangle, tilted, place)
            rectangles[index], weights[index] = rectangle, weight
        return rectangles, weights, tilted

    def _inside(self, rectangle: list[float], tilted: bool, entry: str) -> None:
        x, y, w, h = rectangle
        height, width = self.window
        left, right, bottom = (x - h, x + w, y + w + h) if tilted else (x, x + w, y + h)
        if any(value != int(value) for value in rectangle) or min(w, h) < 1 or y < 0:
            raise self.wrong(entry, f"{rectangle} is no rectangle of whole pixels")
        if left < 0 or right > width or bottom > height:
            raise self.wrong(entry, f"{rectangle} reaches out of the window of {width} x {height}")

    def _child(self, parent: Element, name: str, entry: str) -> Element:
        found = parent.find(name)
        if found is None:
            raise self.wrong(f"{entry}/{name}", "is missing")
        return found

    def _children(self, parent: Element, name: str, entry: str) -> list[Element]:
        found = list(self._child(parent, name, entry))
        if not found or any(child.tag != "_" for child in found):
            raise self.wrong(f"{entry}/{name}", "is no list of entries")
        return found

    def _text(self, parent: Element, name: str, entry: str) -> str:
        return (self._child(parent, name, entry).text or "").strip()

    def _whole(self, parent: Element, name: str, entry: str, least: int = 0, most: int = 1_000_000) -> int:
        (value,) = self._numbers(self._text(parent, name, entry), f"{entry}/{name}", 1)
        if value != int(value) or not least <= value <= most:
            raise self.wrong(f"{entry}/{name}", f"is {value:g}, no whole number from {least} to {most}")
        return int(value)

    def _numbers(self, text: str, entry: str, count: int | None = None) -> list[float]:
        try:
            # Python reads 1_000 as a thousand, OpenCV does not.
            values = [float(word.replace("_", "?")) for word in text.split()]
        except ValueError as error:
            raise self.wrong(entry, f"{text[:40]!r} are no numbers") from error
        if not all(math.isfinite(value) and abs(value) < 1e30 for value in values):
            raise self.wrong(entry, "holds NaN, infinity or a number beyond all use")
        if count is not None and len(values) != count:
            raise self.wrong(entry, f"has {len(values)} numbers, not {count}")
        return values
