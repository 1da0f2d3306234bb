from __future__ import annotations

from xml.etree import ElementTree

import pytest

from reports.curves import Curve, Ranked, curves, ranked

SVG = "{http://www.w3.org/2000/svg}"


def test_curves_stand_where_the_axes_say() -> None:
    line = Curve("a <b>", "one-stage", ((0.0, 100.0), (50.0, 60.0), (100.0, 0.0)))
    grey = Curve("other", "keypoint", ((0.0, 40.0), (100.0, 20.0)), named=False)
    svg = ElementTree.fromstring(curves([("top", [line, grey]), ("low", [line])], title="t", x_title="r", y_title="p"))
    drawn = list(svg.iter(f"{SVG}polyline"))
    assert [run.attrib["class"] for run in drawn] == ["aside", "run one-stage", "run one-stage"]
    ticks = [text for text in svg.iter(f"{SVG}text") if text.attrib["class"] == "tick"]
    across = {text.text: float(text.attrib["x"]) for text in ticks if text.attrib["text-anchor"] == "middle"}
    up = {text.text: float(text.attrib["y"]) - 4 for text in ticks[::-1] if text.attrib["text-anchor"] == "end"}
    first, last = (tuple(map(float, drawn[1].attrib["points"].split()[end].split(","))) for end in (0, -1))
    assert first == pytest.approx((across["0"], up["100"]), abs=0.11)
    assert last == pytest.approx((across["100"], up["0"]), abs=0.11)
    assert [text.text for text in ticks if text.attrib["text-anchor"] == "start"] == ["a <b>"] * 2
    assert "100" in across, "an axis of percent ends at 100"
    assert "120" not in across


def test_bars_are_as_long_as_their_values() -> None:
    rows = [Ranked("one", (10.0, 40.0)), Ranked("two", (None, 20.0))]
    svg = ElementTree.fromstring(ranked(rows, ["small", "large"], title="t", x_title="AP"))
    found = {}
    for group in svg.iter(f"{SVG}g"):
        bar = group.find(f"{SVG}rect")
        assert bar is not None
        found[group.findtext(f"{SVG}title")] = float(bar.attrib["width"])
    assert set(found) == {"one, small: 10.0", "one, large: 40.0", "two, large: 20.0"}
    assert found["one, large: 40.0"] == pytest.approx(4 * found["one, small: 10.0"], abs=0.3)
    assert found["two, large: 20.0"] == pytest.approx(2 * found["one, small: 10.0"], abs=0.2)


def test_one_series_has_its_figures_beside_it() -> None:
    text = ranked([Ranked("one", (12.34,)), Ranked("two", (0.0,))], ["FD"], title="t", x_title="FD")
    assert ">12.3<" in text
    assert ">0.0<" in text
