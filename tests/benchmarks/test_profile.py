"""More than one number, of detectors whose cost is known: on a clock that they advance themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from benchmarks import energy, profile
from benchmarks.datasets import open_dataset
from benchmarks.energy import energy_of, rapl
from benchmarks.evaluate import load_subject
from benchmarks.fresh import PARTS, start_fresh
from benchmarks.growth import NotMeasured, against_candidates, throughput
from benchmarks.modes import parse_mode
from benchmarks.profile import print_profile, profile_record
from benchmarks.results import Record
from benchmarks.roofline import Peaks, Work, count_work, floor, measure_peaks, roofline
from ops.images import Batch, stack, unscaled, warp
from ops.nms import classwise_nms
from ops.structures import Detections
from reports.modes import profiles
from reports.records import Entry, Shelf
from zoo import checkpoints
from zoo.detector import Detector

ENTRY, BASE = 3e-6, 2e-3
"""Seconds a candidate, and seconds of postprocessing besides."""


class Clock:
    """Stands still but for what a detector adds."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


class Known(Detector):
    """Scores 1,000 boxes that lie apart evenly from 0 to 1; its cost is known to the microsecond."""

    def __init__(self, clock: Clock, noise: float = 0.0) -> None:
        super().__init__(1)
        self.clock, self.noise, self.score_floor, self.turn = clock, noise, 0.05, 0

    def preprocess(self, images: list[Tensor]) -> Batch:
        self.clock.time += 1e-3 * len(images)
        return stack([warp(image, (8, 8)) for image in images])

    def network(self, batch: Batch, targets: Any = None) -> Tensor:
        self.clock.time += 5e-3 + 2e-3 * len(batch.frames)
        return torch.linspace(0, 1, 1_000)[:, None]

    def postprocess(self, outputs: Tensor, batch: Batch) -> list[Detections]:
        corner = torch.arange(1_000.0)[:, None] * 10
        boxes = torch.cat([corner, corner, corner + 5, corner + 5], 1)
        self.turn += 1
        late = self.noise * (self.turn % 3)
        self.clock.time += BASE + ENTRY * int((outputs > self.score_floor).sum()) + late
        found = classwise_nms(boxes, outputs, score_floor=self.score_floor, iou=0.5, limit=None)
        return [found for _ in batch.frames]


PICTURES = [torch.zeros(3, 8, 8), torch.zeros(3, 9, 8)]


@pytest.mark.parametrize("noise", [0.0, 2e-4])
def test_the_slope_of_candidates_is_found(noise: float) -> None:
    clock = Clock()
    model = Known(clock, noise)
    found = against_candidates(model, PICTURES, now=clock, rounds=6)
    slope = found["seconds_per_1000_candidates"]
    assert slope["median"] == pytest.approx(1_000 * ENTRY, rel=0.05)
    assert slope["low"] <= slope["median"] <= slope["high"]
    assert found["seconds_at_none"] == pytest.approx(BASE + noise, rel=0.05)
    # Boxes lie apart, so that each candidate is a detection.
    assert found["seconds_per_100_detections"]["median"] == pytest.approx(slope["median"] / 10)
    assert len(found["points"]) == 2 * 7
    counts = {point["setting"]: (point["candidates"], point["detections"]) for point in found["points"]}
    assert counts[0.6] == (400, 400)
    assert counts[0.1] == (900, 900)
    assert model.score_floor == 0.05, "put back"


def test_where_nothing_can_be_varied() -> None:
    model = Known(Clock())
    model.postprocess = lambda outputs, batch: []  # type: ignore[method-assign]
    with pytest.raises(NotMeasured, match="0 boxes enter suppression whatever score_floor is"):
        against_candidates(model, PICTURES)
    del model.score_floor
    with pytest.raises(NotMeasured, match="Known has no score_floor or top_k"):
        against_candidates(model, PICTURES)


def on(clock: Clock) -> Any:
    def timed(model: Detector, images: list[Tensor], _device: torch.device) -> Mapping[str, float]:
        start = clock()
        batch = model.preprocess(images)
        model.postprocess(model.network(batch), batch)
        return {"end_to_end": clock() - start}

    return timed


