"""Claims on structure and geometry: what is measured, by slow definitions; and broken operators turn the verdict."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou, roi_pool
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.claims import RULES, Evidence, LedgerError, Verdict, read_claims
from benchmarks.claims.measure import EXACT, boxes, convolutions, evaluators, measure, operators
from benchmarks.claims.measure.boxes import Boxes
from benchmarks.papers import read_tables
from benchmarks.results import COMMITTED, DatasetId, Record, read_records
from ops.dense import log_iou
from ops.roi_align import roi_align
from tests.reports.samples import cost, record

CLAIMS = read_claims()
TOY = DatasetId(name="voc", split="2007_test", fingerprint="0" * 64, images=2, objects=5)
DEAR = {"ssd-tail", "backbone-share", "rfcn-roi-cost", "yolo-fixed-input"}


def about(claim: str, numbers: dict[str, Any], dataset: DatasetId | None = None) -> Record:
    return record(
        "claim", "none", metrics=numbers, dataset=dataset, hardware=None, weights=None, protocol={"claim": claim}
    )


def verdict(claim: str, part: str, *records: Record, level: str = "X") -> Verdict:
    (rule,) = [rule for rule in RULES if (rule.claim, rule.part, rule.level) == (claim, part, level)]
    return rule.judge(CLAIMS[claim], Evidence(read_tables(), ((f"any/{one.name}.json", one) for one in records)))


def unfocused(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda sides, wanted: loss(sides + 1, wanted)


def arbitrary(losses: Tensor, candidates: Tensor, counts: Tensor) -> Tensor:
    return candidates & (torch.arange(losses.shape[1]) < counts[:, None])


@pytest.mark.parametrize(
    ("claim", "part", "right", "broken"),
    [
        ("roialign-shift", "", operators.pooled_ramp, lambda: operators.pooled_ramp(align=roi_pool)),
        (
            "roialign-shift",
            "",
            operators.pooled_ramp,
            lambda: operators.pooled_ramp(pool=lambda *a: roi_align(*a)),
        ),
        ("iou-loss-scale", "", operators.overlap_loss, lambda: operators.overlap_loss(unfocused(log_iou))),
        (
            "fc-conv",
            "the same answer",
            convolutions.convolutional_classifier,
            lambda: convolutions.convolutional_classifier(padding=2),
        ),
        ("ohem-helps", "what is chosen", operators.hard_negatives, lambda: operators.hard_negatives(arbitrary)),
        (
            "ohem-helps",
            "what is chosen",
            operators.hard_negatives,
            lambda: operators.hard_negatives(lambda losses, candidates, counts: candidates),
        ),
        (
            "perfect-ap",
            "no false box above a true one",
            evaluators.perfect,
            lambda: {"below": {"20": evaluators.perfect()["above"]}, "above": evaluators.perfect()["above"]},
        ),
    ],
)
def test_a_broken_operator_turns_the_verdict(
    claim: str, part: str, right: Callable[[], dict[str, Any]], broken: Callable[[], dict[str, Any]]
) -> None:
    assert verdict(claim, part, about(claim, right())).word == "holds"
    assert verdict(claim, part, about(claim, broken())).word == "fails"


@pytest.mark.parametrize(
    ("claim", "part", "changes"),
    [
        ("receptive-field", "", {"strided_wrong": 1}),
        ("deform-identity", "without offsets", {"pooling_error": 1e-4}),
        ("nms-toy", "", {"idempotent": False}),
        ("nms-toy", "", {"largest_overlap": 0.51}),
        ("nms-toy", "", {"kept_scores": [0.9, 0.8, 0.75]}),
        ("upsample-toys", "", {"bicubic": 0.006}),
        ("upsample-toys", "", {"transposed_side": 4}),
        ("densebox-area-weight", "area", {"slope": 0.0}),
        ("easy-loss-share", "laws", {"easy_factor": 0.1}),
        ("region-switch", "golden", {"n_5": [30, 30, 60, 60]}),
        ("yolo-fixed-input", "one size", {"refused": ""}),
        ("yolo-fixed-input", "context", {"seen": 0.5}),
        ("ssd-tail", "", {"extras": 10**10}),
        ("batch-bn", "statistics", {"slope": -0.5}),
        ("batch-bn", "statistics", {"shards_error": 1e-3}),
        ("iou-edge", "from 0.5 on", {"area": 0.0}),
    ],
)
def test_a_changed_number_turns_the_verdict(claim: str, part: str, changes: dict[str, Any]) -> None:
    numbers = dict(committed(claim).metrics)
    before = verdict(claim, part, about(claim, numbers)).word
    assert {before, verdict(claim, part, about(claim, numbers | changes)).word} == {"holds", "fails"}


def committed(claim: str) -> Record:
    return Record.read(COMMITTED / "any" / f"claim.none.paper.{claim}.json")


@pytest.mark.parametrize("claim", sorted(EXACT.keys() - DEAR))
def test_what_is_exact_is_what_was_recorded(claim: str) -> None:
    assert flat(EXACT[claim]()) == pytest.approx(flat(committed(claim).metrics), abs=1e-5)


def flat(value: Any, name: str = "") -> dict[str, float]:
    if isinstance(value, dict):
        return {k: v for key, one in value.items() for k, v in flat(one, f"{name}.{key}").items()}
    if isinstance(value, list):
        return {k: v for index, one in enumerate(value) for k, v in flat(one, f"{name}.{index}").items()}
    return {name: hash(value) if isinstance(value, str) else value}


def test_costs_of_architectures_by_hand() -> None:
    """From the layers' sizes: what SSD300 has behind fc7, and a region of VGG-16."""
    shapes = [(1024, 256, 1, 19), (256, 512, 3, 10), (512, 128, 1, 10), (128, 256, 3, 5), (256, 128, 1, 5)]
    shapes += [(128, 256, 3, 3), (256, 128, 1, 3), (128, 256, 3, 1)]
    assert committed("ssd-tail").metrics["extras"] == sum(i * o * k * k * s * s for i, o, k, s in shapes)
    region = 512 * 49 * 4096 + 4096 * 4096 + 4096 * 21 + 4096 * 84
    assert committed("backbone-share").metrics["vgg16"]["region"] == region
    dense = 256 * 49 * 1024 + 1024 * 1024 + 1024 * 81 + 1024 * 4 * 81
    assert committed("roi-vs-center").metrics["region"] == dense
    checks = ("cornernet511_hg52", "centernet511_hg52_cre", "centernet511_hg52")
    nets = [Record.read(COMMITTED / f"any/cost.{name}.paper.80-classes.json") for name in checks]
    for part in ("1,000 boxes", "100 boxes"):
        assert verdict("roi-vs-center", part, committed("roi-vs-center"), *nets).word == "fails"
        assert verdict("roi-vs-center", part, committed("roi-vs-center")).word == "cannot tell"
    dear = committed("roi-vs-center").model_copy(update={"metrics": {"region": 50 * dense}})
    assert verdict("roi-vs-center", "1,000 boxes", dear, *nets).word == "holds"
    assert verdict("roi-vs-center", "100 boxes", dear, *nets).word == "fails"
    assert verdict("ssd-tail", "", committed("ssd-tail")).word == "fails"
    for part, word in (("VGG-16, 2000", "fails"), ("VGG-16, 300", "holds")):
        assert verdict("backbone-share", part, committed("backbone-share")).word == word


