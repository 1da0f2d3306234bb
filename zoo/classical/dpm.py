"""Deformable part models: P. Felzenszwalb, R. Girshick, D. McAllester, D. Ramanan, PAMI 2010 (CVPR 2008).

https://cs.brown.edu/people/pfelzens/papers/lsvm-pami.pdf

An object is a root and parts that may move about it for a price. Root and parts are linear filters over histograms of
gradients, parts at twice the resolution; a detection scores what the filters say at the best places of all parts, less
the price. Several such stars a class stand for several aspects, each with its mirror image. Where the parts were is not
in the annotations: training searches for it and learns from it in turn (a latent SVM), with hard negatives.

What is measured is the authors' later release voc-release5 (`voc_release5` builds a detector of its models): features
with a truncation channel, a prior on scale, parts that move four cells at most, windows suppressed where half of the
lower-scoring one is covered, and boxes predicted from the places of root and parts by linear regression. Its pyramid
is kept to the letter; the response is exact within four cells.

What `fit` does otherwise, to be small: one linear SVM a component (and its mirror image) over cached features, with
squared violations, instead of one problem over all components; every so many images all are trained again from where
they were. The parts of the windows with the best roots alone are looked at. Windows that overlap no object of a class
are its negatives, wherever they are, since every image may hold every class. Detection is exact. The score is the
logistic function of the margin.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ops.cover import suppress_covered
from ops.images import Batch, Frame, unscaled
from ops.part_features import mirror_features
from ops.part_pyramid import PartPyramids
from ops.structures import Detections, Target
from zoo.detector import Detector, stage
from zoo.formats.dpm_mat import Component, StarMixture, read_star_mixture
from zoo.formats.mat import MatError
from zoo.parts.fitting import Images, State
from zoo.parts.latent_svm import LatentSVM
from zoo.parts.star_model import Star, StarModels, predicted

__all__ = ["SMALL", "Dpm", "Scanned", "dpm", "voc_release5"]

SMALL: Mapping[str, Any] = {
    "groups": 2,
    "parts": 4,
    "canvas": (9, 9),
    "part_side": 4,
    "area": 25,
    "cell": 4,
    "interval": 3,
    "largest_scale": 1.5,
    "smallest": 24,
    "reach": 2,
    "limit_per_class": 60,
    "learning": {"images": 300},
}


@dataclass(frozen=True)
class Scanned:
    """An image's pyramid and what was found in it.

    Attributes:
        levels: Features `[32, H, W]`, padded for the largest root.
        cells: Side of each level's cells in pixels of the image.
        scores: For each class and each level that holds roots, `[K, Y, X]` of `Star.scores`.
    """

    levels: list[Tensor]
    cells: list[float]
    scores: list[list[Tensor]]


class Dpm(Detector):
    """Mixtures of stars over a pyramid of gradient features.

    Args:
        num_classes: Foreground classes.
        groups: Components of a class, by aspect ratio (section 5.2: 3 in the release), without mirror images.
        mirrored: Whether each has its mirror image beside it.
        parts: Of each component (section 5.2: 6; the release: 8).
        canvas: Rows and columns of cells of the largest root; `fit` gives each its own.
        part_side: Of the square parts, in cells of half the size (section 5.2: 6).
        area: Cells that a root that is fitted covers, about.
        cell: Side of a root's cells in pixels (section 6).
        interval: Levels an octave of the pyramid (section 3: 10 when detecting).
        extra_octave: Whether it begins with cells of a quarter of the size, for roots of half.
        largest_scale: What the image is resized by first; over 1 finds objects smaller than the roots.
        smallest: The pyramid ends where a shorter side of so many pixels would have (release: 5 cells of 8).
        reach: Farthest that a part moves along an axis, in its cells (release: 4).
        score_floor: Detections must score more, the logistic function of the margin. A class's own threshold holds
            besides.
        covered: Of two boxes, the lower-scoring goes where more than this share of it is covered (section 7).
        limit: Most detections an image.
        limit_per_class: Most windows a class whose parts are looked at.
        learning: Arguments of `LatentSVM`, by name.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        groups: int = 3,
        mirrored: bool = True,
        parts: int = 8,
        canvas: tuple[int, int] = (11, 16),
        part_side: int = 6,
        area: int = 60,
        cell: int = 8,
        interval: int = 10,
        extra_octave: bool = False,
        largest_scale: float = 1.0,
        smallest: int = 40,
        reach: int = 4,
        score_floor: float = 0.0,
        covered: float = 0.5,
        limit: int = 300,
        limit_per_class: int = 100,
        learning: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(num_classes)
        if min(groups, parts, interval) < 1 or cell < 2 or cell % (4 if extra_octave else 2):
            raise ValueError(
                f"need at least one group, part and level, and cells that can be halved: got {groups}, {parts}, "
                f"{interval} and {cell} pixels"
            )
        if 2 * min(canvas) < part_side:
            raise ValueError(f"a part of {part_side} cells fits no root of {canvas} cells of twice the size")
        self.area, self.cell, self.interval, self.score_floor = area, cell, interval, score_floor
        self.covered, self.limit, self.limit_per_class = covered, limit, limit_per_class
        self.pyramids = PartPyramids(
            cell, interval, extra_octave=extra_octave, largest_scale=largest_scale, smallest=smallest, padding=canvas
        )
        self.learning = dict(learning or {})
        self.models = StarModels(
            num_classes, groups=groups, mirrored=mirrored, parts=parts, canvas=canvas, side=part_side, reach=reach
        )

    def preprocess(self, images: list[Tensor]) -> Batch:
        """Images as they are, padded to one size. The pyramid is the network's, for it is computed from pixels."""
        return unscaled(images)

    def network(self, batch: Batch, targets: list[Target] | None = None) -> list[Scanned]:
        """Pyramid and scores of each image."""
        images = [pixels[:, : f.inner[0], : f.inner[1]] for pixels, f in zip(batch.pixels, batch.frames, strict=True)]
        answers = []
        for image in images:
            with stage("features"):
                levels, cells = self.pyramid(image)
            with stage("stars"):
                stars = (self.star(label) for label in range(self.num_classes))
                scores = [star.scores(self.trimmed(levels, star)) for star in stars]
            answers.append(Scanned(levels, cells, scores))
        return answers

    def network_for_cost(self, batch: Batch) -> Any:
        """The filters of all classes at once, each root as large as the largest."""
        star = self.star(0)
        roots, parts = star.roots.repeat(self.num_classes, 1, 1, 1), star.parts.flatten(0, 1)
        parts = parts.repeat(self.num_classes, 1, 1, 1)
        answers = []
        for image in batch.pixels:
            levels = self.trimmed(self.pyramid(image)[0], star)
            answers.append([F.conv2d(level, roots) for level in levels[self.interval :]])
            answers.append([F.conv2d(level, parts) for level in levels[: -self.interval]])
        return answers

    def postprocess(self, outputs: list[Scanned], batch: Batch) -> list[Detections]:
        """Windows over their class's threshold; of those that stay, boxes from the places of their parts."""
        answers = []
        for found, frame in zip(outputs, batch.frames, strict=True):
            boxes = [batch.pixels.new_zeros((0, 4))]
            margins, labels = [boxes[0][:, 0]], [boxes[0][:, 0].long()]
            for label in range(self.num_classes):
                own, scores = self._detect(found, label, frame)
                boxes.append(own)
                margins.append(scores)
                labels.append(torch.full_like(scores, label, dtype=torch.int64))
            answers.append(
                Detections.ranked(torch.cat(boxes), torch.cat(margins).sigmoid(), torch.cat(labels), self.limit)
            )
        return answers

    def _detect(self, found: Scanned, label: int, frame: Frame) -> tuple[Tensor, Tensor]:
        star, octave = self.star(label), self.interval
        floor = max(float(self.models.threshold[label]), torch.tensor(self.score_floor).logit().item())
        spots, scores = [torch.zeros((0, 4), dtype=torch.int64, device=self.device)], [self.models.bias[:0, 0]]
        for index, maps in enumerate(found.scores[label], octave):
            if maps.numel():
                best, component = maps.max(0)
                row, column = torch.nonzero(best > floor, as_tuple=True)
                level = torch.full_like(row, index)
                spots.append(torch.stack([component[row, column], level, row, column], 1))
                scores.append(best[row, column])
        spot, score = torch.cat(spots), torch.cat(scores)
        levels = self.trimmed(found.levels, star)
        empty = spot.new_zeros((len(spot), 0, 2))
        roots = frame.to_image(star.boxes(spot, empty, found.cells)[:, 0])
        inside = ((roots[:, 2:] - roots[:, :2]) > 1).all(1)
        spot, score, roots = spot[inside], score[inside], roots[inside]
        kept = suppress_covered(roots, score, self.covered, of="lower", limit=self.limit_per_class)
        spot, score, roots = spot[kept], score[kept], roots[kept]
        filters = star.boxes(spot, star.place(levels, spot), found.cells)
        boxes = frame.to_image(predicted(roots, filters, self.models.box[label, spot[:, 0]]))
        inside = (boxes[:, 2:] > boxes[:, :2]).all(1)
        boxes, score = boxes[inside], score[inside]
        kept = suppress_covered(boxes, score, self.covered, of="lower")
        return boxes[kept], score[kept]

    def num_boxes(self, size: tuple[int, int]) -> int | None:
        """Places of roots that are scored, over all levels, components and classes."""
        total = 0
        for label in range(self.num_classes):
            star = self.star(label)
            for height, width, cell in self.pyramids.plan(size)[self.interval :]:
                rows, columns = (
                    max(0, math.floor(side / cell + 0.5) - 2) + 2 * pad + 2
                    for side, pad in zip((height, width), star.padding, strict=True)
                )
                total += sum(max(0, rows - h + 1) * max(0, columns - w + 1) for h, w in star.windows)
        return total

    def fit(self, dataset: Images, seed: int, state: State | None = None) -> None:
        """Learn the stars from `dataset[i]` -> (image, Target) by latent SVMs.

        The same seed and images give the same detector. Weights are rounded to float16, as checkpoints keep them. Where
        `state` holds what an interrupted call has kept after a pass, this one goes on from there and ends with the same
        weights on a CPU.

        Raises:
            ValueError: A class has no object.
        """
        LatentSVM(self, seed, **self.learning).fit(dataset, state)

    def star(self, label: int) -> Star:
        """One class's components."""
        return self.models.star(label, self.interval)

    def trimmed(self, levels: list[Tensor], star: Star) -> list[Tensor]:
        """The pyramid with no more padding than a class has by itself."""
        down, across = (ours - own for ours, own in zip(self.models.canvas, star.padding, strict=True))
        return [level[:, down : level.shape[1] - down, across : level.shape[2] - across] for level in levels]

    def pyramid(self, image: Tensor) -> tuple[list[Tensor], list[float]]:
        """Features `[32, H, W]` of each level of `[3, H, W]`, and the sides of their cells in pixels of the image."""
        return self.pyramids(image)

    def load(self, label: int, model: StarMixture) -> None:
        """Take a released model for a class.

        Raises:
            ValueError: Its components are not those that this detector is built for.
        """
        own = self.models
        step = 2 if own.mirrored else 1
        if len(model.components) != own.components:
            raise ValueError(f"{model.name}: {len(model.components)} components for a detector of {own.components}")
        for group, component in enumerate(model.components[::step]):
            rows, columns = component.root.shape[1:]
            if rows > own.canvas[0] or columns > own.canvas[1] or component.parts.shape != own.part.shape[2:]:
                raise ValueError(
                    f"{model.name}: a root of {rows} x {columns} cells and parts of {tuple(component.parts.shape)} for "
                    f"a detector with {own.canvas} and {tuple(own.part.shape[2:])}"
                )
            if own.mirrored and not _mirrored(component, model.components[2 * group + 1]):
                raise ValueError(f"{model.name}: component {2 * group + 2} is not the mirror image of the one before")
            own.root[label, group] = 0
            own.root[label, group, :, :rows, :columns] = component.root
            own.window[label, group] = own.window.new_tensor([rows, columns])
            own.bias[label, group], own.prior[label, group] = component.bias, component.prior
            own.part[label, group], own.anchor[label, group] = component.parts, component.anchors
            own.cost[label, group] = component.costs
        own.threshold[label] = min(-1.1, model.threshold)
        for index, component in enumerate(model.components):
            own.box[label, index] = 0 if component.box is None else component.box


