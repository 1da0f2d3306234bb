"""Readers of checkpoints and of networks, each with what a sane answer is."""

from __future__ import annotations

import io
import pickle
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tests import caffe_files, mat_files, opencv_cascades
from tests.fuzz.hunt import Reader
from tests.fuzz.sanity import finite, real_files
from zoo import build
from zoo.checkpoints import CheckpointError, load, save
from zoo.classical.released import read_released
from zoo.formats.acf_mat import read_trees
from zoo.formats.caffe import CaffeError, read_caffemodel, read_prototxt
from zoo.formats.caffe_net import read_caffe_net
from zoo.formats.cornernet import read_cornernet
from zoo.formats.darknet import DarknetError, conv_layers, read_weights, write_weights
from zoo.formats.darknet_cfg import read_cfg
from zoo.formats.darknet_network import CfgNetwork
from zoo.formats.detectron import DetectronError, read_detectron
from zoo.formats.dpm_mat import read_star_mixture
from zoo.formats.mat import MatError
from zoo.formats.opencv_cascade import CascadeError, read_cascade
from zoo.formats.state_dict import StateDictError, read_state_dict

__all__ = ["WEIGHT_READERS"]


def _cfg_seeds(_: Path) -> list[bytes]:
    head = "[region]\nclasses=2\nnum=2\nanchors=1,2,3,4\n"
    small = "[net]\nwidth=32\nheight=32\nchannels=3\n[convolutional]\nfilters=8\nsize=3\npad=1\nbatch_normalize=1\n"
    mixed = (
        "[maxpool]\nsize=2\nstride=2\n[convolutional]\nfilters=8\n[shortcut]\nfrom=-2\n[upsample]\nstride=2\n"
        "[route]\nlayers=-1,0\n[reorg]\nstride=2\n[convolutional]\nfilters=14\nsize=1\nactivation=linear\n"
    )
    yolo = "[convolutional]\nfilters=7\nactivation=linear\n[yolo]\nmask=1\nnum=2\nclasses=2\nanchors=1,2, 3,4\n"
    first = "[local]\nsize=3\npad=1\nfilters=4\n[connected]\noutput=588\n[detection]\nclasses=2\ncoords=4\nnum=2\n"
    texts = [text.encode() for text in (small + mixed + head, small + yolo, small + first)]
    return texts + real_files("DETECTOR_ZOO_WEIGHTS", "yolo-fastest/yolo-fastest-1.1.cfg")


def _read_cfg(path: Path) -> None:
    cfg = read_cfg(path)
    with torch.device("meta"):
        network = CfgNetwork(cfg)
    assert sum(value.numel() for value in network.state_dict().values()) < 1 << 29, "a network beyond bounds"
    assert all(min(shape) > 0 for shape in network.shapes)
    assert all(len(head.anchors) in (0, head.boxes) for head in network.heads)


def _small_net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Linear(4, 2))


def _weights_seeds(folder: Path) -> list[bytes]:
    write_weights(folder / "seed.weights", conv_layers(_small_net()))
    return [(folder / "seed.weights").read_bytes()]


def _read_weights(path: Path) -> None:
    net = _small_net()
    read_weights(path, conv_layers(net))
    finite(*net.state_dict().values())


_PROTOTXT = """name: "toy"
input: "data" input_shape { dim: 1 dim: 3 dim: 8 dim: 8 }
layer { name: "a" type: "Convolution" bottom: "data" top: "a"
  convolution_param { num_output: 4 kernel_size: 3 pad: 1 } }
layer { name: "n" type: "BatchNorm" bottom: "a" top: "n" batch_norm_param { eps: 1e-5 } }
layer { name: "s" type: "Scale" bottom: "n" top: "s" scale_param { bias_term: true } }
layer { name: "r" type: "ReLU" bottom: "s" top: "r" relu_param { negative_slope: 0.1 } }
layer { name: "p" type: "Pooling" bottom: "r" top: "p" pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "b" type: "PriorBox" bottom: "p" bottom: "data" top: "b"
  prior_box_param { min_size: 2 max_size: 4 aspect_ratio: 2 flip: true variance: 0.1 step: 2 } }
layer { name: "u" type: "Upsample" bottom: "p" top: "u" upsample_param { scale: 2 } }
layer { name: "e" type: "Eltwise" bottom: "u" bottom: "r" top: "e" eltwise_param { operation: SUM coeff: 1 coeff: 2 } }
layer { name: "m" type: "Permute" bottom: "e" top: "m" permute_param { order: 0 order: 2 order: 3 order: 1 } }
"""


def _blobs() -> dict[str, list[Any]]:
    noise = np.random.default_rng(0)
    sizes: dict[str, tuple[tuple[int, ...], ...]] = {
        "a": ((4, 3, 3, 3), (4,)),
        "n": ((4,), (4,), (1,)),
        "s": ((4,), (4,)),
    }
    return {name: [noise.random(size, np.float32) + 1 for size in own] for name, own in sizes.items()}


