"""An ONNX graph that is written anew from one with marks."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Container, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from benchmarks.export.graphs.bitstream import pack
from benchmarks.export.graphs.trace import DOMAIN, MARK

Array = npt.NDArray[Any]
CODES = "juxtabit.codes"
"""The model's property that says where the codes of each layer's input are."""


def fresh(name: str, taken: Container[str]) -> str:
    """A name that is free: this one, or the first of ``name.2``, ``name.3``, ... that is."""
    found, count = name, 1
    while found in taken:
        count += 1
        found = f"{name}.{count}"
    return found


class Graph:
    """The nodes of a model, to be read, and those that take their place.

    Args:
        model: the traced model; it is taken over.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.old = list(model.graph.node)
        self.new: list[onnx.NodeProto] = []
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.old:
            for name in node.input:
                self.readers[name].append(node)
        self.results = {value.name for value in model.graph.output}
        self._constants = {t.name: t for t in model.graph.initializer}
        self._kept: dict[str, onnx.TensorProto] = {}
        self._values = {name for node in self.old for name in node.output}
        self._names = self._values | set(self._constants) | {v.name for v in model.graph.input}
        """All that has a name: torch's names and those of layers know nothing of each other."""
        self.codes: dict[str, list[tuple[str, int | None, str]]] = defaultdict(list)

    @staticmethod
    def mark(node: onnx.NodeProto) -> tuple[int, int] | None:
        """Layer and kind of a mark, None for any other node."""
        if (node.domain, node.op_type) != (DOMAIN, MARK):
            return None
        found = attributes(node)
        return int(found["layer"]), int(found["kind"])

    def only_reader(self, name: str) -> onnx.NodeProto | None:
        """The one node that reads a value, if there is exactly one and it is no result."""
        readers = self.readers[name]
        return readers[0] if len(readers) == 1 and name not in self.results else None

    def constant(self, name: str) -> Array | None:
        """The value of a constant."""
        tensor = self._constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def add(
        self, op: str, inputs: list[str], output: str, domain: str = "", layer: str = "",
        **fields: Any,
    ) -> str:  # fmt: skip
        """Write a node, named after its layer, if any; the name that its result has.

        That is the one asked for where the old graph has it, and where nothing else does.
        """
        output = output if output in self._values else fresh(output, self._names)
        self._names.add(output)
        name = f"{op}:layer {layer}:{output}" if layer else f"{op}:{output}"
        made = helper.make_node(op, inputs, [output], name=name, domain=domain)
        made.attribute.extend(helper.make_attribute(k, v) for k, v in fields.items())
        self.new.append(made)
        return output

    def keep(self, name: str, value: npt.ArrayLike, kind: int | None = None) -> str:
        """A constant of the array's type or of a given one (4 bits); the name that it has.

        What a layer's calls have in common is kept once. What differs (BatchNorm behind them, the
        type of codes) gets a name of its own, a number behind the one asked for.
        """
        value = np.asarray(value)
        if kind is None:
            tensor = numpy_helper.from_array(np.asarray(value, order="C"), name)
        else:
            nibbles = value.flatten().astype(np.int64) & 15
            raw = pack(nibbles, np.full(value.size, 4)).tobytes()
            tensor = helper.make_tensor(name, kind, value.shape, raw, raw=True)
        return self._place(tensor)

    def _place(self, tensor: onnx.TensorProto) -> str:
        """Add a constant where there is none like it; its name."""
        count, name = 1, tensor.name
        while tensor.name in self._names:
            if self._kept.get(tensor.name) == tensor:
                return tensor.name
            count += 1
            tensor.name = f"{name}.{count}"
        self._names.add(tensor.name)
        self.model.graph.initializer.append(tensor)
        self._kept[tensor.name] = self.model.graph.initializer[-1]
        return tensor.name

    def bound(self, value: int, dtype: npt.DTypeLike) -> str:
        """A whole number as a constant of a type, an end of a Clip."""
        return self.keep(f"{np.dtype(dtype).name}.{value}", np.array(value, dtype))

    def note_code(self, layer: str, code: str, lowest: int | None, value: str) -> None:
        """Note where a layer's input at its next call is.

        Args:
            layer: its name.
            code: where the codes are.
            lowest: the smallest one; None: there are real numbers, quantized if the input is.
            value: where the value before the quantizer is.
        """
        self.codes[layer].append((code, lowest, value))

    def finish(self, producer: str, version: str, domains: dict[str, int]) -> onnx.ModelProto:
        """The model of the new nodes, without what nothing reads any more; checked."""
        graph = self.model.graph
        del graph.node[:]
        graph.node.extend(self.new)
        read = {name for node in self.new for name in node.input}
        kept = [t for t in graph.initializer if t.name in read]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        # Shapes and notes of the traced graph do not hold for the new one.
        del graph.value_info[:]
        for part in (*graph.node, *graph.input, *graph.output, *graph.initializer, graph):
            del part.metadata_props[:]
        opsets = [o for o in self.model.opset_import if o.domain != DOMAIN]
        opsets += [helper.make_opsetid(name, number) for name, number in domains.items()]
        del self.model.opset_import[:]
        self.model.opset_import.extend(opsets)
        helper.set_model_props(self.model, {CODES: json.dumps(self.codes)})
        self.model.producer_name, self.model.producer_version = producer, version
        return self.model


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes as plain data."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def marks(graph: Graph) -> Iterator[tuple[onnx.NodeProto, int, int]]:
    """The marks of a graph: node, layer, kind."""
    for node in graph.old:
        found = graph.mark(node)
        if found is not None:
            yield node, *found
