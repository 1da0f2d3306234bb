"""Any detector that a Darknet `.cfg` file describes: YOLO, YOLOv2, YOLOv3 and their many descendants, to run and score.

Joseph Redmon. Darknet: Open Source Neural Networks in C. 2013-2016. https://pjreddie.com/darknet

The file names the layers, the heads and the anchors; this module decodes what the heads say and validates as Darknet
does: least score .005 and suppression at .45 for YOLOv2 and YOLOv3, .001 and .5 for YOLO; letterboxed images, but
resized without regard to their aspect for YOLO and by the code of AlexeyAB, whose logs need `placement="warp"`.

Such a detector does not train here: the catalog's `yolov1`, `yolov2` and `yolov3` do, from the same layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ops.images import Batch, letterbox, stack, warp
from ops.nms import classwise_nms
from ops.structures import Detections, Target
from zoo.detector import Detector
from zoo.formats.darknet import DarknetError, Layer
from zoo.formats.darknet_cfg import Cfg, parse_cfg, read_cfg
from zoo.formats.darknet_network import CfgNetwork, Head

__all__ = ["DarknetDetector", "darknet_detector"]

_LARGEST_LOG = 8.0
_TRAINS = {"detection": "yolov1", "region": "yolov2", "yolo": "yolov3"}


class DarknetDetector(Detector):
    """The network of a cfg, with decoding, threshold and suppression.

    Args:
        cfg: The file.
        size: Side of the square input, or `(H, W)`, where it is not the cfg's.
        placement: How an image comes into the input; by default letterboxed, or as the cfg's `letter_box` says, and
            warped for YOLO.
        score_floor: Least score (objectness times class) of a detection; by default what Darknet validates with.
        nms: IoU above which the lesser detection of a class goes; likewise.
        limit: Most detections an image; None keeps all, as Darknet does.
        eps: Added to the variance by batch normalisation; OpenCV adds 1e-6.

    Raises:
        DarknetError: The cfg has no head, heads of differing classes, or is no image's network.
        ValueError: The network does not take this size.
    """

    def __init__(
        self,
        cfg: Cfg,
        *,
        size: int | tuple[int, int] | None = None,
        placement: Literal["letterbox", "warp"] | None = None,
        score_floor: float | None = None,
        nms: float | None = None,
        limit: int | None = None,
        eps: float = 1e-5,
    ) -> None:
        net = CfgNetwork(cfg)
        if not net.heads:
            raise DarknetError(f"{cfg.source}: has no [yolo], [region] or [detection] layer, so it detects nothing")
        if len({head.classes for head in net.heads}) > 1:
            counts = ", ".join(str(head.classes) for head in net.heads)
            raise DarknetError(f"{cfg.source}: its heads have {counts} classes; give all the same")
        if cfg.net.integer("channels", 3) != 3:
            raise cfg.net.error("images have 3 channels; set channels=3", "channels")
        if placement not in (None, "letterbox", "warp"):
            raise ValueError(f"placement must be 'letterbox' or 'warp', got {placement!r}")
        super().__init__(net.heads[0].classes)
        self.net = net
        self.size = cfg.size
        first = net.heads[0].kind == "detection"
        boxed = bool(cfg.net.integer("letter_box", 0 if first else 1))
        self.placement = placement or ("letterbox" if boxed else "warp")
        self.score_floor = score_floor if score_floor is not None else 0.001 if first else 0.005
        self.nms = nms if nms is not None else 0.5 if first else 0.45
        self.limit = limit
        for module in net.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.eps = eps
        if size is not None:
            self.resize(size)

    def resize(self, size: int | tuple[int, int]) -> None:
        """Change the input for the calls that follow; without connected layers, to what the cfg's layers divide."""
        wanted = (size, size) if isinstance(size, int) else size
        if wanted == self.size:
            return
        if not self.net.resizable:
            raise ValueError(f"{self.net.cfg.source}: its connected layers take {self.size} only, got {wanted}")
        cfg = self.net.cfg
        entries = {**cfg.net.entries}
        for entry, side in zip(("height", "width"), wanted, strict=True):
            entries[entry] = (str(side), cfg.net.line)
        with torch.device("meta"):
            try:
                CfgNetwork(replace(cfg, net=replace(cfg.net, entries=entries)))
            except DarknetError as error:
                raise ValueError(f"size {wanted} does not fit: {error}") from error
        self.size = wanted

    def preprocess(self, images: list[Tensor]) -> Batch:
        """Letterboxed on grey, or warped."""
        place = letterbox if self.placement == "letterbox" else warp
        return stack([place(image, self.size) for image in images])

    def network(self, batch: Batch, targets: list[Target] | None = None) -> list[Tensor]:
        """What each head is given: `[B, A (5 + C), H_i, W_i]`, or `[B, S S (5 A + C)]` for YOLO."""
        outputs: list[Tensor] = self.net(batch.pixels)
        return outputs

    def decode(self, outputs: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes `[B, N, 4]` in network pixels, objectness `[B, N]` and classes `[B, N, C]` as probabilities.

        N runs over heads in the order of the file, then over boxes of a cell, y and x; for YOLO over y, x and boxes.
        YOLO's numbers are no probabilities: nothing keeps them within 0 and 1.
        """
        heads = zip(self.net.heads, outputs, strict=True)
        parts = [(_decode_vector if head.kind == "detection" else _decode_map)(head, x, self.size) for head, x in heads]
        boxes, objectness, classes = (torch.cat(column, 1) for column in zip(*parts, strict=True))
        return boxes, objectness, classes

    def postprocess(self, outputs: list[Tensor], batch: Batch) -> list[Detections]:
        """Score, suppress class by class, and go back to the pixels of each image."""
        answers = []
        for boxes, objectness, classes, frame in zip(*self.decode(outputs), batch.frames, strict=True):
            if self.net.heads[0].kind != "detection":
                rows = objectness > self.score_floor
                boxes, objectness, classes = boxes[rows], objectness[rows], classes[rows]
            scores = objectness[:, None] * classes
            found = classwise_nms(boxes, scores, score_floor=self.score_floor, iou=self.nms, limit=self.limit)
            answers.append(replace(found, boxes=frame.to_image(found.boxes)))
        return answers

    def losses(self, outputs: list[Tensor], batch: Batch, targets: list[Target]) -> dict[str, Tensor]:
        """Not here: raises NotImplementedError and names the detector of the catalog that trains."""
        name = _TRAINS[self.net.heads[0].kind]
        raise NotImplementedError(
            f"{self.net.cfg.source}: networks from a cfg run but do not train; train {name} of the catalog instead"
        )

    def num_boxes(self, size: tuple[int, int]) -> int:
        """Boxes of all cells of all heads."""
        total = 0
        for head, shape in zip(self.net.heads, self.net.head_shapes, strict=True):
            if head.kind == "detection":
                total += head.boxes * head.side**2
            else:
                height, width = self.net.cfg.size
                total += head.boxes * (size[0] * shape[1] // height) * (size[1] * shape[2] // width)
        return total

    def darknet_layers(self) -> Iterator[Layer]:
        """The layers in the order of the cfg and of its weights file."""
        return self.net.darknet_layers()


def _decode_map(head: Head, x: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """YOLOv2 and YOLOv3: sigmoids place a centre in its cell, exponentials scale the anchors."""
    batch, _, rows, columns = x.shape
    stride = x.new_tensor([size[1] / columns, size[0] / rows], dtype=torch.float32)
    raw = x.float().reshape(batch, head.boxes, 5 + head.classes, rows, columns).permute(0, 1, 3, 4, 2)
    across, down = torch.arange(columns, device=x.device), torch.arange(rows, device=x.device)
    corner = torch.stack(torch.meshgrid(across, down, indexing="xy"), -1)
    centre = (raw[..., :2].sigmoid() * head.scale - 0.5 * (head.scale - 1) + corner) * stride
    anchors = x.new_tensor(head.anchors, dtype=torch.float32)[:, None, None]
    if head.kind == "region":
        anchors = anchors * stride
    half = 0.5 * anchors * raw[..., 2:4].clamp(max=_LARGEST_LOG).exp()
    classes = raw[..., 5:].softmax(-1) if head.softmax else raw[..., 5:].sigmoid()
    boxes = torch.cat([centre - half, centre + half], -1)
    return boxes.flatten(1, 3), raw[..., 4].sigmoid().flatten(1, 3), classes.flatten(1, 3)


def _decode_vector(head: Head, x: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """YOLO: all classes of all cells, then all confidences, then all boxes; one distribution of classes a cell."""
    cells = head.side**2
    classes, objectness, places = (
        x.float().flatten(1).split([cells * head.classes, cells * head.boxes, cells * head.boxes * 4], 1)
    )
    classes = classes.reshape(-1, cells, 1, head.classes)
    if head.softmax:
        classes = classes.softmax(-1)
    classes = classes.expand(-1, -1, head.boxes, -1)
    places = places.reshape(-1, cells, head.boxes, 4)
    cell = torch.arange(cells, device=x.device)
    corner = torch.stack([cell % head.side, cell // head.side], -1)[:, None]
    extent = x.new_tensor([size[1], size[0]], dtype=torch.float32)
    centre = (places[..., :2] + corner) / head.side * extent
    half = 0.5 * (places[..., 2:] ** 2 if head.squared else places[..., 2:]) * extent
    boxes = torch.cat([centre - half, centre + half], -1)
    return boxes.flatten(1, 2), objectness, classes.flatten(1, 2)


def darknet_detector(cfg: str | Path, **overrides: Any) -> DarknetDetector:
    """A detector from a `.cfg` file, or from the text of one.

    Args:
        cfg: The file's path, or its text (which has line breaks).
        overrides: Arguments of `DarknetDetector`.

    Raises:
        DarknetError: The cfg cannot be read or built; the message names file, line, section and remedy.
    """
    found = parse_cfg(cfg) if isinstance(cfg, str) and "\n" in cfg else read_cfg(Path(cfg))
    return DarknetDetector(found, **overrides)
