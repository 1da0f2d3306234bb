"""Options of `pytest benchmarks/`, and the table at the end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from benchmarks.datasets import Dataset
    from benchmarks.shipped import Expectation
    from benchmarks.timing import Conditions

ROWS = pytest.StashKey[dict[str, dict[str, dict[str, object]]]]()
"""By data set and detector, what the closing tables say."""

GATED = pytest.StashKey[list[str]]()
CONDITIONS = pytest.StashKey["Conditions"]()
NONCONFORMING = pytest.StashKey[dict[str, int]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("detectors", "measuring detectors")
    group.addoption("--benchmark", action="store_true", help="measure; without it the folder only checks itself")
    group.addoption("--detectors", default="*", metavar="GLOB", help="which detectors (default: all with weights)")
    sets = ["shapes", "discs", "bars", "bccd", "voc", "coco"]
    group.addoption("--dataset", choices=sets, help="checkpoints for which images (default: all that are drawn)")
    group.addoption("--data-root", type=Path, metavar="DIR", help="the data as their owner unpacked them")
    group.addoption(
        "--hardware", metavar="PROFILE", help="measure as the profile demands, each detector in a fresh process"
    )
    group.addoption("--device", help="cpu (default), cuda or cuda:N, in place of the profile's")
    group.addoption("--threads", type=int, help="threads of torch on the CPU (default 2), in place of the profile's")
    group.addoption("--inconclusive-fails", action="store_true", help="fail where accuracy is neither lost nor proved")
    group.addoption("--records", type=Path, metavar="DIR", help="where Records go (default benchmarks/results/local)")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = {}
    config.stash[GATED] = []
    config.stash[NONCONFORMING] = {}
    asked = [config.getoption(option) for option in ("--hardware", "--device", "--threads")]
    if any(asked):
        from benchmarks.timing import conditions

        try:
            config.stash[CONDITIONS] = conditions(*asked)
        except ValueError as error:
            raise pytest.UsageError(str(error)) from error
    if not config.getoption("--benchmark"):
        # The timed tests of pytest-benchmark are for measuring, not for the self-check.
        config.option.benchmark_skip = True


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "shipped_checkpoint" in metafunc.fixturenames:
        from benchmarks.datasets import DRAWN
        from benchmarks.shipped import shipped

        config = metafunc.config
        asked = config.getoption("--dataset")
        names = DRAWN if asked is None else (asked,)
        rows = [row for name in names for row in shipped(name, config.getoption("--detectors"))]
        if not config.getoption("--benchmark"):
            rows = rows[:1]
        # Of the scope of a session they would be sorted by checkpoint, and times be taken while others are judged.
        metafunc.parametrize("shipped_checkpoint", rows, ids=[row[1].detector for row in rows])


@pytest.fixture(scope="session")
def measuring(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--benchmark"))


@pytest.fixture(scope="session")
def records(request: pytest.FixtureRequest) -> Path:
    from benchmarks.results import COMMITTED

    return request.config.getoption("--records") or COMMITTED / "local"


@pytest.fixture(scope="session")
def under(request: pytest.FixtureRequest) -> Conditions:
    """What everything is measured under, in force in this process."""
    from benchmarks.timing import conditions

    chosen = request.config.stash.get(CONDITIONS, None) or conditions()
    chosen.apply()
    return chosen


@pytest.fixture(scope="session")
def device(under: Conditions) -> str:
    return under.device


@pytest.fixture(scope="session")
def threads(under: Conditions) -> int:
    return under.threads


@pytest.fixture(scope="session")
def data_root(request: pytest.FixtureRequest) -> Path | None:
    return request.config.getoption("--data-root")


@pytest.fixture(scope="module")
def judge(request: pytest.FixtureRequest, data_root: Path | None, device: str, measuring: bool):
    """A function that says what was found with a checkpoint, on the images that it is given.

    Where nothing is demanded of device and threads, checkpoints are judged ahead, as many at a time as there are cores;
    else one by one in this process, so that their detections have the bits of those that are timed.
    """
    from benchmarks.judged import judge_checkpoint, judging

    if not measuring or CONDITIONS in request.config.stash:
        yield lambda row, images: judge_checkpoint(row, images, device)
        return
    here = [item for item in request.session.items if item.path == request.node.path]
    with judging([item.callspec.params["shipped_checkpoint"] for item in here], data_root) as found:
        yield lambda row, images: found(row[0])


@pytest.fixture
def images(shipped_checkpoint: tuple[Path, Expectation], data_root: Path | None) -> Dataset:
    """What the checkpoint is tested on."""
    from benchmarks.judged import images_of

    return images_of(shipped_checkpoint[1].benchmark, data_root)


@pytest.fixture
def table_row(request: pytest.FixtureRequest, shipped_checkpoint: tuple[Path, Expectation]):
    """A function that adds figures to the checkpoint's row of the closing table of its data set."""
    stash, expectation = request.config.stash[ROWS], shipped_checkpoint[1]

    def add(**figures: object) -> None:
        rows = stash.setdefault(expectation.benchmark, {})
        rows.setdefault(expectation.detector, {"detector": expectation.detector}).update(figures)

    return add


@pytest.fixture
def nonconforming(request: pytest.FixtureRequest) -> dict[str, int]:
    """Why Records are not stamped with the profile that was asked for, and how many."""
    return request.config.stash[NONCONFORMING]


@pytest.fixture
def gated(request: pytest.FixtureRequest) -> list[str]:
    """Sentences of the regression gate, to be shown at the end whatever becomes of the tests."""
    return request.config.stash[GATED]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for sentence, count in config.stash[NONCONFORMING].items():
        terminalreporter.write_line(f"{sentence} (so {count} Records say)")
    rows = config.stash[ROWS]
    if not rows:
        return
    from tabulate import tabulate

    for name, found in rows.items():
        terminalreporter.section(f"detectors on {name}")
        ordered = sorted(found.values(), key=lambda row: -float(str(row.get("AP") or 0)))
        terminalreporter.write_line(tabulate(ordered, headers="keys", floatfmt=".1f", missingval="-"))
    terminalreporter.write_line(
        "AP and FD in percent; ms: median from image to detections, batch 1; finds: drop of the headline, in points, "
        "that the gate is to find four times in five (three in four by simulation)."
    )
    for sentence in config.stash[GATED]:
        terminalreporter.write_line(sentence)
