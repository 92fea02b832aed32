"""BISMO (Umuroglu et al., arXiv 1806.08862 and 1901.00370): a bit-serial array, as HAQ used it.

An array of D_m rows (output positions) by D_n columns (output channels) multiplies binary vectors
of length D_k in each cycle; b_w * b_a passes make a product of b_w and b_a bits, so the time grows
with both (EECS-NTNU/bismo, README.md). HAQ (arXiv 1811.08886) ran it on a Zynq-7020 (edge) and a
VU9P (cloud) and released the cloud's latency table of MobileNetV2 (mit-han-lab/haq,
``qmobilenetv2_imagenet100_batch16_latency_table.npy``), not the simulator that made it.

**Cloud.** A closed form fitted to that table [derived]. With B images, K = ceil(C_in k^2 / D_k),
N = ceil(C_out / D_n), P = ceil(H W / D_m), or ceil(H / floor(D_m / W)) where a row of the image is
shorter than the array has rows, and H, W of the output::

    conv, linear   B * K * max(P N b_w b_a,  D_m P b_a,  C_out b_w)     cycles
    depthwise      B * H * W * ceil(C / D_n) * b_a                      cycles

The three terms are the computation and the loads of activations and of weights, one vector of D_k
bits a cycle each. A linear layer takes the batch as positions: P = ceil(B tokens / D_m) and no
factor B. A depthwise one cannot fill the columns: loading its activations binds it, whatever the
weights' bits. Against the table: 4.6 % mean error over its 53 x 64 cells (the worst, a 7 x 7 layer
at few bits, 68 %), totals at uniform bits within 1.5 % (``tests/hardware/test_bismo.py``).

**Edge.** The same form with the edge's array [own model, no published number to check it by].

Other grouped convolutions are groups times a smaller problem [own model]. Output channels of
different bits are sorted, D_n to a tile, and a tile runs at the bits of its widest channel; weights
are loaded at their own bits [own model].

Set-ups are in ``data/bismo.json``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import ClassVar, Literal

from frameworks.core.layers import Layer
from frameworks.core.policy import FLOAT, PRUNED, LayerBits
from frameworks.core.registry import register_target
from frameworks.core.target import SeparableTarget, kept_channels

SETUPS = json.loads(
    (files("frameworks.hardware") / "data" / "bismo.json").read_text(encoding="utf-8")
)


@dataclass(frozen=True)
class Array:
    """A bit-serial array and the number of images that it runs at a time."""

    batch: int
    rows: int
    columns: int
    depth: int

    def cycles(self, layer: Layer, bits: LayerBits) -> int:
        """Cycles of one run of a layer for the whole batch."""
        groups = kept_channels(layer, bits)
        if layer.depthwise:
            channels = sum(len(group) * count for group, count in groups.items())
            return self.batch * layer.positions * math.ceil(channels / self.columns) * bits.act
        return sum(
            count * self._group_cycles(layer, channels, bits.act)
            for channels, count in groups.items()
        )

    def _group_cycles(self, layer: Layer, channels: tuple[int, ...], act: int) -> int:
        depth = math.ceil(layer.params // layer.out_channels / self.depth)
        images, positions = self._positions(layer)
        compute = positions * sum(channels[:: self.columns]) * act
        return images * depth * max(compute, self.rows * positions * act, sum(channels))

    def _positions(self, layer: Layer) -> tuple[int, int]:
        """How many images one after another, and tiles of rows for each."""
        if layer.kind == "linear":
            return 1, math.ceil(self.batch * layer.positions / self.rows)
        width = layer.out_size[-1]
        if width >= self.rows:
            return self.batch, math.ceil(layer.positions / self.rows)
        return self.batch, math.ceil(layer.positions // width / (self.rows // width))


@dataclass(frozen=True)
class _Bismo(SeparableTarget):
    """Cycles of one batch on a bit-serial array, and the weights' size."""

    kind: ClassVar[Literal["model", "table", "measured"]] = "model"
    metrics: ClassVar[Mapping[str, str]] = {"latency": "cycles", "size": "bytes"}
    array: ClassVar[Array]

    def supports(self, layer: Layer, weight: int, act: int) -> bool:
        return weight == PRUNED or all(0 < b < FLOAT for b in (weight, act))

    def layer_cost(self, layer: Layer, bits: LayerBits) -> dict[str, float]:
        self.require(layer, bits)
        return {
            "latency": layer.calls * self.array.cycles(layer, bits),
            "size": layer.stored * bits.mean_weight / 8,
        }


@register_target
@dataclass(frozen=True)
class BismoCloud(_Bismo):
    """HAQ's cloud set-up: batch 16 on a 16 x 16 array of 256-bit products (VU9P)."""

    name: ClassVar[str] = "bismo_cloud"
    array: ClassVar[Array] = Array(**SETUPS["cloud"])


@register_target
@dataclass(frozen=True)
class BismoEdge(_Bismo):
    """HAQ's edge set-up: batch 1 on an 8 x 8 array of 64-bit products (Zynq-7020)."""

    name: ClassVar[str] = "bismo_edge"
    array: ClassVar[Array] = Array(**SETUPS["edge"])
