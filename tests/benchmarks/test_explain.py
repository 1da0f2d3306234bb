"""Why two APs differ: every switch against a slow definition, and planted deviations that must be found again."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict, replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.explain import draw_waterfall, explain, run_explain
from benchmarks.metrics import ScoreError, load_detections, load_ground_truth, score
from benchmarks.metrics.switches import FACTORS, NAMED, Protocol, average_precision_of, differing, parse_protocol
from benchmarks.metrics.traits import apart, observed
from tests.benchmarks.test_intervals import generated

Json = dict[str, Any]


def overlap(a: list[float], b: list[float], more: float = 0.0, crowd: bool = False) -> float:
    """IoU; `more` is VOC's pixel; of a crowd, the share of `a`."""
    ax, ay, aw, ah = a[0], a[1], a[2] + more, a[3] + more
    bx, by, bw, bh = b[0], b[1], b[2] + more, b[3] + more
    w, h = min(ax + aw, bx + bw) - max(ax, bx), min(ay + ah, by + bh) - max(ay, by)
    shared = w * h if w > 0 and h > 0 else 0.0
    return shared / (aw * ah if crowd else aw * ah + bw * bh - shared) if shared else 0.0


def slow_list(truth: Json, rows: list[Json], p: Protocol) -> tuple[list[Json], list[Json]]:
    """Objects and detections that take part, one rule after another."""
    best_first = sorted(rows, key=lambda row: -row["score"])
    kept: list[Json] = []
    for row in best_first:
        mates = [one for one in kept if (one["image_id"], one["category_id"]) == (row["image_id"], row["category_id"])]
        if p.duplicates == "drop" and any(one["bbox"] == row["bbox"] for one in mates):
            continue
        if p.nms is not None and any(overlap(one["bbox"], row["bbox"]) > p.nms for one in mates):
            continue
        kept.append(row)
    if p.floor is not None:
        kept = [row for row in kept if row["score"] >= p.floor]
    for most, keys in ((p.per_image, ("image_id",)), (p.max_detections, ("image_id", "category_id"))):
        seen: dict[Any, int] = defaultdict(int)
        left = []
        for row in kept:
            cell = tuple(row[key] for key in keys)
            seen[cell] += 1
            if most is None or seen[cell] <= most:
                left.append(row)
        kept = left
    places = {id(row): place for place, row in enumerate(rows)}
    kept = [dict(row) for row in sorted(kept, key=lambda row: places[id(row)])]
    for row in kept:
        if p.box_decimals is not None:
            row["bbox"] = [float(np.round(number, p.box_decimals)) for number in row["bbox"]]
        if p.score_decimals is not None:
            row["score"] = float(np.round(row["score"], p.score_decimals))
    objects = truth["annotations"]
    ids = sorted(image["id"] for image in truth["images"])
    if p.images == "annotated":
        ids = sorted({row["image_id"] for row in objects})
    elif p.images == "detected":
        ids = sorted({row["image_id"] for row in kept})
    elif p.images != "all":
        ids = ids[: int(p.images)]
    return [o for o in objects if o["image_id"] in ids], [row for row in kept if row["image_id"] in ids]


