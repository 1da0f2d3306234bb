"""COCO's and FD's numbers against pycocotools, VOC's against a slow definition, and what each of them forgives."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.metrics import load_detections, load_ground_truth, mask_ap, match, score

Json = dict[str, Any]
TWELVE = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L", "AR1", "AR10", "AR100", "AR_S", "AR_M", "AR_L")


def pycocotools(gt: Json, detections: list[Json], iou: np.ndarray | None = None, kind: str = "bbox") -> COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = json.loads(json.dumps(gt))
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(json.loads(json.dumps(detections))), kind)
        if iou is not None:
            judge.params.iouThrs = iou
        judge.evaluate()
        judge.accumulate()
        if iou is None:
            judge.summarize()
    return judge


def mean(values: np.ndarray) -> float | None:
    return float(values[values > -1].mean()) if (values > -1).any() else None


def one_minus(value: float | None) -> float | None:
    return None if value is None else 1 - value


def close(ours: float | None, theirs: float | None) -> bool:
    if ours is None or theirs is None:
        return ours is theirs
    return math.isclose(ours, theirs, rel_tol=0, abs_tol=1e-12)


def assert_equal_to_pycocotools(gt: Json, detections: list[Json]) -> None:
    ours = score(gt, detections)
    judge = pycocotools(gt, detections)
    for name, theirs in zip(TWELVE, judge.stats, strict=True):
        assert close(ours["stats"][name], None if theirs < 0 else float(theirs)), name
    precision = judge.eval["precision"]
    low = pycocotools(gt, detections, np.linspace(0.05, 0.5, 10)).eval["precision"]
    fd = {
        "FD": low[..., 0, 2],
        "FD5": low[0, ..., 0, 2],
        "FD25": low[4, ..., 0, 2],
        "FD50": low[9, ..., 0, 2],
        **{f"FD_{scale}": low[..., a, 2] for a, scale in enumerate("SML", start=1)},
    }
    for name, values in fd.items():
        assert close(ours["fd"][name], one_minus(mean(values))), name
    for k, category in enumerate(sorted(gt["categories"], key=lambda entry: entry["id"])):
        row = ours["per_class"][category["name"]]
        assert close(row["AP"], mean(precision[:, :, k, 0, 2]))
        assert close(row["AP50"], mean(precision[0, :, k, 0, 2]))
        assert close(row["FD"], one_minus(mean(low[:, :, k, 0, 2])))


def categories(count: int) -> list[Json]:
    return [{"id": 10 * k, "name": f"class {k}"} for k in range(1, count + 1)]


def ground_truth(annotations: list[Json], images: int = 1, classes: int = 1) -> Json:
    return {
        "images": [{"id": i, "width": 640, "height": 480, "file_name": f"{i:06d}.jpg"} for i in range(1, images + 1)],
        "categories": categories(classes),
        "annotations": [
            {"id": number, "image_id": 1, "category_id": 10, "iscrowd": 0, **annotation}
            | {"area": annotation.get("area", annotation["bbox"][2] * annotation["bbox"][3])}
            for number, annotation in enumerate(annotations, start=1)
        ],
    }


def found(*rows: tuple[list[float], float], image: int = 1, category: int = 10) -> list[Json]:
    return [{"image_id": image, "category_id": category, "bbox": box, "score": s} for box, s in rows]


# Few places and few scores, so that equal IoUs and equal scores are common; areas at the bounds of the scales.
SIDES = st.sampled_from([0, 10, 20, 32, 33, 96])
PLACES = st.sampled_from([0, 5, 10, 16])
BOXES = st.tuples(PLACES, st.just(0), SIDES, st.sampled_from([10, 32, 96])).map(list)
CLASSES = st.sampled_from([10, 10, 20, 30])


@st.composite
def sets(draw: st.DrawFn) -> tuple[Json, list[Json]]:
    annotation = st.fixed_dictionaries(
        {
            "image_id": st.sampled_from([1, 1, 2, 5]),
            "category_id": CLASSES,
            "bbox": BOXES,
            "area": st.sampled_from([0, 100, 1023.5, 1024, 1024.5, 5000, 9216, 20000, 1e11]),
            "iscrowd": st.sampled_from([0, 0, 0, 1]),
            "difficult": st.sampled_from([0, 0, 1]),
        }
    )
    detection = st.fixed_dictionaries(
        {
            "image_id": st.sampled_from([1, 1, 2, 2, 3, 5]),
            "category_id": CLASSES,
            "bbox": BOXES,
            "score": st.sampled_from([-1.5, 0, 0.1, 0.25, 0.5, 0.75, 1]),
        }
    )
    annotations = draw(st.lists(annotation, max_size=12))
    order = draw(st.permutations(range(1, 7)))
    gt = {
        "images": [{"id": i, "width": 200, "height": 200, "file_name": f"{i}.jpg"} for i in order],
        "categories": categories(4),
        "annotations": [{"id": 7 * number, **entry} for number, entry in enumerate(annotations, start=1)],
    }
    return gt, draw(st.lists(detection, min_size=1, max_size=25))


def crowded(seed: int, images: int = 6, per_cell: int = 130) -> tuple[Json, list[Json]]:
    """More than 100 detections of a class in an image, most of them near an object."""
    rng = np.random.default_rng(seed)
    annotations = [
        {
            "image_id": int(rng.integers(1, images + 1)),
            "category_id": 10 * int(rng.integers(1, 3)),
            "bbox": [float(v) for v in np.concatenate((rng.uniform(0, 300, 2), rng.lognormal(4, 0.8, 2)))],
            "iscrowd": int(rng.random() < 0.1),
            "difficult": int(rng.random() < 0.2),
        }
        for _ in range(12 * images)
    ]
    gt = ground_truth(annotations, images=images, classes=2)
    detections = []
    for image in range(1, images + 1):
        near = [entry for entry in gt["annotations"] if entry["image_id"] == image]
        for _ in range(2 * per_cell):
            target = near[rng.integers(len(near))]
            box = np.array(target["bbox"]) + rng.normal(0, 0.12, 4) * (target["bbox"][2:] * 2)
            box[2:] = np.abs(box[2:])
            detections.append(
                {
                    "image_id": image,
                    "category_id": target["category_id"] if rng.random() < 0.8 else 20,
                    "bbox": box.tolist(),
                    "score": round(float(rng.random()), 2),
                }
            )
    return gt, [detections[i] for i in rng.permutation(len(detections))]


@given(sets())
@settings(max_examples=200, deadline=None)
def test_small_sets_equal_pycocotools(example: tuple[Json, list[Json]]) -> None:
    assert_equal_to_pycocotools(*example)


@pytest.mark.parametrize("seed", range(3))
def test_crowded_images_equal_pycocotools(seed: int) -> None:
    gt, detections = crowded(seed)
    truth = load_ground_truth(gt)
    assert match(truth, load_detections(detections, truth)).rank.max() > 100
    assert_equal_to_pycocotools(gt, detections)


def test_an_iou_at_the_threshold_is_enough() -> None:
    gt, detections = ground_truth([{"bbox": [0, 0, 10, 10]}]), found(([0, 0, 10, 5], 0.9))
    assert score(gt, detections)["stats"]["AP50"] == pytest.approx(1)
    assert_equal_to_pycocotools(gt, detections)


def test_of_equal_overlaps_coco_takes_the_later_object() -> None:
    gt = ground_truth([{"bbox": [0, 0, 10, 10]}, {"bbox": [10, 0, 10, 10]}])
    detections = found(([5, 0, 10, 10], 0.9), ([0, 0, 10, 10], 0.8))  # a third of each; then all of the first
    assert score(gt, detections)["fd"]["FD5"] == pytest.approx(0, abs=1e-12)
    assert_equal_to_pycocotools(gt, detections)


@pytest.mark.parametrize("side", [32, 96])
def test_the_bound_of_a_scale_belongs_to_both_scales(side: int) -> None:
    small = {"bbox": [100, 100, 20, 20]}
    gt = ground_truth([small, {"bbox": [300, 0, 50, 50]}, {"bbox": [0, 200, 200, 200]}])
    objects = [entry["bbox"] for entry in gt["annotations"]]
    detections = found(([500, 300, side, side], 0.9), *((box, 0.5) for box in objects))
    stats = score(gt, detections)["stats"]
    touched = {32: ("AP_S", "AP_M"), 96: ("AP_M", "AP_L")}[side]
    for name in ("AP_S", "AP_M", "AP_L"):
        assert stats[name] == pytest.approx(0.5 if name in touched else 1)
    assert_equal_to_pycocotools(gt, detections)


def test_the_worked_example_of_fd() -> None:
    boxes = [(10, [100, 100, 100, 100]), (10, [300, 100, 20, 20]), (20, [50, 300, 60, 60])]
    gt = ground_truth([{"category_id": c, "bbox": box} for c, box in boxes], classes=2)
    first = found(([102, 102, 100, 100], 0.9))
    detections = [
        *first,
        *found(([400, 300, 15, 15], 0.8), ([305, 105, 20, 20], 0.7)),
        *found(([80, 330, 60, 60], 0.6), category=20),
    ]
    fd = score(gt, detections, "fd")["fd"]
    expected = {"FD": 0.5320132013, "FD5": 0.0825082508, "FD25": 0.5825082508, "FD50": 0.7475247525}
    expected |= {"FD_S": 0.65, "FD_M": 0.8, "FD_L": 0.0}
    assert fd == pytest.approx(expected, abs=1e-10)
    perfect = [entry for c, box in boxes for entry in found((box, 1.0), category=c)]  # type: ignore[arg-type]
    assert score(gt, perfect)["fd"]["FD"] == pytest.approx(0, abs=1e-15)
    assert score(gt, found(([500, 400, 10, 10], 0.9)))["fd"]["FD"] == 1
    assert score(gt, first)["fd"]["FD"] == pytest.approx(0.7475247525, abs=1e-10)


def test_no_detections_score_zero_where_there_are_objects() -> None:
    gt = ground_truth([{"bbox": [10, 10, 50, 50]}], classes=2)
    scores = score(gt, [])
    assert scores["stats"] == {
        name: (None if name.endswith(("_S", "_L")) else 0.0) for name in TWELVE
    }  # the object is medium
    assert scores["fd"] == {"FD": 1, "FD5": 1, "FD25": 1, "FD50": 1, "FD_S": None, "FD_M": 1, "FD_L": None}
    assert scores["voc"] == {"mAP07": 0, "mAP10": 0}
    empty = {"AP": None, "AP50": None, "FD": None, "AP07": None, "AP10": None, "objects": 0}
    assert scores["per_class"]["class 2"] == empty


@pytest.mark.parametrize("images", [0, 3])
def test_without_objects_nothing_is_defined(images: int) -> None:
    gt = ground_truth([], images=images)
    for detections in ([], found(([0, 0, 5, 5], 0.5)) if images else []):
        scores = score(gt, detections)
        for part in ("stats", "fd", "voc"):
            assert set(scores[part].values()) == {None}


def test_an_annotation_of_id_0_can_be_found() -> None:
    gt = ground_truth([{"bbox": [10, 10, 50, 50]}])
    gt["annotations"][0]["id"] = 0
    detections = found(([10, 10, 50, 50], 0.9))
    assert pycocotools(gt, detections).stats[0] == 0  # what is wrong there
    assert score(gt, detections)["stats"]["AP"] == pytest.approx(1)


def test_ids_may_be_text_and_whole_floats_are_integers() -> None:
    gt, detections = crowded(5, images=3, per_cell=20)
    expected = score(gt, detections)
    floats = [entry | {"image_id": float(entry["image_id"])} for entry in detections]
    assert score(gt, floats) == expected
    for entry in gt["images"]:
        entry["id"] = f"image {entry['id']}"
    for entry in [*gt["annotations"], *detections]:
        entry["image_id"] = f"image {entry['image_id']}"
    renamed = score(gt, detections)
    # Every number is the same; that these are other images, by their ids, is for the protocol to say.
    was, now = expected.pop("protocol"), renamed.pop("protocol")
    assert renamed == expected
    assert {key for key in was if was[key] != now[key]} == {"images", "identity"}


def test_a_protocol_fills_only_its_own_part() -> None:
    gt, detections = crowded(1, images=2, per_cell=20)
    everything = score(gt, detections)
    parts = {
        "coco": [("stats", TWELVE)],
        "fd": [("fd", everything["fd"])],
        "voc07": [("voc", ["mAP07"])],
        "voc10": [("voc", ["mAP10"])],
    }
    for protocol, filled in parts.items():
        scores = score(gt, detections, protocol)
        assert set(scores) == set(everything)
        numbers = {(part, key): value for part in ("stats", "fd", "voc") for key, value in scores[part].items()}
        asked = {(part, key) for part, keys in filled for key in keys}
        assert numbers == {
            (part, key): everything[part][key] if (part, key) in asked else None for part, key in numbers
        }
        assert protocol in scores["protocol"]
    assert {"coco", "fd", "voc07", "voc10"} <= set(everything["protocol"])
    assert json.loads(json.dumps(everything, allow_nan=False)) == everything


def test_classes_of_one_name_are_told_apart_by_id() -> None:
    gt = ground_truth([{"bbox": [10, 10, 50, 50]}], classes=3)
    gt["categories"][2]["name"] = "class 1"
    assert list(score(gt, [])["per_class"]) == ["10", "class 2", "30"]


# --- VOC ---------------------------------------------------------------------------------------------------------


def slow_iou(a: list[float], b: list[float]) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    return common / (a[2] * a[3] + b[2] * b[3] - common) if common > 0 else 0.0


def slow_voc(gt: Json, detections: list[Json], category: int) -> tuple[float | None, float | None]:
    """The development kit's loops: a verdict per detection, then both averages over the whole curve."""
    objects: dict[int, list[Json]] = {}
    for entry in gt["annotations"]:
        if entry["category_id"] == category:
            objects.setdefault(entry["image_id"], []).append(entry)
    excused = {id(e): bool(e.get("difficult") or e.get("iscrowd")) for image in objects.values() for e in image}
    total = sum(not flag for flag in excused.values())
    if not total:
        return None, None
    mine = [entry for entry in detections if entry["category_id"] == category]
    mine.sort(key=lambda entry: entry["image_id"])
    mine.sort(key=lambda entry: -entry["score"])
    taken: set[int] = set()
    tp = fp = 0
    recall, precision = [], []
    for entry in mine:
        best, best_iou = None, -1.0
        for candidate in objects.get(entry["image_id"], []):
            if (iou := slow_iou(entry["bbox"], candidate["bbox"])) > best_iou:
                best, best_iou = candidate, iou
        if best is not None and best_iou >= 0.5:
            if excused[id(best)]:
                continue
            if id(best) in taken:
                fp += 1
            else:
                taken.add(id(best))
                tp += 1
        else:
            fp += 1
        recall.append(tp / total)
        precision.append(tp / (tp + fp))
    tenths = [max([p for r, p in zip(recall, precision, strict=True) if r >= k / 10], default=0) for k in range(11)]
    steps = [0.0, *recall, 1.0]
    heights = [0.0, *precision, 0.0]
    for i in range(len(heights) - 2, -1, -1):
        heights[i] = max(heights[i], heights[i + 1])
    area = sum((steps[i] - steps[i - 1]) * heights[i] for i in range(1, len(steps)))
    return sum(tenths) / 11, area


