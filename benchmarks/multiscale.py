"""Multi-scale testing: a detector looks at every image in several sizes and mirrored, and all it says is voted on.

The "+" rows of RefineDet's tables (Zhang et al., CVPR 2018) and the "++" rows of RON's are made so. The tables of
scales below are those of RefineDet's released tester; for RON's no list of scales is known, neither from the paper nor
from its code, so there is no protocol of that name: `relative` serves it as it serves any other detector.

SNIP (Singh and Davis, CVPR 2018, https://arxiv.org/abs/1711.08189) looks at a pyramid too, but takes from each
resolution only the boxes of sizes that its detectors were trained on there (`valid_range`), and merges by Soft-NMS.

    model = MultiScale(detector, PROTOCOLS["refinedet320_voc"])
    model(images)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.keypoints import KEYPOINT_PROTOCOLS, KeypointProtocol
from ops.nms import Suppression, soft_nms
from ops.snip import in_range
from ops.structures import Detections, Target
from ops.voting import classwise_voting
from zoo.detector import Detector

__all__ = ["PROTOCOLS", "MultiScale", "Protocol", "Scale", "Voting", "protocol_named"]


@dataclass(frozen=True)
class Scale:
    """A network input, and which of the boxes that are found there count.

    The sides of a box are those on the original image, both border pixels included: `x2 - x1 + 1`.

    Attributes:
        size: Side of a square in pixels, or the two sides `(shorter, longer)`: the image's shorter side gets the
            shorter one, and where both are alike, the width does. None where `factor` is given.
        factor: Side as a multiple of the detector's own, to the nearest multiple of 32; exactly 1 changes nothing.
        longest_over: Boxes count whose longer side is more than this; None: all.
        shortest_under: Boxes count whose shorter side is less than this; None: all.
        valid_range: Boxes count whose size, the root of their area without border pixels, lies between these, None
            being no end; None: all.
    """

    size: int | tuple[int, int] | None = None
    factor: float | None = None
    longest_over: float | None = None
    shortest_under: float | None = None
    valid_range: tuple[float, float | None] | None = None

    def __post_init__(self) -> None:
        if (self.size is None) == (self.factor is None):
            raise ValueError(f"a scale needs a size or a factor, and not both: got {self.size} and {self.factor}")

    def inputs(self, own: int | tuple[int, int], image: Tensor) -> int | tuple[int, int]:
        """Side or `(H, W)` of the input for an image `[3, H, W]`, where the detector's own input is `own`."""
        if self.factor == 1:
            return own
        if self.factor is not None:
            height, width = (max(32, 32 * round(self.factor * side / 32)) for side in _pair(own))
            return height if isinstance(own, int) else (height, width)
        assert self.size is not None
        if isinstance(self.size, int):
            return self.size
        shorter, longer = self.size
        return (shorter, longer) if image.shape[-2] < image.shape[-1] else (longer, shorter)

    def counts(self, boxes: Tensor) -> Tensor:
        """bool `[N]`: which boxes `[N, 4]`, in pixels of the original image, count."""
        sides = boxes[:, 2:] - boxes[:, :2] + 1
        counted = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
        if self.longest_over is not None:
            counted &= sides.amax(1) > self.longest_over
        if self.shortest_under is not None:
            counted &= sides.amin(1) < self.shortest_under
        if self.valid_range is not None:
            counted &= in_range(boxes, self.valid_range)
        return counted


@dataclass(frozen=True)
class Voting:
    """How boxes of one class become fewer; arguments of `ops.voting.vote`.

    Attributes:
        iou: See there.
        floor: See there.
        extent: See there.
    """

    iou: float = 0.45
    floor: float | None = None
    extent: float = 1.0


@dataclass(frozen=True)
class Protocol:
    """What is looked at, and how the answers are merged.

    Attributes:
        name: What Records and the command line call it.
        scales: In the order in which their boxes are gathered.
        flip: Whether each scale also sees the image mirrored left to right.
        merge: How; by Soft-NMS, at most 100 boxes an image are left.
    """

    name: str
    scales: tuple[Scale, ...]
    flip: bool = True
    merge: Voting | Suppression = Voting()

    def describe(self) -> dict[str, Any]:
        """Everything, as a Record keeps it."""
        content = asdict(self)
        content["scales"] = [
            {name: value for name, value in scale.items() if value is not None} for scale in content["scales"]
        ]
        return content

    def over(self, model: Detector) -> MultiScale:
        """The detector under this protocol.

        Raises:
            ValueError: It cannot take one of the inputs.
        """
        return MultiScale(model, self)


_SOFT = Voting(floor=0.01)
"""RefineDet's tester takes the floor for COCO from a file that comes with each model; this is its default."""

