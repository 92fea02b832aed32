"""Activations in ONNX: QuantizeLinear, Clip to the policy's bits, DequantizeLinear.

There is a Clip where the bits are not those of the type. That is so for 4 bits, too: up to 1.30,
ONNX Runtime lets codes of 8 bits have the memory of codes of 4 bits that are done with, which is
half as much (its pull request 32611), and computes something else, or crashes. Grids without a zero
(1-bit signed activations) are spelled out in float with the operations of the fake quantizer.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.export.formats.integers import suits
from benchmarks.export.graphs.codes import PRUNED, Exported
from benchmarks.export.graphs.graph import Graph
from frameworks import Grid

UNSIGNED: dict[int, Any] = {8: np.uint8, 16: np.uint16}
"""Types of codes, by their bits."""


def code_width(grid: Grid | None) -> int:
    """Bits of the type that takes the codes on a grid; 0 if they are float."""
    if grid is None or not suits(grid):
        return 0
    span = grid.high - grid.low
    # Codes of 16 bits must need no Clip, which ONNX Runtime does not have for them.
    return 8 if span < 256 else 16 if span == 2**16 - 1 else 0


class Activations:
    """Writes the quantizers of layers' inputs.

    Args:
        graph: where they are written.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._codes: dict[tuple[str, Grid], str] = {}
        """The codes of values on grids, which several layers may share."""

    def write(self, entry: Exported, x: str, out: str) -> None:
        """Write the quantizer of a layer's input from one value to another."""
        grid = entry.grid
        if grid is None:
            pruned = entry.bits.act == PRUNED
            zero = [self.graph.keep("zero", np.float32(0))]
            self.graph.add("Mul" if pruned else "Identity", [x, *(zero if pruned else [])], out)
            self.graph.note_code(entry.layer.name, out, None, x)
        elif code_width(grid):
            self._quantized(entry.layer.name, grid, x, out)
        else:
            self._spelled_out(entry.layer.name, grid, x, out)

    def _quantized(self, name: str, grid: Grid, x: str, out: str) -> None:
        span, width = grid.high - grid.low, code_width(grid)
        dtype = UNSIGNED[width]
        point = np.array(-round(grid.low + grid.offset), dtype)
        scale = self.graph.keep(f"{name}.act.scale", np.float32(grid.step))
        zero = self.graph.keep(f"{name}.act.zero_point", point)
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
