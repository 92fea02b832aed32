"""Stochastic rounding.

Gupta et al., "Deep Learning with Limited Numerical Precision", arXiv 1502.02551, section 2.1: a
value between two levels goes to either with a probability that makes the expectation exact,

    v = clip(x/s - o, q_min, q_max);   q = floor(v + u),  u ~ U[0, 1);   E[s (q + o)] = s (v + o)

so that E[x_q] = x for every x inside the range. The gradient is 1 inside the range and 0 outside.
Ranges are the data's (min-max), so that nothing is clipped and the whole tensor is unbiased:
weights symmetric per output channel, activations affine per layer.

The noise comes from a generator of the quantizer's own. While training each forward pass takes new
noise; in eval mode the generator starts over at each pass, so that equal inputs give equal outputs.
`Stochastic.codes` are those of the next forward pass and use up no noise.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from frameworks.core.quantizers.base import Codes, Quantizer, Scheme
from frameworks.core.quantizers.uniform import MinMax, UniformQuantizer
from frameworks.core.randomness import derive
from frameworks.core.registry import register_scheme


class _Inside(torch.autograd.Function):
    """A value with gradient 1 where the input is inside the range."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, low: Tensor, high: Tensor) -> Tensor:
        ctx.save_for_backward((x >= low) & (x <= high))
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (inside,) = ctx.saved_tensors
        return grads[0] * inside, None, None, None


class Stochastic(Quantizer):
    """A uniform grid with stochastic rounding; nothing is learned. Starts in eval mode.

    Args:
        grid: step and limits.
        seed: of the quantizer's own noise.
    """

    def __init__(self, grid: UniformQuantizer, seed: int) -> None:
        super().__init__()
        self.grid = grid
        self.seed = seed
        self.generator = torch.Generator().manual_seed(seed)
        self.eval()

    def learn_range(self, learn: bool = True) -> None:
        """Nothing: the range is the data's."""

    def forward(self, x: Tensor) -> Tensor:
        codes = self._draw(x.detach())
        low, high = (codes.scale * (q + codes.offset) for q in (self.grid.q_min, self.grid.q_max))
        out: Tensor = _Inside.apply(x, codes.dequantize(), low, high)
        return out

    @torch.no_grad()
    def codes(self, x: Tensor) -> Codes:
        state = self.generator.get_state()
        codes = self._draw(x)
        self.generator.set_state(state)
        return codes

    @torch.no_grad()
    def _draw(self, x: Tensor) -> Codes:
        if not self.training:
            self.generator.manual_seed(self.seed)
        grid = self.grid
        noise = torch.rand(x.shape, generator=self.generator, dtype=x.dtype).to(x.device)
        v = (x / grid.step - grid.offset).clamp_(grid.q_min, grid.q_max)
        # v + u may round up to the next integer at the upper end.
        code = v.add_(noise).floor_().clamp_(grid.q_min, grid.q_max)
        return Codes(code, grid.step.detach(), grid.offset)


@register_scheme
class StochasticRounding(Scheme):
    """Min-max ranges with stochastic rounding.

    Args:
        seed: of the noise.
    """

    name: ClassVar[str] = "stochastic"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._ranges = MinMax()

    def weight_quantizer(self, weight: Tensor, bits: int) -> Quantizer:
        return self._stochastic(self._ranges.weight_quantizer(weight, bits), "weight")

    def activation_quantizer(self, sample: Tensor, bits: int) -> Quantizer:
        return self._stochastic(self._ranges.activation_quantizer(sample, bits), "activation")

    def _stochastic(self, grid: Quantizer, kind: str) -> Stochastic:
        assert isinstance(grid, UniformQuantizer)
        # The step tells layers apart, so that they do not share their noise.
        step = f"{float(grid.step.sum()):.9g}"
        return Stochastic(grid, derive(self.seed, "stochastic", kind, step))