def assert_equal_to_slow_voc(gt: Json, detections: list[Json]) -> None:
    ours = score(gt, detections)
    slow = {c["name"]: slow_voc(gt, detections, c["id"]) for c in gt["categories"]}
    for name, (ap07, ap10) in slow.items():
        assert close(ours["per_class"][name]["AP07"], ap07)
        assert close(ours["per_class"][name]["AP10"], ap10)
    for column, key in enumerate(("mAP07", "mAP10")):
        defined = [pair[column] for pair in slow.values() if pair[column] is not None]
        assert close(ours["voc"][key], float(np.mean(defined)) if defined else None)


@given(sets())
@settings(max_examples=200, deadline=None)
def test_voc_equals_its_slow_definition(example: tuple[Json, list[Json]]) -> None:
    assert_equal_to_slow_voc(*example)


@pytest.mark.parametrize("seed", range(3))
def test_voc_of_crowded_images_equals_its_slow_definition(seed: int) -> None:
    assert_equal_to_slow_voc(*crowded(seed))


def test_the_lectures_example_of_ap() -> None:
    """Right, right, wrong, wrong, right, with three objects; the lecture cuts 13/15 to 0.86."""
    gt = ground_truth([{"bbox": [100 * i, 0, 50, 50]} for i in range(3)])
    places = ([0, 0, 50, 50], [100, 0, 50, 50], [0, 200, 50, 50], [100, 200, 50, 50], [200, 0, 50, 50])
    detections = found(*((box, 0.9 - i / 10) for i, box in enumerate(places)))
    assert score(gt, detections)["voc"]["mAP10"] == pytest.approx(13 / 15)


