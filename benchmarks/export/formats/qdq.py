"""ONNX with standard operators: QDQ for 8 bits, and weights of 4; QCDQ for the other widths.

Activations are written by `benchmarks.export.formats.activations`, layers by
`benchmarks.export.formats.products`, their weights by `benchmarks.export.formats.weights`. What is
neither is copied.
"""

from __future__ import annotations

from typing import Any

import onnx

import benchmarks
from benchmarks.export.formats.integers import Integers
from benchmarks.export.formats.products import (
    write_convolution,
    write_linear,
    write_product,
    write_transposed,
)
from benchmarks.export.formats.weights import write_weight
from benchmarks.export.formats.writing import Writing
from benchmarks.export.graphs.codes import Exported
from benchmarks.export.graphs.graph import Graph, attributes
from benchmarks.export.graphs.trace import ACTIVATION


def to_qdq(
    model: onnx.ModelProto, layers: list[Exported], integers: Integers = Integers.NONE
) -> onnx.ModelProto:
    """Replace the marks of a traced model (taken over) by QDQ and QCDQ.

    `Integers.OUTPUTS` wants the outputs quantized thereafter (`benchmarks.export.outputs`).

    Raises:
        UnsupportedExport: a layer has no such form.
    """
    w = Writing(Graph(model), layers, integers)
    for node in w.graph.old:
        if node.output[0] not in w.gone:
            _node(w, node)
    return w.graph.finish("juxtabit", benchmarks.__version__, {})


def _node(w: Writing, node: onnx.NodeProto) -> None:
    mark = w.graph.mark(node)
    if mark is not None:
        _mark(w, node, *mark)
    elif any(_writes(node, name) for name in node.input[:2] if name in w.weights):
        _layer(w, node)
    elif node.op_type == "ConvTranspose":
        write_transposed(w, node)
    elif node.op_type == "Clip" and _clipped_again(w, node):
        w.graph.add("Identity", [node.input[0]], node.output[0])
    else:
        w.graph.new.append(node)


def _mark(w: Writing, node: onnx.NodeProto, layer: int, kind: int) -> None:
    entry, out = w.layers[layer], node.output[0]
    if kind == ACTIVATION:
        w.activations.write(entry, node.input[0], out)
    elif not all(_writes(reader, out) for reader in w.graph.readers[out]):
        write_weight(w.graph, entry, out)


def _clipped_again(w: Writing, node: onnx.NodeProto) -> bool:
    """Whether the one quantizer behind a Clip (ReLU6) clips all that it does.

    ONNX Runtime sees that by itself where the codes fill their type, and not with fewer bits; it
    then runs the convolution before the Clip in float.
    """
    bounds = [w.graph.constant(name) for name in node.input[1:3]]
    low, high = bounds if len(bounds) == 2 else (None, None)
    if low is None or high is None or node.output[0] in w.graph.results:
        return False
    grids = w.grids(node.output[0])
    grid = grids.pop() if len(grids) == 1 else None
    if grid is None:
        return False
    ends = [round(float(end) / grid.step - grid.offset) for end in (low, high)]
    return ends[0] <= grid.low and ends[1] >= grid.high


def _layer(w: Writing, node: onnx.NodeProto) -> None:
    if node.op_type == "Conv":
        write_convolution(w, node)
    elif node.op_type == "Gemm":
        write_linear(w, node)
    else:
        entry, out = w.layers[w.weights[node.input[0]]], node.output[0]
        write_product(w, entry, _factor(w, out), out)


def _factor(w: Writing, weight: str) -> str:
    """The value that alone is multiplied with a weight; none if there are several."""
    factors = {node.input[0] for node in w.graph.readers[weight] if node.op_type == "MatMul"}
    return factors.pop() if len(factors) == 1 else ""


def _writes(node: onnx.NodeProto, weight: str) -> bool:
    """Whether a reader of a weight writes the weight itself, in the form that suits it."""
    if node.op_type == "Transpose":
        return list(attributes(node).get("perm", ())) == [1, 0]
    if list(node.input).index(weight) != 1:
        return False
    return node.op_type == "Conv" or (node.op_type == "Gemm" and _plain(attributes(node)))


def _plain(gemm: dict[str, Any]) -> bool:
    """Whether a Gemm is x W^T + b."""
    factors = (gemm.get("alpha", 1.0), gemm.get("beta", 1.0))
    return factors == (1.0, 1.0) and bool(gemm.get("transB")) and not gemm.get("transA")
