"""AutoQ's quantizers: linear, and multi-bit binary, both per kernel.

Lou et al., "AutoQ: Automated Kernel-Wise Neural Network Quantization", arXiv 1902.05690 (ICLR
2020), section 3. A kernel is the weights of one output channel; the activations of a layer share
one width.

Quantized network: linear quantization with a scale per kernel for weights and per layer for
activations,

    w_q = round(clamp(w, -c, c) / s) s,  s = c / (2^(b-1) - 1);    x_q = round(clamp(x, 0, c) / s) s

(the grids and gradients of HAQ, which it builds on). How c is chosen is not in the sources at
hand: it is the clip of least squared error here; the activations' is then learned. For one bit the
two levels are -E|w| and E|w| of the kernel.

Binarized network: b bases per kernel, w ~ sum_i alpha_i B_i with B_i in {-1, +1}. Each takes what
the ones before it left over (the greedy solution, optimal for each base given the others before):

    r_1 = w;   B_i = sign(r_i),  alpha_i = E|r_i| over the kernel,  r_{i+1} = r_i - alpha_i B_i

The alpha follow the current weights and count as constants; the gradient is the identity. A layer's
activations have N bases around their mean m, x ~ m + sum_i beta_i B_i, with m and the beta
calibrated the same way and then fixed; a value takes the nearest of the 2^N sums, and the gradient
is 1 between the outermost ones. (Without m the first base would be wasted on the sign of values
that are never negative.) Bases beyond 8 add nothing to a float's worth of sums: 16 means 8 here.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from frameworks.core.quantizers.base import Codes, Quantizer, Scheme, straight_through
from frameworks.core.quantizers.haq import LinearWeight
from frameworks.core.quantizers.pact import calibrated_pact
from frameworks.core.quantizers.uniform import SMALLEST_STEP, mse_step, per_channel
from frameworks.core.registry import register_scheme

MOST_BASES = 8


@register_scheme
class AutoQLinear(Scheme):
    """Linear weights with a scale per kernel, linear activations with a learned clip per layer."""

    name: ClassVar[str] = "autoq"

    def weight_quantizer(self, weight: Tensor, bits: int) -> Quantizer:
        rows = weight.detach().reshape(len(weight), -1)
        if bits == 1:
            return LinearWeight(per_channel(rows.abs().mean(1), weight), bits)
        levels = 2 ** (bits - 1) - 1
        start = (rows.abs().amax(1, keepdim=True) / levels).clamp_min(SMALLEST_STEP)
        step = mse_step(rows, start, -levels, levels)
        return LinearWeight(per_channel(step.flatten() * levels, weight), bits)

    def activation_quantizer(self, sample: Tensor, bits: int) -> Quantizer:
        return calibrated_pact(sample, bits)


def greedy_bases(rows: Tensor, bases: int) -> tuple[Tensor, Tensor]:
    """Scales ``[C, M]`` and sums of signs as bit patterns ``[C, n]`` of rows ``[C, n]``.

    Bit M - 1 - i of a pattern is 1 where base i is +1.
    """
    left, pattern = rows.clone(), torch.zeros_like(rows)
    scales = []
    for _ in range(bases):
        positive = left >= 0
        scale = left.abs().mean(1, keepdim=True)
        left -= torch.where(positive, scale, -scale)
        pattern.mul_(2).add_(positive)
        scales.append(scale)
    return torch.cat(scales, 1), pattern


def sums(scales: Tensor) -> Tensor:
    """All 2^M sums of ±scales ``[C, M]``, by bit pattern: ``[C, 2^M]``."""
    out = scales.new_zeros(len(scales), 1)
    for scale in scales.T[:, :, None]:
        out = torch.stack([out - scale, out + scale], 2).flatten(1)
    return out


class BinaryBases(Quantizer):
    """Weights as sums of scaled binary tensors, per kernel."""

    def __init__(self, bases: int) -> None:
        super().__init__()
        self.bases = min(bases, MOST_BASES)

    def forward(self, x: Tensor) -> Tensor:
        return straight_through(x, self.codes(x).dequantize())

    @torch.no_grad()
    def codes(self, x: Tensor) -> Codes:
        scales, pattern = greedy_bases(x.reshape(len(x), -1), self.bases)
        return Codes.of_codebook(pattern.view_as(x), sums(scales))


class _Nearest(torch.autograd.Function):
    """The value at a code, with gradient 1 between the outermost levels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, levels: Tensor) -> Tensor:
        ctx.save_for_backward((x >= levels[0]) & (x <= levels[-1]))
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (inside,) = ctx.saved_tensors
        return grads[0] * inside, None, None


class NearestLevel(Quantizer):
    """The nearest of some fixed levels.

    Args:
        levels: sorted values ``[2^N]``.
    """

    levels: Tensor

    def __init__(self, levels: Tensor) -> None:
        super().__init__()
        self.register_buffer("levels", levels.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _Nearest.apply(x, self.codes(x).dequantize(), self.levels)
        return out

    @torch.no_grad()
    def codes(self, x: Tensor) -> Codes:
        middles = (self.levels[1:] + self.levels[:-1]) / 2
        code = torch.bucketize(x.detach().contiguous(), middles)
        return Codes.of_codebook(code.to(x.dtype), self.levels)


@register_scheme
class AutoQBinary(Scheme):
    """Multi-bit binary: as many bases per kernel and per layer's activations as bits."""

    name: ClassVar[str] = "autoq_binary"

    def weight_quantizer(self, weight: Tensor, bits: int) -> Quantizer:
        return BinaryBases(bits)

    def activation_quantizer(self, sample: Tensor, bits: int) -> Quantizer:
        centre = sample.detach().mean()
        scales, _ = greedy_bases((sample.detach() - centre)[None], min(bits, MOST_BASES))
        return NearestLevel(torch.sort(sums(scales)[0] + centre).values)
