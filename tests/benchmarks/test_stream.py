"""Scoring in parts: the numbers of the way through memory, whatever the parts, and nothing left on the disk."""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.metrics import ScoreError, load_detections, load_ground_truth, score, stream
from benchmarks.metrics.pieces import list_of_file, lists_of_object, pieces
from benchmarks.metrics.spill import Spill
from benchmarks.metrics.stream import Limits, stream_score
from benchmarks.score import bytes_of, run_score

Json = dict[str, Any]


def example(seed: int, images: int = 12, classes: int = 3, spread: int = 5) -> tuple[Json, list[Json]]:
    """Few scores and few boxes, so that ties abound; crowds, difficult objects, strangers, images out of order."""
    chance = random.Random(seed)
    ids = [7 * i + 2 for i in range(images)]
    chance.shuffle(ids)

    def box() -> list[float]:
        return [chance.choice((0, 10, 40)), chance.choice((0.5, 20, 100)), chance.choice((20, 33, 150)), 30.25]

    gt = {
        "info": {"a [list] in \"text\" \\": [[1, {"b": 2}]]},
        "images": [{"id": i, "width": 200, "height": 200, "file_name": f"{i}.jpg"} for i in ids],
        "categories": [{"id": 3 * k + 1, "name": f"class {k}"} for k in range(classes)],
        "annotations": [
            {
                "id": n,
                "image_id": chance.choice(ids),
                "category_id": 3 * chance.randrange(classes) + 1,
                "bbox": box(),
                "area": chance.choice((100, 1024, 5000, 20000.5)),
                "iscrowd": int(chance.random() < 0.1),
                "difficult": int(chance.random() < 0.1),
            }
            for n in range(images * 4)
        ],
    }  # fmt: skip
    detections = [
        {
            "image_id": chance.choice(ids),
            "category_id": 3 * chance.randrange(classes + (chance.random() < 0.1)) + 1,
            "bbox": box(),
            "score": chance.randrange(spread) / spread,
        }
        for _ in range(images * 40)
    ]
    return gt, detections


def write(folder: Path, gt: Json, *shards: list[Json], indent: int | None = None) -> tuple[Path, list[Path]]:
    truth = folder / "gt.json"
    truth.write_text(json.dumps(gt, indent=indent))
    files = []
    for n, shard in enumerate(shards):
        files.append(folder / f"part-{n}.json")
        files[-1].write_text(json.dumps(shard, indent=indent))
    return truth, files


def parts(truth: Path, files: list[Path], rows: int = 10_000, window: int = 1 << 16, **more: Any) -> dict[str, Any]:
    return stream_score(truth, files, memory=1, limits=Limits(rows, window), **more)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("rows", "window"), [(10_000, 1 << 16), (40, 300), (7, 5_000), (1, 20_000)])
def test_parts_of_any_size_give_the_same_numbers_to_the_bit(tmp_path: Path, seed: int, rows: int, window: int) -> None:
    gt, detections = example(seed, spread=(2, 5, 1000, 1)[seed])
    truth, files = write(tmp_path, gt, detections, indent=(None, 1)[seed % 2])
    expected = score(gt, json.loads(files[0].read_text()))
    assert expected["notes"]
    assert expected["stats"]["AP"] > 0
    assert parts(truth, files, rows, window) == expected


def test_a_class_with_more_detections_than_fit_is_walked_in_lots(tmp_path: Path, monkeypatch: Any) -> None:
    """More than 100 of a class in an image too, so that the cap is met; scores differ, or half of them are equal."""
    gt, detections = example(1, images=2, classes=1)
    chance = random.Random(0)
    for n, detection in enumerate(detections := detections * 5):
        detections[n] = {**detection, "score": 0.5 if chance.random() < 0.5 else chance.random()}
    truth, files = write(tmp_path, gt, detections)
    expected = score(gt, detections)
    lots: list[int] = []
    plain = stream.Tally.add
    monkeypatch.setattr(stream.Tally, "add", lambda self, rows, *a: (lots.append(len(rows)), plain(self, rows, *a))[1])
    assert parts(truth, files, 30) == expected
    assert max(lots) <= 30
    assert sum(lots) > 300


