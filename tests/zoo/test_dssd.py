from __future__ import annotations

import pytest
import torch

from tests.contract import assert_is_detector, assert_overfits
from zoo import build


@pytest.mark.parametrize("name", ["ssd321_r101", "dssd321_r101"])
def test_small_size_is_a_detector(name: str) -> None:
    torch.manual_seed(0)
    assert_is_detector(build(name, 3, small=True))
    assert sum(v.numel() for v in build(name, 8, small=True).state_dict().values()) < 480_000


@pytest.mark.parametrize("name", ["ssd321_r101", "dssd321_r101"])
def test_small_size_overfits(name: str) -> None:
    torch.manual_seed(0)
    assert_overfits(build(name, 2, small=True), steps=60)
