import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from ops.images import Batch, Frame
from ops.structures import Target
from tests.caffe_files import Array, Toy, field, layer, layer_v1, message, write_caffemodel
from zoo import build, checkpoints
from zoo.formats.caffe import CaffeError
from zoo.formats.caffe_net import DetectionOutput, PriorBox, read_caffe_net
from zoo.one_stage.caffe_net import CaffeDetector, caffe_detector
from zoo.one_stage.darknet_cfg import darknet_detector


def both(toy: Toy, folder: Path, sides: tuple[int, ...], wanted: str | None = None) -> tuple[Array, Array]:
    """OpenCV's map and ours, for the same pixels."""
    prototxt, caffemodel = toy.write(folder)
    pixels = np.random.default_rng(7).standard_normal(sides).astype(np.float32)
    reference = cv2.dnn.readNetFromCaffe(str(prototxt), str(caffemodel))
    reference.setInput(pixels)
    theirs = reference.forward() if wanted is None else reference.forward(wanted)
    net = read_caffe_net(caffemodel, prototxt)
    with torch.no_grad():
        maps = net(torch.from_numpy(pixels), wanted if wanted is None else [wanted])
    (ours,) = maps.values()
    return theirs, ours.numpy()


def agree(toy: Toy, folder: Path, sides: tuple[int, ...], tolerance: float = 1e-5) -> Array:
    theirs, ours = both(toy, folder, sides)
    assert theirs.shape == ours.shape
    assert np.abs(theirs - ours).max() < tolerance * max(1.0, float(np.abs(theirs).max()))
    return ours


# Layer by layer, against OpenCV's reader and its arithmetic.


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"pad": 1, "stride": 2},
        {"pad": 2, "dilation": 2, "bias_term": False},
        {"group": 4, "pad_h": 1, "pad_w": 0, "stride_h": 1, "stride_w": 2},
        {"group": 2},
    ],
)
def test_convolution(tmp_path: Path, settings: dict[str, Any]) -> None:
    toy = Toy(2, 4, 11, 9)
    toy.conv("data", 4, 8, **settings)
    agree(toy, tmp_path, (2, 4, 11, 9))


