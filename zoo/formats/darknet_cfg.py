"""Darknet's `.cfg` files: a list of sections with entries, read strictly.

A section or an entry that would change what the network computes, and that this project does not build, is an error
here, not later; entries that only concern training are left unread.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from zoo.formats.darknet import DarknetError

__all__ = ["Cfg", "Section", "parse_cfg", "read_cfg"]


@dataclass(frozen=True)
class _Entries:
    """What may stand in a section.

    Attributes:
        read: Entries that this reader uses.
        unread: Entries that only training looks at.
        fixed: Entries that are understood with one value only.
    """

    read: frozenset[str]
    unread: frozenset[str]
    fixed: Mapping[str, float]


def _entries(read: str, unread: str = "", **fixed: float) -> _Entries:
    return _Entries(frozenset(read.split()), frozenset((_ANY + unread).split()), {**_ANY_FIXED, **fixed})


_ANY = "clip onlyforward dont_update burnin_update stopbackward train_only_bn learning_rate stream wait_stream "
_ANY_FIXED = {"dontload": 0.0, "dontloadscales": 0.0}
_SPARED = "jitter resize random max max_delta label_smooth_eps focal_loss map counters_per_class "

_SECTIONS = {
    "net": _entries(
        "width height channels letter_box",
        "batch subdivisions momentum decay angle saturation exposure hue aspect burn_in max_batches max_epochs policy "
        "steps scales seq_scales step scale gamma power learning_rate_min sgdr_cycle sgdr_mult max_crop min_crop flip "
        "mosaic mosaic_bound cutmix mixup blur gaussian_noise label_smooth_eps ema_alpha adam B1 B2 eps seen "
        "resize_step adversarial_lr attention max_chart_loss unsupervised contrastive contrastive_jit_flip "
        "contrastive_color try_fix_nan augment_speed optimized_memory workspace_size_limit_MB dynamic_minibatch "
        "loss_scale use_cuda_graph weights_reject_freq equidistant_point badlabels_rejection_percentage "
        "num_sigmas_reject_badlabels sequential_subdivisions show_receptive_field track",
        time_steps=1,
    ),
    "crop": _entries("crop_width crop_height noadjust", "flip angle saturation exposure shift"),
    "convolutional": _entries(
        "filters size stride pad padding groups dilation batch_normalize activation",
        "cbn assisted_excitation angle grad_centr",
        binary=0,
        xnor=0,
        bin_output=0,
        sway=0,
        rotate=0,
        stretch=0,
        stretch_sway=0,
        flipped=0,
        dot=0,
        reverse=0,
        coordconv=0,
        antialiasing=0,
    ),
    "local": _entries("filters size stride pad activation"),
    "connected": _entries("output batch_normalize activation"),
    "maxpool": _entries("size stride padding", maxpool_depth=0, antialiasing=0, maxpool_zero_nonmax=0),
    "avgpool": _entries(""),
    "dropout": _entries("", "probability dropblock dropblock_size_rel dropblock_size_abs"),
    "shortcut": _entries("from activation weights_type", "weights_normalization", alpha=1, beta=1),
    "route": _entries("layers groups group_id"),
    "upsample": _entries("stride scale"),
    "reorg": _entries("stride", reverse=0, flatten=0, extra=0),
    "softmax": _entries("", "noloss spatial", groups=1, temperature=1),
    "cost": _entries("", "type scale ratio"),
    "detection": _entries(
        "classes coords num side softmax sqrt",
        _SPARED + "rescore forced coord_scale object_scale noobject_scale class_scale",
        reorg=0,
    ),
    "region": _entries(
        "classes coords num softmax anchors",
        _SPARED + "thresh rescore bias_match absolute classfix log sqrt "
        "coord_scale object_scale noobject_scale mask_scale class_scale",
        background=0,
    ),
    "yolo": _entries(
        "classes num mask anchors scale_x_y nms_kind",
        _SPARED + "ignore_thresh truth_thresh iou_thresh iou_thresh_kind iou_loss iou_normalizer obj_normalizer "
        "cls_normalizer delta_normalizer uc_normalizer objectness_smooth beta_nms show_details",
        new_coords=0,
    ),
}
_SAME_SECTION = {"network": "net", "conv": "convolutional", "conn": "connected", "max": "maxpool", "avg": "avgpool"}


@dataclass(frozen=True)
class Section:
    """One `[name]` and its entries.

    Attributes:
        source: The file.
        line: Where it begins, from 1.
        name: In full and without brackets.
        entries: Text and line of each entry.
    """

    source: str
    line: int
    name: str
    entries: Mapping[str, tuple[str, int]]

    def error(self, message: str, entry: str | None = None) -> DarknetError:
        """An error that says where: file, line, section and entry."""
        line = self.line if entry is None else self.entries.get(entry, ("", self.line))[1]
        where = f"[{self.name[:60]}]{f' {entry[:60]}' if entry else ''}"
        return DarknetError(f"{self.source}: line {line}: {where}: {message}")

    def text(self, entry: str, default: str | None = None) -> str:
        """The entry, or `default`; without one it must be there."""
        if entry in self.entries:
            return self.entries[entry][0]
        if default is None:
            raise self.error(f"is missing; add a line {entry}=...", entry)
        return default

    def numbers(self, entry: str, default: str | None = None) -> tuple[float, ...]:
        """The entry as numbers between commas."""
        text = self.text(entry, default)
        try:
            # Python reads 1_000 as a thousand, Darknet does not.
            values = tuple(float(part.replace("_", "?")) for part in text.strip(",").split(","))
        except ValueError:
            raise self.error(f"{self.shown(entry)} is no number or list of numbers; mend it", entry) from None
        if not all(math.isfinite(value) for value in values):
            raise self.error(f"{self.shown(entry)} is not finite; mend it", entry)
        return values

    def shown(self, entry: str) -> str:
        """The entry as error messages quote it."""
        text = self.entries.get(entry, ("",))[0]
        return repr(text if len(text) <= 60 else f"{text[:57]}...")

    def number(self, entry: str, default: float | None = None) -> float:
        """The entry as one number."""
        values = self.numbers(entry, None if default is None else str(default))
        if len(values) != 1:
            raise self.error(f"{len(values)} numbers instead of one; mend it", entry)
        return values[0]

    def integers(self, entry: str, default: str | None = None) -> tuple[int, ...]:
        """The entry as whole numbers between commas."""
        values = self.numbers(entry, default)
        if any(value != int(value) for value in values):
            raise self.error(f"{self.shown(entry)} must be whole; mend it", entry)
        return tuple(int(value) for value in values)

    def integer(self, entry: str, default: int | None = None, *, least: int = 0, most: int = 1_000_000) -> int:
        """The entry as one whole number from `least` to `most`."""
        values = self.integers(entry, None if default is None else str(default))
        if len(values) != 1 or values[0] < least:
            raise self.error(f"{self.shown(entry)} must be one whole number of at least {least}; mend it", entry)
        if values[0] > most:
            raise self.error(f"{self.shown(entry)} is more than {most:,}, the most that is built here; mend it", entry)
        return values[0]


@dataclass(frozen=True)
class Cfg:
    """A whole file.

    Attributes:
        source: The file.
        net: Its first section.
        layers: The others; Darknet numbers layers from 0.
    """

    source: str
    net: Section
    layers: tuple[Section, ...]

    @property
    def size(self) -> tuple[int, int]:
        """`(H, W)` of the input."""
        return self.net.integer("height", least=1), self.net.integer("width", least=1)


def read_cfg(path: Path) -> Cfg:
    """Read a file.

    Raises:
        DarknetError: It cannot be read, or is no cfg that this project builds; the message names file and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DarknetError(f"{path}: is no text (byte {error.start}); give Darknet's .cfg file") from error
    except OSError as error:
        raise DarknetError(f"{path}: cannot be read ({error.strerror}); give Darknet's .cfg file") from error
    return parse_cfg(text, str(path))


