"""DIANA, a chip with a digital and an analog in-memory accelerator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import ClassVar, Literal

from frameworks.core.layers import Layer, plane
from frameworks.core.policy import PRUNED, LayerBits
from frameworks.core.registry import register_target
from frameworks.core.target import SeparableTarget

DIGITAL, ANALOG, ACT_BITS = 8, 2, 8
"""Weight bits of the two accelerators; activation bits of both."""
ARRAY = 16
"""Rows and columns of the digital array."""
ROWS, COLUMNS, DEPTH = 1152, 512, 128
"""Rows and columns of the analog array; input channels that one of its steps takes."""
STEP = 70e-9
"""Seconds of an analog step."""
CLOCK = 260e6
"""Hz."""


@register_target
@dataclass(frozen=True)
class Diana(SeparableTarget):
    """Cycles of DIANA, which runs a layer on its digital or on its analog accelerator.

    PLiNIO's model (eml-eda/plinio, ``plinio/cost/diana_latency.py``, for its search of layer
    mappings): 8-bit weights run digitally, 2-bit ones, in truth ternary, in the analog array;
    activations have 8 bits, on the analog side of the chip in truth 7 (both said there). One layer
    after the other, in cycles at 260 MHz, O_x by O_y being the output:

        digital  ceil(c_out / g / 16) c_in ceil(O_x / 16) O_y k_x k_y + O_x O_y (c_out + c_in) / 8
        analog   8 c_in k_x k_y (writing the weights)
                 + ceil(c_out / 512) ceil(c_in / 128) O_x O_y / u * 70 ns * 260 MHz

    u is the largest of 1, 2, 4, 8 positions at once with u c_out <= 512 and
    (u + k_x - 1) max(64, c_in) k_y <= 1152, and 1 if none is. The analog array runs no grouped and
    no depthwise convolutions. A linear layer is a 1x1 convolution on one pixel (PLiNIO), or on one
    column of tokens [derived]; a sequence is an image of one column [derived].

    Fewer bits are not always faster: writing the analog weights can take longer than the digital
    product. Size is that of the weights at 8 and 2 bits.
    """

    name: ClassVar[str] = "diana"
    kind: ClassVar[Literal["model", "table", "measured"]] = "model"
    metrics: ClassVar[Mapping[str, str]] = {"latency": "cycles", "size": "bytes"}
    per_channel: ClassVar[bool] = False
    prices_activations: ClassVar[bool] = False
    monotone: ClassVar[bool] = False

    def supports(self, layer: Layer, weight: int, act: int) -> bool:
        if weight == PRUNED:
            return True
        return act == ACT_BITS and (weight == DIGITAL or (weight == ANALOG and layer.groups == 1))

    def layer_cost(self, layer: Layer, bits: LayerBits) -> dict[str, float]:
        self.require(layer, bits)
        if bits.weight == PRUNED:
            return {"latency": 0.0, "size": 0.0}
        cycles = _digital(layer) if bits.weight == DIGITAL else _analog(layer)
        return {
            "latency": layer.calls * cycles,
            "size": layer.stored * bits.mean_weight / 8,
        }


def _digital(layer: Layer) -> float:
    (k_x, k_y), (o_x, o_y) = plane(layer.kernel), plane(layer.out_size)
    product = ceil(layer.out_channels / layer.groups / ARRAY) * layer.in_channels
    moved = o_x * o_y * (layer.out_channels + layer.in_channels) / 8
    return product * ceil(o_x / ARRAY) * o_y * k_x * k_y + moved


def _analog(layer: Layer) -> float:
    (k_x, k_y), (o_x, o_y) = plane(layer.kernel), plane(layer.out_size)
    channels = max(64, layer.in_channels)
    fitting = [
        u
        for u in (2, 4, 8)
        if u * layer.out_channels <= COLUMNS and (u + k_x - 1) * channels * k_y <= ROWS
    ]
    unroll = max(fitting, default=1)
    steps = ceil(layer.out_channels / COLUMNS) * ceil(layer.in_channels / DEPTH)
    product = steps * o_x * o_y / unroll * STEP * CLOCK
    return 8 * layer.in_channels * k_x * k_y + product
