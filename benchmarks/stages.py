"""What a network is made of: its stages with the shapes that they give, their parameters and multiply-accumulates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import nn

__all__ = ["MOST", "Call", "leaves", "replaced", "stages", "watched"]

MOST = 25
"""Most rows of a table of stages: what a page holds at a glance."""

_SHARE = 0.04
"""A stage with less than this share of the network's products or parameters is not taken apart."""


@dataclass
class Call:
    """What was seen of a module while a network ran.

    Attributes:
        order: How many modules had been entered before.
        calls: How often it ran, as the heads of pyramids do for each level.
        macs: Multiply-accumulates of all calls, those of modules within it too.
        outputs: Shapes of the tensors that it gave, each once.
    """

    order: int
    calls: int = 0
    macs: int = 0
    outputs: list[list[int]] = field(default_factory=list)


@contextmanager
def watched(model: nn.Module, macs: Callable[[], int]) -> Iterator[dict[str, Call]]:
    """See every module of `model` that runs meanwhile, by its name; `macs` tells the products counted so far."""
    seen: dict[str, Call] = {}
    entered: list[int] = []

    def enter(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            seen.setdefault(name, Call(order=len(seen)))
            entered.append(macs())

        return hook

    def leave(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            call = seen[name]
            call.calls += 1
            call.macs += macs() - entered.pop()
            call.outputs += [shape for shape in _shapes(output) if shape not in call.outputs]

        return hook

    handles = []
    for name, module in model.named_modules():
        handles += [module.register_forward_pre_hook(enter(name)), module.register_forward_hook(leave(name))]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def replaced(model: nn.Module, method: str, by: Callable[..., Any]) -> Iterator[None]:
    """Meanwhile, `by` is what `model.method` calls; of this model alone."""
    before = model.__dict__.get(method)
    model.__dict__[method] = by
    try:
        yield
    finally:
        if before is None:
            del model.__dict__[method]
        else:
            model.__dict__[method] = before


def leaves(value: Any) -> Iterator[Any]:
    """What an answer is made of, however it is wrapped: tensors, arrays, numbers."""
    if isinstance(value, Mapping):
        value = list(value.values())
    elif is_dataclass(value):
        value = [getattr(value, entry.name) for entry in fields(value)]
    if isinstance(value, list | tuple):
        for part in value:
            yield from leaves(part)
    else:
        yield value


def _shapes(value: Any) -> Iterator[list[int]]:
    """Of the tensors in an answer."""
    return (list(leaf.shape) for leaf in leaves(value) if isinstance(leaf, torch.Tensor))


def stages(model: nn.Module, seen: Mapping[str, Call], most: int = MOST) -> list[dict[str, Any]]:
    """The modules of a network in the order in which they run, the heaviest taken apart as far as `most` rows allow.

    Args:
        model: The network.
        seen: Of `watched`, from one run.
        most: Most rows.

    Returns:
        For each `module` (its path), `type`, `outputs` (shapes), `calls`, `parameters` and `macs`. Modules without any
        weight that multiply nothing are left out. `calls` is 0 where a module does not run, or only in parts.
    """
    modules = dict(model.named_modules())
    rows = _parts("", modules, seen)
    total = sum(_macs(name, seen) for name in rows), _count(model)
    while True:
        open_rows = [name for name in rows if _parts(name, modules, seen) and _is_worth(name, modules, seen, total)]
        for name in sorted(open_rows, key=lambda name: _rank(name, modules, seen)):
            parts = _parts(name, modules, seen)
            if len(rows) - 1 + len(parts) <= most:
                rows[rows.index(name) : rows.index(name) + 1] = parts
                break
        else:
            break
    rows.sort(key=lambda name: min((seen[path].order for path in _outermost(name, seen)), default=len(seen)))
    return [_row(name, modules, seen) for name in rows]


def _parts(name: str, modules: Mapping[str, nn.Module], seen: Mapping[str, Call]) -> list[str]:
    """The children of a module that have weights or multiply."""
    prefix = f"{name}." if name else ""
    paths = [f"{prefix}{child}" for child, _ in modules[name].named_children()]
    return [path for path in paths if path in modules and (_count(modules[path]) or _macs(path, seen))]


def _is_worth(name: str, modules: Mapping[str, nn.Module], seen: Mapping[str, Call], total: tuple[int, int]) -> bool:
    """Whether taking a module apart tells something: repeated blocks of one size are told by their number."""
    if name not in seen:
        return True
    parts = _parts(name, modules, seen)
    if name[-1].isdigit() or all(part[-1].isdigit() for part in parts):
        sizes = {tuple(shape[2:]) for part in parts if part in seen for shape in seen[part].outputs if len(shape) == 4}
        if len(sizes) < 2:
            return False
    shares = _macs(name, seen) / max(total[0], 1), _count(modules[name]) / max(total[1], 1)
    return max(shares) >= _SHARE


def _rank(name: str, modules: Mapping[str, nn.Module], seen: Mapping[str, Call]) -> tuple[bool, int, int]:
    """What is taken apart first: what never runs as a whole, then what lies highest, then what is heaviest."""
    return name in seen, name.count("."), -_macs(name, seen)


def _macs(name: str, seen: Mapping[str, Call]) -> int:
    return sum(seen[path].macs for path in _outermost(name, seen))


def _outermost(name: str, seen: Mapping[str, Call]) -> list[str]:
    """The module itself; where it never runs as a whole, the parts of it that do."""
    if name in seen:
        return [name]
    inside = [path for path in seen if path.startswith(f"{name}.")]
    return [path for path in inside if not any(path.startswith(f"{other}.") for other in inside)]


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _row(name: str, modules: Mapping[str, nn.Module], seen: Mapping[str, Call]) -> dict[str, Any]:
    return {
        "module": name,
        "type": type(modules[name]).__name__,
        "outputs": seen[name].outputs if name in seen else [],
        "calls": seen[name].calls if name in seen else 0,
        "parameters": _count(modules[name]),
        "macs": _macs(name, seen),
    }
