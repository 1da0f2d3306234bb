from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.evaluate import Subject, evaluate
from benchmarks.multiscale import PROTOCOLS, MultiScale, Protocol, Scale, Voting, protocol_named
from benchmarks.papers import read_tables
from benchmarks.results import Record, RecordError
from ops.structures import Detections, Target
from ops.voting import classwise_voting
from reports.records import Entry, Shelf
from reports.render import render
from tests.contract import assert_is_detections, toy_images
from tests.reports.samples import metrics, record
from zoo import build
from zoo.detector import Detector


class Looker(Detector):
    """Sees one white pixel block on black, at its place in the image, and notes the input that it saw it with.

    Its box is too wide by a tenth of the network's pixels, so that scales differ.
    """

    def __init__(self, size: int | tuple[int, int] = 100, allowed: tuple[int, ...] | None = None) -> None:
        super().__init__(3)
        self.size: int | tuple[int, int] = size
        self.allowed = allowed
        self.looks: list[tuple[int | tuple[int, int], int]] = []

    def resize(self, size: int | tuple[int, int]) -> None:
        self.size = size
        if self.allowed is not None and size not in self.allowed:
            raise ValueError(f"{size} is none of {self.allowed}")

    def forward(self, images: list[Tensor], targets: list[Target] | None = None) -> list[Detections]:
        self.looks.append((self.size, len(images)))
        answers = []
        for image in images:
            rows, columns = (image[0] > 0.5).nonzero(as_tuple=True)
            side = self.size if isinstance(self.size, int) else self.size[1]
            box = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
            box[2] += side / 10
            answers.append(Detections(box[None], torch.tensor([side / 2000]), torch.tensor([1])))
        return answers


def image(height: int = 400, width: int = 600, box: tuple[int, int, int, int] = (100, 50, 200, 250)) -> Tensor:
    pixels = torch.zeros(3, height, width)
    pixels[:, box[1] : box[3], box[0] : box[2]] = 1
    return pixels


def looks(protocol: str | Protocol, pixels: Tensor, size: int | tuple[int, int] = 100) -> list[int | tuple[int, int]]:
    looker = Looker(size)
    MultiScale(looker, PROTOCOLS[protocol] if isinstance(protocol, str) else protocol)([pixels])
    assert looker.looks[::2] == looker.looks[1::2], "each scale looks at the image and at its mirror image"
    return [seen for seen, _ in looker.looks[::2]]


def test_the_official_scales() -> None:
    """Sides and factors as the tester of the authors has them, cut to whole pixels as there."""
    of_320 = [(1.0, "-"), (0.6, ">32"), (1.2, "<160"), (1.4, "<128"), (1.6, "<96"), (1.8, "<64"), (2.2, "<32")]
    of_512 = [(1.0, "-"), (0.5, "-"), (0.75, "-"), (1.75, "<128"), (1.5, "<192")]
    more_320 = [(2.0, "<48")]
    more_512 = [(1.25, "<224"), (2.0, "<96"), (2.25, "<64")]
    for name, side, short, rows in (
        ("refinedet320_voc", 320, 0.6, of_320),
        ("refinedet320_coco", 320, 0.6, of_320 + more_320),
        ("refinedet512_voc", 512, 0.75, of_512),
        ("refinedet512_coco", 512, 0.75, of_512 + more_512),
    ):
        protocol = PROTOCOLS[name]
        assert protocol.flip
        wanted = {(int(factor * side), rule) for factor, rule in rows}
        wanted.add(((int(short * side), side), "-"))  # type: ignore[arg-type]
        assert {(scale.size, rule(scale)) for scale in protocol.scales} == wanted
        assert len(protocol.scales) == len(wanted)
        assert protocol.merge == Voting(0.45, 0.01 if name.endswith("coco") else None, 1.0)


def rule(scale: Scale) -> str:
    if scale.longest_over is not None:
        assert scale.shortest_under is None
        return f">{scale.longest_over}"
    return "-" if scale.shortest_under is None else f"<{scale.shortest_under}"


def test_the_shorter_side_of_the_image_gets_the_shorter_side_of_the_input() -> None:
    wide, tall, square = image(400, 600), image(600, 400), image(400, 400)
    assert looks("refinedet320_voc", wide)[1] == (192, 320)
    assert looks("refinedet320_voc", tall)[1] == (320, 192)
    assert looks("refinedet512_voc", square)[1] == (512, 384), "as the authors' code: only a lesser height is shorter"