@pytest.mark.parametrize("settings", [{}, {"stride": 2, "pad": 1}, {"group": 4, "stride": 2, "bias_term": False}])
def test_deconvolution(tmp_path: Path, settings: dict[str, Any]) -> None:
    toy = Toy(1, 4, 7, 5)
    outputs = 4
    blobs = [toy.normal(4, outputs // settings.get("group", 1), 4, 4)]
    blobs += [toy.normal(outputs)] if settings.get("bias_term", True) else []
    param = {"num_output": outputs, "kernel_size": 4, **settings}
    toy.add("Deconvolution", "data", blobs=blobs, convolution_param=param)
    agree(toy, tmp_path, (1, 4, 7, 5))


def with_norm(toy: Toy, bottom: str, channels: int, eps: float | None = None) -> str:
    uniform = toy.numbers.uniform
    statistics = [toy.normal(channels), uniform(1, 3, channels), np.array([2.5])]
    settings = {} if eps is None else {"batch_norm_param": {"eps": eps}}
    bottom = toy.add("BatchNorm", bottom, blobs=statistics, **settings)
    blobs = [uniform(0.5, 2, channels), toy.normal(channels)]
    return toy.add("Scale", bottom, blobs=blobs, scale_param={"bias_term": True})


@pytest.mark.parametrize("eps", [None, 0.1])
def test_norm_scale_and_activations(tmp_path: Path, eps: float | None) -> None:
    toy = Toy(2, 3, 6, 7)
    x = with_norm(toy, toy.conv("data", 3, 5), 5, eps)
    x = toy.add("ReLU", x, relu_param={"negative_slope": 0.1})
    x = toy.add("PReLU", toy.conv(x, 5, 4, 1), blobs=[np.array([0.1, 0.2, 0.3, -0.5])])
    toy.add("ReLU", toy.add("Sigmoid", toy.add("TanH", toy.conv(x, 4, 4, 1))))
    agree(toy, tmp_path, (2, 3, 6, 7))


def slow_pool(x: Tensor, kernel: int, stride: int, pad: int, kind: str) -> Tensor:
    """Window by window: sizes rounded up, a last window that starts in the padding dropped."""
    sides = []
    for side in x.shape[-2:]:
        count = math.ceil((side + 2 * pad - kernel) / stride) + 1
        sides.append(count - 1 if pad and (count - 1) * stride >= side + pad else count)
    out = x.new_zeros(*x.shape[:2], *sides)
    for row in range(sides[0]):
        for column in range(sides[1]):
            top, left = row * stride - pad, column * stride - pad
            bottom, right = min(top + kernel, x.shape[-2] + pad), min(left + kernel, x.shape[-1] + pad)
            window = x[..., max(top, 0) : min(bottom, x.shape[-2]), max(left, 0) : min(right, x.shape[-1])]
            area = (bottom - top) * (right - left)
            out[..., row, column] = window.amax((-2, -1)) if kind == "MAX" else window.sum((-2, -1)) / area
    return out


@pytest.mark.parametrize("kind", ["MAX", "AVE"])
@pytest.mark.parametrize(
    ("kernel", "stride", "pad"), [(2, 2, 0), (3, 2, 0), (3, 2, 1), (3, 1, 1), (2, 2, 1), (5, 3, 2)]
)
@pytest.mark.parametrize("side", [7, 8, 9])
def test_pooling_rounds_up(tmp_path: Path, kind: str, kernel: int, stride: int, pad: int, side: int) -> None:
    toy = Toy(1, 2, side, side)
    param = {"pool": kind, "kernel_size": kernel, "stride": stride, "pad": pad}
    toy.add("Pooling", toy.conv("data", 2, 2, 1), pooling_param=param)
    prototxt, caffemodel = toy.write(tmp_path)
    x = torch.randn(1, 2, side, side, generator=torch.Generator().manual_seed(side))
    net = read_caffe_net(caffemodel, prototxt)
    with torch.no_grad():
        maps = net(x, ["convolution0", "pooling1"])
    assert torch.allclose(maps["pooling1"], slow_pool(maps["convolution0"], kernel, stride, pad, kind), atol=1e-6)
    if kind == "MAX":
        agree(toy, tmp_path, (1, 2, side, side))


def test_pooling_of_the_whole_map_and_downwards(tmp_path: Path) -> None:
    toy = Toy(1, 2, 6, 7)
    x = toy.conv("data", 2, 3, 1)
    for kind in ("MAX", "AVE"):
        toy.add("Pooling", x, pooling_param={"pool": kind, "global_pooling": True}, name=kind.lower())
    toy.add("Concat", "max", "ave")
    assert agree(toy, tmp_path, (1, 2, 6, 7)).shape == (1, 6, 1, 1)
    down = Toy(1, 2, 6, 7)
    down.add(
        "Pooling", down.conv("data", 2, 2, 1), pooling_param={"kernel_size": 2, "stride": 2, "round_mode": "FLOOR"}
    )
    prototxt, caffemodel = down.write(tmp_path)
    with torch.no_grad():
        maps = read_caffe_net(caffemodel, prototxt)(torch.zeros(1, 2, 6, 7))
    assert maps["pooling1"].shape == (1, 2, 3, 3)


@pytest.mark.parametrize(
    "param", [{}, {"operation": "PROD"}, {"operation": "MAX"}, {"coeff": [0.5, -2.0]}, {"operation": "SUM"}]
)
def test_eltwise_and_concat(tmp_path: Path, param: dict[str, Any]) -> None:
    toy = Toy(2, 3, 5, 6)
    a, b = toy.conv("data", 3, 4, 1), toy.conv("data", 3, 4, 1)
    both_ = toy.add("Eltwise", a, b, **({"eltwise_param": param} if param else {}))
    toy.add("Concat", a, both_, b)
    agree(toy, tmp_path, (2, 3, 5, 6))


def test_layers_that_move_numbers(tmp_path: Path) -> None:
    """A head of SSD: NHWC, flat, rows of classes, softmax, flat again."""
    toy = Toy(2, 3, 5, 4)
    x = toy.add("Permute", toy.conv("data", 3, 12, 1), permute_param={"order": [0, 2, 3, 1]})
    x = toy.add("Flatten", x, flatten_param={"axis": 1})
    x = toy.add("Reshape", x, reshape_param={"shape": {"dim": [0, -1, 3]}})
    x = toy.add("Softmax", x, softmax_param={"axis": 2})
    toy.add("Dropout", toy.add("Flatten", x, flatten_param={"axis": 1}))
    assert agree(toy, tmp_path, (2, 3, 5, 4)).shape == (2, 240)


@pytest.mark.parametrize(
    ("param", "wanted"),
    [
        ({"shape": {"dim": [0, 6, -1]}}, (2, 6, 20)),
        ({"shape": {"dim": [-1]}, "axis": 1}, (2, 120)),
        ({"shape": {"dim": [3, 2]}, "axis": 1, "num_axes": 1}, (2, 3, 2, 5, 4)),
        ({"shape": {"dim": [1]}, "axis": -1, "num_axes": 0}, (2, 6, 5, 4, 1)),
    ],
)
def test_reshape(tmp_path: Path, param: dict[str, Any], wanted: tuple[int, ...]) -> None:
    toy = Toy(2, 3, 5, 4)
    toy.add("Reshape", toy.conv("data", 3, 6, 1), reshape_param=param)
    prototxt, caffemodel = toy.write(tmp_path)
    with torch.no_grad():
        (ours,) = read_caffe_net(caffemodel, prototxt)(torch.zeros(2, 3, 5, 4)).values()
    assert ours.shape == wanted


@pytest.mark.parametrize("shared", [False, True])
def test_normalize(tmp_path: Path, shared: bool) -> None:
    toy = Toy(1, 3, 5, 4)
    scale = np.array([20.0]) if shared else np.linspace(10, 20, 6)
    toy.add(
        "Normalize",
        toy.conv("data", 3, 6, 1),
        blobs=[scale],
        norm_param={"across_spatial": False, "channel_shared": shared},
    )
    agree(toy, tmp_path, (1, 3, 5, 4))


def test_inner_product_over_a_map(tmp_path: Path) -> None:
    toy = Toy(2, 3, 5, 4)
    x = toy.conv("data", 3, 6, 1)
    toy.add("InnerProduct", x, blobs=[toy.normal(7, 120), toy.normal(7)], inner_product_param={"num_output": 7})
    assert agree(toy, tmp_path, (2, 3, 5, 4)).shape == (2, 7)


def test_layers_in_place_and_branches(tmp_path: Path) -> None:
    """`top` may be `bottom`: what read the name before keeps what it had."""
    toy = Toy(1, 3, 5, 4)
    x = toy.conv("data", 3, 6, 1)
    early = toy.conv(x, 6, 6, 1)
    toy.add("ReLU", x, name="relu")
    toy.layers[-1]["top"] = x
    toy.add("Eltwise", x, early)
    theirs, ours = both(toy, tmp_path, (1, 3, 5, 4))
    assert np.abs(theirs - ours).max() < 1e-5
    prototxt, caffemodel = toy.write(tmp_path)
    net = read_caffe_net(caffemodel, prototxt)
    assert net.outputs == ("eltwise3",)
    with torch.no_grad():
        maps = net(torch.randn(1, 3, 5, 4), [x, early])
    assert maps[x].min() == 0
    assert maps[early].min() < 0


def test_upsample_repeats_pixels(tmp_path: Path) -> None:
    toy = Toy(1, 2, 3, 3)
    toy.add("Upsample", toy.conv("data", 2, 2, 1), upsample_param={"scale": 2})
    prototxt, caffemodel = toy.write(tmp_path)
    with torch.no_grad():
        maps = read_caffe_net(caffemodel, prototxt)(torch.randn(1, 2, 3, 3), ["convolution0", "upsample1"])
    assert torch.equal(maps["upsample1"], maps["convolution0"].repeat_interleave(2, 2).repeat_interleave(2, 3))


# Priors and detections.


def slow_priors(rows: int, columns: int, image: tuple[int, int], param: dict[str, Any]) -> list[list[float]]:
    """Box by box, with whole pixels."""
    step_y, step_x = (param.get("step", side / cells) for side, cells in zip(image, (rows, columns), strict=True))
    boxes = []
    for y in range(rows):
        for x in range(columns):
            for index, smallest in enumerate(param["min_size"]):
                side = int(smallest)
                shapes = [(side, side)]
                if "max_size" in param:
                    shapes.append((math.sqrt(side * int(param["max_size"][index])),) * 2)
                for ratio in param.get("aspect_ratio", []):
                    for each in [ratio, 1 / ratio] if param.get("flip", True) else [ratio]:
                        shapes.append((side * math.sqrt(each), side / math.sqrt(each)))
                for width, height in shapes:
                    cx, cy = (x + param.get("offset", 0.5)) * step_x, (y + param.get("offset", 0.5)) * step_y
                    box = [cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2]
                    box = [edge / image[1 - index % 2] for index, edge in enumerate(box)]
                    boxes.append([min(max(edge, 0), 1) for edge in box] if param.get("clip") else box)
    return boxes


PRIORS: list[dict[str, Any]] = [
    {
        "min_size": [30],
        "max_size": [60],
        "aspect_ratio": [2],
        "variance": [0.1, 0.1, 0.2, 0.2],
        "step": 8,
        "clip": False,
    },
    {"min_size": [20, 40], "max_size": [40, 60], "aspect_ratio": [2, 3], "clip": True, "variance": [0.2]},
    {"min_size": [16], "aspect_ratio": [2], "flip": False, "offset": 0.25, "variance": [0.3], "clip": False},
]


@pytest.mark.parametrize("param", PRIORS)
def test_priors(tmp_path: Path, param: dict[str, Any]) -> None:
    toy = Toy(1, 3, 40, 50)
    x = toy.conv("data", 3, 2, 1, stride=8)
    toy.add("PriorBox", x, "data", prior_box_param=param)
    ours = agree(toy, tmp_path, (1, 3, 40, 50))
    assert np.allclose(ours[0, 0].reshape(-1, 4), slow_priors(5, 7, (40, 50), param), atol=1e-6)


def test_prior_sizes_are_cut_to_whole_pixels() -> None:
    param = {"min_size": [35.84], "max_size": [76.8], "aspect_ratio": [2.0]}
    layer_ = PriorBox(param["min_size"], param["max_size"], param["aspect_ratio"], variances=(0.1, 0.1, 0.2, 0.2))
    priors = layer_(torch.zeros(1, 1, 4, 4), torch.zeros(1, 3, 512, 512))
    assert np.allclose(priors[0, 0].reshape(-1, 4), slow_priors(4, 4, (512, 512), param), atol=1e-6)
    assert priors[0, 0, 2] - priors[0, 0, 0] == pytest.approx(35 / 512)
    assert priors[0, 1, :4].tolist() == pytest.approx([0.1, 0.1, 0.2, 0.2])


def toy_ssd(side: int = 64, classes: int = 3, seed: int = 0, **output: Any) -> Toy:
    """Two levels, with heads loud enough to detect something in noise."""
    toy = Toy(1, 3, side, side, seed=seed)
    fine = toy.add("ReLU", with_norm(toy, toy.conv("data", 3, 8, stride=8, pad=1), 8))
    coarse = toy.add("Pooling", fine, pooling_param={"pool": "MAX", "kernel_size": 2, "stride": 2})
    shared = output.get("share_location", True)
    parts: dict[str, list[str]] = {"loc": [], "conf": [], "prior": []}
    for source, size in ((fine, 16), (coarse, 32)):
        for part, values in (("loc", 4 * (1 if shared else classes)), ("conf", classes)):
            x = toy.conv(source, 8, 4 * values, pad=1)
            x = toy.add("Permute", x, permute_param={"order": [0, 2, 3, 1]})
            parts[part].append(toy.add("Flatten", x, flatten_param={"axis": 1}))
        # OpenCV clips where a file says nothing, Caffe does not.
        param = {"min_size": [size], "max_size": [2 * size], "aspect_ratio": [2], "clip": False}
        param["variance"] = [0.1, 0.1, 0.2, 0.2]
        parts["prior"].append(toy.add("PriorBox", source, "data", prior_box_param=param))
    joined = {part: toy.add("Concat", *names, concat_param={"axis": 2 if part == "prior" else 1})
              for part, names in parts.items()}  # fmt: skip
    x = toy.add("Reshape", joined["conf"], reshape_param={"shape": {"dim": [0, -1, classes]}})
    x = toy.add("Flatten", toy.add("Softmax", x, softmax_param={"axis": 2}), flatten_param={"axis": 1})
    param = {
        "num_classes": classes,
        "share_location": shared,
        "background_label_id": 0,
        "nms_param": {"nms_threshold": 0.45, "top_k": 60},
        "code_type": "CENTER_SIZE",
        "keep_top_k": 50,
        "confidence_threshold": 0.2,
        **output,
    }
    toy.add("DetectionOutput", joined["loc"], x, joined["prior"], detection_output_param=param)
    return toy


def same_rows(theirs: Array, ours: Array, tolerance: float = 1e-4) -> int:
    """Whether the detections are the same, in whatever order equal scores leave them. OpenCV fills up with zeros."""
    a, b = (rows[0, 0][rows[0, 0, :, 2] > 0] for rows in (theirs, ours))
    assert len(a) == len(b)
    assert len(a) > 0
    apart = np.abs(a[:, None] - b[None]).max(-1)
    assert apart.min(0).max() < tolerance
    assert apart.min(1).max() < tolerance
    return len(a)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "output", [{}, {"share_location": False}, {"background_label_id": 1}, {"keep_top_k": 20}, {"code_type": "CORNER"}]
)
def test_detections(tmp_path: Path, seed: int, output: dict[str, Any]) -> None:
    theirs, ours = both(toy_ssd(seed=seed, **output), tmp_path, (1, 3, 64, 64))
    assert same_rows(theirs, ours) > 5
    assert set(ours[0, 0, :, 1].astype(int)) <= {0, 1, 2} - {output.get("background_label_id", 0)}
    assert (ours[0, 0, :, 2] > 0.2).all()


def test_rows_run_by_image_class_and_score() -> None:
    head = DetectionOutput(3, code="CENTER_SIZE", nms_iou=0.5, score_floor=0.1)
    corners = torch.tensor([[0.0, 0.0, 0.2, 0.2], [0.5, 0.5, 0.7, 0.9], [0.5, 0.5, 0.7, 0.88]])
    priors = torch.stack([corners.flatten(), torch.full((12,), 0.1)])[None]
    scores = torch.tensor([[0.2, 0.3, 0.5, 0.1, 0.6, 0.3, 0.05, 0.9, 0.05]]).repeat(2, 1)
    rows = head(torch.zeros(2, 12), scores, priors)[0, 0]
    first = [[1, 0.9, 2], [1, 0.3, 0], [2, 0.5, 0], [2, 0.3, 1]]
    wanted = [[image, label, score, *corners[box].tolist()] for image in (0, 1) for label, score, box in first]
    assert rows.tolist() == pytest.approx(np.array(wanted), abs=1e-6)
    assert head(torch.zeros(1, 12), scores[:1] * 0, priors).shape == (1, 1, 0, 7)


def test_decoding_by_hand() -> None:
    """The legend's example: prior (.5, .5, .2, .4) and its object, there and back."""
    priors = torch.tensor([[0.4, 0.3, 0.6, 0.7], [0.1, 0.1, 0.2, 0.2]])[None]
    shifts = torch.tensor([[2.5, -1.25, 2.0273255, -1.4384104]])
    box = DetectionOutput(2, code="CENTER_SIZE").decode(shifts, priors)
    assert box.tolist()[0] == pytest.approx([0.4, 0.3, 0.7, 0.6], abs=1e-6)
    scaled = DetectionOutput(2, code="CENTER_SIZE", scaled=True).decode(shifts * priors[0, 1], priors)
    assert torch.allclose(box, scaled)


# Networks that hold their own layers, and networks that are no good.


def test_a_caffemodel_of_its_own(tmp_path: Path) -> None:
    """Today's and the old format, with layers of training and without."""
    numbers = np.random.default_rng(0)
    weight, bias = numbers.standard_normal((4, 3, 3, 3)).astype(np.float32), np.ones(4, np.float32)
    settings = message((1, 4), (4, 3), (3, 1))
    training = field(8, field(1, 0))
    new = write_caffemodel(
        tmp_path / "new.caffemodel",
        layer("data", "Input", (), ["data"], settings=field(143, field(1, field(1, b"\x01\x03\x08\x08")))),
        layer("split", "Split", ["data"], ["a", "b"]),
        layer("conv", "Convolution", ["a"], ["conv"], [weight, bias], field(106, settings)),
        layer("aux", "Convolution", ["b"], ["aux"], [weight, bias], field(106, settings) + training),
        layer("loss", "SoftmaxWithLoss", ["aux", "label"], ["loss"], settings=training),
    )
    old = tmp_path / "old.caffemodel"
    old.write_bytes(
        field(3, "data")
        + b"".join(field(4, side) for side in (1, 3, 8, 8))
        + layer_v1("conv", 4, ["data"], ["conv"], [weight, bias], field(10, settings))
    )
    pixels = torch.randn(1, 3, 8, 8)
    wanted = torch.nn.functional.conv2d(pixels, torch.from_numpy(weight), torch.from_numpy(bias), padding=1)
    for path in (new, old):
        net = read_caffe_net(path)
        assert net.inputs == {"data": (1, 3, 8, 8)}
        with torch.no_grad():
            assert torch.allclose(net(pixels, ["conv"])["conv"], wanted, atol=1e-6)


def broken(change: Callable[[Toy], None]) -> Toy:
    toy = Toy(1, 3, 8, 8)
    toy.conv("data", 3, 4, name="first")
    toy.conv("first", 4, 4, name="second")
    change(toy)
    return toy


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda toy: toy.blobs.pop(), "'second' of .*: Convolution has 0 blobs instead of 2"),
        (lambda toy: toy.layers.pop(), "'second' has blobs that no layer"),
        (lambda toy: toy.layers[1].update(bottom="third"), "reads 'third', which nothing gives"),
        (lambda toy: toy.layers[1].update(type="Crop"), "is a Crop, known are BatchNorm, "),
        (lambda toy: toy.layers[1]["convolution_param"].update(kernel_size=5), "for a kernel of"),
        (lambda toy: toy.layers[1]["convolution_param"].update(num_output=5), "for 5 outputs"),
        (lambda toy: toy.add("Pooling", "second", pooling_param={"pool": "STOCHASTIC"}), "STOCHASTIC pooling"),
        (lambda toy: toy.add("Pooling", "second", pooling_param={"kernel_size": 2, "pad": 2}), "padding"),
        (lambda toy: toy.add("Upsample", "second"), "Upsample's scale"),
        (lambda toy: toy.add("ReLU", "second", blobs=[np.ones(1)]), "ReLU has 1 blobs instead of 0"),
        (lambda toy: toy.add("Input"), "no shape"),
        (lambda toy: toy.add("PriorBox", "second", "data", prior_box_param={"variance": [1, 2]}), "min_size"),
        (
            lambda toy: toy.add("BatchNorm", "second", batch_norm_param={"use_global_stats": False}),
            "statistics of the batch",
        ),
        (
            lambda toy: toy.add("DetectionOutput", "a", detection_output_param={"code_type": "CORNER_SIZE"}),
            "nothing gives",
        ),
        (
            lambda toy: toy.add("DetectionOutput", "second", detection_output_param={"code_type": "CORNER_SIZE"}),
            "code type CORNER_SIZE",
        ),
    ],
)
def test_networks_that_do_not_fit(tmp_path: Path, change: Callable[[Toy], None], words: str) -> None:
    prototxt, caffemodel = broken(change).write(tmp_path)
    with pytest.raises(CaffeError, match=words):
        read_caffe_net(caffemodel, prototxt)


