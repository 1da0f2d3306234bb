"""Grid R-CNN: boxes from nine points, each on a map of its own part of the region."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ops.grid_points import GridCoder
from ops.structures import Target
from tests.contract import assert_is_detector, assert_overfits, squares
from zoo import CATALOG, build
from zoo.two_stage.grid_rcnn import Fusion, GridHead, GridRCNN

CODER = GridCoder()
REGIONS = torch.tensor([[10.0, 20.0, 110.0, 220.0], [0.0, 0.0, 28.0, 56.0]])


def small(**changes: object) -> GridRCNN:
    torch.manual_seed(0)
    model = build("grid_rcnn_r50_fpn", 2, small=True, **changes)
    assert isinstance(model, GridRCNN)
    return model


def test_head() -> None:
    with torch.device("meta"):
        head = GridHead(256, 3, convolutions=8, point_width=64, norm_groups=36)
        fused, unfused = head(torch.zeros(5, 256, 14, 14))
    assert sum(p.numel() for p in head.parameters()) == 23_123_145
    assert fused.shape == unfused.shape == (5, 9, 28, 28)


def test_points_run_down_the_columns() -> None:
    assert CODER.places(REGIONS).tolist() == [[x / 2, y / 2] for x in range(3) for y in range(3)]
    assert CODER.corners(REGIONS).tolist() == [[14 * x, 14 * y] for x in range(3) for y in range(3)]


def slow_encode(box: list[float], region: list[float]) -> Tensor:
    """Over all 56 cells of the region twice as large; then the part of each point."""
    size = 56
    width, height = region[2] - region[0], region[3] - region[1]
    left, top = region[0] - width / 2, region[1] - height / 2
    wanted = torch.zeros(9, 28, 28, dtype=torch.bool)
    for point in range(9):
        column, row = divmod(point, 3)
        x = box[0] + column / 2 * (box[2] - box[0])
        y = box[1] + row / 2 * (box[3] - box[1])
        whole = torch.zeros(size, size, dtype=torch.bool)
        at_x, at_y = int((x - left) / (2 * width) * size // 1), int((y - top) / (2 * height) * size // 1)
        for dx, dy in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)):
            if 0 <= at_x + dx < size and 0 <= at_y + dy < size:
                whole[at_y + dy, at_x + dx] = True
        first_x, first_y = 14 * column, 14 * row
        wanted[point] = whole[first_y : first_y + 28, first_x : first_x + 28]
    return wanted


def test_wanted_maps_are_those_of_the_loop() -> None:
    boxes = torch.tensor([[20.0, 10.0, 130.0, 210.0], [5.0, -9.0, 20.0, 70.0]])
    found = CODER.encode(boxes, REGIONS)
    for row, box, region in zip(found, boxes.tolist(), REGIONS.tolist(), strict=True):
        assert torch.equal(row, slow_encode(box, region))
    assert int(found[0].sum()) == 9 * 5


def test_a_point_out_of_its_map_is_nowhere() -> None:
    far = torch.tensor([[300.0, 20.0, 400.0, 220.0]])
    assert not CODER.encode(far, REGIONS[:1]).any()


def test_decoding_finds_the_box_to_half_a_cell() -> None:
    boxes = torch.tensor([[20.0, 10.0, 130.0, 210.0], [3.0, 5.0, 20.0, 60.0]])
    sharp = GridCoder(radius=0)
    heat = sharp.encode(boxes, REGIONS).float().clamp(min=1e-3)
    cell = (REGIONS[:, 2:] - REGIONS[:, :2]).repeat(1, 2) / 28
    assert bool(((sharp.decode(heat, REGIONS) - boxes).abs() <= 0.5 * cell + 1e-4).all())


def test_decoding_by_hand() -> None:
    """A region of 28 by 56 px: a cell is a pixel wide and two high, and the maps begin at -14 and -28."""
    heat = torch.full((1, 9, 28, 28), 1e-6)
    # Point 0 to 8: row and column of the hottest cell, and how hot.
    hottest = [(14, 14, 0.9), (13, 15, 0.3), (14, 14, 0.6), (12, 13, 0.5), (9, 9, 1.0), (15, 13, 0.5)]
    hottest += [(14, 12, 0.2), (13, 13, 0.2), (14, 14, 0.4)]
    for point, (row, column, value) in enumerate(hottest):
        heat[0, point, row, column] = value
    left = -14 + (14.5 * 0.9 + 15.5 * 0.3 + 14.5 * 0.6) / 1.8
    right = -14 + 28 + (12.5 * 0.2 + 13.5 * 0.2 + 14.5 * 0.4) / 0.8
    top = -28 + 2 * (14.5 * 0.9 + (12.5) * 0.5 + 14.5 * 0.2) / 1.6
    bottom = -28 + 56 + 2 * (14.5 * 0.6 + 15.5 * 0.5 + 14.5 * 0.4) / 1.5
    found = CODER.decode(heat, REGIONS[1:])
    torch.testing.assert_close(found, torch.tensor([[left, top, right, bottom]]), atol=1e-4, rtol=0)


def test_fusion_listens_to_the_neighbours_alone() -> None:
    fusion = Fusion(3, 2)
    assert [len(near) for near in fusion.near] == [2, 3, 2, 3, 4, 3, 2, 3, 2]
    assert fusion.near[4] == [1, 3, 5, 7]
    x = torch.rand(1, 18, 5, 5)
    other = x.clone()
    other[:, 8:10] += 1
    changed = (fusion(x, other) - fusion(x, x)).unflatten(1, (9, 2)).abs().amax((0, 2, 3, 4)) > 1e-6
    assert changed.nonzero().flatten().tolist() == [1, 3, 5, 7]


def test_which_regions_the_branch_learns_from() -> None:
    model = small()
    model.train()
    images, targets = squares()
    batch = model.preprocess(images)
    placed = model.place(batch, targets)
    outputs = model.network(batch, placed)
    assert outputs.samples is not None
    assert outputs.grid_objects is not None
    assert [len(r) for r in outputs.grid_regions] == [int((s.labels > 0).sum()) for s in outputs.samples]
    for sample, regions, objects, target in zip(
        outputs.samples, outputs.grid_regions, outputs.grid_objects, placed, strict=True
    ):
        rows = sample.labels > 0
        assert torch.equal(objects, target.boxes[sample.objects[rows]])
        sides = (sample.boxes[rows, 2:] - sample.boxes[rows, :2]).repeat(1, 2)
        apart = (regions - sample.boxes[rows]).abs() / sides
        assert apart.max() <= 0.15 + 0.075 + 1e-5
        assert apart.max() > 0
    losses = model.losses(outputs, batch, placed)
    assert {"class", "points", "points_unfused"} < losses.keys()
    assert "boxes" not in losses
    model.most_grids = 3
    assert sum(map(len, model.network(batch, placed).grid_regions)) == 3


def test_losses_are_the_mean_over_cells_times_fifteen() -> None:
    model = small().eval()
    images, targets = squares(2)
    batch = model.preprocess(images)
    placed = model.place(batch, targets)
    outputs = model.network(batch, placed)
    assert outputs.fused is not None
    assert outputs.grid_objects is not None
    wanted = CODER.encode(torch.cat(outputs.grid_objects), torch.cat(outputs.grid_regions))
    p = outputs.fused.sigmoid()
    expected = -15 * torch.where(wanted, p.log(), (1 - p).log()).mean()
    torch.testing.assert_close(model.losses(outputs, batch, placed)["points"], expected, rtol=1e-4, atol=1e-6)


def test_losses_need_outputs_that_saw_the_targets() -> None:
    model = small()
    batch = model.preprocess([torch.rand(3, 160, 160)])
    nothing = Target(torch.zeros((0, 4)), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="network\\(batch, targets\\)"):
        model.losses(model.network(batch), batch, [nothing])


def test_small_is_a_detector() -> None:
    assert_is_detector(small())


def test_small_overfits() -> None:
    assert_overfits(small(), steps=120)


def test_small_fits_into_a_megabyte() -> None:
    model = build("grid_rcnn_r50_fpn", 8, small=True)
    assert sum(value.numel() for value in model.state_dict().values()) == 454_702


def test_catalog_rows() -> None:
    assert CATALOG["grid_rcnn_r50_fpn"].golden.parameters[80] == 27_393_231 + 13_895_680 + 83_025 + 23_123_145
