"""Records as the harness writes them, made up, for pages under test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.results import DatasetId, Hardware, Record, Weights
from reports.records import Entry, Shelf
from reports.sections import Grid, Section

SHAPES = DatasetId(name="shapes", split="test", fingerprint="5ba9e5" * 8, images=300, objects=1532)
BCCD = DatasetId(name="bccd", split="test", fingerprint="b0ccd1" * 8, images=72, objects=931)
COCO_197 = DatasetId(name="coco", split="val2017", fingerprint="c0c0c0" * 8, images=197, objects=1480)
CPU = Hardware(machine="cpu-2core", device="cpu", profile="cpu-2core", threads=2)

SMALL: tuple[tuple[str, int, str, float, float], ...] = (
    ("hog_svm", 2005, "classical", 0.083, 0.412),
    ("faster_rcnn_vgg16", 2015, "two-stage", 0.471, 0.0312),
    ("faster_rcnn_r50_fpn", 2017, "two-stage", 0.552, 0.0388),
    ("ssd300_vgg16", 2016, "one-stage", 0.463, 0.0121),
    ("ssd512_vgg16", 2016, "one-stage", 0.4714, 0.0149),
    ("yolov3", 2018, "one-stage", 0.497, 0.0118),
    ("yolov3_tiny", 2018, "one-stage", 0.431, 0.0082),
    ("yolov3_spp", 2018, "one-stage", 0.4931, 0.0124),
    ("cornernet511_hg52", 2018, "keypoint", 0.441, 0.0451),
    ("cornernet511_hg104", 2018, "keypoint", 0.452, 0.0633),
    ("centernet511_hg52", 2019, "keypoint", 0.487, 0.0502),
    ("centernet511_hg104", 2019, "keypoint", 0.4921, 0.0702),
)
"""Detector, year, family, AP as a fraction, seconds an image."""


def metrics(ap: float) -> dict[str, Any]:
    """The JSON of `score` for a detector about as good as `ap`; nothing large in the test."""
    sizes = {"AP_S": ap * 0.6, "AP_M": ap * 1.1, "AP_L": None}
    sums = {name: ap * 1.2 for name in ("AR1", "AR10", "AR100", "AR_S", "AR_M", "AR_L")}
    fd = {"FD": 0.9 - ap, "FD5": 0.85 - ap, "FD25": 0.88 - ap, "FD50": 0.95 - ap}
    fd |= {"FD_S": 0.99 - ap, "FD_M": 0.86 - ap, "FD_L": 0.8 - ap}
    return {
        "stats": {"AP": ap, "AP50": ap + 0.2, "AP75": ap - 0.02, **sizes, **sums},
        "fd": fd,
        "voc": {"mAP07": ap + 0.21, "mAP10": ap + 0.22},
        "per_class": {},
    }


def record(kind: str, detector: str = "ssd300_vgg16", **changes: Any) -> Record:
    """One Record of a small detector on shapes, with what the harness says of it besides."""
    fields: dict[str, Any] = {
        "kind": kind,
        "detector": detector,
        "scale": "small",
        "overrides": {"size": 160},
        "num_classes": 8,
        "commit": "0123456789ab",
        "versions": {"python": "3.11.7", "torch": "2.14.1"},
    }
    if kind != "cost":
        fields |= {"dataset": SHAPES, "hardware": CPU, "weights": weights(detector)}
    if kind == "accuracy":
        fields |= {"metrics": metrics(0.45), "protocol": {"batch": 1, "max_detections": 100}}
    if kind == "latency":
        fields |= {"samples": samples(0.02), "protocol": {"batch": 1, "warm_up": 16}}
    if kind == "cost":
        fields |= {
            "metrics": {"parameters": 412345, "macs": 123456789, "boxes": 2100},
            "protocol": {"size": [160, 160]},
        }
    if kind == "training":
        fields |= {"metrics": {"steps": 3000, "seconds": 624.0}, "recipe": {"batch": 16}, "seed": 0}
    return Record(**(fields | changes))


def cost(boxes: int | None, *, parameters: int = 412345, macs: int = 123456789, side: int = 160) -> dict[str, Any]:
    """What `python -m benchmarks cost` counts."""
    return {"parameters": parameters, "buffers": 1000, "macs": macs, "boxes": boxes, "input": [side, side]}


def weights(detector: str, dataset: str = "shapes") -> Weights:
    """A checkpoint of which the hash is another for every detector."""
    number = sum(ord(letter) * 31**index for index, letter in enumerate(detector + dataset))
    return Weights(file=f"{detector}_small.{dataset}.safetensors", sha256=f"{number:064x}"[-64:][::-1])


def samples(seconds: float) -> dict[str, list[float]]:
    """Five samples of each stage with the median `seconds` end to end."""
    spread = (0.98, 0.99, 1.0, 1.02, 1.4)
    shares = {"preprocess": 0.1, "network": 0.7, "postprocess": 0.2, "end_to_end": 1.0}
    return {stage: [seconds * share * by for by in spread] for stage, share in shares.items()}


def collection() -> list[Record]:
    """What the results hold once twelve detectors, two data sets and a published checkpoint have been measured."""
    found = []
    for detector, year, family, ap, seconds in SMALL:
        about = {"year": year, "family": family, "paper": f"the paper of {detector}"}
        found.append(record("accuracy", detector, metrics=metrics(ap) | about))
        found.append(record("latency", detector, samples=samples(seconds)))
        boxes = None if family == "keypoint" else 2100
        found.append(record("cost", detector, metrics=cost(boxes, macs=int(seconds * 1e10)) | about))
        found.append(record("training", detector))
    for detector, ap in (("ssd300_vgg16", 0.50), ("cornernet511_hg52", 0.47), ("centernet511_hg52", 0.46)):
        there = {"dataset": BCCD, "num_classes": 3, "weights": weights(detector, "bccd")}
        found.append(record("accuracy", detector, metrics=metrics(ap), **there))
    for detector, boxes in (("ssd300_vgg16", 8732), ("ssd512_vgg16", 24560), ("faster_rcnn_vgg16", 20646)):
        counted = cost(boxes, parameters=26285486, side=512 if "512" in detector else 300)
        counted |= {"regions": 300} if detector == "faster_rcnn_vgg16" else {}
        found.append(record("cost", detector, scale="paper", overrides={}, num_classes=20, metrics=counted))
    found.append(published())
    return found


def published() -> Record:
    """A checkpoint of its authors on photographs."""
    return record(
        "accuracy",
        "yolov3_tiny",
        scale="paper",
        overrides={"masks": [[3, 4, 5], [1, 2, 3]]},
        num_classes=80,
        dataset=COCO_197,
        weights=Weights(file="yolov3-tiny.weights", sha256="dccea06f59b7" + "0" * 52),
        metrics=metrics(0.17),
        note="heads at strides 32 and 16",
    )


def shelf(*records: Record) -> Shelf:
    """What pages are made of, from Records of one machine."""
    return Shelf([Entry(made, Path(f"m/{made.name}.json"), f"m/{made.name}.json") for made in records])


def trained(detector: str, seed: int, ap: float, **changes: Any) -> Record:
    """An accuracy Record of weights that no other seed has."""
    own = Weights(file=f"{detector}.{seed}", sha256=f"{weights(detector).sha256[:-1]}{seed}")
    return record("accuracy", detector, **({"metrics": metrics(ap), "seed": seed, "weights": own} | changes))


def table(sections: list[Section]) -> list[dict[str, str]]:
    """The first grid of the one section, a dictionary a row."""
    (section,) = sections
    grid = next(block for block in section.blocks if isinstance(block, Grid))
    return [dict(zip((head.title for head in grid.headers), row, strict=True)) for row in grid.rows]
