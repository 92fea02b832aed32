"""ADQ's activations: thresholds of any distance, levels of equal distance.

ADQ (Jia et al., arXiv 2510.19760) takes them from N2UQ (Liu et al., "Nonuniform-to-Uniform
Quantization", arXiv 2111.14826): with u = g_in x, n = 2^b - 1 learned widths a_i > 0 from a learned
start on, and the distance d = 2 / n of the levels,

    e_i = start + a_1 + .. + a_i,    T_i = e_i - a_i / 2,
    x_q = g_out d (#{i : u >= T_i} - z).

The gradient (N2UQ's generalised straight-through estimator) is that of the line through the edges:
d / a_i per u within (e_{i-1}, e_i], nothing outside,

    f(u) = d (i - 1 + (u - e_{i-1}) / a_i),

with its own derivatives for start and widths; that for g_out is of the quantized value. Constants
are those of N2UQ's code: widths start at d and stay above 0.001 (half of d where that is less),
start at 0, both scales at 1. There a network learns to live in [0, 2]. A pretrained one does not:
scales start such that thresholds and levels are the affine grid of least squared error on the
calibration sample, whose zero point z (0 for what is never negative) moves the start to -z d.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from frameworks.core.quantizers.base import Codes, Quantizer, straight_through

REACH = 2.0
"""What all levels span before they are scaled."""
NARROWEST = 1e-3


class Thresholds(Quantizer):
    """Learned thresholds for a whole tensor, uniform levels.

    Args:
        step: distance of the levels, a positive scalar; the thresholds' too at the start.
        zero_point: z, how many levels are below zero.
        bits: b.
    """

    widths: Tensor
    start: Tensor
    scale_in: Tensor
    scale_out: Tensor

    def __init__(self, step: Tensor, zero_point: int, bits: int) -> None:
        super().__init__()
        count: int = 2**bits - 1
        self.distance, self.zero_point = REACH / count, zero_point
        step = step.detach().view(())
        at = {
            "widths": torch.full((count,), self.distance).to(step),
            "start": torch.full_like(step, -zero_point * self.distance),
            "scale_in": self.distance / step,
            "scale_out": step / self.distance,
        }
        for name, value in at.items():
            self.register_parameter(name, nn.Parameter(value, requires_grad=False))

    def places(self) -> tuple[Tensor, Tensor, Tensor]:
        """Widths ``[n]``, edges ``[n + 1]`` and thresholds ``[n]`` in force, all of u."""
        narrowest = min(NARROWEST, self.distance / 2)
        widths = self.widths.clamp_min(narrowest)
        # In double precision, as the edges of 16 bits are a sum of 65,535 widths.
        ends = self.start.double() + widths.double().cumsum(0)
        edges = torch.cat([self.start.double().view(1), ends])
        return widths, edges.to(widths), (ends - widths.double() / 2).to(widths)

    def forward(self, x: Tensor) -> Tensor:
        codes = self.codes(x)
        value = codes.dequantize()
        learned = x.requires_grad or self.widths.requires_grad
        if not (torch.is_grad_enabled() and learned):
            return value
        hard = self.distance * (codes.code + codes.offset)
        level = straight_through(self.line(x * self.scale_in), hard)
        return straight_through(level * self.scale_out, value)

    def line(self, u: Tensor) -> Tensor:
        """What the gradient is of: f(u), less the zero point."""
        widths, edges, _ = self.places()
        last = len(widths) - 1
        cell = torch.bucketize(u.detach().contiguous(), edges[1:].detach()).clamp_max(last)
        inside = cell + (u - edges[cell]) / widths[cell]
        found = torch.where(u > edges[0], inside, torch.zeros_like(u))
        found = torch.where(u > edges[-1], torch.full_like(u, last + 1.0), found)
        return self.distance * (found - self.zero_point)

    @torch.no_grad()
    def codes(self, x: Tensor) -> Codes:
        *_, thresholds = self.places()
        passed = torch.bucketize((x * self.scale_in).contiguous(), thresholds, right=True)
        offset = x.new_tensor(-float(self.zero_point))
        return Codes(passed.to(x.dtype), self.distance * self.scale_out, offset)
