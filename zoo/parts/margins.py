"""Linear machines from few examples of many features, as latent SVMs train them again and again."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["separate"]

_Floats = npt.NDArray[np.float32]

_CONSTANT = 10.0
"""The feature that carries the bias (voc-release5: 10): so long that the bias is hardly shrunk."""


def separate(
    found: _Floats, others: _Floats, begin: _Floats, *, c: float, floor: _Floats, rounds: int = 60
) -> tuple[_Floats, float]:
    """Weights `w` `[D]` and bias `b` that minimise `|w|^2 / 2 + (b / 10)^2 / 2 + c * sum(max(0, 1 - y (w x + b))^2)`.

    Squared violations make the sum smooth, so that L-BFGS, which voc-release5 takes too, goes on from the weights of
    the round before; and it minds bounds.

    Args:
        found: Examples with `y` = 1, `[P, D]`.
        others: Those with `y` = -1, `[N, D]`.
        begin: Weights and bias to begin with, `[D + 1]`.
        c: Price of a violated margin.
        floor: Least that each weight may be, `[D]`; minus infinity where it is free.
        rounds: Most iterations.
    """
    from scipy.optimize import minimize

    examples = np.concatenate([found, others])
    signs = np.repeat(np.array([1, -1], dtype=np.float32), [len(found), len(others)])

    def loss(values: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        margins = examples @ values[:-1].astype(np.float32) + np.float32(_CONSTANT * values[-1])
        short = np.maximum(1 - signs * margins, 0)
        pull = -2 * c * signs * short
        slope = np.append((pull @ examples).astype(np.float64), _CONSTANT * float(pull.sum()))
        return 0.5 * float(values @ values) + c * float(np.square(short, dtype=np.float64).sum()), slope + values

    start = np.maximum(begin.astype(np.float64), np.append(floor, -np.inf))
    start[-1] /= _CONSTANT
    bounds = [(None if low == -np.inf else float(low), None) for low in floor] + [(None, None)]
    best = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": rounds}).x
    return best[:-1].astype(np.float32), float(_CONSTANT * best[-1])
