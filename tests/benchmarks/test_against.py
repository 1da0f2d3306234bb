"""The same network twice: torchvision's models and ours must say the same before their times are compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.ops.misc import FrozenBatchNorm2d
from typer.testing import CliRunner

from benchmarks import against
from benchmarks.__main__ import app
from benchmarks.against import agreement, compare
from benchmarks.metrics.intervals import ratio_of_medians
from benchmarks.opponents import OPPONENTS, Pair, generated_images, pair_up
from benchmarks.results import Record
from ops.structures import Detections
from zoo import build
from zoo.checkpoints import list_weights

SHORT = 128
SIZES = ((96, 130), (200, 131))


def pictures() -> list[Tensor]:
    return [generated_images(1, size, seed)[0] for seed, size in enumerate(SIZES)]


@pytest.fixture(scope="module", params=list(OPPONENTS))
def pair(request: pytest.FixtureRequest) -> Pair:
    return pair_up(request.param, short=SHORT)


def test_both_detect_the_same_in_a_batch(pair: Pair) -> None:
    """Of two images of other shapes, so that the batch is padded at the bottom of one and at the right of the other."""
    with torch.inference_mode():
        ours, theirs = pair.ours(pictures()), pair.theirs(pictures())
    assert min(len(one) for one in ours) >= 10
    assert len({label for one in ours for label in one.labels.tolist()}) >= 8
    found = agreement(ours, theirs)
    assert found.alone <= 0.01 * found.detections
    assert found.box < 0.05
    assert found.score < 2e-4
    for one, other in zip(ours, theirs, strict=True):
        assert one.scores.tolist() == pytest.approx(other["scores"].tolist(), abs=2e-4)


def test_few_objects_stand_out(pair: Pair) -> None:
    """A random network that detects nothing, or everything, would time another thing than a trained one."""
    with torch.inference_mode():
        (found,) = pair.ours(pictures()[:1])
    assert len(found) >= 10
    assert found.scores.max() < 0.9999


def test_normalisation_is_frozen_on_both_sides() -> None:
    pair = pair_up("retinanet_r50_fpn", short=SHORT)
    counts = [sum(isinstance(m, FrozenBatchNorm2d) for m in model.modules()) for model in (pair.ours, pair.theirs)]
    assert counts == [53, 53]


def test_the_seed_decides_the_weights_and_chance_elsewhere_stays() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, again, other = (pair_up("retinanet_r50_fpn", short=64, seed=s).ours.state_dict() for s in (3, 3, 4))
    assert torch.equal(torch.rand(3), expected)
    key = "backbone.fpn.extra_blocks.p7.weight"
    assert torch.equal(first[key], again[key])
    assert not torch.equal(first[key], other[key])


@pytest.mark.parametrize("name", ["retinanet_r50_fpn", "ssd300_vgg16"])
def test_a_checkpoint_of_torchvisions_goes_into_both(name: str, tmp_path: Path) -> None:
    """With the overrides that weights.toml has for the published file."""
    source = pair_up(name, short=SHORT, seed=5)
    torch.save(source.theirs.state_dict(), tmp_path / "theirs.pth")
    pair = pair_up(name, short=SHORT, weights=tmp_path / "theirs.pth")
    with torch.inference_mode():
        found = agreement(pair.ours(pictures()), pair.theirs(pictures()))
    assert found.detections >= 3
    assert found.alone <= 0.01 * found.detections
    norms = [m.eps for model in (pair.ours, pair.theirs) for m in model.modules() if isinstance(m, FrozenBatchNorm2d)]
    assert set(norms) <= {0.0}
    (published,) = [entry for entry in list_weights() if (entry.detector, entry.format) == (name, "torch")]
    assert published.overrides == {k: v for k, v in pair.overrides.items() if k not in ("short", "longest")}
    with torch.device("meta"):
        model = build(name, published.num_classes, **published.overrides)
    assert published.bytes == pytest.approx(4 * sum(v.numel() for v in model.state_dict().values()), rel=0.005)


def test_agreement_finds_what_differs() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [5, 5, 20, 20], [30, 30, 40, 44]])
    ours = Detections(boxes, torch.tensor([0.9, 0.5, 0.4]), torch.tensor([1, 0, 2]))
    theirs = {
        "boxes": boxes[[0, 2, 1]].clone(),
        "scores": torch.tensor([0.9, 0.4, 0.5]),
        "labels": torch.tensor([2, 3, 1]),
    }
    assert agreement([ours], [theirs]) == against.Agreement(3, 0, 0.0, 0.0)
    theirs["boxes"][1, 2] += 0.05
    theirs["scores"][2] += 5e-4
    found = agreement([ours], [theirs])
    assert (found.alone, found.box, found.score) == (0, pytest.approx(0.05, rel=1e-3), pytest.approx(5e-4, rel=1e-3))
    for name, change in (("boxes", 0.3), ("scores", 0.01), ("labels", 1)):
        other = {**theirs, name: theirs[name].clone()}
        other[name][0] += change
        assert agreement([ours], [other]).alone == 2, name
    assert agreement([ours[:0]], [theirs]).alone == 3
    assert agreement([ours[:0]], [{name: value[:0] for name, value in theirs.items()}]).alone == 0


def test_ratio_is_that_of_medians_with_an_interval() -> None:
    theirs = [1.0, 2.0, 3.0, 4.0, 100.0]
    found = ratio_of_medians([0.5 * seconds for seconds in theirs], theirs)
    assert found == {"median": 0.5, "low": 0.5, "high": 0.5}, "what slows both down at once takes nothing from it"
    found = ratio_of_medians([1.0, 1.1, 0.9, 1.2, 1.0] * 4, [1.0] * 20)
    assert found["median"] == 1.0
    assert 0.9 <= found["low"] <= 1.0 <= found["high"] <= 1.1


def test_a_comparison_alternates_and_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pair = pair_up("retinanet_r50_fpn", short=64)
    turns: list[str] = []
    for name in ("_ours", "_theirs"):
        call = getattr(against, name)
        monkeypatch.setattr(against, name, lambda *a, _call=call, _name=name: (turns.append(_name), _call(*a))[1])
    record = compare(pair, pictures(), count=5, rounds=2, threads=1, note="a note")
    a, b = "_ours", "_theirs"
    assert turns == [a, b, a, b, a, b, b, a, b, a, a, b], "both images before the clock starts, then in turns"
    assert [len(record.samples[who]) for who in ("ours", "theirs")] == [4, 4]
    assert record.metrics["ratio"]["low"] <= record.metrics["ratio"]["median"] <= record.metrics["ratio"]["high"]
    assert record.metrics["agreement"]["detections"] > 0
    assert record.protocol["weights"] == "random"
    assert record.note == "a note"
    assert Record.read(record.write(tmp_path)) == record


def test_detectors_that_differ_are_not_timed() -> None:
    pair = pair_up("retinanet_r50_fpn", short=64)
    pair.ours.get_parameter("head.regression_head.bbox_reg.bias").data += 0.1
    with pytest.raises(ValueError, match=r"retinanet_r50_fpn: ours and torchvision's differ in \d+ of \d+ boxes"):
        compare(pair, pictures(), threads=1)


def test_command(tmp_path: Path) -> None:
    arguments = ["against-torchvision", "retinanet_r50_fpn", "--short", "96", "--images", "2", "--threads", "1"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    (path,) = tmp_path.glob("*.json")
    assert path.name == "comparison.retinanet_r50_fpn.paper.cpu.1-thread.json"
    assert json.loads(path.read_text())["overrides"]["short"] == 96


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["yolov3"], "torchvision has no yolov3"),
        (["--weights", "x.pth"], "name it"),
        (["ssd300_vgg16", "--images", "0"], "one image"),
    ],
)
def test_bad_input(arguments: list[str], words: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["against-torchvision", *arguments, "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert words in result.stderr