def test_a_map_that_no_layer_gives(tmp_path: Path) -> None:
    prototxt, caffemodel = broken(lambda toy: None).write(tmp_path)
    with pytest.raises(ValueError, match="no layer gives 'elsewhere'"):
        read_caffe_net(caffemodel, prototxt)(torch.zeros(1, 3, 8, 8), ["elsewhere"])


# As a detector.


def test_detector(tmp_path: Path) -> None:
    prototxt, caffemodel = toy_ssd().write(tmp_path)
    model = caffe_detector(caffemodel, prototxt, mean=(100, 110, 120))
    assert model.num_classes == 2
    assert model.size == (64, 64)
    assert model.num_boxes((64, 64)) == 4 * (8 * 8 + 4 * 4)
    images = [torch.rand(3, 64, 64), torch.rand(3, 96, 128)]
    with torch.no_grad():
        answers = model(images)
        raw = model.net(torch.stack([(images[0].flip(0) * 255 - torch.tensor([100.0, 110, 120])[:, None, None])]))
    rows = raw["detectionoutput" + str(len(model.net.steps) - 1)][0, 0]
    order = rows[:, 2].argsort(descending=True, stable=True)
    assert torch.allclose(answers[0].scores, rows[order, 2])
    assert torch.allclose(answers[0].boxes, (rows[order, 3:] * 64).clamp(0, 64), atol=1e-4)
    assert torch.equal(answers[0].labels, rows[order, 1].long() - 1)
    assert answers[1].boxes[:, 2].max() <= 128
    assert answers[1].boxes[:, 3].max() <= 96
    with pytest.raises(NotImplementedError, match="ssd300_vgg16"):
        model(images, [Target(torch.tensor([[1.0, 1, 9, 9]]), torch.tensor([0]))] * 2)
    model.resize(96)
    with torch.no_grad():
        assert len(model.network(model.preprocess(images))[0]) == 2
    assert model.num_boxes((96, 96)) == 4 * (12 * 12 + 6 * 6)


