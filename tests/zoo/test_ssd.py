import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection import ssd300_vgg16 as torchvision_ssd300
from torchvision.ops import box_iou

from ops.images import Batch, Frame
from ops.match import multibox_match
from ops.structures import Target
from tests.contract import assert_is_detector, assert_overfits, empty_target, toy_images
from zoo import CATALOG, build
from zoo.one_stage.ssd import SSD, ssd300_vgg16, ssd512_vgg16
from zoo.parts.l2norm import L2Norm
from zoo.parts.multibox import Predictions

PAPER = [
    (ssd300_vgg16, 20, 26_285_486, 8_732, 31.3735),
    (ssd300_vgg16, 80, 34_305_206, 8_732, 34.3604),
    (ssd512_vgg16, 20, 27_188_676, 24_564, 90.2079),
    (ssd512_vgg16, 80, 36_038_196, 24_564, 98.6289),
]


def pixels(side: int, images: int = 1) -> Batch:
    return Batch(torch.zeros(images, 3, side, side), (Frame((side, side), (side, side), (1.0, 1.0)),) * images)


def normalised(model: SSD) -> Tensor:
    """Priors as centre and size, in shares of the input."""
    boxes = model.priors.double() / model.size[0]
    return torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("builder", "classes", "parameters", "boxes", "giga_macs"), PAPER)
def test_paper_size(builder: type[SSD], classes: int, parameters: int, boxes: int, giga_macs: float) -> None:
    with torch.device("meta"):
        model = builder(classes)
        side = model.size[0]
        batch = pixels(side)
        with FlopCounterMode(display=False) as counter:
            outputs = model.network(batch)
        maps = model.levels(batch.pixels)
    assert count(model) == parameters
    assert sum(v.numel() for v in model.state_dict().values()) == parameters
    assert model.num_boxes((side, side)) == boxes == len(model.priors)
    assert outputs.offsets.shape == (1, boxes, 4)
    assert outputs.logits.shape == (1, boxes, 1 + classes)
    assert [tuple(m.shape[-2:]) for m in maps] == model.map_sizes((side, side))
    assert counter.get_total_flops() / 2e9 == pytest.approx(giga_macs, abs=5e-5)


def test_where_the_parameters_of_ssd300_are() -> None:
    with torch.device("meta"):
        model = ssd300_vgg16(20)
    assert count(model.extras) == 2_459_520
    assert count(model.backbone.l2norm) == 512
    assert count(model.backbone.fc6) == 4_719_616
    assert count(model.backbone.fc7) == 1_049_600
    assert count(model.box_heads) + count(model.class_heads) == 3_341_550


def test_maps_of_other_inputs() -> None:
    with torch.device("meta"):
        model = ssd300_vgg16(1)
        for size in ((300, 300), (321, 300), (340, 500)):
            maps = model.levels(torch.empty(1, 3, *size))
            assert [tuple(m.shape[-2:]) for m in maps] == model.map_sizes(size)
        assert [side for side, _ in model.map_sizes((300, 300))] == [38, 19, 10, 5, 3, 1]
        assert [side for side, _ in ssd512_vgg16(1).map_sizes((512, 512))] == [64, 32, 16, 8, 4, 2, 1]
        with pytest.raises(ValueError, match="too small"):
            ssd300_vgg16(1, size=160)
        with pytest.raises(ValueError, match="6 levels"):
            ssd300_vgg16(1, ratios=((2,),) * 5)
        with pytest.raises(ValueError, match="small backbone"):
            ssd300_vgg16(1, deepen=40)


