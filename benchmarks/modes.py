"""Ways to run a detector's network: order of memory, precision, compilation, CUDA graphs.

A mode changes how `Detector.network` is computed, for a while, and nothing else: images are prepared and answers
decoded as always, in float32, and the detector keeps its type, so that whatever takes a detector takes one in a mode.
Numbers of a mode are its own: a Record names it, and accuracy is measured anew.

Suppression needs no mode: `ops.nms` hands the boxes of all classes to one call, in which torchvision shifts each class
to a place of its own (on a CPU, from 1,000 boxes on, it goes class by class, which is faster there).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn

from benchmarks.hardware import CompileMode, Precision, RunFacts
from benchmarks.stages import replaced
from ops.images import Batch, Frame
from ops.structures import Target
from zoo.detector import Detector

__all__ = ["OPTIONS", "Mode", "ModeError", "parse_mode", "running"]

Network = Callable[[Batch, list[Target] | None], Any]


class ModeError(ValueError):
    """A mode that does not exist, or that a device or a detector cannot run in."""


@dataclass(frozen=True)
class Mode:
    """How a network is run.

    Attributes:
        channels_last: Colours and features of a pixel lie side by side in memory, in all weights and in the input. If
            not, the order is the detector's own.
        precision: `float32`; or `float16` or `bfloat16`, for those operators that autocast trusts with it.
        compiler: Backend of `torch.compile`, or None for eager execution.
        graphs: Replay CUDA graphs, one for each shape of the input.
    """

    channels_last: bool = False
    precision: Precision = "float32"
    compiler: str | None = None
    graphs: bool = False

    @property
    def name(self) -> str:
        """Its options as `parse_mode` takes them; empty for the plain mode."""
        return ",".join(option for option, settings in OPTIONS.items() if self._has(settings))

    def describe(self) -> dict[str, Any]:
        """What a Record keeps of it, under `mode`."""
        return {
            "name": self.name,
            "memory_format": "channels last" if self.channels_last else "the detector's own",
            "precision": self.precision,
            "compile": self.compiler,
            "cuda_graphs": self.graphs,
        }

    def facts(self) -> RunFacts:
        """What a hardware profile says about a mode, for `benchmarks.hardware.stamp` and `watch`."""
        graphs: dict[bool, dict[bool, CompileMode]] = {
            False: {False: "eager", True: "cuda-graphs"},
            True: {False: "compile", True: "compile,cuda-graphs"},
        }
        return {
            "precision": self.precision,
            "memory_format": "channels-last" if self.channels_last else "own",
            "compile_mode": graphs[self.compiler is not None][self.graphs],
        }

    def check(self, device: torch.device | str) -> None:
        """See that a device can run it.

        Raises:
            ModeError: It cannot.
        """
        place = torch.device(device)
        if place.type == "cpu" and self.precision == "float16":
            raise ModeError("fp16 is for CUDA; on a CPU take bf16, or name a device by --device cuda")
        if place.type != "cuda" and self.graphs:
            raise ModeError("cuda-graphs are replayed by a CUDA device, and this is a CPU; leave the option out")
        if place.type == "cuda" and self.precision == "bfloat16" and not torch.cuda.is_bf16_supported():
            raise ModeError(f"{torch.cuda.get_device_name(place)} has no bfloat16; take fp16")

    def _has(self, settings: dict[str, Any]) -> bool:
        return all(getattr(self, entry) == value for entry, value in settings.items())


OPTIONS: dict[str, dict[str, Any]] = {
    "channels-last": {"channels_last": True},
    "fp16": {"precision": "float16"},
    "bf16": {"precision": "bfloat16"},
    "compile": {"compiler": "inductor"},
    "cuda-graphs": {"graphs": True},
}
"""What a mode is put together from, and what each option sets."""


def parse_mode(text: str) -> Mode:
    """`"channels-last,bf16"` to a mode; the order of options is of no account, and no option is the plain mode.

    Raises:
        ModeError: There is no such option, or two contradict each other.
    """
    settings: dict[str, Any] = {}
    for option in (part.strip() for part in text.split(",") if part.strip()):
        if option not in OPTIONS:
            raise ModeError(f"mode {option!r}: choose from {', '.join(OPTIONS)}, several with commas")
        for entry, value in OPTIONS[option].items():
            if settings.get(entry, value) != value:
                raise ModeError(f"mode {text!r}: a network has one precision; leave out fp16 or bf16")
            settings[entry] = value
    return Mode(**settings)


@contextmanager
def running(model: Detector, mode: Mode, device: torch.device | str = "cpu") -> Iterator[Detector]:
    """Run a detector's network in a mode meanwhile; it goes to `device` and into `eval()`, and stays there.

    Only calls without targets change. Weights that autocast has shortened are kept until the end: they must not change.

    Raises:
        ModeError: The device cannot run the mode, or the detector has no neural network; while a graph is captured,
            that its network cannot be replayed.
    """
    mode.check(device)
    place = torch.device(device)
    model.to(place).eval()
    if mode == Mode():
        yield model
        return
    if not any(True for _ in model.parameters()):
        raise ModeError(f"{type(model).__name__} has no neural network, which is what modes are for; leave --mode out")
    plain = model.network
    network = plain if mode.compiler is None else _compiled(plain, mode.compiler)
    with ExitStack() as stack:
        if mode.channels_last:
            stack.enter_context(_in_channels_last(model))
            network = _with_channels_last(network)
        if mode.precision != "float32":
            dtype = getattr(torch, mode.precision)
            # Autocast forgets the weights that it has shortened when the outermost context ends: this one.
            stack.enter_context(torch.autocast(place.type, dtype=dtype, enabled=False))
            network = _with_autocast(network, place.type, dtype)
            if callable(propose := getattr(model, "proposals", None)):
                stack.enter_context(replaced(model, "proposals", _with_autocast(propose, place.type, dtype)))
        if mode.graphs:
            network = _Replayed(network, type(model).__name__)
        stack.enter_context(replaced(model, "network", _for_detection(network, plain)))
        yield model


def _for_detection(network: Network, plain: Network) -> Network:
    def either(batch: Batch, targets: list[Target] | None = None) -> Any:
        return network(batch, None) if targets is None else plain(batch, targets)

    return either


def _compiled(network: Network, backend: str) -> Network:
    compiled: Network = torch.compile(network, backend=backend)
    return compiled


@contextmanager
def _in_channels_last(model: nn.Module) -> Iterator[None]:
    """Weights of convolutions in that order; afterwards again as they lay, which chooses the algorithm to the bit."""
    before = {entry: entry.stride() for entry in [*model.parameters(), *model.buffers()] if entry.ndim == 4}
    model.to(memory_format=torch.channels_last)
    try:
        yield
    finally:
        for entry, stride in before.items():
            if entry.stride() != stride:
                # `contiguous` would leave weights of 1x1, which are in both orders at once.
                empty = torch.empty_strided(entry.shape, stride, dtype=entry.dtype, device=entry.device)
                entry.data = empty.copy_(entry.detach())


def _with_channels_last(network: Network) -> Network:
    def run(batch: Batch, targets: list[Target] | None = None) -> Any:
        return network(replace(batch, pixels=batch.pixels.contiguous(memory_format=torch.channels_last)), targets)

    return run


def _with_autocast(method: Callable[..., Any], kind: str, dtype: torch.dtype) -> Callable[..., Any]:
    def run(*arguments: Any) -> Any:
        # In inference mode autocast would shorten all weights anew in every call.
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(kind, dtype=dtype):
            return method(*arguments)

    return run


class _Unseen:
    """Frames in place of a batch's own while a graph is captured: what a network read there, replays would repeat."""

    def _refuse(self, *_: Any) -> NoReturn:
        raise ModeError("it looks at the sizes of the images themselves")

    __iter__ = __len__ = __getitem__ = __bool__ = _refuse