def test_labels_leave_the_background_out(tmp_path: Path) -> None:
    prototxt, caffemodel = toy_ssd(background_label_id=1).write(tmp_path)
    model = caffe_detector(caffemodel, prototxt)
    with torch.no_grad():
        labels = model([torch.rand(3, 64, 64)])[0].labels
    assert set(labels.tolist()) == {0, 1}


def test_what_is_no_detector(tmp_path: Path) -> None:
    prototxt, caffemodel = broken(lambda toy: None).write(tmp_path)
    with pytest.raises(CaffeError, match="0 DetectionOutput layers"):
        caffe_detector(caffemodel, prototxt)
    toy = toy_ssd()
    toy.head["input_shape"] = {"dim": [1, 1, 64, 64]}
    prototxt, caffemodel = toy.write(tmp_path)
    with pytest.raises(CaffeError, match=r"inputs of shapes \[\(1, 1, 64, 64\)\]"):
        CaffeDetector(read_caffe_net(caffemodel, prototxt))


# SSD as the released scripts write it, beside ours.


def released_ssd300(classes: int = 20) -> Toy:
    """VGG-16 with fc6 dilated, four extra levels, priors for VOC; numbers by chance."""
    toy = Toy(1, 3, 300, 300)

    def conv(bottom: str, name: str, inputs: int, outputs: int, kernel: int = 3, **settings: Any) -> str:
        return toy.add("ReLU", toy.conv(bottom, inputs, outputs, kernel, name=name, **settings))

    def pool(bottom: str, **settings: Any) -> str:
        return toy.add("Pooling", bottom, pooling_param={"pool": "MAX", **settings})

    x, inputs, conv4_3 = "data", 3, ""
    for stage, (width, depth) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)], start=1):
        for index in range(1, depth + 1):
            x, inputs = conv(x, f"conv{stage}_{index}", inputs, width, pad=1), width
        conv4_3 = x if stage == 4 else conv4_3
        x = pool(x, kernel_size=3, stride=1, pad=1) if stage == 5 else pool(x, kernel_size=2, stride=2)
    param = {"across_spatial": False, "channel_shared": False}
    blob = toy.numbers.uniform(5, 15, 512)
    sources = [
        (toy.add("Normalize", conv4_3, blobs=[blob], name="conv4_3_norm", norm_param=param), "conv4_3_norm", 512)
    ]
    x = conv(conv(x, "fc6", 512, 1024, pad=6, dilation=6), "fc7", 1024, 1024, 1)
    sources.append((x, "fc7", 1024))
    for level, (narrow, width, settings) in enumerate(
        [(256, 512, {"pad": 1, "stride": 2}), (128, 256, {"pad": 1, "stride": 2}), (128, 256, {}), (128, 256, {})],
        start=6,
    ):
        before = sources[-1][2]
        x = conv(conv(x, f"conv{level}_1", before, narrow, 1), f"conv{level}_2", narrow, width, **settings)
        sources.append((x, f"conv{level}_2", width))
    parts: dict[str, list[str]] = {"loc": [], "conf": [], "priorbox": []}
    sides = [30, 60, 111, 162, 213, 264, 315]
    for index, (bottom, name, width) in enumerate(sources):
        ratios = [2] if index in (0, 4, 5) else [2, 3]
        for part, values in (("loc", 4), ("conf", 1 + classes)):
            y = toy.conv(bottom, width, (2 + 2 * len(ratios)) * values, name=f"{name}_mbox_{part}", pad=1)
            y = toy.add("Permute", y, permute_param={"order": [0, 2, 3, 1]})
            parts[part].append(toy.add("Flatten", y, flatten_param={"axis": 1}))
        prior = {"min_size": sides[index], "max_size": sides[index + 1], "aspect_ratio": ratios, "clip": False}
        prior |= {"variance": [0.1, 0.1, 0.2, 0.2], "step": [8, 16, 32, 64, 100, 300][index], "offset": 0.5}
        parts["priorbox"].append(toy.add("PriorBox", bottom, "data", prior_box_param=prior))
    for part, names in parts.items():
        toy.add("Concat", *names, name=f"mbox_{part}", concat_param={"axis": 2 if part == "priorbox" else 1})
    y = toy.add("Reshape", "mbox_conf", reshape_param={"shape": {"dim": [0, -1, 1 + classes]}})
    y = toy.add("Flatten", toy.add("Softmax", y, softmax_param={"axis": 2}), flatten_param={"axis": 1})
    param = {"num_classes": 1 + classes, "code_type": "CENTER_SIZE", "keep_top_k": 200, "confidence_threshold": 0.15}
    param |= {"nms_param": {"nms_threshold": 0.45, "top_k": 400}}
    toy.add("DetectionOutput", "mbox_loc", y, "mbox_priorbox", detection_output_param=param)
    return toy


