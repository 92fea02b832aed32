"""PACT activations: a clipping value that is learned.

Choi et al., "PACT: Parameterized Clipping Activation for Quantized Neural Networks", arXiv
1805.06085, section 3, equations 1 to 3:

    y   = 0.5 (|x| - |x - alpha| + alpha) = clip(x, 0, alpha)
    y_q = round(y (2^b - 1) / alpha) alpha / (2^b - 1)
    dy_q/dalpha = 1 where x >= alpha, else 0;   dy_q/dx = 1 where 0 <= x < alpha, else 0

Inputs with negative values (a network's images, attention) use the clip on both sides,
y = clip(x, -alpha, alpha), as later users of PACT do: 2 (2^(b-1) - 1) + 1 levels of step
alpha / (2^(b-1) - 1), for one bit the two levels -alpha and alpha; dy_q/dalpha is then -1 where
x <= -alpha.

PACT starts alpha at a fixed value (10) and lets L2 decay shrink it over a full training. Here alpha
starts at the clip of least squared error on the calibration sample, so that it also serves
pretrained networks and short or no training.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from frameworks.core.quantizers.base import Codes, Grid, Quantizer
from frameworks.core.quantizers.grid import on_grid
from frameworks.core.quantizers.uniform import SMALLEST_STEP, mse_step


def pact_grid(bits: int, signed: bool) -> tuple[float, float, float, float]:
    """Smallest and largest code, offset, and steps in alpha."""
    if not signed:
        return 0.0, 2.0**bits - 1, 0.0, 2.0**bits - 1
    if bits == 1:
        return -1.0, 0.0, 0.5, 0.5
    reach = 2.0 ** (bits - 1) - 1
    return -reach, reach, 0.0, reach


class _Clipped(torch.autograd.Function):
    """The quantized clip with PACT's gradients for x and alpha."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, alpha: Tensor, grid: tuple[float, float, float, float]
    ) -> Tensor:
        ctx.save_for_backward(x, alpha)
        ctx.signed = grid[0] < 0
        return on_grid(x, alpha / grid[3], *grid[:3])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (x, alpha) = grads, ctx.saved_tensors
        above = x >= alpha
        below = x <= -alpha if ctx.signed else x < 0
        for_x = torch.where(above | below, 0, grad)
        for_alpha = None
        if ctx.needs_input_grad[1]:
            for_alpha = (grad * above).sum()
            if ctx.signed:
                for_alpha = for_alpha - (grad * below).sum()
        return for_x, for_alpha, None


class Pact(Quantizer):
    """Clips at a learned alpha and rounds to b bits (see the module's formulas).

    Args:
        alpha: positive clipping value, a scalar.
        bits: bit width.
        signed: clip on both sides.
    """

    alpha: Tensor

    def __init__(self, alpha: Tensor, bits: int, signed: bool = False) -> None:
        super().__init__()
        self.alpha = nn.Parameter(alpha.detach().clone().view(()), requires_grad=False)
        self.bits, self.signed = bits, signed
        self._grid = pact_grid(bits, signed)

    def forward(self, x: Tensor) -> Tensor:
        alpha = self.alpha.clamp_min(SMALLEST_STEP)
        out: Tensor = _Clipped.apply(x, alpha, self._grid)
        return out

    def codes(self, x: Tensor) -> Codes:
        low, high, offset, steps = self._grid
        step = self.alpha.detach().clamp_min(SMALLEST_STEP) / steps
        code = (x.detach() / step - offset).clamp_(low, high).round_()
        return Codes(code, step, step.new_tensor(offset))

    def uniform_grid(self) -> Grid:
        low, high, offset, steps = self._grid
        step = self.alpha.detach().clamp_min(SMALLEST_STEP) / steps
        return Grid(float(step), int(low), int(high), offset)


def best_clip(sample: Tensor, bits: int, signed: bool) -> Tensor:
    """The alpha of least squared error on a sample ``[n]``; a scalar."""
    low, high, offset, steps = pact_grid(bits, signed)
    start = (sample.detach().abs().max() / steps).clamp_min(SMALLEST_STEP)
    step = mse_step(sample.detach()[None], start.view(1, 1), int(low), int(high), offset)
    return step.view(()) * steps


def calibrated_pact(sample: Tensor, bits: int) -> Pact:
    """PACT for activations like these: two-sided if some are negative."""
    signed = bool(sample.min() < 0)
    return Pact(best_clip(sample, bits, signed), bits, signed)
