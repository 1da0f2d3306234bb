"""Run a detector over the images of a split: detections as COCO's results, and the regions that it looks at."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from benchmarks.datasets import Dataset
from benchmarks.evaluate.partial import PartialDetections
from benchmarks.evaluate.subject import EvaluationError
from benchmarks.metrics import encode_masks
from benchmarks.processes import Share
from benchmarks.stopping import Interrupts
from ops.structures import Detections, Target
from zoo.detector import Detector

__all__ = ["Told", "category_of_label", "coco_rows", "detect", "propose"]

Told = Callable[[list[Tensor], list[Target]], list[Detections]]
"""Detects in images of which it is told what is in them."""


def category_of_label(
    dataset: Dataset, num_classes: int, class_names: Iterable[str] | None = None
) -> tuple[int | None, ...]:
    """The dataset's category id of each label of a detector; None for a class that the dataset does not have.

    Without class names the labels are taken in the dataset's order; 90 labels on COCO are torchvision's and
    Detectron's, which count the ids that COCO never used.

    Raises:
        EvaluationError: Nothing fits.
    """
    ids = dataset.category_ids
    if class_names is not None:
        by_name = dict(zip(dataset.class_names, ids, strict=True))
        found = tuple(by_name.get(name) for name in class_names)
        if not any(found):
            raise EvaluationError(
                f"the detector knows {', '.join(list(class_names)[:4])}, ..., none of which is in {dataset.name}; "
                f"choose weights that were trained on it"
            )
        return found
    if num_classes == len(ids):
        return ids
    if num_classes == 90 and set(ids) <= set(range(1, 91)):
        return tuple(label + 1 if label + 1 in ids else None for label in range(90))
    raise EvaluationError(
        f"the detector has {num_classes} classes, {dataset.name} has {len(ids)}; choose weights that were trained on it"
    )


def detect(
    model: Detector,
    dataset: Dataset,
    *,
    categories: tuple[int | None, ...] | None = None,
    device: str = "cpu",
    batch: int = 1,
    limit: int | None = None,
    told: Told | None = None,
    share: Share | None = None,
    partial: PartialDetections | None = None,
    quiet: bool = False,
) -> list[dict[str, Any]]:
    """Detections on the first images of a split as a list of COCO results (`bbox` is x, y, width, height in pixels).

    Where the detector answers masks, each has its `segmentation` in compressed RLE.

    Args:
        model: Goes to `device` and into `eval()`, and stays there.
        dataset: The split.
        categories: Category id of each label, as `category_of_label` gives it; None for its answer.
        device: Where the network runs.
        batch: Images a call.
        limit: So many images; None for all.
        told: Answers in place of `model(images)`, and is told what is in the images, by the labels of the detector.
        share: This process looks at its images only, and the first one returns the detections of all.
        partial: What it holds already is not done again, and what is new is kept there.
        quiet: Draw no progress.
    """
    categories = categories or category_of_label(dataset, model.num_classes)
    model.to(device).eval()
    count = min(len(dataset), limit or len(dataset))
    share = share or Share()
    positions, done = share.positions(count), 0 if partial is None else partial.images
    rows = {} if partial is None else _kept(partial, dataset, positions[:done])
    steps: Iterable[int] = range(done, len(positions), batch)
    if not quiet and share.rank == 0:
        doing = f"detecting on {dataset.name} {dataset.split}"
        steps = track(list(steps), description=doing, console=Console(stderr=True))
    with Interrupts() as stop:
        for start in steps:
            indices = positions[start : start + batch]
            items = [dataset[index] for index in indices]
            images = [image.to(device) for image, _ in items]
            with torch.inference_mode():
                if told is None:
                    answers = model(images)
                else:
                    answers = told(images, [_relabelled(target, dataset, categories).to(device) for _, target in items])
            for index, answer in zip(indices, answers, strict=True):
                rows[index] = coco_rows(answer, dataset.image_ids[index], categories)
            if partial is not None:
                partial.add(start + len(indices), [row for index in indices for row in rows[index]])
            stop.raise_if_asked()
    return [row for found in share.gather(rows, count).values() for row in found]


def _kept(partial: PartialDetections, dataset: Dataset, done: Iterable[int]) -> dict[int, list[dict[str, Any]]]:
    """What was found before on the images that are done, by index; images without detections are among them."""
    rows: dict[int, list[dict[str, Any]]] = {index: [] for index in done}
    place = {dataset.image_ids[index]: index for index in rows}
    for row in partial.rows:
        rows[place[row["image_id"]]].append(row)
    return rows


def coco_rows(answer: Detections, image_id: int, categories: tuple[int | None, ...]) -> list[dict[str, Any]]:
    """Detections on one image as COCO results; those of classes that the data set does not have are left out."""
    boxes = answer.boxes.double().cpu()
    boxes[:, 2:] -= boxes[:, :2]
    forms: list[dict[str, Any]] = [{}] * len(answer)
    if answer.masks is not None:
        forms = [{"segmentation": form} for form in encode_masks(answer.masks.cpu().numpy())]
    columns = zip(boxes.tolist(), answer.scores.tolist(), answer.labels.tolist(), forms, strict=True)
    return [
        {"image_id": image_id, "category_id": category, "bbox": box, "score": confidence, **form}
        for box, confidence, label, form in columns
        if (category := categories[label]) is not None
    ]


def _relabelled(target: Target, dataset: Dataset, categories: tuple[int | None, ...]) -> Target:
    """Objects of the classes that a detector knows, by its labels."""
    own = {category: label for label, category in enumerate(categories) if category is not None}
    labels = [own.get(dataset.category_ids[label], -1) for label in target.labels.tolist()]
    found = replace(target, labels=torch.tensor(labels, dtype=torch.int64))
    return found[found.labels >= 0]


def propose(
    model: Detector, dataset: Dataset, *, device: str = "cpu", share: Share | None = None, quiet: bool = False
) -> dict[int | str, NDArray[np.float64]]:
    """By image id the regions that a detector looks at, x, y, width, height `[P, 4]`, the likeliest first.

    `share` is as of `detect`.

    Raises:
        EvaluationError: It looks at no regions.
    """
    ask: Callable[[list[Tensor]], list[Tensor]] | None = getattr(model, "proposals", None)
    if ask is None:
        raise EvaluationError(f"{type(model).__name__} proposes no regions")
    model.to(device).eval()
    share = share or Share()
    indices: Iterable[int] = share.positions(len(dataset))
    if not quiet and share.rank == 0:
        indices = track(list(indices), description="proposing", console=Console(stderr=True))
    found: dict[int, NDArray[np.float64]] = {}
    for index in indices:
        with torch.inference_mode():
            (boxes,) = ask([dataset[index][0].to(device)])
        boxes = boxes.double().cpu()
        boxes[:, 2:] -= boxes[:, :2]
        found[index] = boxes.numpy()
    return {dataset.image_ids[index]: regions for index, regions in share.gather(found, len(dataset)).items()}
