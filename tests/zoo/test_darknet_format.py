import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ops.images import Batch
from tests import darknet_cfgs
from zoo.formats.darknet import DarknetError, Header, conv_layers, read_weights, write_weights
from zoo.one_stage.yolov3 import YOLOv3, yolov3_tiny


def scramble(module: nn.Module, seed: int = 0) -> None:
    """Weights and statistics such that every entry matters and activations neither vanish nor explode."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            fan = part.weight[0].numel()
            part.weight.data = torch.randn(part.weight.shape, generator=generator) * (2 / fan) ** 0.5
            if part.bias is not None:
                part.bias.data = 0.1 * torch.randn(part.bias.shape, generator=generator)
        if isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d):
            for tensor in (part.weight.data, part.running_var):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            for tensor in (part.bias.data, part.running_mean):
                tensor.copy_(0.2 * torch.randn(tensor.shape, generator=generator))


def small_net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.LeakyReLU(0.1), nn.Conv2d(4, 2, 1))


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def test_layers_are_convolutions_with_the_norm_behind_them() -> None:
    net = small_net()
    assert list(conv_layers(net)) == [(net[0], net[1]), (net[3], None)]
    linear = nn.Sequential(nn.Linear(2, 3), nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1))
    assert list(conv_layers(linear)) == [(linear[0], None), (linear[1], linear[2])]


def test_bytes_of_a_convolution_with_norm(tmp_path: Path) -> None:
    """Biases, scales, means, variances, then weights `[out, in, y, x]`; written by hand."""
    path = tmp_path / "by_hand.weights"
    path.write_bytes(
        struct.pack("<3iq", 0, 2, 0, 32_013_312)
        + floats(1, 2)  # biases
        + floats(3, 4)  # scales
        + floats(5, 6)  # means
        + floats(7, 8)  # variances
        + floats(*range(10, 22))  # weights
    )
    conv, norm = nn.Conv2d(3, 2, (1, 2), bias=False), nn.BatchNorm2d(2)
    header = read_weights(path, [(conv, norm)])
    assert header == Header(0, 2, 0, 32_013_312)
    assert norm.bias.tolist() == [1, 2]
    assert norm.weight.tolist() == [3, 4]
    assert norm.running_mean.tolist() == [5, 6]
    assert norm.running_var.tolist() == [7, 8]
    assert conv.weight.flatten().tolist() == list(range(10, 22))


def test_old_header_has_sixteen_bytes_and_linear_weights_may_be_transposed(tmp_path: Path) -> None:
    path = tmp_path / "old.weights"
    path.write_bytes(struct.pack("<4i", 0, 1, 0, 77) + floats(1, 2, 10, 11, 12, 13, 14, 15))
    linear = nn.Linear(3, 2)
    assert read_weights(path, [(linear, None)]).seen == 77
    assert linear.weight.tolist() == [[10, 11, 12], [13, 14, 15]]
    path.write_bytes(struct.pack("<3iq", 1001, 0, 0, 77) + floats(1, 2, 10, 11, 12, 13, 14, 15))
    read_weights(path, [(linear, None)])
    assert linear.bias.tolist() == [1, 2]
    assert linear.weight.tolist() == [[10, 12, 14], [11, 13, 15]]


def test_linear_layers_hold_their_weights_before_the_statistics(tmp_path: Path) -> None:
    path = tmp_path / "connected.weights"
    path.write_bytes(struct.pack("<3iq", 0, 2, 0, 0) + floats(1, 20, 21, 3, 4, 5))
    linear, norm = nn.Linear(2, 1, bias=False), nn.BatchNorm1d(1)
    read_weights(path, [(linear, norm)])
    assert linear.weight.tolist() == [[20, 21]]
    assert (norm.bias.item(), norm.weight.item(), norm.running_mean.item(), norm.running_var.item()) == (1, 3, 4, 5)


@pytest.mark.parametrize("header", [Header(), Header(0, 1, 0, 5), Header(1001, 2, 0, 2**40)])
def test_round_trip(tmp_path: Path, header: Header) -> None:
    source = nn.Sequential(small_net(), nn.Flatten(), nn.Linear(2, 5))
    target = nn.Sequential(small_net(), nn.Flatten(), nn.Linear(2, 5))
    scramble(source)
    write_weights(tmp_path / "a.weights", conv_layers(source), header)
    assert read_weights(tmp_path / "a.weights", conv_layers(target)) == header
    for name, value in target.state_dict().items():
        assert torch.equal(value, source.state_dict()[name]), name
    write_weights(tmp_path / "b.weights", conv_layers(target), header)
    assert (tmp_path / "a.weights").read_bytes() == (tmp_path / "b.weights").read_bytes()


def damaged(content: bytes, position: int, value: float) -> bytes:
    start = 20 + 4 * position
    return content[:start] + floats(value) + content[start + 4 :]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda c: c[:-1], ("download it again", "555 bytes", "take 556")),
        (lambda c: c[:-4], ("download it again", "552 bytes", "134 numbers")),
        (lambda c: c + floats(1), ("larger network", "560 bytes")),
        (lambda c: c[:30], ("30 bytes", "download")),
        (lambda c: c[:18], ("header", "18 bytes")),
        (lambda c: b"", ("header", "0 bytes")),
        (lambda c: b"<!DOCTYPE html><html>not found</html>", ("header", "version")),
        (lambda c: damaged(c, 2, float("nan")), ("biases of layer 0", "byte 28")),
        (lambda c: damaged(c, 12, -0.5), ("variances of layer 0", "-0.5")),
        (lambda c: damaged(c, 20, float("inf")), ("weights of layer 0", "inf")),
        (lambda c: damaged(c, 130, float("nan")), ("weights of layer 1", "byte 540")),
    ],
)
def test_damaged_files_are_refused_and_change_nothing(tmp_path: Path, damage, words: tuple[str, ...]) -> None:
    net = small_net()
    scramble(net, 1)
    path = tmp_path / "net.weights"
    write_weights(path, conv_layers(net))
    path.write_bytes(damage(path.read_bytes()))
    scramble(net, 2)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(DarknetError) as caught:
        read_weights(path, conv_layers(net))
    message = str(caught.value)
    assert str(path) in message
    for word in words:
        assert word in message
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_missing_file_and_other_number_of_classes(tmp_path: Path) -> None:
    with pytest.raises(DarknetError, match=r"nowhere\.weights.*fetch"):
        read_weights(tmp_path / "nowhere.weights", conv_layers(small_net()))
    twenty = yolov3_tiny(20, widths=(2, 2, 2, 2, 2, 2, 2), heads=(2, 2))
    write_weights(tmp_path / "twenty.weights", twenty.darknet_layers())
    with pytest.raises(DarknetError, match="classes"):
        read_weights(
            tmp_path / "twenty.weights", yolov3_tiny(80, widths=(2, 2, 2, 2, 2, 2, 2), heads=(2, 2)).darknet_layers()
        )


WIDTHS = (4, 8, 16, 32, 64, 128)
CASES = {
    "yolov3": (
        lambda: YOLOv3(4, size=96, widths=WIDTHS, heads=(64, 32, 16)),
        lambda: darknet_cfgs.yolov3(96, 4, thin=8),
    ),
    "yolov3_spp": (
        lambda: YOLOv3(4, size=96, widths=WIDTHS, heads=(64, 32, 16), pyramid=True),
        lambda: darknet_cfgs.yolov3(96, 4, pyramid=True, thin=8),
    ),
    "yolov3_tiny": (
        lambda: yolov3_tiny(4, size=96, widths=(2, 4, 8, 16, 32, 64, 128), heads=(32, 16), second_mask=(0, 1, 2)),
        lambda: darknet_cfgs.yolov3_tiny(96, 4, thin=8),
    ),
}


def by_cell(rows: np.ndarray, cells: int, anchors: int = 3) -> Tensor:
    """OpenCV's rows run over cells and then anchors; ours over anchors and then cells."""
    table = torch.from_numpy(np.array(rows)).reshape(cells, anchors, -1)
    return table.transpose(0, 1).reshape(anchors * cells, -1)


