"""Weights in ONNX: integers with a scale per output channel, Clip, DequantizeLinear.

The Clip is there where the policy's bits are not those of the type.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from benchmarks.export.formats.affine import Affine, affine
from benchmarks.export.graphs.codes import Exported
from benchmarks.export.graphs.graph import Graph

Array = npt.NDArray[Any]
SIGNED: dict[int, tuple[int | None, Any]] = {
    4: (TensorProto.INT4, np.int8), 8: (None, np.int8), 16: (None, np.int16),
}  # fmt: skip
"""ONNX's type where numpy has none of its own, and numpy's."""
ZERO_POINT = 128
"""Of weights that are written as unsigned codes."""


def stored(made: Affine) -> int:
    """Bits of the type that takes a weight's codes."""
    if (made.low, made.high) == (-8, 7):
        return 4
    return 16 if made.low < -128 or made.high > 127 else 8


def write_weight(
    graph: Graph, entry: Exported, out: str, made: Affine | None = None, transposed: bool = False,
    real: bool = False, unsigned: bool = False,
) -> str:  # fmt: skip
    """Write a weight as integers, dequantized; as plain float where it has no integers.

    Args:
        graph: where it is written.
        entry: the layer.
        out: the value's name.
        made: the integers, where they are not the weight's own.
        transposed: ``[in, out]`` in the place of ``[out, in]``.
        real: with operations which ONNX Runtime carries out when it loads the file; scales may
            then be negative.
        unsigned: codes of 8 bits with a zero point of 128.
    """
    made = made or affine(entry.weights)
    name = entry.layer.name
    if made is None:
        value = entry.weights.value.numpy()
        return write_float(graph, f"{name}.float", value.T if transposed else value, out)
    code = made.code.T if transposed else made.code
    bits = stored(made)
    point = ZERO_POINT if unsigned and bits == 8 else 0
    kind, dtype = (None, np.uint8) if point else SIGNED[bits]
    kept = graph.keep(f"{name}.codes", (code + point).astype(dtype), kind)
    # The 4-bit types need no Clip, and one of 16 bits is nowhere to be had.
    if bits == 8 and made.bits != 8:
        low, high = (graph.bound(v + point, dtype) for v in (made.low, made.high))
        kept = graph.add("Clip", [kept, low, high], f"{out}.clipped")
    if real:
        broad = made.scale.reshape(-1, *(1,) * (0 if transposed else code.ndim - 1))
        factor = graph.keep(f"{name}.factor", broad)
        cast = graph.add("Cast", [kept], f"{out}.real", to=TensorProto.FLOAT)
        if point:
            cast = graph.add("Sub", [cast, graph.bound(point, np.float32)], f"{out}.centred")
        return graph.add("Mul", [cast, factor], out)
    inputs = [kept, graph.keep(f"{name}.scale", made.scale)]
    if point:
        inputs.append(graph.keep(f"{name}.zero_point", np.full(len(made.scale), point, np.uint8)))
    return graph.add("DequantizeLinear", inputs, out, axis=1 if transposed else 0)


def write_float(graph: Graph, name: str, value: Array, out: str, factor: str | None = None) -> str:
    """Write a weight as it is, or times a constant."""
    kept = graph.keep(name, value.astype(np.float32))
    if factor is not None:
        return graph.add("Mul", [kept, factor], out)
    return graph.add("Identity", [kept], out)
