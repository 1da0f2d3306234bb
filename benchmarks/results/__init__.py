"""`Record`: one run and everything one must know to believe its numbers. One JSON file each, a folder a machine."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from benchmarks.jsons import parse_json
from benchmarks.sentences import entry_and_reason, quoted

__all__ = [
    "COMMITTED",
    "THREADS",
    "DatasetId",
    "Hardware",
    "Record",
    "RecordError",
    "Watched",
    "Weights",
    "read_records",
    "write_atomically",
]

COMMITTED = Path(__file__).parent
"""Where the project's own Records lie; the folder `local` beneath it is the user's and is never committed."""


THREADS = 2
"""Of PyTorch on a processor unless asked otherwise: what the small machines have that most run this on."""

_TIMED = ("comparison", "latency", "profile")

Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]


class RecordError(ValueError):
    """A Record cannot be read; the message names the file, the entry and the remedy."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Weights(_Frozen):
    """Which checkpoint: its file name (or package), and the sha256 of its bytes."""

    file: str
    sha256: str


class DatasetId(_Frozen):
    """Which images: `fingerprint` hashes pixels and boxes, so that two equal ones are the same test.

    Attributes:
        name: Of the data set.
        split: As the data set calls it; a part of one has a name of its own.
        fingerprint: See above.
        images: How many.
        objects: In them.
        skipped: Ids of images of the split that were left out, as asked, because they cannot be decoded.
    """

    name: str
    split: str
    fingerprint: str
    images: Count
    objects: Count
    skipped: tuple[int, ...] = ()


class Watched(_Frozen):
    """What was seen of a machine during a run.

    Attributes:
        source: Of what was seen: `nvml`, or the counters of the `processor`.
        looks: How many.
        seconds: From the first to the last.
        findings: What disturbed the run, with figures, by label.
        discarded: Seconds of disturbed windows that were thrown away.
        ranges: Least, median and most of what was read, such as `clock_mhz`.
    """

    source: str
    looks: Count
    seconds: Seconds
    findings: dict[str, str] = {}
    discarded: float = 0.0
    ranges: dict[str, tuple[float, float, float]] = {}


class Hardware(_Frozen):
    """What it ran on. `profile` is the profile it conforms to, or None with the reasons in `deviations`.

    Older Records lack the rest: `observed`, what was seen of the machine besides, by the entries of a profile;
    `calibration`, seconds of the calibration kernels; `watched`, for a run that was.
    """

    machine: str
    device: str
    profile: str | None
    deviations: tuple[str, ...] = ()
    threads: int
    precision: str = "float32"
    observed: dict[str, str | int | float] = {}
    calibration: dict[str, float] = {}
    watched: Watched | None = None


