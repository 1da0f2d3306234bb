"""Cut a detector's class heads down to some of its classes, by name: RefineDet's way from MS COCO to PASCAL VOC.

Shifeng Zhang, Longyin Wen, Xiao Bian, Zhen Lei, Stan Z. Li: Single-Shot Refinement Neural Network for Object Detection,
CVPR 2018, section 5.4: VOC's classes are a subset of COCO's, so a network for 80 classes becomes one for 20 by leaving
out the channels of the other 60, "subsampling the parameters". SSD's authors do the same. Everything else is copied.

What a class keeps. The numbers that say how sure the network is of a class (the logits) are those of the larger
network, and so are the boxes. Where every class has a sigmoid of its own (YOLOv3, RetinaNet), so are the scores.
Where classes and background share a softmax (SSD, RefineDet, RON), no linear layer can hand on what the left-out
classes took from the sum: each kept score, and that of background, is divided by 1 less the scores of the classes that
are gone. Ratios between kept classes, and of each to background, stay exactly; scores rise, most where the larger
network saw one of the classes that are gone. YOLOv2's classes share a softmax without background: there the objectness
stays, and the classes that are left divide it among themselves. The paper trains on after the cut, which teaches such
places to be background.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.detector import Detector

__all__ = ["SYNONYMS", "ClassChannels", "find_classes", "subsample"]

SYNONYMS: dict[str, str] = {
    "aeroplane": "airplane",
    "motorbike": "motorcycle",
    "diningtable": "dining table",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}
"""VOC's spelling of what COCO spells otherwise. Darknet's list for COCO spells as VOC does."""


@dataclass(frozen=True)
class ClassChannels:
    """How the classes lie in the first dimension of a parameter: `groups` times `leading` channels of no class, then
    the classes, then others of no class; each of these is `inner` channels. After the last group, `tail` more.

    A detector says so by `class_channels()`, a dict of these by the name of the parameter.

    Attributes:
        groups: Blocks that each have all classes, such as anchors.
        leading: Before the classes of a group: background, or box and objectness.
        inner: Channels a class, where those of one class lie together (RON's anchors, four offsets of a box).
        tail: Channels behind the last group.
    """

    groups: int = 1
    leading: int = 0
    inner: int = 1
    tail: int = 0

    def channels(self, total: int, classes: int, kept: Sequence[int]) -> list[int]:
        """The channels that stay, of `total`, when of `classes` only the `kept` ones do, in their order.

        Raises:
            ValueError: So many channels cannot lie so.
        """
        each, rest = divmod(total - self.tail, self.groups * self.inner)
        if rest or each < self.leading + classes:
            raise ValueError(f"{total} channels do not hold {self.groups} groups of {self.leading} + {classes} classes")
        places = [*range(self.leading), *(self.leading + k for k in kept), *range(self.leading + classes, each)]
        return [
            (group * each + place) * self.inner + channel
            for group in range(self.groups)
            for place in places
            for channel in range(self.inner)
        ] + list(range(total - self.tail, total))


def find_classes(names: Iterable[str], wanted: Sequence[str]) -> list[int]:
    """Where each wanted class stands among `names`, in either spelling of `SYNONYMS`.

    Raises:
        ValueError: A wanted class is not there, or stands there or was asked for twice.
    """
    places: dict[str, int] = {}
    for place, name in enumerate(names):
        if places.setdefault(SYNONYMS.get(name, name), place) != place:
            raise ValueError(f"the detector has the class {name!r} twice, so names do not tell its classes apart")
    found = []
    for name in wanted:
        spelling = SYNONYMS.get(name, name)
        if spelling not in places:
            raise ValueError(f"the detector knows no {name!r}; it knows {', '.join(places)}")
        if places[spelling] in found:
            raise ValueError(f"{name!r} is asked for twice; name every class once")
        found.append(places[spelling])
    return found


@torch.no_grad()
def subsample(model: Detector, smaller: Detector, names: Sequence[str], wanted: Sequence[str]) -> Detector:
    """Fill `smaller`, the same detector built for fewer classes, with the parameters of `model`.

    Args:
        model: Says by `class_channels()` how its classes lie.
        smaller: Of `len(wanted)` classes, otherwise built as `model` was; it is changed.
        names: Of the classes of `model`, in order.
        wanted: Those that stay, in the order of the labels of `smaller`; either spelling of `SYNONYMS`.

    Returns:
        `smaller`, in the mode that it was in.

    Raises:
        ValueError: The detector does not say how its classes lie, names and classes do not fit, or `smaller` is another
            network.
    """
    kind = type(model).__name__
    declared = getattr(model, "class_channels", None)
    if declared is None:
        raise ValueError(f"{kind} does not say where its classes lie (class_channels), so they cannot be cut")
    if len(names) != model.num_classes:
        raise ValueError(f"{len(names)} names for the {model.num_classes} classes of {kind}; give one each")
    if len(wanted) != smaller.num_classes:
        raise ValueError(f"{len(wanted)} classes are wanted, but the detector to fill has {smaller.num_classes}")
    kept = find_classes(names, wanted)
    layouts: dict[str, ClassChannels] = declared()
    state = model.state_dict()
    if unknown := sorted(layouts.keys() - state.keys()):
        raise ValueError(f"{kind}: class_channels() names {unknown[0]}, which it does not have")
    for name, layout in layouts.items():
        state[name] = _cut(name, state[name], layout, model.num_classes, kept)
    try:
        smaller.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise ValueError(f"{kind}: {first} Build the smaller detector with the overrides of the larger") from error
    return smaller


def _cut(name: str, value: Tensor, layout: ClassChannels, classes: int, kept: Sequence[int]) -> Tensor:
    try:
        channels = layout.channels(len(value), classes, kept)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    return value[torch.tensor(channels, device=value.device)]
