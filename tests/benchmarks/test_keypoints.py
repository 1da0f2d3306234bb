"""Tests of detectors of corners at several scales: which pairs meet which centers, and what Records say of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.evaluate import Subject, detect, evaluate
from benchmarks.keypoints import KEYPOINT_PROTOCOLS, KeypointProtocol, KeypointTest, knowing
from benchmarks.multiscale import protocol_named
from benchmarks.results import Record
from ops.images import Batch
from ops.structures import Detections, Target
from reports.records import Entry, Shelf
from tests.contract import assert_is_detections, toy_images
from tests.keypoints import maps
from zoo import build
from zoo.detector import Detector
from zoo.one_stage.centernet import CenterNet
from zoo.one_stage.cornernet import CornerNet, KeypointMaps

TINY = {"stacks": 1, "widths": (8, 8), "blocks": (1, 1), "stem": 4, "pool_width": 4, "head_width": 4, "modulus": 8}
IMAGE = torch.full((3, 160, 160), 0.5)
OBJECTS = {0: (40, 40, 120, 120), 1: (16, 16, 64, 64), 2: (96, 16, 144, 64)}
TAGS = {0: 3.0, 1: 6.0, 2: 9.0}


class Scripted(CenterNet):
    """Sees of each object (class 0, 1, 2) the corners and the center at scales of our choice.

    Args:
        corners: By class, the scales.
        centers: By class, the scales.
        shifted: The scale at which all corners are seen one cell too far to the right.
    """

    def __init__(
        self, corners: dict[int, set[float]], centers: dict[int, set[float]], shifted: float = 0.0, **options: Any
    ) -> None:
        super().__init__(3, **{**TINY, "spare": 0, "top_k": 3, **options})
        self.seen, self.shifted, self.scale = {"tl": corners, "br": corners, "ct": centers}, shifted, 1.0
        self.looks: list[tuple[float, int]] = []

    def preprocess(self, images: list[Tensor], scale: float = 1.0) -> Batch:
        self.scale = scale
        return super().preprocess(images, scale)

    def network(self, batch: Batch, targets: list[Target] | None = None) -> list[dict[str, KeypointMaps]]:
        assert len(batch.frames) == 1
        self.looks.append((self.scale, 1 + self.flip_test))
        height, width = batch.size[0] // 4, batch.size[1] // 4
        found = {}
        for kind, seen in self.seen.items():
            views: list[list[tuple[int, int, int, float]]] = []
            tags: list[dict[tuple[int, int], float]] = []
            for mirrored in (False, True)[: 1 + self.flip_test]:
                peaks = {}
                for label, box in OBJECTS.items():
                    if self.scale in seen.get(label, ()):
                        x1, y1, x2, y2 = (side * self.scale / 4 for side in box)
                        step = self.scale == self.shifted and kind != "ct"
                        x1, x2 = (width - x2, width - x1) if mirrored else (x1 + step, x2 + step)
                        x, y = {"tl": (x1, y1), "br": (x2, y2), "ct": ((x1 + x2) / 2, (y1 + y2) / 2)}[kind]
                        assert x == int(x)
                        assert y == int(y)
                        peaks[label] = (label, int(y), int(x), 0.8 if kind == "br" else 0.9)
                views.append(list(peaks.values()))
                tags.append({(y, x): TAGS[label] for label, y, x, _ in peaks.values()})
            found[kind] = maps(views, (3, height, width), offset=0.0, tags=None if kind == "ct" else tags)
        return [found]


def classes(answer: Detections) -> list[int]:
    return sorted(set(answer.labels[answer.scores > 0.3].tolist()))


def scripted() -> Scripted:
    return Scripted({0: {0.6, 1.0, 1.2, 1.5, 1.8}, 1: {1.5}, 2: {1.5}}, {0: {1.0}, 1: {1.0}, 2: {1.5}})


def test_centers_of_scale_1_confirm_pairs_of_all_scales() -> None:
    model = scripted()
    (answer,) = KeypointTest(model, KEYPOINT_PROTOCOLS["centernet"])([IMAGE])
    assert model.looks == [(scale, 2) for scale in (0.6, 1.0, 1.2, 1.5, 1.8)]
    assert classes(answer) == [0, 1], "the third object's center is seen at another scale"
    for label in (0, 1):
        best = answer.boxes[answer.labels == label][0]
        torch.testing.assert_close(best, torch.tensor(OBJECTS[label]).float(), atol=1e-4, rtol=0)
    # (2 * 0.85 + 0.9) / 3, then the nine other views of the first object, each lowered by all before.
    scores = answer.scores[answer.labels == 0]
    torch.testing.assert_close(scores[:4], 2.6 / 3 * torch.exp(-2 * torch.arange(4.0)), atol=1e-5, rtol=0)


def test_as_the_text_reads_each_scale_has_its_own_centers() -> None:
    (answer,) = KeypointTest(scripted(), KEYPOINT_PROTOCOLS["centernet_text"])([IMAGE])
    assert classes(answer) == [0, 2]
    # The first object is confirmed at scale 1 alone, in both views.
    assert len(answer.scores[(answer.labels == 0) & (answer.scores > 0.01)]) == 2


def test_without_centers_all_pairs_stand() -> None:
    scales = {1.0, 1.5}
    model = Scripted(dict.fromkeys(OBJECTS, scales), {}, cre=False, ctp=False)
    del model.seen["ct"]
    for name in ("cornernet", "cornernet_text"):
        model.looks.clear()
        (answer,) = KeypointTest(model, KEYPOINT_PROTOCOLS[name])([IMAGE])
        assert [scale for scale, _ in model.looks] == [0.5, 0.75, 1.0, 1.25, 1.5]
        assert classes(answer) == [0, 1, 2]


def test_boxes_are_merged_over_scales_or_not() -> None:
    model = Scripted({0: {1.0, 1.2}}, {0: {1.0}}, shifted=1.2)
    (plain,) = KeypointTest(model, KeypointProtocol("plain", (1.0, 1.2)))([IMAGE])
    torch.testing.assert_close(plain.boxes[0], torch.tensor([40.0, 40, 120, 120]), atol=1e-4, rtol=0)
    # At scale 1.2 a cell is 10 / 3 pixels.
    iou = (80 - 10 / 3 + 1) * 81 / ((80 + 10 / 3 + 1) * 81)
    share = (1 - torch.exp(torch.tensor([-2.0, -(iou**2) / 0.5]).double())) ** 10
    # Two exact views, the shifted one, and its mirror image, which is exact.
    moved = 10 / 3 * share[1] / (1 + 2 * share[0] + share[1])
    assert 0.2 < float(moved) < 0.3
    (merged,) = KeypointTest(model, KEYPOINT_PROTOCOLS["centernet"])([IMAGE])
    expected = torch.tensor([40 + moved, 40, 120 + moved, 120])
    torch.testing.assert_close(merged.boxes[0], expected.float(), atol=1e-3, rtol=0)


@pytest.fixture(scope="module")
def small() -> CenterNet:
    torch.manual_seed(0)
    model = build("centernet511_hg52", 3, small=True, ae_threshold=9.0, parts=(1, 1)).eval()
    assert isinstance(model, CenterNet)
    with torch.no_grad():
        for kind in ("tl", "br", "ct"):
            getattr(model, f"{kind}_heats")[0][1].weight *= 50
    return model


def test_one_scale_is_the_detectors_own_test(small: CenterNet) -> None:
    images = toy_images()
    with torch.inference_mode():
        both, one = (KeypointTest(small, KEYPOINT_PROTOCOLS[f"keypoint_{name}"])(images) for name in ("flip", "single"))
        own = small(images)
        assert small.flip_test
        small.flip_test = False
        without = small(images)
        small.flip_test = True
    for tested, wanted in ((both, own), (one, without)):
        for a, b in zip(tested, wanted, strict=True):
            assert len(a) > 10
            assert torch.equal(a.boxes, b.boxes)
            assert torch.equal(a.scores, b.scores)
    assert any(not torch.equal(a.scores, b.scores) for a, b in zip(both, one, strict=True))


@pytest.mark.parametrize("name", ["cornernet", "centernet", "centernet_text"])
def test_a_real_detector_under_every_protocol(small: CenterNet, name: str) -> None:
    images = toy_images()
    with torch.inference_mode():
        for answer, image in zip(KeypointTest(small, KEYPOINT_PROTOCOLS[name])(images), images, strict=True):
            assert_is_detections(answer, image, 3)
            assert len(answer) > 10


def test_an_error_leaves_the_detector_as_it_was(small: CenterNet) -> None:
    with pytest.raises(RuntimeError):
        KeypointTest(small, KEYPOINT_PROTOCOLS["keypoint_single"])([torch.rand(4, 160, 160)])
    assert small.flip_test
    with pytest.raises(ValueError, match="only detects"):
        KeypointTest(small, KEYPOINT_PROTOCOLS["keypoint_flip"])([IMAGE], [])


def test_bad_protocols_are_refused() -> None:
    with pytest.raises(ValueError, match="no_one: centers are those of scale 1"):
        KeypointProtocol("no_one", (0.5, 2.0))
    with pytest.raises(ValueError, match="at least one"):
        KeypointProtocol("none", ())
    with pytest.raises(ValueError, match="multi-scale centernet is for detectors that pair corners"):
        KeypointTest(Detector(3), KEYPOINT_PROTOCOLS["centernet"])
    assert protocol_named("centernet").merge == 10.0
    assert KEYPOINT_PROTOCOLS["cornernet_text"].merge is None


class OneImage:
    """An image with three objects, as a dataset."""

    name, split, fingerprint, num_objects = "squares", "test", "cd" * 24, 3
    class_names, category_ids, image_ids = ("a", "b", "c"), (4, 5, 6), (9,)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        return IMAGE, Target(torch.tensor(list(OBJECTS.values())).float(), torch.tensor(list(OBJECTS)))

    def coco(self) -> dict[str, Any]:
        return {
            "images": [{"id": 9, "height": 160, "width": 160}],
            "categories": [{"id": i, "name": n} for i, n in zip(self.category_ids, self.class_names, strict=True)],
            "annotations": [
                {
                    "id": label + 1,
                    "image_id": 9,
                    "category_id": 4 + label,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
                for label, (x1, y1, x2, y2) in OBJECTS.items()
            ],
        }


def subject(folder: Path, model: Detector) -> Subject:
    weights = folder / "weights.bin"
    weights.write_bytes(b"weights")
    return Subject("centernet511_hg52", model, "small", {}, None, weights)


def test_the_record_says_so(tmp_path: Path) -> None:
    tested = subject(tmp_path, scripted())
    own = evaluate(tested, OneImage(), out=tmp_path, quiet=True)  # type: ignore[arg-type]
    several = evaluate(tested, OneImage(), multi_scale="centernet", out=tmp_path, quiet=True)  # type: ignore[arg-type]
    assert own.metrics["stats"]["AP"] == pytest.approx(1 / 3, abs=1e-6), "at its own scale it sees one object of three"
    assert several.metrics["stats"]["AP"] == pytest.approx(2 / 3, abs=1e-6)
    assert several.name == f"{own.name}.centernet"
    described = KEYPOINT_PROTOCOLS["centernet"].describe()
    assert several.protocol["multi_scale"] == json.loads(json.dumps(described))
    assert Record.read(tmp_path / f"{several.name}.json") == several


def truth(*objects: int, shift: float = 0.0) -> list[Target]:
    boxes = (
        torch.tensor([OBJECTS[label] for label in objects]).view(-1, 4) + torch.tensor([1.3, 0.7, -0.9, 2.2]) * shift
    )
    return [Target(boxes, torch.tensor(objects))]


def test_true_centers_confirm_what_no_center_was_found_for() -> None:
    model = Scripted({label: {1.0} for label in OBJECTS}, {0: {1.0}})
    tested = knowing(model, "centers")
    assert tested.protocol == KEYPOINT_PROTOCOLS["keypoint_flip"]
    assert classes(tested([IMAGE])[0]) == classes(model([IMAGE])[0]) == [0]
    (answer,) = tested.told([IMAGE], truth(1, 2))
    assert classes(answer) == [1, 2], "and a center that was found counts no more"
    torch.testing.assert_close(answer.scores[:2], torch.full((2,), (2 * 0.85 + 1) / 3))
    torch.testing.assert_close(answer.boxes[answer.labels == 1][0], torch.tensor(OBJECTS[1]).float())
    objects = replace(truth(0, 1, 2)[0], ignore=torch.tensor([False, True, False]))
    assert classes(tested.told([IMAGE], [objects])[0]) == [0, 2], "crowds have no center"
    wrong = replace(truth(0, 1)[0], labels=torch.tensor([1, 0]))
    assert classes(tested.told([IMAGE], [wrong])[0]) == []


def test_true_centers_serve_all_scales() -> None:
    model = scripted()
    (answer,) = knowing(model, "centers", KEYPOINT_PROTOCOLS["centernet_text"]).told([IMAGE], truth(0, 1, 2))
    assert classes(answer) == [0, 1, 2]
    assert [scale for scale, _ in model.looks] == [0.6, 1.0, 1.2, 1.5, 1.8]


@pytest.mark.parametrize("centers", [True, False])
def test_true_heatmaps_and_offsets(centers: bool) -> None:
    """The network sees nothing: every offset is 0, every tag the same. Objects lie between cells."""
    model = Scripted({}, {}, cre=centers, ctp=centers)
    if not centers:
        del model.seen["ct"]
    assert classes(model([IMAGE])[0]) == []
    wanted = truth(0, 1, 2, shift=1)[0].boxes
    (answer,) = knowing(model, "heatmaps").told([IMAGE], truth(0, 1, 2, shift=1))
    # An object is seen twice; in the mirror cells are rounded down the other way.
    assert sorted(answer.labels.tolist()) == [0, 0, 1, 1, 2, 2]
    for label in range(3):
        found = answer.boxes[answer.labels == label]
        x1, y1, x2, y2 = wanted[label].tolist()
        direct = [4 * (side // 4) for side in (x1, y1, x2, y2)]
        mirrored = [160 - 4 * ((160 - x1) // 4), direct[1], 160 - 4 * ((160 - x2) // 4), direct[3]]
        for view in (direct, mirrored):
            assert (found - torch.tensor(view)).abs().amax(1).min() < 1e-3
    (answer,) = knowing(model, "heatmaps_and_offsets").told([IMAGE], truth(0, 1, 2, shift=1))
    for label in range(3):
        found = answer.boxes[answer.labels == label]
        torch.testing.assert_close(found, wanted[label].expand(2, 4), atol=1e-3, rtol=0)
    torch.testing.assert_close(answer.scores[:3], torch.ones(3), atol=1e-4, rtol=0)
    (answer,) = knowing(model, "heatmaps").told([IMAGE], truth(2))
    assert answer.labels.tolist() == [2, 2], "cells that fill the list of corners make no boxes"
    (answer,) = knowing(model, "heatmaps").told([IMAGE], truth())
    assert len(answer) == 0


def test_the_truth_comes_in_the_labels_of_the_detector() -> None:
    heard: list[Target] = []

    def told(images: list[Tensor], targets: list[Target]) -> list[Detections]:
        heard.extend(targets)
        none = torch.zeros(0)
        return [Detections(none.view(0, 4), none, none.long()) for _ in images]

    data: Any = OneImage()
    detect(Detector(3), data, categories=(6, None, 5), told=told, quiet=True)
    assert heard[0].labels.tolist() == [2, 0]
    assert heard[0].boxes.int().tolist() == [list(OBJECTS[1]), list(OBJECTS[2])]


def test_an_error_analysis_is_no_test(tmp_path: Path) -> None:
    tested = subject(tmp_path, scripted())
    data: Any = OneImage()
    own = evaluate(tested, data, out=tmp_path, quiet=True)
    told = evaluate(tested, data, known="centers", out=tmp_path, quiet=True)
    both = evaluate(tested, data, known="centers", multi_scale="centernet", out=tmp_path, quiet=True)
    # At scale 1 only the first object's corners are found, at the others all.
    assert told.metrics["stats"]["AP"] == pytest.approx(1 / 3, abs=1e-6)
    assert both.metrics["stats"]["AP"] == pytest.approx(1, abs=1e-6)
    assert (own.truth, told.truth) == (None, "true_centers")
    assert told.name == f"{own.name}.true_centers"
    assert both.name == f"{own.name}.centernet.true_centers"
    assert Record.read(tmp_path / f"{both.name}.json") == both
    shelf = Shelf([Entry(made, Path(f"m/{made.name}.json"), f"m/{made.name}.json") for made in (told, own, both)])
    assert [entry.record for entry in (*shelf.trainings, *shelf.suppressed, *shelf.multi_scale)] == [own]


def test_the_truth_is_refused_where_it_makes_no_sense(tmp_path: Path) -> None:
    corners = CornerNet(3, **TINY)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="looks for none: tell it heatmaps"):
        knowing(corners, "centers")
    with pytest.raises(ValueError, match="'boxes' cannot be told; choose one of centers, heatmaps"):
        knowing(corners, "boxes")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the truth of centers is for detectors that pair corners"):
        knowing(Detector(3), "centers")
    with pytest.raises(ValueError, match="under cornernet, centernet, "):
        knowing(scripted(), "centers", protocol_named("relative"))
    assert not knowing(Scripted({}, {}, flip_test=False), "heatmaps").protocol.flip
    done = CliRunner().invoke(
        app, ["evaluate", "cornernet511_hg52", "--out", str(tmp_path / "x"), "--truth", "centers"]
    )
    assert done.exit_code == 2
    assert done.stderr.startswith("error: true centers are for a CenterNet")
    assert not (tmp_path / "x").exists()


def test_the_command_line(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["evaluate", "yolov1", "--out", str(tmp_path / "x"), "--multi-scale", "centernet"])
    assert done.exit_code == 2
    assert done.stderr.startswith(
        "error: multi-scale centernet is for detectors that pair corners (CornerNet, CenterNet), which YOLOv1"
    )
    assert not (tmp_path / "x").exists()