def test_voc_judges_by_the_best_object_even_if_taken() -> None:
    gt = ground_truth([{"bbox": [0, 0, 100, 100]}, {"bbox": [20, 0, 100, 100]}])
    # Both detections overlap the first object most; the second one overlaps the other object with IoU 95/145.
    detections = found(([0, 0, 100, 100], 0.9), ([3, 0, 100, 100], 0.8))
    scores = score(gt, detections)
    assert scores["voc"]["mAP10"] == 0.5
    assert scores["stats"]["AP50"] == pytest.approx(1)  # COCO gives the free object


def test_of_equal_overlaps_voc_takes_the_first_object() -> None:
    gt = ground_truth([{"bbox": [0, 0, 10, 10]}, {"bbox": [4, 0, 10, 10]}])
    detections = found(([2, 0, 10, 10], 0.9), ([0, 0, 10, 10], 0.8))
    assert score(gt, detections)["voc"]["mAP10"] == 0.5
    assert_equal_to_slow_voc(gt, detections)


def test_voc_counts_difficult_objects_neither_way() -> None:
    gt = ground_truth([{"bbox": [0, 0, 50, 50], "difficult": 1}, {"bbox": [100, 0, 50, 50]}])
    detections = found(([0, 0, 50, 50], 0.9), ([1, 0, 50, 50], 0.8), ([100, 0, 50, 50], 0.7))
    scores = score(gt, detections)
    assert scores["voc"] == {"mAP07": 1, "mAP10": 1}
    assert scores["stats"]["AP50"] < 1  # COCO knows no difficult objects: the second detection is wrong


