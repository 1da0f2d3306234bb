"""Level S: trained small detectors run at other settings. Each function returns numbers, and judges nothing.

A network sees each image once; what is set otherwise comes after it, so that a sweep costs little more than a test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou

from benchmarks.claims.measure.running import Rows, against, gains, in_points, scored, scores_of, seen, truth_of
from benchmarks.datasets import Dataset
from benchmarks.evaluate import Subject, category_of_label, coco_rows
from benchmarks.proposals import remembering
from ops.match import BETWEEN
from ops.nms import Suppression, suppressing
from ops.structures import Target
from zoo.one_stage.retinanet import RetinaNet
from zoo.one_stage.ron import RON
from zoo.one_stage.ssd import SSD
from zoo.two_stage.rcnn import RCNN

__all__ = ["corrected", "easy_share", "gated", "levels_alone", "proposal_cap", "suppressed"]


def easy_share(subject: Subject, dataset: Dataset, images: int) -> dict[str, Any]:
    """Share of the loss that comes from anchors whose true answer has p > 0.9, under both losses of the same weights.

    An anchor's true answer is right in all classes; anchors that take no part are left out.
    """
    model = subject.model
    assert isinstance(model, RetinaNet)
    sums = dict.fromkeys(("entropy", "entropy_easy", "focal", "focal_easy", "anchors", "easy"), 0.0)
    for _, image, target in seen(dataset, images, "losses"):
        batch = model.preprocess([image])
        outputs = model.network(batch)
        moved = Target(batch.frames[0].to_network(target.boxes), target.labels, target.ignore)[~target.ignore]
        terms = model.terms(outputs, [moved])
        logits = torch.cat(outputs.logits, 1)[0, :, model.hidden :].float()
        wanted = torch.zeros_like(logits)
        positive = (terms.matches[0] >= 0).nonzero()[:, 0]
        wanted[positive, moved.labels[terms.matches[0][positive]]] = 1
        counted = terms.matches[0] != BETWEEN
        entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(1)
        right = torch.where(wanted > 0, logits.sigmoid(), 1 - logits.sigmoid()).amin(1)
        easy = counted & (right > 0.9)
        for name, loss in (("entropy", entropy), ("focal", terms.focal[0])):
            sums[name] += float(loss[counted].sum())
            sums[f"{name}_easy"] += float(loss[easy].sum())
        sums["anchors"] += int(counted.sum())
        sums["easy"] += int(easy.sum())
    shares = {name: 100 * sums[f"{name}_easy"] / sums[name] for name in ("entropy", "focal")}
    return {
        **shares,
        "difference": shares["entropy"] - shares["focal"],
        "easy_anchors": 100 * sums["easy"] / sums["anchors"],
    }


def gated(subject: Subject, dataset: Dataset, images: int) -> dict[str, Any]:
    """Share of RON's anchors that pass gates of objectness, and of those that overlap an object by 0.6."""
    model = subject.model
    assert isinstance(model, RON)
    gates = (0.003, 0.01, 0.03, 0.1, 0.3)
    passed, kept, every, good = [0] * len(gates), [0] * len(gates), 0, 0
    for _, image, target in seen(dataset, images, "objectness"):
        batch = model.preprocess([image])
        outputs = model.network(batch)
        prior = outputs.objectness[0].float().softmax(-1)[:, 1]
        boxes = batch.frames[0].to_network(target.boxes[~target.ignore])
        near = (
            box_iou(outputs.anchors, boxes).amax(1) >= 0.6 if len(boxes) else torch.zeros(len(prior), dtype=torch.bool)
        )
        every, good = every + len(prior), good + int(near.sum())
        for at, gate in enumerate(gates):
            passed[at] += int((prior > gate).sum())
            kept[at] += int(((prior > gate) & near).sum())
    shares = zip(gates, passed, kept, strict=True)
    return {
        "gates": {str(g): {"anchors": 100 * a / every, "positives": 100 * p / max(good, 1)} for g, a, p in shares},
        "used": model.objectness_floor,
    }


def levels_alone(subject: Subject, dataset: Dataset, images: int) -> dict[str, Any]:
    """What AP by size an SSD loses when one of its levels is silent."""
    model = subject.model
    assert isinstance(model, SSD)
    maps = model.map_sizes(model.size)
    ends = np.cumsum([h * w * n for (h, w), n in zip(maps, model.shapes_per_cell, strict=True)]).tolist()
    starts = [0, *ends[:-1]]
    categories = category_of_label(dataset, model.num_classes, subject.class_names)
    rows: dict[int, Rows] = {level: [] for level in range(-1, len(ends))}
    sides: list[list[float]] = [[] for _ in ends]
    for index, image, target in seen(dataset, images, "levels"):
        batch = model.preprocess([image])
        outputs = model.network(batch)
        for level, answers in rows.items():
            logits = outputs.logits.clone()
            if level >= 0:
                logits[:, starts[level] : ends[level], 1:] = -50.0
            (found,) = model.postprocess(replace(outputs, logits=logits), batch)
            answers += coco_rows(found, dataset.image_ids[index], categories)
        boxes = target.boxes[~target.ignore]
        best = box_iou(batch.frames[0].to_network(boxes), model.priors).argmax(1) if len(boxes) else torch.zeros(0)
        for prior, box in zip(best.tolist(), boxes.tolist(), strict=True):
            level = int(np.searchsorted(ends, prior, side="right"))
            sides[level].append(((box[2] - box[0]) * (box[3] - box[1])) ** 0.5)
    truth = truth_of(dataset, images)
    names = ("AP", "AP_S", "AP_M", "AP_L")
    whole = scores_of(truth, rows[-1])["stats"]
    lost = {}
    for level in range(len(ends)):
        stats = scores_of(truth, rows[level])["stats"]
        lost[str(level + 1)] = {
            **{name: 100 * ((whole[name] or 0.0) - (stats[name] or 0.0)) for name in names},
            "objects": len(sides[level]),
            "median_side": float(np.median(sides[level])) if sides[level] else None,
        }
    return {"whole": {name: in_points(whole[name]) for name in names}, "lost": lost}