@pytest.mark.slow
def test_the_official_ssd_is_ours(tmp_path: Path) -> None:
    """Heads, priors and detections of `ssd300_vgg16` are those of the network that the prototxt describes."""
    prototxt, caffemodel = released_ssd300().write(tmp_path)
    model = build("ssd300_vgg16", 20, score_floor=0.15).eval()
    checkpoints.load_into(model, caffemodel)
    net = caffe_detector(caffemodel, prototxt)
    assert net.num_boxes((300, 300)) == model.num_boxes((300, 300)) == 8732
    image = torch.from_numpy(np.ascontiguousarray(next(photographs(300))[..., ::-1])).permute(2, 0, 1) / 255
    batch = model.preprocess([image])
    assert torch.allclose(batch.pixels, net.preprocess([image]).pixels)
    with torch.no_grad():
        outputs = model.network(batch)
        names = ["mbox_loc", "mbox_conf", "mbox_priorbox", net.net.steps[-2].name]
        maps = net.net(batch.pixels.contiguous(), names)
        answers = model.postprocess(outputs, batch)[0]
        theirs = net.postprocess((maps["mbox_loc"], maps[names[-1]], maps["mbox_priorbox"]), batch)[0]
    for ours, name in ((outputs.offsets, "mbox_loc"), (outputs.logits, "mbox_conf")):
        assert (ours.flatten(1) - maps[name]).abs().max() < 1e-4 * maps[name].abs().max()
    assert torch.allclose(model.priors, maps["mbox_priorbox"][0, 0].reshape(-1, 4) * 300, atol=1e-3)
    assert len(answers) == len(theirs) > 10
    assert torch.allclose(answers.scores, theirs.scores, atol=1e-4)
    order, other = (each.boxes.sum(1).argsort() for each in (answers, theirs))
    assert torch.allclose(answers.boxes[order], theirs.boxes[other], atol=0.05)


