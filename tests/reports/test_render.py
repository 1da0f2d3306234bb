from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest

from benchmarks.papers import Table, read_tables
from benchmarks.results import Hardware, Record, Weights
from reports.records import NOT_MEASURED, Entry, ReportError
from reports.render import render
from reports.verify import stale
from tests.reports.samples import COCO_197, SHAPES, collection, metrics, record, samples, weights

ROOT = Path(__file__).resolve().parents[2]
TABLES = read_tables()


def entries(records: Sequence[Record], *, own: bool = False) -> list[Entry]:
    folder = "own" if own else "cpu-2core"
    return [Entry(made, Path(f"{folder}/{made.name}.json"), f"{folder}/{made.name}.json", own) for made in records]


def section(page: str, title: str) -> str:
    """What stands under a heading of the Markdown page, up to the next of its level."""
    found = re.search(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", page, re.M | re.S)
    assert found, f"no section {title!r}"
    return found[1]


def grids(text: str) -> list[list[dict[str, str]]]:
    """Every Markdown table of a text, its rows by heading."""
    found = []
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.M):
        lines = [
            [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip()[1:-1])] for line in block.strip().split("\n")
        ]
        assert all(len(line) == len(lines[0]) for line in lines)
        found.append([dict(zip(lines[0], line, strict=True)) for line in lines[2:]])
    return found


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return render(entries(collection()), TABLES)


def test_pages_are_complete_without_a_single_record() -> None:
    page = render([], TABLES)["tables.md"]
    assert "there is no Record" in section(page, "Small detectors on shapes test")
    (grid,) = grids(section(page, "CenterNet, Table 3: false discovery rates of CornerNet and CenterNet"))
    assert [row["paper: FD"] for row in grid] == ["40.4", "35.1", "37.8", "32.4"]
    assert {row["here: FD to FD_L"] for row in grid} == {"– a"}
    assert {row["small: FD, shapes test"] for row in grid} == {"– b"}


def test_the_leaderboard_is_sorted_and_whole(pages: dict[str, str]) -> None:
    (grid,) = grids(section(pages["tables.md"], "Small detectors on shapes test"))
    assert len(grid) == 12
    assert [float(row["AP"]) for row in grid] == sorted((float(row["AP"]) for row in grid), reverse=True)
    assert grid[0] == {
        "detector": "faster_rcnn_r50_fpn",
        "year": "2017",
        "family": "two-stage",
        "AP": "55.2",
        "AP50": "75.2",
        "AP75": "53.2",
        "AP_S": "33.1",
        "AP_M": "60.7",
        "AP_L": "undefined",
        "FD": "34.8",
        "VOC07": "76.2",
        "ms (cpu-2core)": "38.8",
        "parameters": "412,345",
        "MACs (M)": "388.0",
        "images seen": "48,000",
        "weights": f"`{weights('faster_rcnn_r50_fpn').sha256[:8]}`",
        "notes": "a b c",
    }


def test_undefined_accuracies_come_last() -> None:
    found = [record("accuracy", "yolov3", metrics={"stats": {"AP": None}}), record("accuracy", metrics=metrics(0.0))]
    (grid,) = grids(section(render(entries(found), [])["tables.md"], "Small detectors on shapes test"))
    assert [row["detector"] for row in grid] == ["ssd300_vgg16", "yolov3"]
    assert grid[1]["AP"] == "undefined"
    assert grid[1]["FD"] == NOT_MEASURED


def test_what_was_not_measured_is_said_so_and_never_blank() -> None:
    (grid,) = grids(section(render(entries([record("accuracy")]), [])["tables.md"], "Small detectors on shapes test"))
    assert [grid[0][key] for key in ("ms", "parameters", "MACs (M)")] == [NOT_MEASURED] * 3
    assert grid[0]["year"] == grid[0]["family"] == "—"