@dataclass(frozen=True)
class _Captured:
    """A graph with the memory that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    pixels: Tensor
    outputs: Any


class _Replayed:
    """A network that is captured at the first input of each shape and replayed from then on."""

    def __init__(self, network: Network, name: str) -> None:
        self._network, self._name = network, name
        self._captured: dict[tuple[Any, ...], _Captured] = {}

    def __call__(self, batch: Batch, targets: list[Target] | None = None) -> Any:
        key = (batch.pixels.shape, batch.pixels.stride(), batch.pixels.dtype)
        if key not in self._captured:
            self._captured[key] = self._capture(batch)
        captured = self._captured[key]
        captured.pixels.copy_(batch.pixels)
        captured.graph.replay()
        # The next replay writes over them.
        return _mapped(captured.outputs, Tensor.clone)

    def _capture(self, batch: Batch) -> _Captured:
        held = Batch(batch.pixels.clone(), cast("tuple[Frame, ...]", _Unseen()))
        try:
            # Libraries allocate and choose algorithms at their first calls, which no graph may hold.
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    self._network(held, None)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                outputs = self._network(held, None)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise ModeError(f"{self._name} cannot be replayed: its network waits for its data ({reason})") from error
        except ModeError as error:
            raise ModeError(f"{self._name} cannot be replayed: {error}; leave cuda-graphs out") from error
        return _Captured(graph, held.pixels, outputs)


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """An answer of the same build with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: _mapped(part, change) for key, part in value.items()}
    if isinstance(value, list):
        return [_mapped(part, change) for part in value]
    if isinstance(value, tuple):
        parts = [_mapped(part, change) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if is_dataclass(value) and not isinstance(value, type):
        changed = {entry.name: _mapped(getattr(value, entry.name), change) for entry in fields(value) if entry.init}
        return replace(value, **changed)
    return value
