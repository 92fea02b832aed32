"""Bit gradients: what the loss says of each bit of a layer's weights.

A q-bit weight in two's complement, with bits B_k in {0, 1} and the step s, is

    w_q = s (-2^(q-1) B_{q-1} + sum_{k < q-1} 2^k B_k),

so that dL/dB_k = s 2^k dL/dw_q, and -s 2^(q-1) dL/dw_q for the sign. The normalised bit gradient
(NBG) of a layer is the mean of |dL/dB_k| over its weights and bits,

    NBG = (2^q - 1) / q  mean(s |dL/dw_q|),

and the epoch-normalised one (ENBG) the mean of NBG over the batches of an epoch, and over the
epochs since the bits were last assigned. With the paper's step, s = max|w| / (2^(q-1) - 1),

    NBG = c(q) max|w| mean|dL/dw_q|,    c(q) = (2^q - 1) / (q (2^(q-1) - 1)),

where c(2) / c(4) = 1.5 / (15 / 28) = 2.8: of two layers whose sensitivities are nearer than that,
the one with 2 bits looks the more sensitive, whichever it is, and they swap their bits at every
assignment. So layers are compared at a common q, where c(q) is a factor of all: by
max|w| mean|dL/dw_q|, whatever their quantizers and present bits.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from frameworks.core.quantizers.base import Codes, Grid, Quantizer
from frameworks.core.quantizers.uniform import SMALLEST_STEP


def bit_gradients(gradient: Tensor, step: Tensor | float, bits: int) -> Tensor:
    """dL/dB_k from dL/dw_q, ``[bits, ...]``, the least significant bit first and the sign last."""
    values = 2.0 ** torch.arange(bits, dtype=gradient.dtype, device=gradient.device)
    values[-1] *= -1
    each: Tensor = values.view(-1, *(1,) * gradient.dim()) * (gradient * step)
    return each


def normalised(gradient: Tensor, step: Tensor | float, bits: int) -> Tensor:
    """The mean magnitude of `bit_gradients`, without making them; a scalar."""
    weighed: Tensor = (gradient * step).abs()
    mean: Tensor = weighed.mean() * ((2**bits - 1) / bits)
    return mean


def step_of(quantizer: Quantizer, weight: Tensor, bits: int) -> Tensor:
    """The step of a weight's grid; of a codebook, which has none, that of a symmetric grid."""
    codes = quantizer.codes(weight.detach())
    if codes.codebook is None:
        return codes.scale
    levels = max(2 ** (bits - 1) - 1, 1)
    step: Tensor = (weight.detach().abs().max() / levels).clamp_min(SMALLEST_STEP)
    return step


class BitGradients(Quantizer):
    """A layer's weight quantizer, with its normalised bit gradients noted in every batch.

    Args:
        inner: quantizes.
        bits: q.
        common: take them at a q that is common to all layers, without the factor of it; else at
            the bits and the step of ``inner``.
    """

    def __init__(self, inner: Quantizer, bits: int, common: bool = True) -> None:
        super().__init__()
        self.inner, self.bits, self.common = inner, bits, common
        self.gradient: Tensor | None = None
        self.weight: Tensor | None = None
        self.batches: list[Tensor] = []
        self.epochs: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        if torch.is_grad_enabled() and out.requires_grad:
            self.weight = x.detach()
            out.register_hook(self._add)  # type: ignore[no-untyped-call]
        return out

    def _add(self, gradient: Tensor) -> None:
        """Of a weight that is read more than once, the sum is its gradient."""
        self.gradient = gradient if self.gradient is None else self.gradient + gradient

    @torch.no_grad()
    def end_batch(self) -> None:
        """Note the gradient of a batch; to be called before its step changes the weight."""
        gradient, weight = self.gradient, self.weight
        self.gradient = self.weight = None
        if gradient is None or weight is None:
            return
        if self.common:
            self.batches.append(weight.abs().max() * gradient.abs().mean())
        else:
            step = step_of(self.inner, weight, self.bits)
            self.batches.append(normalised(gradient, step, self.bits))

    def codes(self, x: Tensor) -> Codes:
        return self.inner.codes(x)

    def uniform_grid(self) -> Grid | None:
        return self.inner.uniform_grid()

    def learn_range(self, learn: bool = True) -> None:
        self.inner.learn_range(learn)

    def end_epoch(self) -> None:
        """Put the mean of the batches to the epochs' means."""
        if self.batches:
            self.epochs.append(float(torch.stack(self.batches).mean()))
        self.batches.clear()

    def taken(self) -> float:
        """ENBG, the mean of the epochs since it was last asked for; 0 without any."""
        mean = math.fsum(self.epochs) / len(self.epochs) if self.epochs else 0.0
        self.epochs.clear()
        return mean