def suppressed(subject: Subject, dataset: Dataset, images: int) -> dict[str, Any]:
    """AP and recall of one SSD under several thresholds of suppression, and under Soft-NMS."""
    model = subject.model
    assert isinstance(model, SSD)
    own = model.nms_iou
    soft = {"gaussian": Suppression("gaussian"), "linear": Suppression("linear")}
    thresholds = {f"hard_{iou}": iou for iou in (0.3, 0.45, 0.6, 0.75)}
    rows: dict[str, Rows] = {name: [] for name in (*thresholds, *soft)}
    categories = category_of_label(dataset, model.num_classes, subject.class_names)
    try:
        for index, image, _ in seen(dataset, images, "suppression"):
            batch = model.preprocess([image])
            outputs = model.network(batch)
            for name, iou in thresholds.items():
                model.nms_iou = iou
                rows[name] += coco_rows(model.postprocess(outputs, batch)[0], dataset.image_ids[index], categories)
            model.nms_iou = own
            for name, way in soft.items():
                with suppressing(way):
                    rows[name] += coco_rows(model.postprocess(outputs, batch)[0], dataset.image_ids[index], categories)
    finally:
        model.nms_iou = own
    truth = truth_of(dataset, images)
    stats = {name: scores_of(truth, answers)["stats"] for name, answers in rows.items()}
    figures = {name: {key: in_points(one[key]) for key in ("AP", "AP50", "AR100")} for name, one in stats.items()}
    best = max(thresholds, key=lambda name: figures[name]["AP"] or 0.0)
    softly = {name: against(truth, rows[name], rows[best])["AP"] for name in soft}
    return {"ways": figures, "best_threshold": thresholds[best], "soft_less_best": softly}


def proposal_cap(subject: Subject, dataset: Dataset, images: int) -> dict[str, Any]:
    """What a Faster R-CNN finds of objects that a proposal overlaps by 0.5, and of the others, by their number."""
    model: Any = subject.model
    own = model.rpn.after_nms
    counts = (5, 10, 20, 50, 100)
    tallies: Mapping[int, dict[str, int]] = {
        n: dict.fromkeys(("met", "met_found", "missed", "missed_found"), 0) for n in counts
    }
    try:
        for _, image, target in seen(dataset, images, "proposals"):
            objects = target[~target.ignore]
            if not len(objects):
                continue
            for count, tally in tallies.items():
                model.rpn.after_nms = (own[0], count)
                (regions_seen,) = model.proposals([image])
                (found,) = model([image])
                met = _covered(objects.boxes, regions_seen)
                same = found.labels[None] == objects.labels[:, None]
                hit = _covered(objects.boxes, found.boxes, same)
                tally["met"] += int(met.sum())
                tally["met_found"] += int((met & hit).sum())
                tally["missed"] += int((~met).sum())
                tally["missed_found"] += int((~met & hit).sum())
    finally:
        model.rpn.after_nms = own
    rows = {str(count): _recalls(tally) for count, tally in tallies.items()}
    return {"by_proposals": rows}


def corrected(subject: Subject, dataset: Dataset, images: int) -> dict[str, Any]:
    """AP of an R-CNN with its box regressors and without, of the same weights, proposals and scores.

    Suppression comes after the correction, so that it removes other boxes on either side, as it does in use.
    """
    model = subject.model
    assert isinstance(model, RCNN)
    own = model.regress
    rows: dict[bool, Rows] = {True: [], False: []}
    categories = category_of_label(dataset, model.num_classes, subject.class_names)
    try:
        with remembering(model, dataset, limit=images):
            for index, image, _ in seen(dataset, images, "regressors"):
                batch = model.preprocess([image])
                outputs = model.network(batch)
                for model.regress, answers in rows.items():
                    answers += coco_rows(model.postprocess(outputs, batch)[0], dataset.image_ids[index], categories)
    finally:
        model.regress = own
    truth = truth_of(dataset, images)
    on, off = (scored(truth, answers) for answers in rows.values())
    names = ("AP", "AP50", "AP75")
    return {
        "regressed": on.points(names),
        "not_regressed": off.points(names),
        "gains": gains(on, off, names, ("AP75", "AP50")),
    }


def _covered(objects: Tensor, boxes: Tensor, allowed: Tensor | None = None) -> Tensor:
    if not len(boxes):
        return torch.zeros(len(objects), dtype=torch.bool)
    iou = box_iou(objects, boxes)
    return (iou if allowed is None else iou * allowed).amax(1) >= 0.5


def _recalls(tally: Mapping[str, int]) -> dict[str, float | int | None]:
    every = tally["met"] + tally["missed"]
    found = tally["met_found"] + tally["missed_found"]
    return {
        "proposal_recall": 100 * tally["met"] / every,
        "recall": 100 * found / every,
        "recall_of_met": 100 * tally["met_found"] / tally["met"] if tally["met"] else None,
        "recall_of_missed": 100 * tally["missed_found"] / tally["missed"] if tally["missed"] else None,
        "missed": tally["missed"],
    }