def test_factors_are_of_the_detectors_own_input_and_to_multiples_of_32() -> None:
    assert looks("relative", image(), 160) == [96, 160, 224]
    assert looks("relative", image(), (160, 160)) == [(96, 96), (160, 160), (224, 224)]
    assert looks("relative", image(), 300) == [192, 300, 416], "the own input stays, whatever it is"
    assert looks("relative", image(), (320, 640)) == [(192, 384), (320, 640), (448, 896)]
    assert looks("enlarged", image(), 160) == [160, 192, 224]
    assert looks(Protocol("tiny", (Scale(factor=0.01),)), image(), 160) == [32]


def test_boxes_count_by_their_sides_on_the_original_image_with_both_borders() -> None:
    boxes = torch.tensor([[0.0, 0, 31, 9], [0, 0, 31.5, 9], [0, 0, 9, 32], [50, 50, 150, 80]])
    assert Scale(192, longest_over=32).counts(boxes).tolist() == [False, True, True, True]
    assert Scale(192, shortest_under=31).counts(boxes).tolist() == [True, True, True, False]
    assert Scale(192, shortest_under=10).counts(boxes).tolist() == [False] * 4
    assert Scale(192, shortest_under=32, longest_over=100).counts(boxes).tolist() == [False, False, False, True]
    assert Scale(192).counts(boxes).tolist() == [True] * 4


def test_mirrored_boxes_come_back() -> None:
    """At 100, the box is 10 too long: to the right, and in the mirror image to the left."""
    once = Protocol("once", (Scale(100),), merge=Voting(iou=0.999))
    (found,) = MultiScale(Looker(100), once)([image()])
    assert sorted(found.boxes.tolist()) == [[90, 50, 200, 250], [100, 50, 210, 250]]
    (found,) = MultiScale(Looker(100), Protocol("once", (Scale(100),), flip=False))([image()])
    assert found.boxes.tolist() == [[100, 50, 210, 250]]
    (found,) = MultiScale(Looker(100), Protocol("once", (Scale(100),)))([image()])
    assert found.boxes.tolist() == [[95, 50, 205, 250]], "by default they vote, here with equal scores"


def test_scales_are_filtered_and_voted_as_by_hand() -> None:
    """The block is 100 wide; 320 sees 132, 640 sees 164, whose shorter side with both borders is 165."""
    for under, sizes in ((165, (320,)), (166, (320, 640))):
        protocol = Protocol("two", (Scale(320), Scale(640, shortest_under=under)))
        (found,) = MultiScale(Looker(320), protocol)([image()])
        parts = []
        for size in sizes:
            for left, right in ((100.0, 200 + size / 10), (100 - size / 10, 200.0)):
                parts.append(((left, 50.0, right, 250.0), size / 2000))
        boxes, scores = (torch.tensor(column) for column in zip(*parts, strict=True))
        wanted = classwise_voting(Detections(boxes, scores, torch.ones(len(parts), dtype=torch.int64)), extent=1.0)
        torch.testing.assert_close(found.boxes, wanted.boxes)
        torch.testing.assert_close(found.scores, wanted.scores)
        assert found.labels.tolist() == wanted.labels.tolist() == [1] * len(found)


def test_images_of_one_call_do_not_mix() -> None:
    images = [image(400, 600), image(600, 400, (10, 20, 60, 90)), image(300, 500, (5, 5, 50, 80))]
    model = MultiScale(Looker(320), PROTOCOLS["refinedet320_coco"])
    together = model(images)
    for alone, found in zip((model([pixels])[0] for pixels in images), together, strict=True):
        assert torch.equal(alone.boxes, found.boxes)
        assert torch.equal(alone.scores, found.scores)


def test_the_own_size_is_back_after_each_call_and_after_errors() -> None:
    looker = Looker((100, 120))
    model = MultiScale(looker, PROTOCOLS["refinedet512_coco"])
    assert looker.size == (100, 120), "trying the scales changes nothing"
    assert looker.looks == []
    model([image()])
    assert looker.size == (100, 120)

    def fail(images: list[Tensor]) -> None:
        raise RuntimeError("out of memory")

    looker.forward = fail  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match="out of memory"):
        model([image()])
    assert looker.size == (100, 120)


