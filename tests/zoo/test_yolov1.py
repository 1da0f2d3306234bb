import math

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ops.images import Batch, Frame
from ops.structures import Target
from tests.contract import assert_is_detector, assert_overfits, empty_target
from zoo import build
from zoo.formats.darknet import Header, read_weights, write_weights
from zoo.one_stage.yolov1 import YOLOv1, yolov1, yolov1_tiny

# Builder, its arguments, trainable numbers, bytes of the weights file, Darknet's BFLOPs, outputs, boxes.
PAPER = [
    (yolov1, {}, 271_703_550, 1_086_814_216, 40.570, 1470, 98),
    (yolov1, {"variant": "v1.1"}, 197_301_875, 789_312_988, 40.421, 1715, 147),
    (yolov1, {"normalised": True}, 271_716_734, 16 + 4 * 271_743_102, 40.570, 1470, 98),
    (yolov1_tiny, {}, 27_095_374, 108_399_816, 3.216, 1470, 98),
]


@pytest.mark.parametrize(("builder", "arguments", "parameters", "size", "bflops", "outputs", "boxes"), PAPER)
def test_paper_size(builder, arguments, parameters, size, bflops, outputs, boxes) -> None:
    with torch.device("meta"):
        model = builder(20, **arguments)
        with FlopCounterMode(display=False) as counter:
            output = model.network_for_cost(Batch(torch.empty(1, 3, 448, 448), ()))
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert 16 + 4 * stored(model.darknet_layers()) == size
    assert round(counter.get_total_flops() / 1e9, 3) == bflops
    assert tuple(output.shape) == (1, outputs)
    assert model.num_boxes((448, 448)) == boxes


def stored(layers) -> int:
    """Numbers that a Darknet file holds for these layers, running statistics included."""
    return sum(
        layer.weight.numel() + (layer.bias.numel() if norm is None else 4 * norm.num_features) for layer, norm in layers
    )


def test_first_twenty_convolutions_are_those_learnt_on_imagenet() -> None:
    with torch.device("meta"):
        layers = list(yolov1(20, normalised=True).darknet_layers())
    assert 16 + 4 * stored(layers[:20]) == 89_721_616
    assert sum(layer.weight.numel() for layer, _ in layers[:24]) == 60_142_784
    assert sum(layer.out_channels for layer, _ in layers[:24]) == 13_184
    assert (layers[0][0].kernel_size, layers[0][0].stride, layers[0][0].padding) == ((7, 7), (2, 2), (3, 3))
    assert [index for index, (layer, _) in enumerate(layers[:24]) if layer.stride == (2, 2)] == [0, 21]


def test_file_ends_with_the_locally_connected_and_the_last_layer() -> None:
    with torch.device("meta"):
        layers = list(yolov1(20, variant="v1.1").darknet_layers())
    assert len(layers) == 26
    assert all(norm is not None for _, norm in layers[:24])
    local, last = (layer for layer, _ in layers[24:])
    assert tuple(local.weight.shape) == (49, 256, 1024, 3, 3)
    assert tuple(local.bias.shape) == (256, 7, 7)
    assert tuple(last.weight.shape) == (1715, 12_544)


def test_weights_file_comes_back(tmp_path) -> None:
    """Convolutions, a locally connected and two connected layers, plain and transposed."""
    torch.manual_seed(0)
    model, other = little(local=3), little(local=3)
    for header in (Header(0, 1, 0, 64_000), Header(1001, 0, 0, 64_000)):
        path = tmp_path / f"{header.major}.weights"
        write_weights(path, model.darknet_layers(), header)
        assert path.stat().st_size == header.size + 4 * stored(model.darknet_layers())
        assert read_weights(path, other.darknet_layers()) == header
        image = torch.rand(1, 3, 64, 64)
        with torch.no_grad():
            ours, theirs = (m.eval().network(m.preprocess([image[0]])) for m in (model, other))
        assert torch.equal(ours, theirs)
        for parameter in other.parameters():
            torch.nn.init.zeros_(parameter)


def test_coco_cfg_has_4655_outputs() -> None:
    with torch.device("meta"):
        assert yolov1(80, variant="v1.1").head[-1].out_features == 4655


def little(classes: int = 3, **overrides) -> YOLOv1:
    """The class at its own structure, cheap enough for loops."""
    settings = {"size": 64, "backbone": "small", "widths": (4, 4, 4, 4, 4), "hidden": 8, "grid": 4, **overrides}
    return YOLOv1(classes, **settings)


def batch_of(count: int, side: int = 64) -> Batch:
    return Batch(torch.zeros(count, 3, side, side), (Frame((side, side), (side, side), (1.0, 1.0)),) * count)


