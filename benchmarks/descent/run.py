"""A training between two steps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.descent.draws import MODEL, SIZE, Draws
from benchmarks.descent.losses import trim_log
from benchmarks.descent.optimising import Average, optimizer_for
from benchmarks.results import write_atomically
from benchmarks.training_state import TrainingError, TrainingState
from ops.sample import seed_of
from ops.structures import Target
from zoo.detector import Detector

__all__ = ["Run"]


class Run:
    """A training between two steps, and how it takes the next."""

    def __init__(
        self,
        model: Detector,
        draws: Draws,
        out: Path,
        states: TrainingState,
        device: torch.device,
        accumulate: int = 1,
    ) -> None:
        self.accumulate, self.part = accumulate, 0
        recipe, self.seed = draws.recipe, draws.seed
        self.model, self.draws, self.recipe, self.device = model, draws, recipe, device
        self.states, self.log = states, out / "losses.jsonl"
        self.world = dist.get_world_size() if dist.is_initialized() else 1
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        if recipe.batch % self.world:
            raise TrainingError(
                f"a batch of {recipe.batch} cannot be divided among {self.world} processes; choose --batch"
            )
        if accumulate < 1 or recipe.batch // self.world % accumulate:
            raise TrainingError(
                f"{recipe.batch // self.world} images of a process cannot be divided into {accumulate} parts; choose "
                "another --accumulate"
            )
        if recipe.stages and self.world > 1:
            raise TrainingError("a training in stages changes what learns on its way; run it as one process")
        state = states.load()
        self.stage: int | None = None if state is None else state.get("stage")
        if self.stage is not None:
            # Which parameters there are, and which of them learn, depends on the stage.
            model.enter_stage(self.stage, fresh=False)
        self._begin()
        self.step, self.recent = 0, dict[str, float]()
        if state is not None:
            self._continue(state)
        if self.rank == 0:
            trim_log(self.log, self.step)
        self.parallel = DistributedDataParallel(model) if self.world > 1 else model

    def _begin(self) -> None:
        """What parameters there are may have changed: an optimiser and an average for those that learn now."""
        self.model.to(self.device).train()
        self.optimizer = optimizer_for(self.model, self.recipe)
        self.average = None if self.recipe.ema is None else Average(self.model, self.recipe.ema)

    def _continue(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.weights = {name: value.to(self.device) for name, value in state["average"].items()}
        self.step, self.recent = state["step"], state["losses"]

    def positions(self) -> list[int]:
        """Where this process's images of all steps to come stand in the sequence."""
        return [position for step in range(self.step, self.recipe.steps) for position in self._batch(step)]

    def _batch(self, step: int) -> range:
        """Where this process's images of a step stand in the sequence."""
        local = self.recipe.batch // self.world
        start = step * self.recipe.batch + self.rank * local
        return range(start, start + local)

    def save(self) -> None:
        """Write the state to go on from."""
        if self.rank == 0:
            self.states.save(
                {
                    "step": self.step,
                    "stage": self.stage,
                    "losses": self.recent,
                    "model": self.model.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "average": {} if self.average is None else self.average.weights,
                }
            )

    def resize(self, first: bool) -> None:
        """Change the input's size where the recipe has several and this step is the first, or begins another."""
        sizes, every = self.recipe.sizes, self.recipe.resize_every
        if sizes and (first or self.step % every == 0):
            # One draw for so many steps, the same in all processes.
            self.model.resize(sizes[seed_of(self.seed, SIZE, self.step // every) % len(sizes)])

    def enter(self, stage: int) -> None:
        """Go over to a stage of the recipe."""
        if not self.recipe.stages or stage == self.stage:
            return
        self._end_average()
        self.model.enter_stage(stage, fresh=True)
        self._begin()
        self.stage = stage
        # Whether the run was interrupted just here must not show.
        self._set_seed()

    def take(self, images: list[Tensor], targets: list[Target], precision: AbstractContextManager[Any]) -> Tensor:
        """One step, or one of the parts that make one, and the losses before it, in the order of `names`."""
        stage, begun, _ = self.recipe.stage_at(self.step)
        if self.part == 0:
            self._set_seed()
            self.enter(stage)
            for group in self.optimizer.param_groups:
                group["lr"] = self.recipe.rate(self.step) * group["factor"]
        with precision, self._alone():
            losses = self.parallel([image.to(self.device) for image in images], targets)
        self.names, values = tuple(losses), torch.stack(list(losses.values()))
        total = values.sum()
        if not torch.isfinite(total):
            raise self._not_finite(dict(zip(self.names, values.tolist(), strict=True)))
        if self.part == 0:
            self.optimizer.zero_grad(set_to_none=True)
            self.losses = torch.zeros_like(values, requires_grad=False)
        (total / self.accumulate).backward()
        self.losses += values.detach() / self.accumulate
        self.part = (self.part + 1) % self.accumulate
        if self.part:
            return self.losses
        if self.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        self.step += 1
        if self.average is not None:
            self.average.update(self.model, self.step - begun)
        return self.losses

    def _alone(self) -> AbstractContextManager[Any]:
        """Gradients of all parts but the last need not be sent to the other processes."""
        if isinstance(self.parallel, DistributedDataParallel) and self.part < self.accumulate - 1:
            return self.parallel.no_sync()
        return nullcontext()

    def _not_finite(self, losses: Mapping[str, float]) -> TrainingError:
        """What stops a training whose loss is no number; the images that it came with are saved."""
        known = getattr(self.draws.dataset, "image_ids", range(len(self.draws.dataset)))
        ids = [known[self.draws.index(position)] for position in self._batch(self.step)]
        file = self.log.with_name(f"not-finite.step-{self.step}.{self.rank}.json")
        about = {"step": self.step, "seed": self.seed, "image_ids": ids, "positions": list(self._batch(self.step))}
        write_atomically(file, json.dumps({**about, "losses": {name: str(value) for name, value in losses.items()}}))
        parts = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
        more = f" and {len(ids) - 4} more" if len(ids) > 4 else ""
        return TrainingError(
            f"step {self.step}: the loss is not finite ({parts}) on images {', '.join(map(str, ids[:4]))}{more}, which "
            f"{file} lists; look at them, lower --lr, or set clip_norm in the recipe. The last state before it is in "
            f"{self.states.path}"
        )

    def note(self, values: Tensor) -> None:
        """Keep the losses of a step, in the log too."""
        self.recent = dict(zip(self.names, values.tolist(), strict=True))
        if self.rank == 0:
            with self.log.open("a") as log:
                log.write(json.dumps({"step": self.step, **self.recent}) + "\n")

    def end(self) -> None:
        """Leave in the model what was learnt, ready to detect."""
        self._end_average()
        if self.recipe.stages:
            self.model.enter_stage(None, fresh=False)
        self.model.eval()

    def _end_average(self) -> None:
        if self.average is not None:
            self.model.load_state_dict(self.average.weights, strict=False)

    def _set_seed(self) -> None:
        torch.manual_seed(seed_of(self.seed, MODEL, self.step, self.rank))
