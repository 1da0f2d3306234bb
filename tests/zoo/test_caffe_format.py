import random
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.caffe_files import (
    Array,
    doubles,
    field,
    halves,
    in_two_runs,
    layer,
    layer_v1,
    legacy,
    message,
    packed,
    shape,
    unpacked,
    varint,
    write_caffemodel,
)
from zoo.formats.caffe import CaffeError, load_caffe, read_caffemodel, read_prototxt
from zoo.parts.l2norm import L2Norm


def numbers(*sides: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(sides).astype(np.float32)


def positive(*sides: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).uniform(0.5, 2, sides).astype(np.float32)


CONVOLUTION = field(
    106,
    message((1, 8), (2, 0), (3, 1), (4, 3), (4, 5), (6, 2), (5, 2), (7, message((1, "xavier"))), (18, 2)),
)


# Binary files.


def test_bytes_of_a_layer(tmp_path: Path) -> None:
    """By hand: a name, a type, maps and a blob; what is unknown is stepped over."""
    blob = b"\x3a\x04\x0a\x02\x02\x03" + b"\x2a\x18" + struct.pack("<6f", 1, 2, 3, 4, 5, 6)
    content = (
        b"\x0a\x03net"  # NetParameter.name
        + b"\x28\x01"  # force_backward, which is not read
        + b"\xa2\x06\x3b"  # layer, 59 bytes
        + b"\x0a\x01c\x12\x0bConvolution\x1a\x01a\x1a\x01b\x22\x01t"
        + b"\x3a\x20"
        + blob
    )
    path = tmp_path / "by_hand.caffemodel"
    path.write_bytes(content)
    net = read_caffemodel(path)
    assert net.name == "net"
    (found,) = net.layers
    assert (found.name, found.type, found.bottoms, found.tops) == ("c", "Convolution", ("a", "b"), ("t",))
    assert found.blobs[0].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert found.blobs[0].dtype == np.float32


def test_settings_and_rules(tmp_path: Path) -> None:
    negative = field(104, message((2, -3)))
    pool = field(121, message((1, 1), (2, 3)))
    steps = field(203, field(6, struct.pack("<4f", 0.1, 0.1, 0.2, 0.2)) + field(1, 30.0) + field(1, 60.0))
    train, test = field(8, field(1, 0)), field(8, field(1, 1))
    layers = [
        layer("c", "Convolution", settings=CONVOLUTION),
        layer("a", "Concat", settings=negative + train),
        layer("p", "Pooling", settings=pool + train + test),
        layer("b", "PriorBox", settings=steps + field(9, field(1, 0))),
        layer("x", "Softmax", settings=field(9, field(1, 1))),
        layer("s", "Softmax", settings=field(8, field(4, "deploy"))),
    ]
    net = read_caffemodel(write_caffemodel(tmp_path / "a.caffemodel", *layers))
    conv, concat, pooling, priors, *_ = net.layers
    assert conv.settings("convolution_param", "kernel_size") == (3, 5)
    assert conv.setting("convolution_param", "bias_term", True) is False
    assert conv.setting("convolution_param", "dilation", 1) == 2
    assert conv.setting("convolution_param", "group", 1) == 2
    assert conv.setting("convolution_param", "pad_h", 7) == 7
    assert concat.setting("concat_param", "axis", 1) == -3
    assert pooling.setting("pooling_param", "pool", "MAX") == "AVE"
    assert priors.settings("prior_box_param", "variance") == pytest.approx([0.1, 0.1, 0.2, 0.2])
    assert priors.settings("prior_box_param", "min_size") == (30.0, 60.0)
    assert [each.runs_in_test for each in net.layers] == [True, False, True, True, False, False]


@pytest.mark.parametrize("write", [packed, unpacked, in_two_runs, doubles, halves, legacy])
@pytest.mark.parametrize("make", [layer, layer_v1])
def test_blobs_in_every_way_they_are_written(tmp_path: Path, write: Callable, make: Callable) -> None:
    blob = numbers(4, 3, 3, 5).astype(np.float16).astype(np.float32)
    kind: Any = "Convolution" if make is layer else 4
    path = write_caffemodel(tmp_path / "a.caffemodel", make("c", kind, ("in",), ("out",), [blob, blob], write=write))
    (found,) = read_caffemodel(path).layers
    assert (found.name, found.type, found.bottoms, found.tops) == ("c", "Convolution", ("in",), ("out",))
    for read in found.blobs:
        assert np.array_equal(read, blob)


def test_a_long_blob_that_is_not_packed(tmp_path: Path) -> None:
    """Keys and values alternate; a value that looks like a key does not end the run."""
    blob = np.frombuffer(b"\x2d" * 4 * 10_000, "<f4")
    path = write_caffemodel(tmp_path / "a.caffemodel", layer("c", "Convolution", blobs=[blob], write=unpacked))
    assert np.array_equal(read_caffemodel(path).layers[0].blobs[0], blob)


def test_legacy_shapes_have_four_sides(tmp_path: Path) -> None:
    path = write_caffemodel(tmp_path / "a.caffemodel", layer_v1("f", 14, blobs=[numbers(2, 3), numbers(2)]))
    (found,) = read_caffemodel(path).layers
    assert [blob.shape for blob in found.blobs] == [(1, 1, 2, 3), (1, 1, 1, 2)]
    assert found.type == "InnerProduct"


# Files that are no good.


def whole() -> bytes:
    settings = CONVOLUTION + field(8, field(1, 1)) + field(203, field(1, 30.0))
    return field(1, "n") + layer("c", "Convolution", "a", "b", [numbers(2, 3), numbers(2)], settings)


def test_every_truncation_is_one_error(tmp_path: Path) -> None:
    content = whole() + layer("d", "ReLU")
    path = tmp_path / "cut.caffemodel"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        if length == len(whole()):
            assert len(read_caffemodel(path).layers) == 1
            continue
        with pytest.raises(CaffeError, match=r"cut\.caffemodel: "):
            read_caffemodel(path)


def test_no_damage_does_worse_than_one_error(tmp_path: Path) -> None:
    content = bytearray(whole())
    path = tmp_path / "damaged.caffemodel"
    chance = random.Random(0)
    refused = 0
    for position in range(len(content)):
        for value in (0x80, 0xFF, chance.randrange(256)):
            damaged = bytearray(content)
            damaged[position] = value
            path.write_bytes(damaged)
            try:
                read_caffemodel(path)
            except CaffeError:
                refused += 1
    assert refused > len(content)
    for length in (1, 10, 1000):
        for _ in range(30):
            path.write_bytes(chance.randbytes(length))
            with pytest.raises(CaffeError):
                read_caffemodel(path)


def in_blob(content: bytes) -> bytes:
    return field(100, message((1, "conv7"), (2, "Convolution"), (7, content)))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no layers"),
        (field(1, "only a name"), "no layers"),
        (b"<html>not found</html>", "wire type"),
        (
            varint(100 << 3 | 2) + varint(1 << 60),
            r"byte 0: field 100 claims 1,152,921,504,606,846,976 bytes, but 0 are",
        ),
        (varint(100 << 3 | 2) + b"\xff" * 11, "more than ten bytes"),
        (varint(100 << 3 | 3), "wire type 3"),
        (b"\x00", "no field 0"),
        (field(100, 5), "wrong wire type"),
        (field(100, field(1, b"\xff\xfe")), "no text"),
        (
            in_blob(field(7, field(1, varint(1 << 20) * 2)) + field(5, b"\0" * 8)),
            r"'conv7': blob 0 has shape \(1048576",
        ),
        (in_blob(field(7, field(1, varint(-2) + varint(-1))) + field(5, b"\0" * 8)), r"shape \(-2, -1\) but 2 numbers"),
        (in_blob(field(5, b"\0" * 8)), "no shape but 2 numbers"),
        (in_blob(shape(numbers(2)) + field(5, b"\0" * 7)), "no multiple of 4"),
        (in_blob(shape(numbers(2)) + field(5, b"\0" * 4)), "but 1 numbers"),
        (in_blob(shape(numbers(2))), "but 0 numbers"),
        (in_blob(packed(np.array([1, np.nan], np.float32))), "'conv7': blob 0 holds nan"),
        (in_blob(shape(numbers(1)) + field(8, struct.pack("<d", 1e300))), "holds inf"),
        (in_blob(shape(numbers(1)) + field(10, 3) + field(12, b"\0\0\0\0")), "whole numbers"),
        (in_blob(shape(numbers(1)) + field(10, 9)), "5 choices"),
        (field(2, field(1, field(1, "old"))), "V0.*upgrade_net_proto_binary"),
        (layer("a", "ReLU") + layer_v1("b", 18), "both 'layer' and 'layers'"),
        (field(3, "data") + layer("a", "ReLU"), "1 inputs, but 0 shapes"),
        (field(100, b"\x22\x00" * 210_000), "fields"),
        (layer("a", "PriorBox", settings=field(203, field(1, b"\0" * 4 * 210_000))), "fields"),
        (layer("a", "Permute", settings=field(202, field(1, b"\0" * 210_000))), "fields"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "bad.caffemodel"
    path.write_bytes(content)
    with pytest.raises(CaffeError, match=words) as caught:
        read_caffemodel(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_lengths_are_not_believed_before_memory_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "bad.caffemodel"
    sides = field(7, field(1, varint(1 << 40) * 3))
    path.write_bytes(in_blob(sides + varint(5 << 3 | 2) + varint(1 << 50)))
    tracemalloc.start()
    with pytest.raises(CaffeError, match="in layer 'conv7': field 5 claims"):
        read_caffemodel(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for read in (read_caffemodel, read_prototxt):
        with pytest.raises(CaffeError, match=r"none: cannot be read \(No such file"):
            read(tmp_path / "none")
        with pytest.raises(CaffeError, match="cannot be read"):
            read(tmp_path)


# Text files.


PROTOTXT = """
# A comment: { is no brace here.
name: 'toy'  input: "data" input_dim: [1, 3]
input_dim: 20; input_dim: 0x14
layer { name: "a" "bc" type: "Convolution" bottom: "data" top: "it's \\"x\\""
  convolution_param < num_output: 8, kernel_size: 3 kernel_size: 5 bias_term: false weight_filler { type: "msra" } >
}
layer: { name: "p" type: "Pooling" pooling_param { pool: AVE } include: { phase: TRAIN } }
layer { name: "b" type: "PriorBox" prior_box_param { min_size: 30 max_size: 6e1 step: -.5f variance: [.1, .2] } }
layer { name: "u" type: "Upsample" upsample_param { scale: 2 } }
"""


def test_text(tmp_path: Path) -> None:
    path = tmp_path / "a.prototxt"
    path.write_text(PROTOTXT)
    net = read_prototxt(path)
    assert (net.name, dict(net.inputs)) == ("toy", {"data": (1, 3, 20, 20)})
    conv, pool, prior, up = net.layers
    assert (conv.name, conv.type, conv.bottoms, conv.tops) == ("abc", "Convolution", ("data",), ('it\'s "x"',))
    assert conv.settings("convolution_param", "kernel_size") == (3, 5)
    assert conv.setting("convolution_param", "bias_term", True) is False
    assert pool.setting("pooling_param", "pool", "MAX") == "AVE"
    assert not pool.runs_in_test
    assert prior.settings("prior_box_param", "min_size") == (30,)
    assert prior.settings("prior_box_param", "max_size") == (60,)
    assert prior.settings("prior_box_param", "step") == (-0.5,)
    assert prior.settings("prior_box_param", "variance") == (0.1, 0.2)
    assert up.setting("upsample_param", "scale", None) == 2


def test_old_text_spells_types_as_today(tmp_path: Path) -> None:
    path = tmp_path / "a.prototxt"
    path.write_text('layers { name: "f" type: INNER_PRODUCT } layers { name: "r" type: RELU }')
    assert [each.type for each in read_prototxt(path).layers] == ["InnerProduct", "ReLU"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no layers"),
        ("\n\nlayer { name: 'a' ", r"line 3: .*the end of the file"),
        ("layer {\n name: 'a\n}", r"line 2: \"'\" belongs to no token"),
        ("layer {\n name 'a' }", "line 2: 'name' has no value"),
        ("layer {\n name: }", "line 2: the value of 'name' is missing"),
        ("layer { name: 5 }", "'name' cannot be '5'"),
        ("layer: 5", "'layer' cannot be '5'"),
        ("layer { blobs: 5 }", "'blobs' cannot be '5'"),
        ("layer { pooling_param { pool: MEAN } }", "'pool' cannot be 'MEAN'"),
        ("layer { pooling_param { pad: 0.5 } }", "'pad' cannot be '0.5'"),
        ("layer { convolution_param { bias_term: 'yes' } }", "'bias_term' cannot be"),
        ("layer { input_param { shape { dim: [1, 3 } } }", "'dim' is missing before"),
        ("} layer {", "line 1: a field's name"),
        ("layer { } }", "a field's name"),
        ("a { " * 200, "nested more than 32"),
        ("layer { name: 'a' } \x00", "belongs to no token"),
    ],
)
def test_wrong_text_is_named_by_its_line(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "bad.prototxt"
    path.write_text(content)
    with pytest.raises(CaffeError, match=words):
        read_prototxt(path)
    path.write_bytes(b"\xff\xfe" + content.encode())
    with pytest.raises(CaffeError, match="no text"):
        read_prototxt(path)


# Into modules.


def norm_layers(channels: int, factor: float = 2.5, eps: float | None = None, seed: int = 5) -> list[bytes]:
    statistics = [numbers(channels, seed=seed), positive(channels, seed=seed), np.array([factor], np.float32)]
    settings = b"" if eps is None else field(139, field(3, eps))
    return [
        layer("bn", "BatchNorm", blobs=statistics, settings=settings),
        layer("scale", "Scale", blobs=[positive(channels, seed=seed + 1), numbers(channels, seed=seed + 2)]),
    ]


def normed(x: Tensor, factor: float = 2.5, eps: float = 1e-5, seed: int = 5) -> Tensor:
    """BatchNorm and Scale as the layers' documentation has them."""
    channels = x.shape[1]

    def column(array: Array) -> Tensor:
        return torch.from_numpy(array)[:, None, None]

    share = 1 / factor if factor else 0.0
    mean, variance = column(numbers(channels, seed=seed)) * share, column(positive(channels, seed=seed)) * share
    gamma, beta = column(positive(channels, seed=seed + 1)), column(numbers(channels, seed=seed + 2))
    return (x - mean) / (variance + eps).sqrt() * gamma + beta


def image(channels: int = 4) -> Tensor:
    return torch.from_numpy(numbers(2, channels, 9, 9, seed=99))


@pytest.mark.parametrize("factor", [1.0, 2.5, 999.98236, 0.0])
@pytest.mark.parametrize("eps", [None, 1e-3])
def test_batch_norm_divides_by_its_factor(tmp_path: Path, factor: float, eps: float | None) -> None:
    path = write_caffemodel(tmp_path / "a.caffemodel", *norm_layers(4, factor, eps))
    model = nn.Sequential(nn.BatchNorm2d(4)).eval()
    load_caffe(model, path, {"0": ("bn", "scale")})
    if eps is None:
        share = 1 / factor if factor else 0.0
        assert torch.allclose(model[0].running_mean, torch.from_numpy(numbers(4, seed=5)) * share)
        assert torch.allclose(model[0].running_var, torch.from_numpy(positive(4, seed=5)) * share, atol=1e-7)
    assert torch.allclose(model(image()), normed(image(), factor, 1e-5 if eps is None else eps), rtol=1e-4, atol=1e-4)


def test_norms_without_scale_or_without_weight(tmp_path: Path) -> None:
    path = write_caffemodel(tmp_path / "a.caffemodel", norm_layers(4)[0])
    plain, affine = nn.Sequential(nn.BatchNorm2d(4, affine=False)).eval(), nn.Sequential(nn.BatchNorm2d(4)).eval()
    load_caffe(plain, path, {"0": "bn"})
    load_caffe(affine, path, {"0": "bn"})
    assert torch.equal(plain(image()), affine(image()))


@pytest.mark.parametrize("build", [nn.Conv2d, nn.ConvTranspose2d])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("biased", [False, True])
def test_norms_fold_into_convolutions(tmp_path: Path, build: type, groups: int, biased: bool) -> None:
    source = build(4, 6, 3, groups=groups, bias=biased)
    blobs = [p.detach().numpy() for p in source.parameters()]
    kind = "Convolution" if build is nn.Conv2d else "Deconvolution"
    path = write_caffemodel(tmp_path / "a.caffemodel", layer("c", kind, blobs=blobs), *norm_layers(6, eps=1e-3))
    model = nn.Sequential(build(4, 6, 3, groups=groups))
    load_caffe(model, path, {"0": ("c", "bn", "scale")})
    with torch.no_grad():
        assert torch.allclose(model(image()), normed(source(image()), eps=1e-3), rtol=1e-4, atol=1e-5)


def test_scale_alone_folds_too(tmp_path: Path) -> None:
    source = nn.Conv2d(4, 6, 1)
    blobs = [p.detach().numpy() for p in source.parameters()]
    factor = positive(6)
    path = write_caffemodel(
        tmp_path / "a.caffemodel", layer("c", "Convolution", blobs=blobs), layer("s", "Scale", blobs=[factor])
    )
    model = nn.Sequential(nn.Conv2d(4, 6, 1))
    load_caffe(model, path, {"0": ("c", "s")})
    with torch.no_grad():
        assert torch.allclose(model(image()), source(image()) * torch.from_numpy(factor)[:, None, None], atol=1e-6)


@pytest.mark.parametrize("make", [layer, layer_v1])
@pytest.mark.parametrize("transpose", [False, True])
def test_inner_products(tmp_path: Path, make: Callable, transpose: bool) -> None:
    """Into a linear layer, and into the convolution that a fully convolutional network makes of it."""
    weight, bias = numbers(5, 2 * 3 * 3), numbers(5)
    kind: Any = "InnerProduct" if make is layer else 14
    settings = field(117 if make is layer else 17, field(6, int(transpose)))
    blobs = [weight.T if transpose else weight, bias]
    path = write_caffemodel(tmp_path / "a.caffemodel", make("fc", kind, blobs=blobs, settings=settings))
    linear, conv = nn.Sequential(nn.Linear(18, 5)), nn.Sequential(nn.Conv2d(2, 5, 3))
    load_caffe(linear, path, {"0": "fc"})
    load_caffe(conv, path, {"0": "fc"})
    assert np.array_equal(linear[0].weight.detach().numpy(), weight)
    assert np.array_equal(conv[0].weight.detach().numpy(), weight.reshape(5, 2, 3, 3))
    assert np.array_equal(conv[0].bias.detach().numpy(), bias)


def test_normalize_and_prelu(tmp_path: Path) -> None:
    across = field(206, message((1, 0), (3, 0)))
    path = write_caffemodel(
        tmp_path / "a.caffemodel",
        layer("n", "Normalize", blobs=[positive(4)], settings=across),
        layer("m", "Normalize", blobs=[positive(1)], settings=across, write=legacy),
        layer("p", "PReLU", blobs=[positive(4)]),
    )
    model = nn.ModuleDict({"n": L2Norm(4), "m": L2Norm(4), "p": nn.PReLU(4)})
    load_caffe(model, path, {"n": "n", "m": "m", "p": "p"})
    assert np.array_equal(model["n"].weight.detach().numpy(), positive(4))
    assert model["m"].weight.tolist() == [pytest.approx(float(positive(1)[0]))] * 4
    assert np.array_equal(model["p"].weight.detach().numpy(), positive(4))


def two_layers() -> list[bytes]:
    return [
        layer("c", "Convolution", blobs=[numbers(6, 4, 3, 3), numbers(6)]),
        *norm_layers(6),
        layer("fc", "InnerProduct", blobs=[numbers(2, 6), numbers(2)]),
    ]


def model_of_two() -> nn.Module:
    parts = {"conv": nn.Conv2d(4, 6, 3), "norm": nn.BatchNorm2d(6), "last": nn.Linear(6, 2)}
    return nn.ModuleDict(parts)


WHOLE = field(206, message((1, 1)))
NAMES: dict[str, str | tuple[str, ...]] = {"conv": "c", "norm": ("bn", "scale"), "last": "fc"}


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({**NAMES, "conv": "d"}, "no layer 'd' with blobs, which should fill 'conv'"),
        ({k: v for k, v in NAMES.items() if k != "last"}, r"nothing fills 'last\.weight' \(2 tensors"),
        ({**NAMES, "norm": "bn"}, "layer 'scale' is used nowhere"),
        ({**NAMES, "last": "c"}, "layer 'c' should fill 'last' too"),
        ({**NAMES, "other": "fc"}, "no module 'other'"),
        ({**NAMES, "conv": "fc", "last": "c"}, r"layer 'fc': shape \(2, 6\) where 'conv\.weight' has \(6, 4, 3, 3\)"),
        ({**NAMES, "norm": ("scale", "bn")}, "needs a BatchNorm and a Scale layer, got Scale, BatchNorm"),
        ({**NAMES, "norm": "c", "conv": "bn"}, "needs a BatchNorm|3 blobs instead"),
        ({**NAMES, "": "c"}, "is no module that one layer fills|should fill"),
    ],
)
def test_names_that_do_not_fit_change_nothing(tmp_path: Path, names: dict[str, Any], words: str) -> None:
    path = write_caffemodel(tmp_path / "a.caffemodel", *two_layers())
    model = model_of_two()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CaffeError, match=words) as caught:
        load_caffe(model, path, names)
    assert str(path) in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    load_caffe(model, path, NAMES)
    assert not all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("layers", "model", "names", "words"),
    [
        (two_layers()[:1], nn.Conv2d(4, 6, 3, bias=False), {"0": "c"}, "has a bias, '0' has none"),
        (two_layers()[:1], nn.Conv2d(4, 7, 3), {"0": "c"}, r"shape \(6, 4, 3, 3\)"),
        (two_layers()[:1] * 2, nn.Conv2d(4, 6, 3), {"0": "c"}, "two layers have this name"),
        ([norm_layers(6, -1.0)[0]], nn.BatchNorm2d(6), {"0": "bn"}, "a variance is -"),
        (norm_layers(6), nn.BatchNorm2d(5), {"0": ("bn", "scale")}, "shape"),
        ([layer("n", "Normalize", blobs=[positive(4)], settings=WHOLE)], L2Norm(4), {"0": "n"}, "over the whole map"),
        ([layer("n", "BatchNorm", blobs=[positive(4)] * 2)], nn.BatchNorm2d(4), {"0": "n"}, "2 blobs instead of 3"),
        ([layer("d", "Deconvolution", blobs=[numbers(6, 4, 3, 3)])], nn.ConvTranspose2d(4, 6, 3), {"0": "d"}, "shape"),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, layers: list[bytes], model: nn.Module, names: Any, words: str) -> None:
    path = write_caffemodel(tmp_path / "a.caffemodel", *layers)
    with pytest.raises(CaffeError, match=words):
        load_caffe(nn.Sequential(model), path, names)


def test_a_bias_of_zeros_needs_no_place(tmp_path: Path) -> None:
    weight = numbers(6, 4, 3, 3)
    path = write_caffemodel(
        tmp_path / "a.caffemodel", layer("c", "Convolution", blobs=[weight, np.zeros(6, np.float32)])
    )
    model = nn.Sequential(nn.Conv2d(4, 6, 3, bias=False))
    load_caffe(model, path, {"0": "c"})
    assert np.array_equal(model[0].weight.detach().numpy(), weight)