def test_boxes_of_the_table_are_counted_one_by_one() -> None:
    def built(detector: str, boxes: int, side: int) -> Record:
        return record("cost", detector, scale="paper", overrides={}, metrics=cost(boxes, side=side))

    right = [built("ssd300_vgg16", 8732, 300), built("refinedet320_vgg16", 6375, 320)]
    assert verdict("box-counts", "the column", *right).word == "holds"
    assert verdict("box-counts", "the column", *right).figure == "2 rows; all as printed"
    other = built("dsod300", 8744, 300)
    assert verdict("box-counts", "the column", *right, other).word == "print error"
    elsewhere = built("yolov2", 845, 416)
    assert verdict("box-counts", "the column", *right, elsewhere).figure.startswith("2 rows"), "another input"
    assert verdict("box-counts", "the column").word == "cannot tell"


def toy() -> Boxes:
    """Two images: three objects in one cell of seven by seven, of two classes; and two of one class that overlap."""
    first = torch.tensor([[0.0, 0, 10, 10], [1, 1, 11, 11], [0, 0, 90, 90]])
    second = torch.tensor([[10.0, 10, 50, 50], [10, 15, 50, 55]])
    return Boxes(TOY, [(140, 140), (140, 140)], [first, second], [torch.tensor([1, 2, 1]), torch.tensor([3, 3])])


def test_shared_cells_by_hand() -> None:
    """Of 20 pixels a cell: centres (5, 5) and (6, 6) share one, (45, 45) is alone; (30, 30) and (30, 35) share one."""
    assert boxes.shared_cells(toy()) == {"objects": 5, "shared": 4 / 5, "with_another_class": 2 / 5}


