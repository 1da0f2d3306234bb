"""The one place that writes and reads checkpoints: ours, those of other people, and those that ship with the project.

Ours are safetensors with floats as float16, and metadata that rebuilds the detector. Others load into a detector that
is already built.
"""

from __future__ import annotations

import json
import os
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor, nn

from zoo import CATALOG, build
from zoo.budget import Budget
from zoo.detector import Detector
from zoo.download import DownloadError, SourcePackage, cache_folder, fetch_file, mirror_folders
from zoo.formats.caffe import CaffeError, load_caffe
from zoo.formats.cornernet import describe, read_cornernet
from zoo.formats.darknet import DarknetError, read_weights
from zoo.formats.detectron import DetectronError, read_detectron
from zoo.formats.state_dict import StateDictError, read_state_dict

__all__ = [
    "SHIPPED",
    "CheckpointError",
    "Entry",
    "File",
    "Format",
    "Meta",
    "as_arguments",
    "entry_for",
    "fetch",
    "find",
    "list_weights",
    "load",
    "load_into",
    "print_known",
    "save",
    "shipped",
]

SHIPPED = Path(__file__).parent / "weights"
"""Where the project's own checkpoints lie: `DETECTOR_small.DATASET.safetensors`."""

Format = Literal["safetensors", "torch", "darknet", "caffe", "detectron", "cornernet"]

_NUMBERS_AT_LEAST, _NUMBERS_A_BYTE = 1 << 24, 8
"""What a checkpoint may make a constructor allocate: so many numbers, and so many for each byte of the file."""

_KNOWN = Path(__file__).parent / "weights.toml"
_SUFFIXES: dict[str, Format] = {
    ".safetensors": "safetensors",
    ".pth": "torch",
    ".pt": "torch",
    ".weights": "darknet",
    ".caffemodel": "caffe",
    ".pkl": "detectron",
}


class CheckpointError(ValueError):
    """A checkpoint cannot be written, found or read; the message names the file, the entry and the remedy."""


@dataclass(frozen=True)
class Meta:
    """What a checkpoint of ours says of itself.

    Attributes:
        detector: Catalog name.
        num_classes: Foreground classes.
        overrides: Every constructor argument that differs from the paper's size, those of the small size included.
        class_names: Of the labels, in order.
        small: Whether it is the small size.
        extra: Whatever else was noted.
    """

    detector: str
    num_classes: int
    overrides: dict[str, Any]
    class_names: tuple[str, ...]
    small: bool
    extra: dict[str, str] = field(default_factory=dict)


