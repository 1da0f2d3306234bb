"""Settings of the whole test run."""

from __future__ import annotations

import os

import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers share the cores among them, and with them the processes that tests start.
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz", type=int, default=100, help="damaged files for each reader, of tests/fuzz")
    parser.addoption("--fuzz-seed", type=int, default=0, help="another seed damages otherwise")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Weights start alike whichever tests ran before."""
    torch.manual_seed(0)
