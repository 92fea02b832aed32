"""Bit operations, the hardware-agnostic compute cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from frameworks.core.layers import Layer
from frameworks.core.policy import LayerBits
from frameworks.core.registry import register_target
from frameworks.core.target import SeparableTarget


@register_target
@dataclass(frozen=True)
class Bops(SeparableTarget):
    """BOPs = sum over layers of MACs * b_w * b_a, for one sample.

    The plain product of HAWQ-V3 (arXiv 2011.10680), FracBits and EdMIPS: b_a are the bits of the
    layer's input activations, all layers count, pinned ones at their pinned bits. Per-channel
    weight bits are averaged over the output channels, each of which has the same MACs; a pruned
    channel, or layer, counts 0. The inputs that a pruned channel leaves to the next layer still
    count: behind a BatchNorm they are a constant and not 0, a residual sum fills them again, and a
    cost that is a sum over layers cannot see its neighbours. So the figure is an upper bound.
    The weights' size in bytes is reported beside it.
    """

    name: ClassVar[str] = "bops"
    kind: ClassVar[Literal["model", "table", "measured"]] = "model"
    metrics: ClassVar[Mapping[str, str]] = {"bops": "bit operations", "size": "bytes"}

    def layer_cost(self, layer: Layer, bits: LayerBits) -> dict[str, float]:
        return {
            "bops": layer.macs * bits.mean_weight * bits.act,
            "size": layer.stored * bits.mean_weight / 8,
        }
