"""This machine's processor, as ``juxtabit lut`` measured it through ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from frameworks.core.pricing.measured import MeasuredTable
from frameworks.core.registry import register_target


@register_target
@dataclass
class CPU(MeasuredTable):
    """Measured latency of the layers on a processor: float32, or 8 bit and fewer.

    ONNX Runtime has kernels for float and for 8 bit; 2 to 7 bits are stored in 8 and run at the
    speed of 8. So the choice that matters is which layers stay at float: 8 bit is faster for most,
    but not for all (depthwise convolutions and those of few input channels). 32 bit, weights and
    activations alike, is added to the candidates of the protocol.
    """

    name: ClassVar[str] = "cpu"
    wide: ClassVar[tuple[int, ...]] = (32,)
