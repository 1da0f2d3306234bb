"""Training by gradient descent: what comes at which step is a function of the seed and the step.

Which images come, how they are augmented, which regions are sampled, at which size: resuming therefore needs no
generator's state, and on a CPU it ends with the weights of a run that was never interrupted.
"""

from __future__ import annotations

from benchmarks.descent.draws import Draws, seed_of_start
from benchmarks.descent.fit import fit_by_gradient
from benchmarks.descent.optimising import optimizer_for

__all__ = ["Draws", "fit_by_gradient", "optimizer_for", "seed_of_start"]
