"""Which stage of a detector moved: fingerprints of what each stage gives for two fixed images.

A stage's fingerprint has two parts. The hash covers every bit of every tensor: on the processor and with the library
versions that it was stored with, the same code gives the same hash, and another hash is another computation. Anywhere
else the last digits of floating-point sums differ, and so must the hash: it is not comparable. Rounding before hashing
would not help, because of 100,000 numbers some always lie at a rounding's edge. So beside the hash stands a sketch, the
count, mean and root mean square of each tensor, which is compared within a tolerance and holds across machines.

Stages are those that every detector has (`zoo.detector.Detector`), and what can be seen between them: the backbone's
features, the proposals of a first stage, the candidates that enter suppression. A detector that shows no such part has
no fingerprint of it; what moves there shows in the stage behind it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from benchmarks.provenance import versions
from benchmarks.results import write_atomically
from benchmarks.sentences import entry_and_reason
from benchmarks.stages import leaves, replaced
from ops.nms import watching
from zoo.detector import Detector

__all__ = [
    "STAGES",
    "Agreement",
    "Fingerprints",
    "Stage",
    "compare_stages",
    "environment",
    "fingerprint",
    "fixed_images",
    "read_fingerprints",
    "write_fingerprints",
]

STAGES = ("preprocess", "features", "proposals", "heads", "pre-NMS", "post-NMS")
"""In the order of work, but for detectors whose proposals come before their features."""

TOLERANCE = 1e-3
"""Of the sketches, as a share of the root mean square; other processors and versions move them by a thousandth of it,
but a candidate that enters suppression or does not can move a mean by more than its own rounding."""

_FEATURES = ("backbone", "features", "body", "cnvs")
"""What detectors call the part that gives features, the first that is there."""

_BEHIND = ("found", "mask_logits", "grid_regions", "grid_objects", "fused", "unfused")
"""Entries of a network's outputs that are computed behind suppression."""


class Stage(BaseModel):
    """What a stage gave.

    Attributes:
        sha256: Of shapes, types and bytes of all tensors.
        sketch: Count, mean and root mean square of each tensor.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    sha256: str
    sketch: tuple[tuple[int, float, float], ...]


class Fingerprints(BaseModel):
    """Of one checkpoint.

    Attributes:
        checkpoint: sha256 of its file.
        environment: Processor and versions that the hashes hold for.
        stages: By name, in the order of work.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint: str
    environment: dict[str, str]
    stages: dict[str, Stage]


@dataclass(frozen=True)
class Agreement:
    """Two sets of fingerprints beside each other.

    Attributes:
        others: What differs in the environments; hashes are comparable where nothing does.
        moved: The first stage whose hash differs; None where none does or hashes cannot be compared.
        apart: The first stage whose sketch differs by more than the tolerance, or that only one of the two has.
    """

    others: tuple[str, ...]
    moved: str | None
    apart: str | None

    @property
    def same(self) -> bool:
        """Whether every bit of every stage is proved to be the same."""
        return not self.others and self.moved is None

    def __str__(self) -> str:
        if self.same:
            return "bit-exact"
        if not self.others:
            tail = "" if self.apart else ", by no more than rounding"
            return f"moved: {self.moved} is the first stage that differs{tail}"
        found = "the stages agree but for rounding" if self.apart is None else f"{self.apart} differs beyond rounding"
        return f"not comparable bit by bit ({'; '.join(self.others)}); {found}"


def fixed_images() -> list[Tensor]:
    """Two images float32 `[3, H, W]` of different sizes, the same everywhere: shapes drawn in whole numbers."""
    return [_drawn(160, 160, 3), _drawn(128, 192, 11)]


