"""Named benchmarks: which images, which headline metric, and which loss of it matters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.cost import SHAPES_SIZE
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
        sides: Inputs of small detectors, in pixels, by the names that constructors give them; none where they are
            those of `shapes`.
        scale: Of the images that small pyramids begin with, by that of their `largest_scale`: below 1 where images of
            `shapes` are smaller. Features of a few pixels find nothing but noise in photographs.
        small_changes: Fields of the small recipes that are others on this set.
    """

    name: str
    split: str
    train_split: str
    headline: tuple[str, str]
    margin: float
    photographs: bool = False
    sides: Mapping[str, int] = field(default_factory=dict)
    scale: float = 1.0
    small_changes: Mapping[str, Any] = field(default_factory=dict)

    def test_of(self, train_split: str) -> str:
        """The split to test on what learned from `train_split`: of a scene of `shapes`, that scene's."""
        scene, _, end = train_split.rpartition("-")
        return scene if scene and end == "train" else self.split

    def small_overrides(self, own: Mapping[str, Any]) -> dict[str, int | float]:
        """What a small detector with the settings `own` is given on this set: another input, where it has that of
        `shapes`, or a pyramid of another scale."""
        sides = {name: side for name, side in self.sides.items() if own.get(name) == max(SHAPES_SIZE)}
        if self.scale == 1 or "largest_scale" not in own:
            return {**sides}
        return {**sides, "largest_scale": self.scale * own["largest_scale"]}

    def small_recipe(self, recipe: Recipe) -> Recipe:
        """The recipe of a small detector on this set."""
        changed = replace(recipe, **self.small_changes)
        return replace(changed, augment=photo_augment) if self.photographs else changed


BENCHMARKS: dict[str, Benchmark] = {
    row.name: row
    for row in (
        Benchmark("shapes", "test", "train", ("stats", "AP"), margin=0.5),
        Benchmark("discs", "test", "train", ("stats", "AP"), margin=0.5),
        Benchmark("bars", "test", "train", ("stats", "AP"), margin=0.5),
        Benchmark(
            "bccd",
            "test",
            "trainval",
            ("stats", "AP50"),
            margin=1.0,
            photographs=True,
            # Of photographs of 640x480, 292 to learn from.
            sides={"size": 256, "short": 256, "longest": 342},
            scale=0.5,
            small_changes={"steps": 600, "batch": 8},
        ),
        Benchmark("voc", "2007_test", "0712_trainval", ("voc", "mAP07"), margin=0.3, photographs=True),
        Benchmark("coco", "val2017", "train2017", ("stats", "AP"), margin=0.3, photographs=True),
    )
}


def headline_of(name: str, metrics: dict[str, Any]) -> float:
    """The headline metric of benchmark `name` in percent; nan where it is undefined."""
    section, key = BENCHMARKS[name].headline
    value = metrics[section][key]
    return float("nan") if value is None else 100 * float(value)