def test_other_images_are_pointed_out() -> None:
    moved = record("accuracy", "yolov3", dataset=SHAPES.model_copy(update={"fingerprint": "0ther" * 8}))
    page = render(entries([record("accuracy"), moved]), [])["tables.md"]
    text = section(page, "Small detectors on shapes test")
    assert "not all tested on the same images" in text
    assert len({row["notes"] for row in grids(text)[0]}) == 2
    same = render(entries([record("accuracy")]), [])["tables.md"]
    assert "not all tested on the same images" not in same


def test_a_machine_of_no_profile_says_what_did_not_conform() -> None:
    strange = Hardware(machine="local", device="cpu", profile=None, deviations=("cores is 3, not 2",), threads=1)
    page = render(entries([record("accuracy"), record("latency", hardware=strange)]), [])["tables.md"]
    assert "conforms to no profile (cores is 3, not 2)" in section(page, "Small detectors on shapes test")


def test_photographs_have_a_leaderboard_as_soon_as_there_are_records(pages: dict[str, str]) -> None:
    (grid,) = grids(section(pages["tables.md"], "Small detectors on bccd test"))
    assert [row["detector"] for row in grid] == ["ssd300_vgg16", "cornernet511_hg52", "centernet511_hg52"]
    assert "bccd" not in render(entries([record("accuracy")]), TABLES)["tables.md"]


def test_published_checkpoints_stand_beside_what_is_published(pages: dict[str, str]) -> None:
    text = section(pages["tables.md"], "Checkpoints of full size on real images")
    (grid,) = grids(text)
    assert [(row["detector"], row["here: AP50"], row["paper: published"]) for row in grid] == [
        ("yolov3_tiny", "37.0", "AP50 33.1 on coco test-dev")
    ]
    assert "AP50 37.0 here on coco val2017 (197 images), 33.1 printed for coco test-dev: 3.9 points higher." in text
    assert "The images differ" in text
    assert "heads at strides 32 and 16" in text


def test_printed_and_measured_never_share_a_column(pages: dict[str, str]) -> None:
    printed = {
        f"{table.work}, {table.name}: {table.subject}": {
            column.title: [re.sub(r"([*<])", r"\\\1", table.cell(row, column.key)) for row in table.rows]
            for column in table.columns
        }
        for table in TABLES
    }
    for title, columns in printed.items():
        first, *others = grids(section(pages["tables.md"], title))
        for name, cells in columns.items():
            assert [row[f"paper: {name}"] for row in first] == cells
        for grid in others:
            for heading in grid[0]:
                assert heading == "notes" or heading.startswith(("paper: ", "here: ", "small: "))
            for row in grid:
                for heading, cell in row.items():
                    if heading.startswith("paper: "):
                        assert cell in columns[heading.removeprefix("paper: ")]


def test_fd_of_both_detectors_stands_beside_the_paper(pages: dict[str, str]) -> None:
    text = section(pages["tables.md"], "CenterNet, Table 3: false discovery rates of CornerNet and CenterNet")
    first, rest = grids(text)
    assert [(row["paper: method"], row["paper: FD"], row["small: FD, shapes test"]) for row in first] == [
        ("CornerNet511-52", "40.4", "45.9"),
        ("CenterNet511-52", "35.1", "41.3"),
        ("CornerNet511-104", "37.8", "44.8"),
        ("CenterNet511-104", "32.4", "40.8"),
    ]
    assert [(row["here: detector"], row["here: test"], row["here: FD5"]) for row in rest] == [
        ("`cornernet511_hg52`", "shapes test", "40.9"),
        ("`cornernet511_hg52`", "bccd test", "38.0"),
        ("`centernet511_hg52`", "shapes test", "36.3"),
        ("`centernet511_hg52`", "bccd test", "39.0"),
        ("`cornernet511_hg104`", "shapes test", "39.8"),
        ("`centernet511_hg104`", "shapes test", "35.8"),
    ]
    assert (
        "FD of CenterNet511-52 is 4.6 points below that of CornerNet511-52 here (41.3 against 45.9, shapes test, small "
        "size); in the paper it is 5.3 points below it (35.1 against 40.4): the same order as in print."
    ) in text
    assert (
        "FD of CenterNet511-52 is 1.0 points above that of CornerNet511-52 here (44.0 against 43.0, bccd test" in text
    )
    assert text.count("the opposite order") == 1
    assert "no verdict" in text