def _caffemodel_seeds(folder: Path) -> list[bytes]:
    kinds = {"a": "Convolution", "n": "BatchNorm", "s": "Scale"}
    blobs = _blobs()
    new = [caffe_files.layer(name, kind, ["x"], [name], blobs[name]) for name, kind in kinds.items()]
    caffe_files.write_caffemodel(folder / "net.caffemodel", *new)
    old = [caffe_files.layer_v1("a", 4, ["x"], ["a"], blobs["a"], write=caffe_files.unpacked)]
    other = [caffe_files.layer("a", "Convolution", ["x"], ["a"], blobs["a"], write=caffe_files.halves)]
    files = [caffe_files.write_caffemodel(folder / "other", *layers).read_bytes() for layers in (old, other)]
    return [(folder / "net.caffemodel").read_bytes(), *files]


def _prototxt_seeds(folder: Path) -> list[bytes]:
    _caffemodel_seeds(folder)
    return [_PROTOTXT.encode()]


def _read_caffemodel(path: Path) -> None:
    for layer in read_caffemodel(path).layers:
        finite(*layer.blobs)


def _build_caffe(path: Path) -> None:
    net = read_caffe_net(path.with_name("net.caffemodel"), path)
    finite(*net.state_dict().values())


def _run_caffe(path: Path) -> None:
    """The layers are those of a right prototxt, the numbers the file's."""
    path.with_name("right.prototxt").write_text(_PROTOTXT)
    net = read_caffe_net(path, path.with_name("right.prototxt"))
    finite(*net.state_dict().values())
    with torch.no_grad():
        finite(*net(torch.zeros(1, 3, 8, 8)).values())


def _detectron_seeds(_: Path) -> list[bytes]:
    blobs = {"fc6_w": np.ones((2, 3), np.float32), "fc6_b": np.zeros(2, np.float32), "lr": np.float64(0.1)}
    entries = {
        "roi_heads.box_head.fc1.weight": torch.ones(2, 3),
        "roi_heads.box_predictor.cls_score.bias": torch.ones(3),
    }
    arrays = {name: value.numpy() for name, value in entries.items()}
    packed = [pickle.dumps({"blobs": blobs}, protocol) for protocol in (2, 4, 5)]
    return [*packed, pickle.dumps({"model": arrays, "__author__": "x"}, 4), pickle.dumps({"model": entries}, 2)]


def _read_detectron(path: Path) -> None:
    for value in read_detectron(path).values():
        assert value.numel() * value.element_size() <= 1 << 24


def _torch(legacy: bool) -> Callable[[Path], list[bytes]]:
    def seeds(_: Path) -> list[bytes]:
        file = io.BytesIO()
        state = {"pre.0.conv.weight": torch.rand(2, 3, 1, 1), "pre.0.bn.num_batches_tracked": torch.tensor(3)}
        torch.save({"state_dict": state}, file, _use_new_zipfile_serialization=not legacy)
        return [file.getvalue()]

    return seeds


def _read_state(path: Path) -> None:
    for read in (read_state_dict, read_cornernet):
        for value in read(path).values():
            assert value.layout == torch.strided
            assert value.device.type == "cpu"


def _data_pkl(file: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(file)) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


def _with_data_pkl(pickled: bytes) -> bytes:
    whole, buffer = _torch(False)(Path())[0], io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickled if name.endswith("data.pkl") else old.read(name))
    return buffer.getvalue()


def _mat(write: Callable[[Path], Path], real: str) -> Callable[[Path], list[bytes]]:
    return lambda folder: [write(folder / "seed.mat").read_bytes(), *real_files("DETECTOR_ZOO_WEIGHTS", real)]


def _inflated(file: bytes) -> bytes:
    """A `.mat` file without the compression of its one variable."""
    return file[:128] + (zlib.decompress(file[136:]) if file[128] == 15 else file[128:])


def _deflated(file: bytes) -> bytes:
    packed = zlib.compress(file[128:], 1)
    return file[:128] + struct.pack("<2I", 15, len(packed)) + packed


def _dpm(path: Path) -> None:
    for component in read_star_mixture(path).components:
        finite(component.root, component.bias, component.prior, component.parts, component.costs)


def _acf(path: Path) -> None:
    trees = read_trees(path)
    finite(trees.threshold, trees.leaf, trees.reject, trees.covered)
    rows, columns = trees.window[0] // trees.shrink, trees.window[1] // trees.shrink
    assert 0 <= int(trees.feature.min()) <= int(trees.feature.max()) < 10 * rows * columns


def _cascade_seeds(_: Path) -> list[bytes]:
    kinds = (("HAAR", 1, True), ("HAAR", 2, False), ("LBP", 1, False))
    return [opencv_cascades.cascade_xml(k, nodes=n, tilted=t, stages=2).encode() for k, n, t in kinds]


