import math

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import box_iou

from ops.images import Batch, Frame
from ops.reorg import reorg
from ops.structures import Target
from tests.contract import assert_is_detector, assert_overfits, empty_target
from zoo import CATALOG, build
from zoo.backbones.darknet import DARKNET19, DarknetChain
from zoo.formats.darknet import conv_layers
from zoo.one_stage.yolov2 import YOLOv2, yolov2, yolov2_tiny

# Builder, classes, arguments, input side, trainable numbers, bytes of the weights file, Darknet's BFLOPs, boxes.
PAPER = [
    (yolov2, 20, {}, 288, 50_655_389, 202_704_260, 14.072, 405),
    (yolov2, 20, {}, 352, 50_655_389, 202_704_260, 21.021, 605),
    (yolov2, 20, {}, 416, 50_655_389, 202_704_260, 29.360, 845),
    (yolov2, 20, {}, 480, 50_655_389, 202_704_260, 39.089, 1125),
    (yolov2, 20, {}, 544, 50_655_389, 202_704_260, 50.208, 1445),
    (yolov2, 80, {}, 416, 50_962_889, 203_934_260, 29.464, 845),
    (yolov2, 80, {}, 608, 50_962_889, 203_934_260, 62.938, 1805),
    (yolov2, 20, {"passthrough": 0}, 416, 67_137_565, 268_632_452, 34.898, 845),
    (yolov2, 80, {"passthrough": 0}, 416, 67_445_065, 269_862_452, 35.002, 845),
    (yolov2_tiny, 20, {}, 416, 15_861_773, 63_471_556, 6.971, 845),
    (yolov2_tiny, 80, {}, 416, 11_232_057, 44_948_596, 5.406, 845),
]


