"""The losses of a training: shown while it runs, logged in its folder, thinned out for its Record."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.results import write_atomically

__all__ = ["Reporter", "course", "trim_log"]


class Reporter:
    """Loss, images a second and time left: a bar on a terminal, a line every few seconds elsewhere."""

    def __init__(self, steps: int, done: int, batch: int, quiet: bool) -> None:
        self.steps, self.batch, self.quiet = steps, batch, quiet
        self.start, self.first, self.last = time.monotonic(), done, 0.0
        console = Console(stderr=True)
        self.bar: Progress | None = None
        if console.is_terminal and not quiet:
            columns = (TextColumn("{task.fields[text]}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, console=console)
            self.task = self.bar.add_task("", total=steps, completed=done, text="")
            self.bar.start()

    def show(self, step: int, losses: dict[str, float]) -> None:
        """Say where the training stands, unless it was said just before."""
        now = time.monotonic()
        if self.quiet or (now - self.last < (0.5 if self.bar else 15.0) and step < self.steps):
            return
        self.last = now
        pace = (step - self.first) * self.batch / max(1e-9, now - self.start)
        text = f"loss {sum(losses.values()):.3f}  {pace:.1f} images/s"
        if self.bar is not None:
            self.bar.update(self.task, completed=step, text=text)
            return
        left = (self.steps - step) * self.batch / max(1e-9, pace)
        parts = " ".join(f"{name} {value:.3f}" for name, value in losses.items())
        print(f"step {step}/{self.steps}  {text}  {left / 60:.1f} min left  ({parts})", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self.bar is not None:
            self.bar.stop()


def trim_log(path: Path, step: int) -> None:
    """Drop lines of steps that will be done again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (json.JSONDecodeError, KeyError):
            break
    write_atomically(path, "".join(line + "\n" for line in kept))


def course(path: Path, most: int = 60) -> list[list[float]]:
    """Step and whole loss along a training, thinned out to at most so many of the logged steps."""
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    found = [[line.pop("step"), round(sum(line.values()), 4)] for line in lines]
    return found[:: -(-len(found) // most) or 1]