@pytest.mark.parametrize("name", CASES)
def test_opencv_reads_the_same_network_from_the_same_file(tmp_path: Path, name: str) -> None:
    """The authors' cfg and a file of ours, read by OpenCV: the same boxes, objectness and classes from the same pixels.

    This pins the order of the layers in the file, every route, the pooling, the upsampling and the decoding.
    """
    build, cfg = CASES[name]
    model = build().eval()
    scramble(model)
    pixels = torch.rand((1, 3, 96, 96), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        # Residual sums grow with depth; predictions must not saturate the sigmoids, or they would prove nothing.
        for head, output in zip(model.heads, model.network(Batch(pixels, ())), strict=True):
            head.predict.weight /= output.std()
    (tmp_path / "net.cfg").write_text(darknet_cfgs.for_opencv(cfg()))
    write_weights(tmp_path / "net.weights", model.darknet_layers())
    oracle = cv2.dnn.readNetFromDarknet(str(tmp_path / "net.cfg"), str(tmp_path / "net.weights"))
    oracle.setInput(pixels.numpy())
    rows = oracle.forward(oracle.getUnconnectedOutLayersNames())

    with torch.no_grad():
        boxes, raw = model.decode(model.network(Batch(pixels, ())))
    cells = [(96 // stride) ** 2 for stride in model.strides]
    expected = torch.cat([by_cell(part, count) for part, count in zip(rows, cells, strict=True)])
    size = boxes[0, :, 2:] - boxes[0, :, :2]
    ours = torch.cat([(boxes[0, :, :2] + boxes[0, :, 2:]) / 2, size], 1) / 96
    assert expected.shape[0] == ours.shape[0] == model.num_boxes((96, 96))
    assert 0.5 < float(raw.std()) < 2
    torch.testing.assert_close(ours, expected[:, :4], rtol=5e-3, atol=1e-3)
    torch.testing.assert_close(raw[0, :, 4].sigmoid(), expected[:, 4], rtol=5e-3, atol=1e-3)
    scores = raw[0, :, 4:5].sigmoid() * raw[0, :, 5:].sigmoid()
    torch.testing.assert_close(scores, expected[:, 5:], rtol=5e-3, atol=1e-3)
