"""How stars are learned: a latent SVM with hard negatives.

From P. Felzenszwalb, R. Girshick, D. McAllester, D. Ramanan, "Object Detection with Discriminatively Trained Part Based
Models" (PAMI 2010), sections 4.3 and 5.2: roots from objects warped to one size, by aspect ratio; the mixture, whose
objects choose their component, place and scale; parts laid over what is strong in the roots; then all together.

A machine that sees nothing but the mistakes of the one before makes others, and forgets what it knew: the negatives of
all passes are kept, the hardest of them, and objects keep what explains them until they are met again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from ops.cover import suppress_covered
from ops.part_features import mirror_features
from ops.structures import Target
from zoo.parts.fitting import Images, State, tracked
from zoo.parts.margins import separate
from zoo.parts.star_learning import add_parts, alike, by_aspect, choose_window, learn_boxes, turned, warped
from zoo.parts.star_model import Star

if TYPE_CHECKING:
    from zoo.classical.dpm import Dpm

__all__ = ["LatentSVM"]

_LOOKED = 100
"""Windows of a component, those of the best roots, among which an image's negatives are sought."""


@dataclass(frozen=True)
class _Example:
    """What explains an object: a component, its description, and, of stars with parts, the root's and the parts' boxes
    and the object's, turned round where the component is a mirror image."""

    group: int
    described: Tensor
    places: tuple[Tensor, Tensor] | None = None

    @classmethod
    def on(cls, device: torch.device, group: int, described: Tensor, places: tuple[Tensor, Tensor] | None) -> _Example:
        """One of such fields, on a device."""
        moved = None if places is None else (places[0].to(device), places[1].to(device))
        return cls(group, described.to(device), moved)


@dataclass(frozen=True)
class _Scene:
    """An image as one class's stars see it."""

    label: int
    index: int
    star: Star
    levels: list[Tensor]
    cells: list[float]
    target: Target

    def boxes(self, spots: Tensor) -> Tensor:
        """Of roots, `[N, 4]`."""
        return self.star.boxes(spots, spots.new_zeros((len(spots), 0, 2)), self.cells)[:, 0]


@dataclass(frozen=True)
class _Roots:
    """Every place of one class's roots in a pyramid."""

    spots: Tensor  # [N, 4]: component, level, row, column
    scores: Tensor


