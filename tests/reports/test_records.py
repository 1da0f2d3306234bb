from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.results import Hardware, RecordError
from reports.records import NOT_MEASURED, UNDEFINED, Entry, ReportError, Shelf, read_entries
from reports.sections import Grid, leaderboards
from tests.reports.samples import BCCD, COCO_197, SHAPES, cost, metrics, record, samples, table, weights

OTHER = Hardware(machine="h200", device="cuda:0", profile="h200", threads=8)


def entry(
    kind: str, detector: str = "ssd300_vgg16", *, machine: str = "cpu-2core", own: bool = False, **changes: object
) -> Entry:
    made = record(kind, detector, **changes)
    place = f"{'own' if own else machine}/{made.name}.json"
    return Entry(made, Path(place), place, own)


def test_metrics_are_printed_in_percent_or_say_why_not() -> None:
    found = entry("accuracy", metrics={"stats": {"AP": 0.4567, "AP_L": None, "AP50": 0, "AP75": 1}, "voc": None})
    assert found.metric("stats.AP") == "45.7"
    assert found.metric("stats.AP50") == "0.0"
    assert found.metric("stats.AP75") == "100.0"
    assert found.metric("stats.AP_L") == UNDEFINED
    assert found.metric("stats.AP_S") == NOT_MEASURED
    assert found.metric("fd.FD") == NOT_MEASURED
    assert found.metric("voc.mAP07") == NOT_MEASURED


@pytest.mark.parametrize("value", ["0.4", True, [0.4]])
def test_a_metric_that_is_no_number_names_file_and_entry(value: object) -> None:
    found = entry("accuracy", metrics={"stats": {"AP": value}})
    with pytest.raises(ReportError, match=r"accuracy\..*json: metrics\.stats\.AP: is .*measure again"):
        found.metric("stats.AP")


def test_costs_are_printed_whole_or_say_why_not() -> None:
    found = entry("cost", metrics={"parameters": 26285486, "boxes": None, "macs": 31373523456, "input": [300, 512]})
    assert found.count("parameters") == "26,285,486"
    assert found.count("boxes") == "none"
    assert found.count("buffers") == NOT_MEASURED
    assert found.millions("macs") == "31,373.5"
    assert found.millions("boxes") == "none"
    assert found.size() == "300x512"
    assert entry("cost", metrics={}).size() == NOT_MEASURED
    with pytest.raises(ReportError, match=r"metrics\.macs"):
        entry("cost", metrics={"macs": 1.5}).count("macs")
    with pytest.raises(ReportError, match=r"metrics\.input"):
        entry("cost", metrics={"input": 300}).size()


def test_time_is_the_median_of_the_samples() -> None:
    found = entry("latency", samples={"end_to_end": [0.5, 0.01, 0.03], "network": []})
    assert found.milliseconds("end_to_end") == 30
    assert found.milliseconds("network") is None
    assert found.milliseconds("preprocess") is None


def test_a_time_stands_only_beside_the_accuracy_of_the_same_weights_and_test() -> None:
    accuracy = entry("accuracy")
    fits = entry("latency")
    on_gpu = entry("latency", machine="h200", hardware=OTHER)
    strangers = [
        entry("latency", machine="a", weights=weights("other")),
        entry("latency", "yolov3", machine="b", weights=weights("ssd300_vgg16")),
        entry("latency", machine="c", dataset=BCCD),
        entry("latency", machine="d", weights=None),
    ]
    shelf = Shelf([*strangers, on_gpu, fits, accuracy])
    assert shelf.latencies(accuracy) == {"cpu-2core": fits, "h200, cuda": on_gpu}
    assert Shelf([entry("latency", weights=None)]).latencies(entry("accuracy", weights=None)) == {}


def test_times_of_one_thread_have_a_column_of_their_own() -> None:
    """Whichever file comes first: the usual two threads keep theirs."""
    alone = Hardware(
        machine="local", device="cpu: EPYC", profile=None, deviations=("cpu-2core: threads is 1, not 2",), threads=1
    )
    accuracy, usual = entry("accuracy"), entry("latency")
    single = entry("latency", hardware=alone, samples=samples(0.05))
    assert usual.place != single.place
    shelf = Shelf([single, usual, accuracy])
    assert shelf.latencies(accuracy) == {"cpu-2core": usual, "cpu-2core, 1 thread": single}
    (row,) = table(leaderboards(shelf))
    assert (row["ms (cpu-2core)"], row["ms (cpu-2core, 1 thread)"]) == ("20.0", "50.0")
    (grid,) = (block for block in leaderboards(shelf)[0].blocks if isinstance(block, Grid))
    assert any("conforms to no profile (cpu-2core: threads is 1, not 2)" in text for _, text in grid.notes)