def test_a_detector_that_does_not_take_the_inputs_is_one_clear_error_before_the_first_image() -> None:
    looker = Looker(320, allowed=(320, 192))
    with pytest.raises(ValueError, match=r"relative needs an input of 448x448, .* of 320x320 refuses: 448 is none"):
        MultiScale(looker, PROTOCOLS["relative"])


class Fixed(Detector):
    size = (64, 64)


def test_a_detector_of_one_size_is_one_clear_error() -> None:
    with pytest.raises(
        ValueError, match=r"relative needs an input of 32x32, .* refuses: Fixed cannot change its input"
    ):
        MultiScale(Fixed(3), PROTOCOLS["relative"])
    with pytest.raises(ValueError, match="Detector has no input of one size"):
        MultiScale(Detector(3), PROTOCOLS["relative"])
    with pytest.raises(ValueError, match="only detects"):
        MultiScale(Looker(), PROTOCOLS["relative"])([image()], [Target(torch.zeros(0, 4), torch.zeros(0).long())])


def test_bad_protocols_are_refused() -> None:
    with pytest.raises(ValueError, match="'huge' is unknown; choose one of refinedet320_voc, "):
        protocol_named("huge")
    with pytest.raises(ValueError, match="a size or a factor"):
        Scale()
    with pytest.raises(ValueError, match="a size or a factor"):
        Scale(320, factor=1.0)


@pytest.fixture(scope="module")
def ssd() -> Detector:
    torch.manual_seed(0)
    return build("ssd300_vgg16", 3, small=True, score_floor=0.2).eval()


def test_one_scale_without_flip_and_votes_is_the_detector_itself(ssd: Detector) -> None:
    plain = Protocol("plain", (Scale(factor=1.0),), flip=False, merge=Voting(iou=1.01))
    images = toy_images()
    with torch.inference_mode():
        wanted, got = ssd(images), MultiScale(ssd, plain)(images)
    for answers in zip(wanted, got, strict=True):
        rows = [torch.cat([a.boxes, a.scores[:, None], a.labels[:, None]], 1).tolist() for a in answers]
        assert len(rows[0]) > 20
        assert sorted(rows[0]) == sorted(rows[1])


def test_a_real_detector_under_every_protocol_that_fits(ssd: Detector) -> None:
    images = toy_images()
    before, priors = ssd.size, ssd.priors.clone()  # type: ignore[operator]
    with torch.inference_mode():
        for answer, pixels in zip(MultiScale(ssd, PROTOCOLS["relative"])(images), images, strict=True):
            assert_is_detections(answer, pixels, 3)
            assert len(answer) > 10
    assert ssd.size == before
    assert torch.equal(ssd.priors, priors)  # type: ignore[arg-type]
    targets = [Target(torch.tensor([[10.0, 10, 60, 60]]), torch.tensor([1]))] * 2
    sum(ssd(images, targets).values()).backward()
    assert all(parameter.grad is not None for parameter in ssd.parameters()), "it can be trained on"


@pytest.mark.parametrize("name", ["retinanet_r50_fpn", "ron320_vgg16", "refinedet320_vgg16", "yolov2", "yolov3"])
def test_detectors_of_other_kinds_look_thrice_and_are_as_before(name: str) -> None:
    torch.manual_seed(0)
    model = build(name, 3, small=True).eval()
    images = toy_images()
    with torch.inference_mode():
        before = model(images)
        for answer, pixels in zip(MultiScale(model, PROTOCOLS["relative"])(images), images, strict=True):
            assert_is_detections(answer, pixels, 3)
        after = model(images)
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a.boxes, b.boxes)
        assert torch.equal(a.scores, b.scores)


def test_what_a_record_says() -> None:
    described = PROTOCOLS["refinedet320_coco"].describe()
    assert described["name"] == "refinedet320_coco"
    assert described["flip"] is True
    assert described["merge"] == {"iou": 0.45, "floor": 0.01, "extent": 1.0}
    assert described["scales"][1] == {"size": (192, 320)}
    assert described["scales"][2] == {"size": 192, "longest_over": 32}
    assert len(described["scales"]) == 9


