"""Quantization at fractional bits.

Yang and Jin, "FracBits", arXiv 2007.02017:

    q_lambda(x) = (1 - f) q_low(x) + f q_high(x),     dq_lambda/dlambda = q_high(x) - q_low(x)

with the candidates on either side of lambda and f the share of the way from the lower to the higher
(lambda - floor(lambda) between integers). Lambda is one number a tensor, or one for each output
channel of a weight. What q_b is belongs to the quantization scheme; clips that are learned are one
for all bits (`frameworks.gradient.fracbits.quantizer.CalibratedClip`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from frameworks.core.problem import Problem
from frameworks.core.quantizers.base import Codes, Quantizer
from frameworks.core.quantizers.composite import Composite
from frameworks.core.quantizers.uniform import per_channel
from frameworks.core.supernets.fractional import hats
from frameworks.core.supernets.placed import PlacedNet, Spot
from frameworks.gradient.fracbits.quantizer import CalibratedClip


class FractionalQuantizer(Quantizer):
    """The interpolation between a tensor's quantizers on either side of its bits.

    Args:
        candidates: bits, ascending, at least two.
        quantizers: one for each candidate.
        bits: lambda, a scalar or ``[C]``; it may belong to several quantizers.
        first: position of the candidate whose learned clip the others take over.
    """

    def __init__(
        self,
        candidates: Sequence[int],
        quantizers: Sequence[Quantizer],
        bits: nn.Parameter,
        first: int = 0,
    ) -> None:
        super().__init__()
        clips = [q for q in quantizers if isinstance(q, CalibratedClip)]
        if len(clips) == len(quantizers):
            for clip in clips:
                clip.alpha = clips[first].alpha
        self.clip = clips[first] if clips else None
        self.candidates = tuple(candidates)
        self.bits = bits
        self.levels = nn.ModuleList(quantizers)
        self.pairs = nn.ModuleList(Composite(pair) for pair in itertools.pairwise(quantizers))

    def forward(self, x: Tensor) -> Tensor:
        shares = hats(self.candidates, self.bits)
        totals = shares.detach().reshape(-1, len(self.levels)).sum(0).tolist()
        used = [k for k, total in enumerate(totals) if total]
        low = min(used[0], len(self.pairs) - 1)
        if shares.dim() == 1:
            out: Tensor = self.pairs[low](x, shares[low : low + 2])
            return out
        # A share of 0 has a slope, too: that of the candidate above a channel's.
        reach = range(low, min(used[-1] + 2, len(self.levels)))
        parts = [per_channel(shares[:, k], x) * self.levels[k](x) for k in reach]
        return torch.stack(parts).sum(0)

    def codes(self, x: Tensor) -> Codes:
        raise ValueError("at fractional bits there are no integer codes")


def interpolated(problem: Problem, bits: Sequence[nn.Parameter], spot: Spot) -> Quantizer:
    """A tensor's quantizer at the bits of its choice, between the protocol's of its candidates."""
    quantizers = [problem.quantizer(spot.layer.name, spot.kind, b) for b in spot.bits]
    nearest = int(hats(spot.bits, bits[spot.row].detach().mean()).argmax())
    return FractionalQuantizer(spot.bits, quantizers, bits[spot.row], nearest)


def learned_clips(net: PlacedNet) -> dict[str, float]:
    """The clips of the searched layers' inputs, of quantizers that have one for all bits."""
    found = {spot.layer.name: quantizer for spot, quantizer in net.placed("act")}
    fractional = {n: q for n, q in found.items() if isinstance(q, FractionalQuantizer)}
    return {n: float(q.clip.alpha.detach()) for n, q in fractional.items() if q.clip}
