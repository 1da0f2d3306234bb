"""HOG + SVM as OpenCV scans with it: `cv2.HOGDescriptor.detectMultiScale`, and the people that it knows.

Descriptor and machine are those of Dalal and Triggs (`hog_svm`), trained on INRIA's pedestrians (64 x 128 pixels) or on
Daimler's (48 x 96). What OpenCV does otherwise: each scale is made from bytes and is bytes again, windows are merged
into the mean of their group instead of the surest one suppressing others, and a box is the whole window. Arc tangents
are exact here and not there, so that a margin within some thousandths of the threshold may fall on the other side.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ops.features import hog_blocks
from ops.images import Batch
from ops.opencv import group_rectangles, resize_bytes
from ops.structures import Detections
from zoo.classical.hog_svm import HogSvm, Level

__all__ = ["OpenCVHog", "hog_svm_opencv", "opencv_people", "opencv_vector"]

_LEVELS = 64


class OpenCVHog(HogSvm):
    """`HogSvm` with OpenCV's scales and merging. It learns as `HogSvm` does, or takes OpenCV's machines.

    Args:
        num_classes: Foreground classes.
        merge: Of a group of windows that are alike, more than this must hold an object (`finalThreshold`); 0 merges
            nothing.
        scale_step: From one scale to the next.
        margin: Cells of surroundings that are left out of boxes; OpenCV leaves them in.
        limit: Most detections an image.
        gamma: Take the square root of intensities (`gammaCorrection`).
        overrides: As for `HogSvm`.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        merge: int = 2,
        scale_step: float = 1.05,
        margin: int = 0,
        limit: int = 10_000,
        gamma: bool = True,
        **overrides: Any,
    ) -> None:
        super().__init__(num_classes, scale_step=scale_step, margin=margin, limit=limit, **overrides)
        if self.padding or self.largest_scale != 1:
            raise ValueError("OpenCV's scales begin with the image itself, and are not padded; use hog_svm")
        self.merge, self.gamma = merge, gamma

    def postprocess(self, outputs: list[list[Level]], batch: Batch) -> list[Detections]:
        """Windows that hold an object, in whole pixels, merged; a group's score is that of its surest window."""
        answers = []
        for levels, frame in zip(outputs, batch.frames, strict=True):
            boxes, scores, labels = [], [], []
            for label, window in enumerate(self._windows()):
                rectangles, found = self._found(levels, label, window)
                if self.merge:
                    rectangles, belongs = group_rectangles(rectangles, self.merge)
                    best = found.new_zeros(len(rectangles) + 1)
                    # Windows whose group went have a place of their own.
                    found = best.scatter_reduce(0, belongs % len(best), found, "amax")[:-1]
                x, y, width, height = rectangles.float().unbind(-1)
                right, below = (
                    self.margin * side / cells for side, cells in zip((width, height), window[::-1], strict=True)
                )
                corners = [x + right, y + below, x + width - right, y + height - below]
                boxes.append(frame.to_image(torch.stack(corners, -1)))
                scores.append(found)
                labels.append(torch.full_like(found, label, dtype=torch.int64))
            answers.append(Detections.ranked(torch.cat(boxes), torch.cat(scores), torch.cat(labels), self.limit))
        return answers

    def _found(self, levels: list[Level], label: int, window: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Windows over the floor, `(x, y, width, height)` int64 `[n, 4]`, and their scores `[n]`."""
        rectangles, found = [self.window.new_zeros((0, 4))], [self.bias.new_zeros(0)]
        factor = 1.0
        for level in levels:
            scores = level.margins[label].sigmoid()
            places = torch.nonzero(scores >= self.score_floor)
            sides = torch.tensor(window[::-1], device=places.device).expand(len(places), 2)
            pixels = torch.cat([places.flip(1), sides], 1) * self.cell
            rectangles.append((pixels.double() * factor).round().long())
            found.append(scores[places[:, 0], places[:, 1]])
            factor *= self.scale_step
        return torch.cat(rectangles), torch.cat(found)

    def _sizes(self, size: tuple[int, int]) -> Iterator[tuple[int, int]]:
        """`(H, W)` of the scales of an image, as long as some class's window fits, and at most 64."""
        factor = 1.0
        for _ in range(_LEVELS):
            height, width = round(size[0] / factor), round(size[1] / factor)
            fits = [rows * self.cell <= height and columns * self.cell <= width for rows, columns in self._windows()]
            if not any(fits):
                return
            yield height, width
            factor *= self.scale_step

    def _pyramid(self, image: Tensor) -> Iterator[tuple[tuple[float, float], Tensor]]:
        """Scale and blocks of each level of `[3, H, W]`."""
        levels = (image * 255).round().clamp(0, 255).byte()
        size = (int(image.shape[-2]), int(image.shape[-1]))
        for height, width in self._sizes(size):
            resized = torch.stack([resize_bytes(channel, (height, width)) for channel in levels])
            yield (width / size[1], height / size[0]), hog_blocks(resized.float() / 255, self.cell, gamma=self.gamma)


def opencv_people(trained_on: Literal["inria", "daimler"] = "inria", **overrides: Any) -> OpenCVHog:
    """The people detectors that OpenCV ships; class 0 is a person.

    Args:
        trained_on: INRIA's pedestrians, of 64 x 128 pixels with their surroundings, or Daimler's, of 48 x 96.
        overrides: Arguments of `OpenCVHog`; `score_floor` 0.5 is a `hitThreshold` of 0.
    """
    import cv2

    descriptor = cv2.HOGDescriptor
    inria = trained_on == "inria"
    vector = descriptor.getDefaultPeopleDetector() if inria else descriptor.getDaimlerPeopleDetector()
    return opencv_vector(np.asarray(vector), **overrides)


def opencv_vector(vector: npt.NDArray[np.float32], **overrides: Any) -> OpenCVHog:
    """A detector of one class from the numbers of a `cv2.HOGDescriptor`'s linear SVM.

    Their count tells the window: 3,781 are of 64 x 128 pixels; 1,981 of Daimler's 48 x 96, which OpenCV's own examples
    describe without gamma.

    Raises:
        ValueError: There are other than so many, or numbers that are not finite.
    """
    windows = {3781: ((16, 8), True), 1981: ((12, 6), False)}
    if vector.size not in windows or vector.dtype.kind != "f" or not np.isfinite(vector).all():
        raise ValueError(
            f"{vector.size} values of type {vector.dtype} are no SVM of OpenCV's: it takes 3,781 finite numbers (a "
            f"window of 64 x 128) or 1,981 (48 x 96)"
        )
    window, gamma = windows[vector.size]
    model = hog_svm_opencv(1, **{"window": window, "gamma": gamma, **overrides})
    model.load_opencv(vector)
    return model.eval()


def hog_svm_opencv(num_classes: int, **overrides: Any) -> OpenCVHog:
    """The paper's 64 x 128 window, scanned in OpenCV's way."""
    return OpenCVHog(num_classes, **overrides)
