"""Aggregate channel features: P. Dollar, R. Appel, S. Belongie, P. Perona, PAMI 2014.

https://pdollar.github.io/files/papers/DollarPAMI14pyramids.pdf

Ten channels of an image (colour, gradient magnitude, six orientations) are averaged over squares of 4 x 4 pixels; a
window's averages are its features, and boosted trees of depth two say object or not. Most windows are given up after
few trees. Channels are computed once an octave; at the scales between, a power law tells how they differ from those
of the nearest computed scale, so a dense pyramid costs little more than a coarse one.

The numbers are those of the authors' toolbox; its INRIA detector runs here (`released`). Lightness is computed instead
of looked up in a table of 1,024 steps, and resizing is exact where the toolbox drops weights under a thousandth.

What we do otherwise: any number of classes, each with trees and an object shape of its own in a common window. Hard
negatives come from the pyramid that detection scans. The score is 0.5 where the trees' sum is 0, as with a logistic
function, which in single precision would be 1 for every sum over 17 and lose the order of the surest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from ops.channel_pyramid import ChannelPyramids, Pyramid
from ops.channels import channel_features, luv
from ops.cover import suppress_covered
from ops.images import Batch, unscaled
from ops.resample import cut, triangle_blur
from ops.structures import Detections, Target
from ops.trees import boost, cascade
from zoo.detector import Detector, stage
from zoo.formats.acf_mat import read_trees
from zoo.parts.fitting import Images, tracked

__all__ = ["SMALL", "Acf", "acf", "released"]

SMALL: Mapping[str, Any] = {
    "window": (44, 44),
    "inner": (28, 28),
    "stages": (32, 64, 128, 256),
    "per_octave": 4,
    "approximated": 3,
    "octaves_up": 1,
    "negatives": 1000,
    "positives": 200,
    "images": 600,
    "jitter": 2,
}


class Acf(Detector):
    """Boosted trees over aggregate channel features.

    Args:
        num_classes: Foreground classes.
        window: Rows and columns of pixels that a window holds, whole cells (toolbox: 128 x 64).
        inner: Of the object within; `fit` gives each class its own aspect and this area (toolbox: 100 x 41).
        stages: Trees of each round of training; the last has all (toolbox: 32, 128, 512, 2048).
        shrink: Side of a cell in pixels, and the windows' stride (section 5).
        per_octave: Scales an octave (section 5: 8).
        approximated: Scales between two that are computed (section 5: 7).
        octaves_up: Octaves above the image's own scale, for objects smaller than `inner`.
        lambdas: Exponents of the power law for colour, magnitude and orientations (section 4; INRIA's, as released).
        reject: A window is given up where its sum is not above this (toolbox: -1).
        covered: Of two boxes the lower-scoring goes where their intersection is more than this share of the smaller.
        score_floor: Detections must score more.
        limit: Most detections an image.
        limit_per_class: Most windows a class that enter suppression.
        calibration: Added to every leaf (toolbox: 0.005).
        share: Of the features that each node of a tree looks at (toolbox: 1/16).
        images: Most images that it looks at, in each round the same.
        positives: Most objects a class that it learns from, each mirrored too.
        negatives: New windows without one a round, and half of those that are kept (toolbox: 5,000 and 10,000).
        per_image: Most of them from one image (toolbox: 25).
        free: IoU with objects of its class below which a window is a negative (toolbox: 0.1).
        jitter: Further copies of each object, moved and resized a little.
    """

    feature: Tensor
    threshold: Tensor
    leaf: Tensor
    inner: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        window: tuple[int, int] = (128, 64),
        inner: tuple[int, int] = (100, 41),
        stages: tuple[int, ...] = (32, 128, 512, 2048),
        shrink: int = 4,
        per_octave: int = 8,
        approximated: int = 7,
        octaves_up: int = 0,
        lambdas: tuple[float, float, float] = (0.0, 0.11579, 0.11579),
        reject: float = -1.0,
        covered: float = 0.65,
        score_floor: float = 0.0,
        limit: int = 300,
        limit_per_class: int = 1000,
        calibration: float = 0.005,
        share: float = 1 / 16,
        images: int = 10_000,
        positives: int = 5000,
        negatives: int = 5000,
        per_image: int = 25,
        free: float = 0.1,
        jitter: int = 0,
    ) -> None:
        super().__init__(num_classes)
        if any(side % shrink or own > side or own < 1 for side, own in zip(window, inner, strict=True)):
            raise ValueError(f"a window of {window} pixels needs whole cells of {shrink} and room for {inner}")
        if not stages or list(stages) != sorted(stages):
            raise ValueError(f"stages must be numbers of trees that grow, got {stages}")
        self.canvas, self.object, self.stages, self.shrink = window, inner, stages, shrink
        self.reject, self.covered, self.score_floor = reject, covered, score_floor
        self.limit, self.limit_per_class, self.calibration, self.share = limit, limit_per_class, calibration, share
        self.images, self.positives, self.negatives, self.per_image = images, positives, negatives, per_image
        self.free, self.jitter = free, jitter
        self.pyramids = ChannelPyramids(
            window,
            inner,
            shrink,
            per_octave=per_octave,
            approximated=approximated,
            octaves_up=octaves_up,
            lambdas=lambdas,
        )
        shape = (num_classes, stages[-1])
        self.register_buffer("feature", torch.zeros((*shape, 3), dtype=torch.int32))
        self.register_buffer("threshold", torch.zeros((*shape, 3)))
        # Until something is learned, the first tree gives every window up.
        self.register_buffer("leaf", torch.full((*shape, 4), -10.0))
        self.register_buffer("inner", torch.tensor([inner] * num_classes, dtype=torch.float32))

    def preprocess(self, images: list[Tensor]) -> Batch:
        """Images as they are, padded to one size. The pyramid is the network's, for it is computed from pixels."""
        return unscaled(images)

    def network(self, batch: Batch, targets: list[Target] | None = None) -> list[tuple[Pyramid, list[Any]]]:
        """Of each image the pyramid, and for each class the windows that are left and their sums."""
        images = [pixels[:, : f.inner[0], : f.inner[1]] for pixels, f in zip(batch.pixels, batch.frames, strict=True)]
        answers = []
        for image in images:
            with stage("features"):
                pyramid = self.pyramid(image)
            with stage("trees"):
                answers.append((pyramid, [self._classify(pyramid, label) for label in range(self.num_classes)]))
        return answers

    def network_for_cost(self, batch: Batch) -> Any:
        """The pyramid alone: trees compare and add, and how many of them a window meets depends on its features."""
        return [self.pyramid(image) for image in batch.pixels]

    def postprocess(self, outputs: list[tuple[Pyramid, list[Any]]], batch: Batch) -> list[Detections]:
        """Windows without their margins, as boxes; duplicates suppressed class by class."""
        answers = []
        for (pyramid, found), frame in zip(outputs, batch.frames, strict=True):
            boxes, sums, labels = [], [], []
            for label, (windows, score) in enumerate(found):
                if len(score) > self.limit_per_class:
                    score, best = score.topk(self.limit_per_class)
                    windows = windows[best]
                own = self._boxes(pyramid, windows, label)
                kept = suppress_covered(own, score, self.covered, of="smaller", limit=self.limit)
                kept = kept[_squashed(score[kept]) > self.score_floor]
                boxes.append(frame.to_image(own[kept]))
                sums.append(score[kept])
                labels.append(torch.full_like(windows[kept], label))
            answers.append(
                Detections.ranked(torch.cat(boxes), _squashed(torch.cat(sums)), torch.cat(labels), self.limit)
            )
        return answers

    def num_boxes(self, size: tuple[int, int]) -> int | None:
        """Windows that are scanned, over all scales and classes."""
        return self.num_classes * self.pyramids.num_windows(size)

    def pyramid(self, image: Tensor) -> Pyramid:
        """Channels and windows of `[3, H, W]`."""
        return self.pyramids(luv(image))

    def _places(self, feature: Tensor, channels: Tensor) -> Tensor:
        """How far behind a window's start its features lie in a pyramid's flat channels."""
        rows, columns = self.pyramids.cells
        channel, rest = feature.div(rows * columns, rounding_mode="floor"), feature % (rows * columns)
        row, column = rest.div(columns, rounding_mode="floor"), rest % columns
        return (channel * channels.shape[1] + row) * channels.shape[2] + column

    def _classify(self, pyramid: Pyramid, label: int) -> tuple[Tensor, Tensor]:
        places = self._places(self.feature[label].long(), pyramid.channels)
        values = pyramid.channels.flatten()
        return cascade(values, pyramid.start, places, self.threshold[label], self.leaf[label], self.reject)

    def _boxes(self, pyramid: Pyramid, windows: Tensor, label: int) -> Tensor:
        """`[n, 4]` in image pixels, not clipped."""
        inner = self.inner[label]
        margin = (inner.new_tensor(self.canvas) - inner) / 2
        scale = pyramid.scale[windows]
        corner = (pyramid.corner[windows] + margin.flip(0)) / scale[:, :2]
        return torch.cat([corner, corner + inner.flip(0) / scale[:, 2:]], 1)

    @torch.no_grad()
    def fit(self, dataset: Images, seed: int) -> None:
        """Learn object shapes, then trees in rounds with hard negatives, from `dataset[i]` -> (image, Target).

        The same seed and images give the same detector. Numbers are rounded to float16, as checkpoints keep them.

        Raises:
            ValueError: A class has no object.
        """
        chance = np.random.default_rng(seed)
        order = [int(index) for index in chance.permutation(len(dataset))[: self.images]]
        self._choose_shapes([dataset[index][1] for index in order])
        objects = self._objects(dataset, order, chance)
        kept: list[list[Tensor]] = [[] for _ in range(self.num_classes)]
        for turn, trees in enumerate(self.stages):
            fresh: list[list[Tensor]] = [[] for _ in range(self.num_classes)]
            for index in tracked(order, f"ACF: negatives, round {turn + 1}"):
                self._meet(*dataset[index], fresh, chance, hard=turn > 0)
                if all(sum(map(len, own)) >= self.negatives for own in fresh):
                    break
            for label in range(self.num_classes):
                new = torch.cat(fresh[label])[: self.negatives] if fresh[label] else objects[label][:0]
                old = torch.cat(kept[label]) if kept[label] else new[:0]
                room = max(0, 2 * self.negatives - len(new))
                old = old[torch.from_numpy(chance.permutation(len(old))[:room]).to(old.device)]
                kept[label] = [old, new]
                self._learn(label, torch.cat(kept[label]), objects[label], trees, chance)

    def _choose_shapes(self, targets: list[Target]) -> None:
        boxes = torch.cat([target.boxes[~target.ignore] for target in targets])
        labels = torch.cat([target.labels[~target.ignore] for target in targets])
        area = self.object[0] * self.object[1]
        for label in range(self.num_classes):
            own = boxes[labels == label]
            if not len(own):
                raise ValueError(f"class {label} has no object to learn from; add images of it")
            aspect = float(((own[:, 2] - own[:, 0]) / (own[:, 3] - own[:, 1])).median())
            for axis, side in enumerate((math.sqrt(area / aspect), math.sqrt(area * aspect))):
                self.inner[label, axis] = min(self.canvas[axis], round(side))

    def _objects(self, dataset: Images, order: list[int], chance: np.random.Generator) -> list[Tensor]:
        """Features `[n, D]` of each class's objects, in windows that they fill as those of its shape do."""
        found: list[list[Tensor]] = [[] for _ in range(self.num_classes)]
        for index in tracked(order, "ACF: objects"):
            image, target = dataset[index]
            if all(len(own) >= 2 * self.positives * (1 + self.jitter) for own in found):
                break
            colours = None
            for box, label in zip(target.boxes[~target.ignore], target.labels[~target.ignore].tolist(), strict=True):
                if len(found[label]) >= 2 * self.positives * (1 + self.jitter):
                    continue
                colours = luv(image.to(self.device)) if colours is None else colours
                for copy in range(1 + self.jitter):
                    moves = chance.uniform(-1, 1, 3) if copy else np.zeros(3)
                    window = self._window(colours, box, label, moves)
                    found[label] += [self._describe(window), self._describe(window.flip(-1))]
        return [torch.stack(own) for own in found]

    def _window(self, colours: Tensor, box: Tensor, label: int, moves: np.ndarray[Any, Any]) -> Tensor:
        """Colours about an object, two cells wider on each side than its window."""
        height, width = self.inner[label].tolist()
        x1, y1, x2, y2 = box.tolist()
        # The area stays, the aspect becomes the class's.
        size = math.sqrt((x2 - x1) * (y2 - y1) / (height * width)) * 1.1 ** float(moves[0])
        x = (x1 + x2) / 2 + 0.06 * float(moves[1]) * width * size
        y = (y1 + y2) / 2 + 0.06 * float(moves[2]) * height * size
        down, across = (side + 4 * self.shrink for side in self.canvas)
        half = (across * size / 2, down * size / 2)
        return cut(colours, (x - half[0], y - half[1], x + half[0], y + half[1]), (down, across))

    def _describe(self, window: Tensor) -> Tensor:
        channels = triangle_blur(channel_features(window, self.shrink), 1)
        return channels[:, 2:-2, 2:-2].flatten()

    def _meet(
        self, image: Tensor, target: Target, fresh: list[list[Tensor]], chance: np.random.Generator, *, hard: bool
    ) -> None:
        """Add windows of an image that hold no object of a class to its negatives, at random or the hardest."""
        wanted = [label for label, own in enumerate(fresh) if sum(map(len, own)) < self.negatives]
        if not wanted:
            return
        pyramid = self.pyramid(image.to(self.device))
        values = pyramid.channels.flatten()
        every = torch.arange(10 * math.prod(self.pyramids.cells), device=self.device)
        offsets = self._places(every, pyramid.channels)
        for label in wanted:
            if hard:
                windows, sums = self._classify(pyramid, label)
                windows = windows[sums.argsort(descending=True)]
            else:
                windows = torch.from_numpy(chance.permutation(len(pyramid.start))[: 4 * self.per_image]).to(self.device)
            objects = target.boxes[target.labels == label].to(pyramid.scale)
            free = (box_iou(self._boxes(pyramid, windows, label), objects) < self.free).all(1)
            windows = windows[free][: self.per_image]
            fresh[label].append(values[pyramid.start[windows, None] + offsets])

    def _learn(self, label: int, negatives: Tensor, positives: Tensor, trees: int, chance: np.random.Generator) -> None:
        found = boost(negatives.cpu().numpy(), positives.cpu().numpy(), trees, chance, share=self.share)
        self.feature[label, :trees] = torch.from_numpy(found.feature).to(self.feature)
        self.threshold[label, :trees] = torch.from_numpy(found.threshold).half().to(self.threshold)
        self.leaf[label] = 0
        leaf = np.where(np.abs(found.leaf).any(1, keepdims=True), found.leaf + self.calibration, 0)
        self.leaf[label, :trees] = torch.from_numpy(leaf).half().to(self.leaf)


def _squashed(sums: Tensor) -> Tensor:
    """From all numbers to those between 0 and 1; hundreds can still be told apart."""
    return 0.5 + 0.5 * sums / (1 + sums.abs())


def released(path: Path, **overrides: Any) -> Acf:
    """A detector of the toolbox, such as `AcfInriaDetector.mat`: class 0 is a person.

    Raises:
        MatError: The file is damaged or holds another kind of detector.
    """
    found = read_trees(path)
    names = ("window", "inner", "shrink", "per_octave", "approximated", "octaves_up", "lambdas", "reject", "covered")
    settings = {name: getattr(found, name) for name in names}
    detector = acf(1, **{**settings, "stages": (len(found.leaf),), **overrides})
    detector.feature.copy_(found.feature[None])
    detector.threshold.copy_(found.threshold[None])
    detector.leaf.copy_(found.leaf[None])
    return detector.eval()


def acf(num_classes: int, **overrides: Any) -> Acf:
    """The toolbox's detector for pedestrians of INRIA: windows of 128 x 64 pixels, 2,048 trees."""
    return Acf(num_classes, **overrides)
