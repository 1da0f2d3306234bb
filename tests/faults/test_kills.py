"""A few faults for each job; `python -m tests.faults.driver --kills 50` does it for an hour."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.faults.driver import KINDS, Driver, driving
from tests.faults.jobs import JOBS, Fault

KILLS = int(os.environ.get("FAULTS", "1"))
"""Of each kind that a job is tried with."""


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    with driving() as found:
        yield found


def check(driver: Driver, job: str, fault: Fault) -> None:
    trial = driver.trial(job, fault)
    assert not trial.faults, f"{job} after {fault}:\n" + "\n".join(trial.faults)


# A different three for each job; all of them in the long run.
CHOSEN = [(job, KINDS[(2 * place + turn) % len(KINDS)]) for place, job in enumerate(JOBS) for turn in range(3)]
ALL = [(job, kind) for job in JOBS for kind in KINDS]


@pytest.mark.parametrize(("job", "kind"), ALL if KILLS > 1 else CHOSEN)
@pytest.mark.parametrize("turn", range(KILLS))
def test_the_same_command_ends_as_if_nothing_had_been(driver: Driver, job: str, kind: str, turn: int) -> None:
    check(driver, job, driver.fault(job, kind, turn))


@pytest.mark.parametrize("job", ["training", "evaluation"])
def test_killed_at_its_last_file_it_has_little_left_to_do(driver: Driver, job: str) -> None:
    """Not only is the end the same: what was done before is not done again."""
    whole = driver.undisturbed(job)[1]
    place = driver.place(job)
    assert driver.run(job, place, Fault("kill", event=whole.events - 1)).code == -9
    again = driver.run(job, place)
    assert again.code == 0
    said = {"training": "step 24/24", "evaluation": "going on behind 24 images"}[job]
    assert (said in again.text) is (job == "evaluation"), again.text
    opened = {"training": 0.6, "evaluation": 0.7}[job]
    assert again.events < opened * whole.events, "images were read again"


@pytest.mark.parametrize(("kind", "code"), [("int", 130), ("term", 143)])
def test_who_stops_a_run_is_told_how_to_go_on(driver: Driver, kind: str, code: int) -> None:
    place = driver.place("evaluation")
    stopped = driver.run("evaluation", place, Fault(kind, event=20))
    assert stopped.code == code
    last = stopped.text.strip().splitlines()[-1]
    assert last.startswith("stopped; to go on: python -m benchmarks evaluate toy --dataset coco --data-root ")
    assert last.endswith(f"--out {place}/out")


def test_no_memory_is_a_sentence(driver: Driver) -> None:
    stopped = driver.run("latency", driver.place("latency"), Fault("memory", event=8))
    assert stopped.code == 2
    assert stopped.text.strip().splitlines()[-1].startswith("error: out of memory; nothing was made smaller to fit")


def test_what_a_kill_leaves_is_noticed(driver: Driver) -> None:
    """The checks themselves: a Record that is cut, and a page without its end."""
    from tests.faults.driver import half_written, left

    place = driver.place("latency")
    assert driver.run("latency", place).code == 0
    (record,) = (place / "out").glob("latency.*.json")
    assert not list(half_written(place / "out"))
    before = left(place / "out")
    record.write_bytes(record.read_bytes()[:-20])
    (place / "out" / "index.html").write_text("<html>")
    assert len(list(half_written(place / "out"))) == 2
    record.unlink()
    assert left(place / "out").keys() == before.keys() - {record.name} | {"index.html"}
