"""Models of voc-release5 (R. Girshick, P. Felzenszwalb, D. McAllester): `CLASS_final.mat`.

A file is a grammar. Those of type M, mixtures of stars, have a start symbol whose rules are the components: each places
a root filter and, at twice the resolution, parts. All numbers lie in blocks, which a filter and its mirror image share.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ops.part_features import mirror_features
from zoo.formats.mat import Struct, read_struct

__all__ = ["Component", "StarMixture", "read_star_mixture"]

_RIGID = 100.0
"""Quadratic cost from which a filter does not move; roots have 1,000."""


@dataclass(frozen=True)
class Component:
    """One rule of the start symbol.

    Attributes:
        root: `[32, rows, columns]`.
        bias: Added to every score.
        prior: `[3]`, added where the root lies in the pyramid's first octave, in its second, or later.
        parts: `[P, 32, side, side]`.
        anchors: `[P, 2]`, int64: x and y of each part from the root's corner, in cells of half the size.
        costs: `[P, 4]`: ax, bx, ay, by of `ops.part_features.distance_transform`.
        box: `[4, 2 P + 3]`, what predicts x1, y1, x2 and y2, or None.
    """

    root: Tensor
    bias: float
    prior: Tensor
    parts: Tensor
    anchors: Tensor
    costs: Tensor
    box: Tensor | None


@dataclass(frozen=True)
class StarMixture:
    """A model: its components, and what its features are made with.

    Attributes:
        name: Of the class.
        components: Mirror images beside each other.
        threshold: The score above which its makers evaluate.
        interval: Levels an octave of the pyramid.
        cell: Side of a cell in pixels.
        extra_octave: Whether the pyramid begins with cells of a quarter of the size.
    """

    name: str
    components: tuple[Component, ...]
    threshold: float
    interval: int
    cell: int
    extra_octave: bool


class _Grammar:
    """Rules, symbols and blocks of one file, looked up by the numbers that it uses, from 1."""

    def __init__(self, model: Struct) -> None:
        self.model = model
        self.rules, self.symbols = model.lists("rules"), model.structs("symbols")
        self.filters, self.blocks = model.structs("filters"), model.structs("blocks")
        self.strength = model.struct("features").number("bias")

    def block(self, owner: Struct, kind: str, shape: tuple[int, ...] | None = None) -> npt.NDArray[np.float64]:
        """The numbers of the block that `owner` names, in the shape that the block says."""
        block = self.blocks[owner.whole("blocklabel", 1, len(self.blocks)) - 1]
        if block.text("type") != kind:
            raise block.error("type", f"{block.text('type')!r}, where {owner.name} needs {kind!r}")
        stated = tuple(int(side) for side in block.array("shape"))
        values = np.atleast_1d(block.array("w"))
        if min(stated) < 1 or values.shape != (int(np.prod(stated)),):
            raise block.error("w", f"{values.shape} numbers for a block of {stated}")
        if shape is not None and stated != shape:
            raise block.error("shape", f"{stated} instead of {shape}")
        return values.reshape(stated, order="F")

    def filter(self, symbol: int, owner: Struct) -> tuple[int, Tensor]:
        """Number and weights `[32, rows, columns]` of the filter that a terminal symbol stands for."""
        if not 1 <= symbol <= len(self.symbols):
            raise owner.error("rhs", f"{symbol} is no symbol")
        number = self.symbols[symbol - 1].whole("filter", 1, len(self.filters))
        own = self.filters[number - 1]
        weights = self.block(own, "F")
        if weights.ndim != 3 or weights.shape[2] != 32:
            raise own.error("blocklabel", f"a filter of {weights.shape}, where features have 32 channels")
        found = torch.from_numpy(np.ascontiguousarray(weights.transpose(2, 0, 1))).float()
        return number, mirror_features(found) if own.whole("flip", 0, 1) else found

    def moved(self, symbol: int, owner: Struct) -> tuple[int, Tensor, Tensor]:
        """The filter that a symbol moves, and what moving it costs."""
        rules = self.rules[symbol - 1] if 1 <= symbol <= len(self.rules) else []
        if len(rules) != 1 or rules[0].text("type") != "D":
            raise owner.error("rhs", f"symbol {symbol} is not one moving filter, as parts of a star are")
        (rule,) = rules
        shift = self.block(rule.struct("offset"), "O", (1, 1))
        if shift.any() or self.block(rule.struct("loc"), "O", (1, 3)).any():
            raise rule.error("offset", "a part with a bias of its own, which stars have not")
        deformation = rule.struct("def")
        cost = self.block(deformation, "D", (1, 4))[0].copy()
        if deformation.whole("flip", 0, 1):
            cost[1] = -cost[1]
        return *self.filter(int(rule.number("rhs")), rule), torch.from_numpy(cost).float()

    def component(self, rule: Struct, predictor: Struct | None) -> Component:
        """One rule of the start symbol."""
        if rule.text("type") != "S":
            raise rule.error("type", f"{rule.text('type')!r} instead of 'S'")
        symbols = [int(value) for value in np.atleast_1d(rule.array("rhs"))]
        anchors = rule.arrays("anchor", (3,))
        if len(symbols) < 2 or len(anchors) != len(symbols):
            raise rule.error("anchor", f"{len(anchors)} anchors for {len(symbols)} filters, of which a star has two")
        found = [self.moved(symbol, rule) for symbol in symbols]
        numbers, weights, costs = zip(*found, strict=True)
        if list(numbers) != sorted(numbers):
            raise rule.error("rhs", "filters out of their order, so the predicted boxes cannot be told")
        if anchors[0].any() or float(min(costs[0][0], costs[0][2])) < _RIGID:
            raise rule.error("rhs", "a root that moves")
        if any(int(anchor[2]) != 1 for anchor in anchors[1:]):
            raise rule.error("anchor", "a part that is not at twice the root's resolution")
        if len({tuple(weight.shape) for weight in weights[1:]}) != 1 or weights[1].shape[1] != weights[1].shape[2]:
            raise rule.error("rhs", "parts of several sizes")
        window = tuple(int(side) for side in rule.array("detwindow", (2,)))
        if window != tuple(weights[0].shape[1:]) or rule.array("shiftwindow", (2,)).any():
            raise rule.error("detwindow", f"{window}, where the root has {tuple(weights[0].shape[1:])} cells")
        box = None
        if predictor is not None:
            lines = [predictor.array(edge, (2 * len(symbols) + 1,)) for edge in ("x1", "y1", "x2", "y2")]
            box = torch.from_numpy(np.stack(lines)).float()
        return Component(
            root=weights[0],
            bias=float(self.block(rule.struct("offset"), "O", (1, 1))[0, 0]) * self.strength,
            prior=torch.from_numpy(self.block(rule.struct("loc"), "O", (1, 3))[0]).float(),
            parts=torch.stack(weights[1:]),
            anchors=torch.from_numpy(np.stack(anchors[1:])[:, :2]).long(),
            costs=torch.stack(costs[1:]),
            box=box,
        )


def read_star_mixture(path: Path) -> StarMixture:
    """Read one model.

    Raises:
        MatError: The file is damaged, or holds no mixture of stars as voc-release5 trains them.
    """
    model = read_struct(path, "model")
    kind = model.text("type")
    if kind != "M":
        raise model.error("type", f"{kind!r} is no mixture of stars ('M'), such as CLASS_final.mat holds")
    features = model.struct("features")
    if features.whole("dim", 1, 1024) != 32 or features.whole("truncation_dim", 1, 1024) != 32:
        raise features.error("dim", "features other than those of 32 channels, the last for truncation")
    grammar = _Grammar(model)
    rules = grammar.rules[model.whole("start", 1, len(grammar.rules)) - 1]
    if not rules:
        raise model.error("rules", "the start symbol has no rule")
    predictors: list[Any] = list(model.structs("bboxpred")) if model.has("bboxpred") else [None] * len(rules)
    if len(predictors) != len(rules):
        raise model.error("bboxpred", f"{len(predictors)} predictors for {len(rules)} components")
    return StarMixture(
        name=model.text("class"),
        components=tuple(grammar.component(rule, own) for rule, own in zip(rules, predictors, strict=True)),
        threshold=model.number("thresh"),
        interval=model.whole("interval", 1, 100),
        cell=model.whole("sbin", 4, 64),
        extra_octave=bool(features.whole("extra_octave", 0, 1)),
    )
