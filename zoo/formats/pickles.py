"""What a pickle would build, told from its opcodes alone, before anything builds it.

A restricted unpickler runs no code of a file, but still believes its numbers: an index of two billion makes a list of
as many places, and a tuple that holds one twice that holds one twice, and so on, keeps whoever hashes it busy for ever.
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from typing import IO, Any

__all__ = ["check_pickle"]

_DEEPEST = 100
_HEAVIEST = 50_000_000
_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT"}
_GETS = {"GET", "BINGET", "LONG_BINGET"}
_INTO = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"}

_Size = tuple[int, int]
"""Of an object: how deeply it is nested, and how many objects it is, each counted as often as it is reached."""


def check_pickle(file: IO[bytes]) -> None:
    """Step over one pickle.

    Raises:
        ValueError: It is none, is nested more than 100 deep, or would be too large for what it holds.
    """
    stack: list[_Size | None] = []
    memo: dict[int, _Size] = {}
    for count, (opcode, argument) in enumerate(_steps(file)):
        if opcode.name in _PUTS or opcode.name == "MEMOIZE":
            place = len(memo) if argument is None else int(argument)
            if not 0 <= place <= count:
                raise ValueError(f"it remembers an object at place {place:,}, where there are not so many")
            memo[place] = _top(stack)
        elif opcode.name in _GETS:
            stack.append(memo.get(int(argument or 0), (0, 1)))
        elif opcode.name == "MARK":
            stack.append(None)
        elif opcode.name == "DUP":
            stack.append(_top(stack))
        else:
            sizes = _taken(stack, opcode)
            stack += [_joined(opcode.name, sizes)] * len(opcode.stack_after)


def _steps(file: IO[bytes]) -> Iterator[tuple[pickletools.OpcodeInfo, Any]]:
    """Each opcode and its argument, up to the end of the pickle."""
    while True:
        opcode = _OPCODES.get(file.read(1).decode("latin1"))
        if opcode is None:
            raise ValueError("it holds an opcode that there is not, or ends too early")
        # pickletools reads no string of Python 2 that has other letters than ASCII's.
        if opcode.name == "STRING":
            yield opcode, file.readline()
        else:
            yield opcode, None if opcode.arg is None else opcode.arg.reader(file)
        if opcode.name == "STOP":
            return


def _top(stack: list[_Size | None]) -> _Size:
    if not stack or stack[-1] is None:
        raise ValueError("it remembers an object where there is none")
    return stack[-1]


def _taken(stack: list[_Size | None], opcode: pickletools.OpcodeInfo) -> list[_Size]:
    """What an opcode takes from the stack, in its order there."""
    before = opcode.stack_before
    sizes: list[_Size] = []
    if pickletools.markobject in before:
        while stack and (size := stack.pop()) is not None:
            sizes.append(size)
        before = before[: before.index(pickletools.markobject)]
    for _ in before:
        # POP alone may take a mark.
        size = stack.pop() if stack else None
        if size is None and opcode.name != "POP":
            raise ValueError("it takes more objects than there are")
        sizes.append(size or (0, 1))
    return sizes[::-1]


def _joined(name: str, sizes: list[_Size]) -> _Size:
    depth = max((depth for depth, _ in sizes), default=-1) + 1
    if name in _INTO and sizes:
        depth = max([sizes[0][0], *(inner + 1 for inner, _ in sizes[1:])])
    weight = sum(weight for _, weight in sizes) + 1
    if depth > _DEEPEST or weight > _HEAVIEST:
        raise ValueError("it is nested too deeply")
    return depth, weight
