"""Weights as bit planes behind sigmoids that grow steep.

CSQ (Xiao et al., arXiv 2212.02770). Every bit is a sigmoid of a trained logit, positive and
negative ones apart, and so is whether a layer has a plane of bits at all (bi-level continuous
sparsification). With the common temperature T,

    W = s sum_b (sigmoid(T p_b) - sigmoid(T n_b)) sigmoid(T M_b) 2^b / (2^n - 1),

p_b and n_b one number a weight, M_b one a layer. Nothing is rounded, so that all gradients are
those of the formula, such as dW/dp_b = s m_b 2^b / (2^n - 1) T sigmoid'(T p_b). As T grows, the
sigmoids become steps and W a sum of bits; `ContinuousPlanes` is that sum, 1[p > 0], 1[n > 0] and
1[M > 0], wherever it is not in training mode.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from frameworks.core.quantizers.base import Codes, Quantizer
from frameworks.core.quantizers.bitplanes import BitPlanes

HALF = 0.5
"""First logits are the bits less this: those of the release, 0 and 1, moved to either side of 0.

At 0 a sigmoid is one half at every temperature, and a bit that is never trained would be none.
"""
TINY = 1e-12


class ContinuousPlanes(Quantizer):
    """A layer's weight as relaxed bit planes; it stands in the place of its weight quantizer.

    The float weight that comes in is not read: the planes hold the weight.

    Args:
        start: the bits to start from, with their scale and the mask of a pruned weight.
        masks: logits M ``[n]`` of the planes, the least significant first; layers that are tied
            share them.
    """

    entries: Tensor | None

    def __init__(self, start: BitPlanes, masks: nn.Parameter) -> None:
        super().__init__()
        bits = torch.stack([start.positive.detach(), start.negative.detach()])
        self.logits = nn.Parameter(bits - HALF)
        self.scale = nn.Parameter(start.scale.detach().clone())
        self.masks = masks
        self.register_buffer("entries", start.entries, persistent=False)
        self.temperature = 1.0
        self.settled = False
        self.cut = 0.0
        self._keep_norm(self._shape(bits, torch.ones_like(masks)).norm())

    @property
    def count(self) -> int:
        """Number of planes n, kept or not."""
        return self.logits.shape[1]

    def gates(self, logits: Tensor) -> Tensor:
        """``sigmoid(T logits)``; a step where T is infinite."""
        if math.isinf(self.temperature):
            return logits.gt(0).to(logits.dtype)
        return (self.temperature * logits).sigmoid()

    def mask(self) -> Tensor:
        """``m`` ``[n]``: 0 or 1 where the masks are settled."""
        if self.settled:
            return (self.masks.detach() > self.cut).to(self.masks.dtype)
        return self.gates(self.masks)

    def _shape(self, bits: Tensor, mask: Tensor) -> Tensor:
        """``sum_b (p_b - n_b) m_b 2^b / (2^n - 1)`` of bits ``[2, n, ...]`` and ``m`` ``[n]``."""
        powers = 2.0 ** torch.arange(self.count, dtype=mask.dtype, device=mask.device)
        signed = torch.cat([mask * powers, -mask * powers]) / (2**self.count - 1)
        total: Tensor = signed @ bits.flatten(0, 1).flatten(1)
        total = total.view(bits.shape[2:])
        return total if self.entries is None else total * self.entries

    def relaxed(self) -> Tensor:
        """The weight that is trained, in units of the scale."""
        return self._shape(self.gates(self.logits), self.mask())

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.relaxed() if self.training else self.codes(x).dequantize()

    @torch.no_grad()
    def grow(self, temperature: float) -> None:
        """Go on at another temperature; the scale changes so that the weight keeps its norm."""
        before = self.relaxed().norm()
        self.temperature = temperature
        self._keep_norm(before)

    @torch.no_grad()
    def settle(self, cut: float) -> None:
        """Masks are 0 or 1 from now on, by whether their logits exceed ``cut``; the norm stays."""
        before = self.relaxed().norm()
        self.settled, self.cut = True, cut
        self._keep_norm(before)

    @torch.no_grad()
    def _keep_norm(self, before: Tensor) -> None:
        after = self.relaxed().norm()
        if float(before) > TINY and float(after) > TINY:
            self.scale.mul_(before / after)

    @torch.no_grad()
    def kept(self) -> list[bool]:
        """Whether each plane is kept, the least significant first: its logit is above ``cut``."""
        return (self.masks > self.cut).tolist()

    @property
    def bits(self) -> int:
        """Bits of the weight with its sign: `span` planes and one; 0 if no plane is kept."""
        first, last = span(self.kept())
        return last - first + 1 if last > first else 0

    @torch.no_grad()
    def codes(self, x: Tensor) -> Codes:
        """The bits as integers, in units of the least significant plane that is kept.

        Where the temperature is finite, the step gives them the norm of the relaxed weight.
        """
        kept = self.kept()
        first, _ = span(kept)
        bits = self.logits.gt(0).to(x.dtype)
        hard = self._shape(bits, bits.new_tensor(kept)) * ((2**self.count - 1) / 2**first)
        step = self.scale.detach() * self.relaxed().norm() / hard.norm().clamp_min(TINY)
        return Codes(hard.round(), step, torch.zeros_like(step))


def span(kept: list[bool]) -> tuple[int, int]:
    """From the lowest kept plane to behind the highest, ``(0, 0)`` without any.

    An integer that has these planes needs as many, also where one in between is not kept.
    """
    at = [plane for plane, keep in enumerate(kept) if keep]
    return (at[0], at[-1] + 1) if at else (0, 0)
