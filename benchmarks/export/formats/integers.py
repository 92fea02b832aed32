"""What of a network is written so that ONNX Runtime runs it in integers.

ONNX Runtime has one fast integer convolution, QLinearConv: unsigned 8-bit activations, signed 8-bit
weights, an int32 bias in units of both scales, and an output that is quantized at once. (Its
ConvInteger, whose output is int32, is slower than a float convolution.) Weights of fewer bits are
given as multiples of a power of two, which fill 8 bits: exact, and the bias has finer units.
"""

from __future__ import annotations

from dataclasses import replace
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from frameworks import Grid

if TYPE_CHECKING:
    from benchmarks.export.formats.affine import Affine

Array = npt.NDArray[Any]
LARGEST_BIAS = 2**30


class Integers(IntEnum):
    """How much is to run in integers; each includes what the one before does.

    Attributes:
        NONE: biases stay exact floats.
        BIAS: convolutions of 8 bits whose output the policy quantizes get int32 biases.
        OUTPUTS: so do all others of up to 8 bits, and what the policy leaves float behind them and
            in the sums that they enter is quantized, too (`benchmarks.export.outputs`).
    """

    NONE = 0
    BIAS = 1
    OUTPUTS = 2


def suits(grid: Grid) -> bool:
    """Whether a grid has 0 as a code, which QuantizeLinear asks for."""
    low, high = grid.low + grid.offset, grid.high + grid.offset
    return low == round(low) and low <= 0 <= high


def saturates(weights: Affine, grid: Grid) -> bool:
    """Whether a sum of two products of signed weights and activations may not fit 16 bits.

    That is how x86 processors without VNNI add them, and what does not fit is cut off. With
    unsigned codes and a zero point, sums have 32 bits there, and elsewhere are as fast.
    """
    largest = int(np.abs(weights.code).max(initial=0))
    return 2 * largest * (grid.high - grid.low) > np.iinfo(np.int16).max


def filled(weights: Affine) -> Affine:
    """The same values with codes times a power of two, so that each channel fills -127 .. 127."""
    reach = np.abs(weights.code.reshape(len(weights.code), -1)).max(1, initial=0)
    power = np.floor(np.log2(127 / np.maximum(reach, 1)))
    times = 2.0 ** np.maximum(power, 0)
    code = weights.code * times.reshape(-1, *(1,) * (weights.code.ndim - 1))
    scale = (weights.scale / times).astype(np.float32)
    low, high = min(weights.low, -128), max(weights.high, 127)
    return replace(weights, code=code, scale=scale, low=low, high=high, bits=8)


def bias_units(weights: Affine, grid: Grid, shift: Array) -> Array | None:
    """A shift ``[C]`` in units of both scales; None if they do not fit 32 bits with the sums."""
    units = np.round(shift / (weights.scale.astype(np.float64) * grid.step))
    return units if np.abs(units).max(initial=0) < LARGEST_BIAS else None


def bias_moves(weights: Affine, grid: Grid) -> float:
    """By how much a bias in units of both scales may be off: half of the largest unit."""
    return 0.5 * float(weights.scale.max(initial=0)) * grid.step
