"""Fast R-CNN on VGG-16: golden numbers, proposals from outside, the regions that teach, and truncated layers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from ops.coders import CenterSizeCoder
from ops.proposals import SelectiveSearch
from ops.structures import Target
from tests.contract import assert_is_detector, assert_overfits, empty_target
from zoo import CATALOG, build
from zoo.parts.roi_head import BoxHead, RegionPool
from zoo.two_stage.fast_rcnn import RECIPE, FastRCNN, ThinLinear, compress, fast_rcnn_vgg16, truncate


def on_meta(num_classes: int = 20, svd: tuple[int, int] | None = None) -> FastRCNN:
    with torch.device("meta"):
        return fast_rcnn_vgg16(num_classes, svd=svd)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def remembered(proposer: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Selective search takes longer than a training step: once an image is enough."""
    found: dict[bytes, Tensor] = {}

    def propose(image: Tensor) -> Tensor:
        key = image.numpy().tobytes()
        if key not in found:
            found[key] = proposer(image)
        return found[key]

    return propose


def small(num_classes: int = 2, name: str = "fast_rcnn_vgg16", **changes: object) -> FastRCNN:
    torch.manual_seed(0)
    model = build(name, num_classes, small=True, **changes)
    assert isinstance(model, FastRCNN)
    assert model.proposer is not None
    model.proposer = remembered(model.proposer)
    return model


def test_parameters() -> None:
    model = on_meta()
    assert parameters(model) == 134_690_729
    assert parameters(model.backbone) == 14_714_688
    assert parameters(on_meta(80)) == 135_919_829
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert len(frozen) == 8, "weights and biases of conv1_1, conv1_2, conv2_1, conv2_2"


def test_parameters_of_the_truncated_network() -> None:
    model = on_meta(svd=(1_024, 256))
    assert parameters(model) == 47_134_633
    assert parameters(model.roi_heads) == 32_419_945
    assert isinstance(model.roi_heads.box_head, BoxHead)
    assert parameters(model.roi_heads.box_head.fc6) == 25_088 * 1_024 + 1_024 * 4_096 + 4_096
    assert parameters(model.roi_heads.box_head.fc7) == 4_096 * 256 + 256 * 4_096 + 4_096


def test_settings_of_the_release() -> None:
    model = on_meta()
    heads = model.roi_heads
    assert (heads.samples, heads.positive_share, heads.overlap, heads.background) == (64, 0.25, 0.5, 0.1)
    assert (heads.beta, heads.score_floor, heads.nms, heads.limit) == (1.0, 0.05, 0.3, 100)
    assert heads.box_pool == RegionPool(16, 7)
    assert heads.hard is None
    assert isinstance(model.proposer, SelectiveSearch)
    assert (model.proposer.mode, model.proposer.min_side, model.most) == ("fast", 20.0, 2_000)
    assert [RECIPE.rate(step) for step in (0, 29_999, 30_000)] == pytest.approx([1e-3, 1e-3, 1e-4])


def test_offsets_of_the_sheet() -> None:
    found = CenterSizeCoder((1.0, 1.0, 1.0, 1.0)).encode(
        torch.tensor([[30.0, 40, 90, 260]]), torch.tensor([[10.0, 20, 110, 220]])
    )
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.15, -0.510826, 0.095310]]))


def test_proposals_come_from_outside() -> None:
    """Likeliest first, in pixels of the image, at most `most`; those that the targets bring are taken as they are."""
    model = small(most=3)
    given = torch.tensor([[10.0, 20, 50, 60], [0, 0, 30, 80], [5, 5, 25, 25], [40, 30, 70, 90]])
    model.proposer = lambda image: given
    image = torch.rand(3, 80, 100)  # 160 is the longest side: 1.6 times as large
    (found,) = model.proposals([image])
    torch.testing.assert_close(found, given[:3].clamp(max=80))
    batch = model.preprocess([image])
    _, regions = model.propose([], batch, None)
    torch.testing.assert_close(regions[0], given[:3] * 1.6)
    brought = given[2:] + 1
    _, regions = model.propose([], batch, [Target(torch.zeros(0, 4), torch.zeros(0).long(), proposals=brought)])
    assert torch.equal(regions[0], brought)


def test_proposals_of_targets_are_placed() -> None:
    model = small()
    batch = model.preprocess([torch.rand(3, 80, 100)])
    target = Target(torch.tensor([[10.0, 20, 50, 60]]), torch.tensor([1]), proposals=torch.tensor([[5.0, 5, 25, 25]]))
    (placed,) = model.place(batch, [target])
    assert placed.proposals is not None
    torch.testing.assert_close(placed.proposals, torch.tensor([[8.0, 8, 40, 40]]))


def test_without_a_proposer() -> None:
    model = small()
    model.proposer = None
    with pytest.raises(ValueError, match="no proposer"):
        model([torch.rand(3, 80, 100)])


