"""Runs a job, kills it, and checks what is left: all files whole, and the same command ends as if nothing had been.

`python -m tests.faults.driver --kills 50` does it 50 times to each job and prints what was found.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import select
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import safe_open
from tabulate import tabulate

from benchmarks.results import Record
from tests.faults.jobs import JOBS, Fault, child
from tests.reports.samples import collection

KINDS = ("kill", "term", "int", "full", "limit", "memory", "lost")

_RECORDS = ("accuracy", "claim", "comparison", "cost", "latency", "training")


@dataclass
class Outcome:
    """How a run ended.

    Attributes:
        code: Exit status; a negative signal's number where one ended it.
        text: All that it said.
        events: How many file events it had, where it lived to count them.
        seconds: From the command's begin to its end.
    """

    code: int
    text: str
    events: int
    seconds: float


class Driver:
    """A server that forks runs of jobs in folders of their own below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["tests.faults.jobs"])
        self.whole: dict[str, tuple[dict[str, str], Outcome]] = {}
        self.data = folder / "data"
        write_data(self.data)
        trained = self.place("weights")
        first = self.run("training", trained)
        assert first.code == 0, first.text
        (checkpoint,) = (trained / "out").glob("*.safetensors")
        shutil.copy(checkpoint, self.data / "toy.safetensors")

    def place(self, name: str) -> Path:
        """A new folder for runs; `data` in it is a copy of its own."""
        place = Path(tempfile.mkdtemp(dir=self.folder, prefix=f"{name}."))
        self.restore(place)
        (place / "out").mkdir()
        return place

    def restore(self, place: Path) -> None:
        """Put back what of `data` was lost."""
        (place / "data" / "none").mkdir(parents=True, exist_ok=True)
        for file in (path for path in self.data.rglob("*") if path.is_file()):
            target = place / "data" / file.relative_to(self.data)
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                os.link(file, target)

    def run(self, job: str, place: Path, fault: Fault | None = None, *, limit: float = 300) -> Outcome:
        """Run a job to its end, whatever that is."""
        fault = fault or Fault()
        ours, theirs = self.context.Pipe(duplex=False)
        process = self.context.Process(target=child, args=(job, place, fault, theirs))
        process.start()
        theirs.close()
        said, begun, due = b"", 0.0, time.monotonic() + limit
        while True:
            strike = fault.signal if begun and not fault.event else None
            until = begun + fault.seconds if strike is not None else due
            ready, _, _ = select.select([ours], [], [], max(0.0, until - time.monotonic()))
            if not ready and strike is None:
                process.kill()
                raise AssertionError(f"{job} hangs after {fault}: {said.decode(errors='replace')[-2000:]}")
            if not ready:
                assert process.pid is not None
                os.kill(process.pid, strike)
                fault = Fault()
                continue
            more = os.read(ours.fileno(), 1 << 16)
            if not more:
                break
            said += more
            begun = begun or (time.monotonic() if b"READY\n" in said else 0.0)
        process.join()
        text, _, events = said.decode(errors="replace").partition("\nEVENTS ")
        count = int(events.split()[0]) if events.strip() else 0
        return Outcome(process.exitcode or 0, text.replace("READY\n", ""), count, time.monotonic() - begun)

    def undisturbed(self, job: str) -> tuple[dict[str, str], Outcome]:
        """What a job leaves when nothing befalls it, and how it went."""
        if job not in self.whole:
            place = self.place(f"whole-{job}")
            outcome = self.run(job, place)
            assert outcome.code == 0, outcome.text
            self.whole[job] = (left(place / "out"), outcome)
        return self.whole[job]

    def fault(self, job: str, kind: Any, seed: int) -> Fault:
        """One that is drawn at random: of two signals one falls at a moment and one at a file event."""
        chance, (_, outcome) = random.Random(f"{job} {kind} {seed}"), self.undisturbed(job)
        event = chance.randint(1, outcome.events)
        if kind == "limit":
            return Fault(kind, size=int(2 ** chance.uniform(6, 16)))
        if kind == "memory" and chance.random() < 0.5:
            return Fault(kind, size=int(2 ** chance.uniform(12, 25)))
        if kind in ("kill", "term", "int") and chance.random() < 0.5:
            return Fault(kind, seconds=chance.uniform(0, outcome.seconds))
        return Fault(kind, event=event, seed=seed)

    def trial(self, job: str, fault: Fault) -> Trial:
        """Let a fault befall a job, look at what is left, and run it again."""
        place = self.place(job)
        trial = Trial(job, fault, self.run(job, place, fault))
        trial.faults += [*half_written(place / "out"), *unsaid(trial)]
        trial.strays = sum(path.name.startswith(".") and path.name[-4:] != "lock" for path in place.rglob("*"))
        self.restore(place)
        again = self.run(job, place)
        wanted, _ = self.undisturbed(job)
        if again.code:
            trial.faults.append(f"the same command ends with {again.code}: {again.text[-1500:]}")
        else:
            found = left(place / "out")
            trial.faults += [
                f"{name}: differs from that of an undisturbed run, or one of the two lacks it"
                for name in sorted(wanted.keys() | found.keys())
                if wanted.get(name) != found.get(name)
            ]
        if not trial.faults:
            shutil.rmtree(place)
        return trial


@dataclass
class Trial:
    """One fault, and what was wrong after it.

    Attributes:
        job: Of `JOBS`.
        fault: What befell it.
        outcome: How it ended then.
        faults: What should not be; empty where all is well.
        strays: Temporary files that nobody reads.
    """

    job: str
    fault: Fault
    outcome: Outcome
    faults: list[str] = field(default_factory=list)
    strays: int = 0


