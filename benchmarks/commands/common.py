"""What the commands share: options of one name and one meaning, and errors as sentences.

Modules that need torch are imported by the command that needs them: `score` starts in a fraction of a second.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmarks.sentences import said
from benchmarks.stopping import stoppable

if TYPE_CHECKING:
    from benchmarks.evaluate import Subject

__all__ = [
    "ClassCount",
    "DataRoot",
    "DatasetName",
    "DetectorName",
    "Device",
    "Evaluated",
    "FiguresFile",
    "GroundTruthFile",
    "JsonTarget",
    "ModeName",
    "Note",
    "Out",
    "RecordsFolder",
    "ResamplesSeed",
    "Rounds",
    "Seed",
    "SetImages",
    "SetSizes",
    "Settings",
    "SharesFile",
    "SkipCorrupt",
    "Split",
    "ThreadCount",
    "Threads",
    "TimedImages",
    "TrainedOn",
    "WeightsFile",
    "WeightsSeed",
    "emit",
    "sentences",
    "settings_of",
    "subject_of",
]

DetectorName = Annotated[str, typer.Argument(help="A name of the catalog; see `list`.")]
Evaluated = Annotated[
    str,
    typer.Argument(
        help="A name of the catalog, one that `weights` shows, or the path of a .cfg or .prototxt (--weights)."
    ),
]
DatasetName = Annotated[str, typer.Option("--dataset", help="shapes, discs, bars, bccd, voc or coco.")]
Split = Annotated[str | None, typer.Option(help="Such as test or 2007_test; by default the benchmark's.")]
DataRoot = Annotated[
    Path | None, typer.Option(help="The data as unpacked: a folder with VOCdevkit/, or with images/ and annotations/.")
]
WeightsFile = Annotated[
    Path | None, typer.Option("--weights", help="Checkpoint; by default the one that ships for the dataset.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]
ModeName = Annotated[
    str,
    typer.Option(
        "--mode",
        help="How the network runs, with commas: channels-last, fp16 or bf16, compile, cuda-graphs; plain by default.",
    ),
]
Threads = Annotated[int | None, typer.Option(help="Threads of torch on the CPU.")]
ThreadCount = Annotated[int, typer.Option(help="Threads of torch on the CPU.")]
TimedImages = Annotated[int, typer.Option(help="Images to time.")]
Rounds = Annotated[int, typer.Option(help="How often each is timed.")]
WeightsSeed = Annotated[int, typer.Option(help="Of random weights.")]
Seed = Annotated[int, typer.Option(help="Of everything.")]
ResamplesSeed = Annotated[int, typer.Option(help="Of the resamples.")]
GroundTruthFile = Annotated[Path, typer.Option(help="Ground truth: a COCO JSON.")]
SetSizes = Annotated[str, typer.Option(help="Sizes of the generated sets, with commas.")]
Note = Annotated[str, typer.Option(help="What a reader of the Record must know, in a sentence.")]
JsonTarget = Annotated[str | None, typer.Option("--json", help="Write JSON to this file, or - for standard output.")]
SetImages = Annotated[int, typer.Option(help="Of a set.")]
FiguresFile = Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")]
SharesFile = Annotated[Path | None, typer.Option("--json", help="Write the shares to this file.")]
RecordsFolder = Annotated[Path | None, typer.Option(help="Folder for the Records; default the committed ones.")]
Out = Annotated[Path, typer.Option(help="Folder to write to.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Constructor argument, such as size=256; may be repeated.")
]
TrainedOn = Annotated[str, typer.Option(help="What the weights were trained on; names their classes.")]
ClassCount = Annotated[int, typer.Option(help="Classes of weights that do not say.")]
SkipCorrupt = Annotated[
    bool,
    typer.Option("--skip-corrupt", help="Leave out images that cannot be decoded; the Record names them, and differs."),
]


@contextmanager
def sentences() -> Iterator[None]:
    """Errors that a user can mend as one line and exit status 2; Ctrl-C and SIGTERM as one line, 130 and 143."""
    with stoppable("python -m benchmarks"):
        try:
            yield
        except (ValueError, KeyError, OSError, RuntimeError, MemoryError) as error:
            print(f"error: {said(error)}", file=sys.stderr)
            raise typer.Exit(2) from error


def _value(text: str) -> Any:
    """What a text says in JSON or in Python, or else the text."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError):
            continue
    return text


def settings_of(pairs: list[str] | None, option: str = "--set") -> dict[str, Any]:
    """Arguments from `name=value`, as `option` gives them; values are JSON, or as in Python, or else text.

    Raises:
        ValueError: There is no `=`, or a word in place of True, False or None that would count as true, being text.
    """
    settings = {}
    for pair in pairs or []:
        name, separator, text = pair.partition("=")
        if not separator:
            raise ValueError(f"{option} {pair}: write name=value")
        value = _value(text)
        if isinstance(value, str) and text.lower() in ("yes", "no", "on", "off", "true", "false", "none", "null"):
            raise ValueError(f"{option} {pair}: write True, False or None")
        settings[name] = tuple(value) if isinstance(value, list) else value
    return settings


def subject_of(
    detector: str, dataset_name: str, weights: Path | None, classes: int, settings: list[str] | None
) -> Subject:
    """A detector with its weights: those given, or those that ship for the data set."""
    from benchmarks.evaluate import find_subject

    return find_subject(detector, dataset_name, classes, weights, settings_of(settings))


def emit(value: Any, target: str) -> None:
    """Write JSON to a file, or to the standard output for `-`."""
    from benchmarks.results import to_json, write_atomically

    if target == "-":
        sys.stdout.write(to_json(value))
    else:
        write_atomically(Path(target), to_json(value))
