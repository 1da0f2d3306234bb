"""Modes: the same detector computed in another way, which is undone afterwards and never mixed with the plain one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import box_iou
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.claims.evidence import Evidence
from benchmarks.datasets import open_dataset
from benchmarks.evaluate import evaluate, load_subject
from benchmarks.fingerprints import fixed_images
from benchmarks.modes import OPTIONS, Mode, ModeError, _mapped, _Unseen, parse_mode, running
from benchmarks.recording import latency_record
from benchmarks.results import Record
from ops.images import Batch
from ops.structures import Detections, Target
from reports.modes import modes
from reports.records import Entry, Shelf
from tests.reports.samples import record
from zoo import checkpoints
from zoo.classical.viola_jones import ViolaJones
from zoo.detector import Detector

CHOSEN = ("ssd300_vgg16", "faster_rcnn_r50_fpn", "cornernet511_hg52")
"""Heads over priors, regions, keypoints."""


@pytest.fixture(scope="module", params=CHOSEN)
def model(request: pytest.FixtureRequest) -> Detector:
    return checkpoints.load(checkpoints.find(request.param, "shapes"))[0]


def detect(model: Detector) -> list[Detections]:
    with torch.inference_mode():
        answers: list[Detections] = model(fixed_images())
    return answers


def same(first: Sequence[Detections], second: Sequence[Detections]) -> bool:
    pairs = zip(first, second, strict=True)
    return all(torch.equal(one.boxes, other.boxes) and torch.equal(one.scores, other.scores) for one, other in pairs)


def missing(ours: Sequence[Detections], theirs: Sequence[Detections], *, iou: float, score: float, over: float) -> int:
    """Detections of either that score more than `over` and that the other has no equal of."""
    count = 0
    for pair in zip(ours, theirs, strict=True):
        for one, other in (pair, pair[::-1]):
            one = one[one.scores > over]
            fits = (box_iou(one.boxes, other.boxes) > iou) & (one.labels[:, None] == other.labels)
            fits &= (one.scores[:, None] - other.scores).abs() < score
            count += int((~fits.any(1)).sum())
    return count


class Layers:
    """Types and orders of memory of what convolutions see meanwhile."""

    def __init__(self, model: nn.Module) -> None:
        self.types: set[torch.dtype] = set()
        self.in_order: list[bool] = []
        self.handles = [
            part.register_forward_hook(self.hook) for part in model.modules() if isinstance(part, nn.Conv2d)
        ]

    def hook(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.types.add(output.dtype)
        self.in_order.append(layer.get_parameter("weight").is_contiguous(memory_format=torch.channels_last))

    def __enter__(self) -> Layers:
        return self

    def __exit__(self, *_: Any) -> None:
        for handle in self.handles:
            handle.remove()


def test_channels_last_gives_the_same_detections_and_is_undone(model: Detector) -> None:
    before, state = detect(model), {key: value.clone() for key, value in model.state_dict().items()}
    with running(model, parse_mode("channels-last")), Layers(model) as seen:
        found = detect(model)
    assert seen.types == {torch.float32}
    assert all(seen.in_order)
    assert missing(found, before, iou=0.999, score=1e-4, over=0.05) == 0
    assert "network" not in vars(model)
    assert all(value.is_contiguous() and torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert same(detect(model), before)


def test_bfloat16_gives_nearly_the_same_detections_in_float32(model: Detector) -> None:
    before = detect(model)
    assert sum(len(one[one.scores > 0.4]) for one in before) >= 5, "else the test shows nothing"
    with running(model, parse_mode("bf16")), Layers(model) as seen:
        found = detect(model)
    assert seen.types == {torch.bfloat16}
    assert all(one.boxes.dtype == one.scores.dtype == torch.float32 for one in found)
    assert missing(found, before, iou=0.8, score=0.15, over=0.4) == 0
    assert not same(found, before)
    assert same(detect(model), before)


class Shortened(TorchDispatchMode):
    """Elements that are turned into bfloat16 meanwhile."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        if func.name() in ("aten::to.dtype", "aten::_to_copy") and answer.dtype == torch.bfloat16:
            self.count += answer.numel()
        return answer


def test_weights_are_shortened_once_not_in_every_call() -> None:
    layer = nn.Linear(100, 70)

    class Linear(Detector):
        def __init__(self) -> None:
            super().__init__(1)
            self.layer = layer

        def network(self, batch: Batch, targets: Any = None) -> Tensor:
            return self.layer(batch.pixels)

    model, batch = Linear(), Batch(torch.ones(1, 100), ())
    counts = []
    with running(model, parse_mode("bf16")), torch.inference_mode():
        for _ in range(2):
            with Shortened() as shortened:
                model.network(batch)
            counts.append(shortened.count)
    assert counts == [100 + 7_000 + 70, 100]


def test_a_compiled_network_is_the_same_to_the_bit() -> None:
    model = checkpoints.load(checkpoints.find("ssd300_vgg16", "shapes"))[0]
    before = detect(model)
    calls = []
    torch._dynamo.reset()

    def backend(graph: torch.fx.GraphModule, _inputs: Any) -> Any:
        calls.append(sum(node.op == "call_function" for node in graph.graph.nodes))
        return graph.forward

    with running(model, Mode(compiler=backend)):  # type: ignore[arg-type]
        assert same(detect(model), before)
    assert len(calls) >= 1
    assert max(calls) > 20, "the network was captured"


