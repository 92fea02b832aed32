"""Uniform quantizers of learned step size, range and bits: two of the three decide the third.

Uhlich et al., "Mixed Precision DNNs", arXiv 1905.11452, with the constants of the released code
(sony/ai-research-code, mixed-precision-dnns):

    Q(x) = sign(x) d round(|x| / d)  for |x| <= q_max,  else  sign(x) q_max,     q_max = n d,
    n = 2^(b-1) - 1 for signed data,   n = 2^b - 1 and no negative values for others.

With the straight-through gradient (1 inside, 0 outside for x) the three parametrizations have

    (d, q_max):  dQ/dd = (Q(x) - x) / d  inside, 0 outside;   dQ/dq_max = 0 inside, sign(x) outside
    (b, d):      dQ/dd = (Q(x) - x) / d,  sign(x) n;          dQ/db = 0,  sign(x) 2^(b-1) ln2 d
    (b, q_max):  dQ/dq_max = (Q(x) - x) / q_max,  sign(x);    dQ/db = -ln2 2^(b-1)/n (Q(x) - x),  0

so that only with the first all gradients are bounded, and no two of them are there at once. A
learned d stands for the nearest power of two (in the logarithm; straight-through, which brings a
factor d_q / d); of (d, q_max) the range is that of n = round(q_max / d_q) steps, and

    b = ceil(log2(n + 1)) + 1  signed (at least 2),    b = ceil(log2(n + 1))  else (at least 1),

whose rounding passes the gradient on. Learned bits are rounded as well.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from frameworks.core.quantizers.base import Codes, Grid, Quantizer, Scheme, straight_through
from frameworks.core.quantizers.grid import on_grid
from frameworks.core.quantizers.uniform import SMALLEST_STEP, UniformQuantizer
from frameworks.core.registry import register_scheme

FORMS = {
    "step_range": ("step", "reach"),
    "bits_step": ("bits", "step"),
    "bits_range": ("bits", "reach"),
}
"""The parametrizations and what each of them learns."""
SMALLEST = 2.0**-8
"""Of learned steps and ranges."""
LARGEST_STEP = 1.0
MOST_BITS = 8


def rounded(x: Tensor) -> Tensor:
    """To the nearest whole number, with the gradient of the identity."""
    return straight_through(x, torch.round(x))


def raised(x: Tensor) -> Tensor:
    """To the next whole number, with the gradient of the identity."""
    return straight_through(x, torch.ceil(x))


class _Bounded(torch.autograd.Function):
    """``Q(x)`` with its gradients for x, for d at constant q_max, and for q_max."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, top: Tensor, signed: bool) -> Tensor:
        count = float(top / step)
        levels = round(count) if math.isfinite(count) else 1  # of a search that diverges
        out = on_grid(x, step, -levels if signed else 0, levels)
        ctx.save_for_backward(x, step, top, out)
        ctx.signed = signed
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (x, step, top, out) = grads, ctx.saved_tensors
        above, below = x > top, x < (-top if ctx.signed else 0)
        inside = grad * ~(above | below)
        for_step = (inside * (out - x)).sum() / step
        for_top = (grad * above).sum()
        if ctx.signed:
            for_top = for_top - (grad * below).sum()
        return inside, for_step, for_top, None


