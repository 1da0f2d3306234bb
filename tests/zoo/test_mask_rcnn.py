"""Mask R-CNN: torchvision's own model is the oracle for names, detections, masks and losses."""

from __future__ import annotations

import hashlib
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection import roi_heads

from benchmarks.opponents import pair_up
from ops.augment import place
from ops.images import Batch, Frame
from ops.masks import crop_masks, paste_masks
from ops.structures import Target
from tests.contract import assert_is_detector, assert_overfits, empty_target, filled, squares
from zoo import CATALOG, build
from zoo.parts.mask_head import MaskHead, MaskPredictor
from zoo.two_stage.mask_rcnn import MaskRCNN, mask_rcnn_r50_fpn, mask_rcnn_r101_fpn, mask_rcnn_x101_fpn

SHORT = 128


def on_meta(num_classes: int, depth: str = "r50") -> MaskRCNN:
    builders = {"r50": mask_rcnn_r50_fpn, "r101": mask_rcnn_r101_fpn, "x101": mask_rcnn_x101_fpn}
    with torch.device("meta"):
        return builders[depth](num_classes)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("depth", "num_classes", "parameters", "keys"),
    [
        ("r50", 90, 44_401_393, 307),
        ("r50", 80, 44_347_573, 307),
        ("r101", 90, 63_341_297, 562),
        ("r101", 80, 63_287_477, 562),
        ("x101", 90, 107_485_937, 562),
        ("x101", 80, 107_432_117, 562),
    ],
)
def test_parameters(depth: str, num_classes: int, parameters: int, keys: int) -> None:
    model = on_meta(num_classes, depth)
    assert count(model) == parameters
    assert len(model.state_dict()) == keys


def test_parts() -> None:
    model = on_meta(90)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 44_178_993
    assert sum(value.numel() for value in model.state_dict().values()) == 44_507_633
    heads = model.roi_heads
    assert [count(heads.get_submodule(name)) for name in ("mask_head", "mask_predictor")] == [2_360_320, 285_787]


def test_state_dict_has_torchvisions_names_and_order() -> None:
    lines = [f"{key}:{tuple(value.shape)}" for key, value in on_meta(90).state_dict().items()]
    known = "a8924852d627dcd70aeb9ab38cc9f36a4c1a5ddbf5b00b48f10247d09758eba9"
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == known


def test_operations() -> None:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        on_meta(90).network_for_cost(Batch(torch.zeros(1, 3, 800, 800), (Frame((800, 800), (800, 800), (1.0, 1.0)),)))
    convolutions, doubling, grid = 4 * 14 * 14 * 256 * 256 * 9, 14 * 14 * 256 * 256 * 4, 28 * 28 * 256
    boxes = CATALOG["faster_rcnn_r50_fpn"].golden.macs[90, 800, 800]
    assert counter.get_total_flops() / 2 == boxes + 100 * (convolutions + doubling + grid)


# --- masks and grids


def test_wanted_grid_of_a_box() -> None:
    """An object over rows and columns 5 to 14, and cells of four pixels that it covers in part."""
    mask = torch.zeros(1, 20, 20, dtype=torch.bool)
    mask[0, 5:15, 5:15] = True
    (grid,) = crop_masks(mask, torch.tensor([[2.0, 2, 18, 18]]), torch.tensor([0]), 4)
    known = torch.tensor(
        [
            [0.140625, 0.375, 0.375, 0.046875],
            [0.375, 1, 1, 0.125],
            [0.375, 1, 1, 0.125],
            [0.046875, 0.125, 0.125, 0.015625],
        ]
    )
    torch.testing.assert_close(grid, known)


def test_each_box_has_its_own_object() -> None:
    masks = filled(torch.tensor([[0.0, 0, 10, 20], [10, 0, 20, 20]]), (20, 20))
    boxes = torch.tensor([[2.0, 2, 8, 8], [12, 12, 18, 18], [2, 2, 8, 8]])
    grids = crop_masks(masks, boxes, torch.tensor([0, 1, 1]), 3)
    assert [grid.mean().item() for grid in grids] == [1, 1, 0]
    assert crop_masks(masks, boxes[:0], torch.zeros(0, dtype=torch.int64), 3).shape == (0, 3, 3)


