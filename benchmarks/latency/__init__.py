"""How long one detection takes: preprocess, network and postprocess apart and end to end, on real images in order.

The clock starts with a decoded image in host memory and stops with detections in host memory; what stages there are is
told in `clock`, when enough was sampled in `converging`, and what the samples say in `samples`. Raw samples are kept;
statistics are derived.
"""

from __future__ import annotations

from benchmarks.latency.clock import COPIES, STAGES, by_stage, detect_timed, interleaved, time_call, wait_for
from benchmarks.latency.converging import Discard, Disturbed, is_steady
from benchmarks.latency.machine import ForeignLoad, fixed_threads
from benchmarks.latency.measure import LatencyResult, measure_latency
from benchmarks.latency.samples import outliers, summarise

__all__ = [
    "COPIES",
    "STAGES",
    "Discard",
    "Disturbed",
    "ForeignLoad",
    "LatencyResult",
    "by_stage",
    "detect_timed",
    "fixed_threads",
    "interleaved",
    "is_steady",
    "measure_latency",
    "outliers",
    "summarise",
    "time_call",
    "wait_for",
]
