"""Scale-Clip: uniform quantizers whose clipping point is a multiple of the mean size.

Yu, Wen, Cheng, Sun, Han and Shi, "GDRQ: Group-based Distribution Reshaping for Quantization", arXiv
1908.01477; the distribution reshaping of BP-NAS (Yu et al., arXiv 2007.10026) by the same author:

    T = k mean|x|,   x <- clip(x, -T, T),   x_q = round(x / s) s,
    s = T / (2^(b-1) - 1) for weights,   s = T / (2^b - 1) for activations.

Values that are uniform on [-T, T] have the mean size T / 2, so that clipping at k near 2 again and
again makes weights uniform; far smaller k shrink them to 0, far larger ones leave them as they
are. Activations depend on the data and take a larger k with a running mean. The two numbers are
those that readers of the paper give (2) and a choice of ours (4); see BP-NAS's card.

The mean counts as a constant. The gradient is straight through inside the clip and 0 outside. Of
one bit the two levels are -mean|x| and mean|x|. Inputs with negative values have the steps of
weights. The zeros of a pruned weight count in the quantizer's mean, but not where weights are
clipped in place.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from frameworks.core.quantizers.base import Codes, Grid, Quantizer, Scheme
from frameworks.core.quantizers.grid import fake_quantize, on_grid
from frameworks.core.quantizers.pact import pact_grid
from frameworks.core.quantizers.uniform import SMALLEST_STEP
from frameworks.core.registry import register_scheme

WEIGHT_MULTIPLE = 2.0
ACTIVATION_MULTIPLE = 4.0
MOMENTUM = 0.1
"""The share of a batch in the running mean of activations."""


def clipping_point(x: Tensor, multiple: float) -> Tensor:
    """``T = k mean|x|``, a scalar without gradient."""
    return (multiple * x.detach().abs().mean()).clamp_min(SMALLEST_STEP)


@torch.no_grad()
def scale_clip_(x: Tensor, multiple: float = WEIGHT_MULTIPLE, mask: Tensor | None = None) -> Tensor:
    """Clip a tensor in place at ``k mean|x|`` on either side; the tensor.

    Of a pruned tensor the mean is that of the entries that its mask keeps: with the zeros it would
    be smaller, and clipping again and again would shrink the others to 0.
    """
    kept = x if mask is None else x[mask.bool()]
    if not kept.numel():
        return x
    reach = clipping_point(kept, multiple)
    return torch.minimum(torch.maximum(x, -reach, out=x), reach, out=x)


class _ScaleClip(Quantizer):
    """What weights and activations share; ``reach(x)`` is the clipping point."""

    def __init__(self, bits: int, signed: bool, multiple: float) -> None:
        super().__init__()
        self.bits, self.signed = bits, signed
        self.multiple = 1.0 if signed and bits == 1 else multiple
        self._grid = pact_grid(bits, signed)

    def reach(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        low, high, offset, steps = self._grid
        step = self.reach(x) / steps
        if torch.is_grad_enabled() and x.requires_grad:
            return fake_quantize(x, step, low, high, offset, gradient_scale=1.0)
        return on_grid(x, step, low, high, offset)

    @torch.no_grad()
    def codes(self, x: Tensor) -> Codes:
        low, high, offset, steps = self._grid
        step = self.reach(x) / steps
        return Codes((x / step - offset).clamp_(low, high).round_(), step, step.new_tensor(offset))


class ScaleClipWeight(_ScaleClip):
    """Weights clipped at a multiple of their present mean size.

    Args:
        bits: bit width.
    """

    def __init__(self, bits: int) -> None:
        super().__init__(bits, True, WEIGHT_MULTIPLE)

    def reach(self, x: Tensor) -> Tensor:
        return clipping_point(x, self.multiple)


class ScaleClipActivation(_ScaleClip):
    """Activations clipped at a multiple of the running mean of their size.

    Args:
        mean: of the calibration sample's size, a scalar; training moves it.
        bits: bit width.
        signed: clip on both sides.
    """

    mean: Tensor

    def __init__(self, mean: Tensor, bits: int, signed: bool) -> None:
        super().__init__(bits, signed, ACTIVATION_MULTIPLE)
        self.register_buffer("mean", mean.detach().clone().view(()))

    def reach(self, x: Tensor) -> Tensor:
        return (self.multiple * self.mean).clamp_min(SMALLEST_STEP)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():
            # Out of place: a backward pass may still need the step that the old mean gave.
            self.mean = torch.lerp(self.mean, x.detach().abs().mean(), MOMENTUM)
        return super().forward(x)

    def uniform_grid(self) -> Grid:
        low, high, offset, steps = self._grid
        return Grid(float(self.reach(self.mean) / steps), int(low), int(high), offset)


@register_scheme
class ScaleClip(Scheme):
    """Weights and activations clipped at multiples of their mean size, per layer."""

    name: ClassVar[str] = "scale_clip"

    def weight_quantizer(self, weight: Tensor, bits: int) -> Quantizer:
        return ScaleClipWeight(bits)

    def activation_quantizer(self, sample: Tensor, bits: int) -> Quantizer:
        sample = sample.detach()
        return ScaleClipActivation(sample.abs().mean(), bits, bool(sample.min() < 0))
