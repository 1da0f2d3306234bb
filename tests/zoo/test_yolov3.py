import math

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import box_iou

from ops.images import Batch, Frame
from ops.structures import Target
from tests.contract import assert_is_detector, assert_overfits, empty_target
from zoo import CATALOG, build
from zoo.backbones.darknet import Darknet53
from zoo.formats.darknet import conv_layers
from zoo.one_stage.yolov3 import YOLOv3, yolov3, yolov3_spp, yolov3_tiny

NAMES = ("yolov3", "yolov3_tiny", "yolov3_spp")
# Builder, classes, input side, trainable numbers, bytes of the weights file, Darknet's BFLOPs, boxes, map sides.
PAPER = [
    (yolov3, 80, 320, 61_949_149, 248_007_048, 38.973, 6_300, (10, 20, 40)),
    (yolov3, 80, 416, 61_949_149, 248_007_048, 65.864, 10_647, (13, 26, 52)),
    (yolov3, 80, 608, 61_949_149, 248_007_048, 140.692, 22_743, (19, 38, 76)),
    (yolov3, 20, 416, 61_626_049, 246_714_648, 65.428, 10_647, (13, 26, 52)),
    (yolov3_tiny, 80, 416, 8_852_366, 35_434_956, 5.565, 2_535, (13, 26)),
    (yolov3_spp, 80, 608, 62_998_749, 252_209_544, 141.449, 22_743, (19, 38, 76)),
]


def stored(layers) -> int:
    """Numbers that a Darknet file holds for these layers, running statistics included."""
    return sum(
        conv.weight.numel() + (conv.out_channels if norm is None else 4 * norm.num_features) for conv, norm in layers
    )


@pytest.mark.parametrize(("builder", "classes", "side", "parameters", "size", "bflops", "boxes", "maps"), PAPER)
def test_paper_size(builder, classes, side, parameters, size, bflops, boxes, maps) -> None:
    with torch.device("meta"):
        model = builder(classes, size=side)
        with FlopCounterMode(display=False) as counter:
            outputs = model.network_for_cost(Batch(torch.empty(1, 3, side, side), ()))
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert 20 + 4 * stored(model.darknet_layers()) == size
    assert round(counter.get_total_flops() / 1e9, 3) == bflops
    assert model.num_boxes((side, side)) == boxes
    assert [tuple(o.shape) for o in outputs] == [(1, 3 * (5 + classes), m, m) for m in maps]


def test_catalog_states_darknets_operations() -> None:
    expected = {("yolov3", 320): 38.973, ("yolov3", 416): 65.864, ("yolov3", 608): 140.692}
    expected |= {("yolov3_tiny", 416): 5.565, ("yolov3_spp", 608): 141.449}
    found = {
        (name, side): round(2 * macs / 1e9, 3)
        for name in NAMES
        for (classes, side, _), macs in CATALOG[name].golden.macs.items()
        if classes == 80
    }
    assert found == expected


def test_backbone_is_darknet53() -> None:
    with torch.device("meta"):
        backbone = Darknet53()
        maps = backbone(torch.empty(1, 3, 416, 416))
    assert stored(conv_layers(backbone)) == 40_620_640, "darknet53.conv.74"
    assert sum(p.numel() for p in backbone.parameters()) + 1024 * 1000 + 1000 == 41_609_928
    assert len(list(conv_layers(backbone))) == 52
    assert [tuple(m.shape[1:]) for m in maps] == [(256, 52, 52), (512, 26, 26), (1024, 13, 13)]


def little(classes: int = 3, **overrides) -> YOLOv3:
    """The class at its own structure, cheap enough for loops."""
    return YOLOv3(classes, size=96, backbone="small", heads=(8, 8, 8), depths=(1, 1, 1), **overrides)


def frames(count: int, size: tuple[int, int] = (96, 96)) -> tuple[Frame, ...]:
    return (Frame(size, size, (1.0, 1.0)),) * count


