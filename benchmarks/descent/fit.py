"""Training from the first step, or the last state, to the end of the recipe."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from benchmarks.datasets import Dataset
from benchmarks.descent.draws import Draws, collate
from benchmarks.descent.losses import Reporter, course
from benchmarks.descent.run import Run
from benchmarks.stopping import Interrupts
from benchmarks.training_state import STATE, TrainingState
from zoo.detector import Detector, Recipe

__all__ = ["fit_by_gradient"]

_LOG_EVERY = 50
"""Steps between the lines of `losses.jsonl`; the last step has one too."""


def fit_by_gradient(
    model: Detector,
    dataset: Dataset,
    recipe: Recipe,
    *,
    seed: int,
    out: Path,
    identity: dict[str, Any],
    device: torch.device,
    workers: int = 0,
    checkpoint_every: int = 250,
    accumulate: int = 1,
    checkpoint_minutes: float = 10.0,
    amp: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train `model` in place and return `{"steps", "seconds", "losses", "course"}`; averaged weights end in it.

    The state goes to `out/state.pt` every `checkpoint_every` steps, where these take longer every `checkpoint_minutes`,
    and after the step in which Ctrl-C or SIGTERM comes; where that file exists, training goes on from it, with as many
    processes and parts as there are then: each step has the same images, but what is drawn for each part, and sums,
    differ. The losses of every 50th step go to `out/losses.jsonl`.

    Args:
        model: With fresh weights, equal in all processes.
        dataset: Training images.
        recipe: Settings; its batch is divided among the processes.
        seed: Of everything.
        out: Folder of the run.
        identity: What must be equal for a state to be continued.
        device: Where to train.
        workers: Processes that load images.
        checkpoint_every: Steps between states.
        accumulate: Parts into which a process divides its share of a batch: gradients are the mean over processes and
            parts, as if all images were one batch where a loss is a mean over images. (Where it is a mean over objects,
            each part has its own; batch normalisation, too, sees only a part.)
        checkpoint_minutes: Most minutes between states: what a machine that dies costs at most, and a step.
        amp: Run the forward pass in bfloat16; detectors compute their losses from what it gives in float32.
        quiet: No progress.

    Raises:
        TrainingError: A loss is not finite (`out/not-finite.step-N.R.json` then names the images of process R), the
            state belongs to another run, or the batch cannot be divided.
        ValueError: The recipe has sizes that the detector cannot take, or stages that it does not have.
    """
    draws = Draws(dataset, recipe, seed)
    run = Run(model, draws, out, TrainingState(out / STATE, identity), device, accumulate)
    loader = DataLoader(
        draws,
        batch_size=recipe.batch // run.world // accumulate,
        sampler=run.positions(),
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=_leave_signals,
    )
    first = run.step
    with (
        _sizes_tried(model, recipe.sizes),
        closing(Reporter(recipe.steps, first, recipe.batch, quiet or run.rank > 0)) as reporter,
        Interrupts() as interrupts,
    ):
        for images, targets in loader:
            if run.part == 0:
                run.resize(run.step == first)
            values = run.take(images, targets, _precision(device, amp))
            if run.part:
                continue
            last = run.step == recipe.steps
            if last or run.step % _LOG_EVERY == 0:
                run.note(values)
                reporter.show(run.step, run.recent)
            due = run.step % checkpoint_every == 0 or run.states.age >= checkpoint_minutes
            if last or due or interrupts.asked:
                run.save()
            interrupts.raise_if_asked()
    run.end()
    found = {
        "steps": run.step,
        "seconds": round(run.states.seconds, 1),
        "losses": run.recent,
        "course": course(run.log),
    }
    # Records from before there were several say nothing of them.
    several = {"processes": run.world, "accumulated": accumulate}
    return found | {name: count for name, count in several.items() if count > 1}


@contextmanager
def _sizes_tried(model: Detector, sizes: Sequence[int]) -> Iterator[None]:
    """See that a detector takes all sizes that it will train at; afterwards it has its own again."""
    own = getattr(model, "size", None) if sizes else None
    for side in sizes:
        model.resize(side)
    try:
        yield
    finally:
        if own is not None:
            model.resize(own)


def _leave_signals(worker: int) -> None:
    """Ctrl-C goes to all processes of a terminal; it is for the one that trains."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _precision(device: torch.device, amp: bool) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, dtype=torch.bfloat16) if amp else nullcontext()
