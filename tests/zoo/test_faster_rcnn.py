"""Faster R-CNN on VGG-16: golden numbers, the released code's rules, and losses against loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou, nms

from ops.anchors import caffe_shapes
from ops.coders import CenterSizeCoder
from ops.images import Batch, Frame
from ops.structures import Target
from tests.contract import assert_is_detector, assert_overfits, empty_target
from zoo import CATALOG, build
from zoo.parts.roi_head import BoxHead, BoxPredictor, PyramidAlign, RegionMean, RegionPool, RoIHead, Samples
from zoo.parts.rpn import RPN, RPNHead, RPNOutputs
from zoo.two_stage.faster_rcnn import RECIPE, FasterRCNN, faster_rcnn_vgg16


def on_meta(num_classes: int = 20, scales: tuple[float, ...] = (8.0, 16.0, 32.0)) -> FasterRCNN:
    with torch.device("meta"):
        return faster_rcnn_vgg16(num_classes, scales=scales)


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("num_classes", "scales", "count"),
    [(20, (8, 16, 32), 137_078_239), (80, (8, 16, 32), 138_307_339), (80, (4, 8, 16, 32), 138_316_573)],
)
def test_parameters(num_classes: int, scales: tuple[float, ...], count: int) -> None:
    assert parameters(on_meta(num_classes, scales)) == count


def test_parameters_by_part() -> None:
    model = on_meta()
    assert parameters(model.backbone) == 14_714_688
    assert parameters(model.rpn) == 2_387_510
    assert parameters(model.roi_heads) == 119_976_041
    assert parameters(on_meta(scales=(4, 8, 16, 32)).rpn) == 2_396_744
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert sum(model.get_parameter(name).numel() for name in frozen) == 260_160
    assert len(frozen) == 8, "weights and biases of conv1_1, conv1_2, conv2_1, conv2_2"


def test_maps_and_boxes() -> None:
    model = on_meta()
    assert model.num_boxes((600, 800)) == 17_100
    assert model.num_boxes((600, 1000)) == 21_546
    assert model.num_boxes((600, 901)) == 19_494
    assert model.num_boxes((480, 640)) == 10_800
    with torch.device("meta"):
        maps = model.backbone(torch.zeros(1, 3, 600, 1000))
        scores = model.rpn.head.cls_logits(model.rpn.head.conv(maps[0]))
        offsets = model.rpn.head.bbox_pred(model.rpn.head.conv(maps[0]))
    assert [tuple(x.shape) for x in maps] == [(1, 512, 38, 63)], "Caffe's pooling rounds up"
    assert (tuple(scores.shape), tuple(offsets.shape)) == ((1, 18, 38, 63), (1, 36, 38, 63))


@pytest.mark.parametrize(
    ("size", "inner"),
    [((375, 500), (600, 800)), ((333, 500), (600, 901)), ((480, 640), (600, 800)), ((300, 1200), (250, 1000))],
)
def test_preprocessing_size(size: tuple[int, int], inner: tuple[int, int]) -> None:
    with torch.device("meta"):
        batch = on_meta().preprocess([torch.zeros(3, *size)])
    assert batch.frames[0].inner == batch.size == inner


def test_preprocessing_colours() -> None:
    red = torch.tensor([1.0, 0.5, 0.0])[:, None, None].expand(3, 600, 600)
    batch = on_meta().preprocess([red])
    expected = [0 - 102.9801, 127.5 - 115.9465, 255 - 122.7717]
    torch.testing.assert_close(batch.pixels[0, :, 300, 300], torch.tensor(expected))


def whole(height: int, width: int, count: int = 1) -> Batch:
    frame = Frame((height, width), (height, width), (1.0, 1.0))
    return Batch(torch.zeros(count, 3, height, width), (frame,) * count)


def rpn_of(model: FasterRCNN) -> RPN:
    """The paper's proposal network with a head of two channels, for maps that are cheap."""
    return RPN(
        RPNHead(2, 2, 9, softmax=True),
        [caffe_shapes(16)],
        [16],
        inside_only=True,
        before_nms=model.rpn.before_nms,
        after_nms=model.rpn.after_nms,
        min_side=model.rpn.min_side,
        drop_small_first=True,
    )