@pytest.mark.slow
def test_same_outputs_as_torchvision() -> None:
    """Pooling, dilation, L2 norm, extra levels and the order of heads, with every weight and bias drawn at random."""
    torch.manual_seed(0)
    ours = ssd300_vgg16(20).eval()
    theirs = torchvision_ssd300(weights=None, weights_backbone=None, num_classes=21).eval()
    sources = [
        m
        for part in (ours.backbone.stages, ours.backbone.fc6, ours.backbone.fc7, ours.extras)
        for m in part.modules()
        if isinstance(m, nn.Conv2d)
    ]
    copies = [
        m
        for part in (theirs.backbone.features, theirs.backbone.extra)
        for m in part.modules()
        if isinstance(m, nn.Conv2d)
    ]
    sources += [*ours.class_heads, *ours.box_heads]
    copies += [*theirs.head.classification_head.module_list, *theirs.head.regression_head.module_list]
    for source, copy in zip(sources, copies, strict=True):
        nn.init.normal_(source.bias, std=0.1)
        copy.load_state_dict(source.state_dict())
    nn.init.uniform_(ours.backbone.l2norm.weight, 5, 20)
    theirs.backbone.scale_weight.data.copy_(ours.backbone.l2norm.weight)
    x = 50 * torch.randn(1, 3, 300, 300)
    with torch.no_grad():
        found = ours.network(Batch(x, pixels(300).frames))
        expected = theirs.head(list(theirs.backbone(x).values()))
    torch.testing.assert_close(found.logits, expected["cls_logits"], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found.offsets, expected["bbox_regression"], atol=1e-3, rtol=1e-3)


PRIOR_SUMS = [
    (ssd300_vgg16, "voc", True, 4443.9467, 1510.4293),
    (ssd300_vgg16, "voc", False, 4443.9467, 1510.4293),
    (ssd300_vgg16, "coco", True, 4443.9467, 1172.1980),
    (ssd512_vgg16, "voc", False, 12282.0, 3146.1417),
    (ssd512_vgg16, "voc", True, 12282.0, 3105.5545),
    (ssd512_vgg16, "coco", False, 12282.0, 2192.4711),
    (ssd512_vgg16, "coco", True, 12282.0, 2173.6820),
]


@pytest.mark.parametrize(("builder", "sizes", "whole_pixels", "centres", "extents"), PRIOR_SUMS)
def test_prior_sums(builder: type[SSD], sizes: str, whole_pixels: bool, centres: float, extents: float) -> None:
    sums = normalised(light(builder, sizes=sizes, whole_pixels=whole_pixels)).sum(0).tolist()
    assert sums == pytest.approx([centres, centres, extents, extents], abs=3e-4)


def test_single_priors_of_ssd300() -> None:
    priors = normalised(light(ssd300_vgg16))
    first = [[0.1, 0.1], [0.141421, 0.141421], [0.141421, 0.070711], [0.070711, 0.141421]]
    for row, (width, height) in enumerate(first):
        assert priors[row].tolist() == pytest.approx([0.013333, 0.013333, width, height], abs=1e-6)
    assert priors[-1].tolist() == pytest.approx([0.5, 0.5, 0.622254, 1.244508], abs=1e-6)
    assert int(((priors[:, :2] - priors[:, 2:] / 2 < 0) | (priors[:, :2] + priors[:, 2:] / 2 > 1)).any(1).sum()) == 2869
    # The second cell is to the right of the first, the one below it a row of 38 cells later.
    assert priors[4, :2].tolist() == pytest.approx([12 / 300, 4 / 300], abs=1e-6)
    assert priors[4 * 38, :2].tolist() == pytest.approx([4 / 300, 12 / 300], abs=1e-6)
    # Steps 100 and 300 of the last levels are no powers of two.
    assert priors[-8, :2].tolist() == pytest.approx([250 / 300, 250 / 300], abs=1e-6)


def test_released_models_cut_prior_sizes_to_whole_pixels() -> None:
    assert float(normalised(light(ssd512_vgg16))[0, 2]) == pytest.approx(35 / 512, abs=1e-7)
    assert float(normalised(light(ssd512_vgg16, whole_pixels=False))[0, 2]) == pytest.approx(0.07, abs=1e-7)


def test_steps_follow_the_maps_at_another_size() -> None:
    model = light(ssd300_vgg16, size=320)
    sides = [side for side, _ in model.map_sizes((320, 320))]
    assert sides == [40, 20, 10, 5, 3, 1]
    assert normalised(model)[0, :2].tolist() == pytest.approx([0.5 / 40, 0.5 / 40])


