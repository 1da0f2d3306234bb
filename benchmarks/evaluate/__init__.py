"""How well a detector detects: it is run over a split, and what it says is scored as a file of results would be.

`subject` finds the detector and its weights, `detecting` runs it over the images, `partial` keeps what it has found so
far, and `accuracy` scores the whole and makes the Record.
"""

from __future__ import annotations

from benchmarks.evaluate.accuracy import evaluate
from benchmarks.evaluate.detecting import category_of_label, coco_rows, detect, propose
from benchmarks.evaluate.subject import EvaluationError, Subject, find_subject, load_subject

__all__ = [
    "EvaluationError",
    "Subject",
    "category_of_label",
    "coco_rows",
    "detect",
    "evaluate",
    "find_subject",
    "load_subject",
    "propose",
]
