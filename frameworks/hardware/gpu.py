"""This machine's GPU, as ``juxtabit lut device=gpu`` measured it through torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from frameworks.core.pricing.measured import MeasuredTable
from frameworks.core.registry import register_target


@register_target
@dataclass
class GPU(MeasuredTable):
    """Measured latency of the layers on a GPU: float32, float16, int8 where torch has a kernel.

    torch multiplies int8 matrices (large linear layers whose sizes are multiples of 8), and has no
    int8 convolution; where it has none, 8 and fewer bits run in float16, which holds their integers
    exactly, at its speed. 16 and 32 bit, weights and activations alike, are added to the
    candidates of the protocol.
    """

    name: ClassVar[str] = "gpu"
    wide: ClassVar[tuple[int, ...]] = (16, 32)