# Real files, where they are.


def _found(name: str) -> Path | None:
    folders = [Path(folder) for folder in os.environ.get("DETECTOR_ZOO_WEIGHTS", "").split(os.pathsep) if folder]
    return next((path for folder in folders for path in sorted(folder.rglob(name))), None)


FACES = _found("res10_300x300_ssd_iter_140000.caffemodel"), _found("deploy.prototxt.txt")
NANO = {end: _found(f"MobileNetV2-YOLOv3-Nano-voc.{end}") for end in ("caffemodel", "prototxt", "cfg", "weights")}


def photographs(side: int) -> Iterator[Array]:
    """BGR bytes, warped: real ones, or soft noise."""
    data = os.environ.get("DETECTOR_ZOO_DATA")
    paths = sorted(Path(data).rglob("voc2012_100/**/JPEGImages/*.jpg"))[::10] if data else []
    for path in paths:
        yield cv2.resize(cv2.imread(str(path)), (side, side))
    chance = np.random.default_rng(0)
    for _ in range(0 if paths else 3):
        noise = chance.integers(0, 256, (12, 12, 3)).astype(np.uint8)
        yield cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)


@pytest.mark.skipif(None in FACES, reason="DETECTOR_ZOO_WEIGHTS names no folder with OpenCV's face detector")
def test_faces_as_opencv_finds_them() -> None:
    caffemodel, prototxt = FACES
    assert caffemodel
    assert prototxt
    reference = cv2.dnn.readNetFromCaffe(str(prototxt), str(caffemodel))
    net = read_caffe_net(caffemodel, prototxt)
    assert sum(parameter.numel() for parameter in net.parameters()) == 2_660_154
    for image in photographs(300):
        pixels = cv2.dnn.blobFromImage(image, 1.0, (300, 300), (104.0, 177.0, 123.0))
        reference.setInput(pixels)
        with torch.no_grad():
            ours = net(torch.from_numpy(pixels))["detection_out"].numpy()
        same_rows(reference.forward(), ours, 1e-3)


