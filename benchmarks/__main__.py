"""The command line: `python -m benchmarks COMMAND`. Library code raises; only here an error becomes a sentence."""

from __future__ import annotations

import typer

from benchmarks.commands import checking, judging, measuring, sweeping, timing, training

__all__ = ["app"]

app = typer.Typer(
    help="Train, evaluate and time the detectors of the zoo.", no_args_is_help=True, pretty_exceptions_enable=False
)
for part in (training, measuring, timing, judging, checking, sweeping):
    app.add_typer(part.app)

if __name__ == "__main__":
    app()
