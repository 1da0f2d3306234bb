"""Run a detector over a split and score what it says, exactly as a file of results would be scored."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from benchmarks import hardware
from benchmarks.answers import answer_hashes
from benchmarks.datasets import Dataset
from benchmarks.keypoints import KNOWN, Known, knowing
from benchmarks.metrics import (
    MASKS,
    accumulate,
    encode_masks,
    image_intervals,
    load_detections,
    load_ground_truth,
    mask_ap,
    match,
    miss_rates,
    precision_curves,
    proposal_recall,
    score_matches,
)
from benchmarks.metrics.miss_rate import PROTOCOL as MISSES
from benchmarks.metrics.proposals import PROTOCOL as PROPOSALS
from benchmarks.modes import Mode, running
from benchmarks.multiscale import protocol_named
from benchmarks.pieces import Pieces
from benchmarks.processes import Share, join_processes
from benchmarks.proposals import remembering
from benchmarks.protocol import identities
from benchmarks.provenance import code, commit, sha256, versions
from benchmarks.results import DatasetId, Record, Weights, to_json, write_atomically
from benchmarks.stopping import Interrupts, alone_in
from ops.nms import Suppression, suppressing
from ops.structures import Detections, Target
from zoo import CATALOG, build, checkpoints
from zoo.classical.released import RELEASED, read_released
from zoo.detector import Detector

__all__ = [
    "EvaluationError",
    "Subject",
    "category_of_label",
    "coco_rows",
    "dataset_id",
    "detect",
    "evaluate",
    "find_subject",
    "load_subject",
    "propose",
]


class EvaluationError(ValueError):
    """A detector and a dataset do not fit; the message says in what."""


@dataclass(frozen=True)
class Subject:
    """A detector with weights, and what a Record must say of it.

    Attributes:
        name: Catalog name, or that of a network that a Darknet cfg or a Caffe prototxt describes.
        model: In evaluation mode.
        scale: As in Record.
        overrides: Constructor arguments.
        class_names: Of its labels, where the checkpoint tells; else None.
        weights: The file.
        seed: Of its training, where the checkpoint tells.
        learned_from: As in Record.
        origin: Year, paper and family, as far as they are known; left out, the catalog's.
        note: What a reader of its Records must know besides.
    """

    name: str
    model: Detector
    scale: Literal["small", "paper"]
    overrides: dict[str, Any]
    class_names: tuple[str, ...] | None
    weights: Path
    seed: int | None = None
    learned_from: int | None = None
    origin: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        if not self.origin and self.name in CATALOG:
            object.__setattr__(self, "origin", CATALOG[self.name].origin)


def load_subject(name: str, weights: Path, num_classes: int, overrides: dict[str, Any] | None = None) -> Subject:
    """A detector from a checkpoint of ours (which knows its own shape) or of its authors (the paper's size).

    Args:
        name: Catalog name, name of a published network that has a cfg of its own, or path of a Darknet `.cfg` or of a
            Caffe `.prototxt`.
        weights: File; of DPM also a folder of models, a class each.
        num_classes: Classes of the paper-size network; a checkpoint of ours, or a cfg, knows better.
        overrides: Constructor arguments for a checkpoint that does not carry them; those of a published one are known,
            and one of ours takes none.

    Raises:
        EvaluationError: The name is unknown, the weights are another detector's, or they know their arguments.
    """
    if name.endswith((".cfg", ".prototxt")):
        return _load_cfg(Path(name), weights, dict(overrides or {}))
    if weights.suffix == ".safetensors":
        if overrides:
            raise EvaluationError(
                f"{weights}: knows how its detector was built, so {', '.join(overrides)} cannot be set; train it so, "
                f"or leave --set away"
            )
        model, meta = checkpoints.load(weights)
        if meta.detector != name:
            raise EvaluationError(f"{weights}: holds {meta.detector}, not {name}")
        scale: Literal["small", "paper"] = "small" if meta.small else "paper"
        seed = int(meta.extra["seed"]) if "seed" in meta.extra else None
        images = int(meta.extra["images"]) if "images" in meta.extra else None
        names = tuple(meta.class_names)
        lacking = len(json.loads(meta.extra.get("skipped", "[]")))
        note = f"trained without {lacking} images that could not be decoded" if lacking else ""
        return Subject(name, model.eval(), scale, dict(meta.overrides), names, weights, seed, images, note=note)
    published = checkpoints.entry_for(weights)
    if published is not None and published.config is not None:
        if published.detector != name:
            raise EvaluationError(f"{weights}: holds {published.detector}, not {name}")
        subject = _load_cfg(checkpoints.fetch(published.config), weights, {**published.overrides, **(overrides or {})})
        return replace(
            subject,
            name=name,
            origin=published.origin,
            class_names=published.class_names,
            note=f"its authors state {published.published}",
        )
    if name not in CATALOG:
        named = sorted({entry.detector for entry in checkpoints.list_weights() if entry.config is not None})
        raise EvaluationError(
            f"{name} is not in the catalog, and {weights.name} is no weights of {', '.join(named)}; name a detector "
            f"that `python -m benchmarks list` or `weights` shows, or a path that ends in .cfg or .prototxt"
        )
    if name in RELEASED:
        if overrides:
            raise EvaluationError(f"{weights}: says itself how its detector is built; leave --set away")
        model, known = read_released(name, weights)
        return Subject(name, model, "paper", {}, known, weights)
    settings = dict(overrides or (published.overrides if published else {}))
    model = build(name, published.num_classes if published else num_classes, **settings)
    checkpoints.load_into(model, weights)
    return Subject(name, model.eval(), "paper", settings, None, weights)


def find_subject(
    name: str, dataset_name: str, num_classes: int, weights: Path | None = None, overrides: dict[str, Any] | None = None
) -> Subject:
    """The same, with the weights that ship for a data set where none are given.

    Raises:
        EvaluationError: As `load_subject`; or a cfg or prototxt comes without weights.
    """
    if weights is None and name.endswith((".cfg", ".prototxt")):
        raise EvaluationError(f"{name}: a cfg or prototxt holds no weights; give its file by --weights")
    return load_subject(name, weights or checkpoints.find(name, dataset_name), num_classes, overrides)


def _load_cfg(cfg: Path, weights: Path, settings: dict[str, Any]) -> Subject:
    """A network as its cfg or prototxt describes it; nothing is known of where it comes from."""
    if cfg.suffix == ".cfg":
        from zoo.one_stage.darknet_cfg import darknet_detector

        model: Detector = darknet_detector(cfg, **settings)
        checkpoints.load_into(model, weights, "darknet")
    else:
        from zoo.one_stage.caffe_net import caffe_detector

        model = caffe_detector(weights, cfg, **settings)
    return Subject(cfg.stem, model.eval(), "paper", settings, None, weights, origin={"family": "one-stage"})


def category_of_label(
    dataset: Dataset, num_classes: int, class_names: Iterable[str] | None = None
) -> tuple[int | None, ...]:
    """The dataset's category id of each label of a detector; None for a class that the dataset does not have.

    Without class names the labels are taken in the dataset's order; 90 labels on COCO are torchvision's and
    Detectron's, which count the ids that COCO never used.

    Raises:
        EvaluationError: Nothing fits.
    """
    ids = dataset.category_ids
    if class_names is not None:
        by_name = dict(zip(dataset.class_names, ids, strict=True))
        found = tuple(by_name.get(name) for name in class_names)
        if not any(found):
            raise EvaluationError(
                f"the detector knows {', '.join(list(class_names)[:4])}, ..., none of which is in {dataset.name}; "
                f"choose weights that were trained on it"
            )
        return found
    if num_classes == len(ids):
        return ids
    if num_classes == 90 and set(ids) <= set(range(1, 91)):
        return tuple(label + 1 if label + 1 in ids else None for label in range(90))
    raise EvaluationError(
        f"the detector has {num_classes} classes, {dataset.name} has {len(ids)}; choose weights that were trained on it"
    )


def detect(
    model: Detector,
    dataset: Dataset,
    *,
    categories: tuple[int | None, ...] | None = None,
    device: str = "cpu",
    batch: int = 1,
    limit: int | None = None,
    told: Callable[[list[Tensor], list[Target]], list[Detections]] | None = None,
    share: Share | None = None,
    pieces: Pieces | None = None,
    quiet: bool = False,
) -> list[dict[str, Any]]:
    """Detections on the first `limit` images as a list of COCO results (`bbox` is x, y, width, height in pixels).

    Given a `share`, this process looks at its images only, and the first one returns the detections of all.

    Where the detector answers masks, each has its `segmentation` in compressed RLE. Given `told`, it answers in place
    of `model(images)`, and is told what is in the images, by the labels of the detector. What `pieces` holds already is
    not done again, and what is new is kept there.
    """
    categories = categories or category_of_label(dataset, model.num_classes)
    model.to(device).eval()
    count = min(len(dataset), limit or len(dataset))
    share = share or Share()
    positions, done = share.positions(count), 0 if pieces is None else pieces.images
    rows: dict[int, list[dict[str, Any]]] = {index: [] for index in positions[:done]}
    if pieces is not None:
        place = {dataset.image_ids[index]: index for index in rows}
        for row in pieces.rows:
            rows[place[row["image_id"]]].append(row)
    console = Console(stderr=True)
    steps: Iterable[int] = range(done, len(positions), batch)
    if not quiet and share.rank == 0:
        steps = track(list(steps), description=f"detecting on {dataset.name} {dataset.split}", console=console)
    with Interrupts() as stop:
        for start in steps:
            indices = positions[start : start + batch]
            items = [dataset[index] for index in indices]
            images = [image.to(device) for image, _ in items]
            with torch.inference_mode():
                if told is None:
                    answers = model(images)
                else:
                    answers = told(images, [_relabelled(target, dataset, categories).to(device) for _, target in items])
            for index, answer in zip(indices, answers, strict=True):
                rows[index] = coco_rows(answer, dataset.image_ids[index], categories)
            if pieces is not None:
                pieces.add(start + len(indices), [row for index in indices for row in rows[index]])
            stop.raise_if_asked()
    return [row for found in share.gather(rows, count).values() for row in found]


def coco_rows(answer: Detections, image_id: int, categories: tuple[int | None, ...]) -> list[dict[str, Any]]:
    """Detections on one image as COCO results; those of classes that the data set does not have are left out."""
    boxes = answer.boxes.double().cpu()
    boxes[:, 2:] -= boxes[:, :2]
    forms: list[dict[str, Any]] = [{}] * len(answer)
    if answer.masks is not None:
        forms = [{"segmentation": form} for form in encode_masks(answer.masks.cpu().numpy())]
    columns = zip(boxes.tolist(), answer.scores.tolist(), answer.labels.tolist(), forms, strict=True)
    return [
        {"image_id": image_id, "category_id": category, "bbox": box, "score": confidence, **form}
        for box, confidence, label, form in columns
        if (category := categories[label]) is not None
    ]


def _relabelled(target: Target, dataset: Dataset, categories: tuple[int | None, ...]) -> Target:
    """Objects of the classes that a detector knows, by its labels."""
    own = {category: label for label, category in enumerate(categories) if category is not None}
    labels = [own.get(dataset.category_ids[label], -1) for label in target.labels.tolist()]
    found = replace(target, labels=torch.tensor(labels, dtype=torch.int64))
    return found[found.labels >= 0]


def propose(
    model: Detector, dataset: Dataset, *, device: str = "cpu", share: Share | None = None, quiet: bool = False
) -> dict[int | str, NDArray[np.float64]]:
    """By image id the regions that a detector looks at, x, y, width, height `[P, 4]`, the likeliest first.

    `share` is as of `detect`.

    Raises:
        EvaluationError: It looks at no regions.
    """
    ask: Callable[[list[Tensor]], list[Tensor]] | None = getattr(model, "proposals", None)
    if ask is None:
        raise EvaluationError(f"{type(model).__name__} proposes no regions")
    model.to(device).eval()
    share = share or Share()
    indices: Iterable[int] = share.positions(len(dataset))
    if not quiet and share.rank == 0:
        indices = track(list(indices), description="proposing", console=Console(stderr=True))
    found: dict[int, NDArray[np.float64]] = {}
    for index in indices:
        with torch.inference_mode():
            (boxes,) = ask([dataset[index][0].to(device)])
        boxes = boxes.double().cpu()
        boxes[:, 2:] -= boxes[:, :2]
        found[index] = boxes.numpy()
    return {dataset.image_ids[index]: regions for index, regions in share.gather(found, len(dataset)).items()}


def _windows(model: Detector, dataset: Dataset) -> int | None:
    """How many windows a detector classifies in all images, over all classes; None for detectors that do not."""
    if not model.classifies_windows:
        return None
    counts = Counter(dataset.size(index) for index in range(len(dataset)))
    return sum(images * (model.num_boxes(size) or 0) for size, images in counts.items())


def dataset_id(dataset: Dataset) -> DatasetId:
    """What a Record says of a dataset."""
    return DatasetId(
        name=dataset.name,
        split=dataset.split,
        fingerprint=dataset.fingerprint,
        images=len(dataset),
        objects=dataset.num_objects,
        skipped=getattr(dataset, "skipped", ()),
    )


def _identity(
    subject: Subject,
    weights: Weights,
    dataset: Dataset,
    categories: tuple[int | None, ...],
    *,
    device: str,
    batch: int,
    looks: dict[str, Any],
) -> dict[str, Any]:
    """All that detections depend on: what was kept of others is not gone on with."""
    return {
        "detector": subject.name,
        "weights": weights.sha256,
        "overrides": subject.overrides,
        "images": dataset.fingerprint,
        "categories": categories,
        "device": device,
        "threads": torch.get_num_threads(),
        "batch": batch,
        "looks": looks,
        "code": code(),
        "versions": versions(),
    }


def _refuse_own_way(
    subject: Subject, dataset: Dataset, categories: tuple[int | None, ...], soft_nms: Suppression, device: str
) -> None:
    """See on one image that a detector suppresses where `soft_nms` can take its place."""
    with remembering(subject.model, dataset, limit=1, quiet=True), suppressing(soft_nms) as asked:
        detect(subject.model, dataset, categories=categories, device=device, limit=1, quiet=True)
    if not asked.used:
        raise EvaluationError(f"{subject.name} suppresses duplicates in a way of its own: no soft NMS fits it")


def _look(
    subject: Subject,
    dataset: Dataset,
    categories: tuple[int | None, ...],
    *,
    device: str,
    batch: int,
    soft_nms: Suppression | None,
    told: Callable[[list[Tensor], list[Target]], list[Detections]] | None,
    share: Share,
    pieces: Pieces | None,
    quiet: bool,
) -> tuple[list[dict[str, Any]], dict[int | str, NDArray[np.float64]] | None]:
    """Detections, and of a detector that looks at regions these too; of a `share`'s first process alone."""
    start, known = time.monotonic(), 0 if pieces is None else pieces.images
    with remembering(subject.model, dataset, quiet=quiet):
        with suppressing(soft_nms):
            rows = detect(
                subject.model,
                dataset,
                categories=categories,
                device=device,
                batch=batch,
                told=told,
                share=share,
                pieces=pieces,
                quiet=quiet,
            )
        if share.rank == 0 and not known and (share.count > 1 or not quiet):
            pace = len(dataset) / (time.monotonic() - start)
            by = f", by {share.count} processes" if share.count > 1 else ""
            print(f"{len(dataset)} images, {pace:.1f} a second{by}", file=sys.stderr)
        proposes = hasattr(subject.model, "proposals")
        return rows, propose(subject.model, dataset, device=device, share=share, quiet=quiet) if proposes else None


def evaluate(
    subject: Subject,
    dataset: Dataset,
    *,
    device: str = "cpu",
    batch: int = 1,
    multi_scale: str | None = None,
    soft_nms: Suppression | None = None,
    known: Known | None = None,
    misses: bool = False,
    mode: Mode | None = None,
    note: str = "",
    out: Path | None = None,
    quiet: bool = False,
) -> Record:
    """Detect, score and make the Record; with `out`, write `detections.json`, `metrics.json` and the Record there.

    What is scored is what was written: both go through the same reader. Beside the metrics stand their 95 % intervals
    from 1,000 resamples of the images. Of a detector that looks at regions the recall of these is measured too, from a
    second pass over the images that ends with the regions.

    Under `torchrun` the images are shared out among all processes, each image to exactly one; the first process scores
    and writes, and all return the same Record.

    With `out`, each batch's detections are kept there at once: killed at its end, the same call looks only at the
    images that are left, and ends with the same files. The second pass over the images starts over.

    Args:
        subject: What detects.
        dataset: Where.
        device: `cpu`, `cuda` or `cuda:N`; under `torchrun` `cuda` is the device of each process's place.
        batch: Images a step.
        multi_scale: Name of a protocol of `benchmarks.multiscale` or `benchmarks.keypoints`: look at each image in
            several sizes. The Record says so, in its name too.
        soft_nms: What suppresses duplicates in place of the detector's hard NMS. The Record says so, in its name too.
        known: What a detector of corners is told of each image, of `benchmarks.keypoints.KNOWN`: an error analysis. The
            Record says so, in its name too.
        misses: Measure miss rates against false positives, as is done anyhow for detectors that classify windows.
        mode: How the network is run. The Record says so, in its name too.
        note: What a reader of the Record must know besides what the subject says.
        out: Folder.
        quiet: Draw no progress.

    Raises:
        EvaluationError: The dataset has none of the detector's classes, or the detector suppresses duplicates in a
            way of its own, which `soft_nms` cannot take the place of.
        ValueError: There is no such protocol, the detector cannot take its sizes, it cannot be told the truth, or
            device or detector cannot run in the mode.
        BusyError: Another process evaluates into `out`.
    """
    mode, network = mode or Mode(), subject.model
    mode.check(device)
    looks: dict[str, Any] = {"mode": mode.describe()} if mode.name else {}
    told = None
    chosen = None if multi_scale is None else protocol_named(multi_scale)
    if known is not None:
        tested = knowing(subject.model, known, chosen)
        subject, told = replace(subject, model=tested.eval()), tested.told
        looks["truth"] = {"name": f"true_{known}", "as": KNOWN[known]}
    elif chosen is not None:
        subject = replace(subject, model=chosen.over(subject.model).eval())
    if chosen is not None:
        looks["multi_scale"] = json.loads(json.dumps(chosen.describe()))
    categories = category_of_label(dataset, subject.model.num_classes, subject.class_names)
    if soft_nms is not None:
        looks["suppression"] = soft_nms.describe()
        _refuse_own_way(subject, dataset, categories, soft_nms, device)
    weights = Weights(file=subject.weights.name, sha256=sha256(subject.weights))
    place, share = str(join_processes(device, "gloo")), Share.joined()
    with ExitStack() as held:
        pieces = None
        if out is not None:
            if share.rank == 0:
                held.enter_context(alone_in(out))
            identity = _identity(subject, weights, dataset, categories, device=device, batch=batch, looks=looks)
            pieces = held.enter_context(Pieces(out, identity, share))
        held.enter_context(running(network, mode, place))
        rows, regions = _look(
            subject,
            dataset,
            categories,
            device=place,
            batch=batch,
            soft_nms=soft_nms,
            told=told,
            share=share,
            pieces=pieces,
            quiet=quiet,
        )
        if share.rank:
            record: Record = share.tell(None)
        else:
            if out is not None:
                write_atomically(out / "detections.json", json.dumps(rows, allow_nan=False))
            metrics, protocol = _scored(subject, dataset, rows, regions, misses)
            record = Record(
                kind="accuracy",
                detector=subject.name,
                scale=subject.scale,
                overrides=json.loads(json.dumps(subject.overrides, default=str)),
                num_classes=subject.model.num_classes,
                weights=weights,
                dataset=dataset_id(dataset),
                protocol={**protocol, "batch": batch, **looks},
                hardware=hardware.stamp(device, torch.get_num_threads(), **mode.facts()),
                seed=subject.seed,
                learned_from=subject.learned_from,
                commit=commit(),
                versions=versions(),
                metrics={**metrics, "detections": len(rows), **subject.origin},
                answers=answer_hashes(rows, dataset.image_ids),
                note="; ".join(part for part in (subject.note, note) if part),
            )
            if out is not None:
                write_atomically(out / "metrics.json", to_json({**metrics, "protocol": protocol}))
                record.write(out)
                print(f"wrote detections.json, metrics.json and {record.name}.json to {out}", file=sys.stderr)
            share.tell(record)
        if pieces is not None:
            pieces.remove()
        return record


def _scored(
    subject: Subject,
    dataset: Dataset,
    rows: list[dict[str, Any]],
    regions: dict[int | str, NDArray[np.float64]] | None,
    misses: bool,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metrics and protocol of detections, and of the regions that a detector looked at."""
    truth = load_ground_truth(dataset.coco())
    results = load_detections(rows, truth)
    matches = match(truth, results)
    metrics = score_matches(truth, results, matches)
    protocol = metrics.pop("protocol", {})
    protocol["identity"] = identities(protocol, dataset.fingerprint)
    # Those of single classes would make up most of a Record that nobody reads them from; `score` gives them.
    metrics["intervals"] = {
        part: ends for part, ends in image_intervals(metrics, matches).items() if part != "per_class"
    }
    metrics["precision"] = precision_curves(accumulate(matches))
    if misses or subject.model.classifies_windows:
        metrics["misses"] = miss_rates(matches, truth.labels, _windows(subject.model, dataset))
        protocol["misses"] = MISSES
    if subject.model.trains_on_masks and dataset.has_masks:
        metrics["masks"] = mask_ap(dataset.coco(), rows)
        protocol["masks"] = MASKS
    if regions is not None:
        metrics["proposals"] = proposal_recall(truth, regions)
        protocol["proposals"] = PROPOSALS
    return metrics, protocol