@pytest.mark.parametrize(
    ("corner", "center", "wording"),
    [
        (0.40, 0.42, "2.0 points below"),
        (0.42, 0.40, "2.0 points above"),
        (0.40, 0.40, "is the same as that of CornerNet511-52 here (50.0 against 50.0"),
    ],
)
def test_the_sentence_follows_the_data(corner: float, center: float, wording: str) -> None:
    found = [
        record("accuracy", "cornernet511_hg52", metrics=metrics(corner)),
        record("accuracy", "centernet511_hg52", metrics=metrics(center)),
    ]
    page = render(entries(found), TABLES)["tables.md"]
    assert wording in page
    assert ("the same order as in print" in page) == (center > corner)
    assert ("the opposite order" in page) == (center < corner)
    assert ("no difference" in page) == (center == corner)


def test_one_of_a_pair_alone_makes_no_sentence() -> None:
    page = render(entries([record("accuracy", "cornernet511_hg52")]), TABLES)["tables.md"]
    assert "in the paper it is" not in page
    assert "no verdict" not in page


def test_structure_stands_beside_the_printed_structure(pages: dict[str, str]) -> None:
    text = section(pages["tables.md"], "RefineDet, Table 1: detectors on PASCAL VOC")
    first, rest = grids(text)
    by_method = {row["paper: method"]: row for row in first}
    row = by_method["SSD300\\*"]
    assert (row["paper: boxes"], row["here: boxes"]) == ("8732", "8,732 (as printed)")
    assert (row["here: input (HxW)"], row["here: parameters"]) == ("300x300 (as printed)", "26,285,486")
    assert row["here: detector"] == "[`ssd300_vgg16`](detectors/ssd300_vgg16.md)"
    assert by_method["DSOD300"]["here: detector"] == "`dsod300`", "no catalog has it, so it has no page"
    assert by_method["SSD512\\*"]["here: boxes"] == "24,560 (4 fewer)"
    assert by_method["RefineDet320+"]["here: detector"] == "`refinedet320_vgg16`"
    assert by_method["RefineDet320+"]["here: boxes"].startswith("– ")
    # What a two-stage detector proposes is what the paper calls its boxes, and not its anchors.
    assert "counted here: 2 of 3 as printed; not so: `ssd512_vgg16` 24,560 for 24564." in text
    assert [r["paper: method"] for r in rest] == ["Faster R-CNN", "SSD300\\*", "SSD300\\*", "SSD512\\*"]


def test_the_papers_own_test_fills_the_first_table() -> None:
    voc = COCO_197.model_copy(update={"name": "voc", "split": "2007_test", "images": 4952})
    real = record("accuracy", scale="paper", num_classes=20, dataset=voc, metrics=metrics(0.56))
    part = record("accuracy", "ssd512_vgg16", scale="paper", dataset=voc.model_copy(update={"images": 100}))
    page = render(entries([real, part]), TABLES)["tables.md"]
    first, rest = grids(section(page, "RefineDet, Table 1: detectors on PASCAL VOC"))
    by_method = {row["paper: method"]: row for row in first}
    assert by_method["SSD300\\*"]["here: VOC07"] == "77.0"
    assert by_method["SSD300\\*"]["here: VOC12"].startswith("– ")
    assert by_method["SSD512\\*"]["here: VOC07"].startswith("– "), "a hundred images are another test"
    assert [row["here: detector"] for row in rest] == ["`ssd512_vgg16`"]


