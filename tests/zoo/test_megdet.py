"""MegDet: normalisation over processes, learning rates by batch size."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.contract import assert_is_detector
from tests.zoo import sync_processes as sync
from zoo import build
from zoo.parts.sync_norm import SyncBatchNorm
from zoo.two_stage import fpn
from zoo.two_stage.megdet import RECIPE, SMALL_RECIPE, MegDet, large_batch, megdet_r50_fpn

Found = list[dict[str, Tensor]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What two processes computed."""
    out: Path = tmp_path_factory.mktemp("sync")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*launch, sync.__file__, str(out)], check=True, capture_output=True, timeout=300, env=environment)
    return [torch.load(out / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def test_worked_example(found: Found) -> None:
    for rank in found:
        torch.testing.assert_close(rank["toy.mean"], torch.tensor([6, 8.75]))
        biased = torch.tensor([21, 33.1875])
        torch.testing.assert_close(rank["toy.variance"], biased * 4 / 3, msg="unbiased over all four rows")


def test_two_processes_are_one_with_the_whole_batch(found: Found) -> None:
    """Outputs, gradients of inputs and parameters, and running statistics after two steps."""
    model, images = sync.network(nn.BatchNorm2d), sync.whole_batch().requires_grad_()
    for _ in range(2):
        model.zero_grad()
        images.grad = None
        answers = model(images)
        sync.loss_of(answers).backward()
    assert images.grad is not None
    torch.testing.assert_close(torch.cat([rank["answers"] for rank in found]), answers.detach(), atol=1e-5, rtol=1e-5)
    # Each process's loss is a mean over half of the images.
    inputs = torch.cat([rank["input.grad"] for rank in found]) / 2
    torch.testing.assert_close(inputs, images.grad, atol=1e-5, rtol=1e-4)
    for rank in found:
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(rank[f"grad.{name}"], parameter.grad, atol=1e-4, rtol=1e-4)
        for name, value in model.state_dict().items():
            torch.testing.assert_close(rank[f"state.{name}"], value, atol=1e-5, rtol=1e-5)
    apart = sync.network(nn.BatchNorm2d)(sync.whole_batch()[:4])
    assert (apart - found[0]["answers"]).abs().max() > 0.1, "half of the batch alone has other statistics"


def test_processes_may_hold_maps_of_differing_sizes(found: Found) -> None:
    """Every pixel counts alike, in the forward and in the backward pass; a large mean costs no digits."""
    pixels = torch.cat([sync.maps(rank).movedim(1, -1).reshape(-1, 2) for rank in range(2)]).double().requires_grad_()
    normed = (pixels - pixels.mean(0)) / (pixels.var(0, unbiased=False) + 1e-5).sqrt()
    (normed**3).sum().backward()
    assert pixels.grad is not None
    counts = [shape[0] * shape[2] * shape[3] for shape in sync.SHAPES]
    parts = zip(found, normed.detach().float().split(counts), pixels.grad.float().split(counts), strict=True)
    for rank, answers, gradient in parts:
        torch.testing.assert_close(rank["uneven.answers"].movedim(1, -1).reshape(-1, 2), answers, atol=1e-3, rtol=0)
        torch.testing.assert_close(rank["uneven.grad"].movedim(1, -1).reshape(-1, 2), gradient, atol=1e-3, rtol=1e-3)
        assert rank["half"].dtype == torch.bfloat16
        assert (rank["half"].float() - rank["uneven.answers"]).abs().max() < 0.2
        shifted = (rank["evaluated"] - rank["uneven.answers"]).abs().min()
        assert shifted > 1, "in evaluation the running statistics count"


def test_losses_are_divided_by_the_regions_of_all_processes(found: Found) -> None:
    regions = [int(rank["regions"]) for rank in found]
    assert regions == [16, 8]
    for name in ("class", "boxes"):
        summed = sum(float(rank[f"own.{name}"]) * count for rank, count in zip(found, regions, strict=True))
        averaged = sum(float(rank[f"shared.{name}"]) for rank in found) / 2
        assert averaged == pytest.approx(summed / sum(regions), rel=1e-5)
    for name in ("objectness", "proposal_boxes"):
        for rank in found:
            assert torch.equal(rank[f"own.{name}"], rank[f"shared.{name}"])


def test_alone_it_is_batch_normalisation() -> None:
    torch.manual_seed(0)
    ours, plain = SyncBatchNorm(3), nn.BatchNorm2d(3)
    x = torch.randn(4, 3, 5, 6)
    assert torch.equal(ours(x), plain(x))
    for name, value in plain.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value)


@pytest.mark.parametrize(("batch", "peak"), [(16, 0.02), (32, 0.04), (64, 0.08), (128, 0.16), (256, 0.32)])
def test_linear_rule(batch: int, peak: float) -> None:
    recipe = large_batch(fpn.RECIPE, batch)
    assert recipe.lr == pytest.approx(peak)
    assert recipe.rate(recipe.warmup) == pytest.approx(peak)
    assert recipe.rate(0) == pytest.approx(0.02 / 3, rel=0.1), "warm-up starts at one rate, whatever the batch"
    rises = [recipe.rate(step + 1) - recipe.rate(step) for step in range(recipe.warmup - 1)]
    assert max(rises) == pytest.approx(min(rises)), "by a fixed amount each step"
    assert recipe.steps * batch == pytest.approx(fpn.RECIPE.steps * 16), "as many images"
    assert recipe.milestones[0] / recipe.steps == pytest.approx(2 / 3)


def test_linear_rule_leaves_its_own_batch_alone() -> None:
    assert large_batch(fpn.RECIPE, 16) == fpn.RECIPE
    assert large_batch(large_batch(fpn.RECIPE, 64), 16) == fpn.RECIPE
    with pytest.raises(ValueError, match="no step"):
        large_batch(fpn.RECIPE, 10_000_000)


def test_recipes() -> None:
    assert (RECIPE.batch, RECIPE.steps, RECIPE.weight_decay) == (256, 5_625, 1e-4)
    assert SMALL_RECIPE.batch * SMALL_RECIPE.steps == fpn.SMALL_RECIPE.batch * fpn.SMALL_RECIPE.steps


def test_nothing_is_frozen() -> None:
    with torch.device("meta"):
        model = megdet_r50_fpn(90)
    assert isinstance(model, MegDet)
    assert sum(p.numel() for p in model.parameters()) == 41_808_406
    assert all(p.requires_grad for p in model.parameters())
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == 53
    assert all(isinstance(norm, SyncBatchNorm) for norm in norms)


def test_small_is_the_pyramids_with_its_weights() -> None:
    torch.manual_seed(0)
    model, plain = build("megdet_r50_fpn", 8, small=True), build("faster_rcnn_r50_fpn", 8, small=True)
    model.load_state_dict(plain.state_dict(), strict=True)
    assert not any(type(m) is nn.BatchNorm2d for m in model.modules())
    images = [torch.rand(3, 100, 120)]
    with torch.no_grad():
        (one,), (other,) = model.eval()(images), plain.eval()(images)
    assert torch.equal(one.boxes, other.boxes)
    assert_is_detector(model)