@pytest.fixture
def rpn() -> RPN:
    torch.manual_seed(0)
    return rpn_of(on_meta())


def test_settings_of_the_release(rpn: RPN) -> None:
    model = on_meta()
    heads = model.roi_heads
    assert (model.rpn.before_nms, model.rpn.after_nms) == ((12_000, 6_000), (2_000, 300))
    assert (model.rpn.nms, model.rpn.min_side, model.rpn.overlap) == (0.7, 16.0, (0.3, 0.7))
    assert (model.rpn.samples, model.rpn.positive_share, model.rpn.beta) == (256, 0.5, 1 / 9)
    assert (heads.samples, heads.positive_share, heads.overlap, heads.beta) == (128, 0.25, 0.5, 1.0)
    assert (heads.score_floor, heads.nms, heads.limit) == (0.05, 0.3, 100)
    assert heads.coder.weights == (10.0, 10.0, 5.0, 5.0)
    assert heads.box_pool == RegionPool(16, 7)
    assert isinstance(heads.box_head, BoxHead)
    assert heads.box_head.dropout == 0.5
    assert [RECIPE.rate(step) for step in (0, 49_999, 50_000, 69_999)] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4])


def test_anchors_of_the_release(rpn: RPN) -> None:
    outputs = rpn([torch.zeros(1, 2, 38, 50)], (600, 800))
    inclusive = outputs.anchors - torch.tensor([0.0, 0, 1, 1])
    assert inclusive[:9].tolist() == [
        [-84, -40, 99, 55],
        [-176, -88, 191, 103],
        [-360, -184, 375, 199],
        [-56, -56, 71, 71],
        [-120, -120, 135, 135],
        [-248, -248, 263, 263],
        [-36, -80, 51, 95],
        [-80, -168, 95, 183],
        [-168, -344, 183, 359],
    ]
    assert inclusive[9].tolist() == [-68, -40, 115, 55], "the next cell lies to the right"
    assert len(inclusive) == 17_100
    inside = (inclusive[:, :2] >= 0).all(1) & (inclusive[:, 2] < 800) & (inclusive[:, 3] < 600)
    assert int(inside.sum()) == 5_944


def test_two_scores_are_one_logit() -> None:
    """The head's difference of two scores has the softmax's probability and its cross entropy; background is first."""
    torch.manual_seed(0)
    head = RPNHead(4, 8, 3, softmax=True)
    x = torch.randn(2, 4, 5, 6)
    logits, offsets = head([x])
    pairs = head.cls_logits(head.conv(x)).reshape(2, 2, 3, 5, 6)  # background then foreground, each of 3 anchors
    probability = pairs.softmax(1)[:, 1].permute(0, 2, 3, 1).reshape(2, -1)
    torch.testing.assert_close(logits.sigmoid(), probability)
    labels = torch.randint(0, 2, probability.shape)
    flat = pairs.permute(0, 3, 4, 2, 1).reshape(-1, 2)
    torch.testing.assert_close(
        F.binary_cross_entropy_with_logits(logits, labels.float()), F.cross_entropy(flat, labels.flatten())
    )
    # Row y, column x, anchor a, coordinate c stands in channel 4a + c.
    raw = head.bbox_pred(head.conv(x))
    assert offsets[1, (2 * 6 + 3) * 3 + 2, 1] == raw[1, 4 * 2 + 1, 2, 3]


