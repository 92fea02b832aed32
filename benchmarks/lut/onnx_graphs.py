"""One layer as an ONNX graph of one operator, in float32 or with 8-bit QDQ around it.

QDQ: ``DequantizeLinear`` nodes in front of the operator and a ``QuantizeLinear`` behind it, which
ONNX Runtime fuses into one integer kernel (``QLinearConv``, ``QGemm``). Activations are uint8 with
a scale and zero point per tensor, weights uint8 around 128 and symmetric per output channel, as
exported files have them (sums of int8 saturate on x86 without VNNI), biases int32.
Input and output of the 8-bit graph are uint8, as between two layers of 8 bit. Every layer has a
bias, since a BatchNorm behind it folds into one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

OPSET, IR_VERSION = 17, 8
"""Old enough for every runtime of recent years; all operators here exist in it."""
Array = NDArray[Any]
SCALE, ZERO = 0.02, 128


def pads_of(shape: dict[str, Any]) -> list[int]:
    """Zeros at the start of each axis, then at the end, that give a convolution's output size.

    A layer's description has no padding and no dilation. As many zeros on both sides, as torch
    pads, unless only uneven ones give that size. A dilated convolution is measured undilated,
    which has the same multiplications and output.
    """
    axes = zip(shape["in_size"], shape["out_size"], shape["kernel"], shape["stride"], strict=True)
    starts, ends = [], []
    for size, out, kernel, stride in axes:
        total = max(0, (out - 1) * stride + kernel - size)
        side = (total + 1) // 2
        even = (size + 2 * side - kernel) // stride + 1 == out
        starts.append(side if even else total // 2)
        ends.append(side)
    return starts + ends


def tensors_of(shape: dict[str, Any]) -> tuple[list[int], list[int], list[int]]:
    """Shapes of input, weight and output: of ``Conv``, or of ``Gemm`` with a row a token."""
    inputs, outputs = shape["in_channels"], shape["out_channels"]
    if shape["kind"] == "linear":
        tokens = shape["out_size"][0] if shape["out_size"] else 1
        return [tokens, inputs], [outputs, inputs], [tokens, outputs]
    weight = [outputs, inputs // shape["groups"], *shape["kernel"]]
    return [1, inputs, *shape["in_size"]], weight, [1, outputs, *shape["out_size"]]


def _operator(shape: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    if shape["kind"] == "linear":
        return "Gemm", {"transB": 1}
    return "Conv", {
        "kernel_shape": shape["kernel"],
        "strides": shape["stride"],
        "group": shape["groups"],
        "pads": pads_of(shape),
    }


def graph_of(shape: dict[str, Any], arithmetic: str) -> tuple[bytes, Array, Array]:
    """A serialised model, an input for it, and an empty output."""
    from onnx import TensorProto, helper

    reads, weighs, writes = tensors_of(shape)
    rng = np.random.default_rng(0)
    if arithmetic == "float32":
        nodes, weights = _float_nodes(shape, weighs, rng)
        kind, dtype = TensorProto.FLOAT, "float32"
        x: Array = rng.normal(size=reads).astype(dtype)
    else:
        nodes, weights = _qdq_nodes(shape, weighs, rng)
        kind, dtype = TensorProto.UINT8, "uint8"
        x = rng.integers(0, 256, reads, dtype=np.uint8)
    source = helper.make_tensor_value_info("x", kind, reads)
    sink = helper.make_tensor_value_info("y", kind, writes)
    return _model(nodes, source, sink, weights), x, np.zeros(writes, dtype)


def idle_graph() -> tuple[bytes, Array, Array]:
    """A graph that does nothing, for the cost of a call."""
    from onnx import TensorProto, helper

    source = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    sink = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    node = helper.make_node("Identity", ["x"], ["y"])
    return _model([node], source, sink, {}), np.zeros(1, np.float32), np.zeros(1, np.float32)


def _model(nodes: list[Any], source: Any, sink: Any, weights: dict[str, Array]) -> bytes:
    from onnx import helper, numpy_helper

    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "layer", [source], [sink], tensors)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    return bytes(model.SerializeToString())


def _float_nodes(
    shape: dict[str, Any], weighs: list[int], rng: np.random.Generator
) -> tuple[list[Any], dict[str, Array]]:
    from onnx import helper

    operator, attributes = _operator(shape)
    weights: dict[str, Array] = {
        "w": rng.normal(size=weighs).astype(np.float32),
        "b": rng.normal(size=weighs[0]).astype(np.float32),
    }
    return [helper.make_node(operator, ["x", "w", "b"], ["y"], **attributes)], weights


def _qdq_nodes(
    shape: dict[str, Any], weighs: list[int], rng: np.random.Generator
) -> tuple[list[Any], dict[str, Array]]:
    from onnx import helper

    operator, attributes = _operator(shape)
    rows = weighs[0]
    weights: dict[str, Array] = {
        "scale": np.array(SCALE, np.float32),
        "zero": np.array(ZERO, np.uint8),
        "w_code": (rng.integers(-127, 128, weighs) + ZERO).astype(np.uint8),
        "w_scale": np.full(rows, SCALE, np.float32),
        "w_zero": np.full(rows, ZERO, np.uint8),
        "b_code": rng.integers(-1000, 1000, rows).astype(np.int32),
        "b_scale": np.full(rows, SCALE * SCALE, np.float32),
        "b_zero": np.zeros(rows, np.int32),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "scale", "zero"], ["x_real"]),
        helper.make_node("DequantizeLinear", ["w_code", "w_scale", "w_zero"], ["w"], axis=0),
        helper.make_node("DequantizeLinear", ["b_code", "b_scale", "b_zero"], ["b"], axis=0),
        helper.make_node(operator, ["x_real", "w", "b"], ["y_real"], **attributes),
        helper.make_node("QuantizeLinear", ["y_real", "scale", "zero"], ["y"]),
    ]
    return nodes, weights