def test_several_files_are_one_list(tmp_path: Path) -> None:
    gt, detections = example(5)
    cut = len(detections) // 3
    truth, files = write(tmp_path, gt, detections[:cut], [], detections[cut : cut + 1], detections[cut + 1 :])
    found, expected = parts(truth, files, 50, 999), score(gt, detections)
    for note in (*found["notes"], *expected["notes"]):
        note["message"] = note["message"].split("first: ")[0]
    assert found == expected


def test_order_of_files_breaks_ties(tmp_path: Path) -> None:
    """Of two equal scores the first in the files counts, so that the files must not change places."""
    gt, _ = example(0, images=1, classes=1)
    box = gt["annotations"][0]["bbox"]
    gt["annotations"] = [{**gt["annotations"][0], "iscrowd": 0}]
    good = {"image_id": 2, "category_id": 1, "bbox": box, "score": 0.5}
    bad = {**good, "bbox": [0, 150, 5, 5]}
    truth, files = write(tmp_path, gt, [good], [bad])
    assert parts(truth, files)["stats"]["AP50"] == pytest.approx(1)
    assert parts(truth, files[::-1])["stats"]["AP50"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("gt", "detections"),
    [
        ({"images": [], "categories": [], "annotations": []}, []),
        ({**example(0)[0], "annotations": []}, example(0)[1]),
        (example(0)[0], []),
    ],
)
def test_nothing_there(tmp_path: Path, gt: Json, detections: list[Json]) -> None:
    truth, files = write(tmp_path, gt, detections)
    assert parts(truth, files) == score(gt, detections)


def test_ids_and_entries_of_unusual_shape(tmp_path: Path) -> None:
    """Ids that are text, keys with escapes, masks beside boxes: read by the slower way."""
    gt, detections = example(3)
    for entry in gt["images"]:
        entry["id"] = f'a/{entry["id"]}"}}]'
    for entry in (*gt["annotations"], *detections):
        entry["image_id"] = f'a/{entry["image_id"]}"}}]'
        entry["id"] = f"n{entry.get('id')}"
    for entry in detections[::7]:
        entry["segmentation"] = {"size": [2, 2], "counts": '}]\\"'}
    truth, files = write(tmp_path, gt, detections)
    found, expected = parts(truth, files, 30, 500), score(gt, detections)
    note = found["notes"].pop()
    assert found == expected
    assert note["kind"] == "masks_left_out"
    assert "part-0.json are not scored" in note["message"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace('"score": 0.75', '"score": NaN', 1), r"part-0\.json: entry 300: score is nan"),
        (lambda text: text.replace("0.75", '"high"', 1), r"part-0\.json: entry 300: score is 'high'"),
        (lambda text: text.replace("0.75}", "0.75", 1), r"part-0\.json: "),
        (lambda text: text.replace("0.75},", "0.75}", 1), r"part-0\.json: entry 301 \(byte \d+\)"),
        (lambda text: text.replace("0.75}", "0,75}", 1), r"part-0\.json: entry 300 \(byte \d+\): .*not valid JSON"),
        (lambda text: text.replace("0.75}", "0.75}]", 1), r"part-0\.json: entry 301 \(byte \d+\): .*not valid JSON"),
        (lambda text: text[:-40], r"part-0\.json: byte \d+: the list does not end, .*truncated"),
        (lambda text: text[:-1] + ",]", r"part-0\.json: entry 480 \(byte \d+\): .*not valid JSON"),
        (lambda text: '{"a": 1}', r"part-0\.json: holds an object where COCO's results JSON"),
        (lambda text: " ", r"part-0\.json: the file is empty"),
    ],
)
@pytest.mark.parametrize("window", [400, 1 << 16])
def test_a_broken_entry_is_named(tmp_path: Path, change: Any, message: str, window: int) -> None:
    gt, detections = example(2)
    detections[300]["score"] = 0.75
    truth, files = write(tmp_path, gt, detections)
    files[0].write_text(change(files[0].read_text()))
    with pytest.raises(ScoreError, match=message):
        parts(truth, files, 50, window)
    with pytest.raises(ScoreError):
        load_detections(files[0], load_ground_truth(truth))