def outputs_of(rpn: RPN, height: int, width: int, count: int = 1) -> RPNOutputs:
    torch.manual_seed(1)
    maps = [torch.zeros(count, 2, -(-height // 16), -(-width // 16))]
    shaped = rpn(maps, (height, width))
    anchors = len(shaped.anchors)
    return RPNOutputs(
        torch.randn(count, anchors, requires_grad=True),
        (0.2 * torch.randn(count, anchors, 4)).requires_grad_(),
        shaped.anchors,
        shaped.counts,
    )


@pytest.mark.parametrize(("training", "before", "after"), [(True, 12_000, 2_000), (False, 6_000, 300)])
def test_proposals_against_their_definition(rpn: RPN, training: bool, before: int, after: int) -> None:
    """The release's steps one by one: decode, clip, drop what is under 16 px of the image, sort, cut, NMS, cut."""
    outputs = outputs_of(rpn, 600, 901)
    frame = Frame((333, 500), (600, 901), (901 / 500, 600 / 333))
    batch = Batch(torch.zeros(1, 3, 600, 901), (frame,))
    found = rpn.propose(outputs, batch, training=training)[0]

    boxes = CenterSizeCoder().decode(outputs.offsets[0], outputs.anchors).detach()
    boxes[:, 0::2] = boxes[:, 0::2].clamp(0, 901)
    boxes[:, 1::2] = boxes[:, 1::2].clamp(0, 600)
    large = (boxes[:, 2] - boxes[:, 0] >= 16 * 901 / 500) & (boxes[:, 3] - boxes[:, 1] >= 16 * 600 / 333)
    assert not large.all()
    boxes, scores = boxes[large], outputs.logits[0, large].detach().sigmoid()
    order = scores.argsort(descending=True)[:before]
    boxes, scores = boxes[order], scores[order]
    expected = boxes[nms(boxes, scores, 0.7)[:after]]
    assert len(expected) == after
    assert torch.equal(found, expected)
    assert not found.requires_grad


def test_small_proposals_leave_their_place_to_others(rpn: RPN) -> None:
    """Dropped first, as in the release, they do not count among those before suppression; dropped last, they do."""
    anchors = torch.tensor([[0.0, 0, 5, 5], [50, 50, 150, 150], [200, 200, 300, 300]])
    outputs = RPNOutputs(torch.tensor([[3.0, 2, 1]]), torch.zeros(1, 3, 4), anchors, (3,))
    rpn.before_nms = (2, 2)
    assert rpn.propose(outputs, whole(400, 400), training=False)[0].tolist() == anchors[1:].tolist()
    rpn.drop_small_first = False
    assert rpn.propose(outputs, whole(400, 400), training=False)[0].tolist() == anchors[1:2].tolist()


def test_levels_do_not_suppress_each_other(rpn: RPN) -> None:
    anchors = torch.tensor([[50.0, 50, 150, 150], [51, 50, 151, 150], [50, 51, 150, 151]])
    outputs = RPNOutputs(torch.tensor([[1.0, 2, 3]]), torch.zeros(1, 3, 4), anchors, (2, 1))
    kept = rpn.propose(outputs, whole(400, 400), training=False)[0]
    assert kept.tolist() == [anchors[2].tolist(), anchors[1].tolist()]


def anchor_labels(rpn: RPN, anchors: Tensor, boxes: Tensor, height: int, width: int) -> list[int]:
    """The release's anchor_target_layer as loops: 1, 0, or -1 for anchors that take no part."""
    overlaps = box_iou(anchors, boxes)
    labels = []
    inside = [
        bool(a[0] >= 0 and a[1] >= 0 and a[2] <= width and a[3] <= height) for a in anchors.tolist() for a in [tuple(a)]
    ]
    best = [max(float(overlaps[i, j]) for i in range(len(anchors)) if inside[i]) for j in range(len(boxes))]
    for i in range(len(anchors)):
        label = -1
        if inside[i]:
            most = float(overlaps[i].max())
            if most < 0.3:
                label = 0
            if most >= 0.7 or any(float(overlaps[i, j]) == best[j] for j in range(len(boxes))):
                label = 1
        labels.append(label)
    return labels


def test_rpn_losses_against_loops(rpn: RPN) -> None:
    height, width = 320, 400
    outputs = outputs_of(rpn, height, width, count=2)
    targets = [
        Target(torch.tensor([[30.0, 40, 200, 160], [250, 20, 300, 200]]), torch.tensor([0, 0])),
        Target(torch.tensor([[100.0, 100, 220, 230]]), torch.tensor([0])),
    ]
    rpn.samples = 10**6
    losses = rpn.losses(outputs, whole(height, width, 2), targets)

    entropy, distance, taken = 0.0, 0.0, 0
    for image, target in enumerate(targets):
        labels = anchor_labels(rpn, outputs.anchors, target.boxes, height, width)
        assert {-1, 0, 1} <= set(labels)
        for i, label in enumerate(labels):
            if label < 0:
                continue
            taken += 1
            logit = float(outputs.logits[image, i].detach())
            entropy += math.log1p(math.exp(-logit if label else logit))
            if label:
                a = outputs.anchors[i].tolist()
                j = int(box_iou(outputs.anchors[i][None], target.boxes).argmax())
                g = target.boxes[j].tolist()
                aw, ah, gw, gh = a[2] - a[0], a[3] - a[1], g[2] - g[0], g[3] - g[1]
                wanted = [
                    (g[0] + gw / 2 - a[0] - aw / 2) / aw,
                    (g[1] + gh / 2 - a[1] - ah / 2) / ah,
                    math.log(gw / aw),
                    math.log(gh / ah),
                ]
                for difference in (abs(o - w) for o, w in zip(outputs.offsets[image, i].tolist(), wanted, strict=True)):
                    distance += 4.5 * difference**2 if difference < 1 / 9 else difference - 1 / 18
    assert losses["objectness"].item() == pytest.approx(entropy / taken, rel=1e-4)
    assert losses["proposal_boxes"].item() == pytest.approx(distance / taken, rel=1e-4)


def test_rpn_samples_half_positives_at_most(rpn: RPN) -> None:
    """With 8 samples and perfect logits but for the sampled ones, the gradient shows how many were drawn of each."""
    outputs = outputs_of(rpn, 320, 400)
    target = Target(torch.tensor([[30.0, 40, 200, 160], [150, 100, 300, 220]]), torch.tensor([0, 0]))
    rpn.samples, rpn.overlap = 8, (0.3, 0.4)
    rpn.losses(outputs, whole(320, 400), [target])["objectness"].backward()
    gradient = outputs.logits.grad
    assert gradient is not None
    assert int((gradient < 0).sum()) == 4
    assert int((gradient > 0).sum()) == 4


def test_rpn_without_an_anchor_inside(rpn: RPN) -> None:
    """An image smaller than every anchor teaches nothing, and breaks nothing."""
    outputs = outputs_of(rpn, 40, 40)
    target = Target(torch.tensor([[3.0, 4, 30, 30]]), torch.tensor([0]))
    losses = rpn.losses(outputs, whole(40, 40), [target])
    assert [value.item() for value in losses.values()] == [0, 0]


def head(samples: int = 128, beta: float = 1.0) -> RoIHead:
    torch.manual_seed(0)
    return RoIHead(RegionPool(16, 2), BoxHead(2 * 4, 6), BoxPredictor(6, 2), samples=samples, beta=beta, nms=0.3)


@pytest.mark.parametrize(("beta", "boxes"), [(1.0, 0.825), (1 / 9, 1.289167)])
def test_roi_losses_worked_example(beta: float, boxes: float) -> None:
    logits = torch.tensor([[2.0, 1, 0], [0, 3, 1]])
    offsets = torch.full((2, 3, 4), 7.0)
    offsets[1, 1] = torch.tensor([0.2, -0.1, 0.5, 2.0])
    box = torch.tensor([[10.0, 10, 50, 60]])
    sample = Samples(box.expand(2, 4), torch.tensor([0, 1]), torch.tensor([-1, 0]))
    losses = head(beta=beta).losses(logits, offsets, [sample], [Target(box, torch.tensor([0]))])
    assert float(losses["class"]) == pytest.approx(0.288726, abs=1e-6)
    assert float(losses["boxes"]) == pytest.approx(boxes, abs=1e-6)


def test_regions_are_sampled_one_to_three() -> None:
    torch.manual_seed(0)
    boxes = torch.tensor([[20.0, 20, 80, 80], [100, 100, 180, 160]])
    near = boxes.repeat(40, 1) + torch.rand(80, 4) * 4
    far = torch.rand(300, 2) * 100
    proposals = torch.cat([near, torch.cat([far, far + 5], 1)])
    target = Target(boxes, torch.tensor([1, 0]))
    (sample,) = head().sample([proposals], [target])
    assert len(sample.boxes) == 128
    assert int((sample.labels > 0).sum()) == 32
    overlaps = box_iou(boxes, sample.boxes)
    for box, label, chosen, overlap in zip(sample.boxes, sample.labels, sample.objects, overlaps.T, strict=True):
        assert (overlap.max() >= 0.5) == (label > 0)
        if label > 0:
            assert chosen == overlap.argmax()
            assert label == target.labels[chosen] + 1
            assert box_iou(box[None], boxes[chosen][None]) >= 0.5


def test_objects_join_the_proposals() -> None:
    target = Target(torch.tensor([[20.0, 20, 80, 80]]), torch.tensor([1]))
    (sample,) = head().sample([torch.zeros(0, 4)], [target])
    assert sample.boxes.tolist() == target.boxes.tolist()
    assert sample.labels.tolist() == [2]


def test_detection_of_one_image() -> None:
    """A box of its own for each class, clipped; the background's is not read; 0.3 overlaps within a class only."""
    regions = torch.tensor([[10.0, 10, 50, 50], [12.0, 10, 52, 50], [60.0, 60, 100, 100]])
    probabilities = torch.tensor([[0.08, 0.9, 0.02], [0.16, 0.8, 0.04], [0.34, 0.06, 0.6]])
    offsets = torch.zeros(3, 3, 4)
    offsets[:, 0] = 50
    offsets[2, 2, 0] = 10 * 0.5  # half a width to the right: clipped at 110
    found = head().detect(probabilities.log(), offsets, regions, (120, 110))
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.6, 0.06]))
    assert found.labels.tolist() == [0, 1, 0]
    torch.testing.assert_close(found.boxes, torch.tensor([[10.0, 10, 50, 50], [80, 60, 110, 100], [60, 60, 100, 100]]))


