"""Pictures of an analysis: its numbers on one sheet, and the images with most errors on another."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from benchmarks.metrics.data import GroundTruth, ScoreError
from benchmarks.metrics.errors import KINDS

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.analysis import Analysis

__all__ = ["draw_analysis", "draw_worst"]

_COLORS = {
    "classification": "#cc79a7",
    "localisation": "#e69f00",
    "both": "#a6761d",
    "duplicate": "#56b4e9",
    "background": "#d55e00",
    "missed": "#f0e442",
    "right": "#009e73",
}
_MOST_CLASSES = 20
_SIDE = 640
_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".webp"}


def draw_analysis(numbers: dict[str, Any]) -> bytes:
    """A PNG of what the kinds of errors cost, the reliability of scores, recall by number, and confusion."""
    figure = Figure(figsize=(13, 10), layout="constrained")
    axes = figure.subplots(2, 2)
    _costs(axes[0, 0], numbers["errors"])
    _reliability(axes[0, 1], numbers["calibration"])
    _recall(axes[1, 0], numbers["recall"])
    _confusion(axes[1, 1], numbers["confusion"])
    return _png(figure)


def _png(figure: Figure) -> bytes:
    file = BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()


def _costs(axes: Axes, errors: dict[str, Any]) -> None:
    values = [100 * (errors["kinds"][kind]["dAP"] or 0) for kind in KINDS]
    bars = axes.barh(KINDS, values, color=[_COLORS[kind] for kind in KINDS])
    axes.bar_label(
        bars,
        [f"{value:.1f}  ({errors['kinds'][kind]['count']:,})" for kind, value in zip(KINDS, values, strict=True)],
        padding=3,
    )
    axes.invert_yaxis()
    axes.set_xlim(min(0.0, *values), 1.3 * max(1.0, *values))
    axes.set_title("What each kind of error costs (and how many there are)")
    axes.set_xlabel("points of AP50")
    axes.spines[["top", "right"]].set_visible(False)


def _reliability(axes: Axes, sure: dict[str, Any]) -> None:
    axes.set_title("Precision at IoU .5 by score")
    if sure["undefined"]:
        axes.text(0.5, 0.5, f"not measured:\n{sure['undefined']}", ha="center", va="center", transform=axes.transAxes)
        return
    bins = [row for row in sure["bins"] if row["detections"]]
    axes.bar(
        [(row["low"] + row["high"]) / 2 for row in bins],
        [row["precision"] for row in bins],
        width=0.095,
        color=_COLORS["duplicate"],
        label="precision",
    )
    axes.plot([row["score"] for row in bins], [row["score"] for row in bins], "o", color="#333333", label="mean score")
    axes.plot([0, 1], [0, 1], color="#888888", linewidth=0.8)
    for row in bins:
        place = ((row["low"] + row["high"]) / 2, max(row["precision"], row["score"]))
        axes.annotate(f"{row['detections']:,}", place, xytext=(0, 6), textcoords="offset points", ha="center", size=7)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.08)
    axes.set_xlabel(f"score   (ECE {100 * sure['ECE']:.1f} %; figures: detections)")
    axes.legend(loc="upper left")


def _recall(axes: Axes, recall: dict[str, Any]) -> None:
    for part, label in (("by_class", "of each class"), ("proposals", "of all classes together")):
        points = [(int(number), 100 * value) for number, value in recall[part].items() if value is not None]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", label=label)
    axes.set_xscale("log")
    axes.set_ylim(0, 100)
    axes.set_title("Recall by number of detections")
    axes.set_xlabel("detections of an image that are looked at, best first")
    axes.set_ylabel("AR, IoU .50:.95, %")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()


def _confusion(axes: Axes, mistaken: dict[str, Any]) -> None:
    """Shares of each row; of many classes, those that are mistaken most."""
    matrix = np.array(mistaken["matrix"], dtype=np.float64)
    between = matrix[:-1, :-1] - np.diag(np.diag(matrix[:-1, :-1]))
    classes = len(between)
    shown = np.sort(np.argsort(-(between.sum(0) + between.sum(1)), kind="stable")[:_MOST_CLASSES])
    picked = np.append(shown, classes)
    part = matrix[np.ix_(picked, picked)]
    share = part / np.maximum(matrix[picked].sum(1, keepdims=True), 1)
    names = [mistaken["labels"][k] for k in shown]
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(picked)), [*names, "missed"], rotation=90, fontsize=8)
    axes.set_yticks(range(len(picked)), [*names, "background"], fontsize=8)
    if len(picked) <= 12:
        for (i, j), value in np.ndenumerate(part):
            if value:
                color = "white" if share[i, j] > 0.6 else "black"
                axes.text(j, i, f"{int(value):,}", ha="center", va="center", fontsize=8, color=color)
    axes.set_xlabel("said")
    axes.set_ylabel("true")
    which = "" if classes <= _MOST_CLASSES else f", the {_MOST_CLASSES} classes of most mistakes"
    axes.set_title(f"Confusion from score {mistaken['floor']:g} on{which}")


def draw_worst(truth: GroundTruth, found: Analysis, folder: Path) -> bytes:
    """A PNG of the images with most errors: each error in the colour of its kind.

    Raises:
        ScoreError: An image is not in the folder.
    """
    files = {path.stem: path for path in sorted(folder.rglob("*")) if path.suffix.lower() in _SUFFIXES}
    place = {id_: position for position, id_ in enumerate(truth.image_ids)}
    worst = found.numbers["worst"]
    columns = min(3, len(worst))
    rows = -(-len(worst) // columns)
    figure = Figure(figsize=(6 * columns, 5 * rows + 0.6), layout="constrained")
    for number, row in enumerate(worst):
        image = place[row["image_id"]]
        stem = truth.image_stems[image] or str(row["image_id"])
        if stem not in files:
            raise ScoreError(f"{folder}: holds no image {stem}; name the folder of the images of {truth.name}")
        axes = figure.add_subplot(rows, columns, number + 1)
        axes.imshow(_picture(files[stem], image, truth, found).permute(1, 2, 0).numpy())
        axes.set_title(f"{stem}: {row['wrong']} wrong, {row['missed']} missed", fontsize=10)
        axes.set_axis_off()
    patches = [Patch(facecolor=color, label=kind) for kind, color in _COLORS.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), fontsize=10)
    return _png(figure)


def _picture(path: Path, image: int, truth: GroundTruth, found: Analysis) -> Tensor:
    """One image with its right detections, its errors and what it misses."""
    import torch
    from torch.nn.functional import interpolate

    from benchmarks.datasets import read_image
    from benchmarks.drawing import draw_boxes

    errors, matches, labels = found.errors, found.errors.matches, truth.labels
    pixels = read_image(path)
    zoom = _SIDE / max(pixels.shape[1:])
    pixels = interpolate(pixels[None], scale_factor=zoom, mode="bilinear", antialias=True)[0].clamp(0, 1)
    boxes, texts, colors = [], [], []
    for d in np.flatnonzero((matches.image == image) & (errors.right | (errors.kind >= 0))):
        wrong = errors.kind[d] >= 0
        boxes.append(found.shown.boxes[matches.entry[d]])
        texts.append(f"{labels[matches.category[d]]} {matches.score[d]:.2f}" if wrong else "")
        colors.append(_COLORS[KINDS[errors.kind[d]] if wrong else "right"])
    for g in np.flatnonzero((matches.truth_image == image) & errors.missed):
        boxes.append(truth.boxes[matches.truth_entry[g]])
        texts.append(labels[matches.truth_category[g]])
        colors.append(_COLORS["missed"])
    corners = torch.from_numpy(np.array(boxes).reshape(-1, 4)) * zoom
    corners[:, 2:] += corners[:, :2]
    return draw_boxes((pixels * 255).round().to(torch.uint8), corners, texts, colors)
