"""CMix-NN's mixed-precision kernels on an Arm Cortex-M7."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, prod
from typing import ClassVar, Literal

from frameworks.core.layers import Layer
from frameworks.core.policy import PRUNED, LayerBits
from frameworks.core.registry import register_target
from frameworks.core.target import SeparableTarget

BITS = (2, 4, 8)
STEP = {8: 4, 4: 8, 2: 16}
"""Operands in a 32-bit word, the columns of one iteration."""
PRODUCT = {8: 22, 4: 50, 2: 98}
"""Instructions of one iteration: that many columns, 2 channels, 2 pixels."""
EXPAND = {8: 8, 4: 22, 2: 42}
"""Instructions to bring `STEP` activations of im2col to 16 bits."""
OFFSET = 6
"""Instructions of the weights' zero point, for 2 columns of 2 pixels."""
OUTPUT = 11
"""Instructions to scale, clip and store one output."""
DEPTHWISE_COPY = {8: 0.5, 4: 3.5, 2: 2.75}
"""Instructions of the depthwise kernel's im2col, for one activation."""
DEPTHWISE_PRODUCT = {8: 34, 4: 48, 2: 48}
"""Instructions of the depthwise kernel, for 2 taps of 4 channels."""


@register_target
@dataclass(frozen=True)
class CortexM(SeparableTarget):
    """Cycles of CMix-NN on a Cortex-M7: indicative, derived from instruction counts.

    Kernels: "CMix-NN: Mixed Low-Precision CNN Library for Memory-Constrained Edge Devices",
    Capotondi et al., IEEE TCAS-II 67(5), 2020: operands of 8, 4 and 2 bits, extended to 16 bits for
    the dual multiply-accumulate (SMLAD). Its measured cycles were not available, so all figures are
    [derived]: instructions of the sources (EEESlab/CMix-NN, weights per layer, ICN), each
    intrinsic, load, store and loop step being one, at one instruction a cycle [assumption: the M7
    issues up to two, and waits for memory]. With K = k_h k_w c_in columns and P output pixels:

        conv  P / 2 * (2 expand(a) + 6 ceil(K / 2) + ceil(c_out / 2) (product(w) + 4 * 11))

    - product, ``arm_nn_mat_mult_kernel_reordered_*_icn``: 22 instructions for 4 columns at 8 bits
      (4 + 2 loads, 2 * 3 to extend, 8 SMLAD, 2 loop), 50 for 8 at 4 bits (8 loads,
      2 (1 + 4 masks + 3 rotations + 4 extensions), 16, 2), 98 for 16 at 2 bits (16, 2 * 24, 32, 2).
    - expand, ``arm_u8_to_int16_reordered``, ``_u4_``, ``_u2_`` without an input offset: 8 for 4
      activations, 22 for 8, 42 for 16.
    - depthwise, ``arm_depthwise_separable_conv_HWC_*_icn``: for 2 taps of 4 channels 34 at 8 bits
      (8 loads and packs, 4 (2 extensions, 2 offsets, 1 SMLAD), 4 rotations, 2 loop), 48 at 4 and 2
      bits (4, 2 loads, 18 to unpack, 20, 2, 2); im2col 1/2, 7/2, 11/4 an activation; 11 an output.
    - a linear layer, which the library lacks, is a 1x1 convolution on its tokens; a pixel left
      without a pair costs half of one; grouped convolutions run one group after the other.

    Check: 16 / 22 = 0.73 MACs a cycle at 8 bits lies within what follows from the abstract of
    arXiv 2007.07759 (16 MACs a cycle, 21 to 25 times an STM32H7: 0.64 to 0.76); 0.64 and 0.65 at 4
    and 2 bits. So fewer bits save memory here, not time. Output bits are not told apart, columns
    count as padded to whole words. Size is that of the packed weights.
    """

    name: ClassVar[str] = "cortex_m"
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
        model = _depthwise if layer.depthwise else _conv
        return {
            "latency": layer.calls * model(layer, int(bits.mean_weight), bits.act),
            "size": layer.stored * bits.mean_weight / 8,
        }


def _conv(layer: Layer, weight: int, act: int) -> float:
    columns = prod(layer.kernel) * layer.in_channels // layer.groups
    expand = 2 * EXPAND[act] * ceil(columns / STEP[act]) + OFFSET * ceil(columns / 2)
    product = PRODUCT[weight] * ceil(columns / STEP[weight]) + 4 * OUTPUT
    pair = expand + ceil(layer.out_channels / layer.groups / 2) * product
    return layer.groups * layer.positions / 2 * pair


def _depthwise(layer: Layer, weight: int, act: int) -> float:
    taps = prod(layer.kernel)
    product = DEPTHWISE_PRODUCT[weight] * ceil(taps / 2) + 4 * OUTPUT
    copy = DEPTHWISE_COPY[act] * taps * layer.in_channels
    return layer.positions * (copy + ceil(layer.out_channels / 4) * product)
