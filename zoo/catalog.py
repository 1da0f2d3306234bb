"""Every detector of the zoo, one row each, by year."""

from __future__ import annotations

from zoo.detector import Spec

__all__ = ["CATALOG"]

_ROWS: tuple[Spec, ...] = ()

CATALOG: dict[str, Spec] = {spec.name: spec for spec in sorted(_ROWS, key=lambda spec: spec.year)}