def random_output(model: YOLOv1, count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.6 * torch.randn((count, model.grid**2 * (model.num_classes + 5 * model.boxes)), generator=generator)


def overlap(a: list[float], b: list[float]) -> float:
    """IoU of two boxes by centre and size."""
    across = min(a[0] + a[2] / 2, b[0] + b[2] / 2) - max(a[0] - a[2] / 2, b[0] - b[2] / 2)
    down = min(a[1] + a[3] / 2, b[1] + b[3] / 2) - max(a[1] - a[3] / 2, b[1] - b[3] / 2)
    if across < 0 or down < 0:
        return 0.0
    return across * down / (a[2] * a[3] + b[2] * b[3] - across * down)


def darknet_delta(model: YOLOv1, row: Tensor, target: Target) -> Tensor:
    """What Darknet's detection layer hands back for one image, as loops over its flat output."""
    side, boxes, classes = model.grid, model.boxes, model.num_classes
    cells = side * side
    out = row.tolist()
    delta = [0.0] * len(out)
    truths: dict[int, tuple[int, list[float]]] = {}
    for (x1, y1, x2, y2), label in zip(target.boxes.tolist(), target.labels.tolist(), strict=True):
        x, y = (x1 + x2) / 2 / model.size[1] * side, (y1 + y2) / 2 / model.size[0] * side
        cell = int(y) * side + int(x)
        place = [x - int(x), y - int(y), (x2 - x1) / model.size[1], (y2 - y1) / model.size[0]]
        truths.setdefault(cell, (label, place))
    for cell in range(cells):
        for j in range(boxes):
            index = cells * classes + cell * boxes + j
            delta[index] = 0.5 * (0 - out[index])
        if cell not in truths:
            continue
        label, place = truths[cell]
        for c in range(classes):
            delta[cell * classes + c] = float(c == label) - out[cell * classes + c]
        truth = [place[0] / side, place[1] / side, place[2], place[3]]
        best, best_iou, best_rmse = -1, 0.0, 20.0
        for j in range(boxes):
            index = cells * (classes + boxes) + (cell * boxes + j) * 4
            box = [out[index] / side, out[index + 1] / side, out[index + 2] ** 2, out[index + 3] ** 2]
            iou = overlap(box, truth)
            rmse = math.sqrt(sum((p - q) ** 2 for p, q in zip(box, truth, strict=True)))
            if best_iou > 0 or iou > 0:
                if iou > best_iou:
                    best, best_iou = j, iou
            elif rmse < best_rmse:
                best, best_rmse = j, rmse
        index = cells * classes + cell * boxes + best
        delta[index] = best_iou - out[index]
        index = cells * (classes + boxes) + (cell * boxes + best) * 4
        delta[index] = 5 * (place[0] - out[index])
        delta[index + 1] = 5 * (place[1] - out[index + 1])
        delta[index + 2] = 5 * (math.sqrt(place[2]) - out[index + 2])
        delta[index + 3] = 5 * (math.sqrt(place[3]) - out[index + 3])
    return torch.tensor(delta)


CROWD = Target(
    # The first two share a cell; the last one's centre is on the right edge of a cell.
    torch.tensor([[2.0, 3, 25, 30], [4.0, 2, 20, 28], [40.0, 36, 62, 60], [20.0, 33, 44, 63]]),
    torch.tensor([0, 2, 1, 2]),
)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("boxes", [2, 3])
def test_gradient_is_what_darknet_hands_back(boxes: int, seed: int) -> None:
    model = little(boxes=boxes)
    targets = [CROWD, empty_target()]
    output = random_output(model, 2, seed)
    # Of one cell no box overlaps the object: all are tiny and far away, the second is nearest.
    _, _, places = model.split(output)
    places[0, 14] = torch.tensor([3.0, 3.0, 0.1, 0.1])
    places[0, 14, 1] = torch.tensor([2.5, 2.5, 0.1, 0.1])
    leaf = output.requires_grad_()
    losses = model.losses(leaf, batch_of(2), targets)
    (gradient,) = torch.autograd.grad(sum(losses.values()), leaf)
    for row, raw, target in zip(gradient, output.detach(), targets, strict=True):
        torch.testing.assert_close(-2 * row, darknet_delta(model, raw, target), rtol=1e-4, atol=1e-5)
    places_gradient = model.split(gradient)[2]
    assert places_gradient[0, 14, 1].abs().min() > 0
    assert not places_gradient[0, 14, 0].any()


def test_losses_are_those_of_equation_3() -> None:
    """One object in one cell of one image, by hand: class .2 of 1, boxes right but for half a width's root."""
    model = little(classes=2)
    output = torch.zeros(1, 16 * 12)
    classes, confidences, places = model.split(output)
    # Object of 32x16 at (24, 40): cell (1, 2), in its middle.
    cell = 2 * 4 + 1
    target = Target(torch.tensor([[8.0, 32, 40, 48]]), torch.tensor([1]))
    classes[0, cell] = torch.tensor([0.1, 0.2])
    places[0, cell, 0] = torch.tensor([0.5, 0.5, 0.5, 0.5])
    confidences[0, cell] = torch.tensor([0.3, 0.4])
    confidences[0, 0, 0] = 0.2
    losses = {name: float(value) for name, value in model.losses(output, batch_of(1), [target]).items()}
    root = math.sqrt(0.5)
    assert losses == pytest.approx(
        {
            "centre": 0.0,
            "size": 0.5 * 5 * (root - 0.5) ** 2,
            "object": 0.5 * (0.5 - 0.3) ** 2,  # A square of side .25 within .5 x .25.
            "noobject": 0.5 * 0.5 * (0.4**2 + 0.2**2),
            "classes": 0.5 * (0.1**2 + 0.8**2),
        },
        abs=1e-6,
    )


def test_output_lies_as_darknets() -> None:
    model = little(classes=3, boxes=2)
    output = torch.arange(16.0 * 13)[None]
    classes, confidences, places = model.split(output)
    assert classes[0, 5].tolist() == [15, 16, 17]
    assert confidences[0, 5].tolist() == [48 + 10, 48 + 11]
    assert places[0, 5, 1].tolist() == [80 + 44, 80 + 45, 80 + 46, 80 + 47]


def test_detections_are_products_and_come_back_to_the_image() -> None:
    model = little(classes=2)
    output = torch.zeros(1, 16 * 12)
    classes, confidences, places = model.split(output)
    cell = 2 * 4 + 1
    classes[0, cell] = torch.tensor([0.9, 0.002])
    confidences[0, cell] = torch.tensor([1.2, 0.1])
    places[0, cell, 0] = torch.tensor([0.5, 0.25, -0.5, 0.25])
    places[0, cell, 1] = torch.tensor([0.5, 0.5, 0.7, 0.7])
    frame = Frame((32, 128), (64, 64), (0.5, 2.0))
    (found,) = model.postprocess(output, Batch(torch.zeros(1, 3, 64, 64), (frame,)))
    assert found.scores.tolist() == pytest.approx([1.08, 0.09, 0.0024])
    assert found.labels.tolist() == [0, 0, 1]
    # Centre (24, 36), 16 x 4 in the network.
    assert found.boxes[0].tolist() == pytest.approx([32, 17, 64, 19])


def test_images_are_warped() -> None:
    with torch.device("meta"):
        model = yolov1(20)
    batch = model.preprocess([torch.ones(3, 427, 640)])
    assert batch.size == (448, 448)
    assert torch.allclose(batch.pixels, torch.ones(()))
    assert batch.frames[0].scale == (448 / 640, 448 / 427)


def test_size_is_a_multiple_of_the_stride_and_fixed() -> None:
    with pytest.raises(ValueError, match="multiple of 64, got 416"):
        yolov1(20, size=416)
    model = little()
    with pytest.raises(ValueError):
        model.resize(128)


def test_paper_layers_drop_half_in_training() -> None:
    with torch.device("meta"):
        model = yolov1(20)
    kinds = [type(layer).__name__ for layer in model.head]
    assert kinds == ["Flatten", "Linear", "LeakyReLU", "Dropout", "Linear"]
    assert model.head[3].p == 0.5
    assert [layer.out_features for layer in model.head if hasattr(layer, "out_features")] == [4096, 1470]


def test_without_normalisation_a_deep_network_keeps_its_scale() -> None:
    torch.manual_seed(0)
    model = YOLOv1(2, size=64, hidden=16).eval()
    with torch.no_grad():
        top = model.backbone(torch.rand(2, 3, 64, 64))[-1]
    assert 1e-2 < float(top.std()) < 1e2


@pytest.mark.parametrize("name", ["yolov1", "yolov1_tiny"])
def test_small_size_is_a_detector(name: str) -> None:
    torch.manual_seed(0)
    assert_is_detector(build(name, 8, small=True))


@pytest.mark.parametrize(("name", "boxes"), [("yolov1", 5 * 5 * 2), ("yolov1_tiny", 7 * 7 * 2)])
def test_small_size_takes_larger_images(name: str, boxes: int) -> None:
    model = build(name, 3, small=True, size=256).eval()
    batch = model.preprocess([torch.rand(3, 200, 250)])
    assert batch.size == (256, 256)
    with torch.no_grad():
        assert len(model.decode(model.network(batch))[0][0]) == model.num_boxes((256, 256)) == boxes


@pytest.mark.parametrize("name", ["yolov1", "yolov1_tiny"])
def test_small_size_overfits(name: str) -> None:
    torch.manual_seed(0)
    assert_overfits(build(name, 2, small=True), steps=90)
