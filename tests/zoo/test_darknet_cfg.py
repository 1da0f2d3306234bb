import math
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ops.images import Batch, Frame
from ops.structures import Target
from tests import darknet_cfgs
from tests.contract import assert_is_detections, toy_images
from tests.darknet_cfgs import Cfg, for_opencv
from zoo import build, checkpoints
from zoo.checkpoints import CheckpointError
from zoo.detector import Detector
from zoo.formats.darknet import DarknetError, Header, read_weights, write_weights
from zoo.formats.darknet_cfg import parse_cfg, read_cfg
from zoo.formats.darknet_network import CfgNetwork
from zoo.one_stage.darknet_cfg import DarknetDetector, darknet_detector
from zoo.one_stage.yolov3 import YOLOv3

# Networks that are built from a text, against facts of the authors' files.

FILES = {
    "yolov1": (lambda: darknet_cfgs.yolov1(20), 197_301_875, 197_328_243, 789_312_988, 16),
    "yolo-small": (lambda: darknet_cfgs.yolo_small(20), 93_970_430, 93_970_430, 375_881_736, 16),
    "yolov1-tiny": (lambda: darknet_cfgs.yolov1_tiny(20), 27_095_374, 27_099_950, 108_399_816, 16),
    "yolov2-voc": (lambda: darknet_cfgs.yolov2(416, 20), 50_655_389, 50_676_061, 202_704_260, 16),
    "yolov2": (lambda: darknet_cfgs.yolov2(608, 80), 50_962_889, 50_983_561, 203_934_260, 16),
    "yolov2-tiny-voc": (lambda: darknet_cfgs.yolov2_tiny(416, 20), 15_861_773, 15_867_885, 63_471_556, 16),
    "yolov2-tiny": (lambda: darknet_cfgs.yolov2_tiny(416, 80), 11_232_057, 11_237_145, 44_948_600, 20),
    "yolov3": (lambda: darknet_cfgs.yolov3(416, 80), 61_949_149, 62_001_757, 248_007_048, 20),
    "yolov3-voc": (lambda: darknet_cfgs.yolov3(416, 20), 61_626_049, 61_678_657, 246_714_648, 20),
    "yolov3-spp": (lambda: darknet_cfgs.yolov3(608, 80, pyramid=True), 62_998_749, 63_052_381, 252_209_544, 20),
    "yolov3-tiny": (lambda: darknet_cfgs.yolov3_tiny(416, 80), 8_852_366, 8_858_734, 35_434_956, 20),
}
"""Text, trained numbers, numbers in the file, its bytes, those of its header."""