def test_own_runs_are_marked() -> None:
    project = entries([record("accuracy"), record("latency")])
    own = entries([record("accuracy", metrics=metrics(0.3)), record("latency", samples=samples(1.0))], own=True)
    page = render([*project, *own], TABLES)["tables.md"]
    (grid,) = grids(section(page, "Small detectors on shapes test"))
    assert [row["detector"] for row in grid] == ["ssd300_vgg16", "ssd300_vgg16 (own machine)"]
    assert [row["ms (cpu-2core)"] for row in grid] == ["20.0", "20.0"]
    assert [row["ms (own machine, cpu)"] for row in grid] == ["1000.0", "1000.0"]
    assert "includes 2 Records of the reader's own machine" in page
    assert "own machine" not in render(project, TABLES)["tables.md"]


def test_the_appendix_lists_every_record_with_what_it_depends_on(pages: dict[str, str]) -> None:
    appendix = section(pages["tables.md"], "Appendix")
    listed = next(grid for grid in grids(appendix) if "fingerprint" in grid[0])
    assert len(listed) == len(collection())
    (row,) = (row for row in listed if row["Record"] == "`cpu-2core/accuracy.yolov3_tiny.paper.coco-val2017.json`")
    assert row["weights"] == "yolov3-tiny.weights `dccea06f59b7`"
    assert row["fingerprint"] == "`c0c0c0c0c0c0`"
    assert row["commit"] == "`0123456789ab`"
    assert (row["machine"], row["versions"], row["protocol"]) == ("H1", "V1", "P1")
    assert "python 3.11.7, torch 2.14.1" in appendix
    assert '{"batch": 1, "max_detections": 100}' in appendix