class Record(_Frozen):
    """One run.

    Attributes:
        kind: What was measured; a comparison is of times, with another implementation of the same network, or with
            other detectors, which `protocol` then names under `beside`; a claim is what the ledger of claims needs
            besides, for the claim that `protocol` then names under `claim`.
        detector: Catalog name; `none` for a claim about none.
        scale: `small` (trained here), `paper` (the size of the paper) or `other` (a checkpoint of another shape).
        overrides: Constructor arguments that differ from the paper's size.
        num_classes: Foreground classes.
        weights: The checkpoint; None for training from scratch and for cost.
        dataset: The images; None for cost.
        protocol: Every setting that the metric depends on (accuracy), or that the time depends on (latency). Under
            `multi_scale`, where the detector looked at every image in several sizes, is what it looked at; under
            `suppression`, where duplicates were not suppressed in the detector's own way, is how; under `truth`, where
            it was told a part of what it should find, is which; under `mode`, where the network did not run as it is
            written, in float32, is how (`benchmarks.modes`).
        hardware: The machine; None for cost, which depends on none.
        seed: Of the run; for accuracy, of the training that made the checkpoint, where it is known.
        learned_from: Images that the checkpoint learned from, where these are fewer than the training split has.
        variant: Constructor arguments and fields of the Recipe that this training was given in place of the detector's
            own at its size, and its `split`, where it is not the benchmark's; an experiment, whose numbers are not the
            detector's.
        recipe: How it was trained (training only).
        commit: Of this project; ends in `+` where the tree had changes.
        versions: Of Python and of the libraries that can move the numbers.
        metrics: Results. Accuracy: the JSON of `score`, fractions, with `intervals` of the totals where the Record is
            no older than they are. Cost: parameters, macs, boxes; of the paper's size, stages and recipes, too.
            Training: steps, seconds, final losses, and their `course`. Comparison: times of `ours` and `theirs`, their
            `ratio`, and the `agreement` of the detections. Profile: what `benchmarks.profile` lists; a part that could
            not be measured has the reason under `not_measured`.
        samples: Raw seconds, by stage (latency) or of either side (comparison).
        answers: Of accuracy and latency, hashes of the detections on the first images, by their number
            (`benchmarks.answers`); empty where they were not observed.
        note: What a reader must know besides.
    """

    schema_version: Literal[1] = 1
    kind: Literal["accuracy", "claim", "comparison", "cost", "latency", "profile", "training"]
    detector: str
    scale: Literal["small", "paper", "other"]
    overrides: dict[str, Any] = {}
    num_classes: Count
    weights: Weights | None = None
    dataset: DatasetId | None = None
    protocol: dict[str, Any] = {}
    hardware: Hardware | None = None
    seed: int | None = None
    learned_from: int | None = None
    variant: dict[str, Any] = {}
    recipe: dict[str, Any] | None = None
    commit: str
    versions: dict[str, str]
    metrics: dict[str, Any] = {}
    samples: dict[str, list[Seconds]] = {}
    answers: dict[str, str] = {}
    note: str = ""

    @field_validator("protocol")
    @classmethod
    def _names_what_was_changed(cls, protocol: dict[str, Any]) -> dict[str, Any]:
        for entry in ("multi_scale", "suppression", "truth", "mode"):
            found = protocol.get(entry)
            if found is not None and not (isinstance(found, dict) and isinstance(found.get("name"), str)):
                raise ValueError(f"{entry} is {found!r}, which names no protocol")
        beside = protocol.get("beside", ())
        if not isinstance(beside, list | tuple) or not all(isinstance(name, str) for name in beside):
            raise ValueError("beside is no list of names")
        return protocol

    @model_validator(mode="after")
    def _has_a_file_name(self) -> Self:
        if self.kind == "claim" and not isinstance(self.protocol.get("claim"), str):
            raise ValueError("protocol names no claim")
        # One from elsewhere is not to be written into another folder.
        if Path(self.name).name != self.name or "\0" in self.name:
            raise ValueError(f"{quoted(self.name)}, as the file would be called, is no file name")
        return self

    @property
    def name(self) -> str:
        """File name without ending: what was measured on what, so that a new run replaces the old."""
        data = "" if self.dataset is None else f".{self.dataset.name}-{self.dataset.split}"
        device = f".{self.hardware.device.partition(':')[0]}" if self.kind in _TIMED and self.hardware else ""
        device += f".{self.threads.replace(' ', '-')}" if self.threads else ""
        classes = f".{self.num_classes}-classes" if self.kind == "cost" else ""
        if self.kind == "cost" and self.scale == "other":
            classes += "".join(f".{key}-{value}" for key, value in sorted(self.overrides.items()))
        again = f"{self._checkpoint}.seed-{self.seed}" if self.seed else self._checkpoint
        again += f".of-{self.learned_from}" if self.learned_from else ""
        again += "".join(f".{key}-{_in_a_name(value)}" for key, value in sorted(self.variant.items()))
        scales = f".{self.multi_scale}" if self.multi_scale else ""
        suppressed = f".{self.suppression}" if self.suppression else ""
        told = f".{self.truth}" if self.truth else ""
        mode = f".{self.mode.replace(',', '+')}" if self.mode else ""
        beside = "".join(f".{name}" for name in self.protocol.get("beside", ()))
        about = f".{self.protocol['claim']}" if self.kind == "claim" else ""
        return (
            f"{self.kind}.{self.detector}.{self.scale}{data}{device}{classes}{again}{scales}{suppressed}{told}{mode}"
            f"{beside}{about}"
        )

    @property
    def _checkpoint(self) -> str:
        """Of one network at full size there are many checkpoints, told apart by their files; a small one has a seed."""
        if self.scale == "small" or self.weights is None:
            return ""
        stem = re.sub(r"[^a-z0-9.-]+", "-", Path(self.weights.file).stem.lower())
        return "" if stem == self.detector.replace("_", "-") else f".{stem}"

    @property
    def changes(self) -> str:
        """What makes a variant, in words such as `lr=0.001 sampler=all`; empty for the detector as it is."""
        return " ".join(f"{key}={value}" for key, value in sorted(self.variant.items()))

    @property
    def called(self) -> str:
        """Catalog name, with the changes of a variant: what a claim calls one of its sides."""
        return f"{self.detector} {self.changes}" if self.variant else self.detector

    @property
    def threads(self) -> str | None:
        """Of a time on a processor, with how many threads, in words; None where these are the usual two."""
        where = self.hardware
        if self.kind not in _TIMED or where is None or not where.device.startswith("cpu") or where.threads == THREADS:
            return None
        return f"{where.threads} thread{'s' if where.threads != 1 else ''}"

    @property
    def multi_scale(self) -> str | None:
        """Name of the protocol of multi-scale testing; None for the plain test of one size."""
        found = self.protocol.get("multi_scale")
        return None if found is None else str(found["name"])

    @property
    def suppression(self) -> str | None:
        """Name of what suppressed duplicates in place of the detector's own way; None for its own."""
        found = self.protocol.get("suppression")
        return None if found is None else str(found["name"])

    @property
    def truth(self) -> str | None:
        """Name of what the detector was told of the truth, which makes this an error analysis; None for a test."""
        found = self.protocol.get("truth")
        return None if found is None else str(found["name"])

    @property
    def mode(self) -> str | None:
        """Name of the mode that the network ran in; None for the plain one. Numbers of two modes are never mixed."""
        found = self.protocol.get("mode")
        return None if found is None else str(found["name"])

    def write(self, folder: Path) -> Path:
        """Write as JSON under `folder`, whole or not at all, and return the file; a manifest above it is kept.

        Raises:
            RecordError: What it names would lead to another folder.
        """
        from benchmarks.manifest import note

        if Path(self.name).name != self.name or "\0" in self.name:
            raise RecordError(f"{self.name[:200]!r} is no name of a file; rename the detector, data set or split")
        path = folder / f"{self.name}.json"
        write_atomically(path, self.model_dump_json(indent=1) + "\n")
        note(path)
        return path

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read one file.

        Raises:
            RecordError: It is missing, truncated, or an entry does not fit.
        """
        try:
            text = path.read_bytes()
            parse_json(text, finite=True)
            return cls.model_validate_json(text)
        except OSError as error:
            raise RecordError(f"{path}: cannot be read ({error.strerror}); measure again to write it anew") from error
        except ValidationError as error:
            entry, reason = entry_and_reason(error)
            raise RecordError(f"{path}: {entry[:200]}: {reason[:300]}; delete the file and measure again") from error
        except ValueError as error:
            raise RecordError(f"{path}: is no JSON ({error}); delete the file and measure again") from error


def _in_a_name(value: Any) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", str(value)).strip("-")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, or a crash, sees either the old content or the new, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_records(*folders: Path) -> Iterator[Record]:
    """Every Record under `folders`, in the order of their paths."""
    for folder in folders:
        for path in sorted(folder.rglob("*.json")):
            yield Record.read(path)


def to_json(value: Any) -> str:
    """JSON as the project writes it: sorted keys, two spaces, null for what is undefined, never NaN."""
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"
