"""Quantizers behind convolutions, where the policy has none.

A policy quantizes the inputs of layers. What a convolution adds to a residual sum, or gives to a
layer in float, it leaves in float, and then ONNX Runtime runs the convolution in float, too. Here
such results get 8 bits, with the range that they have on calibration images, and so do the other
terms of the sums that they enter (but for those that the policy quantizes to 8 bits already: there
its own codes serve). That changes the network: what is computed is no longer the policy's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from benchmarks.export.formats.integers import suits
from benchmarks.export.graphs.errors import UnsupportedExport
from benchmarks.export.graphs.graph import fresh
from benchmarks.export.graphs.runtime import outputs, session
from frameworks import Grid, schemes

BITS = 8
BATCH = 125
RECTIFIERS = ("Relu", "Clip", "Identity")


def with_quantized_outputs(model: onnx.ModelProto, images: Tensor) -> onnx.ModelProto:
    """A model of `benchmarks.export.formats.integers.Integers.OUTPUTS` with its outputs quantized;
    the argument stays as it is.

    Args:
        model: the model without these quantizers.
        images: what their ranges are taken from, ``[N, C, H, W]``.

    Raises:
        UnsupportedExport: no convolution of the model can run in integers.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    flow = _Flow(made)
    for value, (low, high) in ranges(model, flow.unquantized(), images).items():
        flow.quantize(value, _grid(low, high))
    flow.finish()
    return made


def altered(plain: onnx.ModelProto, made: onnx.ModelProto) -> list[str]:
    """Where a model with quantized outputs is more than the one without them plus quantizers.

    Returns:
        The results of nodes, and the constants, that are not the same.
    """
    makers = {name: node for node in made.graph.node for name in node.output}
    constants = {t.name: t for t in made.graph.initializer}

    def stands_for(old: str, new: str) -> bool:
        real = makers.get(new)
        code = makers.get(real.input[0]) if real is not None else None
        if old == new or real is None or code is None:
            return old == new
        kinds = (code.op_type, real.op_type) == ("QuantizeLinear", "DequantizeLinear")
        return kinds and code.input[0] == old and code.input[1:] == real.input[1:]

    def same(node: onnx.NodeProto) -> bool:
        other = makers.get(node.output[0])
        return (
            other is not None
            and (other.op_type, list(other.attribute)) == (node.op_type, list(node.attribute))
            and len(other.input) == len(node.input)
            and all(map(stands_for, node.input, other.input))
        )

    found = [node.output[0] for node in plain.graph.node if not same(node)]
    return found + [t.name for t in plain.graph.initializer if constants.get(t.name) != t]


def rounded_biases(model: onnx.ModelProto) -> float:
    """By how much biases in int32 may move values in sum: half a unit of each call of a layer."""
    constants = {t.name: t for t in model.graph.initializer}
    nodes = [n for n in model.graph.node if n.op_type == "DequantizeLinear"]
    whole = [n for n in nodes if _is_int32(constants.get(n.input[0]))]
    scales = [numpy_helper.to_array(constants[n.input[1]]) for n in whole]
    return sum(0.5 * float(scale.max()) for scale in scales)


def _is_int32(tensor: onnx.TensorProto | None) -> bool:
    return tensor is not None and tensor.data_type == TensorProto.INT32


def ranges(
    model: onnx.ModelProto, values: list[str], images: Tensor
) -> dict[str, tuple[float, float]]:
    """The least and the largest number that values have on images."""
    if not values:
        return {}
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    shown.graph.output.extend(
        helper.make_tensor_value_info(v, TensorProto.FLOAT, None) for v in values
    )
    running = session(shown)
    ends: dict[str, tuple[float, float]] = dict.fromkeys(values, (0.0, 0.0))
    for part in torch.split(images, BATCH):
        for value, found in zip(values, outputs(running, part)[1:], strict=True):
            low, high = ends[value]
            ends[value] = min(low, float(found.min())), max(high, float(found.max()))
    return ends


def _grid(low: float, high: float) -> Grid:
    grid = schemes.get("minmax")().activation(torch.tensor([low, high]), BITS).uniform_grid()
    assert grid is not None
    assert suits(grid)
    return grid


