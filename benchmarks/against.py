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
from pathlib import Path
from typing import Any

import torch
import torchvision
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import detection
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from benchmarks import hardware
from benchmarks.datasets import Dataset
from benchmarks.jsons import as_json
from benchmarks.latency import ForeignLoad, fixed_threads, interleaved, summarise
from benchmarks.metrics.intervals import ratio_of_medians
from benchmarks.metrics.quantiles import compare_times
from benchmarks.provenance import commit, dataset_id, versions, weights_id
from benchmarks.results import Record
from ops.structures import Detections
from zoo import CATALOG, build, checkpoints
from zoo.detector import Detector
from zoo.one_stage import retinanet, ssd

__all__ = ["OPPONENTS", "Agreement", "Pair", "agreement", "compare", "generated_images", "pair_up", "print_comparison"]

CLASSES = 90
"""Of torchvision's models for COCO, the background not counted."""


@dataclass(frozen=True)
class Pair:
    """One network twice.

    Attributes:
        name: In the catalog.
        ours: In evaluation mode.
        theirs: torchvision's, likewise.
        overrides: Constructor arguments of ours.
        weights: The file that both were loaded from; None for random ones.
        seed: Of the random ones.
    """

    name: str
    ours: Detector
    theirs: nn.Module
    overrides: dict[str, Any]
    weights: Path | None
    seed: int


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


def _ssd(sides: dict[str, int]) -> nn.Module:
    return detection.ssd300_vgg16(weights=None, weights_backbone=None)


def _resnet(**layers: Any) -> nn.Module:
    # As their published weights come: normalisation frozen.
    return resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=3, **layers)


def _retinanet(sides: dict[str, int]) -> nn.Module:
    backbone = _resnet(returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256))
    return detection.RetinaNet(backbone, 1 + CLASSES, **sides)


def _faster_rcnn(sides: dict[str, int]) -> nn.Module:
    return detection.FasterRCNN(_resnet(), 1 + CLASSES, **sides)


def _mask_rcnn(sides: dict[str, int]) -> nn.Module:
    return detection.MaskRCNN(_resnet(), 1 + CLASSES, **sides)


@dataclass(frozen=True)
class _Opponent:
    """How torchvision's model of a catalog row is built, and which overrides make ours the same."""

    title: str
    build: Callable[[dict[str, int]], nn.Module]
    overrides: dict[str, Any]
    resizes: bool = True


OPPONENTS: dict[str, _Opponent] = {
    "ssd300_vgg16": _Opponent("ssd300_vgg16", _ssd, ssd.TORCHVISION, resizes=False),
    "retinanet_r50_fpn": _Opponent("retinanet_resnet50_fpn", _retinanet, retinanet.TORCHVISION),
    "faster_rcnn_r50_fpn": _Opponent("fasterrcnn_resnet50_fpn", _faster_rcnn, {}),
    "mask_rcnn_r50_fpn": _Opponent("maskrcnn_resnet50_fpn", _mask_rcnn, {}),
}
"""By catalog name."""


def pair_up(
    name: str,
    *,
    short: int | None = None,
    weights: Path | None = None,
    seed: int = 0,
    examples: Sequence[Tensor] = (),
) -> Pair:
    """Build ours and theirs with the same weights.

    Args:
        name: One of `OPPONENTS`.
        short: Shorter side of the input; None for the paper's. SSD has one size.
        weights: torchvision's checkpoint; None for random weights, scaled so that about as much is detected as in a
            photograph.
        seed: Of the random weights.
        examples: Images to scale random weights by; left out, a generated one.

    Raises:
        ValueError: There is no such opponent.
    """
    if name not in OPPONENTS:
        raise ValueError(f"torchvision has no {name} to compare with; choose from {', '.join(OPPONENTS)}")
    opponent = OPPONENTS[name]
    overrides, sides = dict(opponent.overrides), {}
    if short is not None and opponent.resizes:
        longest = short * 1_333 // 800
        overrides |= {"short": short, "longest": longest}
        sides = {"min_size": short, "max_size": longest}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        theirs = opponent.build(sides).eval()
        if weights is None:
            _enliven(theirs, list(examples) or generated_images(1, seed=1))
        elif opponent.resizes:
            # Trained so; the file does not say it.
            overrides["norm_eps"] = 0.0
            overwrite_eps(theirs, 0.0)
        ours = build(name, CLASSES, **overrides).eval()
    if weights is not None:
        checkpoints.load_into(ours, weights)
        theirs.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    else:
        ours.load_state_dict(theirs.state_dict())
    return Pair(name, ours, theirs, overrides, weights, seed)


