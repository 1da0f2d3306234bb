"""Boosted cascade of Haar features: P. Viola, M. Jones, "Rapid Object Detection using a Boosted Cascade of Simple
Features", CVPR 2001 (and "Robust Real-Time Face Detection", IJCV 57, 2004).

https://www.cs.cmu.edu/~efros/courses/LBMV07/Papers/viola-cvpr-01.pdf

Three ideas: sums over rectangles come from an integral image in four look-ups, whatever their size; AdaBoost chooses a
few of the 162,336 features of a 24 x 24 window, a threshold each; and its classifiers stand in a cascade, so that most
windows are rejected after a handful of look-ups. Every stage learns from windows that all before it let pass.

What we do otherwise: any number of classes, each with a cascade and a window shape of its own. The image is made
smaller, not the features larger, and variance is that of the window less its outermost pixels: both as in OpenCV, whose
cascades run here (`opencv_cascade`) and give its boxes. Features are balanced (`ops.integral`). A stage's rates are
measured on a share of the windows that AdaBoost has not seen. A detection's score grows with the windows that make it
up and with the margins at which they passed; the paper draws its curves by moving the last stages' thresholds and by
leaving stages out (section 5 of the IJCV paper), which `tolerated` allows within one run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ops.augment import flip
from ops.images import Batch, unscaled
from ops.opencv import group_rectangles
from ops.structures import Detections, Target
from zoo.detector import Detector
from zoo.parts.cascade import Cascades, Sums, WeakClassifiers
from zoo.parts.fitting import Images, tracked
from zoo.parts.haar_trees import HaarTrees
from zoo.parts.pyramid import Level, Pyramid, visited
from zoo.parts.windows import Examples, Scan, median_aspects

__all__ = ["SMALL", "ViolaJones", "Windows", "viola_jones"]

SMALL: Mapping[str, Any] = {
    "window": (20, 20),
    "largest_scale": 1.6,
    "stride": 2,
    "stages": 8,
    "weak": 1200,
    "features": 500,
    "positives": 600,
    "negatives": 800,
    "searched": 150,
    "hit_rate": 0.93,
    "positive_iou": 0.7,
    "negative_iou": 0.4,
    "most": 800,
}


_EACH = 5
"""Windows of an object that a class learns from, the best ones."""

_FEWEST = 8
"""Windows with an object, or without, below which a class learns no further stage."""


@dataclass(frozen=True)
class Windows:
    """The windows of one class that an image's cascade let pass.

    Attributes:
        rectangles: float32 `[n, 4]`, `(x, y, width, height)` in pixels of the image; int32, rounded, in OpenCV's scan.
        scores: float32 `[n]`, above 0.
    """

    rectangles: Tensor
    scores: Tensor


class ViolaJones(Detector):
    """One attentional cascade a class, over every window of every scale.

    Args:
        num_classes: Foreground classes.
        window: Rows and columns of the window (section 4.1 of the IJCV paper); `fit` keeps its area and gives it each
            class's median aspect.
        scale_step: From one scale to the next (section 5.2).
        largest_scale: First scale; 2 finds objects of half the window's size.
        smallest: Least side of a window, pixels of the image.
        stride: Pixels of a scale from one window to the next (section 5.2).
        least_contrast: Windows whose standard deviation is no more, of 255, hold nothing; OpenCV's number.
        merge: Of a group of windows that are alike, more than this must have passed; 0 keeps all groups.
        opencv: Scan as OpenCV: every second pixel of scales below 2, one window left out after each that the first
            stage rejects, and `merge` 0 merges nothing.
        tolerated: How many of the last stages a window may fail. Those that do score less than those that do not.
        most: Windows of a class that can be merged, the surest ones.
        limit: Most detections an image.
        stages: Of a cascade (section 5 of the IJCV paper: 38).
        weak: Most weak classifiers of a cascade (likewise: 6,061).
        nodes: Most nodes of a weak classifier.
        features: How many features each stage chooses from, drawn at random; None for all.
        hit_rate: Share of the objects that a stage must let pass, at least (section 4: 0.99).
        false_alarm: Share of other windows that it may let pass (section 4: 0.3 to 0.5).
        positives: Most windows with an object that a class learns from.
        negatives: Windows without one that each stage learns from.
        searched: Images in which a stage seeks them; None for all. Where these have fewer, it learns from those, and
            where they have hardly any the cascade ends: what is not found in so many windows needs no further stage.
        held_out: Share of both that AdaBoost does not see, on which rates are measured.
        positive_iou: Overlap from which a window holds an object.
        negative_iou: Overlap below which it holds none.
    """

    classifies_windows = True

    def __init__(
        self,
        num_classes: int,
        *,
        window: tuple[int, int] = (24, 24),
        scale_step: float = 1.25,
        largest_scale: float = 1.0,
        smallest: int = 0,
        stride: int = 1,
        least_contrast: float = 10.0,
        merge: int = 0,
        opencv: bool = False,
        tolerated: int = 0,
        most: int = 5000,
        limit: int = 100,
        stages: int = 38,
        weak: int = 6061,
        nodes: int = 1,
        features: int | None = None,
        hit_rate: float = 0.99,
        false_alarm: float = 0.5,
        positives: int = 5000,
        negatives: int = 5000,
        searched: int | None = None,
        held_out: float = 0.25,
        positive_iou: float = 0.65,
        negative_iou: float = 0.5,
    ) -> None:
        super().__init__(num_classes)
        if min(window) < 3 or max(window) > 255:
            raise ValueError(f"a window of {window} is none: its sides must be of 3 to 255 pixels")
        if scale_step <= 1:
            raise ValueError(f"scale_step must be over 1, got {scale_step}")
        if not 0 <= tolerated < stages <= weak:
            raise ValueError(f"{stages} stages of {weak} weak classifiers, {tolerated} tolerated: give more, or fewer")
        self.pyramid = Pyramid(largest_scale, scale_step, smallest, stride, opencv)
        self.merge, self.tolerated, self.most, self.limit = merge, tolerated, most, limit
        self.features, self.hit_rate, self.false_alarm = features, hit_rate, false_alarm
        self.positives, self.negatives, self.searched, self.held_out = positives, negatives, searched, held_out
        self.positive_iou, self.negative_iou = positive_iou, negative_iou
        classifiers = self._weak_classifiers(num_classes, weak, nodes)
        self.cascades = Cascades(classifiers, window, (num_classes, stages, weak), least_contrast)

    def _weak_classifiers(self, num_classes: int, weak: int, nodes: int) -> WeakClassifiers:
        return HaarTrees(num_classes, weak, nodes)

    def preprocess(self, images: list[Tensor]) -> Batch:
        """Images as they are, padded to one size. Scales are the network's, for they are computed from pixels."""
        return unscaled(images)

    def network(self, batch: Batch, targets: list[Target] | None = None) -> list[list[Windows]]:
        """The windows that pass, by image and class."""
        images = [pixels[:, : f.inner[0], : f.inner[1]] for pixels, f in zip(batch.pixels, batch.frames, strict=True)]
        return [self._detect(image) for image in images]

    def postprocess(self, outputs: list[list[Windows]], batch: Batch) -> list[Detections]:
        """Windows that are alike, merged; a detection's score follows from the sum of theirs."""
        answers = []
        for classes, frame in zip(outputs, batch.frames, strict=True):
            boxes, scores, labels = [], [], []
            for label, found in enumerate(classes):
                means, sums = found.rectangles, found.scores
                if self.merge or not self.pyramid.opencv:
                    means, belongs = group_rectangles(found.rectangles, self.merge)
                    sums = means.new_zeros(len(means) + 1, dtype=torch.float32)
                    # Windows whose group went add to a place of their own.
                    sums = sums.index_add_(0, belongs % len(sums), found.scores)[:-1]
                boxes.append(frame.to_image(torch.cat([means[:, :2], means[:, :2] + means[:, 2:]], 1).float()))
                scores.append(sums / (1 + sums))
                labels.append(torch.full_like(sums, label, dtype=torch.int64))
            answers.append(Detections.ranked(torch.cat(boxes), torch.cat(scores), torch.cat(labels), self.limit))
        return answers

    def network_for_cost(self, batch: Batch) -> None:
        """Sums, look-ups and comparisons: no multiply-accumulates that anybody counts."""

    def num_boxes(self, size: tuple[int, int]) -> int | None:
        """Windows that are looked at, over all scales and classes."""
        return self.pyramid.count(size, self.cascades.windows)

    def fit(self, dataset: Images, seed: int) -> None:
        """Learn window shapes, then stage after stage, from `dataset[i]` -> (image, Target).

        The same seed and images give the same detector.

        Raises:
            ValueError: A class has no object, or none that a window covers.
        """
        chance = np.random.default_rng(seed)
        targets = [dataset[index][1] for index in range(len(dataset))]
        for label, aspect in enumerate(median_aspects(targets, self.num_classes)):
            area = self.cascades.base[0] * self.cascades.base[1]
            sides = (math.sqrt(area / aspect), math.sqrt(area * aspect))
            self.cascades.window[label] = torch.tensor([min(255, max(3, round(side))) for side in sides])
        self.cascades.ends.zero_()
        objects = self._objects(dataset, chance)
        growing = set(range(self.num_classes))
        for stage in range(self.cascades.shape[1]):
            others = self._others(dataset, chance, growing, stage)
            for label in sorted(growing):
                good, bad = objects[label], others[label]
                # Where hardly a window passes any more, nothing is left to learn from.
                if min(len(good), len(bad)) < _FEWEST or not self.cascades.grow(
                    label,
                    stage,
                    good,
                    bad,
                    chance,
                    features=self.features,
                    hit_rate=self.hit_rate,
                    false_alarm=self.false_alarm,
                    held_out=self.held_out,
                ):
                    growing.remove(label)
                    continue
                sums = Sums.of(good.to(self.device))
                starts = torch.arange(len(good), device=self.device) * ((good.shape[1] + 1) * sums.columns)
                passed, _ = self.cascades.judge(label, sums, starts, stage + 1)
                objects[label] = good[(passed > stage).cpu()]
            if not growing:
                break

    def _objects(self, dataset: Images, chance: np.random.Generator) -> list[Tensor]:
        """Windows that hold an object, bytes `[P, rows, columns]` by class."""
        found = [Examples(self.positives) for _ in range(self.num_classes)]
        # Of few images each comes twice, for they are mirrored by chance.
        order = np.concatenate([chance.permutation(len(dataset)) for _ in range(2)])[: max(len(dataset), 1000)]
        for index in tracked(order, f"{type(self).__name__}: windows with objects"):
            image, target = dataset[index]
            if not any(found[label].wanted for label in target.labels.tolist()):
                continue
            scan, _ = self._scan(image, target, chance)
            for label in range(self.num_classes):
                if found[label].wanted:
                    found[label].add(scan.take(label, scan.holding(label, self.positive_iou, _EACH)))
            if not any(examples.wanted for examples in found):
                break
        for label, examples in enumerate(found):
            if not examples.count:
                raise ValueError(
                    f"class {label}: no window overlaps an object by {self.positive_iou}; "
                    "add images of it, or choose a largest_scale that suits its size"
                )
        return [self._patches(label, examples) for label, examples in enumerate(found)]

    def _others(self, dataset: Images, chance: np.random.Generator, growing: set[int], stage: int) -> list[Tensor]:
        """Windows that hold no object and pass all stages so far, bytes `[P, rows, columns]` by class."""
        share = max(4, -(-self.negatives // 50))
        found = [Examples(self.negatives if label in growing else 0) for label in range(self.num_classes)]
        order = chance.permutation(len(dataset))[: self.searched]
        for index in tracked(order, f"{type(self).__name__}: windows for stage {stage + 1}"):
            scan, levels = self._scan(*dataset[index], chance)
            sums = [Sums.of(level.pixels[None]) for level in levels] if stage else []
            for label in sorted(growing):
                if found[label].wanted:
                    free = scan.free(label, self.negative_iou).cpu()
                    free = free[torch.from_numpy(chance.permutation(len(free)))]
                    passing = self._first_passing(label, stage, levels, sums, free, share) if stage else free[:share]
                    found[label].add(scan.take(label, passing))
            if not any(examples.wanted for examples in found):
                break
        return [self._patches(label, examples) for label, examples in enumerate(found)]

    def _first_passing(
        self, label: int, stage: int, levels: list[Level], sums: list[Sums], windows: Tensor, most: int
    ) -> Tensor:
        """The first `most` of an image's windows that pass; the others are not looked at."""
        found, begin, size = windows[:0], 0, most << min(stage, 12)
        while len(found) < most and begin < len(windows):
            found = torch.cat([found, self._passing(label, stage, levels, sums, windows[begin : begin + size])])
            begin, size = begin + size, 4 * size
        return found[:most]

    def _passing(self, label: int, stage: int, levels: list[Level], sums: list[Sums], windows: Tensor) -> Tensor:
        """Those of an image's windows, by number, that pass the first `stage` stages."""
        starts = np.cumsum([0, *(level.grid[0] * level.grid[1] for level in levels)])
        kept = torch.zeros(len(windows), dtype=torch.bool)
        edges = zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)
        for level, integrals, (first, last) in zip(levels, sums, edges, strict=True):
            own = torch.nonzero((windows >= first) & (windows < last)).flatten()
            places = level.starts(windows[own].to(self.device) - first, integrals.columns)
            passed, _ = self.cascades.judge(label, integrals, places, stage)
            kept[own] = (passed == stage).cpu()
        return windows[kept]

    def _patches(self, label: int, examples: Examples) -> Tensor:
        rows, columns = self.cascades.windows[label]
        none = torch.zeros((0, rows * columns), dtype=torch.uint8)
        return torch.cat([none, *(part.cpu() for part in examples.parts)]).reshape(-1, rows, columns)

    @torch.no_grad()
    def _scan(self, image: Tensor, target: Target, chance: np.random.Generator) -> tuple[Scan, list[Level]]:
        """Every window of an image that is mirrored half of the time; none has a margin, or all that fit have 0."""
        image, target = image.to(self.device), replace(target.to(self.device), masks=None)
        if chance.random() < 0.5:
            image, target = flip(image, target)
        levels = list(self.pyramid.levels(image, self.cascades.windows))
        if not levels:
            raise ValueError(f"an image of {tuple(image.shape[1:])} holds no window; leave it out")
        boxes, margins = [], []
        for level in levels:
            fits, rectangles = level.places(self.cascades.window)
            boxes.append(torch.cat([rectangles[..., :2], rectangles[..., :2] + rectangles[..., 2:]], -1))
            margins.append(fits.float().log())
        windows = [(rows + 1, columns + 1) for rows, columns in self.cascades.windows]
        scan = Scan(
            [level.pixels[None] for level in levels],
            [level.grid for level in levels],
            torch.cat(boxes, 1),
            torch.cat(margins, 1),
            target,
            windows,
            tuple(level.step for level in levels),
        )
        return scan, levels

    def _detect(self, image: Tensor) -> list[Windows]:
        """The windows of one image that pass, by class."""
        none = Windows(self.cascades.thresholds.new_zeros((0, 4)), self.cascades.thresholds.new_zeros(0))
        found = [[none] for _ in range(self.num_classes)]
        for level in self.pyramid.levels(image, self.cascades.windows):
            sums = Sums.of(level.pixels[None], self.cascades.weak.tilted)
            fits, rectangles = level.places(self.cascades.window)
            starts = level.starts(torch.arange(fits.shape[1], device=fits.device), sums.columns)
            for label in range(self.num_classes):
                stages = self.cascades.stages(label)
                own = torch.nonzero(fits[label]).flatten()
                passed, margins = self.cascades.judge(label, sums, starts[own], len(stages))
                kept = passed >= max(1, len(stages) - self.tolerated)
                if self.pyramid.opencv:
                    kept &= visited(torch.zeros_like(fits[label]).index_put((own,), passed == 0), level.grid[1])[own]
                # A stage that is not passed would have left the share `false_alarm` of other windows.
                scores = (1 + margins[kept].sigmoid()) / 2 * self.false_alarm ** (len(stages) - passed[kept])
                found[label].append(Windows(rectangles[label, own[kept]], scores.float()))
        return [self._best(parts) for parts in found]

    def _best(self, parts: list[Windows]) -> Windows:
        rectangles, scores = torch.cat([p.rectangles for p in parts]), torch.cat([p.scores for p in parts])
        order = scores.argsort(descending=True, stable=True)[: self.most]
        return Windows(rectangles[order].round().int() if self.pyramid.opencv else rectangles[order], scores[order])


def viola_jones(num_classes: int, **overrides: Any) -> ViolaJones:
    """The paper's cascade of 38 stages, one a class."""
    return ViolaJones(num_classes, **overrides)
