import pytest
import torch
from torch import Tensor

from ops.match import bipartite_match, multibox_match


def slow_match(iou: Tensor, threshold: float | None, least: float = 1e-6) -> list[int]:
    """One pair at a time, as the paper's code does it."""
    objects, references = iou.shape
    matches = [-1] * references
    free_objects, free_references = set(range(objects)), set(range(references))
    while free_objects:
        best = (least, -1, -1)
        for reference in sorted(free_references):
            for index in sorted(free_objects):
                if iou[index, reference] > best[0]:
                    best = (float(iou[index, reference]), index, reference)
        if best[1] < 0:
            break
        matches[best[2]] = best[1]
        free_objects.remove(best[1])
        free_references.remove(best[2])
    if threshold is not None:
        for reference in range(references):
            if matches[reference] < 0 and objects:
                column = iou[:, reference].tolist()
                if max(column) >= threshold:
                    matches[reference] = column.index(max(column))
    return matches


@pytest.mark.parametrize("seed", range(30))
def test_same_as_the_loop(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    objects = int(torch.randint(0, 9, (), generator=generator))
    references = int(torch.randint(1, 25, (), generator=generator))
    iou = torch.rand((objects, references), generator=generator)
    if seed % 2:
        # Tenths: many ties, and values of exactly the threshold and of zero.
        iou = (iou * 10).floor() / 10
    if seed % 3 == 0:
        iou = iou * (torch.rand((objects, references), generator=generator) < 0.3)
    assert bipartite_match(iou).tolist() == slow_match(iou, None)
    assert multibox_match(iou, None).tolist() == slow_match(iou, None)
    assert multibox_match(iou, 0.5).tolist() == slow_match(iou, 0.5)


def test_objects_that_share_their_best_reference_both_get_one() -> None:
    iou = torch.tensor([[0.9, 0.3, 0.0], [0.8, 0.2, 0.1]])
    assert bipartite_match(iou).tolist() == [0, 1, -1]
    assert multibox_match(iou).tolist() == [0, 1, -1]


def test_a_reference_keeps_its_bipartite_object() -> None:
    """Reference 1 overlaps object 0 more, but it is the only one left for object 1."""
    iou = torch.tensor([[0.9, 0.7], [0.0, 0.1]])
    assert multibox_match(iou).tolist() == [0, 1]


def test_threshold_is_inclusive() -> None:
    iou = torch.tensor([[0.9, 0.5, 0.49]])
    assert multibox_match(iou, 0.5).tolist() == [0, 0, -1]
    assert multibox_match(iou, None).tolist() == [0, -1, -1]


def test_nothing_to_match() -> None:
    assert multibox_match(torch.zeros(0, 3)).tolist() == [-1, -1, -1]
    assert multibox_match(torch.zeros(2, 3)).tolist() == [-1, -1, -1]
    assert multibox_match(torch.zeros(2, 0)).tolist() == []
    assert multibox_match(torch.full((3, 2), 0.2)).tolist() == [0, 1]
