"""What boosted cascades share: the sums that features are read from, and weak classifiers that read them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ops.integral import corners, integral_image, tilted_integral_image
from zoo.formats.opencv_cascade import Cascade
from zoo.parts.boosting import Learned, Learner, floor_half

__all__ = ["Cascades", "Sums", "WeakClassifiers", "rectangle_matrix"]

_SIGNS = (1.0, -1.0, -1.0, 1.0)
_LOOKUPS = 1_000_000
"""How many look-ups happen at once."""


@dataclass(frozen=True)
class Sums:
    """Integral images of one or more images of one size, row after row and one after the other.

    Attributes:
        values: float64 `[T]`: sums of bytes; after them those of the turned right angles, if they are needed.
        squares: float64 `[S]`: sums of squared bytes, in the places of `values`.
        columns: Of an integral image, one more than the image has.
        turned: Where in `values` the turned ones begin.
    """

    values: Tensor
    squares: Tensor
    columns: int
    turned: int

    @classmethod
    def of(cls, images: Tensor, tilted: bool = False) -> Sums:
        """Of bytes `[P, H, W]`; the turned ones of a single image only."""
        levels = images.to(torch.int64)
        values = integral_image(levels, torch.int64).double().flatten()
        squares = integral_image(levels.square(), torch.int64).double().flatten()
        turned = len(values)
        if tilted:
            (image,) = images
            values = torch.cat([values, tilted_integral_image(image).double().flatten()])
        return cls(values, squares, int(images.shape[-1]) + 1, turned)

    def contrast(self, starts: Tensor, window: tuple[int, int]) -> Tensor:
        """Windows' standard deviation times their area, without the outermost pixels; float64, 0 where uniform.

        Args:
            starts: Places of the windows' first pixels in `values`, `[n]`.
            window: Rows and columns.
        """
        inner = torch.tensor([1, 1, window[1] - 2, window[0] - 2], device=starts.device)
        places = starts[:, None] + corners(inner, self.columns)
        signs = self.values.new_tensor(_SIGNS)
        total, squares = self.values[places] @ signs, self.squares[places] @ signs
        return ((window[0] - 2) * (window[1] - 2) * squares - total * total).clamp(min=0).sqrt()

    def products(self, starts: Tensor, places: Tensor, matrix: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Sums over rectangles of windows, times a matrix: a slice of windows and `[n, K]` of it at a time.

        Args:
            starts: As for `contrast`.
            places: `[U]`, look-ups from a window's first pixel.
            matrix: float64 `[U, K]`.
        """
        size = max(1, _LOOKUPS // max(1, len(places)))
        for begin in range(0, len(starts), size):
            part = slice(begin, begin + size)
            yield part, self.values[starts[part, None] + places] @ matrix


def rectangle_matrix(places: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Each look-up once, and the matrix that makes weighted sums over rectangles of them.

    Args:
        places: int64 `[K, R, 4]`, look-ups of the R rectangles of K sums.
        weights: `[K, R]`.

    Returns:
        int64 `[U]` and float64 `[U, K]`.
    """
    once, index = places.unique(return_inverse=True)
    share = weights.double()[..., None] * weights.new_tensor(_SIGNS, dtype=torch.float64)
    matrix = share.new_zeros((len(places), len(once)))
    matrix.scatter_add_(1, index.flatten(1), share.flatten(1))
    # What only rectangles without weight look up, nobody needs.
    used = (matrix != 0).any(0)
    return once[used], matrix[:, used].T.contiguous()


class WeakClassifiers(nn.Module):
    """Weak classifiers of every class's cascade, in buffers `[C, N, ...]`, and what it takes to learn them.

    Attributes:
        normalises: Whether features are divided by the contrast of the window, and windows of little are rejected.
    """

    normalises: bool

    @property
    def tilted(self) -> bool:
        """Whether any feature is read from the turned sums."""
        return False

    def votes(self, label: int, rows: slice, sums: Sums, starts: Tensor, contrast: Tensor) -> Tensor:
        """Sum of what the weak classifiers `rows` of a class say of windows; float64 `[n]`.

        Args:
            label: The class.
            rows: Of its weak classifiers.
            sums: Of the image.
            starts: Places of the windows' first pixels, `[n]`.
            contrast: `Sums.contrast` of each, `[n]`.
        """
        raise NotImplementedError

    def run(
        self, label: int, stages: list[tuple[slice, float]], sums: Sums, starts: Tensor, contrast: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Stage after stage on a processor: how many each window passed, and the margin of the last that it met.

        The same as `votes` stage by stage, on the windows that are left; `stages` are of `Cascades.stages`, from the
        first on.
        """
        raise NotImplementedError

    def candidates(self, window: tuple[int, int], count: int | None, chance: np.random.Generator) -> Tensor:
        """Features to choose weak classifiers from: `count` at random, or all; `[F, ...]`."""
        raise NotImplementedError

    def answers(self, candidates: Tensor, patches: Tensor) -> NDArray[np.generic]:
        """What each feature answers for each window `[P, H, W]` of bytes: `[F, P]`."""
        raise NotImplementedError

    def learner(self, values: NDArray[np.generic], good: NDArray[np.bool_]) -> Learner:
        """What boosts these features, of `answers` and of which windows are objects."""
        raise NotImplementedError

    def keep(self, label: int, row: int, candidates: Tensor, learned: Learned) -> None:
        """Write down what was learned as weak classifier `row` of a class."""
        raise NotImplementedError

    def load(self, cascade: Cascade) -> None:
        """Take the weak classifiers of a file of OpenCV's.

        Raises:
            ValueError: They are of another kind.
        """
        raise NotImplementedError


class Cascades(nn.Module):
    """One attentional cascade a class: stages of weak classifiers, each for the windows that all before let pass.

    Args:
        weak: The weak classifiers of all classes.
        window: Rows and columns of the window, until a class has another.
        shape: Classes, stages and weak classifiers, as many as there may be.
        least_contrast: Standard deviation, of 255, up to which a window holds nothing.
    """

    window: Tensor
    ends: Tensor
    thresholds: Tensor

    def __init__(
        self, weak: WeakClassifiers, window: tuple[int, int], shape: tuple[int, int, int], least_contrast: float
    ) -> None:
        super().__init__()
        self.weak, self.base, self.shape, self.least_contrast = weak, window, shape, least_contrast
        self.register_buffer("window", torch.tensor([window] * shape[0]))
        self.register_buffer("ends", torch.zeros(shape[:2], dtype=torch.int64))
        self.register_buffer("thresholds", torch.zeros(shape[:2]))

    @property
    def windows(self) -> list[tuple[int, int]]:
        """Rows and columns of each class's window; without data, the first."""
        if self.window.is_meta:
            return [self.base] * self.shape[0]
        return [(rows, columns) for rows, columns in self.window.tolist()]

    def stages(self, label: int) -> list[tuple[slice, float]]:
        """Weak classifiers and threshold of each stage that a class has."""
        ends = [0, *self.ends[label].tolist()]
        edges = zip(ends[:-1], ends[1:], self.thresholds[label].tolist(), strict=True)
        return [(slice(first, last), limit) for first, last, limit in edges if last > first]

    def judge(self, label: int, sums: Sums, starts: Tensor, stages: int) -> tuple[Tensor, Tensor]:
        """How many of the first `stages` stages windows pass, and by what margin the last that they met.

        Windows of too little contrast count as -1.
        """
        contrast = margins = torch.zeros(len(starts), dtype=torch.float64, device=starts.device)
        passed, alive = torch.zeros_like(starts), torch.arange(len(starts), device=starts.device)
        if self.weak.normalises:
            contrast, (rows, columns) = sums.contrast(starts, self.windows[label]), self.windows[label]
            enough = contrast > self.least_contrast * (rows - 2) * (columns - 2)
            passed, alive = enough.long() - 1, torch.nonzero(enough).flatten()
        met = self.stages(label)[:stages]
        if starts.device.type == "cpu" and met:
            count, last = self.weak.run(label, met, sums, starts[alive], contrast[alive])
            return passed.index_add(0, alive, count), margins.index_copy(0, alive, last)
        margins = margins.clone()
        for rows_of, limit in met:
            if not len(alive):
                break
            total = self.weak.votes(label, rows_of, sums, starts[alive], contrast[alive])
            margins[alive] = total - limit
            alive = alive[total >= limit]
            passed[alive] += 1
        return passed, margins

    def grow(
        self,
        label: int,
        stage: int,
        good: Tensor,
        bad: Tensor,
        chance: np.random.Generator,
        *,
        features: int | None,
        hit_rate: float,
        false_alarm: float,
        held_out: float,
    ) -> bool:
        """Train one stage; whether anything was learned. Arguments as in `ViolaJones`.

        Args:
            label: The class.
            stage: The one after the last that it has.
            good: Windows with its objects, bytes `[P, rows, columns]`.
            bad: Windows without, `[Q, rows, columns]`.
            chance: Of everything.
            features: How many to choose from; None for all.
            hit_rate: Share of `good` that must pass.
            false_alarm: Share of `bad` that may.
            held_out: Share of both on which this is measured.
        """
        row = int(self.ends[label, stage - 1]) if stage else 0
        left = self.shape[2] - row
        # Early stages that need few leave more to the later ones, whose windows are harder.
        most = -(-left // (self.shape[1] - stage))
        window = self.windows[label]
        candidates = self.weak.candidates(window, features, chance)
        values = self.weak.answers(candidates, torch.cat([good, bad]))
        is_good = np.repeat([True, False], [len(good), len(bad)])
        held = chance.random(len(is_good)) < held_out
        for kind in (is_good, ~is_good):
            if not (held & kind).any():
                held = np.zeros_like(held)
        learner = self.weak.learner(values[:, ~held], is_good[~held])
        seen = held if held.any() else ~held
        votes, learned = np.zeros(len(is_good)), None
        begun = row
        while row < begun + most and (learned := learner.round()) is not None:
            self.weak.keep(label, row, candidates, learned)
            votes += learned.votes(values[learned.feature])
            row += 1
            ranked = np.sort(votes[seen & is_good])
            threshold = floor_half(ranked[int((1 - hit_rate) * len(ranked))])
            self.thresholds[label, stage] = threshold
            if (votes[seen & ~is_good] >= threshold).mean() <= false_alarm:
                break
        self.ends[label, stage:] = row
        return row > begun

    def load_opencv(self, cascade: Cascade) -> None:
        """Take a cascade of OpenCV's.

        Raises:
            ValueError: It is of another kind or shape.
        """
        shape = (1, len(cascade.ends), len(cascade.leaves))
        if shape != self.shape:
            raise ValueError(f"{shape} classes, stages and weak classifiers, where this detector has {self.shape}")
        self.weak.load(cascade)
        self.window.copy_(torch.tensor([cascade.window]))
        self.ends.copy_(torch.from_numpy(cascade.ends))
        # What rounding takes from a sum must not reject a window: OpenCV gives it that much.
        self.thresholds.copy_(torch.from_numpy(cascade.stage_thresholds) - torch.tensor(1e-5))