def test_wanted_grids_are_torchvisions() -> None:
    torch.manual_seed(0)
    masks, corners = torch.rand(4, 50, 60) < 0.5, 30 * torch.rand(9, 2)
    boxes, objects = torch.cat([corners, corners + 1 + 20 * torch.rand(9, 2)], 1), torch.randint(4, (9,))
    theirs = roi_heads.project_masks_on_boxes(masks, boxes, objects, 7)
    assert torch.equal(crop_masks(masks, boxes, objects, 7), theirs)


def test_pasted_grid() -> None:
    """Known values of a uniform grid of .9, read off by thresholds just under and over them."""
    grid, box = torch.full((1, 4, 4), 0.9), torch.tensor([[2.0, 3.0, 6.0, 8.0]])
    assert paste_masks(grid, box, (12, 12)).sum() == 25
    rows = {2: [0, 0.353571, 0.45, 0.45, 0.45, 0.353571, 0], 3: [0, 0.707143, 0.9, 0.9, 0.9, 0.707143, 0]}
    for row, values in rows.items():
        for column, value in enumerate(values, start=1):
            assert not paste_masks(grid, box, (12, 12), value + 1e-5)[0, row, column]
            assert value == 0 or paste_masks(grid, box, (12, 12), value - 1e-5)[0, row, column]


def test_pasted_grids_are_torchvisions() -> None:
    """Boxes that lie inside, reach out on each side, and are thinner than a pixel; torchvision knows none outside."""
    torch.manual_seed(0)
    grids = torch.rand(6, 28, 28)
    boxes = torch.tensor(
        [[3.2, 4.7, 30.1, 39.9], [0, 0, 50, 40], [-9, -5, 12, 9], [45, 30, 70, 60], [7, 7, 7.2, 30], [60, 10, 80, 20]]
    )
    ours = paste_masks(grids, boxes, (40, 50))
    theirs = roi_heads.paste_masks_in_image(grids[:5, None], boxes[:5], (40, 50))
    assert torch.equal(ours[:5], theirs[:, 0] > 0.5)
    assert ours.dtype == torch.bool
    assert ours[:5].flatten(1).any(1).all()
    assert not ours[5].any()
    assert paste_masks(grids[:0], boxes[:0], (40, 50)).shape == (0, 40, 50)


def test_there_and_back() -> None:
    """A disc survives the way to its grid and back but for its border."""
    y, x = torch.meshgrid(torch.arange(80.0), torch.arange(90.0), indexing="ij")
    disc = ((x - 44) ** 2 + (y - 39) ** 2 < 30**2)[None]
    box = torch.tensor([[14.0, 9, 75, 70]])
    back = paste_masks(crop_masks(disc, box, torch.tensor([0]), 28), box, (80, 90))
    assert (back & disc).sum() / (back | disc).sum() > 0.95


def test_an_augmented_mask_stays_with_its_box() -> None:
    boxes = torch.tensor([[20.0, 30, 60, 90], [70, 10, 110, 40]])
    target = Target(boxes, torch.tensor([0, 1]), masks=filled(boxes, (120, 120)))
    _, moved = place(torch.rand(3, 120, 120), target, (10, 5, 90, 100), (100, 90))
    assert moved.masks is not None
    assert torch.equal(moved.masks, filled(moved.boxes, (100, 90)))


# --- the branch


def test_predictor_computes_the_channel_of_the_class() -> None:
    """The definition: all channels, of which one is taken."""
    torch.manual_seed(0)
    head, predictor = MaskHead(8, (6, 5)), MaskPredictor(5, 7, 4)
    x, labels = torch.randn(3, 8, 4, 4), torch.tensor([4, 1, 2])
    whole = predictor.mask_fcn_logits(predictor.conv5_mask(head(x)).relu())
    assert whole.shape == (3, 5, 8, 8)
    torch.testing.assert_close(predictor(head(x), labels), whole[torch.arange(3), labels])


def test_loss_is_the_mean_over_all_cells_of_positives() -> None:
    model = build("mask_rcnn_r50_fpn", 3, small=True)
    images, targets = squares()
    batch = model.preprocess(images)
    placed = model.place(batch, targets)
    outputs = model.network(batch, placed)
    losses = model.losses(outputs, batch, placed)
    logits = outputs.mask_logits.double().flatten(1)
    cells, row = [], 0
    for frame, sample, target in zip(batch.frames, outputs.samples, targets, strict=True):
        for box, label, thing in zip(sample.boxes, sample.labels, sample.objects, strict=True):
            if label > 0:
                wanted = crop_masks(target.masks, frame.to_image(box[None]), thing[None], 20).double().flatten()
                for logit, share in zip(logits[row].tolist(), wanted.tolist(), strict=True):
                    cells.append(math.log1p(math.exp(logit)) - share * logit)
                row += 1
    assert row == len(logits) >= 4
    assert losses["masks"].item() == pytest.approx(sum(cells) / len(cells), rel=1e-5)


