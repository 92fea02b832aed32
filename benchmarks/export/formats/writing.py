"""What the writers of QDQ share: the new graph, its layers, and who quantizes what in it."""

from __future__ import annotations

from collections import defaultdict

import onnx

from benchmarks.export.formats.activations import Activations, code_width
from benchmarks.export.formats.affine import Affine, affine
from benchmarks.export.formats.integers import Integers, filled
from benchmarks.export.formats.weights import stored
from benchmarks.export.graphs.codes import Exported
from benchmarks.export.graphs.graph import Graph, marks
from benchmarks.export.graphs.trace import ACTIVATION, WEIGHT
from frameworks import Grid

RECTIFIERS = ("Relu", "Clip")
MOVED_OVER = (*RECTIFIERS, "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "MaxPool")
"""What ONNX Runtime moves a quantizer over, from behind to before."""


class Writing:
    """A graph that is being written.

    Attributes:
        graph: the old nodes and the new ones.
        layers: what the marks stand for.
        integers: what is to run in integers.
        activations: the writer of layers' inputs.
        weights: the layers of the values that are weights.
        convolutions: of each layer the nodes that call it, if they are convolutions.
        gone: results that another node already computes.
    """

    def __init__(self, graph: Graph, layers: list[Exported], integers: Integers) -> None:
        self.graph, self.layers, self.integers = graph, layers, integers
        self.activations = Activations(graph)
        self.weights: dict[str, int] = {}
        self.gone: set[str] = set()
        self._inputs: dict[str, int] = {}
        """Of quantized inputs the layer."""
        for node, layer, kind in marks(graph):
            if kind == WEIGHT:
                self.weights[node.output[0]] = layer
            else:
                self._inputs[node.output[0]] = layer
        self.convolutions: dict[int, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.old:
            if node.op_type == "Conv" and node.input[1] in self.weights:
                self.convolutions[self.weights[node.input[1]]].append(node)

    def grids(self, value: str) -> set[Grid | None]:
        """The grids of all that reads a value; None for what is no quantizer."""
        grids = set()
        for node in self.graph.readers[value]:
            mark = self.graph.mark(node)
            is_input = mark is not None and mark[1] == ACTIVATION
            grids.add(self.layers[mark[0]].grid if mark is not None and is_input else None)
        return grids

    def following(self, value: str) -> set[Grid | None]:
        """The grids of all that reads a value, past a ReLU; None for what is no quantizer."""
        reader = self.graph.only_reader(value)
        if reader is not None and reader.op_type in RECTIFIERS:
            value = reader.output[0]
        return {None} if value in self.graph.results else self.grids(value)

    def input_grid(self, entry: Exported, x: str) -> tuple[Grid, int] | None:
        """The grid of a layer's input, and the bits of its type; None where it is float.

        A weight may also be read by what has no quantizer at its input.
        """
        index = self._inputs.get(x, -1)
        if entry.grid is None or index < 0 or self.layers[index] is not entry:
            return None
        return entry.grid, code_width(entry.grid)

    def multiplied(self, entry: Exported, x: str) -> Affine | None:
        """The codes of a weight that ONNX Runtime can multiply with an input's; None if it cannot.

        All but the exact form fill the 8 bits.
        """
        made, found = affine(entry.weights), self.input_grid(entry, x)
        if made is None or found is None or found[1] != 8:
            return None
        made = filled(made) if self.integers > Integers.NONE else made
        return made if stored(made) == 8 else None

    def apart(self, value: str) -> bool:
        """Whether ONNX Runtime must not see a quantizer behind a layer with float weights.

        Between dequantized inputs and a quantizer it rounds float weights and biases by itself, to
        8 bits whatever the file says, even where it has no such layer for the type of the codes. A
        difference between them keeps it from that.
        """
        if self.integers == Integers.OUTPUTS:
            return value not in self.graph.results
        return self._behind(value) != {None}

    def _behind(self, value: str) -> set[Grid | None]:
        """The grids that may come to quantize a value, whatever they are moved over."""
        if value in self.graph.results:
            return {None}
        found = set(self.grids(value))
        for reader in self.graph.readers[value]:
            if reader.op_type in MOVED_OVER and reader.input[0] == value:
                found |= self._behind(reader.output[0])
        return found
