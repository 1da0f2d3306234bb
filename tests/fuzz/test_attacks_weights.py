"""Checkpoints made to harm: headers that lie, shapes that are none, pickles and archives that are bombs."""

from __future__ import annotations

import io
import json
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import caffe_files, mat_files
from tests.fuzz.attacks import refused
from zoo import CATALOG, build
from zoo.checkpoints import CheckpointError, load, load_into, save
from zoo.formats.acf_mat import read_trees
from zoo.formats.caffe import CaffeError, read_caffemodel, read_prototxt
from zoo.formats.darknet import DarknetError
from zoo.formats.darknet_cfg import parse_cfg
from zoo.formats.darknet_network import CfgNetwork
from zoo.formats.detectron import DetectronError, read_detectron
from zoo.formats.dpm_mat import read_star_mixture
from zoo.formats.mat import MatError
from zoo.formats.state_dict import StateDictError, read_state_dict


def test_safetensors_whose_header_lies(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    whole = json.dumps({"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    deep = b'{"x":' + b"[" * 100_000
    for data in (b"\xff" * 8, (2**40).to_bytes(8, "little") + b"{}", len(whole).to_bytes(8, "little") + whole,
                 len(deep).to_bytes(8, "little") + deep, b""):  # fmt: skip
        path.write_bytes(data)
        refused(CheckpointError, r"a\.safetensors: no whole safetensors file", load, path)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., Path]:
    def write(**metadata: str) -> Path:
        from safetensors.torch import save_file

        small = dict(CATALOG["hog_svm"].small or {})
        path = tmp_path / "a.safetensors"
        own = {"detector": "hog_svm", "num_classes": 2, "overrides": small, "class_names": ["a", "b"], "small": True}
        notes = {name: json.dumps(value) for name, value in own.items()} | metadata
        save_file(build("hog_svm", 2, **small).state_dict(), path, notes)
        return path

    return write


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"num_classes": "1000000000"}, "metadata 'class_names': 2 names for 1000000000 classes"),
        ({"num_classes": "true"}, "metadata 'num_classes': True is no int"),
        ({"overrides": '{"window": [100000, 100000]}'}, "overrides: hog_svm cannot be built from them"),
        ({"overrides": '{"window": [0, 0]}'}, ""),
        ({"overrides": '{"window": ' + "[" * 100_000}, "metadata 'overrides': no JSON"),
        ({"overrides": '{"score_floor": NaN}'}, "NaN is no number of JSON"),
        ({"class_names": "[1, 2]"}, "metadata 'class_names'"),
        ({"extra": "{"}, "metadata 'extra': no JSON"),
        ({"extra": "[]"}, "metadata 'extra': holds no names"),
        ({"detector": '"ssd300_vgg16"', "overrides": "{}"}, "overrides: ssd300_vgg16 cannot be built .*more numbers"),
        ({"detector": '"os.system"'}, "'os.system' is not in the catalog"),
    ],
)
def test_a_checkpoint_that_lies_about_itself(
    checkpoint: Callable[..., Path], metadata: dict[str, str], words: str
) -> None:
    refused(CheckpointError, rf"a\.safetensors: .*{words}", load, checkpoint(**metadata))