@pytest.mark.skipif(None in NANO.values(), reason="DETECTOR_ZOO_WEIGHTS names no folder with MobileNetV2-YOLOv3-Nano")
def test_nano_from_caffe_is_nano_from_darknet() -> None:
    """The same numbers in both files. OpenCV adds 1e-6 to variances where Caffe and Darknet add 1e-5."""
    files = {end: path for end, path in NANO.items() if path}
    net = read_caffe_net(files["caffemodel"], files["prototxt"])
    assert net.outputs == ("layer69-conv", "layer79-conv")
    darknet = darknet_detector(files["cfg"], placement="warp").eval()
    checkpoints.load_into(darknet, files["weights"])
    reference = cv2.dnn.readNetFromDarknet(str(files["cfg"]), str(files["weights"]))
    norms = [module for module in net.modules() if hasattr(module, "eps")]
    for image in photographs(320):
        pixels = cv2.dnn.blobFromImage(image, 1 / 255, (320, 320), swapRB=True)
        tensor = torch.from_numpy(pixels)
        with torch.no_grad():
            ours = list(net(tensor).values())
            same = darknet.network(Batch(tensor, (Frame((320, 320), (320, 320), (1.0, 1.0)),)))
            for norm in norms:
                norm.eps = 1e-6
            nearer = list(net(tensor).values())
            for norm in norms:
                norm.eps = 1e-5
        assert max(float((a - b).abs().max()) for a, b in zip(ours, same, strict=True)) < 1e-3
        reference.setInput(pixels)
        for theirs, map_ in zip(reference.forward(["conv_68", "conv_78"]), nearer, strict=True):
            assert np.abs(theirs - map_.numpy()).max() < 1e-3
