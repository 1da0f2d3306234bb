"""Level S: CornerNet and CenterNet run at other settings. Each function returns numbers, and judges nothing."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou

from benchmarks.claims.measure.running import Rows, against, in_points, scores_of, seen, truth_of
from benchmarks.datasets import Dataset
from benchmarks.evaluate import Subject, category_of_label, coco_rows, detect
from benchmarks.keypoints import knowing
from zoo.one_stage.centernet import CenterNet, central_regions

__all__ = ["center_hits", "false_rates", "regions", "true_centers"]


def false_rates(subject: Subject, dataset: Dataset, images: int) -> dict[str, Any]:
    """FD5, and the share of an image's best 100 boxes that overlap no object by 0.05, of the same detections."""
    categories = category_of_label(dataset, subject.model.num_classes, subject.class_names)
    rows: Rows = []
    alone = count = 0
    for index, image, target in seen(dataset, images, "FD"):
        (found,) = subject.model([image])
        rows += coco_rows(found, dataset.image_ids[index], categories)
        boxes = found.boxes[:100]
        best = box_iou(boxes, target.boxes).amax(1) if len(target) and len(boxes) else boxes.new_zeros(len(boxes))
        alone, count = alone + int((best < 0.05).sum()), count + len(boxes)
    fd = scores_of(truth_of(dataset, images), rows)["fd"]["FD5"]
    share = alone / max(count, 1)
    return {"FD5": 100 * fd, "share": 100 * share, "apart": 100 * abs(fd - share), "boxes": count}


def true_centers(subject: Subject, dataset: Dataset, images: int) -> dict[str, Any]:
    """AP of a CenterNet that is told the true centres, against its own."""
    told = knowing(subject.model, "centers")
    rows = detect(told, dataset, limit=images, told=told.told)
    own = detect(subject.model, dataset, limit=images)
    return against(truth_of(dataset, images), rows, own)


def regions(subject: Subject, dataset: Dataset, images: int) -> dict[str, Any]:
    """AP with central regions of one share of the side and of two that change with the box, from the same keypoints."""
    model = subject.model
    assert isinstance(model, CenterNet)
    own = model.parts
    settings = {"switch": own, **{f"n_{n}": (n, n) for n in (1, 3, 5, 7, 9)}}
    categories = category_of_label(dataset, model.num_classes, subject.class_names)
    rows: dict[str, Rows] = {name: [] for name in settings}
    try:
        for index, image, _ in seen(dataset, images, "central regions"):
            batch = model.preprocess([image])
            (look,) = model.look(model.network(batch)[-1], batch)
            for name, parts in settings.items():
                model.parts = parts
                found = model.settle(model.check(look, batch.frames[0].size))
                rows[name] += coco_rows(found, dataset.image_ids[index], categories)
    finally:
        model.parts = own
    truth = truth_of(dataset, images)
    stats = {name: scores_of(truth, answers)["stats"] for name, answers in rows.items()}
    figures = {
        name: {key: in_points(one[key]) for key in ("AP", "AP_S", "AP_L", "AR_S", "AR_L")}
        for name, one in stats.items()
    }
    better = max(("n_3", "n_5"), key=lambda name: figures[name]["AP"] or 0.0)
    precision = {name: _precision_of_large(dataset, images, answers) for name, answers in rows.items()}
    return {
        "settings": {name: {**figures[name], "precision_large": precision[name]} for name in settings},
        "better_fixed": better,
        "switch_less_fixed": against(truth, rows["switch"], rows[better])["AP"],
    }


def _precision_of_large(dataset: Dataset, images: int, rows: Rows) -> float | None:
    """Share of right ones (IoU 0.5, class) among the best-scoring large boxes, as many as there are large objects."""
    truth = dataset.coco()
    objects: dict[tuple[int, int], list[list[float]]] = {}
    ids, wanted = set(dataset.image_ids[:images]), 0
    for thing in truth["annotations"]:
        if thing["image_id"] in ids and not thing["iscrowd"]:
            objects.setdefault((thing["image_id"], thing["category_id"]), []).append(thing["bbox"])
            wanted += thing["area"] > 96**2
    large = sorted((row for row in rows if row["bbox"][2] * row["bbox"][3] > 96**2), key=lambda row: -row["score"])
    best = large[:wanted]
    if not best:
        return None
    right = 0
    for row in best:
        near = torch.tensor(objects.get((row["image_id"], row["category_id"]), [])).reshape(-1, 4)
        box = torch.tensor([row["bbox"]])
        if len(near):
            right += float(box_iou(_corners(box), _corners(near)).max()) >= 0.5
    return 100 * right / len(best)


def _corners(boxes: Tensor) -> Tensor:
    return torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)


def center_hits(subject: Subject, dataset: Dataset, images: int) -> dict[str, Any]:
    """How often a pair of corners has a predicted centre of its class in its central region, by its IoU with an object.

    Pairs are those that the detector looks at, before any is left out; objects are those of the pair's class.
    """
    model = subject.model
    assert isinstance(model, CenterNet)
    ious, hits, sides = [], [], []
    for _, image, target in seen(dataset, images, "centres"):
        batch = model.preprocess([image])
        (look,) = model.look(model.network(batch)[-1], batch)
        assert look.centers is not None
        pairs = look.pairs.only(look.pairs.scores > 0.05)
        area = central_regions(pairs.boxes, model.parts, model.scale_switch)
        points = look.centers.boxes[None, :, :2]
        inside = ((points > area[:, None, :2]) & (points < area[:, None, 2:])).all(-1)
        inside &= (look.centers.labels == pairs.labels[:, None]) & (look.centers.scores > 0.05)
        overlap = box_iou(pairs.boxes, target.boxes) * (pairs.labels[:, None] == target.labels)
        ious.append(overlap.amax(1) if len(target) else overlap.new_zeros(len(overlap)))
        hits.append(inside.any(1))
        sides.append((pairs.boxes[:, 2:] - pairs.boxes[:, :2]).prod(1).sqrt())
    iou, hit, side = torch.cat(ious), torch.cat(hits).float(), torch.cat(sides)
    bins = (0.0, 0.1, 0.3, 0.5, 0.7, 1.01)
    rows = []
    for low, high in itertools.pairwise(bins):
        own = (iou >= low) & (iou < high)
        rows.append({"from": low, "pairs": int(own.sum()), "share": 100 * float(hit[own].mean())})
    wrong = iou < 0.3
    edges = side[wrong].quantile(torch.tensor([1 / 3, 2 / 3]))
    parts = torch.bucketize(side[wrong], edges)
    by_size = [100 * float(hit[wrong][parts == part].mean()) for part in range(3)]
    return {"by_iou": rows, "wrong_by_size": by_size, "top_less_bottom": rows[-1]["share"] - rows[0]["share"]}
