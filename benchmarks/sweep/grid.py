"""What a sweep goes over, from a TOML file or the command line."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmarks.sweep.cell import Cell, SweepError
from benchmarks.tomls import read_toml

__all__ = ["Grid", "Training", "read_grid"]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Training(_Settings):
    """What `benchmarks train` is told besides; left out, what it would do anyhow."""

    steps: int | None = None
    batch: int | None = None
    lr: float | None = None
    images: int | None = None
    split: str | None = None
    workers: int | None = None
    checkpoint_every: int | None = None
    checkpoint_minutes: float | None = None
    skip_corrupt: bool | None = None
    amp: bool | None = None

    def arguments(self) -> dict[str, Any]:
        """As `benchmarks.train.train` takes them."""
        given = self.model_dump(exclude_none=True)
        changes = {name: given.pop(name) for name in ("steps", "batch", "lr") if name in given}
        return {**given, **({"recipe_changes": changes} if changes else {})}


class Grid(_Settings):
    """Every detector on every data set with every seed, on every kind of machine.

    Attributes:
        detectors: Catalog names or globs of them.
        datasets: Keys of `BENCHMARKS`.
        seeds: Of the trainings.
        profiles: Hardware profiles that machines must conform to; none for any machine.
        size: The small size or the paper's.
        device: Where each cell is trained and tested.
        threads: Of torch on the CPU.
        test_split: Tested on, if not each benchmark's.
        data_root: The data as their owner unpacked them.
        train: See `Training`.
        options: For submitit, such as `timeout_min`, `gpus_per_node` or `slurm_partition`.
    """

    detectors: tuple[str, ...] = Field(min_length=1)
    datasets: tuple[str, ...] = ("shapes",)
    seeds: tuple[int, ...] = (0,)
    profiles: tuple[str, ...] = ()
    size: Literal["small", "paper"] = "small"
    device: str = "cpu"
    threads: int | None = None
    test_split: str | None = None
    data_root: Path | None = None
    train: Training = Training()
    options: dict[str, Any] = {}

    def cells(self, out: Path) -> list[Cell]:
        """One of each, in folders below `out`; detectors vary last, so that all have some figures early.

        Raises:
            SweepError: A name is unknown, or fits no detector.
        """
        from benchmarks.hardware import load_profiles
        from benchmarks.suite import BENCHMARKS

        _refuse_unknown("dataset", self.datasets, list(BENCHMARKS))
        _refuse_unknown("profile", self.profiles, list(load_profiles()))
        return [
            Cell(
                detector=detector,
                dataset=dataset,
                seed=seed,
                profile=profile,
                out=out.absolute(),
                small=self.size == "small",
                device=self.device,
                threads=self.threads,
                test_split=self.test_split,
                data_root=None if self.data_root is None else self.data_root.absolute(),
                training=self.train.arguments(),
            )
            for profile in self.profiles or (None,)
            for seed in dict.fromkeys(self.seeds)
            for dataset in dict.fromkeys(self.datasets)
            for detector in self._named()
        ]

    def _named(self) -> list[str]:
        from zoo import CATALOG

        found: dict[str, None] = {}
        for pattern in self.detectors:
            names = [name for name in CATALOG if fnmatch.fnmatch(name, pattern)]
            if not names:
                raise SweepError(f"no detector {pattern!r} in the catalog; see `python -m benchmarks list`")
            # A pattern means those that can be trained at the size; a name means itself, and fails by itself.
            small = self.size == "small" and pattern not in names
            found |= dict.fromkeys(name for name in names if not small or CATALOG[name].small is not None)
        return list(found)


def _refuse_unknown(kind: str, names: tuple[str, ...], known: list[str]) -> None:
    for name in names:
        if name not in known:
            raise SweepError(f"no {kind} {name!r}; there is {', '.join(known)}")


def read_grid(file: Path | None, **changes: Any) -> Grid:
    """A grid from a TOML file, or of nothing, with what else is given (and not None) in place of the file's.

    Raises:
        SweepError: An entry is unknown or does not fit.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    base = (
        {} if file is None else read_toml(file, Grid, SweepError, "see `sweep --help`").model_dump(exclude_unset=True)
    )
    for name in ("train", "options"):
        if name in given and name in base:
            given[name] = {**base[name], **given[name]}
    try:
        return Grid.model_validate({**base, **given})
    except ValidationError as error:
        first = error.errors()[0]
        entry = ".".join(map(str, first["loc"]))
        raise SweepError(f"the grid's {entry}: {first['msg']}; give it in the file or by its option") from error