def test_throughput_of_a_batch() -> None:
    clock = Clock()
    rows = throughput(Known(clock), PICTURES, batches=(4, 1, 2), rounds=3, timed=on(clock))
    each = BASE + ENTRY * 950
    assert [row["batch"] for row in rows] == [1, 2, 4]
    for row in rows:
        call = 5e-3 + 3e-3 * row["batch"] + each
        assert row["images_per_second"] == pytest.approx(row["batch"] / call)
        assert row["samples"] == pytest.approx([call] * 3)
    with pytest.raises(ValueError, match="at least one picture"):
        throughput(Known(clock), [], timed=on(clock))
    with pytest.raises(ValueError, match="batches of one or more"):
        throughput(Known(clock), PICTURES, batches=(0, 1), timed=on(clock))


def test_a_batch_that_does_not_fit_says_so() -> None:
    clock = Clock()
    timed = on(clock)

    def small(model: Detector, images: list[Tensor], device: torch.device) -> Mapping[str, float]:
        if len(images) >= 4:
            raise torch.OutOfMemoryError("too much")
        return dict(timed(model, images, device))

    rows = throughput(Known(clock), PICTURES, batches=(1, 2, 4, 8), rounds=2, timed=small)
    assert [row.get("not_measured") for row in rows] == [None, None, *["a batch of 4 does not fit into memory"] * 2]
    assert [len(row.get("samples", ())) for row in rows] == [2, 2, 0, 0]


class Meter:
    """40 W at rest and 240 W while a call runs, which takes half a second."""

    def __init__(self) -> None:
        self.clock, self.joules = Clock(), 7.0

    def spend(self, seconds: float, watts: float) -> None:
        self.clock.time += seconds
        self.joules += seconds * watts

    def call(self) -> None:
        self.spend(0.5, 240)


def test_energy_an_image_is_without_that_of_rest() -> None:
    meter = Meter()
    found = energy_of(
        meter.call, 4, lambda: meter.joules, seconds=2.9, rest=2, now=meter.clock, sleep=lambda s: meter.spend(s, 40)
    )
    assert found == pytest.approx(
        {"joules": 25, "gross_joules": 30, "watts": 240, "watts_at_rest": 40, "images": 24, "seconds": 3}
    )
    with pytest.raises(NotMeasured, match="stood still"):
        energy_of(meter.call, 4, lambda: 7.0, seconds=1, rest=1, now=meter.clock, sleep=lambda s: meter.spend(s, 40))


def test_the_processors_counters_are_added_and_go_round(tmp_path: Path) -> None:
    with pytest.raises(NotMeasured, match="no energy counter: this processor shows no RAPL"):
        rapl(tmp_path)
    for package, value in ((0, 5_000_000), (1, 9_500_000)):
        zone = tmp_path / f"intel-rapl:{package}"
        zone.mkdir()
        (tmp_path / f"intel-rapl:{package}:0").mkdir()
        (zone / "max_energy_range_uj").write_text("10000000\n")
        (zone / "energy_uj").write_text(f"{value}\n")
    counter, name = rapl(tmp_path)
    assert name == "RAPL, 2 packages"
    assert counter() == pytest.approx(14.5)
    (tmp_path / "intel-rapl:0/energy_uj").write_text("6000000")
    (tmp_path / "intel-rapl:1/energy_uj").write_text("500000")
    assert counter() == pytest.approx(14.5 + 1 + 1)
    (tmp_path / "intel-rapl:1/energy_uj").unlink()
    with pytest.raises(NotMeasured, match=r"no energy counter that may be read: .*energy_uj"):
        rapl(tmp_path)


class Small(Detector):
    """Two convolutions that share no weight, one of them run twice, and a norm that can be fused."""

    def __init__(self) -> None:
        super().__init__(1)
        self.first, self.norm, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)

    def preprocess(self, images: list[Tensor]) -> Batch:
        return unscaled(images)

    def network(self, batch: Batch, targets: Any = None) -> Tensor:
        x = self.norm(self.first(batch.pixels)).relu()
        return self.second(self.second(x))

    def postprocess(self, outputs: Tensor, batch: Batch) -> list[Detections]:
        return []


def test_work_and_floor_by_hand() -> None:
    work = count_work(Small().eval(), unscaled([torch.zeros(3, 5, 7)]))
    cells = 5 * 7
    assert work.macs == cells * (3 * 8 * 9 + 2 * 8 * 8)
    assert work.weights == (3 * 8 * 9 + 8) + (8 * 8 + 8)
    assert work.activations == cells * ((3 + 8) + 2 * (8 + 8))
    work = Work(macs=1_000, weights=30, activations=70)
    assert (work.bytes("float32"), work.bytes("bfloat16")) == (400, 200)
    found = floor(work, Peaks(flops=1e3, bandwidth=1e3))
    assert found == {"seconds": 2.0, "bound": "arithmetic", "arithmetic_seconds": 2.0, "memory_seconds": 0.4}
    found = floor(work, Peaks(flops=1e4, bandwidth=1e2), "float16")
    assert (found["seconds"], found["bound"]) == (2.0, "memory")