def test_voc_matches_at_exactly_one_half_and_recall_at_exact_tenths() -> None:
    half = ground_truth([{"bbox": [0, 0, 10, 10]}])
    assert score(half, found(([0, 0, 10, 5], 0.9)))["voc"]["mAP10"] == 1
    assert score(half, found(([0, 0, 10, 4.999], 0.9)))["voc"]["mAP10"] == 0
    # 3 of 10 objects found: recall .3 reaches the points 0, .1, .2 and .3, though 3 * .1 > .3 in floating point.
    ten = ground_truth([{"bbox": [50 * i, 0, 10, 10]} for i in range(10)])
    three = found(*(([50.0 * i, 0, 10, 10], 0.9) for i in range(3)))
    assert score(ten, three)["voc"]["mAP07"] == pytest.approx(4 / 11, abs=1e-15)


def test_voc_does_not_cap_detections() -> None:
    gt = ground_truth([{"bbox": [0, 0, 50, 50]}])
    wrong = found(*(([200, 200, 10, 10], 0.9 - i / 1000) for i in range(150)))
    right = found(([0, 0, 50, 50], 0.1))
    scores = score(gt, wrong + right)
    assert scores["voc"]["mAP10"] == pytest.approx(1 / 151)
    assert scores["stats"]["AP50"] == 0  # the best 100 of COCO do not hold it