@pytest.mark.parametrize("window", [400, 1 << 16])
def test_a_box_beyond_any_image_is_named_by_its_place_in_the_file(tmp_path: Path, window: int) -> None:
    gt, detections = example(2)
    detections[300]["bbox"][0] = 1e200
    truth, files = write(tmp_path, gt, detections)
    with pytest.raises(ScoreError, match=r"part-0\.json: entry 300: bbox is .* beyond any image"):
        parts(truth, files, 50, window)


def test_broken_ground_truth_is_named(tmp_path: Path) -> None:
    gt, detections = example(2)

    def refused(message: str, **changes: Any) -> None:
        truth, files = write(tmp_path, {**gt, **changes}, detections)
        with pytest.raises(ScoreError, match=message):
            parts(truth, files, 50, 400)
        with pytest.raises(ScoreError):
            load_ground_truth(truth)

    annotations, images = gt["annotations"], gt["images"]
    refused(r"gt\.json: annotations: id 3 is that of two", annotations=[*annotations, annotations[3]])
    refused(r"gt\.json: images: id \d+ is that of two", images=[*images, images[0]])
    refused(r"gt\.json: annotations\[48\]: image_id 1 is not", annotations=[*annotations, {**annotations[0], "id": 99, "image_id": 1}])  # fmt: skip  # noqa: E501
    refused(r"gt\.json: annotations\[48\]: has no 'bbox'", annotations=[*annotations, {"id": 99, "image_id": 2, "category_id": 1}])  # fmt: skip  # noqa: E501
    refused(r"gt\.json: has no list 'categories'", categories=5)
    refused(r"gt\.json: images\[12\]: has no 'id'", images=[*images, {}])
    truth, files = write(tmp_path, gt, detections)
    truth.write_text(truth.read_text()[:-3])
    with pytest.raises(ScoreError, match=r"gt\.json: byte \d+: the object does not end"):
        parts(truth, files)
    with pytest.raises(ScoreError, match=r"part-0\.json: holds a list .*swapped"):
        parts(files[0], [truth])


