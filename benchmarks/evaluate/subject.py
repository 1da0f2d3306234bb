"""What is evaluated and timed: a detector with its weights, wherever these come from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from benchmarks.jsons import as_json
from benchmarks.provenance import weights_id
from benchmarks.sentences import quoted
from zoo import CATALOG, build, checkpoints
from zoo.classical.released import RELEASED, read_released
from zoo.detector import Detector

__all__ = ["EvaluationError", "Subject", "find_subject", "load_subject"]


_Kind = TypeVar("_Kind")


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
        variant: Likewise.
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
    variant: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        if not self.origin and self.name in CATALOG:
            object.__setattr__(self, "origin", CATALOG[self.name].origin)

    def as_recorded(self) -> dict[str, Any]:
        """What a Record says of it: detector, scale, overrides, variant, classes, weights."""
        return {
            "detector": self.name,
            "scale": self.scale,
            "overrides": as_json(self.overrides),
            "variant": self.variant,
            "num_classes": self.model.num_classes,
            "weights": weights_id(self.weights),
        }


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
    given = dict(overrides or {})
    if name.endswith((".cfg", ".prototxt")):
        return _from_cfg(Path(name), weights, given)
    if weights.suffix == ".safetensors":
        return _from_ours(name, weights, given)
    published = checkpoints.entry_for(weights)
    if published is not None and published.config is not None:
        return _from_published(name, weights, published, published.config, given)
    if name not in CATALOG:
        named = sorted({entry.detector for entry in checkpoints.list_weights() if entry.config is not None})
        raise EvaluationError(
            f"{name} is not in the catalog, and {weights.name} is no weights of {', '.join(named)}; name a detector "
            f"that `python -m benchmarks list` or `weights` shows, or a path that ends in .cfg or .prototxt"
        )
    if name in RELEASED:
        if given:
            raise EvaluationError(f"{weights}: says itself how its detector is built; leave --set away")
        model, class_names = read_released(name, weights)
        return Subject(name, model, "paper", {}, class_names, weights)
    settings = given or (dict(published.overrides) if published else {})
    model = build(name, published.num_classes if published else num_classes, **settings)
    checkpoints.load_into(model, weights)
    return Subject(name, model.eval(), "paper", settings, None, weights)


def _from_ours(name: str, weights: Path, given: dict[str, Any]) -> Subject:
    if given:
        raise EvaluationError(
            f"{weights}: knows how its detector was built, so {', '.join(given)} cannot be set; train it so, "
            f"or leave --set away"
        )
    model, meta = checkpoints.load(weights)
    if meta.detector != name:
        raise EvaluationError(f"{weights}: holds {meta.detector}, not {name}")
    lacking = len(_told(weights, meta.extra, "skipped", list) or ())
    return Subject(
        name,
        model.eval(),
        scale="small" if meta.small else "paper",
        overrides=dict(meta.overrides),
        class_names=tuple(meta.class_names),
        weights=weights,
        seed=_told(weights, meta.extra, "seed", int),
        learned_from=_told(weights, meta.extra, "images", int),
        variant=_told(weights, meta.extra, "variant", dict) or {},
        note=f"trained without {lacking} images that could not be decoded" if lacking else "",
    )


def _told(weights: Path, extra: Mapping[str, str], entry: str, kind: type[_Kind]) -> _Kind | None:
    """What training wrote of itself into a checkpoint, as JSON; None where it wrote nothing."""
    if entry not in extra:
        return None
    try:
        value = json.loads(extra[entry])
    except ValueError:
        value = None
    if not isinstance(value, kind):
        raise EvaluationError(f"{weights}: {entry} is {quoted(extra[entry])}, no {kind.__name__}; train it anew")
    return value


def _from_published(
    name: str, weights: Path, published: checkpoints.Entry, cfg: checkpoints.File, given: dict[str, Any]
) -> Subject:
    """A network of which the authors published both cfg and weights: unlike a user's, it has a year and a paper."""
    if published.detector != name:
        raise EvaluationError(f"{weights}: holds {published.detector}, not {name}")
    subject = _from_cfg(checkpoints.fetch(cfg), weights, {**published.overrides, **given})
    return replace(
        subject,
        name=name,
        origin=published.origin,
        class_names=published.class_names,
        note=f"its authors state {published.published}",
    )


def _from_cfg(cfg: Path, weights: Path, settings: dict[str, Any]) -> Subject:
    """A network as its cfg or prototxt describes it; nothing is known of where it comes from."""
    if cfg.suffix == ".cfg":
        from zoo.one_stage.darknet_cfg import darknet_detector

        model: Detector = darknet_detector(cfg, **settings)
        checkpoints.load_into(model, weights, "darknet")
    else:
        from zoo.one_stage.caffe_net import caffe_detector

        model = caffe_detector(weights, cfg, **settings)
    return Subject(cfg.stem, model.eval(), "paper", settings, None, weights, origin={"family": "one-stage"})


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
