"""Detectors of P. Dollar's toolbox: `AcfInriaDetector.mat` and its kin with trees of depth two."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zoo.formats.mat import read_struct

__all__ = ["ReleasedTrees", "read_trees"]


@dataclass(frozen=True)
class ReleasedTrees:
    """A detector as its file has it, features renumbered.

    Attributes:
        window: Rows and columns of pixels of the padded window.
        inner: Rows and columns of the object within.
        shrink: Pixels a side of a cell, and the stride.
        per_octave: Scales an octave, of which `approximated` between each two computed ones are approximated.
        approximated: See there.
        octaves_up: Octaves above the image's own scale.
        lambdas: Exponents of the power law for colour, magnitude and orientations.
        reject: Of the cascade.
        covered: Share of the smaller box from which the lower-scoring goes.
        feature: int64 `[T, 3]`: channel, then row, then column of the window's cells, the column running fastest.
        threshold: `[T, 3]`.
        leaf: `[T, 4]`.
    """

    window: tuple[int, int]
    inner: tuple[int, int]
    shrink: int
    per_octave: int
    approximated: int
    octaves_up: int
    lambdas: tuple[float, float, float]
    reject: float
    covered: float
    feature: Tensor
    threshold: Tensor
    leaf: Tensor


def read_trees(path: Path) -> ReleasedTrees:
    """Read a detector.

    Raises:
        MatError: The file is damaged, or holds a detector of other channels, filters or trees.
    """
    detector = read_struct(path, "detector")
    options, trees = detector.struct("opts"), detector.struct("clf")
    pyramid = options.struct("pPyramid")
    channels = pyramid.struct("pChns")
    colour, magnitude, histogram = (channels.struct(name) for name in ("pColor", "pGradMag", "pGradHist"))
    if colour.text("colorSpace") != "luv" or colour.number("smooth") != 1 or pyramid.number("smooth") != 1:
        raise colour.error("colorSpace", "other channels than LUV, smoothed by 1")
    if (magnitude.number("normRad"), magnitude.number("normConst"), magnitude.number("full")) != (5, 0.005, 0):
        raise magnitude.error("normRad", "another normalisation than by a radius of 5 and 0.005")
    if (histogram.number("nOrients"), histogram.number("softBin"), histogram.number("useHog")) != (6, 0, 0):
        raise histogram.error("nOrients", "other histograms than of 6 orientations in hard cells")
    if not all(part.number("enabled") for part in (colour, magnitude, histogram)):
        raise channels.error("pColor", "some of the ten channels are left out")
    if options.has("filters") and options.array("filters").size:
        raise options.error("filters", "locally decorrelated channels, which this detector has not")
    shrink = channels.whole("shrink", 1, 64)
    if options.number("stride") != shrink:
        raise options.error("stride", f"{options.number('stride'):g}, where cells have {shrink} pixels")
    window, inner = (
        (int(side[0]), int(side[1])) for side in (options.array("modelDsPad", (2,)), options.array("modelDs", (2,)))
    )
    if any(side % shrink or not 0 < own <= side <= 4096 for side, own in zip(window, inner, strict=True)):
        raise options.error("modelDsPad", f"{window} is no window of cells of {shrink} pixels about {inner}")
    suppression = options.struct("pNms")
    if (suppression.text("type"), suppression.text("ovrDnm")) != ("maxg", "min"):
        raise suppression.error("type", "another suppression than the greedy one by the smaller area")

    if trees.number("treeDepth") != 2:
        raise trees.error("treeDepth", f"{trees.number('treeDepth'):g}, where trees of depth 2 are read")
    hs = trees.array("hs")
    if hs.ndim != 2 or hs.shape[0] != 7:
        raise trees.error("hs", f"shape {hs.shape} instead of seven nodes a tree")
    rows, columns = window[0] // shrink, window[1] // shrink
    ids = trees.array("fids", hs.shape)[:3]
    children = trees.array("child", hs.shape)
    if ids.min() < 0 or ids.max() >= 10 * rows * columns or (ids != ids.round()).any():
        raise trees.error("fids", f"a feature that is none of {10 * rows * columns}")
    if (children[:3] != np.array([[2], [4], [6]])).any() or children[3:].any():
        raise trees.error("child", "trees that are not complete")
    # The file runs down the columns of each channel, MATLAB's way.
    channel, rest = np.divmod(ids.astype(np.int64), rows * columns)
    column, row = np.divmod(rest, rows)
    lambdas = pyramid.array("lambdas", (3,))
    return ReleasedTrees(
        window=window,
        inner=inner,
        shrink=shrink,
        per_octave=pyramid.whole("nPerOct", 1, 64),
        approximated=pyramid.whole("nApprox", 0, 63),
        octaves_up=pyramid.whole("nOctUp", 0, 4),
        lambdas=(float(lambdas[0]), float(lambdas[1]), float(lambdas[2])),
        reject=options.number("cascThr"),
        covered=suppression.number("overlap"),
        feature=torch.from_numpy(np.ascontiguousarray((channel * rows * columns + row * columns + column).T)),
        threshold=torch.from_numpy(np.ascontiguousarray(trees.array("thrs", hs.shape)[:3].T)).float(),
        leaf=torch.from_numpy(np.ascontiguousarray(hs[3:].T)).float(),
    )