@pytest.mark.parametrize(("builder", "classes", "arguments", "side", "parameters", "size", "bflops", "boxes"), PAPER)
def test_paper_size(builder, classes, arguments, side, parameters, size, bflops, boxes) -> None:
    with torch.device("meta"):
        model = builder(classes, **arguments)
        with FlopCounterMode(display=False) as counter:
            output = model.network_for_cost(Batch(torch.empty(1, 3, side, side), ()))
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert 16 + 4 * stored(model.darknet_layers()) == size
    assert round(counter.get_total_flops() / 1e9, 3) == bflops
    assert tuple(output.shape) == (1, 5 * (5 + classes), side // 32, side // 32)
    assert model.num_boxes((side, side)) == boxes


def stored(layers) -> int:
    """Numbers that a Darknet file holds for these layers, running statistics included."""
    return sum(
        conv.weight.numel() + (conv.bias.numel() if norm is None else 4 * norm.num_features) for conv, norm in layers
    )


def test_backbone_is_darknet19() -> None:
    with torch.device("meta"):
        backbone = DarknetChain(DARKNET19)
        maps = backbone(torch.empty(1, 3, 416, 416))
        with FlopCounterMode(display=False) as counter:
            backbone(torch.empty(1, 3, 224, 224))
    assert stored(conv_layers(backbone)) == 19_831_776, "darknet19_448.conv.23"
    assert sum(p.numel() for p in backbone.parameters()) + 1024 * 1000 + 1000 == 20_842_376
    assert round((counter.get_total_flops() + 2 * 49 * 1024 * 1000) / 1e9, 3) == 5.582
    assert [tuple(m.shape[1:]) for m in maps] == [(512, 26, 26), (1024, 13, 13)]


def test_file_holds_the_passthrough_behind_both_wide_convolutions() -> None:
    with torch.device("meta"):
        shapes = [tuple(conv.weight.shape) for conv, _ in yolov2(20).darknet_layers()]
    assert len(shapes) == 23
    assert shapes[18:] == [
        (1024, 1024, 3, 3),
        (1024, 1024, 3, 3),
        (64, 512, 1, 1),
        (1024, 1280, 3, 3),
        (125, 1024, 1, 1),
    ]


def test_folded_map_comes_first() -> None:
    model = little()
    seen = []
    model.head.after.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    fine, coarse = torch.rand(1, 4, 6, 6), torch.rand(1, 8, 3, 3)
    model.eval()
    with torch.no_grad():
        model.head(fine, coarse)
        folded = reorg(model.head.narrow(fine))
        assert torch.equal(seen[0][:, :16], folded)
        assert torch.equal(seen[0][:, 16:], model.head.before(coarse))


def little(classes: int = 3, **overrides) -> YOLOv2:
    """The class at its own structure, cheap enough for loops: stride 32 of 96 pixels."""
    settings = {"size": 96, "backbone": "small", "widths": (4, 4, 4, 4, 8), "before": (8,), "passthrough": 4}
    return YOLOv2(classes, **{**settings, "after": (8,), **overrides})


def batch_of(count: int, size: int = 96) -> Batch:
    return Batch(torch.zeros(count, 3, size, size), (Frame((size, size), (size, size), (1.0, 1.0)),) * count)


def random_output(model: YOLOv2, count: int, seed: int = 0, spread: float = 0.7) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    side = model.size[0] // model.stride
    return spread * torch.randn((count, 5 * (5 + model.num_classes), side, side), generator=generator)


def test_zero_logits_decode_to_the_anchor_in_the_middle_of_its_cell() -> None:
    model = little(classes=20)
    boxes, raw = model.decode(torch.zeros(1, 125, 13, 13))
    x1, y1, x2, y2 = (boxes[0, 0] / 416).tolist()
    assert ((x1 + x2) / 2, (y1 + y2) / 2) == pytest.approx((0.0384615, 0.0384615), abs=1e-6)
    assert (x2 - x1, y2 - y1) == pytest.approx((0.1017, 0.1331885), abs=1e-6)
    assert (raw[0, 0, 4].sigmoid() * raw[0, 0, 5:].softmax(-1)).tolist() == pytest.approx([0.025] * 20)
    # Anchors, rows, columns.
    centre = boxes[0, 2 * 169 + 3 * 13 + 5].reshape(2, 2).mean(0) / 32
    assert centre.tolist() == pytest.approx([5.5, 3.5])


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def slope(value: float) -> float:
    return sigmoid(value) * (1 - sigmoid(value))


def darknet_delta(model: YOLOv2, output: Tensor, target: Target, seen: int) -> Tensor:
    """What Darknet's region layer hands back for one image, as loops: minus the gradient."""
    _, height, width = output.shape
    classes, anchors = model.num_classes, model.anchors.tolist()
    values = output.reshape(len(anchors), 5 + classes, height, width)
    delta = torch.zeros_like(values)

    def box(n: int, j: int, i: int) -> tuple[float, float, float, float]:
        x, y, w, h = values[n, :4, j, i].tolist()
        return sigmoid(x) + i, sigmoid(y) + j, anchors[n][0] * math.exp(w), anchors[n][1] * math.exp(h)

    def iou(a, b) -> float:
        corners = [torch.tensor([[x - w / 2, y - h / 2, x + w / 2, y + h / 2]]) for x, y, w, h in (a, b)]
        return float(box_iou(*corners))

    def place(n: int, j: int, i: int, truth, scale: float) -> None:
        x, y, w, h = values[n, :4, j, i].tolist()
        delta[n, 0, j, i] = scale * (truth[0] - i - sigmoid(x)) * slope(x)
        delta[n, 1, j, i] = scale * (truth[1] - j - sigmoid(y)) * slope(y)
        delta[n, 2, j, i] = scale * (math.log(truth[2] / anchors[n][0]) - w)
        delta[n, 3, j, i] = scale * (math.log(truth[3] / anchors[n][1]) - h)

    truths = [
        ((x1 + x2) / 64, (y1 + y2) / 64, (x2 - x1) / 32, (y2 - y1) / 32) for x1, y1, x2, y2 in target.boxes.tolist()
    ]
    for n in range(len(anchors)):
        for j in range(height):
            for i in range(width):
                best = max((iou(box(n, j, i), truth) for truth in truths), default=0.0)
                to = float(values[n, 4, j, i])
                delta[n, 4, j, i] = 0.0 if best > model.spare else -sigmoid(to) * slope(to)
                if seen < model.drawn:
                    place(n, j, i, (i + 0.5, j + 0.5, *anchors[n]), 0.01)
    for truth, label in zip(truths, target.labels.tolist(), strict=True):
        i, j = int(truth[0]), int(truth[1])
        n = max(range(len(anchors)), key=lambda k: iou((0, 0, *anchors[k]), (0, 0, truth[2], truth[3])))
        place(n, j, i, truth, 2 - truth[2] * truth[3] / (height * width))
        to = float(values[n, 4, j, i])
        delta[n, 4, j, i] = 5 * (iou(box(n, j, i), truth) - sigmoid(to)) * slope(to)
        delta[n, 5:, j, i] = -values[n, 5:, j, i].softmax(0)
        delta[n, 5 + label, j, i] += 1
    return delta.reshape(output.shape)


CROWD = Target(
    # The first two share anchor and cell (the later one counts); the last two are alone.
    torch.tensor([[20.0, 22, 61, 74], [22.0, 20, 62, 72], [1.0, 2, 12, 14], [5.0, 4, 92, 90]]),
    torch.tensor([0, 2, 1, 0]),
)


@pytest.mark.parametrize("spare", [0.6, 0.2])
@pytest.mark.parametrize("seen", [0, 12_800])
def test_gradient_is_what_darknet_hands_back(seen: int, spare: float) -> None:
    model = little(spare=spare)
    model.seen.fill_(seen)
    model.eval()
    targets = [CROWD, empty_target()]
    leaf = random_output(model, 2).requires_grad_()
    losses = model.losses(leaf, batch_of(2), targets)
    (gradient,) = torch.autograd.grad(sum(losses.values()), leaf)
    for row, raw, target in zip(gradient, leaf.detach(), targets, strict=True):
        torch.testing.assert_close(-2 * row, darknet_delta(model, raw, target, seen), rtol=1e-4, atol=1e-5)
    assert (losses["anchors"].item() > 0) == (seen == 0)


def test_spared_predictions_do_exist_in_that_test() -> None:
    boxes, _ = little().decode(random_output(little(), 2))
    best = box_iou(boxes[0], CROWD.boxes).amax(1)
    assert int((best > 0.2).sum()) - int((best > 0.6).sum()) > 5


def test_pull_to_anchors_ends_when_enough_images_were_seen() -> None:
    model = little(drawn=5)
    output, targets = random_output(model, 2), [CROWD, empty_target()]
    model.eval()
    model.losses(output, batch_of(2), targets)
    assert int(model.seen) == 0, "only training counts"
    model.train()
    pulls = [float(model.losses(output, batch_of(2), targets)["anchors"]) for _ in range(4)]
    assert [pull > 0 for pull in pulls] == [True, True, False, False]
    assert int(model.seen) == 8
    other = little(drawn=5)
    other.load_state_dict(model.state_dict())
    assert int(other.seen) == 8


def test_loss_is_near_zero_for_outputs_that_say_the_truth() -> None:
    model = little()
    model.seen.fill_(20_000)
    target = Target(torch.tensor([[10.0, 20, 52, 76]]), torch.tensor([2]))
    # Centre (31, 48) in cell (0, 1); of the anchors (1.32, 1.73) is most like 42x56 pixels.
    output = torch.full((1, 40, 3, 3), -15.0)
    column = output[0, :8, 1, 0]
    column[:2] = torch.logit(torch.tensor([31 / 32, 16 / 32]))
    column[2:4] = torch.log(torch.tensor([42 / 32 / 1.3221, 56 / 32 / 1.73145]))
    column[4] = column[7] = 15.0
    losses = model.losses(output, batch_of(1), [target])
    assert all(float(value) < 1e-5 for value in losses.values()), losses


def test_at_most_thirty_objects_are_learnt() -> None:
    model = little(max_objects=2)
    output = random_output(model, 1)
    assert model.losses(output, batch_of(1), [CROWD]) == model.losses(output, batch_of(1), [CROWD[:2]])
    with torch.device("meta"):
        assert yolov2(20).max_objects == 30


def test_scores_are_products_with_a_softmax() -> None:
    model = little()
    output = torch.full((1, 40, 3, 3), -12.0)
    cell = output[0, 8:16, 2, 1]
    cell[:5] = torch.tensor([0.0, 0.0, 0.0, 0.0, math.log(0.5 / 0.5)])
    cell[5:] = torch.tensor([0.8, 0.195, 0.005]).log()
    frame = Frame(size=(192, 120), inner=(96, 60), scale=(0.5, 0.5), offset=(18.0, 0.0))
    (found,) = model.postprocess(output, Batch(torch.zeros(1, 3, 96, 96), (frame,)))
    # Half of .005 is below the floor.
    assert found.labels.tolist() == [0, 1]
    assert found.scores.tolist() == pytest.approx([0.4, 0.0975])
    width, height = 32 * 3.19275, 32 * 4.00944
    expected = [max(0.0, (48 - width / 2 - 18) * 2), (80 - height / 2) * 2, 120.0, 192.0]
    assert found.boxes[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_images_are_letterboxed_on_grey() -> None:
    with torch.device("meta"):
        model = yolov2(20)
    batch = model.preprocess([torch.ones(3, 427, 640)])
    assert batch.size == (416, 416)
    assert batch.frames[0].offset == (0.0, 69.0)
    assert batch.pixels[0, :, :69].unique().tolist() == [0.5]


def test_cfg_follows_from_the_classes_of_coco() -> None:
    with torch.device("meta"):
        assert (yolov2(20).size, yolov2(80).size, yolov2(80, cfg="voc").size) == ((416,) * 2, (608,) * 2, (416,) * 2)
        assert (yolov2_tiny(20).size, yolov2_tiny(80).size) == ((416, 416), (416, 416))
        widths = [
            model.head.predict.in_channels for model in (yolov2_tiny(20), yolov2_tiny(80), yolov2_tiny(2, cfg="coco"))
        ]
    assert widths == [1024, 512, 512]


def test_input_must_be_a_multiple_of_the_stride() -> None:
    with pytest.raises(ValueError, match="multiple of 32, got 400"):
        yolov2(20, size=400)


def test_recipes_draw_the_sizes_of_the_released_cfgs() -> None:
    sizes = (320, 352, 384, 416, 448, 480, 512, 544, 576, 608)
    for name in ("yolov2", "yolov2_tiny", "yolov3"):
        recipe = CATALOG[name].recipe
        assert (recipe.sizes, recipe.resize_every) == (sizes, 10)
        assert CATALOG[name].small_recipe.sizes == ()


@pytest.mark.parametrize("name", ["yolov2", "yolov3"])
def test_sizes_change_between_steps_of_one_detector(name: str) -> None:
    torch.manual_seed(0)
    model = build(name, 2, small=True)
    target = Target(torch.tensor([[20.0, 30, 90, 100]]), torch.tensor([1]))
    for side in (96, 160, (64, 128)):
        model.resize(side)
        size = (side, side) if isinstance(side, int) else side
        assert model.preprocess([torch.rand(3, 120, 150)]).size == size
        losses = model([torch.rand(3, 120, 150)], [target])
        assert all(bool(value.isfinite()) for value in losses.values())
        (found,) = model.eval()([torch.rand(3, 120, 150)])
        assert len(found) <= model.num_boxes(size)
        model.train()
    for wrong in (0, 100, (64, 100)):
        with pytest.raises(ValueError, match="size must be a multiple of"):
            model.resize(wrong)
    assert model.size == (64, 128)


def test_an_object_is_learnt_at_the_same_pixels_at_every_size() -> None:
    """Anchor and cell follow the map: 64x64 pixels about (48, 48) are one cell wide twice, whatever the input."""
    model = little()
    for side in (96, 192):
        model.resize(side)
        target = Target(torch.tensor([[16.0, 16, 80, 80]]), torch.tensor([0]))
        slots, _, wanted, weight = model._assign([target], (side // 32, side // 32))
        assert slots.tolist() == [1 * (side // 32) + 1]
        assert wanted[0].tolist() == pytest.approx([0.5, 0.5, math.log(2 / 1.3221), math.log(2 / 1.73145)])
        assert weight.tolist() == pytest.approx([2 - 64 * 64 / side**2])


def test_anchors_do_not_scale_with_the_input() -> None:
    model = little()
    model.resize(160)
    assert model.preprocess([torch.rand(3, 50, 70)]).size == (160, 160)
    assert model.num_boxes((160, 160)) == 125
    boxes, _ = model.decode(torch.zeros(1, 40, 5, 5))
    assert (boxes[0, 0, 2:] - boxes[0, 0, :2]).tolist() == pytest.approx([32 * 1.3221, 32 * 1.73145])


@pytest.mark.parametrize("name", ["yolov2", "yolov2_tiny"])
def test_small_size_is_a_detector(name: str) -> None:
    torch.manual_seed(0)
    assert_is_detector(build(name, 8, small=True))


@pytest.mark.parametrize("name", ["yolov2", "yolov2_tiny"])
def test_small_size_takes_larger_images(name: str) -> None:
    model = build(name, 3, small=True, size=256).eval()
    batch = model.preprocess([torch.rand(3, 200, 250)])
    assert batch.size == (256, 256)
    with torch.no_grad():
        assert len(model.decode(model.network(batch))[0][0]) == model.num_boxes((256, 256)) == 1280


@pytest.mark.parametrize("name", ["yolov2", "yolov2_tiny"])
def test_small_size_overfits(name: str) -> None:
    torch.manual_seed(0)
    assert_overfits(build(name, 2, small=True), steps=60, lr=3e-3)
