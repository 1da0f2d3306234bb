from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.datasets import open_dataset
from ops.structures import Detections
from tests.contract import toy_images
from zoo import CATALOG, build, checkpoints
from zoo.detector import Detector
from zoo.subsample import SYNONYMS, ClassChannels, find_classes, subsample

VOC = [
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
]
COCO = [
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
    *("fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow"),
    *("elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee"),
    *("skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard"),
    *("tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch"),
    *("potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone"),
    *("microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear"),
    *("hair drier", "toothbrush"),
]
KEPT = [4, 1, 14, 8, 39, 5, 2, 15, 56, 19, 60, 16, 17, 3, 0, 58, 18, 57, 6, 62]
"""Where VOC's classes stand in COCO's list, counted by hand."""

CUTTABLE = [
    name
    for name, spec in CATALOG.items()
    if spec.small is not None and getattr(build(name, 2, small=True), "class_channels", None) is not None
]


def stirred(name: str, classes: int, **overrides: Any) -> Detector:
    """A small detector that learnt nothing, but whose classes all differ, and none is sure."""
    torch.manual_seed(7)
    model = build(name, classes, small=True, **overrides).eval()
    layers = {key.rpartition(".")[0] for key in model.class_channels()}  # type: ignore[operator]
    for layer in map(model.get_submodule, layers):
        for part, parameter in layer.named_parameters():
            # A bias that says "nothing is there" goes.
            parameter.data *= part != "bias"
            parameter.data += 0.3 * torch.randn_like(parameter)
        layer.register_forward_hook(calm)
    detect(model)
    for layer in map(model.get_submodule, layers):
        layer._forward_hooks.clear()
    return model


def calm(layer: torch.nn.Module, _: Any, output: torch.Tensor) -> None:
    for parameter in layer.parameters():
        parameter.data /= output.std().clamp(min=1e-3)


def detect(model: Detector) -> list[Detections]:
    with torch.no_grad():
        return model(toy_images())


def test_voc_in_coco_by_name() -> None:
    assert find_classes(COCO, VOC) == KEPT
    assert find_classes(COCO, [SYNONYMS.get(name, name) for name in VOC]) == KEPT
    darknet = [{new: old for old, new in SYNONYMS.items()}.get(name, name) for name in COCO]
    assert "aeroplane" in darknet
    assert find_classes(darknet, VOC) == KEPT
    assert set(VOC) - set(COCO) == set(SYNONYMS)


def test_names_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="knows no 'zebu'"):
        find_classes(COCO, ["zebu"])
    with pytest.raises(ValueError, match="'airplane' is asked for twice"):
        find_classes(COCO, ["aeroplane", "airplane"])
    with pytest.raises(ValueError, match="the class 'cat' twice"):
        find_classes(["cat", "dog", "cat"], ["dog"])


def test_channels_by_hand() -> None:
    """2 anchors of background and three classes; the same class by class; box, objectness and classes; a tail."""
    assert ClassChannels(groups=2, leading=1).channels(8, 3, [2, 0]) == [0, 3, 1, 4, 7, 5]
    assert ClassChannels(inner=2, leading=1).channels(8, 3, [2, 0]) == [0, 1, 6, 7, 2, 3]
    assert ClassChannels(groups=2, leading=5).channels(16, 3, [1]) == [0, 1, 2, 3, 4, 6, 8, 9, 10, 11, 12, 14]
    assert ClassChannels(groups=2, tail=3).channels(9, 3, [1, 2]) == [1, 2, 4, 5, 6, 7, 8]
    assert ClassChannels(groups=2).channels(10, 3, [1]) == [1, 3, 4, 6, 8, 9], "what follows the classes of a group"
    with pytest.raises(ValueError, match="9 channels do not hold 2 groups"):
        ClassChannels(groups=2, leading=1).channels(9, 3, [0])
    with pytest.raises(ValueError, match="groups of 2"):
        ClassChannels(groups=2, leading=2).channels(8, 3, [0])


@pytest.mark.parametrize("name", CUTTABLE)
def test_classes_in_another_order_are_the_same_detector(name: str) -> None:
    """A law that no wrong layout survives: with every class kept, nothing changes but the labels."""
    names = list("abcdef")
    order = [3, 0, 5, 1, 2, 4]
    model = stirred(name, 6)
    other = subsample(model, build(name, 6, small=True).eval(), names, [names[k] for k in order])
    label_of = torch.tensor([order.index(k) for k in range(6)])
    for wanted, got in zip(detect(model), detect(other), strict=True):
        assert len(got) == len(wanted) > 10
        assert len(wanted.scores[:10].unique()) > 5, "the surest must be told apart"
        torch.testing.assert_close(got.scores, wanted.scores, atol=1e-5, rtol=1e-4)
        theirs, ours = surest(replace(wanted, labels=label_of[wanted.labels])), surest(got)
        assert theirs.keys() == ours.keys()
        for label, row in theirs.items():
            assert ours[label] == pytest.approx(row, abs=0.05)


