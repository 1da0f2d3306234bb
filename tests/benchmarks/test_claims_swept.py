"""What sweeps of claims measure on trained small detectors, against slow definitions and with planted faults."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from benchmarks.claims.measure import measure, placing, probing, refining
from benchmarks.claims.measure import sweeping as sweeps
from benchmarks.claims.measure.running import truth_of
from benchmarks.datasets import Dataset, open_dataset
from benchmarks.evaluate import Subject, coco_rows, load_subject
from benchmarks.metrics import load_detections, match
from benchmarks.metrics.intervals import means_apart
from benchmarks.metrics.matching import AT50
from ops.structures import Detections
from zoo import checkpoints
from zoo.one_stage.refinedet import RefineDet

IMAGES = 2


@pytest.fixture(scope="module")
def shapes() -> Dataset:
    return open_dataset("shapes")


def shipped(name: str) -> Subject:
    return load_subject(name, checkpoints.shipped(name, "shapes")[0], 0)


@pytest.fixture
def refinedet() -> Subject:
    return shipped("refinedet320_vgg16")


@pytest.fixture
def unfiltered() -> Subject:
    return shipped("refinedet320_vgg16_unfiltered")


def network(subject: Subject) -> RefineDet:
    assert isinstance(subject.model, RefineDet)
    return subject.model


def changed(subject: Subject, change: Callable[[RefineDet], None]) -> Subject:
    model = deepcopy(network(subject))
    with torch.no_grad():
        change(model)
    return replace(subject, model=model)


# Boxes


def planted(shapes: Dataset, images: int) -> list[Detections]:
    """Around every object: a good box, a better one that scores less, one of another class; and boxes on nothing."""
    chance = torch.Generator().manual_seed(3)
    answers = []
    for index in range(images):
        target = shapes[index][1]
        moves = [torch.randn(len(target), 4, generator=chance) * scale for scale in (4.0, 0.5, 2.0)]
        boxes = torch.cat([target.boxes + move for move in moves] + [target.boxes + 500])
        scores = torch.rand(len(boxes), generator=chance)
        labels = torch.cat([target.labels, target.labels, (target.labels + 1) % 8, target.labels])
        order = scores.argsort(descending=True)
        answers.append(Detections(boxes[order], scores[order], labels[order]))
    return answers


def answering(subject: Subject, answers: list[Detections]) -> Subject:
    left = iter(answers)
    return replace(subject, model=lambda images: [next(left) for _ in images])  # type: ignore[arg-type]


def test_places_of_objects_against_loops_and_the_scoring_engine(shapes: Dataset, refinedet: Subject) -> None:
    images = 18
    counted = [target[~target.ignore] for target in (shapes[index][1] for index in range(images))]
    assert any(shapes[index][1].ignore.any() for index in range(images))
    answers = planted(shapes, images)
    found = placing.placed(answering(refinedet, answers), shapes, images)
    objects = sum(map(len, counted))
    ranked = sorted((-float(score), i, d) for i, one in enumerate(answers) for d, score in enumerate(one.scores))
    ious: list[list[float | None]] = [[None] * len(target) for target in counted]
    for _, i, d in ranked[:objects]:
        target, best = counted[i], None
        for g in range(len(target)):
            iou = float(box_iou(answers[i].boxes[d : d + 1].double(), target.boxes[g : g + 1].double()))
            fits = ious[i][g] is None and iou >= 0.5 and answers[i].labels[d] == target.labels[g]
            if fits and (best is None or iou > best[0]):
                best = (iou, g)
        if best is not None:
            ious[i][best[1]] = best[0]
    assert found["objects"] == objects
    assert [[value is None for value in row] for row in found["ious"]] == [[v is None for v in row] for row in ious]
    known = [value for row in ious for value in row if value is not None]
    assert 0.1 * objects < len(known) < 0.9 * objects, "some are found, some are not"
    assert [value for row in found["ious"] for value in row if value is not None] == pytest.approx(known, abs=6e-5)
    assert (found["found"], found["mean"]) == (len(known), pytest.approx(100 * np.mean(known)))

    kept = {(i, d) for _, i, d in ranked[:objects]}
    rows = []
    for i, one in enumerate(answers):
        mine = torch.tensor([(i, d) in kept for d in range(len(one))])
        rows += coco_rows(
            Detections(one.boxes[mine], one.scores[mine], one.labels[mine]), shapes.image_ids[i], shapes.category_ids
        )
    truth = truth_of(shapes, images)
    engine = match(truth, load_detections(rows, truth))
    assert int((engine.truth_found[~engine.truth_excused, 0] >> AT50 & 1).sum()) == found["found"]


def test_nothing_found_has_no_mean(shapes: Dataset, refinedet: Subject) -> None:
    none = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    found = placing.placed(answering(refinedet, [none, none]), shapes, 2)
    assert (found["found"], found["mean"]) == (0, None)
    assert {value for row in found["ious"] for value in row} == {None}


class Fixed:
    """Answers of two thresholds of suppression, image by image, whatever it sees."""

    nms_iou = 0.45

    def __init__(self, usual: list[Detections], loose: list[Detections]) -> None:
        self.answers, self.seen = {self.nms_iou: usual, 0.65: loose}, -1

    def preprocess(self, images: Any) -> None:
        self.seen += 1

    def network(self, batch: Any) -> None:
        pass

    def postprocess(self, outputs: Any, batch: Any) -> list[Detections]:
        return [self.answers[self.nms_iou][self.seen]]


def test_recall_of_overlapping_objects_against_loops(refinedet: Subject) -> None:
    """Each box found under loose suppression counts if it is as sure as usual suppression demands."""
    pairs, images = open_dataset("shapes", "pairs"), 60
    loose = planted(pairs, images)
    usual = [replace(one, scores=one.scores * 0.8) for one in loose]
    model = Fixed(usual, loose)
    found = placing.met_in_pairs(replace(refinedet, model=model), pairs, images)  # type: ignore[arg-type]
    assert found["suppression"] == {"own": 0.45, "here": 0.65}
    assert model.nms_iou == 0.45, "set back"
    targets = [pairs[index][1] for index in range(images)]
    assert not any(target.ignore.any() for target in targets)
    floor = sorted((float(score) for one in usual for score in one.scores), reverse=True)[sum(map(len, targets)) - 1]
    tally: dict[str, list[int]] = {}
    for target, answer in zip(targets, loose, strict=True):
        taken: set[int] = set()
        for d in range(len(answer)):
            if answer.scores[d] < floor:
                continue
            ious = box_iou(answer.boxes[d : d + 1].double(), target.boxes.double())[0].tolist()
            fits = [(iou, -g) for g, iou in enumerate(ious) if iou >= 0.5 and answer.labels[d] == target.labels[g]]
            fits = [one for one in fits if -one[1] not in taken]
            if fits:
                taken.add(-max(fits)[1])
        for g in range(len(target)):
            others = [h for h in range(len(target)) if h != g and target.labels[h] == target.labels[g]]
            most = max((float(box_iou(target.boxes[g : g + 1], target.boxes[h : h + 1])) for h in others), default=0)
            name = next((f"{high}" for high in (0.0, 0.2, 0.4, 0.6) if most <= high), "more")
            tally.setdefault(name, []).append(g in taken)
    rows = {"0.0": found["alone"], **{str(row["to"]): row for row in found["bins"]}}
    for name, row in rows.items():
        assert row["objects"] == len(tally[name]) > 2
        assert row["recall"] == pytest.approx(100 * np.mean(tally[name]))
    assert 0 < found["bins"][2]["recall"] < 100
    assert found["fall"] == found["bins"][0]["recall"] - found["bins"][2]["recall"] != 0
    assert tally["more"], "what overlaps by more is in no bin"


def test_no_objects_have_no_recall(refinedet: Subject) -> None:
    none = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    blind = replace(refinedet, model=Fixed([none], [none]))  # type: ignore[arg-type]
    found = placing.met_in_pairs(blind, open_dataset("shapes", "pairs"), 1)
    assert {row["recall"] for row in (found["alone"], *found["bins"])} <= {None, 0.0}
    assert found["fall"] is None


def test_a_sweep_is_of_those_that_learned_from_its_split(monkeypatch: pytest.MonkeyPatch) -> None:
    (usual,) = sweeps.subjects(("ssd300_vgg16",), ())
    assert not list(sweeps.subjects(("ssd300_vgg16",), (), "twins-train"))
    scene = replace(usual, variant={"split": "twins-train"})
    monkeypatch.setattr(sweeps, "load_subject", lambda *_: scene)
    assert list(sweeps.subjects(("ssd300_vgg16",), (), "twins-train")) == [scene]
    assert not list(sweeps.subjects(("ssd300_vgg16",), ()))


# RefineDet

# RefineDet


def test_the_first_step_against_what_the_network_learns(shapes: Dataset, refinedet: Subject) -> None:
    """The object of a matched anchor is where the offsets that it should learn lead."""
    model = network(refinedet)
    found = refining.first_step(refinedet, shapes, IMAGES)
    for chosen in ("tiled", "refined"):
        ious: tuple[list[float], list[float]] = ([], [])
        for index in range(IMAGES):
            image, target = shapes[index]
            with torch.inference_mode():
                batch = model.preprocess([image])
                sets = {"tiled": model.priors, "refined": model.refined(model.network(batch))[0]}
            there = replace(target, boxes=batch.frames[0].to_network(target.boxes))
            asked = model._assign(there, sets[chosen])
            objects = model.coder.decode(asked.offsets, sets[chosen])
            for anchor in (asked.classes > 0).nonzero()[:, 0].tolist():
                for rows, boxes in zip(ious, sets.values(), strict=True):
                    rows.append(float(box_iou(boxes[anchor][None], objects[anchor][None])))
        assert found[chosen]["anchors"] == len(ious[0])
        assert found[chosen]["before"] == pytest.approx(100 * np.mean(ious[0]), abs=1e-2)
        assert found[chosen]["after"] == pytest.approx(100 * np.mean(ious[1]), abs=1e-2)
        assert found[chosen]["rise"] == pytest.approx(found[chosen]["after"] - found[chosen]["before"])
        assert found[chosen]["interval"][0] < found[chosen]["rise"] < found[chosen]["interval"][1]


def still(model: RefineDet) -> None:
    assert model.arm is not None
    for parameter in model.arm.box.parameters():
        parameter.zero_()


def test_a_first_step_that_stands_still_raises_nothing(shapes: Dataset, refinedet: Subject) -> None:
    found = refining.first_step(changed(refinedet, still), shapes, IMAGES)
    for row in found.values():
        assert row["before"] == pytest.approx(found["tiled"]["before"])
        assert row["rise"] == pytest.approx(0, abs=1e-3)


def test_what_the_filter_drops_by_its_definition(shapes: Dataset, refinedet: Subject) -> None:
    model = network(refinedet)
    found = refining.filtered(refinedet, shapes, IMAGES)
    assert model.objectness == 0.01, "it is left as it was"
    nothing, tiled, refined = [], [], []
    for index in range(IMAGES):
        image, target = shapes[index]
        with torch.inference_mode():
            batch = model.preprocess([image])
            outputs = model.network(batch)
        boxes = batch.frames[0].to_network(target.boxes)
        assert outputs.arm is not None
        nothing.append(outputs.arm.logits[0].double().softmax(-1)[:, 0])
        tiled.append(box_iou(boxes, model.priors).amax(0) >= 0.5)
        refined.append(box_iou(boxes, model.refined(outputs)[0]).amax(0) >= 0.5)
    sure = torch.cat(nothing)
    for name, theta in (("0.9", 0.9), ("0.99", 0.99), ("0.999", 0.999), ("1", 1.1)):
        row = found["theta"][name]
        for group, chosen in (("anchors", torch.ones(len(sure), dtype=torch.bool)), ("tiled", torch.cat(tiled)),
                              ("refined", torch.cat(refined))):  # fmt: skip
            assert row[group] == pytest.approx(100 * float((sure[chosen] > theta).double().mean()), abs=1e-3), name
            assert found["counts"][group] == int(chosen.sum())
    assert found["theta"]["0.9"]["anchors"] > 50, "the case is no trivial one"
    assert found["theta"]["0.99"]["own_less"]["difference"] == 0
    gain = found["theta"]["0.9"]["own_less"]
    assert gain["difference"] == pytest.approx(found["theta"]["0.99"]["AP"] - found["theta"]["0.9"]["AP"])


def blind(model: RefineDet) -> None:
    """Says of every anchor the same."""
    for parameter in model.odm.logits.parameters():
        parameter.zero_()


def test_equal_networks_score_equally_and_a_blind_one_worse(shapes: Dataset, unfiltered: Subject) -> None:
    same = refining.rescored(unfiltered, shapes, IMAGES, unfiltered)
    assert same["swapped"]["gain"] == 0
    assert same["swapped"]["interval"] == [0, 0]
    assert {row["difference"] for row in same["rank"].values()} == {0}
    worse = refining.rescored(unfiltered, shapes, IMAGES, changed(unfiltered, blind))
    ap = worse["swapped"]["AP"]
    assert ap["refined"] == ap["tiled"], "the boxes of both are the same"
    assert worse["swapped"]["gain"] == pytest.approx(ap["refined"]["refined"] - ap["refined"]["tiled"])
    assert worse["swapped"]["gain"] > 20
    assert worse["rank"]["0"] == {"images": 0, "refined": None, "tiled": None, "difference": None, "interval": None}
    back = refining.rescored(changed(unfiltered, blind), shapes, IMAGES, unfiltered)
    assert back["swapped"]["gain"] == pytest.approx(-worse["swapped"]["gain"])


def ranks(values: Tensor) -> list[float]:
    """Place of each value, the mean place of equal ones."""
    listed = values.tolist()
    return [sum(other < one for other in listed) + (sum(other == one for other in listed) - 1) / 2 for one in listed]


def test_ranks_of_scores_against_loops(shapes: Dataset, unfiltered: Subject) -> None:
    tiled = shipped("refinedet320_vgg16_one_step")
    found = refining.rescored(unfiltered, shapes, 1, tiled)["rank"]["0.3"]
    image, target = shapes[0]
    for name, subject in (("refined", unfiltered), ("tiled", tiled)):
        model = network(subject)
        with torch.inference_mode():
            batch = model.preprocess([image])
            outputs = model.network(batch)
            boxes = model.coder.decode(outputs.odm.offsets, model.refined(outputs))[0]
        objects = batch.frames[0].to_network(target.boxes)
        near = box_iou(objects, model.priors).amax(0) > 0.3
        iou, which = box_iou(objects, boxes).max(0)
        scores = outputs.odm.logits[0].softmax(-1)
        own = torch.stack([scores[n, 1 + target.labels[which[n]]] for n in range(len(scores))])
        rank = float(np.corrcoef(ranks(iou[near]), ranks(own[near]))[0, 1])
        assert found[name] == pytest.approx(100 * rank, abs=0.1)
    assert found["difference"] == pytest.approx(found["refined"] - found["tiled"])


# Features


@pytest.mark.parametrize("name", ["ssd300_vgg16", "dssd321_r101", "refinedet320_vgg16_one_step"])
def test_features_are_what_the_finest_heads_read(name: str, shapes: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Means over a box: of a map that rises evenly each is what the map has in the middle of it."""
    subject = shipped(name)
    heads = network(subject).odm.logits if "refinedet" in name else subject.model.class_heads
    sizes: list[tuple[int, ...]] = []
    monkeypatch.setattr(heads[0], "forward", lambda read, own=heads[0].forward: sizes.append(read.shape) or own(read))
    features, labels = probing._objects(subject, shapes, 3)
    targets = [shapes[index][1] for index in range(3)]
    sides = [target.boxes[:, 2:] - target.boxes[:, :2] for target in targets]
    small = [(side[:, 0] * side[:, 1] < 32**2) & ~target.ignore for side, target in zip(sides, targets, strict=True)]
    assert labels.tolist() == [
        label for one, at in zip(targets, small, strict=True) for label in one.labels[at].tolist()
    ]
    assert features.shape == (len(labels), sizes[0][1])
    assert sizes[0][-1] == max(size[-1] for size in sizes), "the finest map"
    assert not heads[0]._forward_pre_hooks, "nothing is left behind"

    def even(read: Tensor) -> None:
        x = torch.arange(read.shape[-1]) + 0.5
        read.copy_((x + 100 * x[:, None])[None, None].expand_as(read))

    with heads[0].register_forward_pre_hook(lambda _, inputs: even(inputs[0]), prepend=True):
        features, _ = probing._objects(subject, shapes, 3)
    inside = torch.cat([target.boxes[at] for target, at in zip(targets, small, strict=True)])
    scale = sizes[0][-1] / 160
    middles = (inside[:, :2] + inside[:, 2:]) / 2 * scale
    far = ((inside * scale > 1) & (inside * scale < sizes[0][-1] - 1)).all(1)
    assert far.sum() > 3
    expected = middles[:, 0] + 100 * middles[:, 1]
    assert features[far.numpy(), 0] == pytest.approx(expected[far].numpy(), abs=0.05)


