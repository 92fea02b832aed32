"""Layers on a GPU, through torch: float32, float16, and int8 matrix products."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.lut.onnx_graphs import pads_of, tensors_of
from benchmarks.lut.timing import Prepared, Unsupported

BURST = 20
"""Runs between two events of the GPU's clock, so that a launch's latency does not count alone."""
WARM = 3
"""Runs before a burst is recorded."""


def missing() -> str | None:
    """Why nothing can be measured here."""
    if not torch.cuda.is_available():
        built = torch.version.cuda
        reason = f"built for CUDA {built}, but finds no device" if built else "built without CUDA"
        return f"torch {torch.__version__} has no GPU here ({reason})"
    return None


def facts() -> dict[str, Any]:
    """Device and versions, for the record."""
    cudnn: Any = torch.backends.cudnn
    return {
        "gpu": torch.cuda.get_device_name(),
        "capability": list(torch.cuda.get_device_capability()),
        "cuda": torch.version.cuda,
        "cudnn": cudnn.version(),
    }


def prepare(shape: dict[str, Any], arithmetic: str, threads: int) -> Prepared:
    """A layer on the GPU. ``threads`` means nothing here."""
    reason = int8_reason(shape) if arithmetic == "int8" else None
    if reason:
        raise Unsupported(reason)
    # float32 is to mean float32, and cuDNN is to take its fastest kernel.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    if arithmetic == "int8":
        return _int8(shape)
    return _float(shape, torch.float16 if arithmetic == "float16" else torch.float32)


def idle(threads: int) -> Prepared:
    """The launch of a kernel that does next to nothing."""
    x = torch.zeros(1, device="cuda")
    return Prepared(_timed(lambda: x.neg()))


def int8_reason(shape: dict[str, Any]) -> str | None:
    """Why torch has no int8 kernel for a layer: ``torch._int_mm`` multiplies some matrices."""
    if shape["kind"] != "linear":
        return "torch has no int8 convolution on GPUs"
    (tokens, inputs), (outputs, _), _ = tensors_of(shape)
    if tokens <= 16 or inputs % 8 or outputs % 8:
        return (
            f"torch's int8 product needs more than 16 tokens and channels in multiples of 8; this "
            f"layer has {tokens} tokens, {inputs} and {outputs} channels"
        )
    return None


def layer_module(shape: dict[str, Any]) -> nn.Module:
    """The layer as a torch module that gives its output size, padded as its description implies."""
    inputs, outputs = shape["in_channels"], shape["out_channels"]
    if shape["kind"] == "linear":
        return nn.Linear(inputs, outputs)
    axes = len(shape["kernel"])
    pads = pads_of(shape)
    before, after = pads[:axes], pads[axes:]
    # Uneven zeros (timm's "same" padding) go on one side; torch's own padding is even.
    even = [min(pair) for pair in zip(before, after, strict=True)]
    rest = [(b - e, a - e) for b, a, e in zip(before, after, even, strict=True)]
    kind: Any = nn.Conv1d if axes == 1 else nn.Conv2d
    conv: nn.Module = kind(
        inputs, outputs, tuple(shape["kernel"]), tuple(shape["stride"]),
        padding=tuple(even), groups=shape["groups"],
    )  # fmt: skip
    if not any(map(any, rest)):
        return conv
    pad: Any = nn.ConstantPad1d if axes == 1 else nn.ConstantPad2d
    # torch counts the ends from the last axis.
    return nn.Sequential(pad(tuple(end for pair in reversed(rest) for end in pair), 0.0), conv)


def _float(shape: dict[str, Any], dtype: torch.dtype) -> Prepared:
    module = layer_module(shape).to("cuda", dtype).eval()
    x = torch.randn(tensors_of(shape)[0], device="cuda", dtype=dtype)
    if x.dim() == 4:
        module, x = module.to(memory_format=torch.channels_last), x.contiguous(
            memory_format=torch.channels_last
        )  # fmt: skip
    return Prepared(_timed(lambda: module(x)), (type(module).__name__,))


def _int8(shape: dict[str, Any]) -> Prepared:
    reads, weighs, _ = tensors_of(shape)
    x = torch.randint(-128, 128, reads, device="cuda", dtype=torch.int8)
    # The product takes its second matrix in column order, as the weight of a linear layer lies.
    w = torch.randint(-128, 128, weighs, device="cuda", dtype=torch.int8).t()
    return Prepared(_timed(lambda: torch._int_mm(x, w)), ("_int_mm",))


def _timed(run: Callable[[], object]) -> Callable[[], float]:
    """A sample by the GPU's clock, of a burst of runs that is launched as one.

    One by one, small layers take as long as the processor takes to launch their kernels: each of
    ResNet-8's some 25 us on an H200, and as much more as the processor happens to be slow.
    """
    return partial(_sample, _graph(run), run)


def _sample(burst: Any, run: Callable[[], object]) -> float:
    """Seconds of one run of a burst; with ``run`` live the tensors that the burst reads."""
    event: Any = torch.cuda.Event
    start, end = (event(enable_timing=True) for _ in range(2))
    start.record()
    burst.replay()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3 / BURST


@torch.inference_mode()
def _graph(run: Callable[[], object]) -> Any:
    """A burst of runs as a graph of kernels; some before it, as cuDNN then chooses its kernels."""
    side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM):
            run()
    side.synchronize()
    graph: Any = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(BURST):
            run()
    return graph
