"""Uniform quantizers: symmetric per output channel for weights, affine per tensor for activations.

All share one integer grid, value = s * (clip(round(x / s - o), q_min, q_max) + o):

- b-bit symmetric weights have q_min = -2^(b-1), q_max = 2^(b-1) - 1, o = 0; one bit has the two
  levels -s/2 and s/2 (q in {-1, 0}, o = 1/2), as no symmetric grid with a zero fits in one bit.
- b-bit affine activations with zero point z have q_min = -z, q_max = 2^b - 1 - z, o = 0, where
  z = 0 for activations that are never negative.

The step s comes from the range of the data (min-max, percentile), or minimises the squared error
(MSE). It is trained with the gradient of LSQ (Esser et al., "Learned Step Size Quantization",
arXiv 1902.08153, equations 3 and 4), scaled by g = 1 / sqrt(n * q_max).
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from hashlib import blake2b
from typing import ClassVar

import torch
from torch import Tensor, nn

from frameworks.core.quantizers.base import Codes, Grid, Quantizer, Scheme
from frameworks.core.quantizers.grid import fake_quantize, on_grid
from frameworks.core.registry import register_scheme

SMALLEST_STEP = 1e-8
MSE_STEPS = 64
KEPT = 4096
"""Steps of so many tensors are kept by `mse_step`."""
_KNOWN: dict[tuple[Hashable, ...], Tensor] = {}


class UniformQuantizer(Quantizer):
    """A uniform grid with a step per tensor or per channel (see the module's formulas).

    Args:
        step: positive step, a scalar or broadcastable to the tensor, ``[C, 1, ...]`` per channel.
        q_min: smallest code.
        q_max: largest code.
        offset: shift of the grid in steps.
        learned: whether `learn_range` makes the step trainable.
    """

    step: Tensor
    q_min: Tensor
    q_max: Tensor
    offset: Tensor

    def __init__(
        self,
        step: Tensor,
        q_min: int,
        q_max: int,
        offset: float = 0.0,
        learned: bool = True,
    ) -> None:
        super().__init__()
        self.step = nn.Parameter(step.detach().clone(), requires_grad=False)
        for name, value in (("q_min", q_min), ("q_max", q_max), ("offset", offset)):
            self.register_buffer(name, torch.tensor(float(value), device=step.device))
        # The same numbers as Python floats: kernels with scalar bounds are the fast ones.
        self._grid = (float(q_min), float(q_max), float(offset))
        self.learned = learned

    def learn_range(self, learn: bool = True) -> None:
        """Let the step be trained, or not; a grid that is not learned stays as it is."""
        self.step.requires_grad_(learn and self.learned)

    def forward(self, x: Tensor) -> Tensor:
        # Training may push a step through zero, where the grid is undefined: hence a smallest step.
        step = self.step
        if not (torch.is_grad_enabled() and (x.requires_grad or step.requires_grad)):
            return on_grid(x, step, *self._grid, SMALLEST_STEP)
        elements = x.numel() / step.numel()
        gradient_scale = 1 / math.sqrt(elements * max(self._grid[1], 1.0))
        return fake_quantize(x, step, *self._grid, gradient_scale, SMALLEST_STEP)

    def codes(self, x: Tensor) -> Codes:
        step = self.step.detach().clamp_min(SMALLEST_STEP)
        low, high, offset = self._grid
        code = torch.clamp(x.detach() / step - offset, low, high).round()
        return Codes(code, step, self.offset)

    def code_range(self) -> tuple[int, int]:
        return int(self._grid[0]), int(self._grid[1])

    def uniform_grid(self) -> Grid | None:
        if self.step.numel() > 1:
            return None
        low, high, offset = self._grid
        step = self.step.detach().clamp_min(SMALLEST_STEP)
        return Grid(float(step), int(low), int(high), offset)


def symmetric_grid(bits: int) -> tuple[int, int, float]:
    """``q_min, q_max, offset`` of b-bit symmetric weights."""
    return (-1, 0, 0.5) if bits == 1 else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, 0.0)


def per_channel(values: Tensor, like: Tensor) -> Tensor:
    """Reshape ``[C]`` so that it broadcasts against a tensor ``[C, ...]``."""
    return values.view(-1, *(1,) * (like.dim() - 1))


def _error(rows: Tensor, step: Tensor, q_min: float, q_max: float, offset: float) -> Tensor:
    """Squared error of each row ``[C, n]`` under steps ``[C, 1]``; a small fixed-memory kernel."""
    codes = torch.round(rows / step - offset).clamp_(q_min, q_max).add_(offset).mul_(step)
    return codes.sub_(rows).square_().sum(1)


def mse_step(rows: Tensor, start: Tensor, q_min: int, q_max: int, offset: float = 0.0) -> Tensor:
    """The step of each row that minimises its squared error, by a scan and one finer scan.

    A suite asks for the same weights and images again and again, so that what was found for equal
    data is kept (on the CPU: a digest reads them once, the scans eighty times).

    Args:
        rows: data, ``[C, n]``.
        start: step at which nothing is clipped, ``[C, 1]``; steps from 1/MSE_STEPS of it up to
            1.1 times it are tried.
    """
    if rows.device.type != "cpu":
        return _scanned(rows, start, q_min, q_max, offset)
    # The layout decides the order of sums, and so the last bit.
    content = (rows.shape, rows.stride(), rows.dtype, start.dtype, _digest(rows), _digest(start))
    key = (*content, q_min, q_max, offset, torch.get_num_threads())
    if (found := _KNOWN.get(key)) is None:
        if len(_KNOWN) >= KEPT:
            _KNOWN.clear()
        found = _KNOWN[key] = _scanned(rows, start, q_min, q_max, offset)
    return found.clone()


def _digest(values: Tensor) -> bytes:
    plain = values.detach().contiguous().view(-1).view(torch.uint8).numpy()
    return blake2b(plain, digest_size=16).digest()


def _scanned(rows: Tensor, start: Tensor, q_min: int, q_max: int, offset: float) -> Tensor:
    best = start.clone()
    least = _error(rows, start, q_min, q_max, offset)
    coarse = torch.linspace(1 / MSE_STEPS, 1.1, MSE_STEPS, device=rows.device)
    spacing = float(coarse[1] - coarse[0])
    factor = torch.ones_like(start)
    fine = torch.linspace(-spacing, spacing, 17, device=rows.device)
    for shares in (coarse, fine):
        base = torch.zeros_like(factor) if shares is coarse else factor.clone()
        for share in shares:
            trial = (base + share).clamp_min(1e-3)
            step = start * trial
            error = _error(rows, step, q_min, q_max, offset)
            better = error < least
            least = torch.where(better, error, least)
            factor = torch.where(better[:, None], trial, factor)
            best = torch.where(better[:, None], step, best)
    return best


class UniformScheme(Scheme):
    """Symmetric weights per output channel, affine activations per tensor.

    The subclasses differ in how the range is chosen.
    """

    per_output_channel: ClassVar[bool] = True

    def _weight_step(self, rows: Tensor, bits: int) -> Tensor:
        """Step of each row ``[C, n]`` as ``[C, 1]``."""
        raise NotImplementedError

    def _activation_range(self, sample: Tensor, bits: int) -> tuple[float, float]:
        """Lower and upper end of the quantized range; the lower end is at most 0."""
        raise NotImplementedError

    def weight_quantizer(self, weight: Tensor, bits: int) -> Quantizer:
        rows = weight.detach().reshape(len(weight) if self.per_output_channel else 1, -1)
        step = self._weight_step(rows, bits).clamp_min(SMALLEST_STEP)
        shaped = per_channel(step.flatten(), weight) if self.per_output_channel else step.view(())
        return UniformQuantizer(shaped, *symmetric_grid(bits))

    def activation_quantizer(self, sample: Tensor, bits: int) -> Quantizer:
        low, high = self._activation_range(sample.detach(), bits)
        return affine_quantizer(low, high, bits, sample)


def affine_quantizer(low: float, high: float, bits: int, like: Tensor) -> UniformQuantizer:
    """The b-bit affine grid over ``[low, high]``, with 0 exactly on the grid."""
    levels = 2**bits - 1
    step = max((high - low) / levels, SMALLEST_STEP)
    zero_point = min(max(round(-low / step), 0), levels)
    return UniformQuantizer(like.new_tensor(step), -zero_point, levels - zero_point)


@register_scheme
class MinMax(UniformScheme):
    """The range of the data: s = max|w| / (2^(b-1) - 1), and [min(x, 0), max(x)]."""

    name = "minmax"

    def _weight_step(self, rows: Tensor, bits: int) -> Tensor:
        reach = rows.abs().amax(1, keepdim=True)
        # Two levels sit at -s/2 and s/2: their mean absolute value is the range of one bit.
        return 2 * reach if bits == 1 else reach / (2 ** (bits - 1) - 1)

    def _activation_range(self, sample: Tensor, bits: int) -> tuple[float, float]:
        return min(float(sample.min()), 0.0), max(float(sample.max()), 0.0)


@register_scheme
class Percentile(UniformScheme):
    """As min-max, with the most extreme 0.1 % of the entries clipped on either side."""

    name = "percentile"
    share: ClassVar[float] = 0.999

    def _weight_step(self, rows: Tensor, bits: int) -> Tensor:
        reach = torch.quantile(rows.abs(), self.share, dim=1, keepdim=True)
        return 2 * reach if bits == 1 else reach / (2 ** (bits - 1) - 1)

    def _activation_range(self, sample: Tensor, bits: int) -> tuple[float, float]:
        ends = torch.quantile(sample, sample.new_tensor([1 - self.share, self.share]))
        return min(float(ends[0]), 0.0), max(float(ends[1]), 0.0)


@register_scheme
class Mse(UniformScheme):
    """The range of least squared error; the suite's common scheme.

    Weights: a scan of the step of each channel. Activations: a scan of the upper end and, where
    the input has negative values, of the lower end in proportion.
    """

    name = "mse"

    def _weight_step(self, rows: Tensor, bits: int) -> Tensor:
        q_min, q_max, offset = symmetric_grid(bits)
        reach = rows.abs().amax(1, keepdim=True).clamp_min(SMALLEST_STEP)
        start = 2 * reach if bits == 1 else reach / max(2 ** (bits - 1) - 1, 1)
        return mse_step(rows, start, q_min, q_max, offset)

    def _activation_range(self, sample: Tensor, bits: int) -> tuple[float, float]:
        low, high = min(float(sample.min()), 0.0), max(float(sample.max()), 0.0)
        if high - low < SMALLEST_STEP:
            return low, high
        levels = 2**bits - 1
        start = (high - low) / levels
        zero_point = round(-low / start)
        step = mse_step(
            sample[None], sample.new_tensor([[start]]), -zero_point, levels - zero_point
        )
        return -zero_point * float(step), (levels - zero_point) * float(step)