def surest(found: Detections) -> dict[int, list[float]]:
    """Of each class the score and the box that are surest."""
    best: dict[int, list[float]] = {}
    for label, score, box in zip(found.labels.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True):
        best.setdefault(label, [score, *box])
    return best


@pytest.mark.parametrize("name", CUTTABLE)
def test_parameters_are_the_larger_ones_to_the_bit(name: str) -> None:
    """Class parameters consist of rows of the larger one in its order; everything else is copied."""
    model = stirred(name, 9)
    names = list("abcdefghi")
    smaller = subsample(model, build(name, 3, small=True), names, ["b", "e", "i"])
    declared = model.class_channels()  # type: ignore[operator]
    before, after = model.state_dict(), smaller.state_dict()
    assert before.keys() == after.keys()
    differ = {key for key in before if before[key].shape != after[key].shape}
    assert differ == set(declared)
    for key in before.keys() - differ:
        assert torch.equal(before[key], after[key]), key
    for key in differ:
        rows = iter(before[key])
        assert all(any(torch.equal(row, other) for other in rows) for row in after[key]), key


def test_sigmoid_classes_keep_their_scores() -> None:
    """YOLOv3: 80 classes cut to VOC's 20. The last digit may depend on how many channels the processor sums at once."""
    model = stirred("yolov3", 80).double()
    smaller = subsample(model, build("yolov3", 20, small=True).eval().double(), COCO, VOC)
    batch = model.preprocess([image.double() for image in toy_images()])
    with torch.no_grad():
        for output, few in zip(model.network(batch), smaller.network(batch), strict=True):
            theirs, ours = output.unflatten(1, (3, 85)).sigmoid(), few.unflatten(1, (3, 25)).sigmoid()
            stay = [*range(5), *(5 + place for place in KEPT)]
            torch.testing.assert_close(ours, theirs[:, :, stay], rtol=1e-13, atol=0)


def test_sigmoid_detections_are_those_of_the_larger_detector() -> None:
    """All of a class survive together: suppression is class by class, and here nothing limits them."""
    free = {"limit": None, "score_floor": 0.4, "prior": 0.5}
    model = stirred("yolov3", 80, **free)
    smaller = subsample(model, build("yolov3", 20, small=True, **free).eval(), COCO, VOC)
    for wanted, got in zip(detect(model), detect(smaller), strict=True):
        for label, place in enumerate(KEPT):
            theirs, ours = wanted[wanted.labels == place], got[got.labels == label]
            assert len(theirs) == len(ours)
            torch.testing.assert_close(ours.scores, theirs.scores)
        assert len(got)


@pytest.mark.parametrize("name", [name for name in CUTTABLE if "ssd" in name])
def test_softmax_classes_keep_logits_and_ratios_and_share_what_the_others_leave(name: str) -> None:
    model = stirred(name, 80).double()
    smaller = subsample(model, build(name, 20, small=True).eval().double(), COCO, VOC)
    batch = model.preprocess([image.double() for image in toy_images()])
    with torch.no_grad():
        all_of, few = model.network(batch), smaller.network(batch)
    stay = [0, *(1 + place for place in KEPT)]
    torch.testing.assert_close(few.offsets, all_of.offsets, rtol=0, atol=1e-12)
    torch.testing.assert_close(few.logits, all_of.logits[..., stay], rtol=0, atol=1e-12)
    before, after = all_of.logits.softmax(-1)[..., stay], few.logits.softmax(-1)
    torch.testing.assert_close(after / after[..., :1], before / before[..., :1], rtol=1e-9, atol=0)
    assert bool((after >= before).all())
    left = before.sum(-1, keepdim=True)
    assert float(left.min()) < 0.5, "elsewhere there is little to see"
    torch.testing.assert_close(after, before / left, rtol=1e-9, atol=0)


def test_ron_keeps_objectness_boxes_and_logits() -> None:
    """Its channels lie class by class: a cut anchor by anchor would mix classes and anchors."""
    model = stirred("ron320_vgg16", 80).double()
    smaller = subsample(model, build("ron320_vgg16", 20, small=True).eval().double(), COCO, VOC)
    batch = model.preprocess([image.double() for image in toy_images()])
    with torch.no_grad():
        all_of, few = model.network(batch), smaller.network(batch)
    torch.testing.assert_close(few.objectness, all_of.objectness)
    torch.testing.assert_close(few.offsets, all_of.offsets)
    stay = [0, *(1 + place for place in KEPT)]
    torch.testing.assert_close(few.logits, all_of.logits[..., stay], rtol=0, atol=1e-12)


def test_yolov2_keeps_boxes_objectness_and_logits() -> None:
    model = stirred("yolov2", 80).double()
    smaller = subsample(model, build("yolov2", 20, small=True).eval().double(), COCO, VOC)
    batch = model.preprocess([image.double() for image in toy_images()])
    with torch.no_grad():
        theirs, ours = model.network(batch).unflatten(1, (-1, 85)), smaller.network(batch).unflatten(1, (-1, 25))
    stay = [*range(5), *(5 + place for place in KEPT)]
    torch.testing.assert_close(ours, theirs[:, :, stay], rtol=0, atol=1e-12)


