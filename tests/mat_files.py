"""Files as voc-release5 and the ACF toolbox write them, of small models with chance's numbers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from scipy.io import savemat


def release(path: Path, change: Any = lambda model: None) -> Path:
    """A file as voc-release5 writes it: a root of 2 x 3 cells with one part of 2 x 2, and their mirror images."""
    noise = np.random.default_rng(0)

    def block(kind: str, shape: list[int], values: Any) -> dict[str, Any]:
        return {"w": np.ravel(values), "shape": shape, "type": kind, "dim": int(np.prod(shape))}

    blocks = [
        block("F", [2, 3, 32], noise.normal(size=192)),
        block("O", [1, 1], 0.5),
        block("O", [1, 3], [0.0, -0.2, 0.2]),
        block("O", [1, 1], 0.0),
        block("D", [1, 4], [1000, 0, 1000, 0]),
        block("O", [1, 3], [0, 0, 0]),
        block("F", [2, 2, 32], noise.normal(size=128)),
        block("D", [1, 4], [0.02, 0.01, 0.03, -0.01]),
    ]

    def moving(lhs: int, rhs: int, cost: int, flip: int) -> dict[str, Any]:
        own = {"blocklabel": 4}, {"blocklabel": cost, "flip": flip}, {"blocklabel": 6}
        return {"type": "D", "lhs": lhs, "rhs": rhs, "offset": own[0], "def": own[1], "loc": own[2]}

    def star(rhs: list[int], x: int) -> dict[str, Any]:
        anchors = np.empty(2, dtype=object)
        anchors[:] = [[0, 0, 0], [x, 1, 1]]
        windows = {"detwindow": [2, 3], "shiftwindow": [0, 0], "anchor": anchors}
        return {"type": "S", "lhs": 1, "rhs": rhs, **windows, "offset": {"blocklabel": 2}, "loc": {"blocklabel": 3}}

    # Symbols: 1 start; 2, 4, 6, 8 the filters; 3, 5 the roots that do not move; 7, 9 the parts that do.
    rules: list[Any] = [
        [star([3, 7], 1), star([5, 9], 3)],
        [],
        [moving(3, 2, 5, 0)],
        [],
        [moving(5, 4, 5, 1)],
        [],
        [moving(7, 6, 8, 0)],
        [],
        [moving(9, 8, 8, 1)],
    ]
    filters = [{"blocklabel": 1 + 6 * (k // 2), "flip": k % 2} for k in range(4)]
    symbols = [
        {"type": "T" if k in (2, 4, 6, 8) else "N", "filter": k // 2 if k % 2 == 0 else []} for k in range(1, 10)
    ]
    edges = ("x1", "y1", "x2", "y2")
    model = {
        "class": "thing",
        "type": "M",
        "start": 1,
        "thresh": -1.5,
        "interval": 2,
        "sbin": 8,
        "features": {"dim": 32, "truncation_dim": 32, "extra_octave": 0, "bias": 10},
        "filters": filters,
        "symbols": symbols,
        "blocks": blocks,
        "rules": rules,
        "bboxpred": [dict.fromkeys(edges, np.arange(5) / 10) for _ in range(2)],
    }
    change(model)

    def cells(value: Any) -> Any:
        if isinstance(value, list) and (not value or not isinstance(value[0], (int, float))):
            out = np.empty(len(value), dtype=object)
            out[:] = [cells(own) for own in value]
            return out
        return {name: cells(own) for name, own in value.items()} if isinstance(value, dict) else value

    savemat(path, {"model": cells(model)})
    return path


def toolbox(path: Path, change: Any = lambda detector: None) -> Path:
    """A file as the toolbox writes it, of three trees for windows of 16 x 8 pixels."""
    child = np.repeat(np.array([2, 4, 6, 0, 0, 0, 0], dtype=np.uint32)[:, None], 3, 1)
    fids = np.zeros((7, 3), dtype=np.uint32)
    fids[:3] = [[0, 1, 4], [5, 8, 79], [2, 3, 40]]
    clf = {"fids": fids, "thrs": np.full((7, 3), 0.25, dtype=np.float32), "child": child, "treeDepth": 2}
    clf["hs"] = np.arange(21, dtype=np.float32).reshape(7, 3) / 10
    channels = {
        "shrink": 4,
        "pColor": {"enabled": 1, "smooth": 1, "colorSpace": "luv"},
        "pGradMag": {"enabled": 1, "normRad": 5, "normConst": 0.005, "full": 0},
        "pGradHist": {"enabled": 1, "nOrients": 6, "softBin": 0, "useHog": 0},
    }
    pyramid = {"pChns": channels, "nPerOct": 8, "nOctUp": 0, "nApprox": 7, "lambdas": [0, 0.1, 0.2], "smooth": 1}
    options = {
        "pPyramid": pyramid,
        "filters": np.zeros((0, 0)),
        "modelDs": [12, 6],
        "modelDsPad": [16, 8],
        "pNms": {"type": "maxg", "overlap": 0.65, "ovrDnm": "min"},
        "stride": 4,
        "cascThr": -1,
    }
    detector = SimpleNamespace(opts=options, clf=clf)
    change(detector)
    savemat(path, {"detector": vars(detector)})
    return path
