"""A page for each detector, from what the catalog, the files and the Records say; its commands are commands."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest
import typer

from benchmarks.__main__ import app
from benchmarks.results import Record
from reports.detectors import detector_pages
from reports.records import Entry, ReportError, Shelf
from reports.render import _markdown
from tests.reports.samples import collection, cost, metrics, record, samples

STAGES = [
    {
        "module": "backbone",
        "type": "VGG",
        "outputs": [[1, 512, 38, 38]],
        "calls": 1,
        "parameters": 20,
        "macs": 3_000_000,
    },
    {"module": "heads", "type": "ModuleList", "outputs": [], "calls": 0, "parameters": 6, "macs": 500_000},
    {"module": "fc", "type": "Linear", "outputs": [[300, 21]], "calls": 2, "parameters": 7, "macs": 0},
]
RECIPE = {
    "batch": 32,
    "lr": 0.001,
    "milestones": [80_000],
    "warmup": 0,
    "warmup_factor": 0.5,
    "gamma": 0.1,
    "source": "s 3",
}


def paper(name: str = "ssd300_vgg16", **changes: object) -> Record:
    counted = {**cost(8732, parameters=26285486, macs=31_373_537_792, side=300), "stages": STAGES, **changes}
    counted["recipes"] = changes.get("recipes", {"paper": RECIPE})
    return record("cost", name, scale="paper", overrides={}, num_classes=20, metrics=counted)


def pages(*records: Record) -> dict[str, str]:
    found = [Entry(made, Path(f"cpu-2core/{made.name}.json"), f"cpu-2core/{made.name}.json") for made in records]
    return {name: _markdown(sections) for name, sections in detector_pages(Shelf(found)).items()}


@pytest.fixture(scope="module")
def every() -> dict[str, str]:
    again = record("accuracy", seed=2, metrics=metrics(0.31))
    return pages(*(made for made in collection() if made.scale != "paper"), paper(), again)


def test_every_detector_has_a_page_and_every_link_leads_somewhere(every: dict[str, str]) -> None:
    from zoo import CATALOG

    assert set(every) == {f"detectors/{name}.md" for name in (*CATALOG, "README")}
    for page in every.values():
        for link in re.findall(r"\]\(([^)#]+)\)", page):
            root = Path(__file__).resolve().parents[2] / "reports" / "detectors"
            assert f"detectors/{link}" in every or (root / link).resolve().exists(), link


def test_a_page_tells_idea_structure_results_and_recipe(every: dict[str, str]) -> None:
    page = every["detectors/ssd300_vgg16.md"]
    assert "https://arxiv.org/abs/1512.02325" in page
    assert "default boxes" in page
    assert "is built on by" in page
    assert re.search(r"\| `backbone` +\| `VGG` +\| 512x38x38 +\| +1 \| +20 \| +3.0 \|", page)
    assert re.search(r"\| `heads` .*\| in parts \|", page)
    assert re.search(r"\| `fc` .*\| 300x21 .*\| +2 \|", page)
    assert re.search(r"\| between them .*\| +31,370.0 \|", page)
    assert re.search(r"\| boxes +\| 300x300 +\| +8,732 \| +8,732 \|", page)
    assert re.search(r"\| shapes test \| small +\| seed 2 .*\| 31.0 \|", page)
    assert re.search(r"\| +12.10 \|", page), "median of the end-to-end samples"
    assert re.search(r"\| `milestones` +\| 80,000 +\|", page)
    assert "warmup_factor" not in page
    assert "as the paper trains it: s 3" in page


def test_what_is_not_known_is_said(every: dict[str, str]) -> None:
    page = every["detectors/panet_r50_fpn.md"]
    assert "Not counted yet" in page
    assert "Accuracy: not measured" in page
    assert "Not recorded yet" in page
    fitted = pages(paper("viola_jones", stages=[], recipes={}, parameters=0))["detectors/viola_jones.md"]
    assert "No layers that learn by gradient" in fitted
    assert "No gradient descent" in fitted


def test_stages_that_are_none_are_refused() -> None:
    with pytest.raises(ReportError, match=r"metrics\.stages"):
        pages(paper(stages=[{"module": "x"}]))


def test_times_stand_on_the_page() -> None:
    page = pages(record("latency", samples=samples(0.02)))["detectors/ssd300_vgg16.md"]
    assert re.search(r"\| shapes test \| small +\| cpu-2core +\| +2.00 \| +14.00 \| +- \| +4.00 \| +20.00 \|", page)


def test_variants_stand_on_the_page_and_say_what_they_are() -> None:
    page = pages(record("accuracy", seed=2, variant={"sampler": "all", "lr": 0.001}))["detectors/ssd300_vgg16.md"]
    assert re.search(r"\| shapes test \| small +\| seed 2, lr=0.001 sampler=all +\| +45.0 \|", page)


def blocks(page: str, kind: str) -> Sequence[str]:
    return [line for block in re.findall(rf"```{kind}\n(.*?)```", page, re.S) for line in block.splitlines()]


def test_commands_are_commands(every: dict[str, str]) -> None:
    commands = typer.main.get_command(app)
    seen = set()
    for page in every.values():
        for line in blocks(page, "sh"):
            inner = re.search(r"\$\((.*?)\)", line)
            words = shlex.split(inner[1] if inner else line, comments=True)
            assert words[:3] == ["python", "-m", "benchmarks"]
            seen.add(words[3])
            with commands.make_context("benchmarks", words[3:], resilient_parsing=False) as context:
                command = commands.get_command(context, words[3])
                assert command is not None
                command.make_context(words[3], words[4:])
        for source in blocks(page, "python"):
            ast.parse(source)
    assert seen == {"cost", "train", "evaluate", "latency", "weights"}


def test_shipped_weights_are_used_where_there_are_some(every: dict[str, str]) -> None:
    from zoo import checkpoints

    for name, page in every.items():
        detector = Path(name).stem
        has = any(path.name.endswith(".shapes.safetensors") for path in checkpoints.shipped(detector))
        evaluates = [line for line in blocks(page, "sh") if f"evaluate {detector} --dataset shapes" in line]
        assert all(("--weights" in line) != has for line in evaluates)
