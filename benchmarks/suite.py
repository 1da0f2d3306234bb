"""Named benchmarks: which images, which headline metric, and which loss of it matters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ops.augment import photo_augment
from zoo.detector import Recipe

__all__ = ["BENCHMARKS", "Benchmark", "headline_of"]


@dataclass(frozen=True)
class Benchmark:
    """A split, a headline metric, and what training on this set changes.

    Attributes:
        name: Of the dataset, as `open_dataset` knows it.
        split: Test split.
        train_split: Split to train on.
        headline: Where the metric stands in the JSON of `score`.
        margin: A drop of the headline, in points, that is of no account: what the gate must rule out to pass, and the
            least that it calls a failure. Evaluation is deterministic on one machine; other processors and versions
            move it by less.
        photographs: Whether small detectors are trained with the augmentation for photographs.
    """

    name: str
    split: str
    train_split: str
    headline: tuple[str, str]
    margin: float
    photographs: bool = False

    def small_recipe(self, recipe: Recipe) -> Recipe:
        """The recipe of a small detector on this set."""
        return replace(recipe, augment=photo_augment) if self.photographs else recipe


BENCHMARKS: dict[str, Benchmark] = {
    row.name: row
    for row in (
        Benchmark("shapes", "test", "train", ("stats", "AP"), margin=0.5),
        Benchmark("discs", "test", "train", ("stats", "AP"), margin=0.5),
        Benchmark("bars", "test", "train", ("stats", "AP"), margin=0.5),
        Benchmark("bccd", "test", "trainval", ("stats", "AP50"), margin=1.0, photographs=True),
        Benchmark("voc", "2007_test", "0712_trainval", ("voc", "mAP07"), margin=0.3, photographs=True),
        Benchmark("coco", "val2017", "train2017", ("stats", "AP"), margin=0.3, photographs=True),
    )
}


def headline_of(name: str, metrics: dict[str, Any]) -> float:
    """The headline metric of benchmark `name` in percent; nan where it is undefined."""
    section, key = BENCHMARKS[name].headline
    value = metrics[section][key]
    return float("nan") if value is None else 100 * float(value)