def test_numbers_that_no_weight_can_be(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model = build("hog_svm", 2, **dict(CATALOG["hog_svm"].small or {}))
    name, value = next((name, value) for name, value in model.state_dict().items() if value.is_floating_point())
    path = tmp_path / "a.safetensors"
    # The last of these is finite, but not in float32.
    for wrong, kind in ((float("nan"), torch.float32), (float("inf"), torch.float16), (1e300, torch.float64)):
        save_file({**model.state_dict(), name: torch.full(value.shape, wrong, dtype=kind)}, path)
        refused(CheckpointError, f"{name}: holds NaN or infinity", load_into, model, path)
    for tensor in (value.long(), value.to(torch.complex64), value[None].contiguous()):
        save_file({**model.state_dict(), name: tensor}, path)
        refused(CheckpointError, rf"a\.safetensors: .*{name}", load_into, model, path)


def test_a_checkpoint_of_another_detector(tmp_path: Path) -> None:
    small = dict(CATALOG["hog_svm"].small or {})
    path = tmp_path / "a.safetensors"
    names = ("a", "b")
    save(path, build("hog_svm", 2, **small), detector="hog_svm", num_classes=2, overrides=small, class_names=names,
         small=True)  # fmt: skip
    refused(CheckpointError, "belongs to another network", load_into, build("viola_jones", 2), path)


def torch_zip(compression: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("a/data.pkl", members.pop("pickled", b"\x80\x02}."))
        archive.writestr("a/version", b"3\n")
        for name, content in members.items():
            archive.writestr(f"a/{name}", content)
    return file.getvalue()


DEEP = b"\x80\x02}N" + b"\x85" * 1_000_000 + b"K\x01s."
LADDER = b"\x80\x02}N" + b"".join(b"q%c" % n + b"h%c\x86" % n for n in range(60)) + b"K\x01s."
FAR = b"\x80\x02}r\xff\xff\xff\x7f."


@pytest.mark.parametrize("pickled", [DEEP, LADDER, FAR], ids=["deep", "each twice the last", "a place far off"])
def test_pickles_that_are_bombs(pickled: bytes, tmp_path: Path) -> None:
    """The first overflows the stack of whoever hashes it, the second takes him years, the third takes 34 GB."""
    (tmp_path / "a.pkl").write_bytes(pickled)
    words = r"a\.pkl: no whole .*(nested too deeply|remembers an object)"
    refused(DetectronError, words, read_detectron, tmp_path / "a.pkl")
    refused(StateDictError, words, read_state_dict, tmp_path / "a.pkl")
    (tmp_path / "a.pkl").write_bytes(torch_zip(pickled=pickled))
    refused(StateDictError, words, read_state_dict, tmp_path / "a.pkl")
    refused(DetectronError, r"a\.pkl: no whole pickle", read_detectron, tmp_path / "a.pkl")


def test_archives_of_torch_that_are_bombs(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(torch_zip(zipfile.ZIP_DEFLATED, **{"data/0": bytes(1 << 20)}))
    refused(StateDictError, r"a\.pth: .*compressed, as torch's never are", read_state_dict, path)
    whole = torch_zip(**{"data/0": b"12345678"})
    place = whole.rindex(b"PK\x01\x02")
    path.write_bytes(whole[: place + 20] + struct.pack("<2I", 2**31, 2**31) + whole[place + 28 :])
    refused(StateDictError, r"a\.pth: .*claims more bytes than the file has", read_state_dict, path)


def test_a_tensor_larger_than_its_file(tmp_path: Path) -> None:
    """One number that claims to be 10^18, by strides of 0."""
    path = tmp_path / "a.pth"
    torch.save({"head": torch.ones(1).expand(10**9, 10**9)}, path)
    assert path.stat().st_size < 10_000
    model = build("hog_svm", 2)
    refused(CheckpointError, r"a\.pth: ", load_into, model, path, "torch")
    torch.save({"model": {"roi_heads.box_predictor.cls_score.bias": torch.ones(1).expand(10**12)}}, path)
    refused(DetectronError, "1,000,000,000,000 numbers, which the file does not hold", read_detectron, path)


def test_what_is_printed_has_an_end(tmp_path: Path) -> None:
    """Lists within lists, each twice the last, where an element type or a shape should be: never printed."""
    laughs: Any = []
    for _ in range(60):
        laughs = [laughs, laughs]
    array = pickle.dumps({"blobs": {"fc6_w": np.zeros(3, np.float32)}}, 2)
    assert array.count(b"K\x03\x85") == array.count(b"X\x02\x00\x00\x00f4") == 1
    inner = pickle.dumps(laughs, 2)[2:-1]
    # Places of its memo that the outer pickle does not use.
    inner = re.sub(rb"q(.)", lambda found: b"q" + bytes([found[1][0] + 100]), inner, flags=re.DOTALL)
    inner = re.sub(rb"h(.)", lambda found: b"h" + bytes([found[1][0] + 100]), inner, flags=re.DOTALL)
    for old, new in ((b"K\x03\x85", inner + b"\x85"), (b"X\x02\x00\x00\x00f4", inner)):
        (tmp_path / "a.pkl").write_bytes(array.replace(old, new))
        refused(DetectronError, r"a\.pkl: ", read_detectron, tmp_path / "a.pkl")


def element(kind: int, content: bytes) -> bytes:
    return struct.pack("<2I", kind, len(content)) + content + bytes(-len(content) % 8)


def matrix(form: int, sides: tuple[int, ...], *members: bytes, name: bytes = b"") -> bytes:
    flags = element(6, struct.pack("<2I", form, 0))
    return element(
        14, flags + element(5, struct.pack(f"<{len(sides)}i", *sides)) + element(1, name) + b"".join(members)
    )


NESTED = element(14, b"")
for _ in range(200):
    NESTED = matrix(1, (1, 1), NESTED)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (matrix(1, (2**30, 1), name=b"detector"), "claims 1,073,741,824 others, which it does not hold"),
        (matrix(2, (2**15, 2**15), element(5, b"\x08\0\0\0"), element(1, b""), name=b"detector"), "without a field"),
        (matrix(6, (2**20, 2**10), element(9, bytes(8)), name=b"detector"), "claims 1,073,741,824 numbers"),
        (matrix(1, (1, 1), NESTED, name=b"detector"), "nested too deeply"),
        (matrix(17, (1, 1), name=b"detector"), "a matrix of class 17, which no model has"),
        (matrix(6, (1, 1), element(0, bytes(8)), name=b"detector"), "an element is of type 0, where there should be"),
        (
            matrix(6, (1, 1), element(9, bytes(8)), name=b"detector") * 2,
            "detector stands in it twice|stands behind detector",
        ),
        (
            matrix(2, (1, 1), element(5, b"\x0b\x10\0\0"), element(1, b"fids\0thrs\0"), name=b"detector"),
            "10 bytes of names are no names of 4,107 bytes each",
        ),
        (
            matrix(1, (1, 1), matrix(6, (1, 1), element(9, bytes(8)), bytes(8)), name=b"detector"),
            "of which it fills 56",
        ),
        (struct.pack("<2I", 14, 2**31), "claims 2,147,483,648 bytes, where 0 are left|cut off before its name"),
    ],
    ids=[
        "cells",
        "structures",
        "numbers",
        "nested",
        "an object",
        "what crashes scipy",
        "twice",
        "names",
        "rest",
        "length",
    ],
)
def test_matrices_that_claim_more_than_they_hold(data: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    head = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    for content in (data, element(15, zlib.compress(data))):
        path.write_bytes(head + content)
        refused(MatError, rf"a\.mat: no whole \.mat file of version 5 to 7\.2 \(.*({words})", read_trees, path)


def test_a_matrix_that_unpacks_without_end(tmp_path: Path) -> None:
    path = mat_files.toolbox(tmp_path / "a.mat")
    head, packer = path.read_bytes()[:128], zlib.compressobj(1)
    start = matrix(6, (2**16, 2**13), name=b"detector")
    packed = packer.compress(start) + b"".join(packer.compress(bytes(1 << 20)) for _ in range(257)) + packer.flush()
    path.write_bytes(head + element(15, packed))
    refused(MatError, "a variable unpacks to over 268,435,456 bytes", read_trees, path)


def test_blobs_with_shapes_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.caffemodel"
    numbers = caffe_files.field(5, np.ones(1, "<f4").tobytes())
    for sides in ([1] * 70, [2**62] * 150_000, [0, 2**62, 2**62]):
        blob = caffe_files.field(7, caffe_files.field(1, b"".join(map(caffe_files.varint, sides)))) + numbers
        path.write_bytes(caffe_files.field(100, caffe_files.field(1, "a") + caffe_files.field(7, blob)))
        refused(CaffeError, r"a\.caffemodel: byte \d+, in layer 'a': blob 0 has a shape of", read_caffemodel, path)
    path.write_text(f"name: {'9' * 5000}")
    refused(CaffeError, "'name' has a number of 5,000 digits", read_prototxt, path)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ("[convolutional]\nfilters=1000000\nsize=1000\n", "takes 3,000,000,000,000 weights"),
        ("[connected]\noutput=1000000\n", "takes 3,072,000,000 weights"),
        ("[local]\nsize=3\nfilters=1000000\n", "weights, over"),
        ("[upsample]\nstride=10000\n", r"makes a map of \(3, 320000, 320000\)"),
        ("[region]\nnum=1000000\n", "'1000000' is more than 1,000"),
        ("[convolutional]\nfilters=1e300\n", "more than 1,000,000"),
        ("[convolutional]\nfilters=1_0\n", "no number"),
    ],
)
def test_networks_beyond_all_use(layer: str, words: str) -> None:
    text = f"[net]\nwidth=32\nheight=32\nchannels=3\n{layer}"
    refused(DarknetError, rf"a\.cfg: line [56]: .*{words}", lambda: CfgNetwork(parse_cfg(text, "a.cfg")))


def test_a_double_that_is_infinite_as_a_float(tmp_path: Path) -> None:
    def large(model: Any) -> None:
        model["blocks"][0]["w"][3] = 1e300

    path = mat_files.release(tmp_path / "a.mat", large)
    refused(MatError, r"a\.mat: model\.blocks\(1\)\.w: holds NaN, infinity or a number", read_star_mixture, path)
