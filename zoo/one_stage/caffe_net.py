"""Any detector whose Caffe files end in DetectionOutput: SSD and what descends from it, to run and to score.

Yangqing Jia et al. Caffe: Convolutional Architecture for Fast Feature Embedding. ACM Multimedia 2014.
https://arxiv.org/abs/1408.5093, with the layers of SSD's branch, https://github.com/weiliu89/caffe/tree/ssd

The `.prototxt` names the layers, the priors and the thresholds; the `.caffemodel` brings the numbers. Such a detector
does not train here: the catalog's `ssd300_vgg16` and its kin do, and they take the official caffemodels too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ops.images import Batch, normalise, stack, warp
from ops.structures import Detections, Target
from zoo.detector import Detector
from zoo.formats.caffe import CaffeError
from zoo.formats.caffe_net import CaffeNet, DetectionOutput, PriorBox, read_caffe_net

__all__ = ["CaffeDetector", "caffe_detector"]


class CaffeDetector(Detector):
    """A network whose last layer is DetectionOutput.

    Args:
        net: The network, with one image as its input.
        mean: Taken from the pixels, in the order of the network's channels.
        bgr: Whether that order is blue first.
        peak: What white is.

    Attributes:
        size: `(H, W)` of the input; images are warped to it.

    Raises:
        CaffeError: The network does not end in one DetectionOutput, or does not start with one image of three channels.
    """

    def __init__(
        self, net: CaffeNet, *, mean: Sequence[float] = (104, 117, 123), bgr: bool = True, peak: float = 255
    ) -> None:
        heads = [
            (step, module)
            for step, module in zip(net.steps, net.layers, strict=True)
            if isinstance(module, DetectionOutput)
        ]
        shapes = list(net.inputs.values())
        if len(heads) != 1:
            raise CaffeError(f"{net.path}: {len(heads)} DetectionOutput layers instead of one, so it detects nothing")
        if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][1] != 3:
            raise CaffeError(f"{net.path}: inputs of shapes {shapes}; a detector takes one image of three channels")
        step, head = heads[0]
        super().__init__(head.num_classes - (0 <= head.background < head.num_classes))
        self.net = net
        self._sources, self._head = step.bottoms, [head]
        self.size = shapes[0][2], shapes[0][3]
        self.mean, self.bgr, self.peak = tuple(mean), bgr, peak

    def resize(self, size: int | tuple[int, int]) -> None:
        """Change the input for the calls that follow."""
        self.size = (size, size) if isinstance(size, int) else size

    def preprocess(self, images: list[Tensor]) -> Batch:
        """Warped to the input, less the mean."""
        batch = stack([warp(image, self.size) for image in images])
        return replace(batch, pixels=normalise(batch.pixels, self.mean, (1, 1, 1), bgr=self.bgr, peak=self.peak))

    def network(self, batch: Batch, targets: list[Target] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """What DetectionOutput is given: locations, scores and priors."""
        maps = self.net(batch.pixels, self._sources)
        locations, scores, priors = (maps[name] for name in self._sources[:3])
        return locations, scores, priors

    def postprocess(self, outputs: tuple[Tensor, Tensor, Tensor], batch: Batch) -> list[Detections]:
        """As the layer says, in the pixels of each image; labels count foreground classes only."""
        (head,) = self._head
        rows = head(*outputs)[0, 0]
        labels = rows[:, 1].long()
        labels = labels - (labels > head.background).long() if head.background >= 0 else labels
        boxes = rows[:, 3:] * rows.new_tensor([batch.size[1], batch.size[0]] * 2)
        answers = []
        for index, frame in enumerate(batch.frames):
            mine = (rows[:, 0] == index).nonzero()[:, 0]
            answers.append(Detections.ranked(frame.to_image(boxes[mine]), rows[mine, 2], labels[mine]))
        return answers

    def losses(self, outputs: tuple[Tensor, Tensor, Tensor], batch: Batch, targets: list[Target]) -> dict[str, Tensor]:
        """There are none.

        Raises:
            NotImplementedError: Always; it says which detector trains.
        """
        raise NotImplementedError(
            f"{self.net.path}: a detector from Caffe's files does not train; build 'ssd300_vgg16' or its kin from the "
            f"catalog, and load the caffemodel into it"
        )

    def num_boxes(self, size: tuple[int, int]) -> int:
        """Priors at network input `size`."""
        priors = [
            step.tops[0] for step, m in zip(self.net.steps, self.net.layers, strict=True) if isinstance(m, PriorBox)
        ]
        with torch.no_grad():
            pixels = torch.zeros(1, 3, *size, device=self.device)
            return sum(boxes.shape[-1] // 4 for boxes in self.net(pixels, priors).values())


def caffe_detector(
    caffemodel: Path, prototxt: Path | None = None, *, mean: Sequence[float] = (104, 117, 123)
) -> CaffeDetector:
    """A detector from its files, in evaluation mode.

    Args:
        caffemodel: The numbers.
        prototxt: The layers, where the caffemodel does not hold those for deployment.
        mean: Taken from BGR bytes (OpenCV's faces: 104, 177, 123).

    Raises:
        CaffeError: A file is damaged, the two do not fit, or the network is no detector.
    """
    return CaffeDetector(read_caffe_net(caffemodel, prototxt), mean=mean).eval()