def _mirrored(first: Component, second: Component) -> bool:
    side, width = first.parts.shape[-1], first.root.shape[-1]
    turned = first.anchors * first.anchors.new_tensor([-1, 1]) + first.anchors.new_tensor([2 * width - side, 0])
    return (
        torch.equal(mirror_features(first.root), second.root)
        and torch.equal(mirror_features(first.parts), second.parts)
        and torch.equal(first.costs * first.costs.new_tensor([1, -1, 1, 1]), second.costs)
        and torch.equal(turned, second.anchors)
        and first.bias == second.bias
        and torch.equal(first.prior, second.prior)
    )


def voc_release5(paths: Sequence[Path], **overrides: Any) -> Dpm:
    """A detector of released models, a class each: `CLASS_final.mat`, in the order of the labels.

    Raises:
        MatError: A file is damaged or holds another kind of model.
        ValueError: The models have not one geometry of components, parts, cells and pyramid.
    """
    models = [read_star_mixture(path) for path in paths]
    if not models:
        raise ValueError("voc_release5 needs at least one model")
    roots = [component.root.shape for model in models for component in model.components]
    first = models[0]
    for path, model in zip(paths, models, strict=True):
        if (model.interval, model.cell, model.extra_octave) != (first.interval, first.cell, first.extra_octave):
            raise MatError(f"{path}: model.interval: another pyramid than that of {paths[0]}; build it by itself")
    settings: dict[str, Any] = {
        "groups": max(1, len(first.components) // 2),
        "parts": first.components[0].parts.shape[0],
        "canvas": (max(shape[1] for shape in roots), max(shape[2] for shape in roots)),
        "part_side": first.components[0].parts.shape[2],
        "cell": first.cell,
        "interval": first.interval,
        "extra_octave": first.extra_octave,
    }
    detector = dpm(len(models), **{**settings, **overrides})
    for label, model in enumerate(models):
        detector.load(label, model)
    return detector.eval()


def dpm(num_classes: int, **overrides: Any) -> Dpm:
    """Three aspects of eight parts each and their mirror images, as in voc-release5."""
    return Dpm(num_classes, **overrides)
