"""MPIC, a RISC-V core with mixed-precision dot products."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from frameworks.core.layers import Layer
from frameworks.core.policy import PRUNED, LayerBits
from frameworks.core.registry import register_target
from frameworks.core.target import SeparableTarget

MACS_PER_CYCLE = {
    (2, 2): 6.5, (4, 2): 4.0, (8, 2): 2.2,
    (2, 4): 3.9, (4, 4): 3.5, (8, 4): 2.1,
    (2, 8): 2.5, (4, 8): 2.3, (8, 8): 2.1,
}  # fmt: skip
"""Multiply-accumulates a cycle at (weight, activation) bits."""
CLOCK = 250e6
"""Hz."""
POWER = (5.30e-3 + 5.39e-3 + 5.46e-3 + 5.38e-3) / 4
"""Watt."""


@register_target
@dataclass(frozen=True)
class MPIC(SeparableTarget):
    """Cycles and energy of one MPIC core.

    "A Mixed-Precision RISC-V Processor for Extreme-Edge DNN Inference", Ottavi et al., ISVLSI 2020
    (arXiv 2010.04073): one dot-product instruction for every pair of 8, 4 and 2 bit operands.

    - latency = sum over layers of MACs / rate(b_w, b_a), the rates being PLiNIO's table
      (eml-eda/plinio, ``plinio/cost/mpic_latency.py``) for one core, the same for convolutions,
      depthwise ones and linear layers; no other work is counted, and no ceiling taken.
    - energy = latency / 250 MHz * 5.3825 mW, the mean of four powers, 21.53 pJ a cycle
      (``mpic_energy.py``, there in joules, here in microjoules).
    - size = the weights' bytes, packed.

    PLiNIO prices the channels of each bit width by their share of the MACs (channel-wise mixed
    precision), so weight bits may differ between channels; pruned ones cost nothing.
    """

    name: ClassVar[str] = "mpic"
    kind: ClassVar[Literal["model", "table", "measured"]] = "model"
    metrics: ClassVar[Mapping[str, str]] = {"latency": "cycles", "energy": "uJ", "size": "bytes"}

    def supports(self, layer: Layer, weight: int, act: int) -> bool:
        return weight == PRUNED or (weight, act) in MACS_PER_CYCLE

    def layer_cost(self, layer: Layer, bits: LayerBits) -> dict[str, float]:
        self.require(layer, bits)
        channels = bits.channels(layer.out_channels)
        cycles = sum(
            layer.macs * channels.count(weight) / len(channels) / MACS_PER_CYCLE[weight, bits.act]
            for weight in sorted(set(channels) - {PRUNED})
        )
        return {
            "latency": cycles,
            "energy": cycles / CLOCK * POWER * 1e6,
            "size": layer.stored * bits.mean_weight / 8,
        }
