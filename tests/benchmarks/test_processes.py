"""Several processes do what one does: the same detections to the bit, the same gradients but for rounding."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.descent import fit_by_gradient
from benchmarks.processes import Share
from benchmarks.results import Record
from benchmarks.training_state import TrainingError
from tests.benchmarks import toy_processes as toy
from tests.benchmarks import toy_training

SCRIPT = Path(toy.__file__)
LAUNCH = [sys.executable, "-m", "torch.distributed.run"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process does, in this one."""
    folder = tmp_path_factory.mktemp("alone")
    threads = torch.get_num_threads()
    torch.save(toy.fitted(folder / "whole", toy.STEPS), folder / "whole.pt")
    toy.fitted(folder / "half", toy.HALF)
    toy.evaluated(folder / "evaluated")
    torch.set_num_threads(threads)
    return folder


def start_from_half(alone: Path, out: Path) -> None:
    """A training of which one process has done the first half."""
    (out / "resumed").mkdir(parents=True)
    for file in (alone / "half").iterdir():
        shutil.copy(file, out / "resumed")


def assert_like_one(out: Path, alone: Path, count: int) -> None:
    whole = torch.load(alone / "whole.pt", weights_only=True)
    for rank in range(count):
        for name, weights in torch.load(out / f"trained{rank}.pt", weights_only=True).items():
            for key, value in weights.items():
                assert torch.allclose(value, whole[key], rtol=0, atol=2e-6), (rank, name, key)
    half = torch.load(alone / "half/state.pt", weights_only=True)["model"]
    assert not torch.allclose(half["head.weight"], whole["head.weight"], atol=1e-3), "the second half matters"

    files = {path.name for path in (out / "evaluated").iterdir() if not path.name.startswith(".")}
    assert {"detections.json", "metrics.json"} < files
    assert len(files) == 3
    for name in ("detections.json", "metrics.json"):
        assert (out / "evaluated" / name).read_bytes() == (alone / "evaluated" / name).read_bytes()
    (ours,), (theirs,) = (
        [Record.read(path) for path in (folder / "evaluated").glob("accuracy.*")] for folder in (out, alone)
    )
    # The tree may have changed between the two, as it does for who works on it while tests run.
    assert ours.model_copy(update={"commit": theirs.commit}) == theirs
    assert ours.metrics["fd"]["FD5"] < 1, "the detections should be worth a score"
    assert ours.metrics["detections"] == 160 * toy.IMAGES