def slow_ap(truth: Json, rows: list[Json], p: Protocol) -> float:
    """AP by loops: a threshold, a class, a detection after another."""
    objects, kept = slow_list(truth, rows, p)
    more = 1.0 if p.side == "inclusive" else 0.0
    low, high = {"all": (0, 1e10), "S": (0, 1024), "M": (1024, 9216), "L": (9216, 1e10)}[p.scale]
    values = []
    for step in range(round(20 * p.iou[0]), round(20 * p.iou[1]) + 1):
        threshold = step / 20
        for category in truth["categories"]:
            mine = [o for o in objects if o["category_id"] == category["id"]]
            ignored = {}
            for o in mine:
                area = (o["bbox"][2] + more) * (o["bbox"][3] + more) if p.area == "box" else o["area"]
                excused = o["iscrowd"] or (o["difficult"] and p.difficult == "ignore")
                ignored[o["id"]] = bool(excused or area < low or area > high)
            total = sum(not flag for flag in ignored.values())
            if not total:
                continue
            # Equal scores: by image, then as in the file.
            found = [row for row in kept if row["category_id"] == category["id"]]
            found.sort(key=lambda row: (-row["score"], row["image_id"]))
            curve, taken, right, wrong = [], set(), 0, 0
            for row in found:
                near = [o for o in mine if o["image_id"] == row["image_id"]]
                area = (row["bbox"][2] + more) * (row["bbox"][3] + more)
                outside = area < low or area > high
                best = None
                if p.candidate == "free":
                    for excuse in (False, True):
                        reach = threshold
                        for o in near:
                            iou = overlap(row["bbox"], o["bbox"], more, bool(o["iscrowd"]))
                            free = o["id"] not in taken or o["iscrowd"]
                            if ignored[o["id"]] == excuse and free and iou >= reach:
                                best, reach = o, iou
                        if best is not None:
                            break
                    if best is not None:
                        taken.add(best["id"])
                    outcome = None if (ignored[best["id"]] if best else outside) else best is not None
                else:
                    reach = threshold
                    for o in near:
                        iou = overlap(row["bbox"], o["bbox"], more)
                        if iou > reach or (best is None and iou == reach):
                            best, reach = o, iou
                    if best is not None and ignored[best["id"]]:
                        outcome = None
                    elif best is not None and best["id"] not in taken:
                        outcome = True
                        taken.add(best["id"])
                    else:
                        outcome = None if outside else False
                if outcome is None:
                    continue
                right, wrong = right + outcome, wrong + (not outcome)
                curve.append((right / total, right / (right + wrong)))
            if p.points == "all":
                recalls = sorted({recall for recall, _ in curve if recall})
                steps = [recall - before for recall, before in zip(recalls, [0.0, *recalls], strict=False)]
                values.append(
                    sum(s * max(q for r, q in curve if r >= at) for s, at in zip(steps, recalls, strict=True))
                )
            else:
                count = int(p.points)
                grid = np.linspace(0, 1, 101) if count == 101 else [place / 10 for place in range(11)]
                values.append(sum(max((q for r, q in curve if r >= at), default=0.0) for at in grid) / count)
    return sum(values) / len(values)


