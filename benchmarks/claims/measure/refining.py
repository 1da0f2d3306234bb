"""Level S: what RefineDet's parts do: the first step, the filter, and scores of refined anchors. Each function returns
numbers, and judges nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor
from torchvision.ops import box_iou

from benchmarks.claims.measure.running import Rows, against, in_points, seen, truth_of
from benchmarks.datasets import Dataset
from benchmarks.evaluate import Subject, category_of_label, coco_rows
from benchmarks.metrics import load_detections, match, score_matches
from benchmarks.metrics.bootstrap import TOTALS, resample
from benchmarks.metrics.intervals import interval, means_apart
from ops.match import multibox_match
from ops.structures import Target
from zoo.one_stage.refinedet import Outputs, RefineDet

__all__ = ["THETAS", "filtered", "first_step", "rescored"]

THETAS = (0.9, 0.99, 0.999, 1.0)
"""Thresholds of the negative anchor filter; 1 drops nothing."""

_OWN = "0.99"
_GROUPS = ("anchors", "tiled", "refined")
_REACHES = (0.0, 0.3)
"""Anchors whose scores are ranked overlap an object by more than this, before anything moves them."""


def first_step(subject: Subject, dataset: Dataset, images: int) -> dict[str, Any]:
    """Mean IoU in percent of anchors with their objects before and after the first step moved them.

    Anchors are those that RefineDet matches with an object: `tiled`, by where they are before, so that the step does
    not choose whom it is judged by; and `refined`, by where it put them, which are those that the second step learns.
    """
    model = _refinedet(subject)
    sums: dict[str, list[list[float]]] = {"tiled": [], "refined": []}
    for _, image, target in seen(dataset, images, "the first step"):
        batch = model.preprocess([image])
        boxes = batch.frames[0].to_network(target.boxes[~target.ignore])
        overlaps = [box_iou(boxes, anchors) for anchors in (model.priors, model.refined(model.network(batch))[0])]
        for rows, chosen in zip(sums.values(), overlaps, strict=True):
            matches = multibox_match(chosen, model.match_iou)
            own = (matches >= 0).nonzero()[:, 0]
            before, after = (100 * float(iou[matches[own], own].sum()) for iou in overlaps)
            rows.append([before, after, len(own)])
    return {name: _rise(np.array(rows)) for name, rows in sums.items()}


def _rise(sums: NDArray[np.float64]) -> dict[str, Any]:
    before, after, count = sums.sum(0).tolist()
    rise, ends = means_apart(sums[:, [1, 2]], sums[:, [0, 2]])
    return {
        "anchors": int(count),
        "before": before / count,
        "after": after / count,
        "rise": rise,
        "interval": None if ends is None else list(ends),
    }


def filtered(subject: Subject, dataset: Dataset, images: int) -> dict[str, Any]:
    """By threshold of the filter: shares in percent of what it drops, AP, and what the network's own threshold gains.

    Dropped are of all `anchors`, and of those that overlap an object by 0.5 as they are `tiled`, or `refined`. Only the
    test changes: the network learned with its own threshold.
    """
    model = _refinedet(subject)
    own = model.objectness
    dropped = {f"{theta:g}": torch.zeros(3) for theta in THETAS}
    rows: dict[str, Rows] = {name: [] for name in dropped}
    counts = torch.zeros(3)
    categories = category_of_label(dataset, model.num_classes, subject.class_names)
    try:
        for index, image, target in seen(dataset, images, "the filter"):
            batch = model.preprocess([image])
            outputs = model.network(batch)
            boxes = batch.frames[0].to_network(target.boxes[~target.ignore])
            groups = torch.stack(
                [torch.ones(len(model.priors), dtype=torch.bool)]
                + [_best(boxes, anchors) >= 0.5 for anchors in (model.priors, model.refined(outputs)[0])]
            )
            counts += groups.sum(1)
            for name in rows:
                model.objectness = round(1 - float(name), 6)
                dropped[name] += (groups & ~model.passed(outputs)[0]).sum(1)
                rows[name] += coco_rows(model.postprocess(outputs, batch)[0], dataset.image_ids[index], categories)
    finally:
        model.objectness = own
    truth = truth_of(dataset, images)
    found = {}
    for name in rows:
        shares = dict(zip(_GROUPS, (100 * dropped[name] / counts).tolist(), strict=True))
        gain = against(truth, rows[_OWN], rows[name])["AP"]
        found[name] = {**shares, "AP": gain["second"], "own_less": gain}
    return {"theta": found, "counts": dict(zip(_GROUPS, counts.long().tolist(), strict=True))}


def rescored(subject: Subject, dataset: Dataset, images: int, partner: Subject) -> dict[str, Any]:
    """Whether anchors that were refined first are scored better than the same ones as they are tiled.

    `rank`: Spearman's correlation, in hundredths, of the final box's IoU with its best object and the score of that
    object's class, over the anchors near objects, image by image, for either network. It depends on how much the IoUs
    differ among the anchors that count, and a network that moves more of them well has less to rank. `swapped` does
    not: AP of either network's boxes under the scores of either, of which each may favour its own boxes, so that what
    refined scores gain is the mean over both sets of boxes.

    Args:
        subject: Which refines.
        dataset: The split.
        images: How many.
        partner: The same network without refinement, so that the anchors of both are the same by index.
    """
    both = {"refined": subject, "tiled": partner}
    models = {name: _refinedet(one) for name, one in both.items()}
    categories = category_of_label(dataset, subject.model.num_classes, subject.class_names)
    rows: dict[tuple[str, str], Rows] = {(boxes, scores): [] for boxes in both for scores in both}
    ranks: dict[float, list[list[float]]] = {reach: [] for reach in _REACHES}
    for index, image, target in seen(dataset, images, "scores"):
        batch = subject.model.preprocess([image])
        outputs = {name: model.network(batch) for name, model in models.items()}
        for (boxes, scores), found in rows.items():
            mixed = replace(outputs[boxes].odm, logits=outputs[scores].odm.logits)
            (answer,) = models[boxes].postprocess(replace(outputs[boxes], odm=mixed), batch)
            found += coco_rows(answer, dataset.image_ids[index], categories)
        objects = target[~target.ignore]
        objects = replace(objects, boxes=batch.frames[0].to_network(objects.boxes))
        scored = [_scored(model, outputs[name], objects) for name, model in models.items()] if len(objects) else []
        for reach, rank in ranks.items():
            near = _best(objects.boxes, models["refined"].priors) > reach
            pairs = [(iou[near], score[near]) for iou, score in scored if near.any()]
            if pairs and all(len(values.unique()) > 1 for pair in pairs for values in pair):
                rank.append([spearmanr(*pair).statistic for pair in pairs])
    return {
        "rank": {f"{reach:g}": _ranked(np.array(rank).reshape(-1, 2)) for reach, rank in ranks.items()},
        "swapped": _swapped(dataset, images, rows),
    }


def _scored(model: RefineDet, outputs: Outputs, objects: Target) -> tuple[Tensor, Tensor]:
    """Of every anchor the IoU of its final box with its best object, and the score of that one's class."""
    boxes = model.coder.decode(outputs.odm.offsets.float(), model.refined(outputs))[0]
    iou, nearest = box_iou(objects.boxes, boxes).max(0)
    scores = outputs.odm.logits[0].float().softmax(-1)
    return iou, scores.gather(1, 1 + objects.labels[nearest][:, None])[:, 0]


