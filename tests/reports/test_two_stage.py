"""The line from R-CNN on, and what single ideas are worth over seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.results import Record, Weights
from reports.records import Entry, ReportError, Shelf
from reports.render import render
from reports.sections import Grid, Section
from reports.two_stage import Chosen, Pair, ablations, line, read_chosen
from tests.reports.samples import cost, metrics, record, samples, weights

CHOSEN = Chosen.model_validate(
    {
        "line": {"title": "Line", "detectors": ["old", "fast", "faster"]},
        "pairs": [
            {"idea": "aligned", "paper": "A", "with": ["align_b", "align_a"], "without": "fast"},
            {"idea": "soft", "paper": "S", "suppression": True, "metrics": ["stats.AP", "stats.AR100"]},
        ],
    }
)


def shelf(*records: Record) -> Shelf:
    return Shelf([Entry(made, Path(f"m/{made.name}.json"), f"m/{made.name}.json") for made in records])


def trained(detector: str, seed: int, ap: float, **changes: Any) -> Record:
    own = Weights(file=f"{detector}.{seed}", sha256=f"{weights(detector).sha256[:-1]}{seed}")
    return record("accuracy", detector, metrics=metrics(ap), seed=seed, **({"weights": own} | changes))


def table(sections: list[Section]) -> list[dict[str, str]]:
    (section,) = sections
    grid = next(block for block in section.blocks if isinstance(block, Grid))
    return [dict(zip((head.title for head in grid.headers), row, strict=True)) for row in grid.rows]


def test_the_line_stands_in_the_order_of_the_papers() -> None:
    proposals = {"AR100": 0.5, "AR300": 0.625, "per_image": 812.4, "most": 2000}
    staged = {"preprocess": [0.001], "network": [0.002], "proposals": [0.15], "postprocess": [0.0005]}
    rows = table(
        line(
            shelf(
                record("accuracy", "faster", metrics=metrics(0.5)),
                record("latency", "faster", samples=samples(0.02)),
                record("accuracy", "fast", metrics=metrics(0.4) | {"proposals": proposals}),
                record("latency", "fast", samples={**staged, "end_to_end": [0.1535]}),
                record("cost", "fast", metrics=cost(None)),
                record("accuracy", "ssd300_vgg16"),
                trained("fast", 1, 0.9),
            ),
            CHOSEN,
        )
    )
    assert [row["detector"] for row in rows] == ["fast", "faster"]
    fast, faster = rows
    assert (fast["AP"], fast["AP50"], fast["FD"]) == ("40.0", "60.0", "50.0")
    assert (fast["proposals an image"], fast["AR at 100"], fast["AR at 300"]) == ("812", "50.0", "62.5")
    assert (fast["network ms"], fast["proposals ms"], fast["end to end ms"]) == ("2.0", "150.0", "153.5")
    assert fast["parameters"] == "412,345"
    assert faster["AR at 100"] == faster["proposals an image"] == "not measured"
    assert faster["proposals ms"] == "in network"
    assert (fast["masks ms"], faster["masks ms"]) == ("-", "-")
    assert faster["parameters"] == "not measured"
    assert line(shelf(record("accuracy", "ssd300_vgg16")), CHOSEN) == []


def test_masks_have_a_stage_of_their_own() -> None:
    seconds = (0.001, 0.002, 0.003, 0.006, 0.0005, 0.0125)
    stages = ("preprocess", "network", "proposals", "masks", "postprocess", "end_to_end")
    latency = record("latency", "fast", samples={name: [time] for name, time in zip(stages, seconds, strict=True)})
    (row,) = table(line(shelf(record("accuracy", "fast", metrics=metrics(0.4)), latency), CHOSEN))
    assert [row[f"{name.replace('_', ' ')} ms"] for name in stages] == ["1.0", "2.0", "3.0", "6.0", "0.5", "12.5"]


def test_pairs_are_compared_seed_by_seed() -> None:
    found = shelf(
        *(trained("fast", seed, ap) for seed, ap in enumerate((0.40, 0.42, 0.44, 0.60))),
        *(trained("align_a", seed, ap) for seed, ap in enumerate((0.43, 0.41, 0.46))),
        trained("align_b", 0, 0.9),
    )
    (row,) = table(ablations(found, CHOSEN))
    assert (row["with"], row["without"], row["metric"]) == ("align_a", "fast", "AP")
    assert row["by seed"] == "+3.0 -1.0 +2.0"
    assert row["difference"] == "+1.3 ± 2.1"
    assert row["with it"] == "43.3 ± 2.5"
    assert row["better in"] == "2 of 3"


def test_one_common_seed_has_no_spread_and_none_no_row() -> None:
    (row,) = table(ablations(shelf(trained("fast", 1, 0.4), trained("align_b", 1, 0.3)), CHOSEN))
    assert (row["with it"], row["difference"], row["better in"]) == ("30.0", "-10.0", "0 of 1")
    assert ablations(shelf(trained("fast", 0, 0.4), trained("align_b", 1, 0.3)), CHOSEN) == []
    assert ablations(shelf(), CHOSEN) == []


def test_another_suppression_is_compared_on_the_same_weights_and_stands_in_no_other_table() -> None:
    soft = {"protocol": {"suppression": {"name": "soft-nms", "sigma": 0.5}}}
    plain = [trained("fast", seed, 0.4) for seed in (0, 1)]
    softened = [trained("fast", seed, 0.41 + 0.01 * seed, **soft) for seed in (0, 1)]
    elsewhere = trained("fast", 0, 0.9, weights=weights("another"), **soft)
    found = shelf(*plain, *softened)
    rows = table(ablations(found, CHOSEN))
    assert [row["metric"] for row in rows] == ["AP", "AR100"]
    assert rows[0]["with"] == "fast, soft-nms"
    assert rows[0]["by seed"] == "+1.0 +2.0"
    assert rows[0]["better in"] == "2 of 2"
    assert len(found.accuracies) == 1
    assert len(found.trainings) == len(found.suppressed) == 2
    assert ablations(shelf(plain[0], elsewhere), CHOSEN) == []
    assert len({made.name for made in (*plain, *softened)}) == 4


def test_the_choice_of_the_project_is_sound_and_pages_show_it() -> None:
    chosen = read_chosen()
    assert len(chosen.line.detectors) == len(set(chosen.line.detectors)) == 9
    found = [trained("faster_rcnn_vgg16", 0, 0.4), trained("faster_rcnn_vgg16_align", 0, 0.42)]
    pages = render(shelf(*found).entries, [])
    for name in ("tables.md", "index.html"):
        assert chosen.line.title in pages[name]
        assert "What single ideas are worth" in pages[name]
    assert "| +2.0" in pages["tables.md"]


@pytest.mark.parametrize(
    "entry",
    [{"with": ["a"]}, {"without": "b"}, {}, {"with": ["a"], "without": "b", "suppression": True}, {"surprise": 1}],
)
def test_a_pair_names_both_sides_or_none(entry: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"Pair"):
        Pair.model_validate({"idea": "i", "paper": "p", **entry})


def test_a_choice_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "two_stage.toml"
    with pytest.raises(ReportError, match=r"two_stage\.toml"):
        read_chosen(path)
    path.write_text("[line]\ntitle = ''\n")
    with pytest.raises(ReportError, match=r"line\.title|detectors"):
        read_chosen(path)