class _Flow:
    """Who makes and who reads the values of a model."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.results = {value.name for value in model.graph.output}
        self.constants = {t.name: t for t in model.graph.initializer}
        self.makers = {name: node for node in model.graph.node for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            for name in node.input:
                self.readers[name].append(node)
        self.served: dict[str, str] = {}
        """Values whose 8-bit quantizer of the policy serves all their readers, and its result."""

    def unquantized(self) -> list[str]:
        """The values that need a quantizer of their own.

        Raises:
            UnsupportedExport: there is no convolution that can run in integers.
        """
        layers = [node for node in self.graph.node if self._in_integers(node)]
        if not layers:
            raise UnsupportedExport(
                "no convolution of this policy can run in integers: they have more than 8 bits, "
                "or no integers at all"
            )
        values = dict.fromkeys(v for layer in layers for v in self._around(layer.output[0]))
        return [value for value in values if self._needs_its_own(value)]

    def _in_integers(self, node: onnx.NodeProto) -> bool:
        makers = [self.makers.get(name) for name in node.input]
        return node.op_type == "Conv" and all(
            maker is not None and maker.op_type == "DequantizeLinear" for maker in makers
        )

    def _around(self, value: str) -> Iterator[str]:
        """A value, past a ReLU, and the terms and results of the sums that it enters."""
        value = self._rectified(value)
        yield value
        for node in self.readers[value]:
            if node.op_type == "Add" and not any(name in self.constants for name in node.input):
                yield from node.input
                result = self._rectified(node.output[0])
                if any(r.op_type == "QuantizeLinear" for r in self.readers[result]):
                    yield result

    def _rectified(self, value: str) -> str:
        readers = self.readers[value]
        alone = len(readers) == 1 and value not in self.results
        return readers[0].output[0] if alone and readers[0].op_type in RECTIFIERS else value

    def _needs_its_own(self, value: str) -> bool:
        maker = self.makers.get(value)
        if value in self.results or (maker is not None and maker.op_type == "DequantizeLinear"):
            return False
        quantizers = [r for r in self.readers[value] if r.op_type == "QuantizeLinear"]
        # The 16 bits of a policy are not to be lost.
        if not all(self._has_bytes(q) for q in quantizers):
            return False
        if len(quantizers) != 1 or len(self.readers[value]) == 1:
            return not quantizers or len(quantizers) > 1
        real = self.readers[quantizers[0].output[0]][0]
        if real.op_type == "DequantizeLinear":
            self.served[value] = real.output[0]
        return value not in self.served

    def _has_bytes(self, quantizer: onnx.NodeProto) -> bool:
        return bool(self.constants[quantizer.input[2]].data_type == TensorProto.UINT8)

    def quantize(self, value: str, grid: Grid) -> None:
        """Write a quantizer behind a value, for all that reads it."""
        names = [self._named(f"{value}.out.{part}") for part in ("scale", "zero_point")]
        constants = (np.float32(grid.step), np.uint8(-round(grid.low + grid.offset)))
        self.graph.initializer.extend(
            numpy_helper.from_array(np.asarray(c), n) for c, n in zip(constants, names, strict=True)
        )
        code, real = self._named(f"{value}.out.code"), self._named(f"{value}.out")
        for node in self.readers[value]:
            _rewire(node, value, real)
        self._add("QuantizeLinear", [value, *names], code)
        self._add("DequantizeLinear", [code, *names], real)

    def _named(self, name: str) -> str:
        return fresh(name, self.makers.keys() | self.constants.keys())

    def _add(self, op: str, inputs: list[str], output: str) -> None:
        node = helper.make_node(op, inputs, [output], f"{op}:{output}")
        self.graph.node.append(node)
        self.makers[output] = node

    def finish(self) -> None:
        """Let quantizers of the policy serve, and order the nodes as they can be run."""
        for value, real in self.served.items():
            for node in self.readers[value]:
                if node.op_type != "QuantizeLinear":
                    _rewire(node, value, real)
        ordered: dict[str, onnx.NodeProto] = {}
        for node in self.graph.node:
            self._visit(node, ordered)
        nodes = list(ordered.values())
        del self.graph.node[:]
        self.graph.node.extend(nodes)

    def _visit(self, node: onnx.NodeProto, ordered: dict[str, onnx.NodeProto]) -> None:
        if node.output[0] in ordered:
            return
        for name in node.input:
            if name in self.makers:
                self._visit(self.makers[name], ordered)
        ordered[node.output[0]] = node


def _rewire(node: onnx.NodeProto, old: str, new: str) -> None:
    for index, name in enumerate(node.input):
        if name == old:
            node.input[index] = new
