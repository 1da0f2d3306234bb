from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from reports import plots
from reports import svg as svg_
from reports.plots import FAMILIES, Bars, Point, bars, scatter

SVG = "{http://www.w3.org/2000/svg}"


def many(count: int) -> list[Point]:
    """Points as they come: in a crowd, some of them equal."""
    families = [*FAMILIES, "—"]
    return [
        Point(f"detector{index}_vgg16", 5 + (index * 7) % 60, 35 + (index * 13) % 20, families[index % 5])
        for index in range(count)
    ]


def draw(points: list[Point], **changes: object) -> ElementTree.Element:
    settings: dict[str, object] = {"title": "a title", "x_title": "x", "y_title": "y", "log": True}
    return ElementTree.fromstring(scatter(points, **(settings | changes)))  # type: ignore[arg-type]


def label_box(text: ElementTree.Element) -> tuple[float, float, float, float]:
    width = 7.2 * len(text.text or "")
    left = float(text.attrib["x"]) - {"start": 0.0, "middle": width / 2, "end": width}[text.attrib["text-anchor"]]
    return left, float(text.attrib["y"]) - 10, left + width, float(text.attrib["y"]) + 3


@pytest.mark.parametrize("count", [2, 12, 40])
def test_no_label_touches_another_or_a_leader_or_leaves_the_picture(count: int) -> None:
    svg = draw(many(count))
    boxes = [label_box(text) for text in svg.iter(f"{SVG}text") if text.attrib["class"] == "label"]
    assert len(boxes) >= min(count, 12), "labels must be given up only where there is no room"
    for index, a in enumerate(boxes):
        assert a[0] >= svg_.LEFT
        assert a[2] <= svg_.WIDTH
        for b in boxes[:index]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    for line in (line for line in svg.iter(f"{SVG}line") if line.attrib["class"] == "leader"):
        x1, y1, x2, y2 = (float(line.attrib[name]) for name in ("x1", "y1", "x2", "y2"))
        for a in boxes:
            for share in (0.0, 0.2, 0.4, 0.6, 0.8):
                x, y = x1 + share * (x2 - x1), y1 + share * (y2 - y1)
                assert not (a[0] < x < a[2] and a[1] < y < a[3])


def test_every_point_has_a_mark_that_tells_its_name() -> None:
    points = many(40)
    titles = {title.text for title in draw(points).iter(f"{SVG}title")}
    for point in points:
        assert f"{point.label}: {point.y:.1f} at {point.x:.4g}" in titles


def test_marks_stand_where_the_ticks_say() -> None:
    svg = draw([Point("a", 10, 20, "one-stage"), Point("b", 50, 40, "one-stage")])
    ticks = [text for text in svg.iter(f"{SVG}text") if text.attrib["class"] == "tick"]
    across = {text.text: float(text.attrib["x"]) for text in ticks if text.attrib["text-anchor"] == "middle"}
    up = {text.text: float(text.attrib["y"]) - 4 for text in ticks if text.attrib["text-anchor"] == "end"}
    marks = [(float(mark.attrib["cx"]), float(mark.attrib["cy"])) for mark in svg.iter(f"{SVG}circle")]
    assert marks[0] == pytest.approx((across["10"], up["20"]), abs=0.11)
    assert marks[1] == pytest.approx((across["50"], up["40"]), abs=0.11)


def test_the_front_holds_what_none_beats_on_both() -> None:
    points = [
        Point("a", 10, 30, ""),
        Point("b", 20, 50, ""),
        Point("c", 30, 40, ""),
        Point("d", 20, 20, ""),
        Point("e", 60, 60, ""),
    ]
    assert [point.label for point in plots._front(points)] == ["a", "b", "e"]
    line = next(draw(points, front="best").iter(f"{SVG}polyline"))
    assert len(line.attrib["points"].split()) == 3
    assert not list(draw(points).iter(f"{SVG}polyline"))


def test_names_cannot_break_the_picture() -> None:
    svg = draw([Point('<a> & "b"', 1, 2, "<f>"), Point("c", 3, 4, "keypoint", hollow=True)], title="x < y & z")
    assert "hollow: own machine" in [text.text for text in svg.iter(f"{SVG}text")]
    assert '<a> & "b"' in [text.text for text in svg.iter(f"{SVG}text")]


@pytest.mark.parametrize("top", [0.0, 0.034, 0.7, 1.0, 1.99, 5.0, 62.5, 99.9, 100.0])
def test_ticks_go_past_the_top_and_are_few(top: float) -> None:
    found = svg_.ticks(top)
    assert found[0] == 0
    assert found[-1] >= top
    assert 2 <= len(found) <= 9


@pytest.mark.parametrize(("low", "high"), [(8.2, 412.0), (0.5, 0.6), (1.0, 1.0), (1000.0, 99999.0)])
def test_logarithmic_ticks_surround_the_values(low: float, high: float) -> None:
    found = svg_.log_ticks(low, high)
    assert found[0] < low
    assert found[-1] > high
    assert all(re.fullmatch(r"[125]0*(\.0+)?|0\.0*[125]", f"{tick:.9f}".rstrip("0").rstrip(".")) for tick in found)


@pytest.mark.parametrize(("low", "high"), [(2001, 2019), (2016, 2016), (2005, 2007)])
def test_years_are_whole_and_surround_the_values(low: float, high: float) -> None:
    found = svg_.year_ticks(low, high)
    assert found[0] < low
    assert found[-1] > high
    assert all(tick == int(tick) for tick in found)
    assert len(found) <= 12


def test_printed_bars_are_hatched_and_measured_ones_full() -> None:
    groups = ("FD", "FD5")
    panels = [
        Bars("printed", groups, (("Corner", (40.0, 20.0)), ("Center", (10.0, None))), printed=True),
        Bars("measured", groups, (("corner", (20.0, 10.0)),), printed=False),
    ]
    svg = ElementTree.fromstring(bars(panels, title="rates"))
    drawn = [group for group in svg.iter(f"{SVG}g") if group.find(f"{SVG}rect") is not None]
    titles = [group.findtext(f"{SVG}title") for group in drawn]
    assert titles == [
        "Corner, FD: 40.0",
        "Center, FD: 10.0",
        "Corner, FD5: 20.0",
        "corner, FD: 20.0",
        "corner, FD5: 10.0",
    ]
    rects = [group.find(f"{SVG}rect") for group in drawn]
    heights = [float(rect.attrib["height"]) for rect in rects if rect is not None]
    assert heights[0] == pytest.approx(4 * heights[1], abs=0.2)
    assert heights[0] == pytest.approx(2 * heights[3], abs=0.2), "panels share one scale"
    hatched = [rect.attrib["fill"].startswith("url(#") for rect in rects if rect is not None]
    assert hatched == [True, True, True, False, False]
    known = {pattern.attrib["id"] for pattern in svg.iter(f"{SVG}pattern")}
    assert {rect.attrib["fill"][5:-1] for rect in rects[:3] if rect is not None} <= known
