"""What every detector and every dataset must do, as code: run on each catalog row and each loader."""

from __future__ import annotations

import re
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from benchmarks.datasets import Dataset
from ops.structures import Detections, Target
from zoo.detector import Detector
from zoo.parts.fitting import Images


def toy_images(seed: int = 0, sizes: tuple[tuple[int, int], ...] = ((120, 160), (160, 130))) -> list[Tensor]:
    """Noise images of differing sizes."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand((3, *size), generator=generator) for size in sizes]


def filled(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks bool `[M, H, W]` of objects that fill their boxes of whole pixels."""
    masks = torch.zeros((len(boxes), *size), dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = True
    return masks


def empty_target() -> Target:
    return Target(torch.zeros((0, 4)), torch.zeros(0, dtype=torch.int64))


def assert_is_detections(detections: Detections, image: Tensor, num_classes: int) -> None:
    height, width = image.shape[-2:]
    boxes, scores, labels = detections.boxes, detections.scores, detections.labels
    assert boxes.dtype == torch.float32
    assert scores.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert torch.isfinite(boxes).all()
    assert torch.isfinite(scores).all()
    assert bool((scores[1:] <= scores[:-1]).all()), "scores must descend"
    assert bool(((labels >= 0) & (labels < num_classes)).all())
    if len(detections):
        assert boxes.min() >= 0
        assert boxes[:, [0, 2]].max() <= width + 1e-3
        assert boxes[:, [1, 3]].max() <= height + 1e-3
        assert bool((boxes[:, 2:] >= boxes[:, :2]).all())


def assert_is_detector(model: Detector) -> None:
    """The contract. Runs the model in both modes, with and without objects, on two images of differing sizes."""
    images = toy_images()
    assert not any(p.is_meta for p in model.parameters())
    for training in (False, True):
        model.train(training)
        with torch.no_grad():
            answers = model(images)
        assert isinstance(answers, list)
        assert len(answers) == len(images)
        for answer, image in zip(answers, images, strict=True):
            assert_is_detections(answer, image, model.num_classes)

    model.eval()
    before = [image.clone() for image in images]
    with torch.no_grad():
        first, second = model(images), model(images)
    assert all(torch.equal(a, b) for a, b in zip(before, images, strict=True)), "images must not be changed"
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.boxes, b.boxes), "the same images must give the same detections"

    boxes = torch.tensor([[20.0, 30.0, 90.0, 100.0], [60.0, 20.0, 110.0, 60.0]])
    some = Target(boxes, torch.tensor([0, 0]), masks=filled(boxes, (120, 160)) if model.trains_on_masks else None)
    for targets in ([some, empty_target()], [empty_target(), empty_target()]):
        for training in (True, False):
            model.train(training)
            model.zero_grad(set_to_none=True)
            losses = model(images, targets)
            assert isinstance(losses, dict)
            assert losses
            for name, value in losses.items():
                assert value.ndim == 0, f"loss {name} must be a scalar"
                assert torch.isfinite(value), f"loss {name} is {value.item()}"
            sum(losses.values()).backward()
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    assert parameter.grad is not None, f"{name} gets no gradient"
                    assert torch.isfinite(parameter.grad).all(), f"{name} gets a gradient that is not finite"