def numbers_of(model: nn.Module) -> int:
    return sum(value.numel() for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked"))


@pytest.mark.parametrize("name", FILES)
def test_numbers_of_the_authors_files(name: str) -> None:
    text, trained, numbers, size, header = FILES[name]
    with torch.device("meta"):
        model = CfgNetwork(parse_cfg(text(), name))
    assert sum(value.numel() for value in model.parameters()) == trained
    assert numbers_of(model) == numbers
    assert Header(0, 1 if header == 16 else 2).size + 4 * numbers == size


def test_the_trunk_of_yolov3() -> None:
    """darknet53.conv.74, the weights that YOLOv3 is trained from."""
    cfg = Cfg(256)
    darknet_cfgs.darknet53(cfg)
    with torch.device("meta"):
        trunk = CfgNetwork(parse_cfg(cfg.text()))
    assert (numbers_of(trunk), trunk.head_shapes) == (40_620_640, ((1024, 8, 8),))


@pytest.mark.parametrize(
    ("name", "detector", "classes", "settings"),
    [
        ("yolov1", "yolov1", 20, {"variant": "v1.1"}),
        ("yolov1-tiny", "yolov1_tiny", 20, {}),
        ("yolov2-voc", "yolov2", 20, {}),
        ("yolov2", "yolov2", 80, {}),
        ("yolov2-tiny-voc", "yolov2_tiny", 20, {}),
        ("yolov2-tiny", "yolov2_tiny", 80, {}),
        ("yolov3", "yolov3", 80, {}),
        ("yolov3-spp", "yolov3_spp", 80, {}),
        ("yolov3-tiny", "yolov3_tiny", 80, {}),
    ],
)
def test_the_catalog_has_the_same_layers_in_the_same_order(
    name: str, detector: str, classes: int, settings: dict[str, object]
) -> None:
    with torch.device("meta"):
        ours = build(detector, classes, **settings)
        theirs = DarknetDetector(parse_cfg(FILES[name][0]()))
    assert theirs.size == ours.size
    assert theirs.num_boxes(theirs.size) == ours.num_boxes(ours.size)
    layers = [
        [(layer.weight.shape, norm is not None) for layer, norm in model.darknet_layers()] for model in (ours, theirs)
    ]
    assert layers[0] == layers[1]


def scramble(module: nn.Module, seed: int = 0) -> None:
    """Weights and statistics such that every entry matters and activations neither vanish nor explode."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in module.state_dict().items():
        if value.ndim > 3 or (value.ndim == 2 and "weight" in name):
            fan = value.shape[-3:].numel() if value.ndim > 3 else value.shape[1]
            value.copy_(torch.randn(value.shape, generator=generator) * (2 / fan) ** 0.5)
        elif name.endswith(("running_var", "norm.weight", "1.weight")):
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
        elif value.is_floating_point():
            value.copy_(0.2 * torch.randn(value.shape, generator=generator))


TINY = {"widths": (2, 4, 8, 16, 32, 64, 128), "heads": (32, 16)}
WIDE = {"widths": (4, 8, 16, 32, 64, 128), "heads": (64, 32, 16)}
PAIRS: dict[str, tuple[Callable[[], Detector], str]] = {
    "yolov1_tiny": (lambda: build("yolov1_tiny", 20), darknet_cfgs.yolov1_tiny(20)),
    "yolov2": (lambda: build("yolov2", 20, size=64), darknet_cfgs.yolov2(64, 20)),
    "yolov2_tiny": (lambda: build("yolov2_tiny", 80, size=96), darknet_cfgs.yolov2_tiny(96, 80)),
    "yolov3": (lambda: YOLOv3(4, size=96, **WIDE), darknet_cfgs.yolov3(96, 4, thin=8)),
    "yolov3_spp": (lambda: YOLOv3(4, size=96, pyramid=True, **WIDE), darknet_cfgs.yolov3(96, 4, pyramid=True, thin=8)),
    "yolov3_tiny": (
        lambda: build("yolov3_tiny", 4, size=96, **TINY),
        darknet_cfgs.yolov3_tiny(96, 4, second="1,2,3", thin=8),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_same_weights_same_detections_as_the_catalog(tmp_path: Path, name: str) -> None:
    make, text = PAIRS[name]
    ours = make().eval()
    scramble(ours)
    with torch.device("meta"):
        theirs = darknet_detector(text).eval()
    if numbers_of(ours) > 1_000_000:
        # Files of hundreds of megabytes prove no more: the layers follow one another as in the file.
        for (mine, norm), (layer, other_norm) in zip(ours.darknet_layers(), theirs.darknet_layers(), strict=True):
            layer.load_state_dict(mine.state_dict(), assign=True)
            if norm is not None and other_norm is not None:
                other_norm.load_state_dict(norm.state_dict(), assign=True)
    else:
        theirs = darknet_detector(text).eval()
        write_weights(tmp_path / "net.weights", ours.darknet_layers())
        read_weights(tmp_path / "net.weights", theirs.darknet_layers())
        write_weights(tmp_path / "again.weights", theirs.darknet_layers())
        assert (tmp_path / "again.weights").read_bytes() == (tmp_path / "net.weights").read_bytes()
    images = toy_images(sizes=((64, 90),))
    with torch.inference_mode():
        batch = ours.preprocess(images)
        torch.testing.assert_close(theirs.preprocess(images).pixels, batch.pixels, rtol=0, atol=0)
        mine, other = ours.network(batch), theirs.network(batch)
        for a, b in zip([mine] if isinstance(mine, Tensor) else mine, other, strict=True):
            assert float(a.std()) > 0.1
            torch.testing.assert_close(b.reshape(a.shape), a, rtol=1e-4, atol=1e-4)
        theirs.score_floor, theirs.nms = ours.score_floor, ours.nms
        (a,), (b,) = ours.postprocess(mine, batch), theirs.postprocess(other, batch)
    assert len(a) == len(b) > 3
    torch.testing.assert_close(b.scores, a.scores, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(b.boxes, a.boxes, rtol=1e-4, atol=1e-2)
    assert_is_detections(b, images[0], theirs.num_classes)


# Agreement with OpenCV, on a network with every kind of layer that both read.


def zoo_of_layers(classes: int = 3) -> str:
    cfg = Cfg(64)
    cfg.conv(8, 3, 2, activation="leaky")
    cfg.section("convolutional", batch_normalize=1, filters=8, groups=8, size=5, stride=1, pad=1, activation="swish")
    cfg.conv(8, 1, activation="linear")
    cfg.section("dropout", probability=0.15)
    cfg.section("shortcut", from_=-3, activation="linear")
    cfg.section("maxpool", size=2, stride=2)
    cfg.section("convolutional", filters=12, size=3, stride=1, padding=1, activation="mish")
    cfg.section("route", layers=-1, groups=2, group_id=1)
    cfg.conv(16, 3, 2, activation="relu")
    cfg.section("maxpool", size=3, stride=1)
    cfg.section("route", layers=-2)
    cfg.section("maxpool", size=2, stride=1)
    cfg.section("route", layers="-1,-3,-4")
    cfg.conv(16, 1, activation="logistic")
    cfg.yolo("1,2", "4,6, 9,12, 20,17", classes, scale_x_y=1.1, nms_kind="greedynms", beta_nms=0.6)
    cfg.section("route", layers=-3)
    cfg.conv(8, 1)
    cfg.section("upsample", stride=2)
    cfg.section("route", layers="-1,7")
    cfg.yolo("0", "4,6, 9,12, 20,17", classes, scale_x_y=1.05)
    return cfg.text()


def region_of_layers() -> str:
    cfg = Cfg(64)
    cfg.convs((8, 3), "mp", (8, 3), "mp")
    cfg.conv(8, 3, 2)
    cfg.section("route", layers=-2)
    cfg.section("reorg", stride=2)
    cfg.section("route", layers="-1,-3")
    cfg.region(darknet_cfgs.V2_ANCHORS[20], 20)
    return cfg.text()


def opencv_rows(cfg: str, weights: Path, pixels: Tensor, detector: DarknetDetector) -> Tensor:
    """OpenCV's predictions `[N, 5 + C]` (centre and size as shares of the input, objectness, scores) in our order."""
    path = weights.with_suffix(".opencv.cfg")
    path.write_text(for_opencv(cfg))
    net = cv2.dnn.readNetFromDarknet(str(path), str(weights))
    net.setInput(pixels.numpy())
    parts = []
    outputs = net.forward(net.getUnconnectedOutLayersNames())
    for head, shape, rows in zip(detector.net.heads, detector.net.head_shapes, outputs, strict=True):
        table = torch.from_numpy(np.array(rows)).reshape(shape[1] * shape[2], head.boxes, -1)
        parts.append(table.transpose(0, 1).flatten(0, 1))
    return torch.cat(parts)


def assert_agrees(detector: DarknetDetector, cfg: str, weights: Path, pixels: Tensor, tolerance: float) -> int:
    """Boxes, objectness and scores before suppression; then the detections after it, whose number it returns."""
    rows = opencv_rows(cfg, weights, pixels, detector)
    batch = Batch(pixels, (Frame(detector.size, detector.size, (1.0, 1.0)),))
    height, width = detector.size
    with torch.inference_mode():
        outputs = detector.network(batch)
        boxes, objectness, classes = (x[0] for x in detector.decode(outputs))
        (found,) = detector.postprocess(outputs, batch)
    places = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1)
    share = torch.tensor([width, height, width, height])
    assert len(rows) == len(places) == detector.num_boxes(detector.size)
    torch.testing.assert_close(places / share, rows[:, :4], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(objectness, rows[:, 4], rtol=0, atol=tolerance)
    scores = objectness[:, None] * classes
    if detector.net.heads[0].kind == "region":
        # Here OpenCV suppresses at .4 on its own: what it suppressed is 0.
        assert 0.1 < float((rows[:, 5:] > 0).float().mean()) < 0.9
        scores = scores * (rows[:, 5:] > 0)
    torch.testing.assert_close(scores, rows[:, 5:], rtol=0, atol=tolerance)

    if tolerance > 1e-4:
        return 0
    kept = []
    corner = (rows[:, :4] * share).double()
    corner[:, :2] -= corner[:, 2:] / 2
    for label in range(detector.num_classes):
        confidences = rows[:, 5 + label] * (rows[:, 4] > detector.score_floor)
        picked = list(cv2.dnn.NMSBoxes(corner.tolist(), confidences.tolist(), detector.score_floor, detector.nms))
        x, y, w, h = corner[picked].T
        boxes = torch.stack([x.clamp(min=0), y.clamp(min=0), (x + w).clamp(max=width), (y + h).clamp(max=height)], 1)
        named = torch.full((len(picked), 1), 1000.0 * label)
        kept.append(torch.cat([boxes, named, 100 * confidences[picked, None]], 1))
    theirs = torch.cat(kept).float()
    ours = torch.cat([found.boxes, 1000.0 * found.labels[:, None], 100 * found.scores[:, None]], 1)
    assert len(theirs) == len(ours)
    if not len(ours):
        return 0
    # Each of theirs is one of ours: label, score in percent, and corners in pixels.
    nearest, index = torch.cdist(theirs, ours, p=torch.inf).min(1)
    assert len(index.unique()) == len(ours)
    assert float(nearest.max()) < 0.02
    return len(ours)


@pytest.mark.parametrize("text", [zoo_of_layers(), region_of_layers()])
@pytest.mark.parametrize("eps", [1e-6, 1e-5])
def test_opencv_computes_the_same(tmp_path: Path, text: str, eps: float) -> None:
    """With its own eps in batch normalisation to the last digits, and with Darknet's to one in a thousand."""
    detector = darknet_detector(text, eps=eps, nms=0.4).eval()
    scramble(detector)
    pixels = torch.rand((1, 3, 64, 64), generator=torch.Generator().manual_seed(3))
    write_weights(tmp_path / "net.weights", detector.darknet_layers())
    with torch.no_grad():
        assert all(0.2 < float(x.std()) < 5 for x in detector.network(Batch(pixels, ())))
    if eps == 1e-6:
        assert assert_agrees(detector, text, tmp_path / "net.weights", pixels, 2e-5) > 10
    else:
        assert_agrees(detector, text, tmp_path / "net.weights", pixels, 1e-3)


PUBLISHED = [row for row in checkpoints.list_weights() if row.config is not None and row.format == "darknet"]


@pytest.mark.parametrize("entry", PUBLISHED, ids=lambda entry: entry.name)
def test_opencv_agrees_on_published_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry) -> None:
    """On a photograph if there is one, else on a drawing: the same boxes and scores before and after suppression."""
    monkeypatch.setenv("DETECTOR_ZOO_CACHE", str(tmp_path))
    without = [file.model_copy(update={"urls": (), "package": None}) for file in (entry.config, entry)]
    try:
        cfg, weights = (checkpoints.fetch(file, quiet=True) for file in without)
    except CheckpointError:
        pytest.skip(f"{entry.name} is not below DETECTOR_ZOO_WEIGHTS")
    photographs = sorted(Path(os.environ.get("DETECTOR_ZOO_DATA", tmp_path)).rglob("val2017/*.jpg"))[:3]
    detector = darknet_detector(cfg, eps=1e-6, **entry.overrides).eval()
    read_weights(weights, detector.darknet_layers())
    assert (detector.num_classes, detector.placement) == (entry.num_classes, "warp")
    copy = tmp_path / weights.name
    copy.write_bytes(weights.read_bytes())
    found = 0
    for image in [cv2.imread(str(path)) for path in photographs] or [drawing()]:
        pixels = torch.from_numpy(cv2.dnn.blobFromImage(image, 1 / 255, detector.size[::-1], swapRB=True))
        found += assert_agrees(detector, cfg.read_text(), copy, pixels, 5e-5)
    assert found > 0