def _drawn(height: int, width: int, seed: int) -> Tensor:
    """Discs, boxes and triangles on a ground with a slope; integers throughout, so that no bit depends on a library."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([40 + rows // 4, 60 + columns // 4, 90 + (rows + columns) // 8])
    state = seed
    for turn in range(12):
        draw = []
        for _ in range(7):
            # Numerical Recipes' generator.
            state = (1664525 * state + 1013904223) % 2**32
            draw.append(state >> 16)
        y, x, size = draw[0] % height, draw[1] % width, 8 + draw[2] % 22
        down, across = np.abs(rows - y), np.abs(columns - x)
        forms = (down**2 + across**2 <= size**2, (down <= size) & (across <= size), (across * 2 <= rows - y + size))
        inside = forms[turn % 3] & (down <= size)
        image[:, inside] = np.array([value % 256 for value in draw[3:6]])[:, None]
    return torch.from_numpy(image.astype(np.float32)).div(255)


def environment() -> dict[str, str]:
    """What the bits of a computation depend on besides the code."""
    from benchmarks.hardware import observe

    capability = torch.backends.cpu.get_cpu_capability()
    libraries = {name: version for name, version in versions().items() if name != "python"}
    return {**libraries, "processor": f"{observe('cpu').device_name} ({capability})"}


def fingerprint(model: Detector, images: list[Tensor] | None = None) -> dict[str, Stage]:
    """Run a detector on the CPU with one thread and hash what each stage gives, in the order of work.

    Args:
        model: In evaluation mode.
        images: Float `[3, H, W]`; by default `fixed_images()`.
    """
    images = fixed_images() if images is None else images
    seen: dict[str, list[Tensor]] = {}

    def keep(name: str, value: Any) -> None:
        seen.setdefault(name, []).extend(_tensors(value))

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode(), ExitStack() as stack:
            batch = model.preprocess(images)
            keep("preprocess", [batch.pixels, [(frame.scale, frame.offset) for frame in batch.frames]])
            stack.enter_context(_features(model, keep))
            stack.enter_context(_proposals(model, keep))
            entering: list[Any] = []
            # Copies: what enters may be changed in place.
            stack.enter_context(watching(lambda *rows: entering.append(list(_tensors(rows)))))
            outputs = model.network(batch)
            keep("heads", _without(outputs))
            answers = model.postprocess(outputs, batch)
            keep("pre-NMS", entering)
            keep("post-NMS", answers)
    finally:
        torch.set_num_threads(before)
    return {name: _stage(tensors) for name, tensors in seen.items() if tensors}


@contextmanager
def _features(model: Detector, keep: Callable[[str, Any], None]) -> Iterator[None]:
    found: Any = next((part for name in _FEATURES if (part := getattr(model, name, None)) is not None), None)
    parts = list(found) if isinstance(found, nn.ModuleList) else [found] if isinstance(found, nn.Module) else []
    handles = [part.register_forward_hook(lambda _module, _inputs, output: keep("features", output)) for part in parts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _proposals(model: Detector, keep: Callable[[str, Any], None]) -> Iterator[None]:
    """See the regions that a two-stage detector looks at, whether it proposes them itself or is given them."""
    name = next((name for name in ("propose", "proposer") if callable(getattr(model, name, None))), None)
    if name is None:
        yield
        return
    inner = getattr(model, name)

    def told(*arguments: Any, **settings: Any) -> Any:
        answer = inner(*arguments, **settings)
        keep("proposals", answer)
        return answer

    with replaced(model, name, told):
        yield


def _without(outputs: Any) -> Any:
    """A network's outputs less what is computed behind suppression."""
    if not is_dataclass(outputs):
        return outputs
    return [getattr(outputs, entry.name) for entry in fields(outputs) if entry.name not in _BEHIND]


def _tensors(value: Any) -> Iterator[Tensor]:
    """Every number in an answer."""
    for leaf in leaves(value):
        if isinstance(leaf, Tensor):
            yield leaf.detach().cpu().clone()
        elif isinstance(leaf, np.ndarray) and leaf.dtype != object:
            yield torch.from_numpy(np.ascontiguousarray(leaf)).clone()
        elif isinstance(leaf, bool | int | float):
            yield torch.tensor(leaf, dtype=torch.float64)


def _stage(tensors: list[Tensor]) -> Stage:
    digest = hashlib.sha256()
    sketch = []
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        values = tensor.double().flatten()
        values = values[values.isfinite()]
        square = math.sqrt(float((values**2).mean())) if len(values) else 0.0
        mean = float(values.mean()) if len(values) else 0.0
        sketch.append((len(values), _digits(mean), _digits(square)))
    return Stage(sha256=digest.hexdigest(), sketch=tuple(sketch))


def _digits(value: float) -> float:
    return float(f"{value:.7g}")


def compare_stages(stored: Fingerprints, now: Mapping[str, Stage], here: Mapping[str, str]) -> Agreement:
    """Set the fingerprints of now, taken in the environment `here`, beside the stored ones."""
    keys = {**stored.environment, **here}
    others = tuple(
        f"{key} {here.get(key, 'absent')} instead of {stored.environment.get(key, 'absent')}"
        for key in keys
        if here.get(key) != stored.environment.get(key)
    )
    names = [*now, *(name for name in stored.stages if name not in now)]
    names.sort(key=lambda name: list(now).index(name) if name in now else STAGES.index(name))
    moved = [name for name in names if _hash(stored.stages.get(name)) != _hash(now.get(name))]
    apart = [name for name in names if not _alike(stored.stages.get(name), now.get(name))]
    first = moved[0] if moved and not others else None
    return Agreement(others, first, apart[0] if apart else None)


def _hash(stage: Stage | None) -> str | None:
    return None if stage is None else stage.sha256


def _alike(first: Stage | None, second: Stage | None) -> bool:
    """Whether two sketches agree within the tolerance; behind thresholds a row in a hundred may come or go."""
    if first is None or second is None or len(first.sketch) != len(second.sketch):
        return False
    for (count, mean, square), (other_count, other_mean, other_square) in zip(first.sketch, second.sketch, strict=True):
        few = abs(count - other_count)
        if few > 0.01 * max(count, other_count):
            return False
        room = (TOLERANCE + few / max(count, other_count, 1)) * max(square, other_square) + 1e-9
        if abs(mean - other_mean) > room or abs(square - other_square) > room:
            return False
    return True


def write_fingerprints(path: Path, model: Detector, checkpoint: str) -> None:
    """Fingerprint a detector in evaluation mode and write the file, whole or not at all."""
    found = Fingerprints(checkpoint=checkpoint, environment=environment(), stages=fingerprint(model))
    write_atomically(path, found.model_dump_json(indent=1) + "\n")


def read_fingerprints(path: Path) -> Fingerprints | None:
    """The stored file; None where there is none.

    Raises:
        ValueError: It is damaged.
    """
    if not path.exists():
        return None
    try:
        return Fingerprints.model_validate_json(path.read_bytes())
    except ValidationError as error:
        entry, reason = entry_and_reason(error)
        raise ValueError(f"{path}: {entry}: {reason}; delete it, and write it anew by gate --store") from error