def test_yolov1_keeps_every_cell() -> None:
    model = stirred("yolov1", 80).double()
    smaller = subsample(model, build("yolov1", 20, small=True).eval().double(), COCO, VOC)
    batch = model.preprocess([image.double() for image in toy_images()])
    with torch.no_grad():
        (classes, *rest), (few, *same) = model.split(model.network(batch)), smaller.split(smaller.network(batch))  # type: ignore[operator]
    torch.testing.assert_close(few, classes[..., KEPT])
    torch.testing.assert_close(same, rest)


def test_two_stages_keep_logits_and_the_boxes_of_each_class() -> None:
    predictor = "roi_heads.box_predictor"
    model = stirred("faster_rcnn_r50_fpn", 80)
    smaller = subsample(model, build("faster_rcnn_r50_fpn", 20, small=True), COCO, VOC)
    features = torch.randn(6, model.get_submodule(predictor).cls_score.in_features)  # type: ignore[arg-type, union-attr]
    with torch.no_grad():
        logits, offsets = model.get_submodule(predictor)(features)
        few_logits, few_offsets = smaller.get_submodule(predictor)(features)
    stay = [0, *(1 + place for place in KEPT)]
    torch.testing.assert_close(few_logits, logits[:, stay])
    torch.testing.assert_close(few_offsets, offsets[:, stay])


class Whole(Detector):
    """Two anchors of background and classes."""

    def __init__(self, num_classes: int, inputs: int = 4, entry: str = "head.bias") -> None:
        super().__init__(num_classes)
        self.head = torch.nn.Linear(inputs, 2 * (1 + num_classes))
        self.entry = entry

    def class_channels(self) -> dict[str, ClassChannels]:
        layout = ClassChannels(groups=2, leading=1)
        return {"head.weight": layout, self.entry: layout}


def test_bad_input_is_refused() -> None:
    abc = list("abc")
    small = subsample(Whole(3), Whole(1), abc, ["b"])
    assert small.num_classes == 1
    with pytest.raises(ValueError, match="2 names for the 3 classes of Whole"):
        subsample(Whole(3), Whole(1), abc[:2], ["b"])
    with pytest.raises(ValueError, match="2 classes are wanted, but the detector to fill has 1"):
        subsample(Whole(3), Whole(1), abc, ["b", "c"])
    with pytest.raises(ValueError, match="Detector does not say where its classes lie"):
        subsample(Detector(3), Detector(1), abc, ["b"])
    with pytest.raises(ValueError, match=r"names head\.scale, which it does not have"):
        subsample(Whole(3, entry="head.scale"), Whole(1), abc, ["b"])
    with pytest.raises(ValueError, match=r"head\.weight.* Build the smaller detector with the overrides"):
        subsample(Whole(3), Whole(1, inputs=5), abc, ["b"])
    model = Whole(3)
    model.num_classes = 5
    with pytest.raises(ValueError, match=r"head\.weight: 8 channels do not hold 2 groups of 1 \+ 5"):
        subsample(model, Whole(1), list("abcde"), ["b"])


def test_a_checkpoint_is_cut_by_the_command_line(tmp_path: Path) -> None:
    """The shipped YOLOv3 without five of its eight classes says of the three what it said: to the bit, if stored so."""
    out = tmp_path / "few.safetensors"
    arguments = ["subsample", "yolov3", "--dataset", "shapes", "--keep", "star,disc,bar", "--out", str(out)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    model, meta = checkpoints.load(checkpoints.find("yolov3", "shapes"))
    smaller, cut = checkpoints.load(out)
    assert (cut.detector, cut.num_classes, cut.class_names) == ("yolov3", 3, ("star", "disc", "bar"))
    assert cut.extra == {"subsampled_from": "yolov3_small.shapes.safetensors"}
    dataset = open_dataset("shapes", "test")
    images = [dataset[index][0] for index in range(4)]
    with torch.no_grad():
        answers = list(zip(model(images), smaller(images), strict=True))
    count = 0
    for wanted, got in answers:
        for label, name in enumerate(cut.class_names):
            theirs, ours = wanted[wanted.labels == meta.class_names.index(name)], got[got.labels == label]
            # The larger detector keeps its hundred surest only, of all classes.
            torch.testing.assert_close(ours.scores[: len(theirs)], theirs.scores, rtol=1e-5, atol=1e-7)
            torch.testing.assert_close(ours.boxes[: len(theirs)], theirs.boxes, rtol=1e-4, atol=1e-3)
            count += len(theirs)
    assert count > 20


@pytest.mark.parametrize(
    ("keep", "name", "words"),
    [
        ("star,wheel", "few.safetensors", "the detector knows no 'wheel'; it knows disc,"),
        ("star", "few.pth", "choose a name that ends in .safetensors"),
    ],
)
def test_a_command_that_cannot_be_done_is_one_line(keep: str, name: str, words: str, tmp_path: Path) -> None:
    out = tmp_path / name
    done = CliRunner().invoke(app, ["subsample", "yolov3", "--dataset", "shapes", "--keep", keep, "--out", str(out)])
    assert done.exit_code == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not out.exists()