def drawing() -> np.ndarray:
    image = np.zeros((320, 320, 3), np.uint8)
    cv2.rectangle(image, (40, 60), (200, 250), (20, 140, 220), -1)
    cv2.circle(image, (240, 120), 50, (200, 200, 60), -1)
    return image


# Layers against what the C code says, written out.


def run(text: str, pixels: Tensor, seed: int = 0) -> tuple[CfgNetwork, Tensor]:
    net = CfgNetwork(parse_cfg(text)).eval()
    scramble(net, seed)
    with torch.no_grad():
        return net, net(pixels)[0]


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("side", "size", "stride", "padding"), [
    (7, 2, 2, None), (8, 2, 2, None), (7, 2, 1, None), (8, 3, 1, None), (9, 5, 1, None), (9, 3, 2, None), (8, 3, 2, 0),
    (9, 3, 2, 1), (8, 4, 3, None),
])  # fmt: skip
def test_pooling_by_its_loops(side: int, size: int, stride: int, padding: int | None) -> None:
    cfg = Cfg(side)
    cfg.section("maxpool", size=size, stride=stride, **({} if padding is None else {"padding": padding}))
    x = noise(1, 3, side, side) - 5
    net, out = run(cfg.text(), x)
    pad = size - 1 if padding is None else padding
    count = (side + pad - size) // stride + 1
    assert out.shape == (1, 3, count, count) == (1, *net.shapes[0])
    for row in range(count):
        for column in range(count):
            top, left = row * stride - pad // 2, column * stride - pad // 2
            window = x[0, :, max(0, top) : top + size, max(0, left) : left + size]
            assert torch.equal(out[0, :, row, column], window.amax((1, 2)))


