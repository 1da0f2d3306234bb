"""What a detector costs in a process that has seen nothing yet: seconds to the first detection, and memory.

`start_fresh` starts this file as a program (`benchmarks.isolated`). Until the program has read its clock for the first
time it imports nothing but the standard library, so that what it then imports is what a user's first line would.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.evaluate import Subject

__all__ = ["PARTS", "start_fresh"]

PARTS = ("start", "import", "build", "load", "first_call")
"""From nothing to the first detections: the interpreter; the libraries; the network, with random weights; its own
weights, and the way to the device; the first image. `next_call` is what comes after it."""


def start_fresh(
    subject: Subject,
    picture: Tensor,
    *,
    device: str = "cpu",
    threads: int = 1,
    mode: str = "",
    runs: int = 3,
) -> list[dict[str, Any]]:
    """Detect on one image in processes of their own, one after the other, the files being in the system's cache.

    Args:
        subject: A detector of the catalog with its weights.
        picture: `[3, H, W]`.
        device: Where the network runs.
        threads: Of PyTorch.
        mode: Options of `benchmarks.modes`.
        runs: Processes.

    Returns:
        For each run `seconds`, by part of `PARTS` and `next_call`, and `mib`, the resident memory: `imported`,
        `loaded`, `peak_growth` (by how much the first call goes beyond what was loaded), or `not_measured`. On CUDA
        also `cuda_mib`: `loaded` and `peak`, as PyTorch's allocator counts.

    Raises:
        NotMeasured: The detector is none of the catalog, which a user would build by its name.
        ProcessEnded: The process fails; the message ends with its last line.
    """
    import numpy as np

    from benchmarks.growth import NotMeasured
    from benchmarks.isolated import run_python
    from zoo import CATALOG
    from zoo.classical.released import RELEASED

    if subject.name not in CATALOG or subject.name in RELEASED:
        raise NotMeasured(f"{subject.name} is not built by a name of the catalog and filled from one file")
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "image.npy"
        np.save(image, picture.numpy())
        job = {
            "name": subject.name,
            "classes": subject.model.num_classes,
            "overrides": subject.overrides,
            "weights": str(subject.weights.resolve()),
            "image": str(image),
            "device": device,
            "threads": threads,
            "mode": mode,
        }
        failure = f"{subject.name} cannot be run in a process of its own"
        return [
            run_python("-m", "benchmarks.fresh", json.dumps({**job, "asked": time.time()}), failure=failure)
            for _ in range(runs)
        ]


class _Laps:
    """Seconds of one part after the other."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, part: str) -> None:
        now = time.perf_counter()
        self.seconds[part] = now - self._last
        self._last = now

    def again(self) -> None:
        """Begin the next part only now."""
        self._last = time.perf_counter()


def _detect_once(job: Mapping[str, Any]) -> dict[str, Any]:
    # The clock of the two processes that both share; it has a resolution of microseconds.
    started = time.time() - float(job["asked"])
    laps = _Laps()
    import torch

    from zoo import build, checkpoints

    laps.lap("import")
    memory: dict[str, Any] = {"imported": _resident("VmRSS")}
    import numpy as np

    torch.set_num_threads(int(job["threads"]))
    image, device = torch.from_numpy(np.load(job["image"], allow_pickle=False)), torch.device(job["device"])
    laps.again()
    model = build(job["name"], job["classes"], **checkpoints.as_arguments(job["overrides"])).eval()
    laps.lap("build")
    checkpoints.load_into(model, Path(job["weights"]))
    model.to(device)
    laps.lap("load")
    memory["loaded"] = _resident("VmRSS")
    cuda: dict[str, Any] = {}
    if device.type == "cuda":
        cuda["loaded"] = torch.cuda.memory_allocated(device) / 2**20
        torch.cuda.reset_peak_memory_stats(device)
    with ExitStack() as stack:
        if job["mode"]:
            from benchmarks.modes import parse_mode, running

            stack.enter_context(running(model, parse_mode(job["mode"]), device))
        cleared = _clear_peak()
        before = _resident("VmRSS")
        stack.enter_context(torch.inference_mode())
        laps.again()
        for part in ("first_call", "next_call"):
            [answer.to("cpu") for answer in model([image.to(device)])]
            laps.lap(part)
            if part == "first_call" and cleared and before is not None:
                memory["peak_growth"] = max(0.0, (_resident("VmHWM") or before) - before)
    if "peak_growth" not in memory:
        memory["not_measured"] = "no /proc/self/clear_refs here, from which on a peak could be told"
    if device.type == "cuda":
        cuda["peak"] = torch.cuda.max_memory_allocated(device) / 2**20
    found = {"seconds": {"start": max(0.0, started), **laps.seconds}, "mib": memory}
    return {**found, "cuda_mib": cuda} if cuda else found


def _resident(entry: str) -> float | None:
    """Resident memory of this process now (`VmRSS`) or at its peak (`VmHWM`) in MiB; None where no /proc tells."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{entry}:")), None)


def _clear_peak() -> bool:
    """Let the peak begin anew; building and loading may have gone higher than detecting does."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


if __name__ == "__main__":
    print(json.dumps(_detect_once(json.loads(sys.argv[1]))))
