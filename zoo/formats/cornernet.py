"""Checkpoints of CornerNet and CenterNet as their authors released them (`CornerNet_500000.pkl` and the like).

Despite its ending such a file is a state dict that torch saved. Our modules bear the authors' names, so that what is
left to do is to tell whether it is one of these networks. Two layouts are read: that of both papers' code, and that of
CornerNet-Lite, which ported CornerNet under other names.

Sources: princeton-vl/CornerNet, princeton-vl/CornerNet-Lite, Duankaiwen/CenterNet.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from zoo.formats.state_dict import StateDictError, read_state_dict

__all__ = ["describe", "read_cornernet"]

_HEADS = {f"{kind}_{part}" for kind in ("tl", "br", "ct") for part in ("cnvs", "heats", "regrs")}
_GROUPS = {"pre", "kps", "cnvs", "inters", "inters_", "cnvs_", "tl_tags", "br_tags"} | _HEADS
_PORTED = {
    "hg.pre": "pre",
    "hg.hgs": "kps",
    "hg.cnvs": "cnvs",
    "hg.inters": "inters",
    "hg.inters_": "inters_",
    "hg.cnvs_": "cnvs_",
    "tl_modules": "tl_cnvs",
    "br_modules": "br_cnvs",
    "tl_offs": "tl_regrs",
    "br_offs": "br_regrs",
}


def read_cornernet(path: Path) -> dict[str, Tensor]:
    """The state dict of one of our detectors of corners.

    Raises:
        StateDictError: The file is missing or damaged, or holds a layer that none of them has.
    """
    state: dict[str, Tensor] = {}
    for name, value in read_state_dict(path).items():
        ours = _ours(name)
        if ours.partition(".")[0] not in _GROUPS:
            raise StateDictError(
                f"{path}: {name}: neither CornerNet nor CenterNet has this layer; give a checkpoint of one of them "
                f"(CornerNet-Saccade and CornerNet-Squeeze are other networks)"
            )
        if ours in state:
            raise StateDictError(f"{path}: {name}: fills {ours} a second time; download the file again")
        state[ours] = value
    return state


def _ours(name: str) -> str:
    group, _, rest = name.partition(".")
    if group == "hg":
        second, _, rest = rest.partition(".")
        group = f"hg.{second}"
    return f"{_PORTED.get(group, group)}.{rest}"


def describe(state: Mapping[str, Tensor]) -> str:
    """Which network a state dict is of, in words."""
    last = state.get("tl_heats.0.1.weight")
    if last is None:
        return "no detector of corners"
    added = any("look_conv" in name or name.startswith("ct_") for name in state)
    stacks = len({name.split(".")[1] for name in state if name.startswith("kps.")})
    return f"{'CenterNet' if added else 'CornerNet'} on Hourglass-{52 * stacks} for {len(last)} classes"
