"""Train a detector of the catalog: one loop, one checkpoint, one Record for all; under `torchrun` on all processes."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks import hardware
from benchmarks.datasets import Dataset, open_dataset
from benchmarks.datasets.intact import without_corrupt
from benchmarks.descent import fit_by_gradient, seed_of_start
from benchmarks.hardware import Precision
from benchmarks.jsons import as_json
from benchmarks.processes import Share, join_processes
from benchmarks.proposals import proposer_of, with_proposals
from benchmarks.provenance import commit, dataset_id, versions, weights_id
from benchmarks.results import DatasetId, Record
from benchmarks.stopping import alone_in
from benchmarks.suite import BENCHMARKS
from benchmarks.training_state import STATE, TrainingError, TrainingState
from zoo import CATALOG, build, checkpoints
from zoo.detector import Detector, Recipe

__all__ = ["TrainingError", "describe_recipe", "train"]


def describe_recipe(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON can hold it: the augmentation by its name."""
    augment = recipe.augment
    described = {**asdict(recipe), "augment": None if augment is None else augment.__name__}
    if not recipe.stages:
        # Records and states from before there were stages say nothing of them.
        del described["stages"]
    return described


def train(
    detector: str,
    dataset_name: str,
    *,
    out: Path,
    small: bool = True,
    overrides: Mapping[str, Any] | None = None,
    recipe_changes: Mapping[str, Any] | None = None,
    split: str | None = None,
    images: int | None = None,
    data_root: Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    threads: int | None = None,
    workers: int = 0,
    checkpoint_every: int = 250,
    accumulate: int = 1,
    checkpoint_minutes: float = 10.0,
    skip_corrupt: bool = False,
    amp: bool | None = None,
    quiet: bool = False,
) -> Path:
    """Train a detector of the catalog and return its checkpoint, `out/<detector>_<size>.<dataset>.safetensors`.

    Detectors that are no gradient descent are trained by their own `fit`. A training Record is written beside the
    checkpoint. The same call continues an interrupted run and does nothing for a finished one.

    Args:
        detector: Catalog name.
        dataset_name: A key of `BENCHMARKS`.
        out: Folder of the run.
        small: The size that trains in minutes, or the paper's.
        overrides: Constructor arguments that differ from that size's.
        recipe_changes: Fields of the Recipe to change, such as `{"steps": 2500}`.
        split: Training split, if not the benchmark's; another one makes a variant.
        images: Learn from so many images only, the first ones of the split.
        data_root: The data as their owner unpacked them.
        seed: Of everything.
        device: Such as `cpu` or `cuda`; under `torchrun` each process takes the device of its local rank.
        threads: Of torch on the CPU; None leaves torch's choice.
        workers: Processes that load images.
        checkpoint_every: Steps between states.
        accumulate: Parts into which each process divides its share of a batch, for want of memory.
        checkpoint_minutes: Most minutes between states.
        skip_corrupt: Leave out images that cannot be decoded, and say so in the Record.
        amp: Run the forward pass in bfloat16; None does so on CUDA only. Processors with bfloat16 instructions train
            up to twice as fast, others slower.
        quiet: No progress.

    Raises:
        TrainingError: See `fit_by_gradient`; or the detector has no recipe, or learns without gradients and several
            processes are to train it.
        BusyError: Another process trains in `out`.
    """
    spec, benchmark = CATALOG[detector], BENCHMARKS[dataset_name]
    place = _prepare(device, threads)
    amp = place.type == "cuda" if amp is None else amp
    dataset = open_dataset(dataset_name, split or benchmark.train_split, data_root)
    if images is not None:
        dataset = dataset.first(images)
    if skip_corrupt:
        dataset = without_corrupt(dataset, quiet=quiet)
    torch.manual_seed(seed_of_start(seed))
    own = dict(spec.small or {}) if small else {}
    own |= benchmark.small_overrides(own)
    model = build(detector, len(dataset.class_names), small=small, **{**own, **(overrides or {})})
    if model.trains_on_masks:
        dataset = dataset.with_masks()
    recipe = spec.small_recipe if small else spec.recipe
    usual = benchmark.small_recipe(recipe) if small and recipe is not None else recipe
    if usual is not None:
        recipe = replace(usual, **(recipe_changes or {}))
    elif not hasattr(model, "fit"):
        raise TrainingError(f"{detector}: its paper's training is not part of the zoo; train the small size")

    out.mkdir(parents=True, exist_ok=True)
    plan = _Plan(
        detector,
        small,
        overrides={**own, **(overrides or {})},
        recipe=None if recipe is None else describe_recipe(recipe),
        seed=seed,
        images=images,
        variant=as_json(
            {
                **_differing(overrides, own),
                **_differing(recipe_changes, vars(usual) if usual else {}),
                **({"split": split} if split not in (None, benchmark.train_split) else {}),
            }
        ),
        data=dataset_id(dataset),
        precision="bfloat16" if amp else "float32",
    )
    if (proposer := proposer_of(model)) is not None:
        dataset = with_proposals(dataset, proposer, quiet=quiet)
    with ExitStack() as held:
        if os.environ.get("RANK", "0") == "0":
            held.enter_context(alone_in(out))
        if recipe is None:
            if dist.is_initialized():
                raise TrainingError(f"{detector}: learns in its own way, which is not divided; run it as one process")
            outcome = _fit(model, dataset, seed, TrainingState(out / STATE, plan.identity()))
        else:
            model.set_priors(_shares(dataset))
            outcome = fit_by_gradient(
                model,
                dataset,
                recipe,
                seed=seed,
                out=out,
                identity=plan.identity(),
                device=place,
                workers=workers,
                checkpoint_every=checkpoint_every,
                accumulate=accumulate,
                checkpoint_minutes=checkpoint_minutes,
                amp=amp,
                quiet=quiet,
            )
        path = out / f"{detector}_{plan.scale}.{dataset_name}.safetensors"
        if Share.joined().rank == 0:
            plan.save(path, model, dataset.class_names)
            plan.record(path, model.num_classes, place, outcome).write(out)
    return path