def case(seed: int = 0, images: int = 12) -> tuple[Json, list[Json]]:
    """Scores of two digits that tie, detections that stand twice, and some that suppression would take."""
    truth, rows = generated(images, seed, 2)
    rng = np.random.default_rng(seed)
    for row in [rows[int(place)] for place in rng.integers(len(rows), size=len(rows) // 4)]:
        rows.append({**row, "score": round(float(rng.random()), 2)})
    rng.shuffle(rows)  # type: ignore[arg-type]
    return truth, rows


SETTINGS = [
    "coco", "coco50", "coco75", "coco_S", "coco_M", "coco_L", "voc07", "voc10",
    "duplicates=drop", "nms=0.45", "floor=0.4", "per_image=5", "max_detections=2", "max_detections=none",
    "box_decimals=0", "score_decimals=1", "images=annotated", "images=detected,floor=0.8", "images=7",
    "side=inclusive", "area=box,scale=M", "difficult=ignore", "candidate=nearest", "iou=0.3:0.6", "points=11",
    "points=all", "voc07,iou=0.6:0.8", "voc10,scale=M,side=inclusive", "coco_S,area=box,difficult=ignore,points=all",
    "voc07,duplicates=drop,nms=0.6,floor=0.2,per_image=9,box_decimals=0,score_decimals=1,images=8,points=101",
]  # fmt: skip


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_switch_equals_the_definition_written_as_loops(setting: str) -> None:
    truth, rows = case()
    read = load_ground_truth(truth)
    protocol = parse_protocol(setting)
    found = average_precision_of(read, load_detections(rows, read), protocol)
    assert found == pytest.approx(slow_ap(truth, rows, protocol), abs=1e-12)


def test_all_switches_are_tried_and_move_something() -> None:
    """A switch that changed nothing here would be tested by nothing."""
    truth, rows = case()
    read = load_ground_truth(truth)
    results = load_detections(rows, read)
    tried = set()
    for setting in SETTINGS:
        protocol = parse_protocol(setting)
        for factor in differing(Protocol(), protocol):
            before = replace(protocol, **{factor: getattr(Protocol(), factor)})
            if average_precision_of(read, results, before) != average_precision_of(read, results, protocol):
                tried.add(factor)
    assert tried == set(FACTORS)


def test_named_protocols_give_what_score_gives() -> None:
    truth, rows = case(3)
    read = load_ground_truth(truth)
    results = load_detections(rows, read)
    scores = score(read, results)
    wanted = {
        "coco": scores["stats"]["AP"],
        "coco50": scores["stats"]["AP50"],
        "coco75": scores["stats"]["AP75"],
        **{f"coco_{scale}": scores["stats"][f"AP_{scale}"] for scale in "SML"},
        "voc07": scores["voc"]["mAP07"],
        "voc10": scores["voc"]["mAP10"],
    }
    assert wanted.keys() == NAMED.keys()
    for name, value in wanted.items():
        assert average_precision_of(read, results, NAMED[name]) == pytest.approx(value, abs=1e-12), name
    fd = average_precision_of(read, results, parse_protocol("iou=0.05:0.5"))
    assert fd is not None
    assert 1 - fd == pytest.approx(scores["fd"]["FD"], abs=1e-12)


PLANTED = (
    {"floor": 0.3, "box_decimals": 0, "side": "inclusive", "points": "11"},
    {"duplicates": "drop", "max_detections": 2, "difficult": "ignore", "candidate": "nearest"},
    {"nms": 0.5, "per_image": 6, "score_decimals": 1, "images": "9"},
)


@pytest.mark.parametrize("planted", PLANTED)
def test_four_planted_deviations_are_recovered(planted: dict[str, Any]) -> None:
    """What another evaluator, written as loops, makes of four deviations is explained down to the last of them."""
    truth, rows = case(5)
    read = load_ground_truth(truth)
    deviating = replace(Protocol(), **planted)
    found = explain(read, load_detections(rows, read), target=deviating)
    assert [step.factor for step in found.steps] == [factor for factor in FACTORS if factor in planted]
    protocol, level = Protocol(), slow_ap(truth, rows, Protocol())
    assert found.start == pytest.approx(level, abs=1e-12)
    for step in found.steps:
        protocol = replace(protocol, **{step.factor: planted[step.factor]})
        after = slow_ap(truth, rows, protocol)
        assert step.effect == pytest.approx(after - level, abs=1e-9), step.factor
        level = after
    assert found.end == pytest.approx(slow_ap(truth, rows, deviating), abs=1e-9)
    assert abs(found.residual) < 1e-12


def test_deviations_of_a_file_are_found_in_it() -> None:
    """A second file that was made from the first by a floor, suppression, a cap and two roundings, in the loops."""
    truth, rows = case(6, images=30)
    rows = [{**row, "score": row["score"] + 1e-4 * place / len(rows)} for place, row in enumerate(rows)]
    planted = {"nms": 0.5, "floor": 0.2, "max_detections": 3, "box_decimals": 0, "score_decimals": 2}
    _, other = slow_list(truth, rows, replace(Protocol(max_detections=None), **planted))
    read = load_ground_truth(truth)
    first, second = load_detections(rows, read), load_detections(other, read)
    assert observed(read, first, second) == planted
    assert observed(read, first, first) == {}
    assert apart(first, first) == 0
    assert apart(first, second) == len(rows) + len(other)
    found = explain(read, first, second, target=replace(Protocol(), **planted))
    assert found.steps[-1].factor == "detections"
    assert abs(found.steps[-1].effect) < 1e-12, "nothing is left over"
    assert abs(found.end - found.start) > 0.001
    # One box more, and something is left over.
    more = load_detections([*other, {**other[0], "bbox": [0, 0, 640, 480], "score": 0.99}], read)
    assert explain(read, first, more, target=replace(Protocol(), **planted)).steps[-1].effect < -1e-4


def test_mean_over_orders_equals_all_orders_walked() -> None:
    truth, rows = case(7)
    read = load_ground_truth(truth)
    results = load_detections(rows, read)
    target = parse_protocol("voc07,nms=0.5")
    factors = ("nms", "difficult", "candidate", "points")
    target = replace(Protocol(), **{factor: getattr(target, factor) for factor in factors})
    found = explain(read, results, target=target, average=True)
    sums: dict[str, float] = defaultdict(float)
    orders = list(permutations(factors))
    for order in orders:
        protocol = Protocol()
        for factor in order:
            after = replace(protocol, **{factor: getattr(target, factor)})
            values = [average_precision_of(read, results, one) for one in (protocol, after)]
            sums[factor] += (values[1] or 0) - (values[0] or 0)
            protocol = after
    assert {s.factor: s.effect for s in found.steps} == pytest.approx({f: sums[f] / len(orders) for f in factors})
    assert abs(found.residual) < 1e-9
    assert found.averaged


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("voc08", "choose one of coco"),
        ("coco,points", "sets nothing"),
        ("size=3", "sets nothing"),
        ("points=12", "choose one of 11, 101, all"),
        ("iou=0.52", "write one of"),
        ("iou=0.7:0.5", "write one of"),
        ("nms=1.5", "out of range"),
        ("per_image=0", "out of range"),
        ("floor=low", "write a number"),
    ],
)
def test_what_no_protocol_is(text: str, complaint: str) -> None:
    with pytest.raises(ScoreError, match=complaint):
        parse_protocol(text)


