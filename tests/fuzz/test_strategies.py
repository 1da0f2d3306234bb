"""Files that are well formed and say anything: entries of every kind and number, where the mutator damages bytes."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.results import COMMITTED
from tests.fuzz.data_readers import DETECTIONS, TRUTH
from tests.fuzz.hunt import problem_of
from tests.fuzz.readers import READERS

BY_NAME = {reader.name: reader for reader in READERS}
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from([0, 1, -1, 10**400, 2**63, 1e308, "", "7", "../a", [0, 0, 1, 1], [1e300] * 4])
)  # fmt: skip
JUNK = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
NUMBERS = (
    st.integers(-10, 50).map(str)
    | st.floats().map(str)
    | st.sampled_from(["", " ", "1e400", "nan", "-0", "1_0", "٣", "0x10", "9" * 400, "1e308"])
    | st.text(max_size=4)
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container of a document with each of its keys."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [place for key in keys for place in ((value, key), *places(value[key]))]


@st.composite
def spoilt(draw: st.DrawFn, document: Any) -> bytes:
    """The document as JSON, with one to three entries of another kind, or gone."""
    changed = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        if known := places(changed):
            owner, key = known[draw(st.integers(0, len(known) - 1))]
            if draw(st.booleans()) or isinstance(owner, list):
                owner[key] = copy.deepcopy(draw(JUNK))
            else:
                del owner[key]
    return json.dumps(changed).encode()


@st.composite
def annotation(draw: st.DrawFn) -> bytes:
    """An XML of VOC; each element may be missing, empty or anything."""

    def element(name: str, content: str) -> str:
        return "" if draw(st.integers(0, 9)) == 0 else f"<{name}>{content}</{name}>"

    def printable(text: str) -> str:
        return escape("".join(letter for letter in text if letter.isprintable()))

    def numbers(*names: str) -> str:
        likely = st.integers(1, 40).map(str)
        return "".join(element(name, printable(draw(likely | NUMBERS))) for name in names)

    objects = [
        element("name", printable(draw(st.sampled_from(["dog", "person", " cat "]) | st.text(max_size=5))))
        + element("difficult", printable(draw(st.sampled_from(["0", "1", ""]) | NUMBERS)))
        + element("bndbox", numbers("xmin", "ymin", "xmax", "ymax"))
        for _ in range(draw(st.integers(0, 3)))
    ]
    size = element("size", numbers("width", "height"))
    return element("annotation", size + "".join(f"<object>{one}</object>" for one in objects)).encode()


LINES = st.lists(
    st.tuples(st.sampled_from(["a", "b", "42"]) | st.text(max_size=3), *[st.integers(1, 20).map(str) | NUMBERS] * 5)
    .map(" ".join)
    .map(lambda line: line[:200]),
    max_size=4,
).map(lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass"))

_SECTIONS = [
    "convolutional",
    "maxpool",
    "route",
    "shortcut",
    "upsample",
    "reorg",
    "connected",
    "yolo",
    "region",
    "local",
]
_ENTRIES = ["filters", "size", "stride", "pad", "padding", "groups", "layers", "from", "output", "classes", "num",
            "anchors", "mask", "activation", "dilation", "batch_normalize"]  # fmt: skip
_VALUE = st.integers(-3, 12).map(str) | NUMBERS | st.lists(st.integers(-3, 9).map(str), max_size=4).map(",".join)
NETWORKS = st.lists(
    st.tuples(
        st.sampled_from(_SECTIONS),
        st.lists(st.tuples(st.sampled_from(_ENTRIES), _VALUE | st.sampled_from(["leaky", "linear"])), max_size=4),
    ),
    min_size=1,
    max_size=5,
).map(
    lambda sections: ("[net]\nwidth=32\nheight=32\nchannels=3\n" + "".join(
        f"[{name}]\n" + "".join(f"{key}={value}\n" for key, value in entries) for name, entries in sections
    )).encode("utf-8", "surrogatepass")
)  # fmt: skip

FILES = {
    "voc": annotation(),
    "coco": spoilt(TRUTH),
    "ground truth": spoilt(TRUTH),
    "detections": spoilt(DETECTIONS),
    "comp": LINES,
    "cfg": NETWORKS,
    "record": spoilt(json.loads(min(COMMITTED.glob("*/accuracy*.json"), key=lambda f: f.stat().st_size).read_bytes())),
}


@pytest.mark.parametrize("name", FILES)
def test_well_formed_files_that_say_anything(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    reader = BY_NAME[name]
    path = tmp_path / reader.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(reader.seeds(tmp_path)[0])
    reader.read(path)

    @settings(
        max_examples=request.config.getoption("--fuzz"),
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(FILES[name])
    def keeps_its_promise(data: bytes) -> None:
        path.write_bytes(data)
        assert problem_of(reader, path)[0] is None, data[:2000]

    keeps_its_promise()