def test_losses_are_those_of_the_plain_network() -> None:
    model = checkpoints.load(checkpoints.find("ssd300_vgg16", "shapes"))[0]
    box = torch.tensor([[20.0, 30.0, 80.0, 90.0]])
    images, targets = fixed_images()[:1], [Target(box, torch.tensor([2]))]
    before = model(images, targets)
    with running(model, parse_mode("bf16")):
        found = model(images, targets)
    assert found.keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in found.items())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fp8", "mode 'fp8': choose from channels-last, fp16, bf16, compile, cuda-graphs"),
        ("fp16,bf16", "one precision"),
        ("channels-last,half", "'half'"),
    ],
)
def test_modes_that_do_not_exist(text: str, words: str) -> None:
    with pytest.raises(ModeError, match=words):
        parse_mode(text)


def test_names_come_back_in_one_order() -> None:
    assert parse_mode("") == Mode()
    assert Mode().name == ""
    assert parse_mode(" bf16 , channels-last").name == "channels-last,bf16"
    assert parse_mode("bf16,bf16") == parse_mode("bf16")
    every = "channels-last,fp16,compile,cuda-graphs"
    assert parse_mode(every).name == every
    assert all(parse_mode(option).name == option for option in OPTIONS)


@pytest.mark.parametrize(("text", "words"), [("fp16", "on a CPU take bf16"), ("cuda-graphs", "this is a CPU")])
def test_what_a_processor_cannot_run(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ModeError, match=words):
        parse_mode(text).check("cpu")
    for command in ("latency", "evaluate", "profile"):
        result = CliRunner().invoke(app, [command, "ssd300_vgg16", "--mode", text, "--out", str(tmp_path)])
        assert (result.exit_code, list(tmp_path.iterdir())) == (2, [])
        assert words in result.stderr
        assert result.stderr.count("\n") == 1


def test_a_detector_without_a_network_has_no_modes() -> None:
    detector = ViolaJones(1)
    with pytest.raises(ModeError, match="ViolaJones has no neural network"), running(detector, parse_mode("bf16")):
        pass
    with running(detector, Mode()) as plain:
        assert plain is detector


def test_what_a_network_reads_off_its_images_no_graph_repeats() -> None:
    """A captured network is given no sizes of images, so that one that asks for them is refused, not wrong."""
    model = checkpoints.load(checkpoints.find("faster_rcnn_r50_fpn", "shapes"))[0]
    batch = model.preprocess(fixed_images()[:1])
    with torch.inference_mode(), pytest.raises(ModeError, match="sizes of the images"):
        model.network(Batch(batch.pixels, _Unseen()))
    model = checkpoints.load(checkpoints.find("ssd300_vgg16", "shapes"))[0]
    batch = model.preprocess(fixed_images()[:1])
    with torch.inference_mode():
        outputs = model.network(Batch(batch.pixels, _Unseen()))
        copied = _mapped(outputs, Tensor.clone)
    assert type(copied) is type(outputs)
    assert torch.equal(copied.offsets, outputs.offsets)
    assert copied.offsets.data_ptr() != outputs.offsets.data_ptr()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("text", ["cuda-graphs", "channels-last,fp16,cuda-graphs", "compile"])
def test_graphs_are_replayed(text: str) -> None:
    model = checkpoints.load(checkpoints.find("ssd300_vgg16", "shapes"))[0].to("cuda")
    images = [image.to("cuda") for image in fixed_images()]
    with torch.inference_mode():
        before = [model([image])[0] for image in images]
        with running(model, parse_mode(text), "cuda"):
            found = [model([image])[0] for image in (*images, *images)]
    assert missing(found, [*before, *before], iou=0.8, score=0.1, over=0.5) == 0


def test_records_name_their_mode_and_accuracy_is_measured_in_it(tmp_path: Path) -> None:
    data = open_dataset("shapes").first(16)
    subject = load_subject("ssd300_vgg16", checkpoints.find("ssd300_vgg16", "shapes"), len(data.class_names))
    mode = parse_mode("channels-last,bf16")
    plain, shortened = (evaluate(subject, data, mode=chosen, quiet=True) for chosen in (None, mode))
    timed = latency_record(subject, data, device="cpu", threads=1, images=2, seconds=0.0, mode=mode)
    assert plain.mode is None
    assert "mode" not in plain.protocol
    assert plain.name != shortened.name
    first, second = (one.metrics["stats"]["AP"] for one in (plain, shortened))
    assert first > 0.4
    assert 0 < abs(first - second) < 0.02, "measured anew, and close"
    for one in (shortened, timed):
        assert one.mode == "channels-last,bf16"
        assert one.protocol["mode"]["memory_format"] == "channels last"
        assert one.hardware is not None
        assert one.hardware.precision == "bfloat16"
        assert one.name.endswith(".channels-last+bf16")
        assert Record.read(one.write(tmp_path)) == one


def test_pages_and_claims_show_the_plain_mode_alone() -> None:
    mode = {"mode": parse_mode("bf16").describe()}
    records = [record(kind) for kind in ("accuracy", "latency")]
    records += [record(kind, protocol=mode) for kind in ("accuracy", "latency")]
    assert len({one.name for one in records}) == 4
    shelf = Shelf(Entry(one, Path(one.name), f"m/{one.name}.json") for one in records)
    rows = modes(shelf).rows
    assert [row[2] for row in rows] == ["bf16"] * 2
    assert [row[5:] for row in rows] == [("45.0", "none", "none"), ("none", "14.00", "20.00")]
    evidence = Evidence((), ((one.name, one) for one in records))
    for kind in ("accuracy", "latency"):
        assert [entry.record.mode for entry in shelf.of(kind)] == [None]
        assert [found.record.mode for found in evidence.of(kind)] == [None]