def test_boxes_clipped_to_nothing_are_no_detections() -> None:
    offsets = torch.zeros(1, 3, 4)
    offsets[0, 1, 0] = 1000.0
    found = head().detect(torch.tensor([[0.0, 5, 1]]), offsets, torch.tensor([[10.0, 10, 50, 50]]), (100, 100))
    assert found.labels.tolist() == []


def test_cost_runs_on_meta() -> None:
    model = on_meta()
    with torch.device("meta"):
        logits, offsets = model.network_for_cost(whole(600, 800))
    assert logits.shape == (300, 21)
    assert offsets.shape == (300, 21, 4)


def test_small_is_a_detector() -> None:
    torch.manual_seed(0)
    assert_is_detector(build("faster_rcnn_vgg16", 8, small=True))


def test_small_overfits() -> None:
    assert_overfits(build("faster_rcnn_vgg16", 2, small=True), steps=120)


def test_small_is_the_same_class_and_fits_into_a_megabyte() -> None:
    model = build("faster_rcnn_vgg16", 8, small=True)
    assert type(model) is type(on_meta())
    assert all(p.requires_grad for p in model.parameters())
    assert sum(value.numel() for value in model.state_dict().values()) < 480_000


def test_small_takes_photographs() -> None:
    model = build("faster_rcnn_vgg16", 3, small=True, short=256, longest=342)
    batch = model.preprocess([torch.rand(3, 480, 640)])
    assert batch.frames[0].inner == (256, 341)
    losses = model([torch.rand(3, 480, 640)], [empty_target()])
    assert all(torch.isfinite(value) for value in losses.values())