def light(builder: type[SSD], **overrides: object) -> SSD:
    """The paper's priors without allocating the network."""
    real = SSD._lay_priors

    def lay(self: SSD, size: tuple[int, int]) -> Tensor:
        with torch.device("cpu"):
            return real(self, size)

    with pytest.MonkeyPatch.context() as patch, torch.device("meta"):
        patch.setattr(SSD, "_lay_priors", lay)
        return builder(1, **overrides)


def test_input_is_bgr_bytes_less_the_mean() -> None:
    image = torch.tensor([0.2, 0.4, 0.6])[:, None, None].expand(3, 50, 70)
    batch = small().preprocess([image, image[:, :30]])
    assert batch.pixels.shape == (2, 3, 160, 160)
    expected = torch.tensor([0.6 * 255 - 104, 0.4 * 255 - 117, 0.2 * 255 - 123])[:, None, None].expand(3, 160, 160)
    for row in batch.pixels:
        torch.testing.assert_close(row, expected, atol=1e-3, rtol=0)


def small(classes: int = 3, name: str = "ssd300_vgg16", **overrides: object) -> SSD:
    model = build(name, classes, small=True, **overrides)
    assert isinstance(model, SSD)
    return model


def random_case(model: SSD, seed: int, counts: tuple[int, ...]) -> tuple[Predictions, Batch, list[Target]]:
    generator = torch.Generator().manual_seed(seed)
    priors = len(model.priors)
    offsets = torch.randn((len(counts), priors, 4), generator=generator)
    logits = 3 * torch.randn((len(counts), priors, 1 + model.num_classes), generator=generator)
    targets = []
    for objects in counts:
        corner = 110 * torch.rand((objects, 2), generator=generator)
        boxes = torch.cat([corner, corner + 5 + 40 * torch.rand((objects, 2), generator=generator)], 1)
        targets.append(Target(boxes, torch.randint(0, model.num_classes, (objects,), generator=generator)))
    return Predictions(offsets.requires_grad_(), logits.requires_grad_()), pixels(model.size[0], len(counts)), targets


def slow_losses(model: SSD, outputs: Predictions, targets: list[Target]) -> tuple[float, float, int, int]:
    """Prior by prior: box loss, class loss, positives, negatives."""
    box = classes = 0.0
    positives = chosen = 0
    for offsets, logits, target in zip(outputs.offsets.tolist(), outputs.logits, targets, strict=True):
        iou = box_iou(target.boxes, model.priors)
        log_probability = logits.detach().log_softmax(-1)
        negatives = []
        mine = 0
        for index, match in enumerate(multibox_match(iou, model.match_iou).tolist()):
            if match < 0:
                if not len(target) or iou[:, index].max() < model.negative_iou:
                    negatives.append(-float(log_probability[index, 0]))
                continue
            mine += 1
            classes -= float(log_probability[index, 1 + int(target.labels[match])])
            x1, y1, x2, y2 = target.boxes[match].tolist()
            px1, py1, px2, py2 = model.priors[index].tolist()
            width, height = px2 - px1, py2 - py1
            wanted = (
                ((x1 + x2) / 2 - (px1 + px2) / 2) / width / 0.1,
                ((y1 + y2) / 2 - (py1 + py2) / 2) / height / 0.1,
                math.log((x2 - x1) / width) / 0.2,
                math.log((y2 - y1) / height) / 0.2,
            )
            for value, want in zip(offsets[index], wanted, strict=True):
                error = abs(value - want)
                box += 0.5 * error * error if error < 1 else error - 0.5
        kept = sorted(negatives, reverse=True)[: int(model.negatives * mine)]
        classes += sum(kept)
        positives += mine
        chosen += len(kept)
    return box / max(1, positives), classes / max(1, positives), positives, chosen


@pytest.mark.parametrize("overrides", [{}, {"match_iou": None}, {"negatives": 1.5, "negative_iou": 0.3}])
def test_losses_are_the_loop(overrides: dict[str, float | None]) -> None:
    model = small(**overrides)
    outputs, batch, targets = random_case(model, 1, (5, 0, 3))
    losses = model.losses(outputs, batch, targets)
    box, classes, positives, negatives = slow_losses(model, outputs, targets)
    assert losses["box"].item() == pytest.approx(box, rel=1e-4)
    assert losses["class"].item() == pytest.approx(classes, rel=1e-4)
    # The gradient of a prior's logits is zero unless the prior is learnt; of its offsets, unless it is positive.
    sum(losses.values()).backward()
    assert int((outputs.offsets.grad.abs().sum(-1) > 0).sum()) == positives
    assert int((outputs.logits.grad.abs().sum(-1) > 0).sum()) == positives + negatives
    assert positives >= 8


