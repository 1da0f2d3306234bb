from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ops.heatmap import (
    Keypoints,
    find_keypoints,
    gaussian_heatmaps,
    gaussian_radius,
    local_peaks,
    pair_corners,
)


@pytest.mark.parametrize(
    ("height", "width", "iou", "corrected", "official"),
    [
        (10, 10, 0.7, 0.816700, 2.733201),
        (10, 10, 0.3, 2.261387, 4.954451),
        (100, 100, 0.7, 8.166999, 27.332005),
        (100, 100, 0.3, 22.613872, 49.544512),
        (20, 40, 0.7, 2.154767, 7.355851),
        (20, 40, 0.3, 5.780456, 13.559468),
        (5, 3, 0.3, 0.827396, 1.884857),
        (5, 3, 0.7, 0.304418, 1.030234),
        (128, 128, 0.7, 10.453758, 34.984967),
        (30, 50, 0.5, 5.422620, 15.677644),
        (1, 1, 0.7, 0.081670, 0.273320),
    ],
)
def test_radius(height: float, width: float, iou: float, corrected: float, official: float) -> None:
    h, w = torch.tensor([height, width], dtype=torch.float64), torch.tensor([width, height], dtype=torch.float64)
    for variant, expected in (("corrected", corrected), ("centernet_official", official)):
        found = gaussian_radius(h, w, iou, variant)  # type: ignore[arg-type]
        torch.testing.assert_close(found, torch.full((2,), expected, dtype=torch.float64), atol=1e-6, rtol=0)


def test_radius_keeps_the_overlap_where_all_corners_move_the_worst_way() -> None:
    generator = torch.Generator().manual_seed(0)
    h, w = 1 + 99 * torch.rand((2, 200), generator=generator, dtype=torch.float64)
    r = gaussian_radius(h, w, 0.4)
    outward = h * w / ((h + 2 * r) * (w + 2 * r))
    inward = (h - 2 * r).clamp(min=0) * (w - 2 * r).clamp(min=0) / (h * w)
    shared = (h - r) * (w - r)
    shifted = shared / (2 * h * w - shared)
    worst = torch.stack([outward, inward, shifted]).amin(0)
    torch.testing.assert_close(worst, torch.full_like(worst, 0.4))


def test_radius_of_an_unknown_variant() -> None:
    with pytest.raises(ValueError, match="centernet_official"):
        gaussian_radius(torch.ones(1), torch.ones(1), 0.5, "old")  # type: ignore[arg-type]


