"""How a detector is built, trained, evaluated and timed: the commands of its page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reports.records import Entry
from reports.tree import Row

__all__ = ["usage"]


def usage(row: Row, cost: Entry | None, weights: Sequence[Mapping[str, Any]], zoo: Path) -> Iterable[str]:
    """Blocks of Python and of shell that run as they stand, where weights and data are there.

    Args:
        row: The detector.
        cost: Its cost Record at the paper's size, where there is one.
        weights: Its published checkpoints, as `weights.toml` has them.
        zoo: Folder of the zoo, for the checkpoints that ship.
    """
    name = row.name
    shipped = sorted(path.name.split(".")[1] for path in (zoo / "weights").glob(f"{name}_small.*.safetensors"))
    classes = cost.record.num_classes if cost else next(iter(row.golden.get("parameters", {20: 0})))
    lines = [
        "from zoo import build, checkpoints",
        "",
        f'model = build("{name}", num_classes={classes})  # the paper\'s size',
    ]
    if shipped:
        lines.append(f'model, about = checkpoints.load(checkpoints.find("{name}", "{shipped[0]}"))  # small, trained')
    else:
        lines[0] = "from zoo import build"
    yield "\n".join(["```python", *lines, "```"])
    yield "\n".join(["```sh", *_commands(row, cost, classes, shipped, weights), "```"])


def _commands(
    row: Row, cost: Entry | None, classes: int, shipped: Sequence[str], weights: Sequence[Mapping[str, Any]]
) -> Iterable[str]:
    run = "python -m benchmarks"
    yield f"{run} cost {row.name} --classes {classes}"
    if row.small:
        drawn = next((name for name in ("shapes", "discs", "bars") if name in shipped), "shapes")
        yield f"{run} train {row.name} --dataset {drawn}"
        file = "" if drawn in shipped else f" --weights runs/{row.name}.{drawn}/{row.name}_small.{drawn}.safetensors"
        yield f"{run} evaluate {row.name} --dataset {drawn}{file} --out runs/{row.name}"
        images = "" if drawn == "shapes" else f" --dataset {drawn}"
        yield f"{run} latency {row.name}{images}{file} --out runs/{row.name}"
    if cost is not None and "paper" in (cost.record.metrics.get("recipes") or {}):
        data = "voc --data-root VOC" if classes == 20 else "coco --data-root COCO"
        if classes in (20, 80, 90):
            yield f"{run} train {row.name} --size paper --dataset {data} --device cuda"
    for entry in weights:
        data = entry.get("dataset", "coco")
        root = f" --data-root {data.upper()}" if data in ("voc", "coco") else ""
        if data in ("shapes", "discs", "bars", "bccd", "voc", "coco") and entry.get("sha256"):
            yield f"FILE=$({run} weights {entry['name']})  # {entry.get('published', '')}"
            yield f'{run} evaluate {row.name} --dataset {data}{root} --weights "$FILE" --out runs/{row.name}'