def test_samplers_learn_from_as_many_priors_as_they_say() -> None:
    learnt = {}
    for sampler in ("hard", "random", "all"):
        model = small(sampler=sampler)
        outputs, batch, targets = random_case(model, 2, (4, 2))
        torch.manual_seed(0)
        model.losses(outputs, batch, targets)["class"].backward()
        learnt[sampler] = outputs.logits.grad.abs().sum(-1) > 0
    positives = slow_losses(small(), *random_case(small(), 2, (4, 2))[::2])[2]
    assert int(learnt["hard"].sum()) == int(learnt["random"].sum()) == 4 * positives
    assert not torch.equal(learnt["hard"], learnt["random"])
    assert int(learnt["all"].sum()) == learnt["all"].numel()


def test_an_image_without_objects_teaches_nothing() -> None:
    model = small()
    outputs, batch, targets = random_case(model, 3, (4, 0))
    both = model.losses(outputs, batch, targets)
    alone = model.losses(Predictions(outputs.offsets[:1], outputs.logits[:1]), batch, targets[:1])
    for name, value in both.items():
        torch.testing.assert_close(value, alone[name])


def test_perfect_predictions_cost_nothing() -> None:
    model = small()
    outputs, batch, targets = random_case(model, 4, (6,))
    iou = box_iou(targets[0].boxes, model.priors)
    matches = multibox_match(iou)
    logits = torch.full_like(outputs.logits, -50.0)
    logits[0, :, 0] = 50.0
    rows = (matches >= 0).nonzero()[:, 0]
    logits[0, rows, 0] = -50.0
    logits[0, rows, 1 + targets[0].labels[matches[rows]]] = 50.0
    offsets = torch.zeros_like(outputs.offsets)
    offsets[0, rows] = model.coder.encode(targets[0].boxes[matches[rows]], model.priors[rows])
    for value in model.losses(Predictions(offsets, logits), batch, targets).values():
        assert value.item() == pytest.approx(0, abs=1e-5)
    # And decoding gives the objects back.
    found = model.postprocess(Predictions(offsets, logits), batch)[0]
    overlap = box_iou(found.boxes, targets[0].boxes) * (found.labels[:, None] == targets[0].labels[None])
    assert overlap.amax(0).min() > 0.99


def test_difficult_objects_are_learnt_unless_told_otherwise() -> None:
    images = toy_images(sizes=((160, 160),))
    boxes = torch.tensor([[20.0, 30.0, 90.0, 100.0]])
    target = Target(boxes, torch.tensor([1]), ignore=torch.tensor([True]))
    assert light(ssd300_vgg16).trains_on_ignored
    for learns in (True, False):
        model = small(trains_on_ignored=learns).eval()
        with torch.no_grad():
            assert (model(images, [target])["box"].item() > 0) == learns


def test_one_image_a_step_is_enough() -> None:
    for name in ("ssd300_vgg16", "ssd512_vgg16"):
        model = small(name=name).train()
        losses = model(toy_images(sizes=((100, 90),)), [empty_target()])
        assert all(value.item() == 0 for value in losses.values())


def predictions(model: SSD, scores: dict[tuple[int, int], float]) -> Predictions:
    """All background, but the given probability for (prior, class)."""
    logits = torch.zeros(1, len(model.priors), 1 + model.num_classes)
    logits[..., 1:] = -20
    for (row, label), score in scores.items():
        logits[0, row, 1 + label] = math.log(score / (1 - score))
    return Predictions(torch.zeros(1, len(model.priors), 4), logits)