def write_data(folder: Path, images: int = 24) -> None:
    """A split `tiny` in COCO's layout, and Records to render."""
    chance = np.random.default_rng(0)
    (folder / "images" / "tiny").mkdir(parents=True)
    (folder / "annotations").mkdir()
    truth: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    truth["categories"] = [{"id": 3, "name": "a"}, {"id": 5, "name": "b"}]
    for index in range(images):
        name = f"{index:03d}.png"
        pixels = chance.integers(0, 255, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / "tiny" / name)
        truth["images"].append({"id": 100 + index, "file_name": name, "width": 48, "height": 40})
        x, y, width, height = (float(value) for value in chance.integers(1, 20, 4))
        truth["annotations"].append(
            {
                "id": index + 1, "image_id": 100 + index, "category_id": 3 if index % 2 else 5,
                "bbox": [x, y, width, height], "area": width * height, "iscrowd": 0,
            }
        )  # fmt: skip
    (folder / "annotations" / "instances_tiny.json").write_text(json.dumps(truth))
    for record in collection():
        record.write(folder / "records")


def half_written(folder: Path) -> Iterator[str]:
    """A sentence for each file that has its final name and is not whole."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
        try:
            if path.suffix == ".json" and path.name.partition(".")[0] in _RECORDS:
                if Record.read(path).name != path.stem:
                    yield f"{path}: is named otherwise than what it holds"
            elif path.suffix == ".json":
                json.loads(path.read_bytes())
            elif path.suffix == ".safetensors":
                with safe_open(path, "pt") as tensors:
                    assert [tensors.get_tensor(name) for name in tensors.keys()]  # noqa: SIM118
            elif path.suffix == ".png":
                Image.open(path).load()
            elif path.suffix == ".html" and not path.read_text().rstrip().endswith("</html>"):
                yield f"{path}: has no end"
        except Exception as error:
            yield f"{path}: is not whole ({error})"


def unsaid(trial: Trial) -> Iterator[str]:
    """What a user should have been told, and was not."""
    code, text = trial.outcome.code, trial.outcome.text
    if "Traceback" in text:
        yield f"a traceback is shown: {text[-1500:]}"
    if trial.fault.kind in ("term", "int") and code:
        wanted = {"int": 130, "term": 143}[trial.fault.kind]
        # A moment before the command has begun there is nothing to go on with.
        early = {"int": (1,), "term": (-15,)}[trial.fault.kind] if not trial.fault.event else ()
        if code not in (wanted, *early):
            yield f"ends with {code}, not with {wanted}: {text[-500:]}"
        elif code == wanted and "to go on: python -m " not in text:
            yield f"does not say how to go on: {text[-500:]}"
    if trial.fault.kind in ("full", "limit", "lost") and code not in (0, 2):
        yield f"ends with {code}: {text[-500:]}"
    if trial.fault.kind in ("full", "limit", "memory", "lost") and code == 2 and "rror: " not in text:
        yield f"ends without a sentence: {text[-500:]}"


def left(folder: Path) -> dict[str, str]:
    """By name the hash of each file that a run leaves, without what differs from run to run."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
        content = path.read_bytes()
        if path.name.startswith(("training.", "latency.")):
            data = json.loads(content)
            # Times differ; what was timed does not.
            data["samples"] = sorted(data["samples"])
            data["metrics"] = {key: value for key, value in data["metrics"].items() if key in ("losses", "course")}
            data["hardware"] = {key: data["hardware"][key] for key in ("device", "threads", "precision")}
            for entry in ("warmup", "rounds"):
                data["protocol"].pop(entry, None)
            content = json.dumps(data, sort_keys=True).encode()
        if path.name == "state.pt":
            content = b"holds seconds"
        found[path.relative_to(folder).as_posix()] = hashlib.sha256(content).hexdigest()
    return found


@contextmanager
def driving(folder: Path | None = None) -> Iterator[Driver]:
    with tempfile.TemporaryDirectory(prefix="faults.") as scratch:
        yield Driver(folder or Path(scratch))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=50, help="Of each job.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", nargs="+", default=list(JOBS), choices=list(JOBS))
    options = parser.parse_args()
    tally = Tally()
    try:
        with driving() as driver:
            # By turns, so that a run that is cut short has tried all of them alike.
            for turn in range(options.kills):
                for job in options.jobs:
                    kind = KINDS[turn % len(KINDS)]
                    trial = driver.trial(job, driver.fault(job, kind, options.seed + turn))
                    tally.add(trial)
                    for sentence in trial.faults:
                        print(f"{job}, {trial.fault}: {sentence}", flush=True)
                print(f"{turn + 1} of {options.kills}", file=sys.stderr, flush=True)
    finally:
        print(tally.table())
    return int(bool(tally.wrong))


@dataclass
class Tally:
    """How many faults of each kind befell each job."""

    trials: list[Trial] = field(default_factory=list)

    def add(self, trial: Trial) -> None:
        self.trials.append(trial)

    @property
    def wrong(self) -> int:
        return sum(bool(trial.faults) for trial in self.trials)

    def table(self) -> str:
        rows = []
        for job in dict.fromkeys(trial.job for trial in self.trials):
            own = [trial for trial in self.trials if trial.job == job]
            kinds = [sum(trial.fault.kind == kind for trial in own) for kind in KINDS]
            ended = sum(trial.outcome.code != 0 for trial in own)
            strays = sum(trial.strays for trial in own)
            rows.append([job, *kinds, ended, sum(bool(trial.faults) for trial in own), strays])
        return tabulate(rows, headers=["job", *KINDS, "ended the run", "wrong after", "strays"])


if __name__ == "__main__":
    sys.exit(main())
