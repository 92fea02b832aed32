"""ONNX with standard operators: QDQ for 8 and 4 bits, QCDQ for the other widths.

Activations and weights are written by `benchmarks.export.activations` and `.weights`. BatchNorm is
folded into the scales of weights, so that the codes stay the policy's; what it adds, and biases,
follow the convolution in float.

On request (`Integers.BIAS`) the bias goes into the convolution where weights and activations have
8 bits and the result is quantized at once, as int32 in units of both scales. These are the
convolutions that ONNX Runtime runs in integers; but the bias is rounded to such a unit, which moves
values by thousandths, at worst some hundredths, of a step of the next layer's grid, and codes with
them. With fewer bits it would move them by far more, so there it is not done. All other
convolutions run in float, so their weights are written as what ONNX Runtime turns into floats when
it loads the file (Cast and Mul): it does not do so with DequantizeLinear, and then has none of its
fast float kernels either.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

import benchmarks
from benchmarks.export.activations import Activations
from benchmarks.export.affine import Affine, affine, batchnorm_of, folded, normalisation
from benchmarks.export.codes import Exported
from benchmarks.export.graph import Graph, attributes, marks
from benchmarks.export.integers import Integers, bias_units, filled
from benchmarks.export.trace import ACTIVATION, WEIGHT
from benchmarks.export.weights import stored, write_float, write_weight
from frameworks import Grid

Array = npt.NDArray[Any]


def to_qdq(
    model: onnx.ModelProto, layers: list[Exported], integers: Integers = Integers.NONE
) -> onnx.ModelProto:
    """Replace the marks of a traced model (taken over) by QDQ and QCDQ.

    `Integers.OUTPUTS` wants the outputs quantized thereafter (`benchmarks.export.outputs`).
    """
    return _Writer(Graph(model), layers, integers).written()


class _Writer:
    def __init__(self, graph: Graph, layers: list[Exported], integers: Integers) -> None:
        self.graph, self.layers, self.integers = graph, layers, integers
        self.activations = Activations(graph, integers)
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
                self.activations.write(self.layers[layer], node.input[0], node.output[0])
            elif not all(_writes(r, node.output[0]) for r in self.graph.readers[node.output[0]]):
                write_weight(self.graph, self.layers[layer], node.output[0])
        elif any(_writes(node, name) for name in node.input[:2] if name in self.weights):
            self._layer(node)
        elif node.op_type == "Clip" and self._clipped_again(node):
            self.graph.add("Identity", [node.input[0]], node.output[0])
        else:
            self.graph.new.append(node)

    def _clipped_again(self, node: onnx.NodeProto) -> bool:
        """Whether the one quantizer behind a Clip (ReLU6) clips all that it does.

        ONNX Runtime sees that by itself where the codes fill their type, and not with fewer bits;
        it then runs the convolution before the Clip in float.
        """
        bounds = [self.graph.constant(name) for name in node.input[1:3]]
        low, high = bounds if len(bounds) == 2 else (None, None)
        if low is None or high is None or node.output[0] in self.graph.results:
            return False
        grids = self._grids(node.output[0])
        grid = grids.pop() if len(grids) == 1 else None
        if grid is None:
            return False
        ends = [round(float(end) / grid.step - grid.offset) for end in (low, high)]
        return ends[0] <= grid.low and ends[1] >= grid.high

    def _grids(self, value: str) -> set[Grid | None]:
        """The grids of all that reads a value; None for what is no quantizer."""
        grids = set()
        for node in self.graph.readers[value]:
            mark = self.graph.mark(node)
            is_input = mark is not None and mark[1] == ACTIVATION
            grids.add(self.layers[mark[0]].grid if mark is not None and is_input else None)
        return grids

    def _layer(self, node: onnx.NodeProto) -> None:
        if node.op_type == "Conv":
            self._convolution(node)
        elif node.op_type == "Gemm":
            self._linear(node)
        else:
            self._product(self.layers[self.weights[node.input[0]]], node.output[0])

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
        graph = self.graph
        made, sign = self._turned(entry, factor)
        units = None
        if made is None:
            broad = factor.reshape(-1, *(1,) * (entry.weights.value.dim() - 1))
            value = entry.weights.value.double().numpy() * broad
            weight = write_float(self.graph, f"{entry.layer.name}.float", value, f"{out}.weight")
        else:
            if sign is None and self._in_integers(entry, made, node.input[0], out):
                assert entry.grid is not None
                units = bias_units(made, entry.grid, shift)
            real = self.integers > Integers.NONE and units is None
            weight = write_weight(self.graph, entry, f"{out}.weight", made, real=real)
        inputs = [node.input[0], weight]
        if made is not None and units is not None:
            inputs.append(self._bias(entry, made, units, out))
        at = graph.add("Conv", inputs, f"{out}.sum" if units is None else out, **attributes(node))
        if units is None:
            self._after(entry, at, sign, shift, out)

    def _turned(self, entry: Exported, factor: Array) -> tuple[Affine | None, Array | None]:
        """A weight's integers times a factor, and the sign that is left to be applied, if any."""
        made = self._codes(entry)
        if made is None:
            return None, None
        turned = folded(made, factor)
        if turned is not None:
            return turned, None
        return folded(made, np.abs(factor)), np.where(factor < 0, -1.0, 1.0)

    def _after(self, entry: Exported, x: str, sign: Array | None, shift: Array, out: str) -> None:
        broad = (-1, *(1,) * len(entry.layer.kernel))
        name = entry.layer.name
        if sign is not None:
            value = sign.astype(np.float32).reshape(broad)
            x = self.graph.add("Mul", [x, self.graph.keep(f"{name}.sign", value)], f"{out}.turned")
        value = shift.astype(np.float32).reshape(broad)
        self.graph.add("Add", [x, self.graph.keep(f"{name}.shift", value)], out)

    def _in_integers(self, entry: Exported, made: Affine, x: str, out: str) -> bool:
        """Whether ONNX Runtime can run a convolution from one value to another in integers."""
        if made.bits != 8 or stored(made) != 8 or self.activations.width(entry.grid, x) != 8:
            return False
        if self.integers == Integers.BIAS:
            return entry.bits.act == 8 and self._requantized(out)
        return self.integers == Integers.OUTPUTS

    def _requantized(self, out: str) -> bool:
        """Whether all that reads a value, past a ReLU, is one and the same quantizer of 8 bits."""
        reader = self.graph.only_reader(out)
        if reader is not None and reader.op_type in ("Relu", "Clip"):
            out = reader.output[0]
        grids = self._grids(out)
        if out in self.graph.results or len(grids) != 1:
            return False
        return self.activations.width(grids.pop(), out) == 8

    def _bias(self, entry: Exported, made: Affine, units: Array, out: str) -> str:
        assert entry.grid is not None
        name = entry.layer.name
        code = self.graph.keep(f"{name}.bias", units.astype(np.int32))
        scale = made.scale * np.float32(entry.grid.step)
        kept = self.graph.keep(f"{name}.bias.scale", scale.astype(np.float32))
        return self.graph.add("DequantizeLinear", [code, kept], f"{out}.bias", axis=0)

    def _linear(self, node: onnx.NodeProto) -> None:
        """Gemm as a product and a sum, so that no runtime rounds the bias.

        ONNX Runtime takes a product and a sum for a Gemm again, which it runs in float; a product
        and a difference it leaves apart, and runs the product in integers if it can.
        """
        entry = self.layers[self.weights[node.input[1]]]
        out, bias = node.output[0], [*node.input[2:]]
        weight = self._product(entry, f"{out}.weight")
        at = self.graph.add("MatMul", [node.input[0], weight], f"{out}.sum" if bias else out)
        value = self.graph.constant(bias[0]) if bias else None
        if value is not None and self._multiplied(entry):
            minus = self.graph.keep(f"{entry.layer.name}.minus", -value)
            self.graph.add("Sub", [at, minus], out)
        elif bias:
            self.graph.add("Add", [at, bias[0]], out)

    def _product(self, entry: Exported, out: str) -> str:
        """The weight ``[in, out]`` of a product, which is run in integers if both sides are."""
        real = self.integers > Integers.NONE and not self._multiplied(entry)
        made = self._codes(entry)
        return write_weight(self.graph, entry, out, made, transposed=True, real=real)

    def _codes(self, entry: Exported) -> Affine | None:
        made = affine(entry.weights)
        return filled(made) if made is not None and self.integers == Integers.OUTPUTS else made

    def _multiplied(self, entry: Exported) -> bool:
        """Whether ONNX Runtime can run a layer's product in integers."""
        made = self._codes(entry)
        return made is not None and stored(made) == self.activations.width(entry.grid, "") == 8


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