def test_two_processes_do_what_one_does(alone: Path, tmp_path: Path) -> None:
    """Whole training with parts of batches, a training that one process began, and an evaluation of 11 images."""
    start_from_half(alone, tmp_path)
    command = [*LAUNCH, "--standalone", "--nproc-per-node", "2", str(SCRIPT), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"{toy.IMAGES} images, " in done.stderr
    assert done.stderr.count("wrote detections.json") == 1
    assert_like_one(tmp_path, alone, 2)
    course = [json.loads(line)["step"] for line in (tmp_path / "whole/losses.jsonl").read_text().splitlines()]
    assert course == [toy.STEPS], "the first process alone writes the log"


@pytest.mark.slow
def test_four_processes_do_what_one_does(alone: Path, tmp_path: Path) -> None:
    start_from_half(alone, tmp_path)
    command = [*LAUNCH, "--standalone", "--nproc-per-node", "4", str(SCRIPT), str(tmp_path)]
    subprocess.run(command, capture_output=True, check=True, timeout=600)
    assert_like_one(tmp_path, alone, 4)


@pytest.fixture
def two_nodes() -> Iterator[tuple[str, str]]:
    """Two network namespaces that see nothing but each other, at 10.77.0.1 and 10.77.0.2."""
    nodes = (f"zoo-a-{os.getpid()}", f"zoo-b-{os.getpid()}")
    ends = ("zoo-link-a", "zoo-link-b")
    steps = [
        *(["ip", "netns", "add", node] for node in nodes),
        ["ip", "link", "add", ends[0], "netns", nodes[0], "type", "veth", "peer", "name", ends[1], "netns", nodes[1]],
        *(
            ["ip", "-n", node, *rest]
            for host, (node, end) in enumerate(zip(nodes, ends, strict=True), start=1)
            for rest in (
                ["addr", "add", f"10.77.0.{host}/24", "dev", end],
                ["link", "set", end, "up"],
                ["link", "set", "lo", "up"],
            )
        ),
    ]
    try:
        if shutil.which("ip") is None:
            pytest.skip("there is no program `ip`")
        for step in steps:
            if (done := subprocess.run(step, capture_output=True, text=True)).returncode:
                pytest.skip(f"network namespaces cannot be made: {done.stderr.strip()}")
        yield nodes
    finally:
        if shutil.which("ip") is not None:
            for node in nodes:
                subprocess.run(["ip", "netns", "delete", node], capture_output=True)


@pytest.mark.slow
@pytest.mark.parametrize("each", [1, 2])
def test_two_machines_do_what_one_process_does(
    alone: Path, tmp_path: Path, two_nodes: tuple[str, str], each: int
) -> None:
    """Two namespaces of the network stand for the machines; both see the folder, as of a shared disk."""
    start_from_half(alone, tmp_path)
    running = []
    for rank, (node, end) in enumerate(zip(two_nodes, ("zoo-link-a", "zoo-link-b"), strict=True)):
        where = ["--nnodes", "2", "--node-rank", str(rank), "--master-addr", "10.77.0.1", "--master-port", "29577"]
        command = [*LAUNCH, *where, "--nproc-per-node", str(each), str(SCRIPT), str(tmp_path)]
        settings = {**os.environ, "GLOO_SOCKET_IFNAME": end, "TP_SOCKET_IFNAME": end}
        running.append(
            subprocess.Popen(["ip", "netns", "exec", node, *command], env=settings, stderr=subprocess.PIPE, text=True)
        )
    try:
        for process in running:
            _, said = process.communicate(timeout=600)
            assert process.returncode == 0, said
    finally:
        for process in running:
            process.kill()
    assert_like_one(tmp_path, alone, 2 * each)


@pytest.mark.parametrize("accumulate", [2, 4])
def test_parts_of_a_batch_learn_what_the_whole_teaches(alone: Path, tmp_path: Path, accumulate: int) -> None:
    threads = torch.get_num_threads()
    weights = toy.fitted(tmp_path / "parts", toy.STEPS, accumulate)
    torch.set_num_threads(threads)
    whole = torch.load(alone / "whole.pt", weights_only=True)
    assert all(torch.allclose(weights[key], whole[key], rtol=0, atol=2e-6) for key in whole)
    logs = [json.loads((folder / "losses.jsonl").read_text()) for folder in (tmp_path / "parts", alone / "whole")]
    assert logs[0] == pytest.approx(logs[1], abs=1e-5)


def test_a_batch_that_cannot_be_divided_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"4 images of a process cannot be divided into 3 parts; .*--accumulate"):
        fit_by_gradient(
            toy.Plain(), toy_training.ToyImages(), toy_training.recipe(3), seed=0, out=tmp_path, identity={},
            device=torch.device("cpu"), accumulate=3, quiet=True,
        )  # fmt: skip


def test_shares_cover_each_item_once() -> None:
    for total in (0, 1, 5, 8):
        for count in (1, 2, 3, 7):
            parts = [Share(rank, count).positions(total) for rank in range(count)]
            assert sorted(item for part in parts for item in part) == list(range(total))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([{0: "a", 2: "c"}, {1: "b"}], None),
        ([{0: "a"}, {1: "b"}], "item 2 of 3 was done 0 times by 2 processes"),
        ([{0: "a", 2: "c"}, {1: "b", 2: "c"}], "item 2 of 3 was done 2 times"),
        ([{0: "a", 2: "c"}, {1: "b", 3: "d"}], "item 3 of 3 was done 1 times"),
    ],
)
def test_what_is_gathered_is_each_item_once(
    monkeypatch: pytest.MonkeyPatch, parts: list[dict[int, str]], message: str | None
) -> None:
    def gather(own: object, into: list[object] | None) -> None:
        if into is not None:
            into[:] = parts

    monkeypatch.setattr("torch.distributed.gather_object", gather)
    assert Share(1, 2).gather(parts[1], 3) == {}
    if message is None:
        assert list(Share(0, 2).gather(parts[0], 3).items()) == [(0, "a"), (1, "b"), (2, "c")]
        return
    with pytest.raises(RuntimeError, match=message):
        Share(0, 2).gather(parts[0], 3)