def parse_cfg(text: str, source: str = "the cfg") -> Cfg:
    """Read the text of a file; `source` names it in errors.

    Raises:
        DarknetError: A line is neither section nor entry, or a section or entry is unknown, doubled or not supported.
    """
    sections: list[tuple[int, str, dict[str, tuple[str, int]]]] = []
    for number, raw in enumerate(text.splitlines(), 1):
        # Darknet drops blanks even inside a line.
        line = "".join(raw.partition("#")[0].split())
        if not line or line.startswith(";"):
            continue
        if line.startswith("["):
            if not line.endswith("]"):
                raise DarknetError(f"{source}: line {number}: {line[:60]!r} lacks its closing bracket; write [name]")
            name = line[1:-1].lower()
            sections.append((number, _SAME_SECTION.get(name, name), {}))
            continue
        entry, separator, value = line.partition("=")
        if not separator or not entry or not value:
            raise DarknetError(f"{source}: line {number}: {line[:60]!r} is neither [section] nor name=value; mend it")
        if not sections:
            raise DarknetError(f"{source}: line {number}: {entry[:60]} stands before any section; begin with [net]")
        found = sections[-1][2]
        allowed = _SECTIONS.get(sections[-1][1])
        if entry in found and found[entry][0] != value and (allowed is None or entry not in allowed.unread):
            raise DarknetError(
                f"{source}: line {number}: [{sections[-1][1][:60]}] {entry[:60]}: is {value[:60]!r} here and "
                f"{found[entry][0][:60]!r} on line {found[entry][1]}; keep one"
            )
        found.setdefault(entry, (value, number))
    if not sections or sections[0][1] != "net":
        raise DarknetError(f"{source}: line {sections[0][0] if sections else 1}: does not begin with [net]; add it")
    checked = [_checked(Section(source, line, name, entries)) for line, name, entries in sections]
    if len(checked) < 2:
        raise DarknetError(f"{source}: line {checked[0].line}: no layers follow [net]; the file is cut off")
    for section in checked[1:]:
        if section.name == "net":
            raise section.error("stands here again; keep the first, with which the file begins")
    return Cfg(source, checked[0], tuple(checked[1:]))


def _checked(section: Section) -> Section:
    allowed = _SECTIONS.get(section.name)
    if allowed is None:
        raise section.error(f"is no section that is built here; there is {', '.join(_SECTIONS)}")
    for entry in section.entries:
        if entry in allowed.fixed:
            if section.number(entry) != allowed.fixed[entry]:
                raise section.error(f"only {allowed.fixed[entry]:g} is built here; the network would be another", entry)
        elif entry not in allowed.read | allowed.unread:
            known = ", ".join(sorted(allowed.read | set(allowed.fixed) - set(_ANY_FIXED))) or "none"
            raise section.error(
                f"is no entry that is understood here (those that shape the network: {known}); correct or remove it",
                entry,
            )
    return section
