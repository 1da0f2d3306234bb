from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.datasets import open_dataset
from benchmarks.descent import Draws, fit_by_gradient, optimizer_for
from benchmarks.evaluate import evaluate, load_subject
from benchmarks.results import Record
from benchmarks.train import TrainingError, train
from ops.clusters import cluster_boxes
from ops.images import stack, warp
from tests.benchmarks import toy_training as toy
from zoo import checkpoints
from zoo.detector import Recipe

SCRIPT = Path(toy.__file__)


def states_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_training_lowers_the_loss(tmp_path):
    toy.run(tmp_path, 100)
    lines = [json.loads(line) for line in (tmp_path / "losses.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [50, 100]
    torch.manual_seed(0)
    fresh = toy.ToyDetector()
    images, targets = zip(*(toy.ToyImages()[i] for i in range(20)), strict=True)
    before = fresh(list(images), list(targets))["box"].item()
    assert lines[-1]["box"] < 0.7 * before


def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    """kill -9 in the middle; the same command then ends with the same weights, bit for bit."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    steps = 600
    subprocess.run([sys.executable, SCRIPT, whole, str(steps)], check=True)
    process = subprocess.Popen([sys.executable, SCRIPT, broken, str(steps)])
    deadline = time.monotonic() + 60
    while not (broken / "state.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    process.kill()
    assert process.wait() != 0, "the process ended before it was killed"
    reached = torch.load(broken / "state.pt", weights_only=True)["step"]
    assert 0 < reached < steps
    subprocess.run([sys.executable, SCRIPT, broken, str(steps)], check=True)
    final = [torch.load(folder / "final.pt", weights_only=True) for folder in (whole, broken)]
    assert states_equal(*final)
    logged = [json.loads(line)["step"] for line in (broken / "losses.jsonl").read_text().splitlines()]
    assert logged == sorted(set(logged)), "no step is logged twice"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_training_goes_on_from_the_step_it_reached(tmp_path, monkeypatch, number):
    """Ctrl-C in the middle of a step saves the whole step. Resumed, it ends as if nothing had been; robbed of the
    optimiser's state, elsewhere.
    """
    folders = {name: tmp_path / name for name in ("whole", "resumed", "robbed")}
    for folder in folders.values():
        folder.mkdir()
    whole = toy.run(folders["whole"], 40).state_dict()
    before = signal.getsignal(number)
    for name in ("resumed", "robbed"):
        with monkeypatch.context() as patch:
            patch.setattr(toy.ToyDetector, "losses", signalling(20, number))
            with pytest.raises(KeyboardInterrupt):
                toy.run(folders[name], 40)
        state = torch.load(folders[name] / "state.pt", weights_only=True)
        assert state["step"] == 20
        if name == "robbed":
            for moments in state["optimizer"]["state"].values():
                moments["exp_avg"].zero_()
            torch.save(state, folders[name] / "state.pt")
    assert states_equal(toy.run(folders["resumed"], 40).state_dict(), whole)
    assert not states_equal(toy.run(folders["robbed"], 40).state_dict(), whole)
    assert signal.getsignal(number) is before


def test_a_second_signal_does_not_wait(tmp_path, monkeypatch):
    """Nothing of the broken step is kept: the state is that of step 14, as without signals."""
    monkeypatch.setattr(toy.ToyDetector, "losses", signalling(20, signal.SIGINT, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        toy.run(tmp_path, 40)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 14


def signalling(step, *numbers):
    """`ToyDetector.losses`, during which signals come at a step."""
    plain, calls = toy.ToyDetector.losses, []

    def losses(self, *arguments):
        calls.append(None)
        for number in numbers if len(calls) == step else ():
            signal.raise_signal(number)
        return plain(self, *arguments)

    return losses


def test_two_processes_agree(tmp_path):
    """Under torchrun both ranks end with the same parameters, and with others than one process alone."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    subprocess.run([*launch, str(SCRIPT), str(tmp_path), "30"], check=True, capture_output=True, timeout=120)
    ranks = [torch.load(tmp_path / f"final{rank}.pt", weights_only=True) for rank in range(2)]
    learned = [name for name, _ in toy.ToyDetector().named_parameters()]
    assert all(torch.equal(ranks[0][name], ranks[1][name]) for name in learned)
    (tmp_path / "one").mkdir()
    alone = toy.run(tmp_path / "one", 30).state_dict()
    assert not torch.equal(alone["head.weight"], ranks[0]["head.weight"])


def test_non_finite_loss_names_step_and_parts(tmp_path):
    class Exploding(toy.ToyDetector):
        def losses(self, outputs, batch, targets):
            parts = super().losses(outputs, batch, targets)
            return {**parts, "size": parts["size"] / 0}

    with pytest.raises(TrainingError, match=r"step 0: .*box 0\..*size inf"):
        fit_by_gradient(
            Exploding(), toy.ToyImages(), toy.recipe(5), seed=0, out=tmp_path, identity={},
            device=torch.device("cpu"), quiet=True,
        )  # fmt: skip


def test_state_of_another_run_is_refused(tmp_path):
    toy.run(tmp_path, 10)
    with pytest.raises(TrainingError, match=r"state\.pt.*steps = 10.*this one has 12"):
        toy.run(tmp_path, 12)


def test_corrupt_state_is_refused(tmp_path):
    (tmp_path / "state.pt").write_bytes(b"not a state")
    with pytest.raises(TrainingError, match=r"state\.pt: not a training state"):
        toy.run(tmp_path, 5)


def test_draws_visit_each_image_once_an_epoch_and_do_not_touch_the_generator():
    draws = Draws(toy.ToyImages(), toy.recipe(1), seed=5)
    first = [draws.index(position) for position in range(20)]
    second = [draws.index(position) for position in range(20, 40)]
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    image, _ = draws[4]
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(draws[4][0], image)
    assert not torch.equal(draws[24][0], image)


def test_optimizer_groups():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    for parameter in model[1].parameters():
        parameter.requires_grad = False
    frozen = optimizer_for(model, Recipe(1, 1, 0.1, weight_decay=5e-4, bias_lr=2.0))
    rows = {tuple(p.shape): g for g in frozen.param_groups for p in g["params"]}
    assert set(rows) == {(4, 3, 3, 3), (4,)}
    assert rows[4, 3, 3, 3]["weight_decay"] == 5e-4
    assert rows[4, 3, 3, 3]["factor"] == 1
    assert rows[4,]["weight_decay"] == 0
    assert rows[4,]["factor"] == 2


def test_rate():
    steps = Recipe(1, 100, 0.02, milestones=(60, 80), warmup=10, warmup_factor=0.1)
    assert steps.rate(9) == pytest.approx(0.02)
    assert steps.rate(0) == pytest.approx(0.02 * (0.1 + 0.9 * 0.1))
    assert [steps.rate(s) for s in (59, 60, 80)] == pytest.approx([0.02, 0.002, 0.0002])
    burn = Recipe(1, 100, 1e-3, warmup=1000, warmup_factor=0.0, warmup_power=4)
    assert burn.rate(499) == pytest.approx(1e-3 * 0.5**4)
    cosine = replace(steps, cosine=True)
    assert cosine.rate(55) == pytest.approx(0.01)
    assert cosine.rate(99) < 1e-4


class Sized(toy.ToyDetector):
    """A toy that takes any size, remembers at which it worked, and after so many steps gets Ctrl-C."""

    def __init__(self, stop_at=None):
        super().__init__()
        self.size, self.worked, self.stop_at = (32, 32), [], stop_at

    def resize(self, size):
        self.size = (size, size) if isinstance(size, int) else size
        if self.size[0] > 64:
            raise ValueError(f"{size} is too large")

    def preprocess(self, images):
        return stack([warp(image, self.size) for image in images])

    def losses(self, outputs, batch, targets):
        self.worked.append(batch.size[0])
        if len(self.worked) == self.stop_at:
            signal.raise_signal(signal.SIGINT)
        return super().losses(outputs, batch, targets)


def train_sized(out, steps=40, *, stop_at=None, sizes=(24, 32, 40), seed=3):
    torch.manual_seed(0)
    model = Sized(stop_at)
    recipe = toy.recipe(steps, sizes=sizes, resize_every=6)
    out.mkdir(exist_ok=True)
    stopped = nullcontext() if stop_at is None else pytest.raises(KeyboardInterrupt)
    with stopped:
        fit_by_gradient(
            model, toy.ToyImages(), recipe, seed=seed, out=out, identity={}, device=torch.device("cpu"), quiet=True
        )
    return model


def test_sizes_take_turns_and_the_own_size_comes_back(tmp_path):
    model = train_sized(tmp_path / "a")
    assert len(model.worked) == 40
    runs = [set(model.worked[start : start + 6]) for start in range(0, 40, 6)]
    assert all(len(run) == 1 for run in runs), "a size stays for its steps"
    assert set(model.worked) == {24, 32, 40}
    assert model.size == (32, 32)
    assert train_sized(tmp_path / "b").worked == model.worked
    assert train_sized(tmp_path / "c", seed=4).worked != model.worked
    assert set(train_sized(tmp_path / "d", sizes=()).worked) == {32}


def test_training_at_many_sizes_resumes_to_the_bit(tmp_path):
    """Interrupted in the middle of a size's turn."""
    whole = train_sized(tmp_path / "whole")
    broken = train_sized(tmp_path / "broken", stop_at=15)
    assert len(broken.worked) == 15
    assert len(broken.worked) % 6, "the interruption should fall within a turn"
    assert broken.size == (32, 32)
    resumed = train_sized(tmp_path / "broken")
    assert broken.worked + resumed.worked == whole.worked
    assert states_equal(resumed.state_dict(), whole.state_dict())


def test_a_size_that_does_not_fit_is_refused_before_the_first_step(tmp_path):
    with pytest.raises(ValueError, match="100 is too large"):
        train_sized(tmp_path / "a", sizes=(32, 100))
    with pytest.raises(ValueError, match="ToyDetector cannot change its input"):
        fit_by_gradient(
            toy.ToyDetector(),
            toy.ToyImages(),
            toy.recipe(3, sizes=(32,)),
            seed=0,
            out=tmp_path,
            identity={},
            device=torch.device("cpu"),
            quiet=True,
        )


def test_training_on_a_part_says_so_in_all_that_follows(tmp_path: Path) -> None:
    """From the cut training set through the checkpoint to the Record of the test."""
    path = train(
        "yolov1", "shapes", out=tmp_path, images=3, recipe_changes={"steps": 1, "batch": 2}, threads=1, quiet=True
    )
    (training,) = (Record.read(file) for file in tmp_path.glob("training.*.json"))
    assert training.learned_from == 3
    assert training.dataset is not None
    assert training.dataset.images == 3
    assert training.name == "training.yolov1.small.shapes-train.of-3.batch-2.steps-1"
    subject = load_subject("yolov1", path, 8)
    assert subject.learned_from == 3
    record = evaluate(subject, open_dataset("shapes", "test").first(2), quiet=True)
    assert record.name == "accuracy.yolov1.small.shapes-test.of-3.batch-2.steps-1"
    assert record.variant == subject.variant == training.variant == {"batch": 2, "steps": 1}
    with pytest.raises(TrainingError, match="data = "):
        train(
            "yolov1", "shapes", out=tmp_path, images=4, recipe_changes={"steps": 1, "batch": 2}, threads=1, quiet=True
        )


def test_priors_are_of_the_training_set(tmp_path: Path) -> None:
    path = train("multibox", "shapes", out=tmp_path, images=40, recipe_changes={"steps": 1}, quiet=True)
    dataset = open_dataset("shapes", "train").first(40)
    targets = [dataset.target(index) for index in range(40)]
    shares = torch.cat([target.boxes[~target.ignore] for target in targets]) / 160
    priors = checkpoints.load(path)[0].get_buffer("priors")
    assert torch.allclose(priors, cluster_boxes(shares, 64), atol=1e-3), "but for float16"
    with pytest.raises(ValueError, match="boxes cannot make 64 clusters; give more images"):
        train("multibox", "shapes", out=tmp_path / "few", images=4, recipe_changes={"steps": 1}, quiet=True)