def random_outputs(model: YOLOv3, count: int, seed: int = 0, spread: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [
        (count, len(mask) * (5 + model.num_classes), model.size[0] // stride, model.size[1] // stride)
        for mask, stride in zip(model.masks, model.strides, strict=True)
    ]
    return [spread * torch.randn(shape, generator=generator) for shape in shapes]


def test_zero_logits_decode_to_the_anchor_in_the_middle_of_its_cell() -> None:
    with torch.device("meta"):
        model = yolov3(80)
    model.anchors = torch.tensor(
        [(10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198), (373, 326)]
    ).float()
    outputs = [torch.zeros(1, 255, side, side) for side in (13, 26, 52)]
    boxes, raw = model.decode(outputs)
    x1, y1, x2, y2 = (boxes[0, 0] / 416).tolist()
    assert ((x1 + x2) / 2, (y1 + y2) / 2) == pytest.approx((0.0384615, 0.0384615), abs=1e-6)
    assert (x2 - x1, y2 - y1) == pytest.approx((0.2788462, 0.2163462), abs=1e-6)
    assert (raw[0, 0, 4].sigmoid() * raw[0, 0, 5:].sigmoid()).tolist() == pytest.approx([0.25] * 80)
    # The coarsest head first, then anchors, rows, columns.
    assert (boxes[0, 507 + 2 * 676 + 26 + 3] / 416).tolist() == pytest.approx(
        [3.5 / 26 - 59 / 832, 1.5 / 26 - 119 / 832, 3.5 / 26 + 59 / 832, 1.5 / 26 + 119 / 832]
    )


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def darknet_deltas(model: YOLOv3, outputs: list[Tensor], targets: list[Target]) -> list[Tensor]:
    """What Darknet's yolo layer hands back for each output, as loops: minus the gradient of one image's loss."""
    side, classes = model.size[0], model.num_classes
    anchors = model.anchors.tolist()
    deltas = []
    for output, stride, mask in zip(outputs, model.strides, model.masks, strict=True):
        count, _, height, width = output.shape
        values = output.reshape(count, len(mask), 5 + classes, height, width)
        delta = torch.zeros_like(values)
        for b in range(count):
            truths = list(zip(targets[b].boxes.tolist(), targets[b].labels.tolist(), strict=True))
            for n, anchor in enumerate(mask):
                for j in range(height):
                    for i in range(width):
                        x, y, w, h = values[b, n, :4, j, i].tolist()
                        cx, cy = (sigmoid(x) + i) * stride, (sigmoid(y) + j) * stride
                        pw, ph = anchors[anchor][0] * math.exp(w), anchors[anchor][1] * math.exp(h)
                        box = torch.tensor([[cx - pw / 2, cy - ph / 2, cx + pw / 2, cy + ph / 2]])
                        best = max((float(box_iou(box, torch.tensor([t]))) for t, _ in truths), default=0.0)
                        if best <= model.ignore:
                            delta[b, n, 4, j, i] = -sigmoid(float(values[b, n, 4, j, i]))
            for truth, label in truths:
                x1, y1, x2, y2 = truth
                tw, th = x2 - x1, y2 - y1

                def shape_iou(index: int, tw: float = tw, th: float = th) -> float:
                    aw, ah = anchors[index]
                    shared = min(tw, aw) * min(th, ah)
                    return shared / (tw * th + aw * ah - shared)

                best_anchor = max(range(len(anchors)), key=shape_iou)
                if best_anchor not in mask:
                    continue
                n = mask.index(best_anchor)
                i, j = int((x1 + x2) / 2 / stride), int((y1 + y2) / 2 / stride)
                x, y, w, h, objectness = values[b, n, :5, j, i].tolist()
                scale = 2 - tw * th / side**2
                delta[b, n, 0, j, i] = scale * ((x1 + x2) / 2 / stride - i - sigmoid(x))
                delta[b, n, 1, j, i] = scale * ((y1 + y2) / 2 / stride - j - sigmoid(y))
                delta[b, n, 2, j, i] = scale * (math.log(tw / anchors[best_anchor][0]) - w)
                delta[b, n, 3, j, i] = scale * (math.log(th / anchors[best_anchor][1]) - h)
                delta[b, n, 4, j, i] = 1 - sigmoid(objectness)
                for c in range(classes):
                    score = sigmoid(float(values[b, n, 5 + c, j, i]))
                    if c == label:
                        delta[b, n, 5 + c, j, i] = 1 - score
                    elif not any(other == c and same for other, same in taken(truths, n, i, j, mask, stride, anchors)):
                        delta[b, n, 5 + c, j, i] = -score
        deltas.append(delta.reshape(output.shape))
    return deltas


def taken(truths, n: int, i: int, j: int, mask, stride: int, anchors) -> list[tuple[int, bool]]:
    """Of each object of the image its label, and whether it falls on anchor `n` of cell `(i, j)`."""
    answers = []
    for (x1, y1, x2, y2), label in truths:
        tw, th = x2 - x1, y2 - y1
        ious = []
        for aw, ah in anchors:
            shared = min(tw, aw) * min(th, ah)
            ious.append(shared / (tw * th + aw * ah - shared))
        best = ious.index(max(ious))
        cell = (int((x1 + x2) / 2 / stride), int((y1 + y2) / 2 / stride))
        answers.append((label, best in mask and mask.index(best) == n and cell == (i, j)))
    return answers


CROWD = Target(
    # The first two share anchor and cell; the last two are alone.
    torch.tensor([[20.0, 22, 51, 84], [22.0, 20, 52, 82], [1.0, 2, 12, 14], [5.0, 4, 92, 90]]),
    torch.tensor([0, 2, 1, 0]),
)


@pytest.mark.parametrize("masks", [((6, 7, 8), (3, 4, 5), (0, 1, 2)), ((4, 6, 8), (3, 4, 5), (1, 2, 3))])
@pytest.mark.parametrize("ignore", [0.7, 0.3])
def test_gradient_is_what_darknet_hands_back(masks, ignore: float) -> None:
    """Also with an anchor in two heads (its objects are learnt twice) and one in none (they are not learnt)."""
    model = little(masks=masks, ignore=ignore)
    targets = [CROWD, empty_target()]
    outputs = random_outputs(model, 2, spread=0.7)
    # A prediction right on an object but of another anchor: whether it is spared depends on `ignore`.
    outputs[0][0, 1 * 8 : 1 * 8 + 4, 1, 1] = torch.tensor([0.0, 0.0, math.log(84 / 156), math.log(83 / 198)])
    leaves = [output.requires_grad_() for output in outputs]
    losses = model.losses(leaves, Batch(torch.zeros(2, 3, 96, 96), frames(2)), targets)
    gradients = torch.autograd.grad(sum(losses.values()), leaves)
    for gradient, delta in zip(gradients, darknet_deltas(model, [o.detach() for o in outputs], targets), strict=True):
        torch.testing.assert_close(-2 * gradient, delta, rtol=1e-4, atol=1e-5)
        assert delta.abs().max() > 0


def test_ignore_spares_a_prediction_that_fits_well_but_is_not_the_one_to_learn() -> None:
    losses = {}
    for ignore in (0.4, 0.9):
        model = little(ignore=ignore)
        outputs = [torch.zeros_like(o) for o in random_outputs(model, 1)]
        # Object of the shape of anchor 8 is learnt by the coarsest head; anchor 7 of the same cell overlaps it too.
        target = Target(torch.tensor([[8.0, 8, 88, 88]]), torch.tensor([1]))
        outputs[0][0, 8 + 2 : 8 + 4, 1, 1] = torch.tensor([math.log(80 / 156), math.log(80 / 198)])
        outputs[0][0, 8 + 4, 1, 1] = 9.0
        losses[ignore] = float(
            model.losses(outputs, Batch(torch.zeros(1, 3, 96, 96), frames(1)), [target])["objectness"]
        )
    assert losses[0.9] - losses[0.4] > 8.9, "a confident prediction of IoU between the two was not spared at .4"


def test_loss_is_near_zero_for_outputs_that_say_the_truth() -> None:
    model = little()
    target = Target(torch.tensor([[10.0, 20, 40, 80], [50.0, 40, 61, 52]]), torch.tensor([0, 2]))
    outputs = [torch.full_like(o, -15.0) for o in random_outputs(model, 1)]
    # Anchor 3 (30, 61) of stride 16 at (25, 50); anchor 0 (10, 13) of stride 8 at (55.5, 46).
    for level, anchor, cell, offset, size, label in (
        (1, 0, (1, 3), (25 / 16 - 1, 50 / 16 - 3), (math.log(30 / 30), math.log(60 / 61)), 0),
        (2, 0, (6, 5), (55.5 / 8 - 6, 46 / 8 - 5), (math.log(11 / 10), math.log(12 / 13)), 2),
    ):
        column = outputs[level][0, anchor * 8 : anchor * 8 + 8, cell[1], cell[0]]
        column[:2] = torch.logit(torch.tensor(offset))
        column[2:4] = torch.tensor(size)
        column[4] = column[5 + label] = 15.0
    losses = model.losses(outputs, Batch(torch.zeros(1, 3, 96, 96), frames(1)), [target])
    assert float(losses["size"]) < 1e-6
    assert float(losses["objectness"]) < 1e-3
    assert float(losses["classes"]) < 1e-4
    # Cross entropy of a fraction with itself is its entropy, not zero.
    entropy = 0.0
    for (fx, fy), (w, h) in (((25 / 16 - 1, 50 / 16 - 3), (30, 60)), ((55.5 / 8 - 6, 46 / 8 - 5), (11, 12))):
        for f in (fx, fy):
            entropy -= (2 - w * h / 96**2) * (f * math.log(f) + (1 - f) * math.log(1 - f))
    assert float(losses["centre"]) == pytest.approx(entropy, rel=1e-4)
    boxes, _ = model.decode(outputs)
    assert float(box_iou(target.boxes, boxes[0]).amax(1).min()) > 0.999


def test_at_most_ninety_objects_are_learnt() -> None:
    model = little(max_objects=2)
    outputs = random_outputs(model, 1)
    batch = Batch(torch.zeros(1, 3, 96, 96), frames(1))
    all_four, two, three = (model.losses(outputs, batch, [CROWD[:count]]) for count in (4, 2, 3))
    assert all_four == two
    model.max_objects = 90
    assert model.losses(outputs, batch, [CROWD[:3]])["classes"] > three["classes"]


def test_images_are_letterboxed_on_grey_by_integer_division() -> None:
    with torch.device("meta"):
        model = yolov3(80)
    batch = model.preprocess([torch.ones(3, 427, 640), torch.zeros(3, 640, 425)])
    assert batch.size == (416, 416)
    # 427 * 416 // 640 = 277, (416 - 277) // 2 = 69; 425 * 416 // 640 = 276, (416 - 276) // 2 = 70.
    assert batch.frames[0].inner == (277, 416)
    assert batch.frames[0].offset == (0.0, 69.0)
    assert batch.frames[1].inner == (416, 276)
    assert batch.frames[1].offset == (70.0, 0.0)
    wide, tall = batch.pixels
    assert wide[:, 69:346].min() > 0.999
    assert wide[:, :69].unique().tolist() == wide[:, 346:].unique().tolist() == [0.5]
    assert tall[:, :, 70:346].max() == 0
    assert tall[:, :, :70].unique().tolist() == tall[:, :, 346:].unique().tolist() == [0.5]


def silent(model: YOLOv3) -> list[Tensor]:
    return [torch.full_like(o, -12.0) for o in random_outputs(model, 1)]


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_scores_are_products_and_boxes_come_back_to_the_image() -> None:
    model = little()
    outputs = silent(model)
    cell = outputs[1][0, 0:8, 3, 2]
    cell[:5] = torch.tensor([0.0, 0.0, 0.0, 0.0, logit(0.5)])
    cell[5:] = torch.tensor([logit(0.8), logit(0.02), logit(0.009)])
    frame = Frame(size=(192, 120), inner=(96, 60), scale=(0.5, 0.5), offset=(18.0, 0.0))
    (found,) = model.postprocess(outputs, Batch(torch.zeros(1, 3, 96, 96), (frame,)))
    # 0.5 * 0.009 is below .005 though neither factor is.
    assert found.labels.tolist() == [0, 1]
    assert found.scores.tolist() == pytest.approx([0.4, 0.01])
    # Anchor (30, 61) in the middle of cell (2, 3) of stride 16, moved by the letterbox and twice as large.
    expected = [(40 - 15 - 18) * 2, (56 - 30.5) * 2, (40 + 15 - 18) * 2, (56 + 30.5) * 2]
    assert found.boxes[0].tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("shift", "kept"), [(0.2, 2), (0.95, 1)])
def test_neighbours_of_a_class_are_suppressed_above_the_threshold(shift: float, kept: int) -> None:
    """Two boxes of 30x61 in neighbouring cells, 16 px apart or nearly in one place; another class stays beside them."""
    model = little(limit=10)
    outputs = silent(model)
    for column, offset, score in ((2, shift, 0.9), (3, 0.05, 0.8)):
        cell = outputs[1][0, 0:8, 3, column]
        cell[:4] = torch.tensor([logit(offset), 0.0, 0.0, 0.0])
        cell[4], cell[5] = 12.0, logit(score)
    outputs[1][0, 6, 3, 2] = logit(0.7)
    (found,) = model.postprocess(outputs, Batch(torch.zeros(1, 3, 96, 96), frames(1)))
    assert sorted(found.labels.tolist()) == [0] * kept + [1]
    assert len(little(limit=1).postprocess(outputs, Batch(torch.zeros(1, 3, 96, 96), frames(1)))[0]) == 1


def test_tiny_has_both_readings_of_the_second_mask() -> None:
    with torch.device("meta"):
        assert yolov3_tiny(80).masks == ((3, 4, 5), (1, 2, 3))
        assert yolov3_tiny(80, second_mask=(0, 1, 2)).masks == ((3, 4, 5), (0, 1, 2))


def test_paper_size_starts_neutral_and_a_prior_starts_with_few_objects() -> None:
    for prior in (0.5, 0.01):
        model = little(prior=prior)
        for head in model.heads:
            biases = head.predict.bias.reshape(3, 8)
            assert torch.allclose(biases[:, 4].sigmoid(), torch.tensor(prior))
            assert not biases[:, [0, 1, 2, 3, 5, 6, 7]].any()


def test_input_must_be_a_multiple_of_the_largest_stride() -> None:
    with pytest.raises(ValueError, match="multiple of 32, got 400"):
        yolov3(80, size=400)


def test_a_head_must_hand_up_its_narrow_map() -> None:
    with pytest.raises(ValueError, match="depths must be odd or 0"):
        YOLOv3(3, size=96, backbone="small", heads=(8, 8, 8), depths=(5, 4, 5))


@pytest.mark.parametrize("name", NAMES)
def test_small_size_is_a_detector(name: str) -> None:
    torch.manual_seed(0)
    assert_is_detector(build(name, 8, small=True))


@pytest.mark.parametrize("name", NAMES)
def test_small_size_takes_larger_images(name: str) -> None:
    model = build(name, 3, small=True, size=256).eval()
    batch = model.preprocess([torch.rand(3, 200, 250)])
    assert batch.size == (256, 256)
    with torch.no_grad():
        assert len(model.decode(model.network(batch))[0][0]) == model.num_boxes((256, 256))


@pytest.mark.parametrize("name", ["yolov3", "yolov3_tiny"])
def test_small_size_overfits(name: str) -> None:
    torch.manual_seed(0)
    assert_overfits(build(name, 2, small=True), steps=50, lr=3e-3)
