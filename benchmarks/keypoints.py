"""How CornerNet and CenterNet are tested: at one scale or several, mirrored or not, boxes merged or not.

`benchmarks.multiscale` puts together what a detector answers at each scale. These two put together what they see before
they answer: the pairs of corners of all scales are checked against centers, then suppressed, so that a center may
confirm a box of another scale (released testers of Law & Deng 2018 and of Duan et al. 2019).

    model = KeypointTest(detector, KEYPOINT_PROTOCOLS["centernet"])
    model(images)

Where the papers' text and their code differ, a protocol named after a paper does as the code, which made the tables,
and the one that ends in `_text` as the text reads: each scale's pairs are checked against the centers of that scale,
and Soft-NMS moves no box.

Both papers ask what a detector would be worth if it knew a part of the truth (CenterNet's Table 5: centers; CornerNet's
Table 6: heatmaps, then offsets too). `KeypointTest.told` answers so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ops.heatmap import gaussian_heatmaps
from ops.images import Batch
from ops.structures import Detections, Target
from zoo.detector import Detector
from zoo.one_stage.cornernet import Candidates, CornerNet, KeypointMaps, Look

__all__ = ["KEYPOINT_PROTOCOLS", "KNOWN", "KeypointProtocol", "KeypointTest", "Known", "knowing"]

Known = Literal["centers", "heatmaps", "heatmaps_and_offsets"]
KNOWN: dict[str, str] = {
    "centers": "CenterNet, Table 5: the centers of all objects are known, and no others",
    "heatmaps": "CornerNet, Table 6: the heatmaps of all kinds of keypoint are those that training aims at",
    "heatmaps_and_offsets": "CornerNet, Table 6: the offsets too",
}
"""What of the truth a detector of corners may be told."""


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

    def __init__(self, model: Detector, protocol: KeypointProtocol, known: Known | None = None) -> None:
        """Look at images by `protocol`; `told` may then know a part of the truth.

        Raises:
            ValueError: The detector pairs no corners, or looks for no centers that it could be told.
        """
        if not isinstance(model, CornerNet):
            what = f"multi-scale {protocol.name}" if known is None else f"the truth of {known}"
            raise ValueError(
                f"{what} is for detectors that pair corners (CornerNet, CenterNet), which {type(model).__name__} does "
                f"not; `--multi-scale relative` is for most others"
            )
        if known is not None and known not in KNOWN:
            raise ValueError(f"of the truth {known!r} cannot be told; choose one of {', '.join(KNOWN)}")
        if known == "centers" and "ct" not in model.sigma_shares:
            raise ValueError("true centers are for a CenterNet; this detector looks for none: tell it heatmaps")
        super().__init__(model.num_classes)
        self.model, self.protocol, self.known = model, protocol, known

    def forward(self, images: list[Tensor], targets: list[Target] | None = None) -> list[Detections]:
        """Detections an image.

        Raises:
            ValueError: There are targets.
        """
        if targets is not None:
            raise ValueError("a detector under test only detects; train the one that it was made of")
        return self._detect(images, None)

    def told(self, images: list[Tensor], truth: list[Target]) -> list[Detections]:
        """Detections an image of a detector that knows `known` of the truth, in pixels of the images.

        What is told scores 1; the papers name no score, and all that are told alike leave the order to the rest.
        Objects marked `ignore` are not told.
        """
        if not self.model.trains_on_ignored:
            truth = [target[~target.ignore] for target in truth]
        return self._detect(images, truth)

    def _detect(self, images: list[Tensor], truth: list[Target] | None) -> list[Detections]:
        looks: list[list[Look]] = [[] for _ in images]
        with self._own_flip_afterwards():
            self.model.flip_test = self.protocol.flip
            for scale in self.protocol.scales:
                batch = self.model.preprocess(images, scale)
                maps = self.model.network(batch)[-1]
                if truth is not None and self.known != "centers":
                    maps = self._true_maps(maps, batch, truth)
                for seen, look in zip(looks, self.model.look(maps, batch), strict=True):
                    seen.append(look)
        if truth is not None:
            looks = [
                [self._with_truth(look, target) for look in seen] for seen, target in zip(looks, truth, strict=True)
            ]
        return [self._settled(seen, image) for seen, image in zip(looks, images, strict=True)]

    def _with_truth(self, look: Look, target: Target) -> Look:
        if self.known == "centers":
            points = (target.boxes[:, :2] + target.boxes[:, 2:]) / 2
            sure = torch.ones_like(points[:, 0])
            return look._replace(centers=Candidates(points.repeat(1, 2), sure, target.labels))
        # Where there are fewer corners than are asked for, cells that score 0 fill the list.
        assert look.pairs.corners is not None
        return look._replace(pairs=look.pairs.only(look.pairs.corners.amin(1) > 0.5))

    def _true_maps(self, maps: dict[str, KeypointMaps], batch: Batch, truth: list[Target]) -> dict[str, KeypointMaps]:
        answer = {}
        for kind, predicted in maps.items():
            views, classes, height, width = predicted.heat.shape
            ratio = torch.tensor([width / batch.size[1], height / batch.size[0]] * 2, device=predicted.heat.device)
            heat, offset = torch.zeros_like(predicted.heat), predicted.offset.clone()
            for view in range(views):
                frame, target = batch.frames[view % len(truth)], truth[view % len(truth)]
                boxes = frame.to_network(target.boxes) * ratio
                if view >= len(truth):
                    left, top, right, bottom = boxes.unbind(1)
                    boxes = torch.stack([width - right, top, width - left, bottom], 1)
                points, cells = self.model.cells(kind, boxes, (height, width))
                heat[view] = gaussian_heatmaps(
                    cells,
                    target.labels,
                    self.model.radii(boxes),
                    (classes, height, width),
                    self.model.sigma_shares[kind],
                )
                if self.known == "heatmaps_and_offsets":
                    offset[view, :, cells[:, 1], cells[:, 0]] = (points - cells).T.to(offset.dtype)
            answer[kind] = KeypointMaps(heat.logit(1e-6), offset, predicted.tag)
        return answer

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


def knowing(model: Detector, known: Known, protocol: object = None) -> KeypointTest:
    """A detector of corners that can be `told`, by a protocol of its kind or, without one, at its own scale.

    Raises:
        ValueError: As `KeypointTest`; or the protocol is of another kind.
    """
    if protocol is None:
        own = isinstance(model, CornerNet) and model.flip_test
        protocol = KEYPOINT_PROTOCOLS["keypoint_flip" if own else "keypoint_single"]
    if not isinstance(protocol, KeypointProtocol):
        raise ValueError(f"the truth can be told under {', '.join(KEYPOINT_PROTOCOLS)}, and under no other multi-scale")
    return KeypointTest(model, protocol, known)


def _joined(parts: list[Candidates]) -> Candidates:
    boxes, scores, labels = (torch.cat(rows) for rows in zip(*(part[:3] for part in parts), strict=True))
    return Candidates(boxes, scores, labels, torch.cat([part.corners for part in parts if part.corners is not None]))