def test_a_classifier_tells_what_features_hold(shapes: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = np.random.default_rng(0)

    def planted_features(_: Any, dataset: Dataset, images: int) -> Any:
        labels = chance.integers(0, 8, 400)
        told = np.eye(8)[labels] if known else np.zeros((400, 8))
        return (told + 0.1 * chance.normal(size=(400, 8))).astype(np.float32), labels

    monkeypatch.setattr(probing, "_objects", planted_features)
    known = True
    found = probing.told_apart(shipped("ssd300_vgg16"), shapes, 300)
    assert found["accuracy"] == 100
    known = False
    found = probing.told_apart(shipped("ssd300_vgg16"), shapes, 300)
    assert found["accuracy"] < 25
    assert 12.5 <= found["commonest"] < 20


# Partners, intervals


def test_a_partner_has_the_same_seed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    subject = shipped("refinedet320_vgg16_unfiltered")
    name = "refinedet320_vgg16_one_step"
    assert subject.seed == 0
    partner = sweeps.partner_of(subject, name, ())
    assert partner is not None
    assert (partner.name, partner.seed) == (name, 0)
    assert sweeps.partner_of(replace(subject, seed=7), name, ()) is None
    assert sweeps.partner_of(replace(subject, variant={"lr": 0.1}), name, ()) is None
    claim = "anchor-free-or-refined-alignment"
    (path,) = measure([claim], images=1, out=tmp_path)
    assert f'"file": "{partner.weights.name}"' in path.read_text()
    monkeypatch.setattr("benchmarks.claims.measure.partner_of", lambda *_: None)
    assert measure([claim], images=1, anew=True, out=tmp_path) == []
    assert "--checkpoint" in capsys.readouterr().err


def test_a_difference_of_means_and_its_interval() -> None:
    chance = np.random.default_rng(4)
    count = chance.integers(0, 9, 60).astype(float)
    first = np.stack([count * chance.normal(80, 5, 60), count], 1)
    shifted = first + np.stack([5 * count, 0 * count], 1)
    difference, ends = means_apart(shifted, first)
    assert (difference, *(ends or ())) == pytest.approx((5, 5, 5)), "what comes to both cancels"
    other = np.stack([4 * chance.normal(70, 5, 60), np.full(60, 4.0)], 1)
    difference, ends = means_apart(first, other)
    assert difference == pytest.approx(first[:, 0].sum() / count.sum() - other[:, 0].mean() / 4)
    assert ends is not None
    slow = []
    for _ in range(2_000):
        rows = chance.integers(60, size=60)
        slow.append(first[rows, 0].sum() / first[rows, 1].sum() - other[rows, 0].sum() / other[rows, 1].sum())
    assert ends == pytest.approx(np.percentile(slow, [2.5, 97.5]), abs=0.15 * float(np.std(slow)) + 0.2)
    assert means_apart(0 * first, other)[1] is None, "of nothing there is no mean"
