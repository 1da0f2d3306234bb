"""Images that are decoded once are the same images."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields

import pytest
import torch

from benchmarks.datasets import Dataset, dataset, open_dataset
from benchmarks.datasets.decoded import keep_decoded


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file is read."""
    counted: Counter[str] = Counter()
    read = dataset.read_image

    def counting(path, size=None):
        counted[path.name] += 1
        return read(path, size)

    monkeypatch.setattr(dataset, "read_image", counting)
    return counted


def assert_same(one: Dataset, other: Dataset, index: int) -> None:
    (image, target), (same, wanted) = one[index], other[index]
    assert torch.equal(image, same)
    assert image.dtype == same.dtype
    assert image.is_contiguous()
    for part in fields(wanted):
        a, b = getattr(target, part.name), getattr(wanted, part.name)
        assert (a is None) == (b is None)
        assert a is None or torch.equal(a, b)


def test_files_are_read_once_and_say_the_same(reads: Counter[str]) -> None:
    plain = open_dataset("shapes")
    kept = keep_decoded(plain)
    for _ in range(2):
        for index in (0, 7, -1):
            assert_same(kept, plain, index)
    assert sorted(reads.values()) == [3, 3, 3], "twice by the plain one, once by the other"
    assert kept.fingerprint == plain.fingerprint
    assert (len(kept), kept.class_names, kept.num_objects) == (len(plain), plain.class_names, plain.num_objects)


def test_what_is_given_out_may_be_changed() -> None:
    kept = keep_decoded(open_dataset("shapes"))
    assert torch.equal(kept[0][0], kept[0][0])
    image, target = kept[0]
    before = image.clone(), target.boxes.clone()
    image.zero_()
    target.boxes.zero_()
    again, unchanged = kept[0]
    assert torch.equal(again, before[0])
    assert torch.equal(unchanged.boxes, before[1])


def test_beyond_the_limit_files_are_read_again(reads: Counter[str]) -> None:
    plain = open_dataset("shapes")
    kept = keep_decoded(plain, limit=plain[0][0].numel())
    reads.clear()
    for _ in range(2):
        for index in (0, 1):
            kept[index]
    assert sorted(reads.values()) == [1, 2]


def test_masks_come_from_the_files() -> None:
    kept = keep_decoded(open_dataset("shapes", masks=True))
    for _ in range(2):
        masks = kept[0][1].masks
        assert masks is not None
        assert len(masks) == len(kept[0][1])