def test_settings_are_shown_as_they_are_read() -> None:
    protocol = parse_protocol("voc07,nms=0.45,iou=0.5:0.75,per_image=100,floor=none")
    text = ",".join(f"{factor}={protocol.shown(factor)}" for factor in FACTORS)
    assert parse_protocol(text) == protocol


def test_command(tmp_path: Path) -> None:
    truth, rows = case(8)
    truth["images"] = truth["images"][::-1]
    for name, content in (("gt", truth), ("one", rows), ("two", [row for row in rows if row["score"] >= 0.5])):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    gt, one, two, out, plot = (str(tmp_path / name) for name in ("gt.json", "one.json", "two.json", "e.json", "e.png"))
    run = CliRunner().invoke(
        app, ["explain", one, two, "--gt", gt, "--to", "points=11", "--plot", plot, "--json", out], terminal_width=200
    )
    assert run.exit_code == 0, run.output
    written = json.loads(Path(out).read_text())
    assert [step["factor"] for step in written["steps"]] == ["floor", "points", "detections"]
    assert written["steps"][0]["after"] == "0.5"
    assert written["steps"][-1]["effect"] == 0
    assert Path(plot).read_bytes().startswith(b"\x89PNG")
    assert "other differences" in run.output
    assert "the first, 0 do." in " ".join(run.output.split())
    same = CliRunner().invoke(app, ["explain", one, "--gt", gt])
    assert same.exit_code == 2
    (tmp_path / "ids.txt").write_text("1\n2\n3\n99\n")
    ids = CliRunner().invoke(app, ["explain", one, "--gt", gt, "--to", f"images={tmp_path / 'ids.txt'}"])
    assert ids.exit_code == 2
    (tmp_path / "ids.txt").write_text("1\n2\n3\n4")
    found = run_explain(Path(one), None, Path(gt), target=f"images={tmp_path / 'ids.txt'}")
    first_four = run_explain(Path(one), None, Path(gt), target="images=4")
    assert found.end == first_four.end != found.start
    json.dumps(asdict(found))
    assert draw_waterfall(found).startswith(b"\x89PNG")