def test_local_layers_by_their_loops() -> None:
    """Every place has filters of its own, places row by row; biases are stored as the output lies."""
    cfg = Cfg(6)
    cfg.section("local", size=3, stride=2, pad=1, filters=4, activation="ramp")
    x = noise(1, 3, 6, 6)
    net, out = run(cfg.text(), x)
    ((local, norm),) = net.darknet_layers()
    assert norm is None
    weight, bias = local.weight.detach(), local.bias.detach()
    padded = F.pad(x[0], (1, 1, 1, 1))
    for row in range(3):
        for column in range(3):
            window = padded[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            for filter_ in range(4):
                value = float((window * weight[3 * row + column, filter_]).sum() + bias[filter_, row, column])
                assert float(out[0, filter_, row, column]) == pytest.approx(max(value, 0) + 0.1 * value, abs=1e-5)


def test_connected_layers_read_maps_channel_by_channel_and_may_be_normalised() -> None:
    cfg = Cfg(4)
    cfg.section("connected", output=5, batch_normalize=1, activation="tanh")
    x = noise(2, 3, 4, 4)
    net, out = run(cfg.text(), x)
    ((linear, norm),) = net.darknet_layers()
    raw = x.reshape(2, -1) @ linear.weight.T
    wanted = norm.weight * (raw - norm.running_mean) / (norm.running_var + 1e-5).sqrt() + norm.bias
    torch.testing.assert_close(out, wanted.tanh())


def test_shortcuts_add_what_both_maps_have() -> None:
    """shortcut_cpu: the first channels of both; every second pixel of the larger, on every second of a larger sum."""
    cfg = Cfg(8)
    cfg.conv(4, 1, activation="linear", norm=False)
    cfg.conv(6, 3, 2, activation="linear", norm=False)
    cfg.section("shortcut", from_=0, activation="leaky")
    x = noise(1, 3, 8, 8)
    net, out = run(cfg.text(), x)
    with torch.no_grad():
        first = net.layers[0](x)
        wanted = net.layers[1](first)
    wanted[:, :4] += first[:, :, ::2, ::2]
    torch.testing.assert_close(out, F.leaky_relu(wanted, 0.1))

    cfg = Cfg(8)
    cfg.section("maxpool", size=2, stride=2)
    cfg.section("upsample", stride=2, scale=3)
    cfg.section("shortcut", from_="0, -1", activation="linear")
    _, out = run(cfg.text(), x)
    pooled = F.max_pool2d(x, 2)
    wanted = 6 * pooled.repeat_interleave(2, 2).repeat_interleave(2, 3)
    wanted[..., ::2, ::2] += pooled
    torch.testing.assert_close(out, wanted)


def test_routes_take_groups_and_repeat() -> None:
    cfg = Cfg(4)
    cfg.conv(6, 1, activation="linear", norm=False)
    cfg.section("route", layers="-1, 0", groups=3, group_id=2)
    x = noise(1, 3, 4, 4)
    net, out = run(cfg.text(), x)
    with torch.no_grad():
        part = net.layers[0](x)[:, 4:6]
    assert torch.equal(out, torch.cat([part, part], 1))


def test_pooled_classifiers_and_crops() -> None:
    cfg = Cfg(8)
    cfg.section("crop", crop_width=4, crop_height=6, flip=1)
    cfg.section("avgpool")
    cfg.section("softmax", groups=1)
    cfg.section("cost", type="sse")
    x = torch.rand(2, 3, 8, 8)
    _, out = run(cfg.text(), x)
    torch.testing.assert_close(out, (2 * x[:, :, 1:7, 2:6] - 1).mean((2, 3)).softmax(1))


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("linear", lambda x: x),
        ("leaky", lambda x: x if x > 0 else 0.1 * x),
        ("relu", lambda x: max(x, 0)),
        ("relu6", lambda x: min(max(x, 0), 6)),
        ("logistic", lambda x: 1 / (1 + math.exp(-x))),
        ("mish", lambda x: x * math.tanh(math.log1p(math.exp(x)))),
        ("swish", lambda x: x / (1 + math.exp(-x))),
        ("tanh", math.tanh),
        ("ramp", lambda x: x * (x > 0) + 0.1 * x),
    ],
)
def test_activations(name: str, function: Callable[[float], float]) -> None:
    net = CfgNetwork(parse_cfg(f"[net]\nwidth=2\nheight=2\n[convolutional]\nactivation={name}\nfilters=3\n"))
    x = 4 * noise(1, 3, 2, 2)
    with torch.no_grad():
        net.layers[0].layer.weight.copy_(torch.eye(3)[:, :, None, None])
        net.layers[0].layer.bias.zero_()
        out = net(x)[0]
    for value, answer in zip(x.flatten().tolist(), out.flatten().tolist(), strict=True):
        assert answer == pytest.approx(function(value), abs=1e-5)


