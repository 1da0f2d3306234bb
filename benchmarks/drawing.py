"""Draw detections into photographs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torchvision.io import write_png
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from benchmarks.datasets import Dataset, read_image
from benchmarks.evaluate import Subject
from ops.structures import Detections

__all__ = ["draw", "draw_boxes", "gallery", "predict_files"]

_PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442", "#ffffff")


def draw(image: Tensor, detections: Detections, class_names: Sequence[str], threshold: float = 0.3) -> Tensor:
    """The image, uint8 `[3, H, W]`, with the detections that score at least `threshold`, named and scored.

    Masks, where there are any, lie over the image half transparent.
    """
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8)
    shown = detections[detections.scores >= threshold].to("cpu")
    if len(shown) == 0:
        return pixels
    labels = shown.labels.tolist()
    texts = [f"{class_names[label]} {score:.2f}" for label, score in zip(labels, shown.scores.tolist(), strict=True)]
    colors = [_PALETTE[label % len(_PALETTE)] for label in labels]
    if shown.masks is not None:
        pixels = draw_segmentation_masks(pixels, shown.masks, alpha=0.5, colors=colors)
    return draw_boxes(pixels, shown.boxes, texts, colors)


def draw_boxes(pixels: Tensor, boxes: Tensor, texts: Sequence[str], colors: Sequence[str], width: int = 2) -> Tensor:
    """The image, uint8 `[3, H, W]`, with boxes `[N, 4]`, each in its colour and with its text; none where it is empty.

    Texts stand on their box's colour.
    """
    for chosen in (False, True):  # texts over all lines
        rows = [n for n, text in enumerate(texts) if bool(text) == chosen]
        if rows:
            pixels = draw_bounding_boxes(
                pixels,
                boxes[rows],
                [texts[n] for n in rows] if chosen else None,
                [colors[n] for n in rows],
                width=width,
                label_colors="black" if chosen else None,
                fill_labels=chosen,
            )
    return pixels


def predict_files(
    subject: Subject, images: Sequence[Path], out: Path, *, class_names: Sequence[str], threshold: float, device: str
) -> Iterator[Path]:
    """Detect in image files and write `out/NAME.png` for each; yields the files written.

    Raises:
        DatasetError: A file is missing or no whole image.
    """
    out.mkdir(parents=True, exist_ok=True)
    model = subject.model.to(device).eval()
    for path in images:
        image = read_image(path)
        with torch.inference_mode():
            (answer,) = model([image.to(device)])
        target = out / f"{path.stem}.png"
        write_png(draw(image, answer, class_names, threshold), str(target))
        yield target


def gallery(subjects: Sequence[Subject], dataset: Dataset, indices: Sequence[int], threshold: float = 0.4) -> Tensor:
    """A sheet uint8 `[3, H, W]`: a row an image, first the truth, then what each detector sees.

    The truth has masks where a detector has, if the data have any.
    """
    rows = []
    if dataset.has_masks and any(subject.model.trains_on_masks for subject in subjects):
        dataset = dataset.with_masks()
    for index in indices:
        image, target = dataset[index]
        shown = target[~target.ignore]
        truth = Detections(shown.boxes, torch.ones(len(shown)), shown.labels, shown.masks)
        cells = [draw(_enlarged(image), _scaled(truth), dataset.class_names)]
        for subject in subjects:
            with torch.inference_mode():
                (answer,) = subject.model.eval()([image])
            cells.append(draw(_enlarged(image), _scaled(answer), subject.class_names or dataset.class_names, threshold))
        rows.append(torch.cat(cells, 2))
    return torch.cat(rows, 1)


_ZOOM = 2
"""Names and scores are readable on small images only when these are enlarged."""


def _enlarged(pixels: Tensor) -> Tensor:
    """Image or masks `[C, H, W]`."""
    return pixels.repeat_interleave(_ZOOM, 1).repeat_interleave(_ZOOM, 2)


def _scaled(detections: Detections) -> Detections:
    masks = None if detections.masks is None else _enlarged(detections.masks)
    return replace(detections, boxes=detections.boxes * _ZOOM, masks=masks)
