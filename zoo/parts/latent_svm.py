"""How stars are learned: a latent SVM with hard negatives.

From P. Felzenszwalb, R. Girshick, D. McAllester, D. Ramanan, "Object Detection with Discriminatively Trained Part Based
Models" (PAMI 2010), sections 4.3 and 5.2: roots from objects warped to one size, by aspect ratio; the mixture, whose
objects choose their component, place and scale; parts laid over what is strong in the roots; then all together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou

from ops.part_features import directed_gradients, mirror_features, part_features
from ops.resample import cut
from ops.structures import Target
from zoo.parts.fitting import Images, tracked
from zoo.parts.linear import ridge
from zoo.parts.star_model import Star, relative

if TYPE_CHECKING:
    from zoo.classical.dpm import Dpm

__all__ = ["LatentSVM", "part_places"]


@dataclass(frozen=True)
class _Roots:
    """Every place of one class's roots in a pyramid, with finite scores."""

    spots: Tensor  # [N, 4]: component, level, row, column
    scores: Tensor
    boxes: Tensor


class LatentSVM:
    """Trains a detector's stars in place.

    Args:
        detector: What is trained.
        seed: Of everything.
        images: Most images that are looked at, in each pass anew.
        positives: Most objects a class.
        negatives: Most windows without an object that a component keeps.
        per_image: Most that it takes from one image.
        c: Price of a violated margin (release: 0.001 for each example, with a bias of 10).
        passes: Passes over the images with parts (release: 8 of them).
        hold: IoU from which a root may explain an object (section 5.2: half of it; release: 0.7).
        free: IoU with every object of the class below which a window is a negative.
        least_cost: Of moving a part, quadratic.
        penalty: Of the ridge regression that predicts boxes.
    """

    def __init__(
        self,
        detector: Dpm,
        seed: int,
        *,
        images: int = 240,
        positives: int = 150,
        negatives: int = 800,
        per_image: int = 6,
        c: float = 0.01,
        passes: int = 2,
        hold: float = 0.5,
        free: float = 0.3,
        least_cost: float = 0.005,
        penalty: float = 1.0,
    ) -> None:
        self.detector, self.seed, self.chance = detector, seed, np.random.default_rng(seed)
        self.images, self.positives, self.negatives, self.per_image = images, positives, negatives, per_image
        self.c, self.passes, self.hold, self.free = c, passes, hold, free
        self.least_cost, self.penalty = least_cost, penalty
        models = detector.models
        self.step = 2 if models.mirrored else 1
        self.groups = models.components // self.step
        self.found: list[list[list[Tensor]]] = []
        self.others: list[list[list[Tensor]]] = []
        self.places: list[list[list[tuple[Tensor, Tensor]]]] = []

    @torch.no_grad()
    def fit(self, dataset: Images) -> None:
        """The whole training, see the module.

        Raises:
            ValueError: A class has no object.
        """
        order = [int(index) for index in self.chance.permutation(len(dataset))][: self.images]
        self._roots(dataset, order)
        self._pass(dataset, order, "mixtures", parts=False)
        self._add_parts()
        self.others = self._lists()
        for turn in range(1, self.passes + 1):
            self._pass(dataset, order, f"parts, pass {turn}", parts=True)
        self._predict_boxes()

    def _lists(self) -> list[list[list[Tensor]]]:
        return [[[] for _ in range(self.groups)] for _ in range(self.detector.num_classes)]

    def _roots(self, dataset: Images, order: list[int]) -> None:
        """Windows by aspect ratio, and roots from warped objects against windows anywhere."""
        detector = self.detector
        targets = [dataset[index][1] for index in order]
        self.found, self.others = self._lists(), self._lists()
        members: dict[int, list[tuple[int, int, Tensor]]] = {}
        for label in range(detector.num_classes):
            own = [
                (image, box)
                for image, target in zip(order, targets, strict=True)
                for box in target.boxes[(target.labels == label) & ~target.ignore]
            ][: self.positives]
            if not own:
                raise ValueError(f"class {label} has no object to learn from; add images of it")
            shapes = np.array([math.log(float((box[2] - box[0]) / (box[3] - box[1]))) for _, box in own])
            ranks = np.argsort(np.argsort(shapes, kind="stable"), kind="stable")
            for group in range(self.groups):
                chosen = np.flatnonzero(ranks * self.groups // len(own) == group)
                chosen = chosen if len(chosen) else np.arange(len(own))
                self._choose_window(label, group, math.exp(float(np.median(shapes[chosen]))))
                for one in chosen:
                    members.setdefault(own[one][0], []).append((label, group, own[one][1]))
        for index in tracked(order, "DPM: objects and random windows"):
            image, target = dataset[index]
            for label, group, box in members.get(index, []):
                self.found[label][group].append(self._warped(image, box, label, group))
            levels, cells = detector.pyramid(image.to(detector.device))
            for label in range(detector.num_classes):
                self._meet_negatives(levels, cells, label, target, parts=False, scored=False)
        for label in range(detector.num_classes):
            for group in range(self.groups):
                self.found[label][group] = self._aligned(label, group)
                self._train(label, group, parts=False)

    def _choose_window(self, label: int, group: int, aspect: float) -> None:
        models = self.detector.models
        least = -(-models.part.shape[-1] // 2)
        for axis, side in enumerate((math.sqrt(self.detector.area / aspect), math.sqrt(self.detector.area * aspect))):
            models.window[label, group, axis] = min(models.canvas[axis], max(least, round(side)))

    def _warped(self, image: Tensor, box: Tensor, label: int, group: int) -> Tensor:
        """Features of an object that fills its root."""
        rows, columns = self.detector.models.window[label, group].tolist()
        cell = self.detector.cell
        x1, y1, x2, y2 = box.tolist()
        across, down = (x2 - x1) / columns, (y2 - y1) / rows
        around = (x1 - across, y1 - down, x2 + across, y2 + down)
        pixels = cut(image.to(self.detector.device) * 255, around, ((rows + 2) * cell, (columns + 2) * cell))
        return part_features(*directed_gradients(pixels), cell)

    def _aligned(self, label: int, group: int) -> list[Tensor]:
        """Each warped object or its mirror image, whichever is more like the others; without mirrors, both."""
        own = torch.stack(self.found[label][group])
        turned = mirror_features(own)
        if self.step == 1:
            return list(torch.cat([own, turned]).flatten(1).half())
        chosen = own
        for _ in range(5):
            mean = chosen.mean(0) if chosen is not own else own[0]
            better = (own * mean).flatten(1).sum(1) >= (turned * mean).flatten(1).sum(1)
            chosen = torch.where(better[:, None, None, None], own, turned)
        return list(chosen.flatten(1).half())

    def _pass(self, dataset: Images, order: list[int], what: str, *, parts: bool) -> None:
        """Let objects choose their stars, gather hard negatives, train every component."""
        detector = self.detector
        self.found = self._lists()
        self.places = [[[] for _ in range(self.groups)] for _ in range(detector.num_classes)]
        for index in tracked(order, f"DPM: {what}"):
            image, target = dataset[index]
            target = target.to(detector.device)
            levels, cells = detector.pyramid(image.to(detector.device))
            for label in range(detector.num_classes):
                roots = self._meet_negatives(levels, cells, label, target, parts=parts, scored=True)
                self._meet_objects(levels, cells, label, target, roots, parts=parts)
        for label in range(detector.num_classes):
            for group in range(self.groups):
                if len(self.found[label][group]) > 1:
                    self._train(label, group, parts=parts)

    def _all_roots(self, star: Star, levels: list[Tensor], cells: list[float], *, parts: bool, scored: bool) -> _Roots:
        spots, scores = [], []
        if scored:
            maps = star.scores(levels, parts=parts)
        else:
            shapes = [level.shape for level in levels[star.octave :]]
            maps = [self._random(star, height, width) for _, height, width in shapes]
        for level, own in enumerate(maps, star.octave):
            component, row, column = torch.nonzero(own.isfinite(), as_tuple=True)
            spots.append(torch.stack([component, torch.full_like(row, level), row, column], 1))
            scores.append(own[component, row, column])
        spot = torch.cat(spots)
        boxes = star.boxes(spot, spot.new_zeros((len(spot), 0, 2)), cells)[:, 0]
        return _Roots(spot, torch.cat(scores), boxes)

    def _random(self, star: Star, height: int, width: int) -> Tensor:
        """Scores drawn at random where a root that is no mirror image fits."""
        maps = torch.full((len(star.windows), height, width), -math.inf, device=self.detector.device)
        for own, (rows, columns) in list(zip(maps, star.windows, strict=True))[:: self.step]:
            inner = own[: max(0, height - rows + 1), : max(0, width - columns + 1)]
            inner.copy_(torch.from_numpy(self.chance.random(tuple(inner.shape), dtype=np.float32)))
        return maps

    def _meet_negatives(
        self, levels: list[Tensor], cells: list[float], label: int, target: Target, *, parts: bool, scored: bool
    ) -> _Roots:
        detector = self.detector
        star = detector.star(label)
        levels = detector.trimmed(levels, star)
        roots = self._all_roots(star, levels, cells, parts=parts, scored=scored)
        objects = target.boxes[target.labels == label].to(roots.boxes)
        free = (box_iou(roots.boxes, objects) < self.free).all(1)
        for group in range(self.groups):
            kept = self.others[label][group]
            own = torch.nonzero(free & (roots.spots[:, 0].div(self.step, rounding_mode="floor") == group)).flatten()
            best = own[roots.scores[own].topk(min(self.per_image, len(own))).indices]
            # Beyond the negative margin is where the SVM's loss begins.
            best = best[roots.scores[best] > -1] if scored else best
            if len(best):
                spots = roots.spots[best]
                placed = star.place(levels, spots) if parts else spots.new_zeros((len(spots), 0, 2))
                kept += list(star.describe(levels, spots, placed, parts=parts).half())
                del kept[: max(0, len(kept) - self.negatives)]
        return roots

    def _meet_objects(
        self, levels: list[Tensor], cells: list[float], label: int, target: Target, roots: _Roots, *, parts: bool
    ) -> None:
        star = self.detector.star(label)
        levels = self.detector.trimmed(levels, star)
        objects = target.boxes[(target.labels == label) & ~target.ignore].to(roots.boxes)
        overlaps = box_iou(roots.boxes, objects)
        for box, overlap in zip(objects, overlaps.T, strict=True):
            scores = roots.scores.masked_fill(overlap < self.hold, -math.inf)
            if not len(scores) or not bool(scores.max().isfinite()):
                continue
            spots = roots.spots[scores.argmax()][None]
            placed = star.place(levels, spots) if parts else spots.new_zeros((1, 0, 2))
            group = int(spots[0, 0]) // self.step
            self.found[label][group].append(star.describe(levels, spots, placed, parts=parts)[0].half())
            if parts:
                filters = star.boxes(spots, placed, cells)[0]
                if self.step == 2 and int(spots[0, 0]) % 2:
                    filters, box = _turned(filters), _turned(box)
                self.places[label][group].append((filters, box))

    def _train(self, label: int, group: int, *, parts: bool) -> None:
        from sklearn.svm import LinearSVC

        models = self.detector.models
        found, others = self.found[label][group], self.others[label][group]
        if not others:
            return
        examples = torch.stack([*found, *others]).float().cpu().numpy()
        # Liblinear shrinks the bias with the weights; on a longer constant feature it hardly does.
        machine = LinearSVC(
            C=self.c, loss="hinge", intercept_scaling=10.0, tol=1e-3, max_iter=3000, random_state=self.seed
        )
        machine.fit(examples, np.repeat([1, 0], [len(found), len(others)]))
        weights = torch.from_numpy(machine.coef_[0]).half().to(models.root)
        rows, columns = models.window[label, group].tolist()
        size = 32 * rows * columns
        models.root[label, group] = 0
        models.root[label, group, :, :rows, :columns] = weights[:size].reshape(32, rows, columns)
        models.bias[label, group] = float(np.float16(machine.intercept_[0]))
        if parts:
            shape, rest = models.part[label, group].shape, weights[size:]
            models.part[label, group] = rest[: shape.numel()].reshape(shape)
            cost = rest[shape.numel() :].reshape(-1, 4)
            cost[:, [0, 2]] = cost[:, [0, 2]].clamp(min=float(np.float16(self.least_cost)))
            models.cost[label, group] = cost

    def _add_parts(self) -> None:
        """Parts where the roots, at twice their resolution, are strong, a tenth as long as their filters at first."""
        models = self.detector.models
        count, side = models.part.shape[2], models.part.shape[-1]
        for label in range(self.detector.num_classes):
            for group in range(self.groups):
                rows, columns = models.window[label, group].tolist()
                root = models.root[label, group, :, :rows, :columns]
                fine = F.interpolate(root[None], scale_factor=2, mode="bicubic", align_corners=False)[0]
                for index, (x, y) in enumerate(part_places(fine.clamp(min=0).square().sum(0), side, count)):
                    weights = fine[:, y : y + side, x : x + side]
                    models.part[label, group, index] = (0.1 * weights / (weights.norm() + 1e-6)).half().float()
                    models.anchor[label, group, index] = models.anchor.new_tensor([x, y])

    def _predict_boxes(self) -> None:
        """Regress objects on the places of root and parts, mirror images turned round."""
        models = self.detector.models
        for label in range(self.detector.num_classes):
            for group in range(self.groups):
                own = self.places[label][group]
                if len(own) <= models.part.shape[2]:
                    continue
                filters, objects = torch.stack([f for f, _ in own]), torch.stack([b for _, b in own])
                roots = filters[:, 0]
                given = relative(roots, filters).double()
                wanted = (objects - roots).double() / (roots[:, 2:] - roots[:, :2] - 1).repeat(1, 2)
                weights = ridge(given.T @ given, given.T @ wanted, self.penalty).T.half().to(models.box)
                models.box[label, group * self.step] = weights
                if self.step == 2:
                    # Mirrored, left is right and x runs backwards; the constant and y do not.
                    turned = weights[[2, 1, 0, 3]] * weights.new_tensor([-1.0, 1, -1, 1])[:, None]
                    signs = weights.new_tensor([-1.0, 1]).repeat(models.part.shape[2] + 1)
                    models.box[label, group * 2 + 1, :, :-1] = turned[:, :-1] * signs
                    models.box[label, group * 2 + 1, :, -1] = turned[:, -1]


def _turned(boxes: Tensor) -> Tensor:
    """Boxes of the mirrored image, whose x runs backwards."""
    return boxes[..., [2, 1, 0, 3]] * boxes.new_tensor([-1.0, 1, -1, 1])


def part_places(energy: Tensor, side: int, count: int) -> list[tuple[int, int]]:
    """Greedily, x and y of the squares of `side` that hold most of `energy [H, W]`; what one holds, no other counts."""
    energy, found = energy.clone(), []
    for _ in range(count):
        sums = F.avg_pool2d(energy[None, None], side, stride=1)[0, 0]
        y, x = divmod(int(sums.argmax()), sums.shape[1])
        energy[y : y + side, x : x + side] = 0
        found.append((x, y))
    return found
