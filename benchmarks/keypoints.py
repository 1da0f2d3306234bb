"""How CornerNet and CenterNet are tested: at one scale or several, mirrored or not, boxes merged or not.

`benchmarks.multiscale` puts together what a detector answers at each scale. These two put together what they see before
they answer: the pairs of corners of all scales are checked against centers, then suppressed, so that a center may
confirm a box of another scale (released testers of Law & Deng 2018 and of Duan et al. 2019).

    model = KeypointTest(detector, KEYPOINT_PROTOCOLS["centernet"])
    model(images)

Where the papers' text and their code differ, a protocol named after a paper does as the code, which made the tables,
and the one that ends in `_text` as the text reads: each scale's pairs are checked against the centers of that scale,
and Soft-NMS moves no box.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ops.structures import Detections, Target
from zoo.detector import Detector
from zoo.one_stage.cornernet import Candidates, CornerNet, Look

__all__ = ["KEYPOINT_PROTOCOLS", "KeypointProtocol", "KeypointTest"]


@dataclass(frozen=True)
class KeypointProtocol:
    """What is looked at, and what becomes of it.

    Attributes:
        name: What Records and the command line call it.
        scales: Each image is resized to so many times the size in which it is looked at otherwise.
        flip: Whether each scale also sees the image mirrored left to right.
        merge: Exponent of `ops.nms.soft_nms_merge`; None for Soft-NMS alone.
        centers: `scale_1`: the centers of scale 1 confirm the pairs of all scales; `own`: those of each scale its own.
    """

    name: str
    scales: tuple[float, ...] = (1.0,)
    flip: bool = True
    merge: float | None = None
    centers: Literal["scale_1", "own"] = "scale_1"

    def __post_init__(self) -> None:
        if not self.scales or not all(scale > 0 for scale in self.scales):
            raise ValueError(f"{self.name}: scales must be positive numbers, at least one, got {self.scales}")
        if self.centers == "scale_1" and 1.0 not in self.scales:
            raise ValueError(f"{self.name}: centers are those of scale 1, which is none of {self.scales}")

    def describe(self) -> dict[str, Any]:
        """Everything, as a Record keeps it."""
        return asdict(self)

    def over(self, model: Detector) -> KeypointTest:
        """The detector under this protocol.

        Raises:
            ValueError: It pairs no corners.
        """
        return KeypointTest(model, self)


_CORNERNET = (0.5, 0.75, 1.0, 1.25, 1.5)
_CENTERNET = (0.6, 1.0, 1.2, 1.5, 1.8)

KEYPOINT_PROTOCOLS: dict[str, KeypointProtocol] = {
    protocol.name: protocol
    for protocol in (
        KeypointProtocol("cornernet", _CORNERNET, merge=10.0),
        KeypointProtocol("centernet", _CENTERNET, merge=10.0),
        KeypointProtocol("cornernet_text", _CORNERNET, centers="own"),
        KeypointProtocol("centernet_text", _CENTERNET, centers="own"),
        KeypointProtocol("keypoint_flip"),
        KeypointProtocol("keypoint_single", flip=False),
    )
}
"""Both papers' scales; then one scale with the mirror image, which is the detectors' own way, and one without."""


class KeypointTest(Detector):
    """A detector of corners that answers as `model(images)` does, by a protocol.

    Between calls, and after an error, the detector within mirrors images as it did before.
    """

    def __init__(self, model: Detector, protocol: KeypointProtocol) -> None:
        """Raises ValueError for a detector that pairs no corners."""
        if not isinstance(model, CornerNet):
            raise ValueError(
                f"multi-scale {protocol.name} checks and merges pairs of corners, which {type(model).__name__} has "
                f"none of; it is for CornerNet and CenterNet, and `relative` for most others"
            )
        super().__init__(model.num_classes)
        self.model, self.protocol = model, protocol

    def forward(self, images: list[Tensor], targets: list[Target] | None = None) -> list[Detections]:
        """Detections an image.

        Raises:
            ValueError: There are targets.
        """
        if targets is not None:
            raise ValueError("a detector under test only detects; train the one that it was made of")
        looks: list[list[Look]] = [[] for _ in images]
        with self._own_flip_afterwards():
            self.model.flip_test = self.protocol.flip
            for scale in self.protocol.scales:
                batch = self.model.preprocess(images, scale)
                for seen, look in zip(looks, self.model.look(self.model.network(batch)[-1], batch), strict=True):
                    seen.append(look)
        return [self._settled(seen, image) for seen, image in zip(looks, images, strict=True)]

    def _settled(self, looks: list[Look], image: Tensor) -> Detections:
        size = (int(image.shape[-2]), int(image.shape[-1]))
        if self.protocol.centers == "own":
            found = _joined([self.model.check(look, size) for look in looks])
        else:
            centers = looks[self.protocol.scales.index(1.0)].centers
            found = self.model.check(Look(_joined([look.pairs for look in looks]), centers), size)
        return self.model.settle(found, self.protocol.merge)

    @contextmanager
    def _own_flip_afterwards(self) -> Iterator[None]:
        own = self.model.flip_test
        try:
            yield
        finally:
            self.model.flip_test = own


def _joined(parts: list[Candidates]) -> Candidates:
    boxes, scores, labels = (torch.cat(rows) for rows in zip(*(part[:3] for part in parts), strict=True))
    return Candidates(boxes, scores, labels, torch.cat([part.corners for part in parts if part.corners is not None]))
