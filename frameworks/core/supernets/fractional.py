"""The cost of bits that are no integers yet: linear between neighbouring candidates.

Yang and Jin, "FracBits", arXiv 2007.02017: a layer with lambda_w weight and lambda_a activation
bits costs the interpolation of the four corners around (lambda_w, lambda_a) on the grid of
candidates, so that it is exact at candidates and differentiable between them. For BOPs between
neighbouring integers it is MACs * lambda_w * lambda_a. With the hat functions h of the candidates
c_1 < ... < c_K,

    h_k(lambda) = max(0, 1 - distance to c_k in units of the gap on that side),   sum_k h_k = 1,

it is h(lambda_w)^T T h(lambda_a) with T the layer's table of costs, which is the form of
`frameworks.core.supernets.relaxations.ExpectedCost`: the hats take the place of probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from frameworks.core.space import Space


def hats(candidates: Sequence[int], bits: Tensor) -> Tensor:
    """``h_k(bits)`` ``[..., K]``, differentiable in ``bits`` ``[...]``; constant outside the range.

    At a candidate the derivative is that of the interval above it (below it at the last one).
    """
    at = torch.tensor(candidates, dtype=bits.dtype, device=bits.device)
    # Not by clamp alone, which has no derivative at the first and the last candidate either.
    within = (bits >= at[0]) & (bits <= at[-1])
    inside = torch.where(within, bits, bits.detach().clamp(float(at[0]), float(at[-1])))
    low = (torch.bucketize(inside.detach(), at, right=True) - 1).clamp(0, len(candidates) - 2)
    share = (inside - at[low]) / (at[low + 1] - at[low])
    lower = functional.one_hot(low, len(candidates)).to(bits.dtype)
    upper = functional.one_hot(low + 1, len(candidates)).to(bits.dtype)
    return lower * (1 - share)[..., None] + upper * share[..., None]


def fractional_rows(space: Space, bits: Sequence[Tensor]) -> Tensor:
    """The hats ``[choices, K]`` of every choice of a space, for its `ExpectedCost`.

    Args:
        space: with the choices and their candidates.
        bits: for each choice its bits, a scalar, or one number per output channel ``[C]``, whose
            cost is then the mean over channels.
    """
    widest = max(len(choice.bits) for choice in space.choices)
    rows = []
    for choice, value in zip(space.choices, bits, strict=True):
        each = hats(choice.bits, value).reshape(-1, len(choice.bits)).mean(0)
        rows.append(functional.pad(each, (0, widest - len(choice.bits))))
    return torch.stack(rows)