def _ranked(pairs: NDArray[np.float64]) -> dict[str, Any]:
    """Means over images; None where there is none in which both correlations are defined."""
    if not len(pairs):
        return {"images": 0, **dict.fromkeys(("refined", "tiled", "difference", "interval"))}
    ones = np.ones(len(pairs))
    difference, ends = means_apart(*(np.stack([100 * column, ones], 1) for column in pairs.T))
    return {
        "images": len(pairs),
        "refined": 100 * float(pairs[:, 0].mean()),
        "tiled": 100 * float(pairs[:, 1].mean()),
        "difference": difference,
        "interval": None if ends is None else list(ends),
    }


def _swapped(dataset: Dataset, images: int, rows: dict[tuple[str, str], Rows]) -> dict[str, Any]:
    truth = truth_of(dataset, images)
    ap, draws = {}, {}
    for (boxes, scores), found in rows.items():
        results = load_detections(found, truth)
        matches = match(truth, results)
        ap[boxes, scores] = in_points(score_matches(truth, results, matches)["stats"]["AP"]) or 0.0
        draws[boxes, scores] = 100 * resample(matches, 200).totals[:, TOTALS.index("AP")]
    gain = float(_gain(ap))
    ends = interval(gain, _gain(draws))
    return {
        "AP": {boxes: {scores: ap[boxes, scores] for scores in ("refined", "tiled")} for boxes in ("refined", "tiled")},
        "gain": gain,
        "interval": None if ends is None else list(ends),
    }


def _gain(ap: Any) -> Any:
    """Mean over both sets of boxes of what the scores of refined anchors gain."""
    return sum(ap[boxes, "refined"] - ap[boxes, "tiled"] for boxes in ("refined", "tiled")) / 2


def _best(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Largest IoU of each anchor with any box."""
    return box_iou(boxes, anchors).amax(0) if len(boxes) else torch.zeros(len(anchors))


def _refinedet(subject: Subject) -> RefineDet:
    model = subject.model
    assert isinstance(model, RefineDet)
    return model
