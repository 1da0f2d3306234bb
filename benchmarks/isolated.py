"""Work in a process of its own: nothing that ran before warms or loads it, and its crash ends no other.

There are two kinds, for they measure different things. A function is called in an interpreter that has imported its
module, and arguments and answer are any objects: what it does is measured. A program begins with nothing at all, in
any interpreter, and answers in JSON: its start, its imports and its whole memory can be measured too.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.sentences import said
from benchmarks.workers import end_with_parent

__all__ = ["ProcessEnded", "in_fresh_process", "run_python"]

T = TypeVar("T")

_ROOT = Path(__file__).resolve().parents[1]


class ProcessEnded(RuntimeError):
    """The process gave no answer; the message says how it ended, or what it raised."""


def in_fresh_process(function: Callable[..., T], *arguments: Any) -> T:
    """What `function(*arguments)` returns in a new interpreter; both ways by pickle.

    Raises:
        ProcessEnded: It raised, or the process was killed, or left without an answer.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, function, arguments))
    process.start()
    # The child has its own; with ours open, its end would never be seen.
    sender.close()
    try:
        done, answer = receiver.recv()
    except EOFError:
        process.join()
        raise ProcessEnded(_how(process.exitcode)) from None
    finally:
        if process.is_alive():
            process.join(timeout=10)
            process.terminate()
        receiver.close()
    if not done:
        raise ProcessEnded(answer)
    return answer


def _answer(sender: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    end_with_parent()
    try:
        answer = True, function(*arguments)
    except Exception as error:
        told = isinstance(error, ValueError | KeyError | MemoryError) or type(error).__name__ == "OutOfMemoryError"
        answer = False, said(error) if told else f"{type(error).__name__}: {said(error)}"
    sender.send(answer)


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"its process was ended by {name}{', as when memory runs out' if name == 'SIGKILL' else ''}"
    return f"its process ended with status {code} and without an answer"


def run_python(*arguments: str, failure: str, python: Path | None = None) -> Any:
    """What a Python program says in JSON on the last line that it prints.

    Args:
        arguments: Such as `-m`, a module of this project, and its arguments; or `-c` and a program.
        failure: What an error message begins with.
        python: The interpreter; None for the one that this runs in.

    Raises:
        ProcessEnded: It fails; the message ends with the last line of its errors.
    """
    command = [str(python or sys.executable), *arguments]
    process = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True)
    if process.returncode:
        raise ProcessEnded(f"{failure}: {(process.stderr.strip().splitlines() or ['no output'])[-1]}")
    return json.loads(process.stdout.splitlines()[-1])