def save(
    path: Path,
    model: nn.Module,
    *,
    detector: str,
    num_classes: int,
    overrides: Mapping[str, Any],
    class_names: Sequence[str],
    small: bool,
    extra: Mapping[str, str] | None = None,
) -> None:
    """Write a detector, whole or not at all. Floats become float16, or float32 where float16 has no such number.

    Args:
        path: The file.
        model: The detector.
        detector: Catalog name.
        num_classes: Foreground classes.
        overrides: Every constructor argument that differs from the paper's size, those of the small size included, so
            that the file outlives a change of the catalog.
        class_names: Of the labels, in order.
        small: Whether it was built with `small=True`.
        extra: Further notes, by name.

    Raises:
        CheckpointError: A weight is not finite, the overrides are no JSON, or the class names do not fit.
    """
    if len(class_names) != num_classes:
        raise CheckpointError(f"{path}: class_names: {len(class_names)} names for {num_classes} classes; give one each")
    try:
        metadata = {
            "detector": json.dumps(detector),
            "num_classes": json.dumps(num_classes),
            "overrides": json.dumps(dict(overrides)),
            "class_names": json.dumps(list(class_names)),
            "small": json.dumps(small),
            "extra": json.dumps(dict(extra or {})),
        }
    except TypeError as error:
        raise CheckpointError(f"{path}: overrides: {error}; use numbers, strings and tuples of them") from error
    state = {name: _compact(path, name, value.detach().cpu()) for name, value in model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_in_order(serialise(state, metadata)))
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _in_order(content: bytes) -> bytes:
    """The same file with sorted notes: safetensors writes them in another order each time, and so another sha256."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[start:]


def _compact(path: Path, name: str, value: Tensor) -> Tensor:
    if not value.is_floating_point():
        return value.clone().contiguous()
    if not bool(value.isfinite().all()):
        raise CheckpointError(f"{path}: {name}: holds NaN or infinity, so it is not written; train with a lower rate")
    half = value.to(torch.float16)
    return (half if bool(half.isfinite().all()) else value.float()).clone().contiguous()


def load(path: Path) -> tuple[Detector, Meta]:
    """Rebuild a detector from a file that `save` wrote, in float32 and in evaluation mode.

    Raises:
        CheckpointError: The file is missing, truncated or of another kind; its detector is unknown; an entry is
            missing, left over, of the wrong shape, or not finite.
    """
    state, metadata = _read_safetensors(path)
    meta = _parse_meta(path, metadata)
    if meta.detector not in CATALOG:
        raise CheckpointError(
            f"{path}: detector: {meta.detector[:60]!r} is not in the catalog; `python -m benchmarks list` shows what is"
        )
    try:
        with Budget(_NUMBERS_AT_LEAST + _NUMBERS_A_BYTE * path.stat().st_size):
            model = build(meta.detector, meta.num_classes, **meta.overrides)
    # What a constructor does not expect can make it fail in any way.
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise CheckpointError(
            f"{path}: overrides: {meta.detector} cannot be built from them ({reason}); train it again, or use the "
            f"version of this project that wrote the file"
        ) from error
    _fill(model, state, path)
    return model.eval(), meta


def _parse_meta(path: Path, metadata: dict[str, str]) -> Meta:
    parts: dict[str, Any] = {}
    kinds: dict[str, type] = {
        "detector": str,
        "num_classes": int,
        "overrides": dict,
        "class_names": list,
        "small": bool,
    }
    for name, kind in kinds.items():
        try:
            parts[name] = _strict_json(metadata[name])
        except KeyError as error:
            raise CheckpointError(
                f"{path}: metadata: no {name!r}, so this is no checkpoint of a detector of ours; give one that "
                f"`python -m benchmarks train` wrote"
            ) from error
        except ValueError as error:
            raise CheckpointError(f"{path}: metadata {name!r}: no JSON ({error}); get the file anew") from error
        if type(parts[name]) is not kind:
            raise CheckpointError(
                f"{path}: metadata {name!r}: {repr(parts[name])[:80]} is no {kind.__name__}; get the file anew"
            )
    names, count = parts["class_names"], parts["num_classes"]
    if not all(isinstance(name, str) for name in names) or len(names) != count or not count:
        raise CheckpointError(
            f"{path}: metadata 'class_names': {len(names)} names for {repr(count)[:20]} classes; get the file anew"
        )
    try:
        extra = _strict_json(metadata.get("extra", "{}"))
    except ValueError as error:
        raise CheckpointError(f"{path}: metadata 'extra': no JSON ({error}); get the file anew") from error
    if not isinstance(extra, dict):
        raise CheckpointError(f"{path}: metadata 'extra': holds no names and notes; get the file anew")
    return Meta(
        detector=parts["detector"],
        num_classes=parts["num_classes"],
        overrides=as_arguments(parts["overrides"]),
        class_names=tuple(names),
        small=parts["small"],
        extra=extra,
    )


def _strict_json(text: str) -> Any:
    """JSON without NaN and infinity, which Python reads besides.

    Raises:
        ValueError: It is none, or nested beyond all use.
    """

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no number of JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that they were."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return value


def load_into(model: nn.Module, path: Path, format: Format | None = None) -> None:
    """Load weights into a detector that is already built; strictly, so every entry must have its place.

    Args:
        model: The detector. To take Darknet's files it says by `darknet_layers()` what order its layers have there, to
            take Caffe's by `caffe_names()` what they are called there, and by `after_caffe()`, if anything is left to
            do, what.
        path: Safetensors, a state dict of torch (bare, or under `state_dict` or `model`, with or without the
            `module.` of a parallel wrapper), Darknet's weights, a caffemodel, a pickle of Detectron or detectron2, or a
            checkpoint of CornerNet's or CenterNet's authors.
        format: Which of them; left out, the file's ending and its first bytes tell, and what kind of `.pkl` it is the
            detector (`Detector.pickle_format`).

    Raises:
        CheckpointError: The file is missing, damaged or of another network.
    """
    format = format or _format_of(path, model)
    if format == "darknet":
        layers = getattr(model, "darknet_layers", None)
        if layers is None:
            raise CheckpointError(f"{path}: {type(model).__name__} does not read Darknet's weights; give another file")
        try:
            read_weights(path, layers())
        except DarknetError as error:
            raise CheckpointError(str(error)) from error
        return
    if format == "caffe":
        names = getattr(model, "caffe_names", None)
        if names is None:
            raise CheckpointError(f"{path}: {type(model).__name__} does not read Caffe's models; give another file")
        try:
            load_caffe(model, path, names())
        except CaffeError as error:
            raise CheckpointError(str(error)) from error
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}; build the detector at its paper's size") from error
        if (after := getattr(model, "after_caffe", None)) is not None:
            after()
        return
    if format == "detectron":
        try:
            _fill(model, read_detectron(path), path)
        except DetectronError as error:
            raise CheckpointError(str(error)) from error
        return
    if format == "safetensors":
        _fill(model, _read_safetensors(path)[0], path)
        return
    try:
        state = read_cornernet(path) if format == "cornernet" else read_state_dict(path)
    except StateDictError as error:
        raise CheckpointError(str(error)) from error
    if format == "cornernet" and (theirs := describe(state)) != (ours := describe(model.state_dict())):
        raise CheckpointError(f"{path}: holds {theirs}, and the detector is {ours}; build the one that the file is of")
    _fill(model, state, path)


def _format_of(path: Path, model: nn.Module) -> Format:
    if path.suffix == ".pkl" and isinstance(model, Detector):
        return model.pickle_format
    if path.suffix in _SUFFIXES:
        return _SUFFIXES[path.suffix]
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); give the file of a checkpoint") from error
    if head[:2] in (b"PK", b"\x80\x02"):
        return "torch"
    if head[8:9] == b"{":
        return "safetensors"
    raise CheckpointError(f"{path}: the ending and the first bytes are of no known format; name it by `format`")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: there is no such file; train the detector, or fetch its weights") from error
    # The last of these is raised for types of numbers that torch has not.
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise CheckpointError(f"{path}: no whole safetensors file ({str(error)[:200]}); get the file anew") from error


def _fill(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    own = model.state_dict()
    for name, value in state.items():
        if name not in own or value.shape != own[name].shape or value.is_complex():
            continue
        # Only now: a few bytes can claim to be a tensor of any size. And a double can be infinite as a float.
        if not bool(value.float().isfinite().all()):
            raise CheckpointError(f"{path}: {name}: holds NaN or infinity; the file is damaged, get it anew")
    for name, value in own.items():
        # torch counted batches only from version 0.4.1 on; nothing depends on the count.
        if name.endswith("num_batches_tracked") and name not in state:
            state[name] = torch.zeros_like(value)
    for name, value in state.items():
        if name in own and (value.is_complex() or value.is_floating_point() != own[name].is_floating_point()):
            raise CheckpointError(f"{path}: {name}: {value.dtype} instead of {own[name].dtype}; give another file")
    try:
        model.load_state_dict({k: v.float() if v.dtype == torch.float16 else v for k, v in state.items()})
    except RuntimeError as error:
        first = (str(error).splitlines()[1].strip() if "\n" in str(error) else str(error))[:300]
        raise CheckpointError(
            f"{path}: {first} The file belongs to another network: build the detector with its classes and overrides"
        ) from error


class _Checked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


_Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
_Url = Annotated[str, StringConstraints(pattern=r"^https?://\S+$")]


class _Package(_Checked):
    name: _Name
    version: _Name
    member: str
    sha256: _Sha256


class File(_Checked):
    """A file that others published, and where it is to be had."""

    name: _Name
    urls: tuple[_Url, ...]
    package: _Package | None = None
    sha256: _Sha256 | None = None
    bytes: int | None = Field(default=None, gt=0)

    @property
    def path(self) -> Path:
        """Where it lies once it is fetched."""
        return cache_folder() / "weights" / self.name


class Entry(File):
    """A checkpoint that others published: one `[[checkpoint]]` of weights.toml, where the fields are explained."""

    detector: str
    dataset: str
    num_classes: int = Field(gt=0)
    overrides: dict[str, Any] = {}
    format: Format
    licence: str
    published: str
    class_names: tuple[str, ...] | None = None
    config: File | None = None
    year: int | None = None
    paper: str | None = None
    family: Literal["classical", "one-stage", "two-stage", "keypoint"] | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        described = [self.year is not None, self.paper is not None, self.family is not None]
        if described != [self.config is not None] * 3:
            raise ValueError("a row with `config` says year, paper and family, a row of the catalog says none of them")
        if self.config is not None and self.format not in ("darknet", "caffe"):
            raise ValueError("only Darknet's weights and Caffe's have a `config`")
        return self

    @property
    def origin(self) -> dict[str, Any]:
        """Year, paper and family, as a Record states them."""
        if self.config is None:
            return CATALOG[self.detector].origin
        return {"year": self.year, "paper": self.paper, "family": self.family}


class _Known(_Checked):
    checkpoint: tuple[Entry, ...]


@lru_cache
def list_weights(path: Path = _KNOWN) -> tuple[Entry, ...]:
    """The published checkpoints that the project knows.

    Raises:
        CheckpointError: An entry of the file does not fit.
    """
    try:
        known = _Known.model_validate(tomllib.loads(path.read_text(encoding="utf-8"))).checkpoint
    except ValidationError as error:
        first = error.errors()[0]
        raise CheckpointError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}; mend the entry") from error
    # No TOML, no text, a number of thousands of digits, or brackets without end.
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is no TOML that can be read ({error}); restore the file") from error
    return tuple(entry.model_copy(update={"overrides": as_arguments(entry.overrides)}) for entry in known)


def as_arguments(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments from what JSON or TOML made of them: lists become tuples."""
    return {name: _tuples(value) for name, value in overrides.items()}


