"""A grid of detectors, data sets, seeds and machines, trained and tested a cell a job: `python -m benchmarks sweep`.

Jobs, queues and what a scheduler's signals mean are submitit's (SLURM, or processes on this machine); what a cell does
is what `train` and `evaluate` do. All that is known of a cell lies in its folder, so that a sweep may be called as
often as one likes: what is done stays, what was interrupted goes on from its state.
"""

from __future__ import annotations

from benchmarks.sweep.cell import Cell, Status, SweepError, status_of
from benchmarks.sweep.grid import Grid, read_grid
from benchmarks.sweep.run import look, sweep, table_of

__all__ = ["Cell", "Grid", "Status", "SweepError", "look", "read_grid", "status_of", "sweep", "table_of"]
