"""Our detectors against torchvision's own: the same weights, the same images, one process, turn by turn.

Before anything is timed both must detect the same things. A call is an image in, detections out, both in host memory.
Who goes first changes from image to image, so that neither always finds the caches warm; the ratio is that of the
medians, with an interval from resampling the images; who is faster is told by the pairs (`compare_times`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
import torchvision
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks import hardware
from benchmarks.datasets import Dataset
from benchmarks.jsons import as_json
from benchmarks.latency import ForeignLoad, fixed_threads, interleaved, summarise
from benchmarks.metrics.intervals import ratio_of_medians
from benchmarks.metrics.quantiles import compare_times
from benchmarks.opponents import CLASSES, OPPONENTS, Pair
from benchmarks.provenance import commit, dataset_id, versions, weights_id
from benchmarks.results import Record
from ops.structures import Detections
from zoo import CATALOG
from zoo.detector import Detector

__all__ = ["Agreement", "agreement", "compare", "print_comparison"]


@dataclass(frozen=True)
class Agreement:
    """How far two lists of detections agree, over all images.

    Attributes:
        detections: Of theirs.
        alone: Detections of either that the other lacks: none of the same class within 0.1 px and 0.001 of score.
        box: Largest distance of two sides that belong together, in pixels of the image.
        score: Largest difference of their scores.
        mask: Largest share of two masks' union that only one of them covers; None where there are no masks.
    """

    detections: int
    alone: int
    box: float
    score: float
    mask: float | None = None


def agreement(ours: Sequence[Detections], theirs: Sequence[dict[str, Tensor]]) -> Agreement:
    """Compare detections image by image; the order of equal scores is of no account.

    Args:
        ours: Of each image.
        theirs: torchvision's answers; their labels count from 1, and their masks are probabilities.
    """
    alone, box, score = 0, 0.0, 0.0
    masks: list[float] = []
    for one, other in zip(ours, theirs, strict=True):
        if not len(one) or not len(other["boxes"]):
            alone += len(one) + len(other["boxes"])
            continue
        sides = (one.boxes[:, None] - other["boxes"]).abs().amax(-1)
        scores = (one.scores[:, None] - other["scores"]).abs()
        fits = (sides < 0.1) & (scores < 1e-3) & (one.labels[:, None] == other["labels"] - 1)
        alone += int((~fits.any(1)).sum() + (~fits.any(0)).sum())
        best = sides.masked_fill(~fits, torch.inf).argmin(1)
        paired = fits.any(1).nonzero()[:, 0]
        if len(paired):
            box = max(box, float(sides[paired, best[paired]].max()))
            score = max(score, float(scores[paired, best[paired]].max()))
            if one.masks is not None and "masks" in other:
                first, second = one.masks[paired], other["masks"][best[paired], 0] > 0.5
                union = (first | second).sum((1, 2)).clamp(min=1)
                masks.append(float(((first ^ second).sum((1, 2)) / union).max()))
    count = sum(len(other["boxes"]) for other in theirs)
    return Agreement(count, alone, box, score, max(masks) if masks else None)


def compare(
    pair: Pair,
    images: Dataset | Sequence[Tensor],
    *,
    count: int = 20,
    rounds: int = 1,
    threads: int = 2,
    device: str = "cpu",
    note: str = "",
) -> Record:
    """Time both on the first images, turn by turn.

    Args:
        pair: The two.
        images: A data set, or images.
        count: Images, the first ones.
        rounds: How often each image is timed.
        threads: Of PyTorch.
        device: `cpu` or a CUDA device.
        note: What a reader of the Record must know.

    Raises:
        ValueError: There are no images, or the two do not detect the same.
    """
    count = min(count, len(images))
    if min(count, rounds) < 1:
        raise ValueError(f"need at least one image and one round, got {count} and {rounds}")
    pictures = [images[i][0] if isinstance(images, Dataset) else images[i] for i in range(count)]
    ours = partial(_ours, pair.ours.to(device), device)
    theirs = partial(_theirs, pair.theirs.to(device), device)
    with torch.inference_mode(), fixed_threads(threads) as fixed, hardware.watch(device, threads=fixed) as seen:
        answers = [(ours(image)[0], theirs(image)[0]) for image in pictures]
        found = agreement([a for a, _ in answers], [b for _, b in answers])
        # A box at a threshold may go either way by rounding; more than that is another detector.
        if found.alone > 0.01 * max(100, found.detections):
            raise ValueError(f"{pair.name}: ours and torchvision's differ in {found.alone} of {found.detections} boxes")
        load = ForeignLoad()
        samples = _by_turns({"ours": ours, "theirs": theirs}, pictures, rounds, f"timing {pair.name}")
        foreign = load.cores()
    return Record(
        kind="comparison",
        detector=pair.name,
        scale="paper",
        overrides=as_json(pair.overrides),
        num_classes=CLASSES,
        weights=None if pair.weights is None else weights_id(pair.weights),
        dataset=dataset_id(images) if isinstance(images, Dataset) else None,
        protocol={
            "against": f"torchvision {torchvision.__version__} {OPPONENTS[pair.name].title}",
            "weights": "random" if pair.weights is None else "published",
            "batch": 1,
            "threads": fixed,
            "images": count,
            "rounds": rounds,
            "order": "turn by turn, the first one changing",
            "from": "decoded image in host memory",
            "to": "detections in host memory",
        },
        hardware=hardware.stamp_watched(seen),
        seed=pair.seed,
        commit=commit(),
        versions=versions(),
        metrics={
            **{who: summarise(seconds) for who, seconds in samples.items()},
            "ratio": ratio_of_medians(samples["ours"], samples["theirs"]),
            "pairs": compare_times(samples["ours"], samples["theirs"]),
            "agreement": asdict(found),
            "foreign_load": foreign,
            **CATALOG[pair.name].origin,
        },
        samples=samples,
        note=note,
    )


def _by_turns(
    calls: Mapping[str, Callable[[Tensor], Any]], pictures: Sequence[Tensor], rounds: int, title: str
) -> dict[str, list[float]]:
    """Seconds of each call of either side."""
    samples: dict[str, list[float]] = {who: [] for who in calls}
    for turn, order in enumerate(interleaved(tuple(calls), len(pictures), rounds, title)):
        image = pictures[turn % len(pictures)]
        for who in order:
            start = time.perf_counter()
            calls[who](image)
            samples[who].append(time.perf_counter() - start)
    return samples


def _ours(model: Detector, device: str, image: Tensor) -> list[Detections]:
    return [answer.to("cpu") for answer in model([image.to(device)])]


def _theirs(model: nn.Module, device: str, image: Tensor) -> list[dict[str, Tensor]]:
    return [{name: value.to("cpu") for name, value in answer.items()} for answer in model([image.to(device)])]


def print_comparison(records: Sequence[Record]) -> None:
    """Medians, spread and ratio of each pair."""
    table = Table("detector", "ours ms", "theirs ms", "ours / theirs", "ours is", "same boxes")
    for record in records:
        times = [
            f"{1000 * record.metrics[who]['median']:.1f} (IQR {1000 * record.metrics[who]['iqr']:.1f})"
            for who in ("ours", "theirs")
        ]
        ratio, found = record.metrics["ratio"], record.metrics["agreement"]
        span = f"{ratio['median']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})"
        same = f"{found['detections'] - found['alone']} of {found['detections']}"
        table.add_row(record.detector, *times, span, record.metrics["pairs"]["verdict"], same)
    Console().print(table)
