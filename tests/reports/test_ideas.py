"""What single ideas are worth over seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reports.ideas import Ideas, Pair, ideas, read_ideas
from reports.records import ReportError
from reports.render import render
from tests.reports.samples import metrics, shelf, table, trained, weights
from zoo import CATALOG

CHOSEN = Ideas.model_validate(
    {
        "pairs": [
            {"idea": "aligned", "paper": "A", "with": ["align_b", "align_a"], "without": "fast"},
            {"idea": "soft", "paper": "S", "suppression": True, "metrics": ["stats.AP", "stats.AR100"]},
        ],
    }
)


def test_pairs_are_compared_seed_by_seed() -> None:
    found = shelf(
        *(trained("fast", seed, ap) for seed, ap in enumerate((0.40, 0.42, 0.44, 0.60))),
        *(trained("align_a", seed, ap) for seed, ap in enumerate((0.43, 0.41, 0.46))),
        trained("align_b", 0, 0.9),
    )
    (row,) = table(ideas(found, CHOSEN))
    assert (row["detector"], row["against"], row["metric"]) == ("align_a", "fast", "AP")
    assert row["by seed"] == "+3.0 -1.0 +2.0"
    assert row["difference"] == "+1.3 ± 2.1"
    assert row["with it"] == "43.3 ± 2.5"
    assert row["better in"] == "2 of 3"


def test_one_common_seed_has_no_spread_and_none_no_row() -> None:
    (row,) = table(ideas(shelf(trained("fast", 1, 0.4), trained("align_b", 1, 0.3)), CHOSEN))
    assert (row["with it"], row["difference"], row["better in"]) == ("30.0", "-10.0", "0 of 1")
    assert ideas(shelf(trained("fast", 0, 0.4), trained("align_b", 1, 0.3)), CHOSEN) == []
    assert ideas(shelf(), CHOSEN) == []


def test_another_suppression_is_compared_on_the_same_weights_and_stands_in_no_other_table() -> None:
    soft = {"protocol": {"suppression": {"name": "soft-nms", "sigma": 0.5}}}
    plain = [trained("fast", seed, 0.4) for seed in (0, 1)]
    softened = [trained("fast", seed, 0.41 + 0.01 * seed, **soft) for seed in (0, 1)]
    elsewhere = trained("fast", 0, 0.9, weights=weights("another"), **soft)
    found = shelf(*plain, *softened)
    rows = table(ideas(found, CHOSEN))
    assert [row["metric"] for row in rows] == ["AP", "AR100"]
    assert rows[0]["detector"] == "fast, soft-nms"
    assert rows[0]["by seed"] == "+1.0 +2.0"
    assert rows[0]["better in"] == "2 of 2"
    assert len(found.accuracies) == 1
    assert len(found.trainings) == len(found.suppressed) == 2
    assert ideas(shelf(plain[0], elsewhere), CHOSEN) == []
    assert len({made.name for made in (*plain, *softened)}) == 4


def test_a_variant_is_a_side() -> None:
    changed = {0: 0.35, 1: 0.36}
    found = shelf(
        *(trained("fast", seed, 0.40 + 0.01 * seed) for seed in changed),
        *(trained("fast", seed, ap, variant={"sampler": "random"}) for seed, ap in changed.items()),
    )
    pair = {"idea": "i", "paper": "p", "with": ["fast"], "without": "fast sampler=random"}
    (row,) = table(ideas(found, Ideas.model_validate({"pairs": [pair]})))
    assert (row["detector"], row["against"], row["by seed"]) == ("fast", "fast sampler=random", "+5.0 +5.0")


def test_fewer_false_discoveries_are_better() -> None:
    rates = {0: (0.30, 0.50), 1: (0.35, 0.40), 2: (0.45, 0.42)}
    sides = [
        trained(name, seed, 0.4, metrics=metrics(0.4) | {"fd": {"FD": both[place]}})
        for seed, both in rates.items()
        for place, name in enumerate(("center", "corner"))
    ]
    pair = {"idea": "i", "paper": "p", "with": ["center"], "without": "corner", "metrics": ["fd.FD"]}
    (row,) = table(ideas(shelf(*sides), Ideas.model_validate({"pairs": [pair]})))
    assert (row["by seed"], row["better in"]) == ("-20.0 -5.0 +3.0", "2 of 3")


def test_the_pairs_of_the_project_are_sound_and_pages_show_them() -> None:
    names = {name for pair in read_ideas().pairs for name in (*pair.changed, *([pair.without] if pair.without else []))}
    assert {name.partition(" ")[0] for name in names} <= CATALOG.keys()
    found = [trained("faster_rcnn_vgg16", 0, 0.4), trained("faster_rcnn_vgg16_align", 0, 0.42)]
    pages = render(shelf(*found).entries, [])
    for name in ("tables.md", "index.html"):
        assert "What single ideas are worth" in pages[name]
    assert "| +2.0" in pages["tables.md"]


@pytest.mark.parametrize(
    "entry",
    [{"with": ["a"]}, {"without": "b"}, {}, {"with": ["a"], "without": "b", "suppression": True}, {"surprise": 1}],
)
def test_a_pair_names_both_sides_or_none(entry: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"Pair"):
        Pair.model_validate({"idea": "i", "paper": "p", **entry})


def test_pairs_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    path = tmp_path / "ideas.toml"
    with pytest.raises(ReportError, match=r"ideas\.toml: cannot be read"):
        read_ideas(path)
    path.write_text("[[pairs]]\nidea = ''\n")
    with pytest.raises(ReportError, match=r"ideas\.toml: pairs\.0\.idea"):
        read_ideas(path)