class Page(HTMLParser):
    """Checks that elements are closed in order and collects what the page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        if tag not in ("meta", "br", "wbr", "img"):
            self.open.append(tag)
        if values.get("id"):
            self.ids.append(str(values["id"]))
        if tag == "a":
            self.links.append(str(values["href"]))
        self.loads += [str(values[name]) for name in ("src", "data", "srcset") if name in values]
        if tag == "link":
            self.loads.append(str(values.get("href")))

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_html_page_is_whole_and_loads_nothing(pages: dict[str, str]) -> None:
    page = Page()
    page.feed(pages["index.html"])
    assert not page.open
    assert all(load.startswith("data:") for load in page.loads)
    assert "@import" not in pages["index.html"]
    assert "url(http" not in pages["index.html"]
    assert len(set(page.ids)) == len(page.ids)
    assert all(link[1:] in page.ids for link in page.links if link.startswith("#"))
    assert pages["index.html"].count("<svg") == 9


def test_both_pages_hold_the_same_figures(pages: dict[str, str]) -> None:
    found = re.findall(r'<t(?:d|h scope="row") class[^>]*>(.*?)</t[dh]>', pages["index.html"])
    cells = [re.sub(r"<[^>]+>", "", cell) for cell in found]
    unescaped = list(map(html.unescape, cells))
    markdown = [cell for grid in grids(pages["tables.md"]) for row in grid for cell in row.values()]
    plain = [re.sub(r"\[(`[^`]+`)\]\([^)]*\)", r"\1", cell).replace("`", "") for cell in markdown]
    plain = [re.sub(r"\*\*([^*]+)\*\*", r"\1", cell) for cell in plain]
    assert unescaped == [re.sub(r"\\([*<])", r"\1", cell) for cell in plain]


def test_names_and_notes_cannot_break_a_page() -> None:
    evil = "<script>alert(1)</script> | a*b*c `code` **x** \\"
    made = record(
        "accuracy",
        "yolov3_tiny",
        scale="paper",
        dataset=COCO_197,
        note=evil,
        weights=Weights(file="a|*b*.w", sha256="f"),
    )
    pages = render(entries([made]), TABLES)
    assert "<script>alert" not in pages["index.html"]
    assert pages["index.html"].count("&lt;script&gt;alert(1)&lt;/script&gt; | a*b*c `code` **x** \\") == 2
    assert "\\<script>alert" in pages["tables.md"]
    listed = next(grid for grid in grids(section(pages["tables.md"], "Appendix")) if "fingerprint" in grid[0])
    assert listed[0]["weights"] == "a\\|\\*b\\*.w `f`"


def test_a_record_that_no_page_can_show_is_refused() -> None:
    with pytest.raises(ReportError, match=r"metrics\.stats\.AP"):
        render(entries([record("accuracy", metrics={"stats": {"AP": "high"}})]), TABLES)


def test_the_order_of_files_changes_nothing(pages: dict[str, str]) -> None:
    assert render(entries(collection())[::-1], TABLES) == pages


def test_the_same_records_give_the_same_bytes_anywhere(pages: dict[str, str], tmp_path: Path) -> None:
    for made in collection():
        made.write(tmp_path / "results" / "cpu-2core")
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from reports.render import render; from reports.records import read_entries\n"
        "from benchmarks.papers import read_tables\n"
        "pages = render(read_entries(Path('results')), read_tables())\n"
        "Path('detectors').mkdir(exist_ok=True)\n"
        "[Path(name).write_text(page, encoding='utf-8') for name, page in pages.items()]"
    )
    for seed, zone in (("1", "UTC"), ("77", "Pacific/Auckland")):
        environment = os.environ | {"PYTHONHASHSEED": seed, "TZ": zone, "LC_ALL": "C"}
        subprocess.run([sys.executable, "-c", code, ROOT], cwd=tmp_path, env=environment, check=True)
        assert {name: (tmp_path / name).read_text(encoding="utf-8") for name in pages} == pages


def test_stale_pages_are_named_with_the_first_differing_line(pages: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "detectors").mkdir()
    for name, page in pages.items():
        (tmp_path / name).write_text(page)
    assert stale(pages, tmp_path) == []
    lines = pages["tables.md"].splitlines()
    (tmp_path / "tables.md").write_text("\n".join([*lines[:6], "edited by hand", *lines[7:]]) + "\n")
    (sentence,) = stale(pages, tmp_path)
    assert f"{tmp_path / 'tables.md'}: line 7 is stale" in sentence
    assert "edited by hand" in sentence
    (tmp_path / "tables.md").write_text("\n".join(lines[:-1]) + "\n")
    assert f"line {len(lines)} is stale:\n  there is   the end of the file" in stale(pages, tmp_path)[0]
    (tmp_path / "tables.md").write_text(pages["tables.md"].replace("\n", "\r\n"))
    assert len(stale(pages, tmp_path)) == 1, "line ends count"
    (tmp_path / "index.html").unlink()
    assert [s.partition(": ")[2].partition(":")[0] for s in stale(pages, tmp_path)][1] == "is missing"


def test_every_table_of_the_project_is_rendered(pages: dict[str, str]) -> None:
    for table in TABLES:
        assert isinstance(table, Table)
        assert table.paper in pages["tables.md"]
        assert table.link in pages["index.html"]


def test_several_seeds_are_one_row_with_their_spread() -> None:
    again = [
        record("accuracy", seed=seed, metrics=metrics(ap), weights=weights(f"seed{seed}"))
        for seed, ap in enumerate((0.40, 0.43, 0.46))
    ]
    once = record("accuracy", "yolov3", seed=0, metrics=metrics(0.5))
    page = render(entries([*again, once]), TABLES)["tables.md"]
    (row,) = grids(section(page, "Trained with several seeds, shapes test"))[0]
    assert row["detector"] == "ssd300_vgg16"
    assert row["seeds"] == "3"
    assert row["AP"] == "43.0 ± 3.0"
    assert row["AP of each"] == "40.0 43.0 46.0"
    # Everywhere else the first seed stands alone.
    (board,) = grids(section(page, "Small detectors on shapes test"))
    assert [(found["detector"], found["AP"]) for found in board] == [("yolov3", "50.0"), ("ssd300_vgg16", "40.0")]
    assert "Trained with several seeds" not in render(entries([again[0], once]), TABLES)["tables.md"]