def test_known_loss() -> None:
    logits, wanted = torch.tensor([[1.0, -1], [2, -2]]), torch.tensor([[1.0, 0], [0, 1]])
    assert F.binary_cross_entropy_with_logits(logits, wanted).item() == pytest.approx(1.220095, abs=1e-6)


def test_masks_are_in_the_pixels_of_the_image() -> None:
    """An image twice as large as the network's input learns the same grids."""
    boxes = torch.tensor([[40.0, 60, 200, 220]])
    model = build("mask_rcnn_r50_fpn", 3, small=True)
    target = Target(boxes, torch.tensor([1]), masks=filled(boxes, (320, 320)))
    batch = model.preprocess([torch.rand(3, 320, 320)])
    (placed,) = model.place(batch, [target])
    assert torch.equal(placed.boxes, boxes / 2)
    assert placed.masks is not None
    assert placed.masks.shape == (1, 320, 320)
    outputs = model.network(batch, [placed])
    perfect = torch.cat(
        [
            crop_masks(placed.masks, 2 * sample.boxes[sample.labels > 0], sample.objects[sample.labels > 0], 20)
            for sample in outputs.samples
        ]
    )
    outputs.mask_logits.data.copy_(20 * (perfect - 0.5))
    assert model.losses(outputs, batch, [placed])["masks"] < 0.1


def test_objects_need_masks() -> None:
    model = build("mask_rcnn_r50_fpn", 3, small=True)
    bare = Target(torch.tensor([[10.0, 10, 60, 60]]), torch.tensor([0]))
    with pytest.raises(ValueError, match="target 1 has no masks"):
        model([torch.rand(3, 80, 80)] * 2, [empty_target(), bare])


# --- against torchvision's


@pytest.fixture(scope="module")
def pair() -> tuple[MaskRCNN, nn.Module]:
    """Ours and torchvision's with the same random weights, scaled so that there is something to detect."""
    both = pair_up("mask_rcnn_r50_fpn", short=SHORT, examples=pictures(IMAGES[:1]))
    assert isinstance(both.ours, MaskRCNN)
    # Masks of a hundred detections take longer than all the rest.
    both.ours.roi_heads.limit = both.theirs.roi_heads.detections_per_img = 20
    return both.ours, both.theirs