def test_a_cost_stands_only_beside_exactly_its_network() -> None:
    accuracy = entry("accuracy")
    fits = entry("cost")
    strangers = [
        entry("cost", machine="a", num_classes=3),
        entry("cost", machine="b", overrides={"size": 256}),
        entry("cost", machine="c", scale="paper"),
        entry("cost", "ssd512_vgg16", machine="d"),
    ]
    assert Shelf([*strangers, fits]).cost(accuracy) is fits
    assert Shelf(strangers).cost(accuracy) is None


def test_paper_cost_prefers_the_papers_classes() -> None:
    voc = entry("cost", scale="paper", num_classes=20)
    coco = entry("cost", scale="paper", num_classes=80)
    shelf = Shelf([entry("cost"), coco, voc])
    assert shelf.paper_cost("ssd300_vgg16", 20) is voc
    assert shelf.paper_cost("ssd300_vgg16", 80) is coco
    assert shelf.paper_cost("yolov3", 80) is None
    assert shelf.paper_cost(None, 80) is None


def test_equal_weights_on_two_machines_are_one_result() -> None:
    first, second = entry("accuracy"), entry("accuracy", machine="h200", hardware=OTHER)
    assert Shelf([second, first]).accuracies == (first,)


@pytest.mark.parametrize(
    "changes",
    [
        {"weights": weights("other")},
        {"scale": "paper"},
        {"dataset": BCCD},
        {"dataset": SHAPES.model_copy(update={"fingerprint": "0" * 8})},
        {"hardware": OTHER.model_copy(update={"precision": "float16"})},
    ],
)
def test_what_differs_is_another_result(changes: dict[str, object]) -> None:
    pair = (entry("accuracy"), entry("accuracy", machine="z", **changes))
    assert Shelf(pair).accuracies == pair


def test_an_own_run_counts_when_it_differs_in_print() -> None:
    project = entry("accuracy", metrics=metrics(0.45))
    same = entry("accuracy", own=True, metrics=metrics(0.45001))
    worse = entry("accuracy", own=True, metrics=metrics(0.44))
    assert Shelf([same, project]).accuracies == (project,)
    assert Shelf([worse, project]).accuracies == (project, worse)
    assert Shelf([worse]).accuracies == (worse,)


@pytest.mark.parametrize("kind", ["accuracy", "latency", "training"])
def test_variants_are_not_the_detector(kind: str) -> None:
    plain, variant = entry(kind, seed=0), entry(kind, seed=0, variant={"sampler": "all"}, weights=weights("other"))
    shelf = Shelf([variant, plain])
    assert list(shelf.of(kind)) == [plain]
    assert list(shelf.of_variants(kind)) == [variant]
    assert shelf.accuracies == shelf.trainings == ((plain,) if kind == "accuracy" else ())


def test_an_accuracy_without_data_set_is_refused() -> None:
    with pytest.raises(ReportError, match="dataset: is None"):
        _ = Shelf([entry("accuracy", dataset=None)]).accuracies


def test_what_is_known_of_a_detector_may_stand_in_any_record() -> None:
    shelf = Shelf([entry("accuracy"), entry("cost", scale="paper", metrics=cost(1) | {"year": 2016})])
    assert shelf.about("ssd300_vgg16", "year") == "2016"
    assert shelf.about("ssd300_vgg16", "family") == "—"
    assert shelf.about("yolov3", "year") == "—"


def test_reading_leaves_local_and_what_is_no_record(tmp_path: Path) -> None:
    committed = tmp_path / "results"
    own = tmp_path / "run"
    record("accuracy").write(committed / "cpu-2core")
    record("cost").write(committed / "any")
    record("accuracy", "yolov3").write(committed / "local")
    record("latency", samples=samples(1.0)).write(own)
    (committed / "__init__.py").write_text("")
    (own / "detections.json").write_text("[]")
    (own / "metrics.json").write_text("{")
    places = [(found.place.partition("/")[0], found.record.kind, found.own) for found in read_entries(committed)]
    assert places == [("any", "cost", False), ("cpu-2core", "accuracy", False)]
    with_own = read_entries(committed, [own])
    assert [(found.machine, found.own) for found in with_own[2:]] == [("own machine", True)]
    with pytest.raises(ReportError, match="is no folder"):
        read_entries(committed, [tmp_path / "nowhere"])
    (own / "accuracy.broken.json").write_text("{")
    with pytest.raises(RecordError, match=r"accuracy\.broken\.json"):
        read_entries(committed, [own])


def test_the_test_of_an_entry_is_data_set_and_split() -> None:
    assert entry("accuracy", dataset=COCO_197).test == "coco val2017"
    assert entry("cost").test == ""