# --- masks -------------------------------------------------------------------------------------------------------


def masks_example() -> tuple[Json, list[Json]]:
    from pycocotools import mask as codec

    rng = np.random.default_rng(0)
    gt = ground_truth([{"bbox": [60 * i, 20, 40, 40 + 10 * i]} for i in range(5)])
    gt["annotations"][4]["iscrowd"] = 1
    detections = []
    for entry in gt["annotations"]:
        x, y, w, h = entry["bbox"]
        entry["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        drawn = np.zeros((480, 640), dtype=np.uint8, order="F")
        drawn[y + int(rng.integers(0, 12)) : y + h, x + int(rng.integers(0, 12)) : x + w] = 1
        rle = codec.encode(drawn)
        rle["counts"] = rle["counts"].decode()
        detections.append(
            {"image_id": 1, "category_id": 10, "segmentation": rle, "score": round(float(rng.random()), 2)}
        )
    return gt, detections


def test_mask_ap_is_that_of_pycocotools() -> None:
    gt, detections = masks_example()
    before = json.dumps([gt, detections])
    ours = mask_ap(gt, detections)
    theirs = pycocotools(gt, detections, kind="segm").stats
    for name, value in zip(TWELVE, theirs, strict=True):
        assert close(ours[name], None if value < 0 else float(value))
    assert 0 < (ours["AP"] or 0) < 1
    assert json.dumps([gt, detections]) == before
    assert mask_ap(gt, [entry | {"bbox": [0, 0, 300, 300]} for entry in detections]) == ours
    gt["annotations"][0]["id"] = 0
    assert mask_ap(gt, detections) == ours
    assert mask_ap(gt, [])["AP"] == 0


# --- the published example ---------------------------------------------------------------------------------------

DATA = Path(os.environ.get("DETECTOR_ZOO_DATA", "")) / "coco_val2014_100"
PUBLISHED = (0.505, 0.697, 0.573, 0.586, 0.519, 0.501, 0.387, 0.594, 0.595, 0.640, 0.566, 0.564)


@pytest.mark.skipif(
    "DETECTOR_ZOO_DATA" not in os.environ or not DATA.is_dir(), reason="DETECTOR_ZOO_DATA names no coco_val2014_100"
)
def test_the_published_example_of_coco() -> None:
    gt, detections = DATA / "instances_val2014_100.json", DATA / "instances_val2014_fakebbox100_results.json"
    scores = score(gt, detections)
    assert tuple(round(scores["stats"][name], 3) for name in TWELVE) == PUBLISHED
    assert_equal_to_pycocotools(json.loads(gt.read_bytes()), json.loads(detections.read_bytes()))
    masks = DATA / "instances_val2014_fakesegm100_results.json"
    theirs = pycocotools(json.loads(gt.read_bytes()), json.loads(masks.read_bytes()), kind="segm").stats
    assert list(mask_ap(gt, masks).values()) == pytest.approx(list(theirs), abs=1e-12)


def test_nothing_here_needs_torch() -> None:
    import subprocess

    code = "import sys, benchmarks.metrics, benchmarks.score; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