def test_answers_are_in_pixels_of_the_image() -> None:
    model = small()
    row = 2 * (20 * 40 + 12)  # Finest level, cell (20, 12), the smaller square: 10.4 pixels about (50, 82).
    torch.testing.assert_close(model.priors[row], torch.tensor([44.8, 76.8, 55.2, 87.2]))
    outputs = predictions(model, {(row, 2): 0.75})
    outputs.offsets[0, row] = torch.tensor([10.0, -5.0, math.log(2) * 5, 0.0])
    # Centre moves by 10.4 and -5.2, width doubles: (50, 71.6, 70.8, 82) in the network's 160 x 160.
    batch = Batch(torch.zeros(1, 3, 160, 160), (Frame((80, 320), (160, 160), (0.5, 2.0)),))
    (found,) = model.postprocess(outputs, batch)
    torch.testing.assert_close(found.boxes, torch.tensor([[100.0, 35.8, 141.6, 41.0]]), atol=1e-3, rtol=0)
    assert found.labels.tolist() == [2]
    assert found.scores.tolist() == pytest.approx([0.75])


def test_floor_suppression_and_limits() -> None:
    model = small()
    scores = {(0, 0): 0.9, (1, 1): 0.7, (20, 0): 0.85, (21, 0): 0.8, (400, 2): 0.0101, (800, 2): 0.0099}
    outputs = predictions(model, scores)
    # Priors of one cell share a centre: 10.4 against 14.1 pixels, IoU .54, over the .45 of the paper.
    (found,) = model.postprocess(outputs, pixels(160))
    assert [round(score, 4) for score in found.scores.tolist()] == [0.9, 0.85, 0.7, 0.0101]
    assert len(small(nms_iou=0.65).postprocess(outputs, pixels(160))[0]) == 5

    everything = predictions(model, {(2 * cell, 0): 0.3 + cell / 9000 for cell in range(1600)})
    (found,) = model.postprocess(everything, pixels(160))
    assert len(found) == 200
    # 400 enter suppression: the surest are neighbours in a row, of whose priors some go.
    assert found.scores.min() > 0.3 + 1199 / 9000
    assert len(small(before_per_class=100).postprocess(everything, pixels(160))[0]) <= 100


@pytest.mark.parametrize("name", ["ssd300_vgg16", "ssd512_vgg16"])
def test_small_size_is_a_detector(name: str) -> None:
    torch.manual_seed(0)
    model = small(name=name)
    assert_is_detector(model)
    stored = sum(v.numel() for v in small(8, name).state_dict().values())
    assert stored < 480_000
    assert not [key for key in model.state_dict() if "prior" in key]
    size = model.size
    assert [tuple(m.shape[-2:]) for m in model.levels(torch.zeros(2, 3, *size))] == model.map_sizes(size)


def test_small_size_at_a_larger_input() -> None:
    torch.manual_seed(0)
    model = small(size=256)
    assert model.num_boxes((256, 256)) == len(model.priors)
    assert normalised(model)[0].tolist() == pytest.approx([0.5 / 64, 0.5 / 64, 0.065, 0.065])
    assert_is_detector(model)


def test_small_size_overfits() -> None:
    assert_overfits(small(2), steps=60)


def test_golden_facts_stand_in_the_catalog() -> None:
    for builder, classes, parameters, boxes, giga_macs in PAPER:
        spec = CATALOG[builder.__name__]
        assert spec.golden.parameters[classes] == parameters
        assert spec.golden.boxes[spec.input_size] == boxes
        assert spec.golden.macs[(classes, *spec.input_size)] / 1e9 == pytest.approx(giga_macs, abs=5e-5)


def test_l2norm() -> None:
    layer = L2Norm(6)
    assert layer.weight.tolist() == [20.0] * 6
    x = torch.randn(2, 6, 4, 5)
    torch.testing.assert_close(layer(x).norm(dim=1), torch.full((2, 4, 5), 20.0))
    torch.testing.assert_close(layer(7 * x), layer(x))
    with torch.no_grad():
        layer.weight.copy_(torch.arange(6.0))
    torch.testing.assert_close(layer(x), F.normalize(x, dim=1) * torch.arange(6.0)[:, None, None])
    nothing = torch.zeros(1, 6, 2, 2, requires_grad=True)
    layer(nothing).sum().backward()
    assert torch.isfinite(nothing.grad).all()
    assert layer(1000 * x.half()).isfinite().all()
