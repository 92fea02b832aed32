"""QONNX: a ``Quant`` node with the exact bits at every quantized tensor.

Quant (domain ``qonnx.custom_op.general``) of x with scale s, zero point z and bits b is

    s (clip(round(x/s + z), q_min, q_max) - z)

with q_min = 0, q_max = 2^b - 1, or, signed, -2^(b-1) and 2^(b-1) - 1; narrow leaves out the least
code. FINN, hls4ml and qonnx read it; ONNX Runtime does not, but a model may bring the definition of
an operator along, and `runnable` adds it. BatchNorm is left as it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser

import benchmarks
from benchmarks.export.graphs.codes import PRUNED, Exported, Weights
from benchmarks.export.graphs.graph import Graph, marks
from benchmarks.export.graphs.trace import ACTIVATION, OPSET
from frameworks import Grid

Array = npt.NDArray[Any]
DOMAIN = "qonnx.custom_op.general"


def to_qonnx(model: onnx.ModelProto, layers: list[Exported]) -> onnx.ModelProto:
    """Replace the marks of a traced model (taken over) by Quant nodes."""
    graph = Graph(model)
    made = {node.output[0]: (layers[index], kind) for node, index, kind in marks(graph)}
    for node in graph.old:
        if node.output[0] not in made:
            graph.new.append(node)
            continue
        entry, kind = made[node.output[0]]
        if kind == ACTIVATION:
            _activation(graph, entry, node.input[0], node.output[0])
        else:
            _weight(graph, entry, node.output[0])
    return graph.finish("juxtabit", benchmarks.__version__, {DOMAIN: 1})


def _activation(graph: Graph, entry: Exported, x: str, out: str) -> None:
    grid, name = entry.grid, entry.layer.name
    if grid is None:
        zero = [graph.keep("zero", np.float32(0))] if entry.bits.act == PRUNED else []
        graph.add("Mul" if zero else "Identity", [x, *zero], out)
        graph.note_code(name, out, None, x)
        return
    signed, narrow, shift = _form(grid)
    # The grid's own offset, and where its lowest code is to be.
    point = -grid.offset - shift + 0.0
    bits = entry.bits.act
    _quant(graph, f"{name}.act", x, out, grid.step, point, bits, signed, narrow)
    graph.note_code(entry.layer.name, out, None, x)


def _form(grid: Grid) -> tuple[bool, bool, float]:
    """Whether a grid is signed and narrow, and by how much its codes move to be so."""
    span = grid.high - grid.low
    if grid.low == -grid.high and span > 0:
        return True, True, 0.0
    if grid.low == -grid.high - 1:
        return True, False, 0.0
    return False, False, float(grid.low)


def _weight(graph: Graph, entry: Exported, out: str) -> None:
    weights, name = entry.weights, entry.layer.name
    value = graph.keep(f"{name}.value", weights.value.numpy().astype(np.float32))
    bits = weights.bits.numpy()
    if not weights.on_grid or not bits.any():
        graph.add("Identity", [value], out)
        return
    assert weights.scale is not None
    signed, point = _weight_form(weights, bits)
    broad = (-1, *(1,) * (weights.value.dim() - 1))
    # Quant has no 0 bits; the zeros of a pruned channel are a code of 1 bit.
    width: Any = np.maximum(bits, 1).astype(np.float32).reshape(broad)
    width = width if len(set(bits.tolist())) > 1 else float(bits[0])
    _quant(graph, f"{name}.weight", value, out, weights.scale.numpy(), point, width, signed, False)


def _weight_form(weights: Weights, bits: Array) -> tuple[bool, Array]:
    """Whether weights are signed, and their zero points."""
    assert weights.offset is not None
    offset = weights.offset.numpy()
    half = (2.0 ** (bits - 1)).reshape(-1, *(1,) * (offset.ndim - 1))
    half[bits == PRUNED] = 0
    signed = bool((np.abs(offset + half) < 1).all())
    # Adding 0 turns -0 into 0.
    point = -(offset + half) + 0.0 if signed else -offset + 0.0
    same = point.reshape(-1)[:1] if len(np.unique(point)) == 1 else point
    return signed, same.reshape(()) if same.size == 1 else same


def _quant(
    graph: Graph, name: str, x: str, out: str, scale: npt.ArrayLike, point: Any, bits: Any,
    signed: bool, narrow: bool,
) -> None:  # fmt: skip
    inputs = [
        x,
        graph.keep(f"{name}.scale", np.asarray(scale, np.float32)),
        graph.keep(f"{name}.zero_point", np.asarray(point, np.float32)),
        graph.keep(f"{name}.bits", np.asarray(bits, np.float32)),
    ]
    fields: dict[str, Any] = {
        "signed": int(signed),
        "narrow": int(narrow),
        "rounding_mode": "ROUND",
    }
    graph.add("Quant", inputs, out, DOMAIN, **fields)


def runnable(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that brings the definition of Quant along, for ONNX Runtime."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    nodes = onnx.parser.parse_function(_DEFINITION)
    copy.functions.append(nodes)
    return copy


_DEFINITION = f"""
<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>
Quant <signed: int = 1, narrow: int = 0, rounding_mode: string = "ROUND"> (x, s, z, b) => (y)
{{
  one = Constant <value = float {{1.0}}> ()
  two = Constant <value = float {{2.0}}> ()
  i = Constant <value_int: int = @signed> ()
  j = Constant <value_int: int = @narrow> ()
  signed_ = Cast <to = 1> (i)
  narrow_ = Cast <to = 1> (j)
  levels = Pow (two, b)
  half = Div (levels, two)
  below = Mul (half, signed_)
  most = Sub (levels, one)
  high = Sub (most, below)
  least = Neg (below)
  low = Add (least, narrow_)
  steps = Div (x, s)
  shifted = Add (steps, z)
  code = Round (shifted)
  bounded = Max (code, low)
  clipped = Min (bounded, high)
  level = Sub (clipped, z)
  y = Mul (level, s)
}}
"""
