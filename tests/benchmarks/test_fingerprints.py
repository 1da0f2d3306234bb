"""Which stage moved: a change planted in each stage must be named, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.fingerprints import (
    STAGES,
    Fingerprints,
    Stage,
    compare_stages,
    environment,
    fingerprint,
    fixed_images,
    read_fingerprints,
    write_fingerprints,
)
from benchmarks.references import place_of_fingerprints
from benchmarks.shipped import WEIGHTS
from zoo import CATALOG, build, checkpoints
from zoo.detector import Detector

HERE = {"torch": "2.0", "processor": "some"}


def small(name: str) -> Detector:
    if name == "cornernet511_hg52":
        # Untrained, it joins no corners.
        return checkpoints.load(checkpoints.find(name, "shapes"))[0].eval()
    torch.manual_seed(0)
    return build(name, 8, **dict(CATALOG[name].small or {})).eval()


def stored(model: Detector, here: dict[str, str] = HERE) -> Fingerprints:
    return Fingerprints(checkpoint="c", environment=here, stages=fingerprint(model))


def nudge(tensor: torch.Tensor, by: float = 0.5) -> None:
    with torch.no_grad():
        tensor.add_(by)


def first_parameter(module: Any) -> torch.Tensor:
    return next(iter(module.parameters()))


def set_(owner: Any, name: str, value: Any) -> None:
    setattr(owner, name, value)


CHANGES: list[tuple[str, str, Callable[[Any], None]]] = [
    ("ssd300_vgg16", "preprocess", lambda m: set_(m, "mean", (104.0, 117.0, 124.0))),
    ("ssd300_vgg16", "features", lambda m: nudge(first_parameter(m.backbone))),
    ("ssd300_vgg16", "heads", lambda m: nudge(m.class_heads[0].bias)),
    ("ssd300_vgg16", "pre-NMS", lambda m: set_(m, "score_floor", 0.12)),
    ("ssd300_vgg16", "post-NMS", lambda m: set_(m, "nms_iou", 0.3)),
    ("faster_rcnn_vgg16", "preprocess", lambda m: set_(m, "mean", tuple(value + 1 for value in m.mean))),
    ("faster_rcnn_vgg16", "proposals", lambda m: set_(m.rpn, "nms", 0.5)),
    ("faster_rcnn_vgg16", "heads", lambda m: nudge(m.roi_heads.box_predictor.cls_score.bias[1:2])),
    ("faster_rcnn_vgg16", "post-NMS", lambda m: set_(m.roi_heads, "nms", 0.1)),
    ("retinanet_r50_fpn", "post-NMS", lambda m: (set_(m, "score_floor", 0.0), set_(m, "nms_iou", 0.1))),
    ("mask_rcnn_r50_fpn", "post-NMS", lambda m: set_(m.roi_heads, "nms", 0.1)),
    ("yolov3", "post-NMS", lambda m: set_(m, "nms", 0.2)),
    ("cornernet511_hg52", "post-NMS", lambda m: set_(m, "suppression", {**m.suppression, "sigma": 0.1})),
]


@pytest.mark.parametrize(("name", "stage", "change"), CHANGES, ids=[f"{name}-{stage}" for name, stage, _ in CHANGES])
def test_a_planted_change_is_named(name: str, stage: str, change: Callable[[Any], None]) -> None:
    model = small(name)
    if name == "retinanet_r50_fpn":
        # Untrained, it says nothing with more than its floor.
        set_(model, "score_floor", 0.0)
    before = stored(model)
    assert compare_stages(before, fingerprint(model), HERE).same, "the same twice"
    change(model)
    found = compare_stages(before, fingerprint(model), HERE)
    assert (found.moved, found.same) == (stage, False)
    assert f"moved: {stage} is the first stage that differs" in str(found)
    assert list(before.stages) == sorted(before.stages, key=STAGES.index)


def test_watching_changes_nothing() -> None:
    model = small("ssd300_vgg16")
    images = fixed_images()
    with torch.inference_mode():
        plain = model(images)
        fingerprint(model, images)
        again = model(images)
    for one, other in zip(plain, again, strict=True):
        assert torch.equal(one.boxes, other.boxes)
        assert torch.equal(one.scores, other.scores)
    assert not model.backbone._forward_hooks
    two = small("faster_rcnn_vgg16")
    fingerprint(two)
    assert "propose" not in vars(two)


def test_elsewhere_hashes_are_not_compared_but_sketches_are() -> None:
    model = small("ssd300_vgg16")
    before = stored(model)
    other = {**HERE, "torch": "3.0"}
    same = compare_stages(before, fingerprint(model), other)
    assert (same.moved, same.apart, same.same) == (None, None, False)
    assert "not comparable bit by bit (torch 3.0 instead of 2.0); the stages agree but for rounding" in str(same)
    nudge(model.class_heads[0].bias, 1.0)
    moved = compare_stages(before, fingerprint(model), other)
    assert (moved.moved, moved.apart) == (None, "heads")
    assert "heads differs beyond rounding" in str(moved)


def test_rounding_moves_hashes_and_no_sketch() -> None:
    model = small("ssd300_vgg16")
    before = stored(model)
    with torch.no_grad():
        first_parameter(model.backbone).mul_(1 + 1e-6)
    found = compare_stages(before, fingerprint(model), HERE)
    assert (found.moved, found.apart) == ("features", None)
    assert str(found).endswith("by no more than rounding")


def test_a_stage_that_is_gone_has_moved() -> None:
    model = small("ssd300_vgg16")
    before, now = stored(model), fingerprint(model)
    del now["pre-NMS"]
    assert compare_stages(before, now, HERE).moved == "pre-NMS"
    kept = {name: stage for name, stage in before.stages.items() if name != "heads"}
    less = Fingerprints(checkpoint="c", environment=HERE, stages=kept)
    assert compare_stages(less, fingerprint(model), HERE).moved == "heads"


def test_the_images_are_the_same_everywhere() -> None:
    first, second = fixed_images()
    assert (tuple(first.shape), tuple(second.shape)) == ((3, 160, 160), (3, 128, 192))
    for image in (first, second):
        bytes_ = image * 255
        assert torch.equal(bytes_, bytes_.round()), "drawn in whole numbers"
        assert 0 <= float(image.min()) < float(image.max()) <= 1
    assert (int((first * 255).sum()), int((second * 255).sum())) == (7_012_770, 7_019_905)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "x.fingerprints.json"
    assert read_fingerprints(path) is None
    model = small("yolov3")
    write_fingerprints(path, model, "abc")
    found = read_fingerprints(path)
    assert found is not None
    assert found.checkpoint == "abc"
    assert found.environment == environment()
    assert compare_stages(found, fingerprint(model), environment()).same
    path.write_text(path.read_text().replace('"checkpoint"', '"chequepoint"', 1))
    with pytest.raises(ValueError, match=r"x\.fingerprints\.json: .*gate --store"):
        read_fingerprints(path)


_MERGING = {"east", "lbp_cascade", "overfeat_accurate", "overfeat_fast", "viola_jones"}
"""They merge detections, each in a way of its own, so that none enters a suppression."""


def test_what_is_stored_holds_every_stage() -> None:
    found = {
        path.stem: read_fingerprints(place_of_fingerprints(path)) for path in sorted(WEIGHTS.glob("*.safetensors"))
    }
    known = {name.partition("_small.")[0]: one for name, one in found.items() if one is not None}
    assert known.keys() >= _MERGING
    for name, one in known.items():
        wanted = {"preprocess", "heads", "post-NMS"} | ({"pre-NMS"} if name not in _MERGING else set())
        assert wanted <= set(one.stages) <= set(STAGES)
        assert ("pre-NMS" in one.stages) == (name not in _MERGING)
        assert all(isinstance(stage, Stage) and len(stage.sha256) == 64 for stage in one.stages.values())
        for stage in wanted & {"pre-NMS", "post-NMS"}:
            assert sum(count for count, _, _ in one.stages[stage].sketch) > 0, f"nothing is in {stage} of {name}"