def test_bumps() -> None:
    def bump(radius: int, share: float, size: int) -> Tensor:
        middle = torch.tensor([[size // 2, size // 2]])
        return gaussian_heatmaps(middle, torch.tensor([0]), torch.tensor([radius]), (1, size, size), share)[0]

    assert torch.equal(bump(0, 1 / 6, 3), torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]]))
    for share, edge, corner in ((1 / 6, 0.135335, 0.018316), (1 / 5, 0.249352, 0.062177)):
        expected = torch.tensor([[corner, edge, corner], [edge, 1, edge], [corner, edge, corner]])
        torch.testing.assert_close(bump(1, share, 3), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        bump(2, 1 / 6, 5)[0, :3], torch.tensor([0.003151, 0.027324, 0.056135]), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(
        bump(2, 1 / 6, 5)[1, :3], torch.tensor([0.027324, 0.236928, 0.486752]), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(
        bump(2, 1 / 5, 5)[1, :3], torch.tensor([0.082085, 0.367879, 0.606531]), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(
        bump(2, 1 / 5, 5)[0, :3], torch.tensor([0.018316, 0.082085, 0.135335]), atol=1e-6, rtol=0
    )
    assert bump(2, 1 / 6, 9)[1].abs().sum() == 0


def test_bumps_at_the_border_and_where_they_meet() -> None:
    cells, radii = torch.tensor([[0, 1], [2, 2]]), torch.tensor([2, 1])
    found = gaussian_heatmaps(cells, torch.tensor([0, 0]), radii, (1, 6, 6))[0]
    expected = torch.tensor(
        [
            [0.4868, 0.2369, 0.0273, 0, 0, 0],
            [1, 0.4868, 0.1353, 0.0183, 0, 0],
            [0.4868, 0.2369, 1, 0.1353, 0, 0],
            [0.0561, 0.0273, 0.1353, 0.0183, 0, 0],
            [0, 0, 0, 0, 0, 0],
            [0, 0, 0, 0, 0, 0],
        ]
    )
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_bumps_stay_on_their_plane() -> None:
    cells = torch.tensor([[1, 2], [3, 0]])
    found = gaussian_heatmaps(cells, torch.tensor([2, 0]), torch.tensor([0, 0]), (3, 4, 5))
    assert found.nonzero().tolist() == [[0, 0, 3], [2, 2, 1]]
    none = torch.zeros(0, dtype=torch.int64)
    empty = gaussian_heatmaps(torch.zeros((0, 2), dtype=torch.int64), none, none, (2, 3, 4))
    assert torch.equal(empty, torch.zeros(2, 3, 4))


def test_peaks_keep_plateaus() -> None:
    heat = torch.tensor([[0.1, 0.5, 0.5, 0.2], [0.9, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.3]])[None, None]
    expected = torch.tensor([[0, 0, 0.5, 0], [0.9, 0, 0, 0], [0, 0, 0, 0.3]])[None, None]
    assert torch.equal(local_peaks(heat), expected)
    flat = torch.full((1, 1, 3, 3), 0.4)
    assert torch.equal(local_peaks(flat), flat)


def test_keypoints_are_the_best_over_classes_and_cells() -> None:
    heat = torch.zeros(2, 3, 6, 8)
    heat[0, 2, 1, 5], heat[0, 0, 4, 0], heat[0, 1, 4, 7], heat[1, 1, 0, 0] = 0.9, 0.8, 0.7, 0.6
    offsets = torch.arange(2 * 2 * 6 * 8).view(2, 2, 6, 8) / 1000
    tags = torch.arange(2 * 6 * 8).view(2, 1, 6, 8).float()
    found = find_keypoints(heat, offsets, 3, tags)
    torch.testing.assert_close(found.scores[0], torch.tensor([0.9, 0.8, 0.7]))
    assert found.labels[0].tolist() == [2, 0, 1]
    assert found.tags is not None
    assert found.tags[0].tolist() == [13, 32, 39]
    assert found.tags[1, 0] == 48
    expected = torch.tensor([[5 + 0.013, 1 + 0.061], [0.032, 4 + 0.080], [7 + 0.039, 4 + 0.087]])
    torch.testing.assert_close(found.points[0], expected)
    assert find_keypoints(heat, offsets, 1000).scores.shape == (2, 3 * 6 * 8)


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def tiny_maps() -> dict[str, Tensor]:
    heats = {kind: torch.full((1, 2, 8, 8), -10.0) for kind in ("tl", "br", "ct")}
    peaks = {
        "tl": [(0, 1, 1, 0.9), (1, 2, 3, 0.8), (0, 1, 2, 0.6), (0, 5, 5, 0.5)],
        "br": [(0, 6, 6, 0.7), (1, 5, 6, 0.6), (0, 3, 4, 0.4)],
        "ct": [(0, 3, 3, 0.8), (1, 3, 4, 0.5), (0, 2, 2, 0.3)],
    }
    for kind, places in peaks.items():
        for label, y, x, p in places:
            heats[kind][0, label, y, x] = logit(p)
    return heats


def test_tiny_decoding() -> None:
    heats = {kind: heat.sigmoid() for kind, heat in tiny_maps().items()}
    tl_tags, br_tags = torch.zeros(2, 1, 1, 8, 8)
    tl_tags[0, 0, 1, 1], tl_tags[0, 0, 2, 3], tl_tags[0, 0, 5, 5] = 1.0, -0.5, 1.2
    br_tags[0, 0, 6, 6], br_tags[0, 0, 3, 4], br_tags[0, 0, 5, 6] = 1.3, 1.6, -0.2
    top_left = find_keypoints(heats["tl"], torch.full((1, 2, 8, 8), 0.25), 3, tl_tags)
    bottom_right = find_keypoints(heats["br"], torch.full((1, 2, 8, 8), 0.5), 3, br_tags)
    boxes, scores, labels, corners = pair_corners(top_left, bottom_right, 0.5, 9)
    torch.testing.assert_close(scores[0], torch.tensor([0.8, 0.7, 0.6, *[-1.0] * 6]))
    expected = torch.tensor([[1.25, 1.25, 6.5, 6.5], [3.25, 2.25, 6.5, 5.5], [5.25, 5.25, 6.5, 6.5]])
    assert torch.equal(boxes[0, :3], expected)
    assert labels[0, :3].tolist() == [0, 1, 0]
    torch.testing.assert_close(corners[0, :3], torch.tensor([[0.9, 0.7], [0.8, 0.6], [0.5, 0.7]]))
    centers = find_keypoints(heats["ct"], torch.full((1, 2, 8, 8), 0.1), 3)
    torch.testing.assert_close(centers.points[0, :2], torch.tensor([[3.1, 3.1], [4.1, 3.1]]))
    torch.testing.assert_close(centers.scores[0, :2], torch.tensor([0.8, 0.5]))
    assert centers.labels[0, :2].tolist() == [0, 1]


def test_pairs_equal_the_loop() -> None:
    generator = torch.Generator().manual_seed(5)

    def corners(k: int) -> Keypoints:
        return Keypoints(
            torch.rand((2, k), generator=generator).sort(descending=True).values,
            torch.randint(0, 3, (2, k), generator=generator),
            torch.randint(0, 6, (2, k, 2), generator=generator).float(),
            torch.rand((2, k), generator=generator),
        )

    first, second = corners(12), corners(15)
    boxes, scores, labels, corners = pair_corners(first, second, 0.5, 1000)
    assert boxes.shape == (2, 180, 4)
    stands = scores >= 0
    torch.testing.assert_close(corners.mean(-1)[stands], scores[stands])
    assert first.tags is not None
    assert second.tags is not None
    for image in range(2):
        expected = []
        for a in range(12):
            for b in range(15):
                alike = first.labels[image, a] == second.labels[image, b]
                alike &= (first.tags[image, a] - second.tags[image, b]).abs() <= 0.5
                alike &= bool((second.points[image, b] >= first.points[image, a]).all())
                if alike:
                    score = (first.scores[image, a] + second.scores[image, b]) / 2
                    corner = [*first.points[image, a].tolist(), *second.points[image, b].tolist()]
                    expected.append((float(score), corner, int(first.labels[image, a])))
        assert len(expected) > 5
        rows = (scores[image].tolist(), boxes[image].tolist(), labels[image].tolist())
        found = list(zip(*rows, strict=True))
        assert found[: len(expected)] == sorted(expected, reverse=True)
        assert all(score == -1 for score, _, _ in found[len(expected) :])


def test_pairs_need_tags() -> None:
    bare = find_keypoints(torch.rand(1, 1, 4, 4), torch.zeros(1, 2, 4, 4), 2)
    with pytest.raises(ValueError, match="tags"):
        pair_corners(bare, bare, 0.5, 10)