def test_negatives_touch_an_object() -> None:
    """A quarter positives from 0.5 on, negatives from 0.1 to 0.5, and nothing below (2.3)."""
    torch.manual_seed(0)
    objects = torch.tensor([[20.0, 20, 80, 80], [100, 100, 180, 160]])
    corners = torch.rand(4_000, 2) * 150
    proposals = torch.cat([corners, corners + 10 + torch.rand(4_000, 2) * 80], 1)
    overlaps = box_iou(proposals, objects).amax(1)
    assert all(((overlaps >= low) & (overlaps < high)).sum() > 64 for low, high in ((0, 0.1), (0.1, 0.5), (0.5, 1)))
    (sample,) = on_meta().roi_heads.sample([proposals], [Target(objects, torch.tensor([3, 5]))])
    assert len(sample.boxes) == 64
    assert int((sample.labels > 0).sum()) == 16
    overlaps = box_iou(sample.boxes, objects).amax(1)
    assert bool((overlaps[sample.labels > 0] >= 0.5).all())
    assert bool(((overlaps >= 0.1) & (overlaps < 0.5))[sample.labels == 0].all())


def test_an_image_without_objects_teaches_nothing() -> None:
    model = small()
    losses = model([torch.rand(3, 96, 96)], [empty_target()])
    assert [value.item() for value in losses.values()] == [0, 0]


def test_truncated_layer_is_the_best_of_its_rank() -> None:
    """Its error is the norm of the singular values left out (Eckart and Young); other factors of that rank err more."""
    torch.manual_seed(0)
    layer = nn.Linear(9, 7)
    x = torch.randn(5, 9)
    values = torch.linalg.svdvals(layer.weight)
    for rank in range(1, 8):
        thin = truncate(layer, rank)
        product = thin[1].weight @ thin[0].weight
        error = (product - layer.weight).norm()
        assert error.item() == pytest.approx(values[rank:].square().sum().sqrt().item(), abs=1e-5)
        assert sum(p.numel() for p in thin.parameters()) == rank * (9 + 7) + 7
        torch.testing.assert_close(thin(x), x @ product.T + layer.bias)
        if rank < 7:
            # The best that any right factor of this rank can do, for random ones.
            for _ in range(5):
                basis = torch.linalg.qr(torch.randn(9, rank)).Q
                assert (layer.weight @ basis @ basis.T - layer.weight).norm() > error
    torch.testing.assert_close(truncate(layer, 7)(x), layer(x))


@pytest.mark.parametrize("rank", [0, 8])
def test_impossible_ranks(rank: int) -> None:
    with pytest.raises(ValueError, match="rank"):
        truncate(nn.Linear(9, 7), rank)
    with pytest.raises(ValueError, match="rank"):
        ThinLinear(9, rank, 7)


def test_compressed_model() -> None:
    """At full rank it answers as before; at any, its weights fit a builder that was told the ranks."""
    model = small(num_classes=3).eval()
    images = [torch.rand(3, 96, 96)]
    with torch.no_grad():
        batch = model.preprocess(images)
        before = model.network(batch)
        full = compress(model, (112, 112)).network(batch)
        thin = compress(model, (8, 4))
        low = thin.network(batch)
        again = small(num_classes=3, svd=(8, 4)).eval()
        again.load_state_dict(thin.state_dict())
        torch.testing.assert_close(again.network(batch).logits, low.logits)
    torch.testing.assert_close(full.logits, before.logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(full.offsets, before.offsets, atol=1e-5, rtol=1e-4)
    assert (low.logits - before.logits).abs().max() > 1e-3
    assert isinstance(model.roi_heads.box_head, BoxHead)
    assert isinstance(model.roi_heads.box_head.fc6, nn.Linear), "the model itself is left alone"
    with pytest.raises(TypeError, match="fc6"):
        compress(thin, (4, 4))


def test_truncated_network_learns() -> None:
    model = small(svd=(16, 8))
    targets = [Target(torch.tensor([[10.0, 10, 60, 60]]), torch.tensor([1]))]
    sum(model([torch.rand(3, 96, 96)], targets).values()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_small_is_a_detector() -> None:
    assert_is_detector(small(8))


def test_small_overfits() -> None:
    assert_overfits(small(widths=(8, 16, 24), head_width=48), steps=100)


def test_small_is_the_same_class_and_fits_into_a_megabyte() -> None:
    model = small(8)
    assert type(model) is type(on_meta())
    assert all(p.requires_grad for p in model.parameters())
    assert sum(value.numel() for value in model.state_dict().values()) < 480_000


def test_catalog_row() -> None:
    row = CATALOG["fast_rcnn_vgg16"]
    assert row.golden.parameters[20] == 134_690_729
    assert row.small_recipe is CATALOG["faster_rcnn_vgg16"].small_recipe