_320 = (
    Scale(320),
    Scale((192, 320)),
    Scale(192, longest_over=32),
    Scale(384, shortest_under=160),
    Scale(448, shortest_under=128),
    Scale(512, shortest_under=96),
    Scale(576, shortest_under=64),
    Scale(704, shortest_under=32),
)
_512 = (
    Scale(512),
    Scale((384, 512)),
    Scale(256),
    Scale(384),
    Scale(896, shortest_under=128),
    Scale(768, shortest_under=192),
)
_512_COCO = (
    *_512,
    Scale(640, shortest_under=224),
    Scale(1024, shortest_under=96),
    Scale(1152, shortest_under=64),
)

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol("refinedet320_voc", _320),
        Protocol("refinedet320_coco", (*_320, Scale(640, shortest_under=48)), merge=_SOFT),
        Protocol("refinedet512_voc", _512),
        Protocol("refinedet512_coco", _512_COCO, merge=_SOFT),
        Protocol("relative", (Scale(factor=0.6), Scale(factor=1.0), Scale(factor=1.4))),
        Protocol("mirrored", (Scale(factor=1.0),)),
        Protocol("enlarged", (Scale(factor=1.0), Scale(factor=1.2), Scale(factor=1.4))),
        Protocol(
            "snip",
            (
                Scale((1400, 2000), valid_range=(0, 80)),
                Scale((800, 1200), valid_range=(40, 160)),
                Scale((480, 800), valid_range=(120, None)),
            ),
            flip=False,
            merge=Suppression(),
        ),
        Protocol(
            "snip_small",
            (
                Scale(factor=1.8, valid_range=(0, 24)),
                Scale(factor=1.0, valid_range=(12, 48)),
                Scale(factor=0.6, valid_range=(36, None)),
            ),
            flip=False,
            merge=Suppression(),
        ),
    )
}
"""RefineDet's, for networks of 320 and of 512 pixels; one for any detector, and what it does besides looking at several
sizes, by which their part is told; and one for detectors that only take larger inputs than their own, as SSD does, the
last map of which cannot shrink. Then SNIP's for COCO, and the same for small images: its ranges are as large a part of
160 pixels as those of the paper are of COCO's images."""


def protocol_named(name: str) -> Protocol | KeypointProtocol:
    """The protocol of a name, those of detectors of corners included.

    Raises:
        ValueError: There is none; the message lists those that there are.
    """
    known: dict[str, Protocol | KeypointProtocol] = {**PROTOCOLS, **KEYPOINT_PROTOCOLS}
    if name not in known:
        raise ValueError(f"multi-scale protocol {name!r} is unknown; choose one of {', '.join(known)}")
    return known[name]


class MultiScale(Detector):
    """A detector that answers as `model(images)` does, from all scales of a protocol.

    Between calls, and after an error, the detector within has its own input again.
    """

    def __init__(self, model: Detector, protocol: Protocol) -> None:
        """Try every scale on the detector, without running it.

        Args:
            model: Takes other inputs than its own (`Detector.resize`), and says by `size` what its own is.
            protocol: What to look at.

        Raises:
            ValueError: The detector cannot take one of the inputs.
        """
        super().__init__(model.num_classes)
        self.model, self.protocol = model, protocol
        probes = [torch.empty(3, *size, device="meta") for size in ((1, 2), (2, 1))]
        with self._own_size_afterwards() as own:
            for size in dict.fromkeys(scale.inputs(own, probe) for scale in protocol.scales for probe in probes):
                self._resize(size, own)

    def forward(self, images: list[Tensor], targets: list[Target] | None = None) -> list[Detections]:
        """Detections an image.

        Raises:
            ValueError: There are targets; or what `Detector.forward` raises.
        """
        if targets is not None:
            raise ValueError("a detector under multi-scale testing only detects; train the one that it was made of")
        seen: list[list[Detections]] = [[] for _ in images]
        with self._own_size_afterwards() as own:
            for scale in self.protocol.scales:
                sizes = [scale.inputs(own, image) for image in images]
                for size in dict.fromkeys(sizes):
                    self._resize(size, own)
                    indices = [index for index, other in enumerate(sizes) if other == size]
                    for index, found in self._look(images, indices):
                        seen[index].append(found[scale.counts(found.boxes)])
        return [self._merged(_joined(found)) for found in seen]

    def _merged(self, found: Detections) -> Detections:
        how = self.protocol.merge
        if isinstance(how, Voting):
            return classwise_voting(found, **asdict(how))
        rows, scores = soft_nms(found.boxes, found.scores, labels=found.labels, **asdict(how), limit=100)
        return Detections(found.boxes[rows], scores, found.labels[rows])

    def _look(self, images: list[Tensor], indices: list[int]) -> Iterator[tuple[int, Detections]]:
        chosen = [images[index] for index in indices]
        yield from zip(indices, self.model(chosen), strict=True)
        if self.protocol.flip:
            for index, found in zip(indices, self.model([image.flip(-1) for image in chosen]), strict=True):
                left, top, right, bottom = found.boxes.unbind(1)
                width = images[index].shape[-1]
                yield index, replace(found, boxes=torch.stack([width - right, top, width - left, bottom], 1))

    @contextmanager
    def _own_size_afterwards(self) -> Iterator[int | tuple[int, int]]:
        own = getattr(self.model, "size", None)
        if own is None:
            raise ValueError(f"{type(self.model).__name__} has no input of one size: --multi-scale does not fit it")
        try:
            yield own
        finally:
            if self.model.size != own:
                self._change(own)

    @torch.inference_mode(False)
    def _change(self, size: int | tuple[int, int]) -> None:
        # A buffer that was made under inference mode could not be trained with any more.
        self.model.resize(size)

    def _resize(self, size: int | tuple[int, int], own: int | tuple[int, int]) -> None:
        if _pair(size) == _pair(self.model.size):  # type: ignore[arg-type]
            return
        try:
            self._change(size)
        except ValueError as error:
            raise ValueError(
                f"multi-scale {self.protocol.name} needs an input of {'x'.join(map(str, _pair(size)))}, which this "
                f"detector of {'x'.join(map(str, _pair(own)))} refuses: {error}. There is {', '.join(PROTOCOLS)}"
            ) from error


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _joined(found: list[Detections]) -> Detections:
    boxes, scores, labels = zip(*((part.boxes, part.scores, part.labels) for part in found), strict=True)
    return Detections(torch.cat(boxes), torch.cat(scores), torch.cat(labels))
