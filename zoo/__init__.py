"""The detectors: `build(name, num_classes)` and the `CATALOG` of what there is."""

from __future__ import annotations

from typing import Any

from zoo.catalog import CATALOG
from zoo.detector import Detector, Recipe, Spec

__all__ = ["CATALOG", "Detector", "Recipe", "Spec", "build"]


def build(name: str, num_classes: int, *, small: bool = False, **overrides: Any) -> Detector:
    """Build a detector of the catalog with fresh weights.

    Args:
        name: A key of `CATALOG`.
        num_classes: Foreground classes.
        small: The size that trains on `shapes` in minutes instead of the paper's.
        overrides: Constructor arguments that differ from the size's own.

    Raises:
        KeyError: There is no such detector; the message lists those that come close.
        ValueError: The detector has no small size.
    """
    if name not in CATALOG:
        import difflib

        near = difflib.get_close_matches(name, CATALOG, n=3) or sorted(CATALOG)
        raise KeyError(f"no detector {name!r} in the catalog; there is {', '.join(near)}")
    spec = CATALOG[name]
    if small:
        if spec.small is None:
            raise ValueError(f"{name} has no small size")
        overrides = {**spec.small, **overrides}
    return spec.build(num_classes, **overrides)
