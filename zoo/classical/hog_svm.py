"""Histograms of oriented gradients and a linear SVM: N. Dalal, B. Triggs, CVPR 2005.

https://lear.inrialpes.fr/people/triggs/pubs/Dalal-cvpr05.pdf

A window slides over every scale of an image; what it covers is described by normalised histograms of gradient
directions (`ops.features`), and a linear support vector machine says object or not. The machine is trained twice: on
objects and random windows, then also on the windows that it wrongly took for objects.

What we do otherwise: any number of classes, each with a machine and a window shape of its own (the paper knows one
class, people in 64 x 128). Training windows come from the pyramid that detection scans, and are as badly aligned as
those met later. Non-maximum suppression instead of mean shift over position and scale. The score is the logistic
function of the margin: it keeps the order, is 0.5 on the machine's boundary, and lets classes be ranked together as
far as their margins can be.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from ops.augment import flip
from ops.features import hog_blocks
from ops.images import Batch, Frame, unscaled
from ops.nms import classwise_nms
from ops.structures import Detections, Target
from zoo.detector import Detector
from zoo.parts.fitting import Images, tracked
from zoo.parts.windows import Examples, Scan, median_aspects

__all__ = ["SMALL", "HogSvm", "Level", "hog_svm", "people_detector"]

SMALL: Mapping[str, Any] = {
    "window": (11, 11),
    "margin": 1,
    "area": 36,
    "cell": 4,
    "padding": 2,
    "largest_scale": 2.0,
    "antialias": True,
    "score_floor": 0.25,
}


@dataclass(frozen=True)
class Level:
    """One scale of an image, scanned.

    Attributes:
        scale: `(sx, sy)`, pixels of the level per pixel of the image.
        margins: `[C, Y, X]`: what the SVM says of the window whose first cell is at row `y` and column `x` of the
            padded level, above 0 for an object; minus infinity where the class's window does not fit.
    """

    scale: tuple[float, float]
    margins: Tensor


class HogSvm(Detector):
    """One linear SVM a class over the HOG pyramid.

    Args:
        num_classes: Foreground classes.
        window: Rows and columns of cells of the largest window, margin included (section 4: 64 x 128 pixels).
        margin: Cells of surroundings on each side of an object in its window (section 6.6: 16 pixels).
        area: Cells that an object covers in its window, about; `fit` gives them the class's median aspect.
        cell: Side of a cell in pixels, and the stride of the windows (section 6.3).
        padding: Cells by which each scale is continued on every side, for objects at the image's edge.
        largest_scale: First scale of the pyramid; 2 finds objects of half the window's size.
        scale_step: From one scale to the next.
        antialias: Whether smaller scales average the pixels that they drop. OpenCV's do not.
        score_floor: Detections must score more; 0.5 is the SVM's boundary.
        nms_iou: Of two windows of one class that overlap by more, the lower-scoring goes.
        limit: Most detections an image.
        c: The SVM's price of a violated margin (section 4: 0.01).
        rounds: Times that it is trained again with hard negatives (section 4: once).
        positives: Most windows with an object that a class learns from.
        negatives: Windows without one: at most so many random ones, and as many hard ones a round.
        positive_iou: Overlap from which a window holds an object.
        negative_iou: Overlap below which it holds none.
    """

    classifies_windows = True
    weight: Tensor
    bias: Tensor
    window: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        window: tuple[int, int] = (16, 8),
        margin: int = 2,
        area: int = 48,
        cell: int = 8,
        padding: int = 0,
        largest_scale: float = 1.0,
        scale_step: float = 1.2,
        antialias: bool = False,
        score_floor: float = 0.5,
        nms_iou: float = 0.3,
        limit: int = 100,
        c: float = 0.01,
        rounds: int = 1,
        positives: int = 2500,
        negatives: int = 4000,
        positive_iou: float = 0.6,
        negative_iou: float = 0.3,
    ) -> None:
        super().__init__(num_classes)
        if min(window) <= 2 * margin or min(window) < 2:
            raise ValueError(f"a window of {window} cells leaves no object within {margin} cells on each side")
        if scale_step <= 1:
            raise ValueError(f"scale_step must be over 1, got {scale_step}")
        self.canvas, self.margin, self.area, self.cell, self.padding = window, margin, area, cell, padding
        self.largest_scale, self.scale_step, self.antialias = largest_scale, scale_step, antialias
        self.score_floor, self.nms_iou, self.limit = score_floor, nms_iou, limit
        self.c, self.rounds, self.positives, self.negatives = c, rounds, positives, negatives
        self.positive_iou, self.negative_iou = positive_iou, negative_iou
        # Zero beyond a class's own window. Until something is learned, the bias lets no window pass any floor.
        self.register_buffer("weight", torch.zeros((num_classes, 36, window[0] - 1, window[1] - 1)))
        self.register_buffer("bias", torch.full((num_classes,), -10.0))
        self.register_buffer("window", torch.tensor([window] * num_classes))

    def preprocess(self, images: list[Tensor]) -> Batch:
        """Images as they are, padded to one size. The pyramid is the network's, for it is computed from pixels."""
        return unscaled(images)

    def network(self, batch: Batch, targets: list[Target] | None = None) -> list[list[Level]]:
        """The scanned scales of each image, the largest first."""
        images = [pixels[:, : f.inner[0], : f.inner[1]] for pixels, f in zip(batch.pixels, batch.frames, strict=True)]
        return [[Level(scale, self._margins(blocks)) for scale, blocks in self._pyramid(image)] for image in images]

    def postprocess(self, outputs: list[list[Level]], batch: Batch) -> list[Detections]:
        """Windows without their margins, as boxes; duplicates suppressed class by class."""
        answers = []
        empty = batch.pixels.new_zeros((self.num_classes, 0, 4))
        for levels, frame in zip(outputs, batch.frames, strict=True):
            boxes = [self._boxes(level.scale, level.margins.shape[-2:], frame).flatten(1, 2) for level in levels]
            margins = [level.margins.flatten(1) for level in levels]
            answers.append(
                classwise_nms(
                    torch.cat([empty, *boxes], 1).transpose(0, 1),
                    torch.cat([empty[..., 0], *margins], 1).T.sigmoid(),
                    score_floor=self.score_floor,
                    iou=self.nms_iou,
                    limit=self.limit,
                    before_per_class=300,
                )
            )
        return answers

    def num_boxes(self, size: tuple[int, int]) -> int | None:
        """Windows that are scanned, over all scales and classes."""
        grids = [[side // self.cell + 2 * self.padding for side in level] for level in self._sizes(size)]
        shapes = self._windows()
        return sum(max(0, h - rows + 1) * max(0, w - columns + 1) for h, w in grids for rows, columns in shapes)

    def fit(self, dataset: Images, seed: int) -> None:
        """Learn window shapes, then the SVMs with hard negatives, from `dataset[i]` -> (image, Target).

        The same seed and images give the same detector. Weights are rounded to float16, as checkpoints keep them.

        Raises:
            ValueError: A class has no object, or none that a window of the pyramid covers.
        """
        chance = np.random.default_rng(seed)
        self._choose_windows([dataset[index][1] for index in range(len(dataset))])
        order = [int(index) for index in chance.permutation(len(dataset))]
        share = -(-self.negatives // len(order))
        found = [Examples(self.positives) for _ in range(self.num_classes)]
        others = [Examples(self.negatives) for _ in range(self.num_classes)]
        for index in tracked(order, "HOG: objects and random windows"):
            scan = self._scan(*dataset[index], chance)
            for label in range(self.num_classes):
                if found[label].wanted:
                    found[label].add(scan.take(label, scan.holding(label, self.positive_iou)))
                if others[label].wanted:
                    free = scan.free(label, self.negative_iou)
                    others[label].add(scan.take(label, free[chance.permutation(len(free))[:share]]))
            if not any(examples.wanted for examples in [*found, *others]):
                break
        for label, examples in enumerate(found):
            if not examples.count:
                raise ValueError(
                    f"class {label}: no window overlaps an object by {self.positive_iou}; "
                    "add images of it, or choose a largest_scale that suits its size"
                )
            self._train(label, found[label], others[label], seed)
        for turn in range(1, self.rounds + 1):
            for examples in others:
                examples.limit = examples.count + self.negatives
            for index in tracked(order, f"HOG: hard negatives, round {turn}"):
                scan = self._scan(*dataset[index], chance, scored=True)
                for label in range(self.num_classes):
                    if others[label].wanted:
                        free = scan.free(label, self.negative_iou)
                        # Beyond the negative margin is where the SVM's loss begins.
                        worst = free[(-scan.margins[label, free]).argsort()[: 4 * share]]
                        others[label].add(scan.take(label, worst[scan.margins[label, worst] > -1]))
                if not any(examples.wanted for examples in others):
                    break
            for label in range(self.num_classes):
                self._train(label, found[label], others[label], seed)

    def load_opencv(self, vector: npt.NDArray[np.float32]) -> None:
        """Take weights and bias of `cv2.HOGDescriptor`'s linear SVM, whose blocks run column by column.

        Raises:
            ValueError: It is for another number of classes or another window.
        """
        rows, columns = self.canvas
        wanted = (rows - 1) * (columns - 1) * 36 + 1
        if self.num_classes != 1 or vector.size != wanted:
            raise ValueError(
                f"{vector.size} numbers, where one class and a window of {columns} x {rows} cells take {wanted} (this "
                f"detector has {self.num_classes} classes); build it with the window that they were trained for"
            )
        values = torch.from_numpy(vector.astype(np.float32).ravel()).to(self.weight)
        self.weight.copy_(values[:-1].reshape(1, columns - 1, rows - 1, 36).permute(0, 3, 2, 1))
        self.bias.copy_(values[-1:])
        self.window.copy_(self.window.new_tensor([self.canvas]))

    def _windows(self) -> list[tuple[int, int]]:
        """Rows and columns of cells of each class's window; without data, the largest there may be."""
        if self.window.is_meta:
            return [self.canvas] * self.num_classes
        return [(rows, columns) for rows, columns in self.window.tolist()]

    def _sizes(self, size: tuple[int, int]) -> Iterator[tuple[int, int]]:
        """`(H, W)` of the scales of an image, as long as some class's window fits."""
        windows, scale = self._windows(), self.largest_scale
        while True:
            height, width = round(size[0] * scale), round(size[1] * scale)
            down, across = (side // self.cell + 2 * self.padding for side in (height, width))
            if min(height, width) < 1 or not any(rows <= down and columns <= across for rows, columns in windows):
                return
            yield height, width
            scale /= self.scale_step

    def _pyramid(self, image: Tensor) -> Iterator[tuple[tuple[float, float], Tensor]]:
        """Scale and blocks of each level of `[3, H, W]`."""
        size = (int(image.shape[-2]), int(image.shape[-1]))
        pad = self.padding * self.cell
        for height, width in self._sizes(size):
            smooth = self.antialias and height < size[0]
            level = F.interpolate(image[None], (height, width), mode="bilinear", align_corners=False, antialias=smooth)
            level = F.pad(level, (pad, pad, pad, pad), mode="replicate")
            yield (width / size[1], height / size[0]), hog_blocks(level[0], self.cell)

    def _margins(self, blocks: Tensor) -> Tensor:
        # All weights lie in one canvas, so that one convolution serves every class; where the canvas hangs over the
        # right or bottom edge, a smaller window may still fit.
        sides = [(max(side) - 1, max(side) - min(side)) for side in zip(*self._windows(), strict=True)]
        (rows, below), (columns, right) = sides
        padded = F.pad(blocks[None], (0, right, 0, below))
        margins = F.conv2d(padded, self.weight[:, :, :rows, :columns], self.bias)[0]
        return margins.masked_fill(~self._fits(blocks), -math.inf)

    def _fits(self, blocks: Tensor) -> Tensor:
        """`[C, Y, X]`: whether a class's window that begins at this block of a level lies within it."""
        least = [min(side) - 1 for side in zip(*self._windows(), strict=True)]
        grid = [side - own + 1 for side, own in zip(blocks.shape[-2:], least, strict=True)]
        last = self.window.new_tensor(blocks.shape[-2:]) + 1 - self.window
        row, column = (torch.arange(side, device=self.window.device) for side in grid)
        return (row[:, None] <= last[:, 0, None, None]) & (column <= last[:, 1, None, None])

    def _boxes(self, scale: tuple[float, float], grid: tuple[int, ...], frame: Frame) -> Tensor:
        """`[C, Y, X, 4]`: the object of every window of a level, in image pixels, clipped to the image."""
        row, column = (torch.arange(side, device=self.window.device) + self.margin - self.padding for side in grid)
        rows, columns = (self.window - 2 * self.margin).T[..., None, None]
        left, top = column.expand(self.num_classes, grid[0], -1), row[:, None].expand(self.num_classes, -1, grid[1])
        corners = torch.stack([left, top, left + columns, top + rows], -1) * float(self.cell)
        return frame.to_image(corners / corners.new_tensor(scale * 2))

    def _choose_windows(self, targets: list[Target]) -> None:
        for label, aspect in enumerate(median_aspects(targets, self.num_classes)):
            for axis, side in enumerate((math.sqrt(self.area / aspect), math.sqrt(self.area * aspect))):
                self.window[label, axis] = min(self.canvas[axis], max(1, round(side)) + 2 * self.margin)

    @torch.no_grad()
    def _scan(self, image: Tensor, target: Target, chance: np.random.Generator, scored: bool = False) -> Scan:
        """Every window of an image that is mirrored half of the time; without margins unless `scored`."""
        image, target = image.to(self.device), replace(target.to(self.device), masks=None)
        if chance.random() < 0.5:
            image, target = flip(image, target)
        size = (int(image.shape[-2]), int(image.shape[-1]))
        blocks, boxes, margins = [], [], []
        for scale, level in self._pyramid(image):
            blocks.append(level)
            margins.append(self._margins(level) if scored else self._fits(level).float().log())
            boxes.append(self._boxes(scale, margins[-1].shape[-2:], Frame(size, size, (1.0, 1.0))).flatten(1, 2))
        if not blocks:
            raise ValueError(f"an image of {size[0]}x{size[1]} holds no window; leave it out, or raise largest_scale")
        grids = [(level.shape[1], level.shape[2]) for level in margins]
        flat = torch.cat([level.flatten(1) for level in margins], 1)
        return Scan(blocks, grids, torch.cat(boxes, 1), flat, target, self._windows())

    def _train(self, label: int, found: Examples, others: Examples, seed: int) -> None:
        from sklearn.svm import LinearSVC

        examples = torch.cat([*found.parts, *others.parts]).cpu().numpy()
        # Liblinear shrinks the bias with the weights; on a longer constant feature it hardly does.
        machine = LinearSVC(C=self.c, loss="hinge", intercept_scaling=10.0, tol=1e-3, max_iter=5000, random_state=seed)
        machine.fit(examples, np.repeat([1, 0], [found.count, others.count]))
        rows, columns = (side - 1 for side in self._windows()[label])
        self.weight[label] = 0
        self.weight[label, :, :rows, :columns] = torch.from_numpy(machine.coef_).half().reshape(36, rows, columns)
        self.bias[label] = float(np.float16(machine.intercept_[0]))


def people_detector(**overrides: Any) -> HogSvm:
    """The detector that OpenCV ships, trained on INRIA's pedestrians as in the paper: class 0 is a person."""
    import cv2

    model = hog_svm(1, **overrides)
    model.load_opencv(np.asarray(cv2.HOGDescriptor.getDefaultPeopleDetector()))
    return model


def hog_svm(num_classes: int, **overrides: Any) -> HogSvm:
    """The paper's 64 x 128 window, one SVM a class."""
    return HogSvm(num_classes, **overrides)