def forms(count: int = 8, size: int = 96, seed: int = 0) -> list[tuple[Tensor, Target]]:
    """Images with two objects that differ in form and not in colour; class 0 is a ring, class 1 a cross."""
    generator = torch.Generator().manual_seed(seed)
    items = []
    for _ in range(count):
        image = 0.2 * torch.rand((3, size, size), generator=generator)
        boxes = []
        for label in range(2):
            side = int(torch.randint(size // 4, size // 2 - 4, (), generator=generator))
            x = int(torch.randint(0, size // 2 - side, (), generator=generator)) + label * size // 2
            y = int(torch.randint(0, size - side, (), generator=generator))
            across = (torch.arange(side) + 0.5) / side - 0.5
            away = torch.stack(torch.meshgrid(across, across, indexing="ij"))
            form = (away.norm(dim=0) - 0.4).abs() < 0.1 if label == 0 else away.abs().amin(0) < 0.12
            image[:, y : y + side, x : x + side][:, form] = 0.9
            boxes.append([x, y, x + side, y + side])
        items.append((image, Target(torch.tensor(boxes, dtype=torch.float32), torch.tensor([0, 1]))))
    return items


class Interrupted(Exception):
    """What a test raises in place of Ctrl-C."""


class Notes:
    """A state in memory that is interrupted behind its `last` saving, and read as one on a disk is."""

    def __init__(self, last: int) -> None:
        self.last, self.kept = last, list[bytes]()

    def save(self, state: dict[str, Any]) -> None:
        file = BytesIO()
        torch.save(state, file)
        self.kept.append(file.getvalue())
        if len(self.kept) == self.last:
            raise Interrupted

    def load(self) -> dict[str, Any] | None:
        return self.states()[-1] if self.kept else None

    def states(self) -> list[dict[str, Any]]:
        return [torch.load(BytesIO(one), weights_only=True) for one in self.kept]


def assert_fit_goes_on(make: Callable[[], Detector], items: Images, last: int) -> list[dict[str, Any]]:
    """A fit that is interrupted behind its `last` saving, and gone on with, ends as one that is not; what it saved."""
    whole, resumed = make(), make()
    whole.fit(items, seed=3)
    notes = Notes(last)
    with pytest.raises(Interrupted):
        make().fit(items, seed=3, state=notes)
    notes.last = 0
    resumed.fit(items, seed=3, state=notes)
    for (name, ours), theirs in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    return notes.states()


def assert_is_fitted_detector(make: Callable[[], Detector], seed: int = 0, *, parameters: bool = False) -> None:
    """The contract of detectors that bring `fit` instead of losses; `make` builds one for two classes, always the same.

    Those that learn by gradient too, in one of their stages, have `parameters`.

    It detects before it is fitted; after, the surest detection of each class is its object in images it has not seen;
    all that it learned is in its state dict, survives float16, and depends on seed and images alone.
    """
    model = make().eval()
    images = toy_images()
    for answer, image in zip(model(images), images, strict=True):
        assert_is_detections(answer, image, model.num_classes)
    with pytest.raises(TypeError, match="fit"):
        model(images, [empty_target(), empty_target()])

    model.fit(forms(), seed=seed)
    with torch.no_grad():
        for answer, image in zip(model(images), images, strict=True):
            assert_is_detections(answer, image, model.num_classes)
        for image, target in forms(seed=1):
            (answer,) = model([image])
            assert_is_detections(answer, image, model.num_classes)
            for label in range(2):
                surest = answer[answer.labels == label][:1]
                assert len(surest) == 1, f"nothing of class {label}"
                assert box_iou(surest.boxes, target.boxes[label : label + 1]).item() > 0.5

    again, other = make(), make().eval()
    again.fit(forms(), seed=seed)
    state = model.state_dict()
    assert state.keys() == again.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in again.state_dict().items())
    assert bool(list(model.parameters())) == parameters, "what is learned without gradient lies in buffers"
    stored = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    other.load_state_dict({name: value.to(state[name].dtype) for name, value in stored.items()})
    with torch.no_grad():
        for ours, theirs in zip(model(images), other(images), strict=True):
            assert torch.equal(ours.boxes, theirs.boxes)
            assert torch.equal(ours.scores, theirs.scores)


def squares(count: int = 4, size: int = 128, seed: int = 0) -> tuple[list[Tensor], list[Target]]:
    """Images with one or two bright axis-parallel rectangles; class 0 is red, class 1 is blue."""
    generator = torch.Generator().manual_seed(seed)
    images, targets = [], []
    for index in range(count):
        image = 0.1 * torch.rand((3, size, size), generator=generator)
        boxes, labels = [], []
        for half in range(1 + index % 2):
            side = int(torch.randint(size // 4, size // 2 - 4, (), generator=generator))
            x = int(torch.randint(0, size // 2 - side, (), generator=generator)) + half * size // 2
            y = int(torch.randint(0, size - side, (), generator=generator))
            label = (index + half) % 2
            image[2 * label, y : y + side, x : x + side] = 1.0
            boxes.append([x, y, x + side, y + side])
            labels.append(label)
        images.append(image)
        sides = torch.tensor(boxes, dtype=torch.float32)
        targets.append(Target(sides, torch.tensor(labels), masks=filled(sides, (size, size))))
    return images, targets


def assert_overfits(model: Detector, steps: int, lr: float = 2e-3, iou: float = 0.6, seed: int = 0) -> None:
    """Train on four images until each object is found by the surest detections, with the right class.

    As many of the surest detections as there are objects must match them one to one: a detector whose boxes, classes
    or scores do not learn fails. It is asked every twenty steps and must answer so twice running, or after `steps`.
    """
    torch.manual_seed(seed)
    images, targets = squares()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    learnt = False
    for step in range(1, steps + 1):
        model.train()
        optimizer.zero_grad(set_to_none=True)
        sum(model(images, targets).values()).backward()
        optimizer.step()
        if step % 20 == 0 or step == steps:
            model.eval()
            with torch.no_grad():
                missed = _missed(model(images), targets, iou)
            if learnt and not missed:
                return
            learnt = not missed
    assert learnt, missed


def _missed(answers: list[Detections], targets: list[Target], iou: float) -> str:
    """Which image's objects are not the surest detections; nothing where all are."""
    for index, (answer, target) in enumerate(zip(answers, targets, strict=True)):
        top = answer[: len(target)]
        if len(top) < len(target):
            return f"image {index}: {len(answer)} detections for {len(target)} objects"
        overlap = box_iou(top.boxes, target.boxes) * (top.labels[:, None] == target.labels[None])
        if not overlap.amax(0).min() > iou:
            return f"image {index}: objects are matched at {overlap.amax(0).tolist()}"
    return ""


def assert_is_dataset(dataset: Dataset, indices: range) -> None:
    """The contract of a data set: images, targets, the COCO view of the same objects, and a stable fingerprint."""
    truth = dataset.coco()
    assert len(dataset) == len(dataset.image_ids) == len(set(dataset.image_ids)) == len(truth["images"])
    assert len(dataset.class_names) == len(dataset.category_ids) == len(set(dataset.category_ids))
    assert dataset.num_objects == len(truth["annotations"])
    assert [row["id"] for row in truth["images"]] == list(dataset.image_ids)
    assert [row["id"] for row in truth["categories"]] == list(dataset.category_ids)
    ids = [row["id"] for row in truth["annotations"]]
    assert len(set(ids)) == len(ids)
    assert 0 not in ids, "pycocotools loses a match with annotation 0"
    assert re.fullmatch("[0-9a-f]{64}", dataset.fingerprint)

    for index in indices:
        image, target = dataset[index]
        height, width = dataset.size(index)
        assert image.dtype == torch.float32
        assert image.shape == (3, height, width)
        assert image.is_contiguous()
        assert image.min() >= 0
        assert 0.1 < image.max() <= 1, "pixels run from 0 to 1, not to 255"
        assert target.boxes.dtype == torch.float32
        assert target.labels.dtype == torch.int64
        assert target.ignore.dtype == torch.bool
        assert target.area is not None
        assert bool((target.boxes[:, 2:] > target.boxes[:, :2]).all())
        assert bool((target.boxes >= -2).all())
        assert bool((target.boxes[:, 2:] <= torch.tensor([width + 2, height + 2])).all())
        assert bool(((target.labels >= 0) & (target.labels < len(dataset.class_names))).all())
        rows = [row for row in truth["annotations"] if row["image_id"] == dataset.image_ids[index]]
        rows = [row for row in rows if min(row["bbox"][2:]) > 0]
        x, y, w, h = torch.tensor([row["bbox"] for row in rows], dtype=torch.float64).reshape(-1, 4).unbind(1)
        assert torch.equal(target.boxes, torch.stack([x, y, x + w, y + h], 1).float())
        assert [dataset.category_ids[label] for label in target.labels.tolist()] == [row["category_id"] for row in rows]
        flags = [bool(row["iscrowd"] or row.get("difficult")) for row in rows]
        assert target.ignore.tolist() == flags

        target.boxes.zero_()
        image.zero_()
        again = dataset[index]
        assert again[0].max() > 0, "an answer must be the caller's own"
        assert torch.equal(again[1].boxes, dataset.target(index).boxes)
        assert not len(rows) or again[1].boxes.max() > 0
    truth["annotations"].clear()
    assert len(dataset.coco()["annotations"]) == dataset.num_objects