def test_the_network_beside_its_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter([9.0, 3.0, 4.0, 9.0, 5.0, 6.0])

    def timed(_model: Detector, images: list[Tensor], _device: torch.device) -> dict[str, float]:
        network = next(calls)
        return {"preprocess": 7.0, "network": network - 1, "proposals": 1.0, "postprocess": 7.0, "end_to_end": 99.0}

    monkeypatch.setattr("benchmarks.roofline.time_call", timed)
    pictures = [torch.zeros(3, 5, 7)] * 2
    found = roofline(Small().eval(), pictures, rounds=2, peaks=Peaks(flops=1e4, bandwidth=1e9))
    least = 2 * 2 * 35 * 344 / 1e4
    assert found["seconds"] == 3.0 + 5.0, "the fastest of each picture, warm"
    assert found["ratio"] == pytest.approx(8.0 / least)
    assert (found["images"], found["macs"]) == (2, 2 * 35 * 344)
    with pytest.raises(NotMeasured, match="no layer whose products are counted"):
        roofline(Known(Clock()), pictures, peaks=Peaks(1.0, 1.0))


def test_peaks_are_a_products_and_a_copys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.roofline._fastest", lambda call, place, seconds: call() is None or 0.5)
    found = measure_peaks("cpu", "bfloat16")
    assert found == Peaks(flops=4 * 1_024**3, bandwidth=2 * 2 * 4 * 2**25)


def test_a_record_of_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_dataset("shapes").first(2)
    subject = load_subject("ssd300_vgg16", checkpoints.find("ssd300_vgg16", "shapes"), len(data.class_names))
    monkeypatch.setattr(profile, "roofline", lambda *a, **s: roofline(*a, **s, peaks=Peaks(1e11, 1e10)))
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "none")
    record = profile_record(subject, data, images=2, batches=(1, 2), rounds=2, runs=1, quiet=True)
    found = record.metrics
    assert record.name == "profile.ssd300_vgg16.small.shapes-test.cpu.1-thread"
    assert found["energy"] == {"not_measured": "no energy counter: this processor shows no RAPL"}
    assert found["parameters"] == sum(parameter.numel() for parameter in subject.model.parameters())
    assert found["candidates"]["knob"] == "score_floor"
    candidates = {point["setting"]: point["candidates"] for point in found["candidates"]["points"]}
    assert sorted(candidates.values(), reverse=True) == [candidates[key] for key in sorted(candidates)]
    assert [len(record.samples[f"batch {size}"]) for size in (1, 2)] == [2, 2]
    assert found["roofline"]["ratio"] > 0
    assert Record.read(record.write(tmp_path)) == record
    (run,) = found["fresh"]["runs"]
    assert set(run["seconds"]) == {*PARTS, "next_call"}
    total = sum(run["seconds"][part] for part in PARTS)
    assert found["fresh"]["seconds"]["to_first_detections"] == pytest.approx(total)
    assert run["mib"]["loaded"] > run["mib"]["imported"] > 50
    row = profiles(Shelf([Entry(record, tmp_path, "m/one.json")])).rows[0]
    assert row[:3] == ("ssd300_vgg16", "small", "plain")
    assert row[7] == "not measured", "energy"
    assert row[8] == f"{found['roofline']['ratio']:.2f}"
    console = Console(width=120, record=True)
    print_profile(record, console)
    text = console.export_text()
    assert "not measured: no energy counter" in text
    assert "cold: first call" in text
    assert "images a second, batch 2" in text


def test_a_fresh_process_says_what_is_wrong(tmp_path: Path) -> None:
    subject = load_subject("ssd300_vgg16", checkpoints.find("ssd300_vgg16", "shapes"), 8)
    with pytest.raises(NotMeasured, match="my_net is not built by a name of the catalog"):
        start_fresh(replace(subject, name="my_net"), torch.zeros(3, 8, 8))
    missing = replace(subject, weights=tmp_path / "lost.safetensors")
    with pytest.raises(RuntimeError, match=r"ssd300_vgg16 cannot be run in a process of its own: .*lost.safetensors"):
        start_fresh(missing, torch.zeros(3, 8, 8), runs=1)
    with pytest.raises(RuntimeError, match="on a CPU take bf16"):
        start_fresh(subject, torch.zeros(3, 8, 8), mode=parse_mode("fp16").name, runs=1)
