"""PULP-NN's mixed-precision kernels on the eight cores of GAP-8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import ClassVar, Literal

from frameworks.core.layers import Layer, plane
from frameworks.core.policy import PRUNED, LayerBits
from frameworks.core.registry import register_target
from frameworks.core.target import SeparableTarget

BITS = (2, 4, 8)
CORES = 8
STEP = {8: 4, 4: 8, 2: 16}
"""Operands in a 32-bit word, the columns of one iteration of the product's loop."""
PRODUCT = {8: 14, 4: 72, 2: 140}
"""Instructions of one iteration: that many columns, 4 channels, 2 pixels."""
COPY = {8: 0, 4: 11, 2: 21}
"""Instructions that im2col takes beyond the copy of bytes, for `STEP` activations."""
FETCH = {8: 4, 4: 26, 2: 25}
"""Instructions that bring 16 operands as bytes into registers."""
DEPTHWISE_COPY = {8: 0.0, 4: 13 / 8, 2: 25 / 16}
"""The same as `COPY` in the depthwise kernel, for one activation."""
DEPTHWISE_WEIGHT = {8: 0.0, 4: 5 / 2, 2: 9 / 4}
"""Instructions of the depthwise kernel to unpack one weight, once a channel."""


@register_target
@dataclass(frozen=True)
class Gap8PulpNN(SeparableTarget):
    """Cycles of the PULP-NN mixed kernels on GAP-8: indicative, derived from instruction counts.

    Kernels: "Enabling Mixed-Precision Quantized Neural Networks in Extreme-Edge Devices", Bruschi
    et al., Computing Frontiers 2020 (arXiv 2007.07759): operands of 8, 4 and 2 bits, 8 cores,
    sub-byte operands unpacked to the 4x8-bit dot product of RV32IMCXpulpV2. The abstract gives one
    throughput, a peak of 16 MACs a cycle; its figures for each combination were not available, so
    the cycles are:

    - 8 bit: PLiNIO's published model of the 8-bit kernels (eml-eda/plinio,
      ``plinio/cost/gap8_latency.py``), with K = k_x k_y c_in columns:
      conv       ceil(O_x / 2) ceil(O_y / 8) (2 K + ceil(c_out / 4) (5 + 14 ceil(K / 4) + 10))
      depthwise  4 ceil(c_out / 4) O_x O_y k_x k_y
      linear     ceil(c_in / 2) ceil(c_out / 4)
    - 4 and 2 bit [derived]: the instructions of the loops of pulp-platform/pulp-nn-mixed
      (``XpulpV2/32bit``), one cycle each (hardware loops and post-increments are free, a bit
      extraction is 1, packing 4 bytes is 2, operands stay in registers):
      * product (``pulp_nn_matmul_u8_u8_i8``, ``_i4``, ``_i2``), for 4, 8, 16 columns: 14 = 6 loads
        + 8 dot products (PLiNIO's 14); 72 = 4 loads + 4 (1 load + 8 extractions + 4 packing) + 16;
        140 = 8 + 4 (1 + 16 + 8) + 32. With ceil(K / 4), ceil(K / 8), ceil(K / 16) iterations.
      * im2col (``pulp_nn_im2col_u4_to_u8``, ``_u2_``), for each of two pixels: 15 = 1 + 8 + 4 + 2
        stores for 8 activations where bytes take 4; 29 for 16 where bytes take 8: 11 and 21 more.
      * linear (``pulp_nn_linear``), for 16 columns of 2 outputs: fetch(a) + 2 fetch(w) + 8, fetch
        being 4 (bytes), 26, 25; PLiNIO's figure times this over its value at 8 bits, 20.
      * depthwise: each core unpacks its channels' O_x columns of I_y rows, k_x padded to fours
        (13/8, 25/16 instructions an activation beyond the copy), and each weight once (5/2, 9/4).
    - Output bits change nothing: the bit insertions that pack them replace as many byte stores.

    So 4 bits are the slowest (2.6 times 8 bits in the product's loop, 2 bits 2.5 times): here fewer
    bits save memory, not time. Not counted: remainder loops (columns count as padded, as in
    PLiNIO), memory stalls, transfers from L2. The 8-bit model is optimistic, 17.4 MACs a cycle on
    16x16 outputs, 64 filters 3x3x32, against the abstract's peak of 16; trust ratios more than
    cycles. Derived as well: grouped convolutions one group after the other, sequences laid along
    the axis shared by the cores, the linear kernel once a token. Size is that of packed weights.
    """

    name: ClassVar[str] = "gap8_pulp_nn"
    kind: ClassVar[Literal["model", "table", "measured"]] = "model"
    metrics: ClassVar[Mapping[str, str]] = {"latency": "cycles", "size": "bytes"}
    per_channel: ClassVar[bool] = False
    monotone: ClassVar[bool] = False

    def supports(self, layer: Layer, weight: int, act: int) -> bool:
        return weight == PRUNED or (weight in BITS and act in BITS)

    def layer_cost(self, layer: Layer, bits: LayerBits) -> dict[str, float]:
        self.require(layer, bits)
        if bits.weight == PRUNED:
            return {"latency": 0.0, "size": 0.0}
        model = _linear if layer.kind == "linear" else _depthwise if layer.depthwise else _conv
        return {
            "latency": layer.calls * model(layer, int(bits.mean_weight), bits.act),
            "size": layer.stored * bits.mean_weight / 8,
        }


def _grid(sizes: Sequence[int]) -> tuple[int, int]:
    """Extents of a kernel or an image along x and y; those of a sequence lie along y."""
    return (1, sizes[0]) if len(sizes) == 1 else plane(sizes)


def _words(columns: int, bits: int) -> int:
    """32-bit words that hold the operands of so many columns."""
    return ceil(columns / STEP[bits])


def _conv(layer: Layer, weight: int, act: int) -> float:
    o_x, o_y = _grid(layer.out_size)
    columns = prod(layer.kernel) * layer.in_channels // layer.groups
    im2col = 2 * (columns + COPY[act] * _words(columns, act))
    loop = 5 + PRODUCT[weight] * _words(columns, weight) + 10
    product = ceil(layer.out_channels / layer.groups / 4) * loop
    return layer.groups * ceil(o_x / 2) * ceil(o_y / CORES) * (im2col + product)


def _depthwise(layer: Layer, weight: int, act: int) -> float:
    (o_x, o_y), (k_x, k_y) = _grid(layer.out_size), _grid(layer.kernel)
    base = 4 * ceil(layer.out_channels / 4) * o_x * o_y * k_x * k_y
    activations = o_x * _grid(layer.in_size)[1] * 4 * ceil(k_x / 4)
    unpack = DEPTHWISE_COPY[act] * activations + DEPTHWISE_WEIGHT[weight] * k_x * k_y
    return base + ceil(layer.out_channels / CORES) * unpack


def _linear(layer: Layer, weight: int, act: int) -> float:
    base = ceil(layer.in_channels / 2) * ceil(layer.out_channels / 4)
    fetches = FETCH[act] + 2 * FETCH[weight] + 8
    return layer.positions * base * fetches / (3 * FETCH[8] + 8)