def test_crowding_by_hand() -> None:
    """The pair's IoU is 35 / 45 = 0.778, so that suppression at 0.5 of true boxes loses one of five."""
    found = boxes.crowding(toy())
    assert found == {"objects": 5, "over_0.45": 2 / 5, "over_0.5": 2 / 5, "over_0.7": 2 / 5, "lost_at_0.5": 1 / 5}
    part = "true boxes, voc 2007_test"
    assert verdict("nms-crowd", part, about("nms-crowd", found, TOY), level="F").word == "holds"
    kept = {**found, "lost_at_0.5": 0.01}
    assert verdict("nms-crowd", part, about("nms-crowd", kept, TOY), level="F").word == "fails"
    sparse = {**kept, "over_0.45": 0.02}
    assert verdict("nms-crowd", part, about("nms-crowd", sparse, TOY), level="F").word == "cannot tell"


def test_coverage_against_loops() -> None:
    found = boxes.coverage(toy())
    anchors = boxes._tiled(320, (1.0, 2.0, 0.5))
    assert len(anchors) == 6375
    every = [box * torch.tensor([320 / 140] * 4) for rows in toy().boxes for box in rows]
    best = [max(float(box_iou(box[None], row[None])) for row in anchors[box_iou(box[None], anchors)[0] > 0.4]
                ) if (box_iou(box[None], anchors) > 0.4).any() else 0.0 for box in every]  # fmt: skip
    assert found["sets"]["RefineDet320"]["at_0.5"] == pytest.approx(sum(value >= 0.5 for value in best) / 5)
    assert [found["sets"][name]["anchors"] for name in ("one shape", "SSD300", "RefineDet512")] == [2125, 8732, 16320]


def test_imbalance_by_loops() -> None:
    """Positives: one anchor for each object, the largest overlap first, and those over 0.5; negatives: the others."""
    numbers = boxes.imbalance(toy(), images=2)["designs"]["RefineDet320"]
    anchors, ratios = boxes._tiled(320, (1.0, 2.0, 0.5)), []
    for rows in toy().warped(320):
        iou = box_iou(rows, anchors)
        positive = (iou >= 0.5).any(0)
        free = iou.clone()
        for _ in rows:
            best, anchor = divmod(int(free.argmax()), len(anchors))
            positive[anchor] = True
            free[best], free[:, anchor] = -1, -1
        ratios.append(float(((~positive) & (iou.amax(0) < 0.5)).sum() / positive.sum()))
    assert numbers["median"] == pytest.approx(sum(ratios) / 2, rel=0.02)
    assert numbers["variation"]["32"] < numbers["variation"]["2"]


def test_geometry_is_judged_by_its_numbers() -> None:
    for share, word in ((0.004, "fails"), (0.2, "holds")):
        numbers = {"shared": 0.3, "with_another_class": share, "objects": 100}
        found = verdict("yolo-crowd", "shared cells, voc 2007_test", about("yolo-crowd", numbers, TOY), level="F")
        assert found.word == word
    missing = verdict("yolo-crowd", "shared cells, voc 2007_test", level="F")
    assert missing.word == "cannot tell"
    assert "python -m benchmarks claims yolo-crowd" in missing.wanted


def test_measuring_goes_on_where_it_stopped(tmp_path: Path) -> None:
    wanted = ("iou-edge", "ap-toy")
    assert len(measure(wanted, out=tmp_path)) == 2
    assert measure(wanted, out=tmp_path) == []
    next(tmp_path.glob("*ap-toy*")).unlink()
    (path,) = measure(wanted, out=tmp_path)
    assert path.name == "claim.none.paper.ap-toy.json"
    assert len(measure(wanted, anew=True, out=tmp_path)) == 2
    assert {one.kind for one in read_records(tmp_path)} == {"claim"}


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(LedgerError, match="there is no claim nonsense"):
        measure(["nonsense"])
    with pytest.raises(LedgerError, match="fps-40: rests on tables or on other Records alone"):
        measure(["fps-40"])
    with pytest.raises(LedgerError, match="at least one image"):
        measure(images=0)


def test_published_weights_are_judged_over_images() -> None:
    coco = DatasetId(name="coco", split="val2017", fingerprint="c" * 64, images=197, objects=9)
    part = "one set of weights, small objects"
    for ends, word in (([0.1, 2.0], "holds"), ([-0.5, 0.2], "fails"), ([-0.5, 0.4], "cannot tell")):
        numbers = {"gains": {"AP_S": {"gain": 0.3, "interval": ends}}}
        found = verdict("input-size", part, about("input-size", numbers, coco), level="F")
        assert (found.word, found.interval) == (word, tuple(ends))
    assert verdict("input-size", part, level="F").word == "cannot tell"


def test_the_command_says_what_it_wrote(tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["claims", "iou-edge", "--out", str(tmp_path)])
    assert found.exit_code == 0
    assert "claim.none.paper.iou-edge.json" in found.stdout.replace("\n", "")
    wrong = CliRunner().invoke(app, ["claims", "iou-corner", "--out", str(tmp_path)])
    assert wrong.exit_code == 2
    assert "error: there is no claim iou-corner" in wrong.output
