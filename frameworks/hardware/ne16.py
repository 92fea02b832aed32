"""NE16, an accelerator with bit-serial weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import ClassVar, Literal

from frameworks.core.layers import Layer, plane
from frameworks.core.policy import PRUNED, LayerBits
from frameworks.core.registry import register_target
from frameworks.core.target import SeparableTarget

WEIGHT_BITS = range(2, 9)
ACT_BITS = 8
TILE, TILE_IN, TILE_OUT = 3, 16, 32
"""Output pixels a side, input channels and output channels of a tile."""
FIFO = 6
"""Cycles to fill a streamer."""
PORT = 256
"""Bits a cycle from and to the memory."""
UPDATE = 2
"""Cycles to step the loop counters."""


@register_target
@dataclass(frozen=True)
class NE16(SeparableTarget):
    """Cycles of the NE16 accelerator: 8-bit activations, weights of 2 to 8 bits, bit by bit.

    PLiNIO's model (eml-eda/plinio, ``plinio/cost/ne16_latency.py``, classes ``Ne16PerfModel`` and
    ``Ne16PerfModel_generalized``), without its DMA term, which PLiNIO does not add either. A layer
    is cut into tiles of 3x3 pixels by 32 output channels (depthwise: 16), all input channels in
    steps of 16. For a tile of k output channels:

        load    6 + 25 (3x3), 10 + 9 (1x1): one cycle a pixel of the 5x5 or 3x3 window
        offset  6 (depthwise: 6 + k)
        product 6 + k b_w (1x1: 6 + k, whatever the weight bits)
        step    2
        output  9 + k (scaling, 32 bits, 4 multipliers) + 3 + 9 + 1 (writing 3x3 pixels)

        latency = ceil(H / 3) ceil(W / 3) * sum over channel tiles of
                  (ceil(c_in / 16) * (load + offset + product + step) + output)

    a depthwise tile without the factor ceil(c_in / 16). The last channel tile holds the rest.

    A kernel k_h x k_w runs as (k_h // 3)(k_w // 3) passes of 3x3 and, for each tap left over, one
    of 1x1 (the generalized model; PLiNIO's layer functions themselves accept 3x3 and 1x1 alone). A
    linear layer is a 1x1 convolution on one pixel (PLiNIO), or on one column of tokens [derived].
    Derived here too: depthwise kernels of other sizes as ceil(k_h / 3) ceil(k_w / 3) passes of 3x3,
    grouped convolutions one group after the other, sequences as images of one column.

    Bits are one number a layer: PLiNIO prices the channels of each bit width as a layer of its
    own, with tiles of their own, so that a channel of fewer bits may cost more.
    Size is that of the packed weights.
    """

    name: ClassVar[str] = "ne16"
    kind: ClassVar[Literal["model", "table", "measured"]] = "model"
    metrics: ClassVar[Mapping[str, str]] = {"latency": "cycles", "size": "bytes"}
    per_channel: ClassVar[bool] = False
    prices_activations: ClassVar[bool] = False

    def supports(self, layer: Layer, weight: int, act: int) -> bool:
        return weight == PRUNED or (weight in WEIGHT_BITS and act == ACT_BITS)

    def layer_cost(self, layer: Layer, bits: LayerBits) -> dict[str, float]:
        self.require(layer, bits)
        weight = int(bits.mean_weight)
        if weight == PRUNED:
            return {"latency": 0.0, "size": 0.0}
        return {
            "latency": layer.calls * _cycles(layer, weight),
            "size": layer.stored * weight / 8,
        }


def _cycles(layer: Layer, weight: int) -> int:
    rows, columns = plane(layer.kernel)
    height, width = plane(layer.out_size)
    spatial = ceil(height / TILE) * ceil(width / TILE)
    if layer.depthwise:
        passes = ceil(rows / TILE) * ceil(columns / TILE)
        tiles = _tiles(layer.out_channels, TILE_IN)
        return spatial * passes * sum(_depthwise(k, weight) for k in tiles)
    large = (rows // 3) * (columns // 3)
    single = rows % 3 * columns + columns % 3 * rows - (rows % 3) * (columns % 3)
    steps = ceil(layer.in_channels / layer.groups / TILE_IN)
    group = sum(
        large * (steps * _dense(k, weight) + _output(k)) + single * (steps * _point(k) + _output(k))
        for k in _tiles(layer.out_channels // layer.groups, TILE_OUT)
    )
    return spatial * layer.groups * group


def _tiles(channels: int, size: int) -> list[int]:
    """Output channels of each tile."""
    rest = channels % size
    return [size] * (channels // size) + ([rest] if rest else [])


def _load(side: int, start: int) -> int:
    """Cycles to read the window of ``side`` x ``side`` input pixels."""
    return start + side * side * ceil(TILE_IN * ACT_BITS / PORT)


def _dense(k: int, weight: int) -> int:
    return _load(TILE + 2, FIFO) + FIFO + (FIFO + k * weight) + UPDATE


def _point(k: int) -> int:
    return _load(TILE, 10) + FIFO + (FIFO + k) + UPDATE


def _depthwise(k: int, weight: int) -> int:
    return _dense(k, weight) + k + _output(k)


def _output(k: int) -> int:
    """Scaling and writing; always the time of a full tile for the latter, as in the source."""
    scale = 9 + ceil(k * 4 / 4)
    return scale + 3 + TILE * TILE * ceil(TILE_OUT * ACT_BITS / PORT) + 1