# Decoding and the detector.


def detection_cfg(side: int = 3, boxes: int = 2, classes: int = 3, **settings: object) -> str:
    cfg = Cfg(24)
    cfg.section("connected", output=side * side * (5 * boxes + classes), activation="linear")
    cfg.section("detection", **{"classes": classes, "coords": 4, "num": boxes, "side": side, "sqrt": 1, **settings})
    return cfg.text()


def test_yolo_is_decoded_as_get_detection_detections_does() -> None:
    side, boxes, classes = 3, 2, 3
    detector = darknet_detector(detection_cfg(side, boxes, classes))
    x = noise(1, side * side * (5 * boxes + classes))
    places, objectness, chances = (part[0] for part in detector.decode([x]))
    flat = x[0].tolist()
    row = 0
    for cell in range(side * side):
        for box in range(boxes):
            scale = flat[side * side * classes + cell * boxes + box]
            start = side * side * (classes + boxes) + (cell * boxes + box) * 4
            u, v, w, h = flat[start : start + 4]
            centre = (24 * (u + cell % side) / side, 24 * (v + cell // side) / side)
            half = (12 * w * w, 12 * h * h)
            wanted = [centre[0] - half[0], centre[1] - half[1], centre[0] + half[0], centre[1] + half[1]]
            assert places[row].tolist() == pytest.approx(wanted, abs=1e-3)
            assert float(objectness[row]) == pytest.approx(scale)
            assert chances[row].tolist() == pytest.approx(flat[cell * classes : (cell + 1) * classes])
            row += 1
    assert row == len(places) == detector.num_boxes((24, 24))
    plain = darknet_detector(detection_cfg(sqrt=0, softmax=1))
    places, _, chances = plain.decode([x])
    torch.testing.assert_close(chances.sum(-1), torch.ones(1, 18))
    assert float(places[0, 0, 2] - places[0, 0, 0]) == pytest.approx(24 * flat[side * side * (classes + boxes) + 2])
    assert (plain.placement, plain.score_floor, plain.nms) == ("warp", 0.001, 0.5)


def test_yolo_needs_no_confidence_of_its_own() -> None:
    """Its score is a product of two numbers that nothing bounds; Darknet looks at the product alone."""
    detector = darknet_detector(detection_cfg())
    x = torch.zeros(1, 117)
    x[0, 0], x[0, 27] = -2.0, -0.25
    x[0, 45 + 2 : 45 + 4] = 0.5
    (found,) = detector.postprocess([x], Batch(torch.zeros(1, 3, 24, 24), (Frame((24, 24), (24, 24), (1.0, 1.0)),)))
    assert (found.scores.tolist(), found.labels.tolist()) == ([0.5], [0])
    assert found.boxes.tolist() == [[0.0, 0.0, 3.0, 3.0]]


def test_zero_outputs_decode_as_the_papers_say() -> None:
    """YOLOv2: softmax over 20 classes; YOLOv3: each class on its own; both at the first cell and anchor."""
    v2 = darknet_detector(region_of_layers().replace("=64", "=416"))
    boxes, objectness, classes = v2.decode([torch.zeros(1, 125, 13, 13)])
    width, height = (boxes[0, 0, 2:] - boxes[0, 0, :2]).tolist()
    assert (width / 416, height / 416) == pytest.approx((1.3221 / 13, 1.73145 / 13))
    assert ((boxes[0, 0, :2] + boxes[0, 0, 2:]) / 832).tolist() == pytest.approx([0.0384615] * 2, abs=1e-6)
    assert float(objectness[0, 0] * classes[0, 0, 0]) == pytest.approx(0.025)
    with torch.device("meta"):
        v3 = DarknetDetector(parse_cfg(darknet_cfgs.yolov3(416, 80, thin=8)))
    boxes, objectness, classes = v3.decode([torch.zeros(1, 255, s, s) for s in (13, 26, 52)])
    assert boxes.shape == (1, 10_647, 4)
    width, height = (boxes[0, 0, 2:] - boxes[0, 0, :2]).tolist()
    assert (width / 416, height / 416) == pytest.approx((0.2788462, 0.2163462))
    assert float(objectness[0, 0] * classes[0, 0, 79]) == pytest.approx(0.25)


def test_images_are_placed_as_darknet_validates() -> None:
    text = zoo_of_layers()
    image = torch.rand(3, 32, 64)
    assert darknet_detector(text).preprocess([image]).frames[0].inner == (32, 64)
    warped = darknet_detector(text, placement="warp", size=(64, 96), score_floor=0.1, nms=0.6, limit=7)
    assert warped.preprocess([image]).frames[0].inner == (64, 96)
    assert (warped.score_floor, warped.nms, warped.limit) == (0.1, 0.6, 7)
    assert darknet_detector(text.replace("channels=3", "letter_box=0")).placement == "warp"
    with pytest.raises(ValueError, match="placement"):
        darknet_detector(text, placement="stretch")


def test_the_input_can_change_where_layers_allow_it() -> None:
    detector = darknet_detector(zoo_of_layers()).eval()
    assert detector.num_boxes((64, 64)) == 2 * 64 + 256
    detector.resize(96)
    assert detector.num_boxes(detector.size) == 2 * 144 + 576
    (found,) = detector([torch.rand(3, 50, 80)])
    assert_is_detections(found, torch.rand(3, 50, 80), 3)
    with pytest.raises(ValueError, match=r"\(90, 90\) does not fit.*\[route\]"):
        detector.resize(90)
    assert detector.size == (96, 96)
    with pytest.raises(ValueError, match="connected layers"):
        darknet_detector(detection_cfg()).resize(48)


def test_losses_name_the_detector_that_trains() -> None:
    target = Target(torch.tensor([[1.0, 1, 20, 20]]), torch.tensor([1]))
    for text, name in ((detection_cfg(), "yolov1"), (region_of_layers(), "yolov2"), (zoo_of_layers(), "yolov3")):
        detector = darknet_detector(text)
        with pytest.raises(NotImplementedError, match=f"train {name} of the catalog"):
            detector([torch.rand(3, 64, 64)], [target])


def test_damaged_weights_of_a_network_from_a_cfg(tmp_path: Path) -> None:
    detector = darknet_detector(zoo_of_layers())
    path = tmp_path / "net.weights"
    write_weights(path, detector.darknet_layers())
    assert path.stat().st_size == 20 + 4 * numbers_of(detector)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DarknetError, match="download it again"):
        read_weights(path, detector.darknet_layers())


# Bad files.

GOOD = "[net]\nwidth=8\nheight=8\n\n[convolutional]\nfilters=8\nactivation=linear\n\n[yolo]\nclasses=3\nanchors=4,4\n"


def test_blanks_comments_and_short_names_are_darknets() -> None:
    text = GOOD.replace("=8", " = 8 # a comment").replace("[convolutional]", "; another\n[conv]\nstopbackward=1")
    assert darknet_detector(text.replace("\n", "\r\n")).num_boxes((8, 8)) == 64


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[net]", "", r"line 2: width stands before any section"),
        ("[net]\nwidth=8\nheight=8", "", r"line 3: does not begin with \[net\]"),
        ("[convolutional]", "[convolutional", r"line 5: .*closing bracket"),
        ("filters=8", "filters 8", r"line 6: 'filters8' is neither"),
        ("filters=8", "filters=", r"line 6: 'filters=' is neither"),
        ("filters=8", "filters=eight", r"line 6: \[convolutional\] filters: 'eight' is no number"),
        ("filters=8", "filters=8.5", r"line 6: \[convolutional\] filters: '8.5' must be whole"),
        ("filters=8", "filters=0", r"line 6: .*at least 1"),
        ("filters=8", "filters=8,8", r"line 6: .*one whole number"),
        ("filters=8", "fitlers=8", r"line 6: \[convolutional\] fitlers: is no entry .*filters"),
        ("filters=8", "filters=8\nfilters=9", r"line 7: .*filters: is '9' here and '8' on line 6"),
        ("filters=8", "filters=8\nxnor=1", r"line 7: \[convolutional\] xnor: only 0"),
        ("filters=8", "filters=9", r"line 9: \[yolo\]: .*take 8 channels.*gives 9"),
        ("filters=8", "filters=8\ngroups=2", r"line 7: .*groups: 2 groups do not divide the 3"),
        ("=linear", "=gelu", r"line 7: .*activation: 'gelu' is not built"),
        ("[yolo]", "[lstm]", r"line 9: \[lstm\]: is no section"),
        ("[yolo]", "[gaussian_yolo]", r"line 9: \[gaussian_yolo\]: is no section"),
        ("height=8", "", r"line 1: \[net\] height: is missing; add"),
        ("width=8", "width=inf", r"line 2: \[net\] width: 'inf' is not finite"),
        ("[yolo]", "[route]\nlayers=-5\n[yolo]", r"line 10: \[route\] layers: layer -4 is none"),
        ("[yolo]", "[route]\nlayers=1\n[yolo]", r"line 10: \[route\] layers: layer 1 is none"),
        ("[yolo]", "[shortcut]\nactivation=linear\n[yolo]", r"line 9: \[shortcut\] from: is missing"),
        ("[yolo]", "[shortcut]\nfrom=-1\nweights_type=per_channel\n[yolo]", r"line 11: .*weights_type"),
        ("[yolo]", "[reorg]\nstride=3\n[yolo]", r"line 9: \[reorg\]: cannot fold \(8, 8, 8\)"),
        ("[yolo]", "[connected]\noutput=9\nactivation=linear\n[yolo]", r"line 12: \[yolo\]: needs a map"),
        ("[yolo]", "[maxpool]\nsize=20\npadding=0\n[yolo]", r"line 9: \[maxpool\]: nothing is left"),
        ("[yolo]", "[local]\nsize=5\npad=1\n[yolo]", r"line 11: \[local\] pad"),
        ("[yolo]", "[local]\nsize=9\n[yolo]", r"line 9: \[local\]: .*does not fit"),
        ("[yolo]", "[maxpool]\nstride=2\n[route]\nlayers=-1,0\n[yolo]", r"line 12: .*layers: joins maps of"),
        ("[yolo]", "[maxpool]\nsize=4\npadding=0\n[shortcut]\nfrom=0\n[yolo]", r"line 13: .*from: adds a map"),
        ("[yolo]", "[route]\nlayers=0\ngroups=2\ngroup_id=2\n[yolo]", r"line 12: .*group_id: there is no group 2"),
        ("anchors=4,4", "anchors=4", r"line 11: \[yolo\] anchors: 1 values instead of 1 positive"),
        ("anchors=4,4", "anchors=4,0", r"line 11: \[yolo\] anchors"),
        ("anchors=4,4", "anchors=4,4\nmask=1", r"line 12: \[yolo\] mask: names an anchor"),
        ("anchors=4,4", "anchors=4,4\nnew_coords=1", r"line 12: \[yolo\] new_coords"),
        ("anchors=4,4", "anchors=4,4\nnms_kind=diounms", r"line 12: \[yolo\] nms_kind"),
        ("[yolo]", "[region]\ntree=9k.tree", r"line 10: \[region\] tree: is no entry"),
        ("[yolo]\nclasses=3\nanchors=4,4", "", "detects nothing"),
    ],
)
def test_bad_files_are_refused_with_file_line_and_section(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert GOOD.count(old)
    path = tmp_path / "bad.cfg"
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(DarknetError, match=words) as caught:
        darknet_detector(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("content", "words"), [(b"\xff\xfe", "is no text"), (None, "cannot be read"), (b"", "line 1")])
def test_files_that_are_no_cfg(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "bad.cfg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DarknetError, match=words):
        read_cfg(path)


def test_heads_must_agree_and_images_have_three_channels() -> None:
    head = "\n[convolutional]\nfilters=9\nactivation=linear\n[yolo]\nclasses=4\nanchors=4,4\n"
    with pytest.raises(DarknetError, match="3, 4 classes"):
        darknet_detector(GOOD + "[route]\nlayers=0" + head)
    with pytest.raises(DarknetError, match="3 channels"):
        darknet_detector(GOOD.replace("height=8", "height=8\nchannels=1"))
    with pytest.raises(DarknetError, match="no layers follow"):
        parse_cfg("[net]\nwidth=8\nheight=8\n")
