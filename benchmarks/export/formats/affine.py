"""Weights as signed integers with a scale, as ONNX has them, and BatchNorm folded into them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from benchmarks.export.graphs.codes import Weights
from benchmarks.export.graphs.graph import Graph, attributes

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Affine:
    """value = scale * code, per output channel.

    Attributes:
        code: integers ``[C, ...]``; half steps (1-bit weights at -s/2 and s/2) are doubled.
        scale: float32 ``[C]``.
        low, high: the ends of the widest channel's grid.
        bits: its bits, and 0 if channels differ.
    """

    code: Array
    scale: Array
    low: int
    high: int
    bits: int


def affine(weights: Weights) -> Affine | None:
    """The integers of weights on a uniform grid; None if they do not fit 16 bits, or are float."""
    if not weights.on_grid:
        return None
    assert weights.code is not None
    assert weights.scale is not None
    assert weights.offset is not None
    count = len(weights.value)
    bits = weights.bits.double().numpy()
    code = (weights.code + weights.offset).double().numpy()
    low = np.broadcast_to(weights.offset.flatten().double().numpy(), count)
    high = low + 2**bits - 1
    scale: Array = np.broadcast_to(weights.scale.flatten().numpy(), count).astype(np.float32)
    if (low != np.round(low)).any():
        code, low, high, scale = 2 * code, 2 * low, 2 * high, scale / 2
    used = bits > 0
    ends = (int(low[used].min()), int(high[used].max())) if used.any() else (0, 0)
    if ends[0] < -(2**15) or ends[1] >= 2**15:
        return None
    same = int(bits[0]) if len(set(bits.tolist())) == 1 else 0
    return Affine(code, scale, *ends, same)


def folded(weights: Affine, factor: Array) -> Affine | None:
    """The weights times a factor for each channel ``[C]``, with positive scales.

    A negative factor turns the codes around; None where a turned code is no longer on the grid
    (-8 of 4 bits has no +8).
    """
    turned = factor < 0
    code = weights.code.copy()
    code[turned] *= -1
    code[factor == 0] = 0
    if code.max(initial=0) > weights.high or code.min(initial=0) < weights.low:
        return None
    return replace(weights, code=code, scale=_positive(scaled(weights, np.abs(factor)).scale))


def scaled(weights: Affine, factor: Array) -> Affine:
    """The weights times a factor for each channel ``[C]``, with the same codes."""
    return replace(weights, scale=weights.scale * factor.astype(np.float32))


def unturned(weights: Affine, factor: Array) -> Affine:
    """The weights times what is left of a factor ``[C]`` without its sign, which may be 0."""
    made = scaled(weights, np.abs(factor))
    return replace(made, scale=_positive(made.scale))


def _positive(scale: Array) -> Array:
    # Of a channel whose factor is 0 nothing is left but a bias, which may be in units of its scale.
    spare = scale[scale > 0].min(initial=np.float32(1))
    positive: Array = np.where(scale > 0, scale, spare)
    return positive


def batchnorm_of(graph: Graph, conv: onnx.NodeProto) -> onnx.NodeProto | None:
    """The BatchNorm that alone reads a convolution's result and has constant parameters."""
    reader = graph.only_reader(conv.output[0])
    if reader is None or reader.op_type != "BatchNormalization":
        return None
    if attributes(reader).get("training_mode", 0) or len(reader.output) > 1:
        return None
    constant = all(graph.constant(name) is not None for name in reader.input[1:])
    return reader if constant else None


def normalisation(graph: Graph, norm: onnx.NodeProto) -> tuple[Array, Array]:
    """Factor and shift ``[C]`` of a BatchNorm, in double precision: y = factor * x + shift."""
    parameters = [graph.constant(name) for name in norm.input[1:5]]
    gamma, beta, mean, variance = (p.astype(np.float64) for p in parameters if p is not None)
    factor = gamma / np.sqrt(variance + attributes(norm).get("epsilon", 1e-5))
    return factor, beta - mean * factor
