from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from benchmarks.evaluate import EvaluationError, category_of_label, detect, load_subject
from benchmarks.metrics import load_detections, load_ground_truth, score
from ops.structures import Detections, Target
from zoo import checkpoints
from zoo.detector import Detector


@dataclass
class FakeSet:
    """Three images whose objects are known; category ids with holes, as COCO's."""

    name: str = "fake"
    split: str = "test"
    class_names: tuple[str, ...] = ("cat", "dog")
    category_ids: tuple[int, ...] = (3, 7)
    image_ids: tuple[int, ...] = (11, 5, 8)

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Target]:
        box = torch.tensor([[4.0, 6.0, 24.0 + index, 30.0]])
        return torch.full((3, 40, 50 + index), 0.5), Target(box, torch.tensor([index % 2]))

    def coco(self) -> dict:
        return {
            "images": [{"id": i, "height": 40, "width": 50 + n} for n, i in enumerate(self.image_ids)],
            "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
            "annotations": [
                {
                    "id": n + 1,
                    "image_id": i,
                    "category_id": self.category_ids[n % 2],
                    "bbox": [4, 6, 20 + n, 24],
                    "area": (20 + n) * 24,
                    "iscrowd": 0,
                }
                for n, i in enumerate(self.image_ids)
            ],
        }


class Oracle(Detector):
    """Answers with the truth, which it reads off the width of the image."""

    def forward(self, images, targets=None):
        answers = []
        for image in images:
            index = image.shape[-1] - 50
            answers.append(
                Detections(
                    torch.tensor([[4.0, 6.0, 24.0 + index, 30.0], [0.0, 0.0, 3.0, 3.0]]),
                    torch.tensor([0.9, 0.1]),
                    torch.tensor([index % 2, 1 - index % 2]),
                )
            )
        return answers


@pytest.mark.parametrize("batch", [1, 2])
def test_detect_writes_coco_results_that_score_as_they_should(batch):
    data = FakeSet()
    rows = detect(Oracle(2), data, batch=batch, quiet=True)
    assert [row["image_id"] for row in rows] == [11, 11, 5, 5, 8, 8]
    assert rows[0] == {"image_id": 11, "category_id": 3, "bbox": [4, 6, 20, 24], "score": pytest.approx(0.9)}
    assert rows[2]["category_id"] == 7
    truth = load_ground_truth(data.coco())
    direct = score(truth, load_detections(rows, truth))
    assert direct["stats"]["AP"] == pytest.approx(1)
    again = score(truth, load_detections(json.loads(json.dumps(rows)), truth))
    assert again["stats"] == direct["stats"]


def test_limit():
    assert {row["image_id"] for row in detect(Oracle(2), FakeSet(), limit=2, quiet=True)} == {11, 5}


def test_labels_find_their_categories_by_name():
    data = FakeSet()
    assert category_of_label(data, 3, ("dog", "fish", "cat")) == (7, None, 3)
    assert category_of_label(data, 2) == (3, 7)
    with pytest.raises(EvaluationError, match="none of which is in fake"):
        category_of_label(data, 2, ("fish", "bird"))
    with pytest.raises(EvaluationError, match="5 classes, fake has 2"):
        category_of_label(data, 5)
    ninety = category_of_label(data, 90)
    assert ninety[2] == 3
    assert ninety[6] == 7
    assert sum(category is not None for category in ninety) == 2


def test_a_checkpoint_of_ours_takes_no_other_arguments() -> None:
    """They were once left aside without a word."""
    with pytest.raises(EvaluationError, match="so short cannot be set; train it so"):
        load_subject("yolov1", checkpoints.find("yolov1", "shapes"), 8, {"short": 100})


@pytest.mark.parametrize(
    ("entry", "text", "message"),
    [
        ("seed", "one", r"seed is 'one', no int; train it anew"),
        ("images", "2.5", r"images is '2.5', no int"),
        ("variant", "[1]", r"variant is '\[1\]', no dict"),
        ("skipped", "{", r"skipped is '{', no list"),
    ],
)
def test_what_a_checkpoint_says_of_its_training_is_checked(entry: str, text: str, message: str, tmp_path: Path) -> None:
    model, meta = checkpoints.load(checkpoints.find("yolov1", "shapes"))
    about = {"detector": meta.detector, "num_classes": meta.num_classes, "overrides": meta.overrides}
    path = tmp_path / "mine.safetensors"
    checkpoints.save(path, model, **about, class_names=meta.class_names, small=True, extra={**meta.extra, entry: text})
    with pytest.raises(EvaluationError, match=rf"mine\.safetensors: {message}"):
        load_subject("yolov1", path, 8)