class ParametricQuantizer(Quantizer):
    """A uniform grid in one of the three parametrizations (see the module's formulas).

    Args:
        step: d of the start, a positive scalar.
        bits: b of the start, at least 2 for signed data.
        signed: whether there are negative levels.
        form: one of `FORMS`.
        fixed: whether b stays as it is (with ``bits_range`` only).
    """

    step: Tensor
    reach: Tensor
    bits: Tensor

    def __init__(
        self, step: Tensor, bits: int, signed: bool, form: str = "step_range", fixed: bool = False
    ) -> None:
        super().__init__()
        self.signed, self.form = signed, form
        step = step.detach().view(())
        start = {"step": step, "reach": step * self._levels(bits), "bits": step.new_tensor(bits)}
        for name in FORMS[form]:
            if fixed and name == "bits":
                self.register_buffer(name, start[name])
            else:
                value = nn.Parameter(start[name].float().clone(), requires_grad=False)
                self.register_parameter(name, value)

    def _levels(self, bits: Tensor | float) -> Any:
        return 2 ** (bits - int(self.signed)) - 1

    def grid(self) -> tuple[Tensor, Tensor]:
        """``d`` and ``q_max`` as they are used, differentiable in what is learned."""
        if self.form == "bits_range":
            reach = self.reach.clamp_min(SMALLEST_STEP)
            return reach / self._levels(rounded(self.bits)), reach
        step = 2 ** rounded(torch.log2(self.step.clamp_min(SMALLEST_STEP)))
        if self.form == "bits_step":
            return step, step * self._levels(rounded(self.bits))
        whole = step * torch.round(self.reach / step).clamp_min(1)
        return step, straight_through(self.reach, whole)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _Bounded.apply(x, *self.grid(), self.signed)
        return out

    def needed(self) -> Tensor:
        """The bits b of the grid: a whole number, differentiable in what is learned."""
        if self.form != "step_range":
            return rounded(self.bits)
        step = 2 ** rounded(torch.log2(self.step.clamp_min(SMALLEST_STEP)))
        count = rounded(self.reach / step)
        bits = raised(torch.log2(count.clamp_min(0) + 1)) + int(self.signed)
        return bits.clamp_min(1 + int(self.signed))

    def bound_gradients(self) -> None:
        """Those of (d, q_max) to [-d, d], so that no step of training exceeds d times its rate."""
        if self.form == "step_range":
            d = self.step.detach()
            for value in (self.step, self.reach):
                if value.grad is not None:
                    value.grad.copy_(value.grad.clamp(-d, d))

    @torch.no_grad()
    def bound_values(self) -> None:
        """Steps in [2^-8, 1], ranges from 2^-8 to 127 or 255 and at least a step, bits up to 8."""
        most = float(self._levels(MOST_BITS))
        for name in FORMS[self.form]:
            value = getattr(self, name)
            if name == "bits":
                value.clamp_(1 + int(self.signed), MOST_BITS)
            else:
                value.clamp_(SMALLEST, LARGEST_STEP if name == "step" else most)
        if self.form == "step_range":
            step, _ = self.grid()
            self.reach.clamp_(max=most * step)
            self.reach.clamp_(min=self.step)

    @torch.no_grad()
    def uniform_grid(self) -> Grid:
        step, top = self.grid()
        levels = int(torch.round(top / step))
        return Grid(float(step), -levels if self.signed else 0, levels, 0.0)

    @torch.no_grad()
    def codes(self, x: Tensor) -> Codes:
        step, top = self.grid()
        levels = torch.round(top / step)
        low = -levels if self.signed else torch.zeros_like(levels)
        return Codes(torch.clamp(x / step, low, levels).round(), step, torch.zeros_like(step))


def first_step(data: Tensor, bits: int, signed: bool) -> Tensor:
    """The power of two next to max|data| / n: below it up to 4 bits, above it from 5 on."""
    levels = 2 ** (bits - int(signed)) - 1
    exponent = torch.log2(data.detach().abs().max().clamp_min(SMALLEST_STEP) / levels)
    return 2 ** (torch.floor(exponent) if bits <= 4 else torch.ceil(exponent))


@register_scheme
class MixedDNNScheme(Scheme):
    """(b, q_max) with fixed bits: the paper's quantizer of learned range, one a tensor.

    Signed data at one bit, which the paper does not have, have the two levels -d/2 and d/2.
    """

    name: ClassVar[str] = "mixed_dnn"

    def weight_quantizer(self, weight: Tensor, bits: int) -> Quantizer:
        return self._fixed(weight, bits, signed=True)

    def activation_quantizer(self, sample: Tensor, bits: int) -> Quantizer:
        return self._fixed(sample, bits, signed=bool(sample.min() < 0))

    @staticmethod
    def _fixed(data: Tensor, bits: int, signed: bool) -> Quantizer:
        if signed and bits == 1:
            return UniformQuantizer(2 * data.detach().abs().mean(), -1, 0, 0.5)
        step = first_step(data, bits, signed)
        return ParametricQuantizer(step, bits, signed, "bits_range", fixed=True)