class LatentSVM:
    """Trains a detector's stars in place.

    Args:
        detector: What is trained.
        seed: Of everything.
        images: Most images that are looked at, in each pass anew.
        positives: Most objects a class that roots begin with.
        negatives: Windows without an object that a component keeps, the hardest ones.
        per_image: Most that it takes from one image.
        candidates: Windows whose parts are looked at, for each object and each component, those of the best roots.
        c: Price of a violated margin (release: 0.001 for each example, with a bias of 10).
        passes: Passes over the images with parts (release: 8 of them).
        every: Images after which all components are trained again.
        hold: IoU from which a root may explain an object (section 5.2: half of it; release: 0.7).
        free: IoU with every object of the class below which a window is a negative.
        least_cost: Of moving a part, quadratic (release: 0.01).
        penalty: Of the ridge regression that predicts boxes.
    """

    def __init__(
        self,
        detector: Dpm,
        seed: int,
        *,
        images: int = 240,
        positives: int = 150,
        negatives: int = 1000,
        per_image: int = 5,
        candidates: int = 12,
        c: float = 0.01,
        passes: int = 2,
        every: int = 100,
        hold: float = 0.5,
        free: float = 0.3,
        least_cost: float = 0.01,
        penalty: float = 1.0,
    ) -> None:
        self.detector, self.chance = detector, np.random.default_rng(seed)
        self.images, self.positives, self.negatives, self.per_image = images, positives, negatives, per_image
        self.candidates, self.c, self.passes, self.every = candidates, c, passes, every
        self.hold, self.free, self.least_cost, self.penalty = hold, free, least_cost, penalty
        models = detector.models
        self.step = 2 if models.mirrored else 1
        self.groups = models.components // self.step
        # By class: what explains an object, of which image and of which number there.
        self.found: list[dict[tuple[int, int], _Example]] = [{} for _ in range(detector.num_classes)]
        self.others = self._no_others()

    @torch.no_grad()
    def fit(self, dataset: Images, state: State | None = None) -> None:
        """The whole training, see the module; where `state` holds what an interrupted call kept, what is left of it.

        Raises:
            ValueError: A class has no object.
        """
        order = [int(index) for index in self.chance.permutation(len(dataset))][: self.images]
        done = self._resume(state)
        if done < 1:
            # Nothing after the roots is drawn at random.
            self._roots(dataset, order)
            self._keep(state, 1)
        if done < 2:
            self._pass(dataset, order, "mixtures", parts=False)
            add_parts(self.detector.models)
            self.found, self.others = [{} for _ in self.found], self._no_others()
            self._keep(state, 2)
        for turn in range(max(1, done - 1), self.passes + 1):
            self._pass(dataset, order, f"parts, pass {turn}", parts=True)
            self._keep(state, 2 + turn)
        for label, found in enumerate(self.found):
            for group in range(self.groups):
                places = [one.places for one in found.values() if one.group == group and one.places is not None]
                learn_boxes(self.detector.models, label, group, places, self.penalty)

    def _keep(self, state: State | None, done: int) -> None:
        """A later call is to go on behind what is done: roots, mixtures, and the passes with parts."""
        if state is not None:
            found = [{key: (one.group, one.described, one.places) for key, one in own.items()} for own in self.found]
            state.save({"done": done, "model": self.detector.state_dict(), "found": found, "others": self.others})

    def _resume(self, state: State | None) -> int:
        """What is done already."""
        kept = None if state is None else state.load()
        if kept is None:
            return 0
        self.detector.load_state_dict(kept["model"])
        device = self.detector.device
        self.found = [{key: _Example.on(device, *one) for key, one in own.items()} for own in kept["found"]]
        self.others = [
            [{key: one.to(device) for key, one in own.items()} for own in groups] for groups in kept["others"]
        ]
        return int(kept["done"])

    def _no_others(self) -> list[list[dict[tuple[int, ...], Tensor]]]:
        """By class and component the descriptions of windows without an object, by image and place."""
        return [[{} for _ in range(self.groups)] for _ in range(self.detector.num_classes)]

    def _roots(self, dataset: Images, order: list[int]) -> None:
        """Windows by aspect ratio, and roots from warped objects against windows anywhere."""
        detector = self.detector
        targets = [dataset[index][1] for index in order]
        members: dict[int, list[tuple[int, int, int]]] = {}
        for label in range(detector.num_classes):
            own = [
                (index, number, box)
                for index, target in zip(order, targets, strict=True)
                for number, box in enumerate(_objects(target, label))
            ][: self.positives]
            if not own:
                raise ValueError(f"class {label} has no object to learn from; add images of it")
            for group, (chosen, aspect) in enumerate(by_aspect(torch.stack([box for _, _, box in own]), self.groups)):
                choose_window(detector.models, label, group, aspect, detector.area)
                for one in chosen:
                    members.setdefault(own[one][0], []).append((label, group, own[one][1]))
        for turn, index in enumerate(tracked(order, "DPM: objects and random windows")):
            image, target = dataset[index]
            for label, group, number in members.get(index, []):
                box, window = _objects(target, label)[number], detector.models.window[label, group].tolist()
                features = warped(image.to(detector.device), box, window, detector.cell)
                self.found[label][index, number] = _Example(group, features)
            # A few images hold windows enough that are no objects.
            if turn * self.candidates < self.negatives:
                levels, cells = detector.pyramid(image.to(detector.device))
                for label in range(detector.num_classes):
                    scene = self._scene(label, index, target, levels, cells)
                    self._meet_negatives(scene, self._anywhere(scene), parts=False, hard=False)
        for label in range(detector.num_classes):
            for group in range(self.groups):
                self._align(label, group)
                self._train(label, group, parts=False)

    def _align(self, label: int, group: int) -> None:
        """Of each warped object take the mirror image if that is more like the others; without mirrors, take both."""
        keys = [key for key, example in self.found[label].items() if example.group == group]
        if not keys:
            return
        own = torch.stack([self.found[label][key].described for key in keys])
        chosen = alike(own) if self.step == 2 else own
        for (index, number), first, second in zip(keys, chosen, mirror_features(own), strict=True):
            self.found[label][index, number] = _Example(group, first.flatten().half())
            if self.step == 1:
                self.found[label][index, -1 - number] = _Example(group, second.flatten().half())

    def _pass(self, dataset: Images, order: list[int], what: str, *, parts: bool) -> None:
        """Image after image, let objects choose their stars and gather hard negatives; train now and then."""
        detector = self.detector
        for turn, index in enumerate(tracked(order, f"DPM: {what}"), start=1):
            image, target = dataset[index]
            target = target.to(detector.device)
            levels, cells = detector.pyramid(image.to(detector.device))
            for label in range(detector.num_classes):
                scene = self._scene(label, index, target, levels, cells)
                roots = _flat(scene.star.scores(scene.levels, parts=False), scene.star.octave)
                self._meet_negatives(scene, roots, parts=parts, hard=True)
                self._meet_objects(scene, roots, parts=parts)
            if turn % self.every == 0 or turn == len(order):
                for label in range(detector.num_classes):
                    for group in range(self.groups):
                        self._train(label, group, parts=parts)

    def _scene(self, label: int, index: int, target: Target, levels: list[Tensor], cells: list[float]) -> _Scene:
        star = self.detector.star(label)
        return _Scene(label, index, star, self.detector.trimmed(levels, star), cells, target)

    def _anywhere(self, scene: _Scene) -> _Roots:
        """Scores drawn at random where a root that is no mirror image fits."""
        maps = []
        for _, height, width in (level.shape for level in scene.levels[scene.star.octave :]):
            scores = torch.full((len(scene.star.windows), height, width), -math.inf, device=self.detector.device)
            for own, (rows, columns) in list(zip(scores, scene.star.windows, strict=True))[:: self.step]:
                inner = own[: max(0, height - rows + 1), : max(0, width - columns + 1)]
                inner.copy_(torch.from_numpy(self.chance.random(tuple(inner.shape), dtype=np.float32)))
            maps.append(scores)
        return _flat(maps, scene.star.octave)

    def _meet_negatives(self, scene: _Scene, roots: _Roots, *, parts: bool, hard: bool) -> None:
        """Keep windows of each component that are no objects: the hard ones, or those of the best scores."""
        objects = scene.target.boxes[scene.target.labels == scene.label].to(roots.scores)
        for group in range(self.groups):
            own = torch.nonzero(roots.spots[:, 0].div(self.step, rounding_mode="floor") == group).flatten()
            own = own[roots.scores[own].topk(min(_LOOKED, len(own))).indices]
            boxes = scene.boxes(roots.spots[own])
            free = (box_iou(boxes, objects) < self.free).all(1)
            if parts:
                free &= scene.star.fits(scene.levels, roots.spots[own])
            # Neighbours tell the same.
            apart = suppress_covered(boxes[free], roots.scores[own][free], 0.5, of="lower", limit=self.candidates)
            spots = roots.spots[own[free][apart]]
            if not len(spots):
                continue
            placed = scene.star.place(scene.levels, spots) if parts else spots.new_zeros((len(spots), 0, 2))
            described = scene.star.describe(scene.levels, spots, placed, parts=parts)
            if hard:
                scores = described @ self._weights(scene.label, group, parts=parts) + self._bias(scene.label, group)
                best = scores.topk(min(self.per_image, len(scores))).indices
                # Beyond the negative margin is where the SVM's loss begins.
                best = best[scores[best] > -1]
                spots, described = spots[best], described[best]
            kept = self.others[scene.label][group]
            for spot, one in zip(spots.tolist(), described.half(), strict=True):
                kept[scene.index, *spot] = one

    def _meet_objects(self, scene: _Scene, roots: _Roots, *, parts: bool) -> None:
        """Of the windows that overlap an object enough, let the best explain it."""
        objects = _objects(scene.target, scene.label).to(roots.scores)
        if not len(objects):
            return
        overlaps = box_iou(scene.boxes(roots.spots), objects)
        for number, (box, overlap) in enumerate(zip(objects, overlaps.T, strict=True)):
            near = torch.nonzero(overlap >= self.hold).flatten()
            if parts:
                near = near[scene.star.fits(scene.levels, roots.spots[near])]
            near = near[roots.scores[near].topk(min(self.candidates if parts else 1, len(near))).indices]
            if not len(near):
                continue
            spots = roots.spots[near]
            placed = scene.star.place(scene.levels, spots) if parts else spots.new_zeros((len(spots), 0, 2))
            examples = []
            for spot, corners in zip(spots[:, None], placed[:, None], strict=True):
                component = int(spot[0, 0])
                group = component // self.step
                described = scene.star.describe(scene.levels, spot, corners, parts=parts)[0]
                score = float(described @ self._weights(scene.label, group, parts=parts))
                filters, whole = scene.star.boxes(spot, corners, scene.cells)[0], box
                if self.step == 2 and component % 2:
                    filters, whole = turned(filters), turned(box)
                places = (filters, whole) if parts else None
                examples.append((score + self._bias(scene.label, group), _Example(group, described.half(), places)))
            self.found[scene.label][scene.index, number] = max(examples, key=lambda example: example[0])[1]

    def _weights(self, label: int, group: int, *, parts: bool) -> Tensor:
        """Those of `Star.describe`, flat."""
        models = self.detector.models
        rows, columns = models.window[label, group].tolist()
        weights = [models.root[label, group, :, :rows, :columns].flatten()]
        if parts:
            weights += [models.part[label, group].flatten(), models.cost[label, group].flatten()]
        return torch.cat(weights)

    def _bias(self, label: int, group: int) -> float:
        return float(self.detector.models.bias[label, group])

    def _train(self, label: int, group: int, *, parts: bool) -> None:
        """Train a component on what was found, and keep the hardest of the others."""
        models, others = self.detector.models, self.others[label][group]
        found = [example.described for example in self.found[label].values() if example.group == group]
        if len(found) < 2 or not others:
            return
        begin = self._weights(label, group, parts=parts)
        floor = torch.full_like(begin, -math.inf)
        if parts:
            floor[-models.cost[label, group].numel() :].view(-1, 4)[:, [0, 2]] = float(np.float16(self.least_cost))
        rest = torch.stack(list(others.values())).float()
        values, bias = separate(
            torch.stack(found).float().cpu().numpy(),
            rest.cpu().numpy(),
            torch.cat([begin, begin.new_tensor([self._bias(label, group)])]).cpu().numpy(),
            c=self.c,
            floor=floor.cpu().numpy(),
        )
        weights = torch.from_numpy(values).half().to(begin)
        rows, columns = models.window[label, group].tolist()
        size = 32 * rows * columns
        models.root[label, group] = 0
        models.root[label, group, :, :rows, :columns] = weights[:size].reshape(32, rows, columns)
        models.bias[label, group] = float(np.float16(bias))
        if parts:
            shape, moved = models.part[label, group].shape, weights[size:]
            models.part[label, group] = moved[: shape.numel()].reshape(shape)
            models.cost[label, group] = moved[shape.numel() :].reshape(-1, 4)
        hardest = (rest @ weights).topk(min(self.negatives, len(rest))).indices.tolist()
        places = list(others)
        self.others[label][group] = {places[one]: others[places[one]] for one in sorted(hardest)}


def _objects(target: Target, label: int) -> Tensor:
    """A class's objects, `[M, 4]`, without those to be ignored."""
    return target.boxes[(target.labels == label) & ~target.ignore]


def _flat(maps: list[Tensor], octave: int) -> _Roots:
    """The places with finite scores of `Star.scores`, which begin with level `octave`."""
    spots, scores = [], []
    for level, own in enumerate(maps, octave):
        component, row, column = torch.nonzero(own.isfinite(), as_tuple=True)
        spots.append(torch.stack([component, torch.full_like(row, level), row, column], 1))
        scores.append(own[component, row, column])
    return _Roots(torch.cat(spots), torch.cat(scores))