def entry_for(path: Path) -> Entry | None:
    """The published checkpoint that a file is, by its name; None for any other."""
    return next((entry for entry in list_weights() if entry.name == path.name), None)


def fetch(entry: Entry | File | str, *, quiet: bool = False) -> Path:
    """A published file, checked: out of the cache, or of the folders that `DETECTOR_ZOO_WEIGHTS` names, or downloaded.

    Args:
        entry: The checkpoint, its config, or the name of the checkpoint.
        quiet: Draw no progress.

    Raises:
        CheckpointError: There is no such entry, no source gave the file, or nobody knows what it must be.
    """
    if isinstance(entry, str):
        found = [known for known in list_weights() if known.name == entry]
        if not found:
            names = ", ".join(known.name for known in list_weights())
            raise CheckpointError(f"no published checkpoint is called {entry!r}; there is {names}")
        if len(found) > 1:
            places = "; ".join(f"that of {known.detector} from {' or '.join(known.urls)}" for known in found)
            raise CheckpointError(
                f"{len(found)} published checkpoints are called {entry!r}: get by hand {places}; and name its path"
            )
        entry = found[0]
    if entry.sha256 is None:
        raise CheckpointError(
            f"{entry.name}: its sha256 is not known here, so it is neither downloaded nor taken from a folder; get it "
            f"from {' or '.join(entry.urls)} and name its path instead"
        )
    package = None if entry.package is None else SourcePackage(**entry.package.model_dump())
    try:
        return fetch_file(
            entry.path,
            sha256=entry.sha256,
            size=entry.bytes,
            urls=entry.urls,
            package=package,
            folders=mirror_folders(),
            quiet=quiet,
        )
    except DownloadError as error:
        raise CheckpointError(str(error)) from error


