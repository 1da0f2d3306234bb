"""State dicts that torch saved: read as numbers and names, whatever else a pickle might ask for."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from zoo.formats.pickles import check_pickle

__all__ = ["StateDictError", "check_saved", "read_state_dict"]

_PICKLES = 5
"""A file of the format before torch 1.6 has so many, one behind the other, and then its numbers."""


class StateDictError(ValueError):
    """A file holds no whole state dict; the message names the file, the entry and the remedy."""


def check_saved(file: IO[bytes]) -> None:
    """Refuse a file of torch's that would not stay within its own size; the file is then at its beginning again.

    Raises:
        ValueError: Its archive is compressed, as torch's are not, or claims more than it holds, or a pickle is a bomb.
        zipfile.BadZipFile: It is no whole archive.
    """
    if file.read(2) == b"PK":
        size = file.seek(0, 2)
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise ValueError("its archive is compressed, as torch's never are")
            if sum(member.file_size for member in members) > size:
                raise ValueError("its archive claims more bytes than the file has")
            for member in members:
                if member.filename.endswith(".pkl"):
                    with archive.open(member) as pickled:
                        check_pickle(pickled)
    else:
        file.seek(0)
        for _ in range(_PICKLES):
            check_pickle(file)
    file.seek(0)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """A state dict, bare or under `state_dict` or `model`, without the `module.` of a parallel wrapper; on the CPU.

    Raises:
        StateDictError: The file is missing, damaged, asks for more than tensors, or holds something else.
    """
    try:
        with path.open("rb") as file:
            check_saved(file)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise StateDictError(f"{path}: there is no such file; fetch the weights first") from error
    # A damaged pickle can fail in any way.
    except Exception as error:
        reason = (str(error).splitlines() or ["it ends too early"])[0][:200]
        raise StateDictError(f"{path}: no whole state dict of torch ({reason}); download the file again") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise StateDictError(f"{path}: holds {type(content).__name__} instead of a state dict; give another file")
    for name, value in content.items():
        if not isinstance(value, Tensor):
            raise StateDictError(
                f"{path}: {str(name)[:80]}: {type(value).__name__} instead of a tensor; give a plain state dict"
            )
        if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
            raise StateDictError(f"{path}: {str(name)[:80]}: is no plain tensor; give a plain state dict")
    if all(str(name).startswith("module.") for name in content):
        return {name.removeprefix("module."): value for name, value in content.items()}
    return {str(name): value for name, value in content.items()}
