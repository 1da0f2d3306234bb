"""HOG + SVM: equal to OpenCV with OpenCV's people vector, and what `fit` promises."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.cost import cost
from ops.features import hog_blocks
from ops.images import Batch
from ops.structures import Target
from tests.contract import assert_is_fitted_detector, forms, toy_images
from zoo import build
from zoo.classical.hog_svm import HogSvm, hog_svm, people_detector
from zoo.parts.windows import Examples, Scan


def rgb(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1).float() / 255


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Upright blobs on smooth noise of several scales: OpenCV's detector finds people in it, and in part is sure."""
    noise = np.random.default_rng(seed)
    layers = [cv2.GaussianBlur(noise.normal(size=(height, width, 3)), (0, 0), s) * s for s in (1, 3, 9)]
    image = cv2.normalize(sum(layers), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    for turn in range(3):
        x, top = 60 + 110 * turn, 40 + 8 * turn
        cv2.circle(image, (x, top + 12), 9, (40, 60, 90), -1, cv2.LINE_AA)
        cv2.ellipse(image, (x, top + 45), (16, 26), 0, 0, 360, (60, 30, 30), -1, cv2.LINE_AA)
        for leg in (-7, 7):
            cv2.line(image, (x + leg, top + 60), (x + leg + leg // 3, top + 105), (30, 30, 50), 9, cv2.LINE_AA)
    return cv2.GaussianBlur(image, (0, 0), 0.8)


def opencv_margins(image: np.ndarray) -> np.ndarray:
    """The SVM's answer for each window of one level, from OpenCV's descriptors."""
    rows, columns = (image.shape[0] - 128) // 8 + 1, (image.shape[1] - 64) // 8 + 1
    vector = cv2.HOGDescriptor.getDefaultPeopleDetector().ravel()
    descriptors = cv2.HOGDescriptor().compute(image, winStride=(8, 8)).reshape(-1, 3780)
    return (descriptors @ vector[:-1] + vector[-1]).reshape(rows, columns)


def test_people_vector() -> None:
    model = people_detector()
    assert model.weight.shape == (1, 36, 15, 7)
    assert model.bias.item() == pytest.approx(-6.6657915)
    assert (model.weight.sum() + model.bias.sum()).item() == pytest.approx(17.829723, abs=1e-4)
    assert (model.weight.abs().sum() + model.bias.abs().sum()).item() == pytest.approx(235.04443, abs=1e-3)
    assert model.weight[0, :5, 0, 0].tolist() == pytest.approx(
        [0.05359386, -0.14721455, -0.0553217, 0.05077307, 0.11547081]
    )


def test_margins_of_a_level_are_opencvs() -> None:
    image = photograph(240, 400)
    model = people_detector()
    levels = model.network(model.preprocess([rgb(image)]))[0]
    assert levels[0].scale == (1.0, 1.0)
    ours = levels[0].margins[0]
    theirs = opencv_margins(image)
    assert ours.shape == theirs.shape == (15, 43)
    assert theirs.max() > 0.3, "the test needs a window that OpenCV takes for a person"
    # OpenCV's arc tangent errs by up to 0.01 degrees; over 3,780 products that is what is left.
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-3)
    assert np.median(np.abs(ours.numpy() - theirs)) < 1e-3


def assert_agrees_with_detect_multi_scale(image: np.ndarray, atol: float) -> int:
    """Every window that OpenCV is sure of is ours with the same margin, and the reverse; how many there were."""
    scale = 1.05
    opencv = cv2.HOGDescriptor()
    opencv.setSVMDetector(cv2.HOGDescriptor.getDefaultPeopleDetector())
    theirs, weights = opencv.detectMultiScale(image, 0.0, (8, 8), (0, 0), scale, 0.0, False)
    model = people_detector(scale_step=scale, nms_iou=1.0, limit=100_000)
    (answer,) = model([rgb(image)])
    margins = answer.scores.double().logit().numpy()
    middles = ((answer.boxes[:, :2] + answer.boxes[:, 2:]) / 2).numpy()
    heights = (answer.boxes[:, 3] - answer.boxes[:, 1]).numpy() / 0.75
    rows = np.array(theirs, dtype=float).reshape(-1, 4)
    for sure, box in zip(np.ravel(weights), rows, strict=True):
        if sure < 2 * atol:
            continue
        # OpenCV rounds boxes to whole pixels.
        away = np.abs(middles - (box[:2] + box[2:] / 2)).max(1) + np.abs(heights - box[3])
        assert away.min() < 3, f"OpenCV's {box} ({sure:.3f}) is not among ours"
        assert np.abs(margins[away < 3] - sure).min() < atol
    missing = 0
    for sure, middle, height in zip(margins, middles, heights, strict=True):
        if sure > 2 * atol:
            away = np.abs(middle - (rows[:, :2] + rows[:, 2:] / 2)).max(1) + np.abs(height - rows[:, 3])
            missing += bool(away.min() >= 3)
    assert missing == 0
    return len(rows)


def test_detections_are_opencvs() -> None:
    # OpenCV rounds each level to bytes, which moves margins by hundredths.
    assert assert_agrees_with_detect_multi_scale(photograph(240, 400), atol=0.1) >= 3


def _photographs() -> list[Path]:
    root = os.environ.get("DETECTOR_ZOO_DATA")
    folders = [] if not root else [folder for folder in Path(root).expanduser().glob("coco*") if folder.is_dir()]
    return sorted(path for folder in folders for path in folder.rglob("*.jpg"))[:4]


@pytest.mark.skipif(not _photographs(), reason="DETECTOR_ZOO_DATA names no folder with photographs of COCO")
def test_detections_are_opencvs_on_photographs() -> None:
    for path in _photographs():
        image = cv2.imread(str(path))
        model = people_detector()
        level = model.network(model.preprocess([rgb(image)]))[0][0]
        theirs = opencv_margins(image)
        away = np.abs(level.margins[0].numpy() - theirs)
        # In a few pixels two channels are equally strong but for rounding, and either may be taken.
        assert np.quantile(away, 0.9) < 3e-3
        assert away.max() < 0.03
        assert_agrees_with_detect_multi_scale(image, atol=0.25)


def test_boxes_leave_out_the_margin_and_the_padding() -> None:
    model = hog_svm(1, padding=3)
    model.weight.zero_()
    model.bias.fill_(1.0)
    batch = model.preprocess([torch.rand((3, 128, 64))])
    first = model.network(batch)[0][0]
    assert first.margins.shape == (1, 7, 7)
    boxes = model._boxes(first.scale, first.margins.shape[-2:], batch.frames[0])
    assert boxes[0, 3, 3].tolist() == [16, 16, 48, 112], "64 x 128 pixels hold an object of 32 x 96"
    assert boxes[0, 0, 0].tolist() == [0, 0, 24, 88], "clipped to the image"


def test_equals_a_scan_written_as_loops() -> None:
    torch.manual_seed(0)
    model = HogSvm(2, window=(7, 6), margin=1, cell=4, padding=1, largest_scale=1.5)
    model.weight.normal_(std=0.1)
    model.bias.copy_(torch.tensor([0.3, -0.2]))
    model.window.copy_(torch.tensor([[7, 4], [5, 6]]))
    model.weight[0, :, :, 3:] = 0
    model.weight[1, :, 4:] = 0
    image = toy_images()[0][:, :50, :66]
    for level in model.network(model.preprocess([image]))[0]:
        height, width = round(50 * level.scale[1]), round(66 * level.scale[0])
        resized = torch.nn.functional.interpolate(image[None], (height, width), mode="bilinear")[0]
        blocks = hog_blocks(torch.nn.functional.pad(resized[None], (4, 4, 4, 4), mode="replicate")[0], 4)
        for label, (rows, columns) in enumerate([(7, 4), (5, 6)]):
            own = model.weight[label, :, : rows - 1, : columns - 1]
            for y in range(level.margins.shape[1]):
                for x in range(level.margins.shape[2]):
                    patch = blocks[:, y : y + rows - 1, x : x + columns - 1]
                    if patch.shape != own.shape:
                        assert level.margins[label, y, x] == -torch.inf
                        continue
                    wanted = (patch * own).sum() + model.bias[label]
                    assert level.margins[label, y, x].item() == pytest.approx(wanted.item(), abs=1e-4)


def test_an_image_in_a_batch_is_an_image_alone() -> None:
    model = people_detector(score_floor=0.05)
    small, large = rgb(photograph(150, 200)), rgb(photograph(240, 400))
    together = model([small, large])
    for one, alone in zip(together, [*model([small]), *model([large])], strict=True):
        assert torch.equal(one.boxes, alone.boxes)
        assert torch.equal(one.scores, alone.scores)


def test_an_image_without_a_window_has_no_detections() -> None:
    (answer,) = people_detector()([torch.rand((3, 100, 60))])
    assert len(answer) == 0


def test_contract() -> None:
    assert_is_fitted_detector(lambda: build("hog_svm", 2, small=True, positives=60, negatives=300))


def test_windows_follow_each_class_median_aspect() -> None:
    model = hog_svm(3, window=(14, 14), margin=1, area=36)
    wide, tall, square = [0.0, 0, 40, 10], [0.0, 0, 10, 90], [0.0, 0, 30, 30]
    many = Target(torch.tensor([wide, tall, square]), torch.tensor([0, 1, 2]))
    odd = Target(torch.tensor([tall, wide]), torch.tensor([0, 1]), torch.tensor([True, True]))
    model._choose_windows([many, odd])
    # 36 cells at 4:1 are 3 x 12, at 1:9 18 x 2, of which 12 rows fit.
    assert model.window.tolist() == [[5, 14], [14, 4], [8, 8]]


def test_a_class_without_objects_is_named() -> None:
    with pytest.raises(ValueError, match="class 2 has no object"):
        build("hog_svm", 3, small=True).fit(forms(2), seed=0)
    with pytest.raises(ValueError, match="class 0: no window overlaps"):
        hog_svm(2, largest_scale=0.8, window=(8, 8), margin=1, area=36).fit(forms(2), seed=0)


def test_hard_negatives_lower_false_alarms() -> None:
    clutter = [
        (torch.rand((3, 96, 96), generator=torch.Generator().manual_seed(s)), forms(1)[0][1][:0]) for s in range(6)
    ]
    alarms = []
    for rounds in (0, 1):
        model = build("hog_svm", 2, small=True, positives=60, negatives=60, rounds=rounds)
        model.fit([*forms(6), *clutter], seed=0)
        levels = [level for image, _ in clutter for level in model.network(model.preprocess([image]))[0]]
        alarms.append(sum(int((level.margins > -1).sum()) for level in levels))
    assert alarms[1] < 0.7 * alarms[0]


def test_scan_tells_windows_apart() -> None:
    model = HogSvm(1, window=(6, 6), margin=1, cell=4, area=16)
    image = torch.rand((3, 64, 64), generator=torch.Generator().manual_seed(0))
    objects = torch.tensor([[4.0, 4, 20, 20], [40.0, 40, 56, 56]])
    target = Target(objects, torch.tensor([0, 0]), torch.tensor([False, True]))

    class Never:
        def random(self) -> float:
            return 0.9

    scan = model._scan(image, target, Never())  # type: ignore[arg-type]
    assert isinstance(scan, Scan)
    best, _ = scan.holding(0, 0.6).tolist()
    assert scan.boxes[0, best].tolist() == [4, 4, 20, 20]
    assert torch.equal(scan.take(0, torch.tensor([best]))[0], hog_blocks(image, 4)[:, :5, :5].flatten())
    held = scan.boxes[0, scan.free(0, 0.3)]
    assert len(held) > 20
    from torchvision.ops import box_iou

    assert box_iou(held, objects).max() < 0.3, "windows on ignored objects are no negatives either"
    assert box_iou(scan.boxes[0, scan.holding(0, 0.6)], objects[1:]).max() == 0, "nor are they positives"


def test_examples_stop_at_their_limit() -> None:
    examples = Examples(5)
    examples.add(torch.ones((3, 2)))
    assert examples.wanted
    examples.add(torch.ones((3, 2)))
    assert not examples.wanted
    assert [len(part) for part in examples.parts] == [3, 2]


def test_cost_counts_windows_and_products() -> None:
    found = cost("hog_svm", 1, (128, 64))
    assert found["parameters"] == 0
    assert found["buffers"] == 3780 + 1 + 2
    assert found["boxes"] == 1
    # The window's 3,780 weights, and the votes of 128 x 64 pixels in 9 directions summed into cells in x, then in y.
    assert found["macs"] == 3780 + 9 * 128 * 8 * 8 * 4 + 9 * 16 * 4 * 8 * 32
    # 1.2 apart: 160 x 120 gives 5 x 8 windows, 133 x 100 gives 1 x 5.
    assert cost("hog_svm", 3, (160, 120))["boxes"] == 3 * (5 * 8 + 1 * 5)


def test_windows_counted_are_windows_scanned() -> None:
    model = build("hog_svm", 2, small=True)
    model.window.copy_(torch.tensor([[7, 9], [11, 6]]))
    batch: Batch = model.preprocess([torch.rand((3, 70, 90))])
    scanned = sum(int(level.margins.isfinite().sum()) for level in model.network(batch)[0])
    assert model.num_boxes((70, 90)) == scanned


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"scale_step": 1.0}, "scale_step"),
        ({"window": (4, 8)}, "leaves no object"),
        ({"margin": 4}, "leaves no object"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        hog_svm(1, **wrong)


def test_a_vector_for_another_window_is_refused() -> None:
    daimler = cv2.HOGDescriptor.getDaimlerPeopleDetector()
    assert daimler.size == 1981
    with pytest.raises(ValueError, match=r"1981 numbers, where .* take 3781"):
        hog_svm(1).load_opencv(daimler)
    hog_svm(1, window=(12, 6)).load_opencv(daimler)
    with pytest.raises(ValueError, match="2 classes"):
        hog_svm(2).load_opencv(cv2.HOGDescriptor.getDefaultPeopleDetector())