def _read_cascade(path: Path) -> None:
    cascade = read_cascade(path)
    finite(cascade.stage_thresholds, cascade.thresholds, cascade.leaves, cascade.weights)
    assert cascade.codes.nbytes < 1 << 28


def _checkpoint_seeds(folder: Path) -> list[bytes]:
    from zoo import CATALOG

    small = dict(CATALOG["hog_svm"].small or {})
    model = build("hog_svm", 2, **small)
    path = folder / "seed.safetensors"
    save(path, model, detector="hog_svm", num_classes=2, overrides=small, class_names=("a", "b"), small=True)
    return [path.read_bytes()]


def _read_checkpoint(path: Path) -> None:
    model, meta = load(path)
    finite(*model.state_dict().values())
    assert len(meta.class_names) == meta.num_classes
    assert all(isinstance(name, str) for name in meta.class_names)


def _header(file: bytes) -> bytes:
    return file[8 : 8 + int.from_bytes(file[:8], "little")]


@lru_cache(maxsize=1)
def _checkpoint() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return _checkpoint_seeds(Path(folder))[0]


def _behind_header(header: bytes) -> bytes:
    """The numbers are those of the one seed."""
    return len(header).to_bytes(8, "little") + header + _checkpoint()[8 + len(_header(_checkpoint())) :]


def _numpy(_: Path) -> list[bytes]:
    file = io.BytesIO()
    np.save(file, np.ones(3781, np.float32) / 100)
    return [file.getvalue()]


def _vector(path: Path) -> None:
    model, _ = read_released("hog_svm_opencv", path)
    finite(*model.state_dict().values())


_FORMATS = "zoo/formats/"
_MATS = (f"{_FORMATS}mat.py", f"{_FORMATS}acf_mat.py", f"{_FORMATS}dpm_mat.py")
_TORCH = (f"{_FORMATS}state_dict.py", f"{_FORMATS}cornernet.py", "torch/_weights_only_unpickler.py")

WEIGHT_READERS = (
    Reader("cfg", "net.cfg", _cfg_seeds, _read_cfg, DarknetError,
           (f"{_FORMATS}darknet_cfg.py", f"{_FORMATS}darknet_network.py"), True),
    Reader("darknet", "net.weights", _weights_seeds, _read_weights, DarknetError, (f"{_FORMATS}darknet.py",)),
    Reader("prototxt", "net.prototxt",
           lambda f: _prototxt_seeds(f) + real_files("DETECTOR_ZOO_WEIGHTS", "mobilenetv2-yolov3-nano/*.prototxt"),
           read_prototxt, CaffeError, (f"{_FORMATS}caffe.py",), True),
    Reader("caffe net", "net.prototxt", _prototxt_seeds, _build_caffe, CaffeError,
           (f"{_FORMATS}caffe.py", f"{_FORMATS}caffe_net.py"), True),
    Reader("caffemodel", "a.caffemodel", _caffemodel_seeds, _read_caffemodel, CaffeError, (f"{_FORMATS}caffe.py",)),
    Reader("caffemodel run", "a.caffemodel", lambda f: _caffemodel_seeds(f)[:1], _run_caffe, CaffeError,
           (f"{_FORMATS}caffe.py", f"{_FORMATS}caffe_net.py")),
    Reader("detectron", "model.pkl", _detectron_seeds, _read_detectron, DetectronError, (f"{_FORMATS}detectron.py",)),
    Reader("torch zip", "a.pth", _torch(False), _read_state, StateDictError, _TORCH),
    Reader("torch pickle", "a.pth", _torch(False), _read_state, StateDictError, _TORCH, unpack=_data_pkl,
           pack=_with_data_pkl),
    Reader("torch legacy", "a.pth", _torch(True), _read_state, StateDictError, _TORCH),
    Reader("dpm", "a.mat", _mat(mat_files.release, "dpm-voc-release5/INRIA/*.mat"), _dpm, MatError, _MATS),
    Reader("acf", "a.mat", _mat(mat_files.toolbox, "acf/*.mat"), _acf, MatError, _MATS),
    Reader("acf compressed", "a.mat", lambda f: [_deflated(d) for d in _mat(mat_files.toolbox, "none")(f)], _acf,
           MatError, _MATS, unpack=_inflated, pack=_deflated),
    Reader("cascade", "cascade.xml", _cascade_seeds, _read_cascade, CascadeError, (f"{_FORMATS}opencv_cascade.py",),
           True),
    Reader("safetensors", "a.safetensors", _checkpoint_seeds, _read_checkpoint, CheckpointError,
           ("zoo/checkpoints.py",)),
    Reader("safetensors header", "a.safetensors", _checkpoint_seeds, _read_checkpoint, CheckpointError,
           ("zoo/checkpoints.py",), True, _header, _behind_header),
    Reader("npy", "a.npy", _numpy, _vector, ValueError, ("classical/released.py",)),
)  # fmt: skip