@torch.no_grad()
def _enliven(model: nn.Module, images: list[Tensor]) -> None:
    """Scale the last layers of a random network of torchvision's so that a few objects an image stand out."""
    per_anchor = 1 + CLASSES
    if isinstance(model, detection.ssd.SSD):
        classes = list(model.head.classification_head.module_list)
        boxes = list(model.head.regression_head.module_list)
        _spread(model, images, {**dict.fromkeys(classes, 1.5), **dict.fromkeys(boxes, 0.5)})
        for layer in classes:
            layer.bias.view(-1, per_anchor)[:, 0] += 9.0
    elif isinstance(model, detection.RetinaNet):
        layer = model.head.classification_head.cls_logits
        logits = _spread(model, images, {layer: 1.0, model.head.regression_head.bbox_reg: 0.3})[layer]
        # 1,500 candidates an image, of 0.05 to 0.95: sigmoids nearer to 1 are equal but for rounding.
        surest = logits.flatten().topk(min(1_500 * len(images), logits.numel())).values
        factor = 6.0 / (surest[0] - surest[-1])
        layer.weight *= factor
        layer.bias.copy_((layer.bias - surest[-1]) * factor - 3.0)
        # Its first output stands for no class, as a trained network has learnt.
        layer.bias.view(-1, per_anchor)[:, 0] = -100.0
    elif isinstance(model, detection.FasterRCNN):
        _spread(model, images, {model.rpn.head.cls_logits: 2.0, model.rpn.head.bbox_pred: 0.3})
        predictor = model.roi_heads.box_predictor
        _spread(model, images, {predictor.cls_score: 1.5, predictor.bbox_pred: 0.7})
        predictor.cls_score.bias[0] += 7.0
        if isinstance(model, detection.MaskRCNN):
            _spread(model, images, {model.roi_heads.mask_predictor.mask_fcn_logits: 2.0})


def _spread(model: nn.Module, images: list[Tensor], deviations: dict[nn.Module, float]) -> dict[nn.Module, Tensor]:
    """Bring each channel of the layers' answers to mean 0 and the layer's standard deviation; give the answers."""
    seen: dict[nn.Module, list[Tensor]] = {layer: [] for layer in deviations}

    def keep(layer: nn.Module, _inputs: Any, answer: Tensor) -> None:
        seen[layer].append(answer if answer.ndim == 2 else answer.movedim(1, -1).flatten(0, -2))

    handles = [layer.register_forward_hook(keep) for layer in deviations]
    try:
        for image in images:
            model([image])
    finally:
        for handle in handles:
            handle.remove()
    spread_out = {}
    for layer, deviation in deviations.items():
        answers = torch.cat(seen[layer])
        weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
        if len(answers) > 1:
            centre, spread = answers.mean(0), answers.std(0)
        else:
            # SSD's coarsest map is a single cell, whose channels have no deviation of their own.
            centre, spread = answers.mean(), answers.std()
        factor = (deviation / spread).expand(len(bias))
        bias.copy_((bias - centre) * factor)
        weight.mul_(factor.reshape(-1, *[1] * (weight.ndim - 1)))
        spread_out[layer] = (answers - centre) * factor
    return spread_out


def generated_images(count: int, size: tuple[int, int] = (480, 640), seed: int = 0) -> list[Tensor]:
    """Smooth random images `[3, H, W]`, for where there are no photographs."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, size[0] // 16, size[1] // 16, generator=generator)
    return list(F.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1))


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
        samples = _by_turns({"ours": ours, "theirs": theirs}, pictures, rounds)
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
    calls: Mapping[str, Callable[[Tensor], Any]], pictures: Sequence[Tensor], rounds: int
) -> dict[str, list[float]]:
    """Seconds of each call of either side."""
    samples: dict[str, list[float]] = {who: [] for who in calls}
    for turn, order in enumerate(interleaved(tuple(calls), len(pictures), rounds)):
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