def shipped(detector: str, dataset: str | None = None) -> list[Path]:
    """Checkpoints of a detector that ship with the project, for one data set or for all."""
    return sorted(SHIPPED.glob(f"{detector}_small.{dataset or '*'}.safetensors"))


def find(detector: str, dataset: str | None = None) -> Path:
    """Weights for a detector: what ships, else what was published (which is fetched).

    Args:
        detector: Catalog name, or that of a published network with a config of its own.
        dataset: That it was trained for; left out, any.

    Raises:
        CheckpointError: Nothing is known (then the message says how to train it), or it could not be fetched.
    """
    for path in shipped(detector, dataset):
        return path
    published = [entry for entry in list_weights() if entry.detector == detector]
    for entry in published:
        if dataset in (None, entry.dataset):
            return fetch(entry)
    others = [path.name for path in shipped(detector)] + [entry.name for entry in published]
    known = (
        f"no weights of {detector} for {dataset or 'any data set'} are known (there is {', '.join(others) or 'none'})"
    )
    if detector not in CATALOG:
        remedy = (
            "`python -m benchmarks list` shows the catalog, `weights` what else was published; mend name or dataset"
        )
    else:
        remedy = f"train them: python -m benchmarks train {detector}" + (
            "" if dataset is None else f" --dataset {dataset}"
        )
    raise CheckpointError(f"{known}; {remedy}")


def print_known() -> None:
    """The published checkpoints on standard output, two lines each."""
    for entry in list_weights():
        print(f"{entry.name}  for {entry.detector}{', fetched' if entry.path.exists() else ''}")
        size = "to be had by hand" if entry.bytes is None else f"{entry.bytes / 1e6:.0f} MB"
        print(f"    {entry.published}; {size}; {entry.licence}")