def pictures(sizes: tuple[tuple[int, int], ...]) -> list[Tensor]:
    """Smooth random images, as photographs are."""
    generator = torch.Generator().manual_seed(1)
    return [
        F.interpolate(torch.rand(1, 3, height // 15, width // 15, generator=generator), (height, width), mode="bicubic")
        .clamp(0, 1)[0]
        .contiguous()
        for height, width in sizes
    ]


IMAGES = ((220, 290), (300, 171))
"""The batch is padded at the bottom of the one and at the right of the other."""


def test_detections_and_masks_equal_torchvisions(pair: tuple[MaskRCNN, nn.Module]) -> None:
    model, oracle = pair
    with torch.no_grad():
        ours, theirs = model.eval()(pictures(IMAGES)), oracle.eval()(pictures(IMAGES))
    for image, one, other in zip(pictures(IMAGES), ours, theirs, strict=True):
        assert len(one) == 20
        torch.testing.assert_close(one.scores, other["scores"], atol=1e-4, rtol=0)
        torch.testing.assert_close(one.boxes, other["boxes"], atol=1e-3, rtol=1e-5)
        assert torch.equal(one.labels, other["labels"] - 1)
        assert one.masks is not None
        assert one.masks.shape == (len(one), *image.shape[1:])
        wanted = other["masks"][:, 0]
        different = one.masks != (wanted > 0.5)
        assert wanted[different].sub(0.5).abs().amax() < 1e-3 if different.any() else True
        assert different.sum() <= 1e-4 * (wanted > 0.5).sum()
        share = one.masks.sum((1, 2)) / (wanted > 0).sum((1, 2))
        assert ((share > 0.05) & (share < 0.95)).float().mean() > 0.9, "forms that are neither empty nor full"


def targets_of(sizes: tuple[tuple[int, int], ...], boxes: list[list[list[float]]]) -> list[Target]:
    """Objects that are discs in their boxes."""
    targets = []
    for (height, width), rows in zip(sizes, boxes, strict=True):
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        sides = torch.tensor(rows)
        middle, half = (sides[:, :2] + sides[:, 2:]) / 2, (sides[:, 2:] - sides[:, :2]) / 2
        away = ((x - middle[:, 0, None, None]) / half[:, 0, None, None]) ** 2
        away = away + ((y - middle[:, 1, None, None]) / half[:, 1, None, None]) ** 2
        targets.append(Target(sides, torch.tensor([3, 0, 89])[: len(rows)], masks=away < 1))
    return targets


@pytest.mark.parametrize(
    ("sizes", "tolerance"), [(((128, 192), (192, 128)), 1e-4), (IMAGES, 1e-2)], ids=["as large as the input", "resized"]
)
def test_losses_equal_torchvisions(
    pair: tuple[MaskRCNN, nn.Module], sizes: tuple[tuple[int, int], ...], tolerance: float
) -> None:
    """Where everything fits into the samples, chance has no part in it."""
    model, oracle = pair
    images = pictures(sizes)
    targets = targets_of(sizes, [[[30.0, 20, 90, 120], [80, 40, 180, 125], [5, 5, 25, 31]], [[20.0, 50, 110, 180]]])
    everything = 10**6
    oracle.rpn.fg_bg_sampler.batch_size_per_image = oracle.roi_heads.fg_bg_sampler.batch_size_per_image = everything
    kept = model.rpn.samples, model.roi_heads.samples
    model.rpn.samples = model.roi_heads.samples = everything
    with torch.no_grad():
        theirs = oracle.train()(
            images, [{"boxes": t.boxes, "labels": t.labels + 1, "masks": t.masks.to(torch.uint8)} for t in targets]
        )
        ours = model.train()(images, targets)
    model.rpn.samples, model.roi_heads.samples = kept
    names = {
        "objectness": "loss_objectness",
        "proposal_boxes": "loss_rpn_box_reg",
        "class": "loss_classifier",
        "boxes": "loss_box_reg",
        "masks": "loss_mask",
    }
    assert ours.keys() == names.keys()
    for name, other in names.items():
        assert theirs[other] > 1e-4
        torch.testing.assert_close(
            ours[name],
            theirs[other],
            atol=1e-5,
            rtol=tolerance if name == "masks" else 1e-4,
            msg=lambda m, n=name: f"{n}: {m}",
        )


def test_older_names_load(pair: tuple[MaskRCNN, nn.Module]) -> None:
    model, _ = pair
    old = {}
    for key, value in model.state_dict().items():
        name = key.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        if key.startswith("backbone.fpn."):
            name = name.replace(".0.weight", ".weight").replace(".0.bias", ".bias")
        for index in range(4):
            name = name.replace(f"mask_head.{index}.0.", f"mask_head.mask_fcn{index + 1}.")
        old[name] = value + 1
    assert {"roi_heads.mask_head.mask_fcn1.weight", "roi_heads.mask_head.mask_fcn4.bias"} <= set(old)
    fresh = on_meta(90)
    fresh.load_state_dict(old, strict=True, assign=True)
    for key, value in model.state_dict().items():
        assert torch.equal(fresh.state_dict()[key], value + 1)


# --- the small size


def test_small_is_a_detector() -> None:
    torch.manual_seed(0)
    model = build("mask_rcnn_r50_fpn", 8, small=True)
    assert type(model) is MaskRCNN
    assert sum(value.numel() for value in model.state_dict().values()) == 472_098
    assert_is_detector(model)


def test_small_overfits() -> None:
    """Forms too: rectangles fill their boxes."""
    model = build("mask_rcnn_r50_fpn", 2, small=True, samples=16, after_nms=(40, 20))
    assert_overfits(model, steps=90)
    images, targets = squares()
    with torch.no_grad():
        answers = model(images)
    for answer, target in zip(answers, targets, strict=True):
        ours, theirs = answer[: len(target)].masks, target.masks
        assert ours is not None
        assert theirs is not None
        overlap = (ours[:, None] & theirs).sum((2, 3)) / (ours[:, None] | theirs).sum((2, 3))
        assert overlap.amax(0).min() > 0.6
