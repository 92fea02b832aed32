"""ONNX with standard operators: QDQ for 8 and 4 bits, QCDQ for the other widths.

Activations: QuantizeLinear, Clip to the policy's bits where they are not those of the type, and
DequantizeLinear; grids without a zero (1-bit signed activations) are spelled out in float with the
operations of the fake quantizer. Weights: integers with a scale per output channel, Clip and
DequantizeLinear. BatchNorm is folded into the scales, so that the codes stay the policy's; what it
adds, and biases, follow the convolution in float.

On request (``integer_bias``) the bias goes into the convolution where weights and activations have
8 bits, as int32 in units of both scales. That is the form which runtimes run in integers; but it
rounds the bias to such a unit, which moves values by thousandths, at worst some hundredths, of a
step of the next layer's grid, and codes with them. With fewer bits it would move them by far more,
so there it is not done.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

import benchmarks
from benchmarks.export.affine import Affine, affine, batchnorm_of, folded, normalisation
from benchmarks.export.codes import PRUNED, Exported
from benchmarks.export.graph import Graph, attributes, marks
from benchmarks.export.trace import ACTIVATION, WEIGHT
from frameworks import Grid

Array = npt.NDArray[Any]
Types = tuple[int | None, Any]
"""ONNX's type where numpy has none of its own, and numpy's."""

UNSIGNED: dict[int, Types] = {
    4: (TensorProto.UINT4, np.uint8), 8: (None, np.uint8), 16: (None, np.uint16),
}  # fmt: skip
SIGNED: dict[int, Types] = {
    4: (TensorProto.INT4, np.int8), 8: (None, np.int8), 16: (None, np.int16),
}  # fmt: skip
LARGEST_BIAS = 2**30


def to_qdq(
    model: onnx.ModelProto, layers: list[Exported], integer_bias: bool = False
) -> onnx.ModelProto:
    """Replace the marks of a traced model (taken over) by QDQ and QCDQ."""
    return _Writer(Graph(model), layers, integer_bias).written()


def _suits(grid: Grid) -> bool:
    """Whether a grid has 0 as a code, which QuantizeLinear asks for."""
    low, high = grid.low + grid.offset, grid.high + grid.offset
    return low == round(low) and low <= 0 <= high


class _Writer:
    def __init__(self, graph: Graph, layers: list[Exported], integer_bias: bool) -> None:
        self.graph, self.layers, self.integer_bias = graph, layers, integer_bias
        self.weights: dict[str, int] = {}
        self.gone: set[str] = set()
        """Results that another node already computes."""

    def written(self) -> onnx.ModelProto:
        for node, layer, kind in marks(self.graph):
            if kind == WEIGHT:
                self.weights[node.output[0]] = layer
        for node in self.graph.old:
            if node.output[0] not in self.gone:
                self._node(node)
        return self.graph.finish("juxtabit", benchmarks.__version__, {})

    def _node(self, node: onnx.NodeProto) -> None:
        mark = self.graph.mark(node)
        if mark is not None:
            layer, kind = mark
            if kind == ACTIVATION:
                self._activation(layer, node.input[0], node.output[0])
            elif not all(_writes(r, node.output[0]) for r in self.graph.readers[node.output[0]]):
                self._weight(self.layers[layer], node.output[0])
        elif any(_writes(node, name) for name in node.input[:2] if name in self.weights):
            self._layer(node)
        else:
            self.graph.new.append(node)

    def _layer(self, node: onnx.NodeProto) -> None:
        if node.op_type == "Conv":
            self._convolution(node)
        elif node.op_type == "Gemm":
            self._linear(node)
        else:
            entry = self.layers[self.weights[node.input[0]]]
            self._weight(entry, node.output[0], transposed=True)

    # --- activations -----------------------------------------------------------------------

    def _activation(self, index: int, x: str, out: str) -> None:
        entry = self.layers[index]
        grid = entry.grid
        if grid is None:
            pruned = entry.bits.act == PRUNED
            zero = [self.graph.keep("zero", np.float32(0))]
            self.graph.add("Mul" if pruned else "Identity", [x, *(zero if pruned else [])], out)
        elif _suits(grid) and (grid.high - grid.low < 256 or grid.high - grid.low == 2**16 - 1):
            self._quantized(entry.layer.name, grid, x, out)
        else:
            # Also where codes of 16 bits need a Clip, which ONNX Runtime does not have for them.
            self._spelled_out(entry.layer.name, grid, x, out)

    def _quantized(self, name: str, grid: Grid, x: str, out: str) -> None:
        span = grid.high - grid.low
        width = 4 if span == 15 else 8 if span < 256 else 16
        if width == 4 and self.graph.makers.get(x) == "Clip":
            # ONNX Runtime fails to fuse a Clip (ReLU6) with 4-bit types, and so to load the file.
            width = 8
        kind, dtype = UNSIGNED[width]
        point = np.array(-round(grid.low + grid.offset), dtype)
        scale = self.graph.keep(f"{name}.act.scale", np.float32(grid.step))
        zero = self.graph.keep(f"{name}.act.zero_point", point, kind)
        code = self.graph.add("QuantizeLinear", [x, scale, zero], f"{out}.code")
        if span != 2**width - 1:
            low, high = (self._bound(v, dtype) for v in (0, span))
            code = self.graph.add("Clip", [code, low, high], f"{out}.clipped")
        self.graph.note_code(name, code, 0)
        self.graph.add("DequantizeLinear", [code, scale, zero], out)

    def _bound(self, value: int, dtype: Any) -> str:
        return self.graph.keep(f"{np.dtype(dtype).name}.{value}", np.array(value, dtype))

    def _spelled_out(self, name: str, grid: Grid, x: str, out: str) -> None:
        add, keep = self.graph.add, self.graph.keep
        step = keep(f"{name}.act.scale", np.float32(grid.step))
        offset = keep(f"{name}.act.offset", np.float32(grid.offset))
        low, high = (self._bound(v, np.float32) for v in (grid.low, grid.high))
        x = add("Div", [x, step], f"{out}.steps")
        x = add("Sub", [x, offset], f"{out}.shifted")
        x = add("Clip", [x, low, high], f"{out}.clipped")
        x = add("Round", [x], f"{out}.code")
        self.graph.note_code(name, x, grid.low)
        x = add("Add", [x, offset], f"{out}.level")
        add("Mul", [x, step], out)

    # --- weights ---------------------------------------------------------------------------

    def _weight(
        self, entry: Exported, out: str, made: Affine | None = None, transposed: bool = False
    ) -> str:
        """Write a weight as integers, dequantized; as plain float where it has no integers."""
        made = made or affine(entry.weights)
        name = entry.layer.name
        if made is None:
            value = entry.weights.value.numpy()
            return self._float(f"{name}.float", value.T if transposed else value, out)
        code = made.code.T if transposed else made.code
        wide = 16 if made.low < -128 or made.high > 127 else 8
        exact = 4 if (made.low, made.high) == (-8, 7) else wide
        kind, dtype = SIGNED[exact]
        kept = self.graph.keep(f"{name}.codes", code.astype(dtype), kind)
        # The 4-bit types need no Clip, and one of 16 bits is nowhere to be had.
        if exact == 8 and made.bits != 8:
            low, high = (self._bound(v, dtype) for v in (made.low, made.high))
            kept = self.graph.add("Clip", [kept, low, high], f"{out}.clipped")
        if entry.layer.kind == "linear" and entry.grid is None:
            # ONNX Runtime takes a product of float activations with DequantizeLinear for one whose
            # activations it may round to 8 bits.
            wide_scale = made.scale if transposed else made.scale[:, None]
            factor = self.graph.keep(f"{name}.factor", wide_scale)
            real = self.graph.add("Cast", [kept], f"{out}.real", to=TensorProto.FLOAT)
            return self.graph.add("Mul", [real, factor], out)
        axis = 1 if transposed else 0
        scale = self.graph.keep(f"{name}.scale", made.scale)
        return self.graph.add("DequantizeLinear", [kept, scale], out, axis=axis)

    def _float(self, name: str, value: Array, out: str) -> str:
        return self.graph.add("Identity", [self.graph.keep(name, value.astype(np.float32))], out)

    # --- layers ----------------------------------------------------------------------------

    def _convolution(self, node: onnx.NodeProto) -> None:
        graph, entry = self.graph, self.layers[self.weights[node.input[1]]]
        norm = batchnorm_of(graph, node)
        count = len(entry.weights.value)
        factor, shift = np.ones(count), np.zeros(count)
        if norm is not None:
            factor, shift = normalisation(graph, norm)
            self.gone.add(norm.output[0])
        bias = graph.constant(node.input[2]) if len(node.input) > 2 else None
        if bias is not None:
            shift = shift + bias * factor
        out = node.output[0] if norm is None else norm.output[0]
        self._folded(node, entry, factor, shift, out)

    def _folded(
        self, node: onnx.NodeProto, entry: Exported, factor: Array, shift: Array, out: str
    ) -> None:
        """A convolution times a factor, plus a shift, for each output channel."""
        graph, name = self.graph, entry.layer.name
        made = affine(entry.weights)
        turned = None if made is None else folded(made, factor)
        sign = None
        if made is None:
            broad = factor.reshape(-1, *(1,) * (entry.weights.value.dim() - 1))
            value = entry.weights.value.double().numpy() * broad
            weight = self._float(f"{name}.float", value, f"{out}.weight")
        else:
            if turned is None:
                turned, sign = folded(made, np.abs(factor)), np.where(factor < 0, -1.0, 1.0)
            weight = self._weight(entry, f"{out}.weight", turned)
        inputs = [node.input[0], weight]
        integer = None
        if self.integer_bias and sign is None:
            integer = self._integer(entry, turned, shift)
        last = out if integer is not None else f"{out}.sum"
        if integer is not None:
            inputs.append(self._bias(entry, turned, integer, out))
        at = graph.add("Conv", inputs, last, **attributes(node))
        if integer is None:
            self._after(entry, at, sign, shift, out)

    def _after(self, entry: Exported, x: str, sign: Array | None, shift: Array, out: str) -> None:
        broad = (-1, *(1,) * len(entry.layer.kernel))
        name = entry.layer.name
        if sign is not None:
            value = sign.astype(np.float32).reshape(broad)
            x = self.graph.add("Mul", [x, self.graph.keep(f"{name}.sign", value)], f"{out}.turned")
        value = shift.astype(np.float32).reshape(broad)
        self.graph.add("Add", [x, self.graph.keep(f"{name}.shift", value)], out)

    @staticmethod
    def _integer(entry: Exported, made: Affine | None, shift: Array) -> Array | None:
        """The shift in units of both scales, where weights and activations have 8 bits."""
        grid = entry.grid
        if made is None or grid is None or not _suits(grid):
            return None
        if made.bits != 8 or entry.bits.act != 8 or made.high > 127:
            return None
        units = np.round(shift / (made.scale.astype(np.float64) * grid.step))
        return units if np.abs(units).max(initial=0) < LARGEST_BIAS else None

    def _bias(self, entry: Exported, made: Affine | None, units: Array, out: str) -> str:
        assert made is not None
        assert entry.grid is not None
        name = entry.layer.name
        code = self.graph.keep(f"{name}.bias", units.astype(np.int32))
        scale = made.scale * np.float32(entry.grid.step)
        kept = self.graph.keep(f"{name}.bias.scale", scale.astype(np.float32))
        return self.graph.add("DequantizeLinear", [code, kept], f"{out}.bias", axis=0)

    def _linear(self, node: onnx.NodeProto) -> None:
        """Gemm as a product and a sum, so that no runtime rounds the bias."""
        entry = self.layers[self.weights[node.input[1]]]
        out = node.output[0]
        weight = self._weight(entry, f"{out}.weight", transposed=True)
        last = f"{out}.sum" if len(node.input) > 2 else out
        at = self.graph.add("MatMul", [node.input[0], weight], last)
        if len(node.input) > 2:
            self.graph.add("Add", [at, node.input[2]], out)


def _writes(node: onnx.NodeProto, weight: str) -> bool:
    """Whether a reader of a weight writes the weight itself, in the form that suits it."""
    if node.op_type == "Transpose":
        return list(attributes(node).get("perm", ())) == [1, 0]
    if list(node.input).index(weight) != 1:
        return False
    return node.op_type == "Conv" or (node.op_type == "Gemm" and _plain(node))


def _plain(gemm: onnx.NodeProto) -> bool:
    """Whether a Gemm is x W^T + b."""
    found = attributes(gemm)
    factors = (found.get("alpha", 1.0), found.get("beta", 1.0))
    return factors == (1.0, 1.0) and bool(found.get("transB")) and not found.get("transA")