def _differing(given: Mapping[str, Any] | None, usual: Mapping[str, Any]) -> dict[str, Any]:
    """What was given that is not what there would have been without it."""
    return {key: value for key, value in (given or {}).items() if key not in usual or usual[key] != value}


@dataclass(frozen=True)
class _Plan:
    """What is learnt, from what and how: all that the weights depend on, but for the processes that share the work."""

    detector: str
    small: bool
    overrides: dict[str, Any]
    recipe: dict[str, Any] | None
    seed: int
    images: int | None
    variant: dict[str, Any]
    data: DatasetId
    precision: Precision

    @property
    def scale(self) -> Literal["small", "paper"]:
        return "small" if self.small else "paper"

    def identity(self) -> dict[str, Any]:
        """What must be equal for a state to be continued."""
        return {
            "detector": self.detector,
            "overrides": json.dumps(self.overrides, sort_keys=True, default=str),
            "recipe": json.dumps(self.recipe, sort_keys=True),
            "seed": self.seed,
            "data": self.data.fingerprint,
            "precision": self.precision,
        }

    def save(self, path: Path, model: Detector, class_names: Sequence[str]) -> None:
        """Write the checkpoint."""
        extra = {"seed": str(self.seed)}
        if self.images is not None:
            extra["images"] = str(self.images)
        if self.variant:
            extra["variant"] = json.dumps(self.variant)
        if self.data.skipped:
            extra["skipped"] = json.dumps(self.data.skipped)
        checkpoints.save(
            path,
            model.cpu(),
            detector=self.detector,
            num_classes=model.num_classes,
            overrides=self.overrides,
            class_names=list(class_names),
            small=self.small,
            extra=extra,
        )

    def record(self, weights: Path, num_classes: int, place: torch.device, outcome: dict[str, Any]) -> Record:
        """The training Record of a checkpoint."""
        # Who learns in a way of its own knows nothing of bfloat16.
        precision: Precision = self.precision if self.recipe else "float32"
        return Record(
            kind="training",
            detector=self.detector,
            scale=self.scale,
            overrides=as_json(self.overrides),
            num_classes=num_classes,
            weights=weights_id(weights),
            dataset=self.data,
            hardware=hardware.stamp(str(place), torch.get_num_threads(), precision=precision),
            seed=self.seed,
            learned_from=self.images,
            variant=self.variant,
            recipe=self.recipe,
            commit=commit(),
            versions=versions(),
            metrics=outcome,
        )


def _prepare(device: str, threads: int | None) -> torch.device:
    """The device of this process; on a CPU, from now on all sums are always added up in one order."""
    if threads is not None:
        torch.set_num_threads(threads)
    if device == "cpu":
        torch.use_deterministic_algorithms(True, warn_only=True)
        # That would also fill each new tensor with NaN before it is written, a tenth of a small detector's step.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return join_processes(device)


def _fit(model: Detector, dataset: Dataset, seed: int, states: TrainingState) -> dict[str, Any]:
    """Train a detector that does it in its own way; `metrics` of the training Record."""
    fit: Callable[..., None] = model.fit  # type: ignore[assignment]
    # Those that take minutes can go on where they were interrupted.
    resumes = "state" in inspect.signature(fit).parameters
    fit(dataset, seed=seed, **({"state": states} if resumes else {}))
    return {"seconds": round(states.seconds, 1)}


def _shares(dataset: Dataset) -> Tensor:
    """The boxes of all images `[N, 4]`, in shares of their sides."""
    found = []
    for index in range(len(dataset)):
        (height, width), target = dataset.size(index), dataset.target(index)
        found.append(target.boxes[~target.ignore] / torch.tensor([width, height, width, height]))
    return torch.cat(found)