def test_an_entry_without_end_is_not_believed(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("benchmarks.metrics.pieces.LONGEST", 2_000)
    path = tmp_path / "long.json"
    path.write_text("[" + '{"a":' * 5_000 + "]")
    with pytest.raises(ScoreError, match=r"long\.json: entry 0 \(byte 1\) does not end within 2000 bytes"):
        list(pieces(path, *list_of_file(path), 100))


@pytest.mark.parametrize("window", [1, 7, 64, 1 << 12])
def test_pieces_are_the_elements_whatever_the_window(tmp_path: Path, window: int) -> None:
    path = tmp_path / "odd.json"
    value = {"x": [{"a": '}],{"'}, {"b": [[], [1, {"c": "\\"}]]}, {}, [1]], "y": [], 'k"\\': [{}], "z": "[1]"}
    path.write_text(" \n" + json.dumps(value, indent=1) + "\n\n")
    lists = lists_of_object(path, window)
    assert set(lists) == {"x", "y", 'k"\\'}
    for key, bounds in lists.items():
        found = list(pieces(path, *bounds, window))
        assert [one for piece in found for one in json.loads(piece.text[:-1].tobytes())] == value[key]
        assert [piece.first for piece in found] == sorted({piece.first for piece in found})
        assert bounds[0] <= found[0].begin <= found[-1].end <= bounds[1]


def test_a_spill_keeps_the_order_and_leaves_nothing(tmp_path: Path) -> None:
    kind = np.dtype([("a", "i8"), ("b", "u1")])
    rows = np.zeros(100, dtype=kind)
    rows["a"] = np.arange(100)
    with Spill(kind, 300, tmp_path) as spill:
        for lot in np.split(rows, 10):
            spill.scatter(lot["a"] % 3 * 120, lot)
        assert [list(spill.read(part)["a"]) for part in (0, 120, 240, 5)] == [
            *(list(range(start, 100, 3)) for start in range(3)),
            [],
        ]
        assert max(len(lot) for lot in spill.pieces(0, 3)) == 3
        assert np.array_equal(np.concatenate(list(spill.pieces(120, 3))), spill.read(120))
        assert not list(tmp_path.iterdir()), "the file has no name"


def test_nothing_is_left_after_an_exception(tmp_path: Path, monkeypatch: Any) -> None:
    gt, detections = example(2)
    truth, files = write(tmp_path, gt, detections)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    opened: list[Any] = []
    plain = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **kw: (opened.append(plain(**kw)), opened[-1])[1])
    monkeypatch.setattr(stream, "match", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        parts(truth, files, 20, 400, folder=scratch)
    assert opened
    assert all(file.closed for file in opened)
    assert not list(scratch.iterdir())


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: Any) -> None:
    gt, detections = example(2)
    truth, files = write(tmp_path, gt, detections)

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(ScoreError, match=r"cannot hold temporary files \(No space left on device.*TMPDIR"):
        parts(truth, files)


def test_memory_is_kept_or_refused(tmp_path: Path) -> None:
    gt, detections = example(2)
    truth, files = write(tmp_path, gt, detections)
    with pytest.raises(ScoreError, match=r"--memory 1M: the program and the images take \d+ MB"):
        stream_score(truth, files, memory=10**6)
    assert [bytes_of(text) for text in ("2G", "1.5 GB", "500M", "7", "3kB")] == [
        2 * 10**9,
        15 * 10**8,
        5 * 10**8,
        7,
        3000,
    ]
    for text in ("", "2 X", "-1G", "G"):
        with pytest.raises(ScoreError, match="write a size such as 2G"):
            bytes_of(text)


def test_the_command_scores_in_parts_where_it_is_told_to_or_must(tmp_path: Path, monkeypatch: Any) -> None:
    gt, detections = example(2)
    truth, files = write(tmp_path, gt, detections)
    asked = ["score", "--gt", str(truth), "--json", str(tmp_path / "out.json"), "--detections"]
    runs = {}
    for name, more in {"at once": [files[0]], "in parts": [files[0], "--memory", "20G"], "folder": [tmp_path]}.items():
        if name == "folder":
            (tmp_path / "out.json").unlink()
            truth.rename(tmp_path / "gt.truth")
            asked[2] = str(tmp_path / "gt.truth")
        result = CliRunner().invoke(app, [*asked, *map(str, more)])
        assert result.exit_code == 0, result.output
        runs[name] = json.loads((tmp_path / "out.json").read_text())
    assert runs["at once"] == runs["in parts"] == runs["folder"]
    (tmp_path / "out.json").unlink()
    for more, message in {
        ("--intervals", "200"): "resamples need all detections at once",
        ("--record", "name"): "--record: keeps a copy",
    }.items():
        result = CliRunner().invoke(app, [*asked, str(files[0]), "--memory", "20G", *more])
        assert result.exit_code == 2
        assert message in result.output
    free = type("Memory", (), {"available": 10})
    monkeypatch.setattr("psutil.virtual_memory", lambda: free)
    with pytest.raises(ScoreError, match="--memory 0M"):
        run_score(tmp_path / "gt.truth", files[0])