def test_align_instead_of_pooling() -> None:
    torch.manual_seed(0)
    model = build("faster_rcnn_vgg16", 2, small=True, pool="align")
    assert isinstance(model, FasterRCNN)
    assert isinstance(model.roi_heads.box_pool, PyramidAlign)
    assert_is_detector(model)


def test_mean_instead_of_the_largest() -> None:
    model = build("faster_rcnn_vgg16", 2, small=True, pool="mean")
    assert isinstance(model, FasterRCNN)
    assert isinstance(model.roi_heads.box_pool, RegionMean)
    assert_overfits(model, steps=60)


def test_another_pool_is_refused() -> None:
    with pytest.raises(ValueError, match="pool = 'median': choose one of max, mean, align"):
        build("faster_rcnn_vgg16", 2, small=True, pool="median")


def test_losses_need_outputs_that_saw_the_targets() -> None:
    model = build("faster_rcnn_vgg16", 2, small=True)
    batch = model.preprocess([torch.rand(3, 160, 160)])
    with pytest.raises(ValueError, match=r"network\(batch, targets\)"):
        model.losses(model.network(batch), batch, [empty_target()])


def test_catalog_row() -> None:
    golden = CATALOG["faster_rcnn_vgg16"].golden
    assert golden.parameters[20] == 137_078_239
    assert golden.boxes[(600, 800)] == 17_100
