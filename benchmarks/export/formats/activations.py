"""Activations in ONNX: QuantizeLinear, Clip to the policy's bits, DequantizeLinear.

There is a Clip where the bits are not those of the type. Grids without a zero (1-bit signed
activations) are spelled out in float with the operations of the fake quantizer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto

from benchmarks.export.formats.integers import Integers, suits
from benchmarks.export.graphs.codes import PRUNED, Exported
from benchmarks.export.graphs.graph import Graph
from frameworks import Grid

UNSIGNED: dict[int, tuple[int | None, Any]] = {
    4: (TensorProto.UINT4, np.uint8), 8: (None, np.uint8), 16: (None, np.uint16),
}  # fmt: skip
"""ONNX's type where numpy has none of its own, and numpy's."""
NIBBLES = (
    None, "Add", "BatchNormalization", "Div", "Gelu", "GlobalAveragePool", "HardSigmoid",
    "HardSwish", "LayerNormalization", "MatMul", "Mul", "ReduceMean", "Relu", "Sigmoid", "Softmax",
)  # fmt: skip
"""What may make a value (or nothing, if it is the network's input) that gets codes of 4 bits.

ONNX Runtime moves a quantizer to before operators such as MaxPool, or into a Clip (ReLU6), which
have no 4-bit types, and then does not load the file.
"""


class Activations:
    """Writes the quantizers of layers' inputs.

    Args:
        graph: where they are written.
        integers: what is to run in integers.
    """

    def __init__(self, graph: Graph, integers: Integers) -> None:
        self.graph, self.integers = graph, integers
        self._types: dict[str, int] = {}
        """The bits of the type at a layer's first call."""
        self._codes: dict[tuple[str, Grid], str] = {}
        """The codes of values on grids, which several layers may share."""

    def width(self, grid: Grid | None, x: str) -> int:
        """Bits of the type that takes the codes of a value; 0 if it is float."""
        if grid is None or not suits(grid):
            return 0
        span = grid.high - grid.low
        if span == 15 and self.integers < Integers.OUTPUTS and self.graph.makers.get(x) in NIBBLES:
            # Its convolution in integers has no such types.
            return 4
        # Codes of 16 bits must need no Clip, which ONNX Runtime does not have for them.
        return 8 if span < 256 else 16 if span == 2**16 - 1 else 0

    def write(self, entry: Exported, x: str, out: str) -> None:
        """Write the quantizer of a layer's input from one value to another."""
        grid = entry.grid
        if grid is None:
            pruned = entry.bits.act == PRUNED
            zero = [self.graph.keep("zero", np.float32(0))]
            self.graph.add("Mul" if pruned else "Identity", [x, *(zero if pruned else [])], out)
            self.graph.note_code(entry.layer.name, out, None, x)
        elif self.width(grid, x):
            self._quantized(entry.layer.name, grid, x, out)
        else:
            self._spelled_out(entry.layer.name, grid, x, out)

    def _quantized(self, name: str, grid: Grid, x: str, out: str) -> None:
        span, width = grid.high - grid.low, self.width(grid, x)
        kind, dtype = UNSIGNED[width]
        point = np.array(-round(grid.low + grid.offset), dtype)
        scale = self.graph.keep(f"{name}.act.scale", np.float32(grid.step))
        # A later call of the layer may have another type.
        other = "" if self._types.setdefault(name, width) == width else f".{width}"
        zero = self.graph.keep(f"{name}.act.zero_point{other}", point, kind)
        code = self._codes.get((x, grid))
        if code is None:
            code = self.graph.add("QuantizeLinear", [x, scale, zero], f"{out}.code")
            if span != 2**width - 1:
                low, high = (self.graph.bound(v, dtype) for v in (0, span))
                code = self.graph.add("Clip", [code, low, high], f"{out}.clipped")
            self._codes[x, grid] = code
        self.graph.note_code(name, code, 0, x)
        self.graph.add("DequantizeLinear", [code, scale, zero], out)

    def _spelled_out(self, name: str, grid: Grid, x: str, out: str) -> None:
        add, keep = self.graph.add, self.graph.keep
        step, value = keep(f"{name}.act.scale", np.float32(grid.step)), x
        offset = keep(f"{name}.act.offset", np.float32(grid.offset))
        low, high = (self.graph.bound(v, np.float32) for v in (grid.low, grid.high))
        x = add("Div", [x, step], f"{out}.steps")
        x = add("Sub", [x, offset], f"{out}.shifted")
        x = add("Clip", [x, low, high], f"{out}.clipped")
        x = add("Round", [x], f"{out}.code")
        self.graph.note_code(name, x, grid.low, value)
        x = add("Add", [x, offset], f"{out}.level")
        add("Mul", [x, step], out)
