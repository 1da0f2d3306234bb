"""State dicts that torch saved: read as numbers and names, whatever else a pickle might ask for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["StateDictError", "read_state_dict"]


class StateDictError(ValueError):
    """A file holds no whole state dict; the message names the file, the entry and the remedy."""


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """A state dict, bare or under `state_dict` or `model`, without the `module.` of a parallel wrapper; on the CPU.

    Raises:
        StateDictError: The file is missing, damaged, asks for more than tensors, or holds something else.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise StateDictError(f"{path}: there is no such file; fetch the weights first") from error
    # A damaged pickle can fail in any way.
    except Exception as error:
        reason = (str(error).splitlines() or ["it ends too early"])[0]
        raise StateDictError(f"{path}: no whole state dict of torch ({reason}); download the file again") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise StateDictError(f"{path}: holds {type(content).__name__} instead of a state dict; give another file")
    for name, value in content.items():
        if not isinstance(value, Tensor):
            raise StateDictError(f"{path}: {name}: {type(value).__name__} instead of a tensor; give a plain state dict")
    if all(str(name).startswith("module.") for name in content):
        return {name.removeprefix("module."): value for name, value in content.items()}
    return {str(name): value for name, value in content.items()}
