"""HMQ's quantizer: uniform, one power-of-two threshold a tensor.

Habi, Jennings and Netzer, "HMQ", arXiv 2007.09952. With a threshold t = 2^M, signed data (all
weights) and data that are never negative have

    Delta = t / 2^(b-1),  codes -2^(b-1) ... 2^(b-1) - 1;     Delta = t / 2^b,  codes 0 ... 2^b - 1.

Thresholds come from eight powers of two: the largest is 2^(ceil(log2 max|W|) + 1) for weights and
2^ceil(log2 max|x|) for activations, the others are halves of it. A threshold is never trained. In
HMQ's search it is chosen with the bits; the scheme ``hmq`` for given bits takes the one of least
squared error. One signed bit has the two levels -t/2 and t/2, as the grid above would be lopsided.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from frameworks.core.quantizers.base import Quantizer, Scheme
from frameworks.core.quantizers.uniform import SMALLEST_STEP, UniformQuantizer, symmetric_grid
from frameworks.core.registry import register_scheme

SHIFTS = 8
"""Thresholds to choose from."""


def top_threshold(reach: float, weight: bool) -> float:
    """The largest of the thresholds for data of this largest magnitude."""
    power = math.ceil(math.log2(max(reach, SMALLEST_STEP))) + (1 if weight else 0)
    return float(2.0**power)


def thresholds(top: float) -> list[float]:
    """``top`` and its halves, `SHIFTS` in all, the largest first."""
    return [top / 2**k for k in range(SHIFTS)]


def levels(bits: int, signed: bool) -> int:
    """How many steps a threshold has."""
    count: int = 2 ** (bits - 1) if signed else 2**bits
    return count


def power_of_two(threshold: float, bits: int, signed: bool, like: Tensor) -> UniformQuantizer:
    """The quantizer of a threshold at these bits, on the device of ``like``."""
    step = like.new_tensor(threshold / levels(bits, signed))
    low, high, offset = symmetric_grid(bits) if signed else (0, 2**bits - 1, 0.0)
    return UniformQuantizer(step, low, high, offset, learned=False)


def fitting(values: Tensor, top: float, bits: int, signed: bool) -> UniformQuantizer:
    """The quantizer whose threshold, of all below ``top``, has the least squared error."""
    tried = [power_of_two(t, bits, signed, values) for t in thresholds(top)]
    errors = torch.stack([(q(values) - values).square().sum() for q in tried])
    return tried[int(errors.argmin())]


@register_scheme
class HMQScheme(Scheme):
    """Power-of-two thresholds, one a tensor, of least squared error."""

    name: ClassVar[str] = "hmq"

    def weight_quantizer(self, weight: Tensor, bits: int) -> Quantizer:
        values = weight.detach()
        return fitting(values, top_threshold(float(values.abs().max()), True), bits, True)

    def activation_quantizer(self, sample: Tensor, bits: int) -> Quantizer:
        values, signed = sample.detach(), bool(sample.min() < 0)
        return fitting(values, top_threshold(float(values.abs().max()), False), bits, signed)