class TwoImages:
    """Two images with a block each, as a dataset."""

    name, split, fingerprint, num_objects = "blocks", "test", "ab" * 24, 2
    class_names, category_ids, image_ids = ("a", "b", "c"), (1, 2, 3), (5, 9)
    boxes = ((100, 50, 200, 250), (30, 40, 90, 100))

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        box = self.boxes[index]
        return image(400, 600, box), Target(torch.tensor([box]).float(), torch.tensor([1]))

    def coco(self) -> dict[str, object]:
        rows = [
            {"id": n, "image_id": i, "category_id": 2, "bbox": [x, y, x2 - x, y2 - y], "area": 1.0, "iscrowd": 0}
            for n, (i, (x, y, x2, y2)) in enumerate(zip(self.image_ids, self.boxes, strict=True), 1)
        ]
        categories = [{"id": i, "name": name} for i, name in zip(self.category_ids, self.class_names, strict=True)]
        return {
            "images": [{"id": i, "height": 400, "width": 600} for i in self.image_ids],
            "categories": categories,
            "annotations": rows,
        }


def test_evaluation_says_so_in_the_record_and_in_its_name(tmp_path: Path) -> None:
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"weights")
    looker = Looker(100)
    subject = Subject("ssd300_vgg16", looker, "small", {}, None, weights)
    plain = evaluate(subject, TwoImages(), out=tmp_path, quiet=True)  # type: ignore[arg-type]
    assert len(looker.looks) == 2
    several = evaluate(subject, TwoImages(), multi_scale="relative", out=tmp_path, quiet=True)  # type: ignore[arg-type]
    assert len(looker.looks) == 2 + 2 * 6
    assert (plain.multi_scale, several.multi_scale) == (None, "relative")
    assert "multi_scale" not in plain.protocol
    assert several.protocol["multi_scale"] == json.loads(json.dumps(PROTOCOLS["relative"].describe()))
    assert several.name == f"{plain.name}.relative"
    assert Record.read(tmp_path / f"{plain.name}.json") == plain
    assert Record.read(tmp_path / f"{several.name}.json") == several
    with pytest.raises(ValueError, match="'huge' is unknown"):
        evaluate(subject, TwoImages(), multi_scale="huge", quiet=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("content", ["relative", {}, {"name": 3}])
def test_a_record_that_names_no_protocol_is_refused(content: object, tmp_path: Path) -> None:
    path = record("accuracy").write(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"protocol": {"multi_scale": content}}))
    with pytest.raises(RecordError, match=r"protocol: .*names no protocol; delete the file and measure again"):
        Record.read(path)


def test_pages_keep_both_apart() -> None:
    """The plain one alone is compared with papers, timed, costed and plotted; the other has its own row, marked +."""
    made = [
        record("accuracy", metrics=metrics(0.45)),
        record("accuracy", metrics=metrics(0.4871), protocol={"multi_scale": {"name": "relative"}}),
        record("accuracy", "yolov3", metrics=metrics(0.40)),
        record("latency"),
        record("latency", "yolov3"),
        record("cost"),
    ]
    entries = [Entry(r, Path(f"m/{r.name}.json"), f"m/{r.name}.json") for r in made]
    plain, several = entries[:2]
    shelf = Shelf(entries)
    assert shelf.multi_scale == (several,)
    assert plain in shelf.accuracies
    assert several not in (*shelf.accuracies, *shelf.trainings)
    assert shelf.cost(plain) is not None
    assert shelf.cost(several) is None
    assert shelf.latencies(plain)
    assert not shelf.latencies(several)
    page = render(entries, read_tables())["tables.md"]
    lines = [line for line in page.splitlines() if "48.7" in line]
    assert len(lines) == 1
    assert lines[0].startswith("| ssd300_vgg16+ relative |")
    assert "+ is multi-scale testing, by relative" in page


def test_the_command_line_knows_the_protocols(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["evaluate", "yolov3", "--out", str(tmp_path / "x"), "--multi-scale", "huge"])
    assert done.exit_code == 2
    assert done.stderr.startswith("error: multi-scale protocol 'huge' is unknown; choose one of refinedet320_voc")
    assert not (tmp_path / "x").exists()
    done = CliRunner().invoke(app, ["evaluate", "yolov1", "--out", str(tmp_path / "x"), "--multi-scale", "relative"])
    assert done.exit_code == 2
    assert "needs an input of 96x96, which this detector of 160x160 refuses" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "x").exists()
