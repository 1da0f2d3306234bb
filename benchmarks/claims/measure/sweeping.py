"""Which trained detectors run at other settings for which claim, and the checkpoints of them that there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.claims.measure import keypoints, networks, placing, probing, refining
from benchmarks.evaluate import Subject, load_subject
from zoo import checkpoints

__all__ = ["SWEEPS", "Sweep", "partner_of", "subjects"]


@dataclass(frozen=True)
class Sweep:
    """A trained detector run at other settings.

    Attributes:
        claim: Id.
        detectors: Catalog names.
        run: What measures, of a subject, a data set and a number of images; of a partner, too, where there is one.
        splits: Of `shapes`.
        partner: Catalog name of a detector that runs beside, trained with the same seed; empty for none.
        learned: Split that the detectors learned from, where it is not the usual one.
    """

    claim: str
    detectors: tuple[str, ...]
    run: Callable[..., dict[str, Any]]
    splits: tuple[str, ...] = ("test",)
    partner: str = ""
    learned: str | None = None


_REFINEDET = "refinedet320_vgg16"

SWEEPS: tuple[Sweep, ...] = (
    Sweep("fd-not-share", ("cornernet511_hg52", "centernet511_hg52"), keypoints.false_rates),
    Sweep("gt-centers", ("centernet511_hg52",), keypoints.true_centers),
    Sweep("center-hit", ("centernet511_hg52",), keypoints.center_hits),
    Sweep("region-switch", ("centernet511_hg52",), keypoints.regions),
    Sweep("easy-loss-share", ("retinanet_r50_fpn",), networks.easy_share),
    Sweep("objectness-prior", ("ron320_vgg16",), networks.gated),
    Sweep("level-by-scale", ("ssd300_vgg16",), networks.levels_alone),
    Sweep("nms-crowd", ("ssd300_vgg16",), networks.suppressed, ("crowd", "sparse")),
    Sweep("proposal-recall-cap", ("faster_rcnn_vgg16",), networks.proposal_cap),
    Sweep("box-regression", ("rcnn_alexnet",), networks.corrected),
    Sweep("onestage-localisation", ("faster_rcnn_vgg16", "faster_rcnn_vgg16_align", "ssd300_vgg16",
                                    "faster_rcnn_r50_fpn", "retinanet_r50_fpn"), placing.placed),
    Sweep("two-step", (_REFINEDET,), refining.first_step),
    Sweep("naf", (_REFINEDET,), refining.filtered),
    Sweep("anchor-free-or-refined-alignment", (f"{_REFINEDET}_unfiltered",), refining.rescored,
          partner=f"{_REFINEDET}_one_step"),
    Sweep("weak-semantics", ("dssd321_r101", "ssd300_vgg16", f"{_REFINEDET}_one_step"), probing.told_apart),
    Sweep("densebox-overlap", ("densebox", "ssd300_vgg16"), placing.met_in_pairs, ("twins",), learned="twins-train"),
)  # fmt: skip


def subjects(detectors: Sequence[str], extra: Sequence[Path], learned: str | None = None) -> Iterator[Subject]:
    """The detectors' checkpoints that ship for `shapes`, and those of `extra` that are theirs; of all these the ones
    that learned from a split."""
    own = [path for name in detectors for path in checkpoints.shipped(name, "shapes")]
    given = [path for path in extra if checkpoints.load(path)[1].detector in detectors]
    for path in own + given:
        subject = load_subject(checkpoints.load(path)[1].detector, path, 0)
        if subject.variant.get("split") == learned:
            yield subject


def partner_of(subject: Subject, name: str, extra: Sequence[Path]) -> Subject | None:
    """The detector of this name that was trained with the same seed and the same changes; None where there is none."""
    wanted = (subject.seed, subject.variant)
    beside = subjects((name,), extra, subject.variant.get("split"))
    return next((one for one in beside if (one.seed, one.variant) == wanted), None)
