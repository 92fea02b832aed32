"""GPTQ: weights rounded one after the other, each error made up for by those that follow.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
ICLR 2023 (arXiv 2210.17323), section 3.3, after Optimal Brain Quantization (arXiv 2208.11580). With
H the second moments of a layer's inputs and U the upper Cholesky factor of H^-1 (H^-1 = U^T U), for
the columns j in order,

    q_j = nearest(w_j),   e = (w_j - q_j) / U_jj,   w_k -= e U_jk  for all k > j.
"""

from __future__ import annotations

import torch
from torch import Tensor

from frameworks.core.rounding.levels import Levels
from frameworks.core.rounding.moments import LayerMoments

DAMPING = 0.01
"""Added to H's diagonal, as a share of its mean (the released code's default)."""


@torch.no_grad()
def gptq(weight: Tensor, levels: Levels, moments: LayerMoments, damping: float = DAMPING) -> Tensor:
    """The codes ``[G, R, n]`` of weights ``[G, R, n]``; columns go in order.

    The target is what the float weights make of the same inputs.
    """
    rest, upper = weight.double().clone(), _factor(moments.inputs, damping)
    codes = torch.zeros_like(rest)
    step, low, high, offset = (
        x.double() for x in (levels.step, levels.low, levels.high, levels.offset)
    )
    for j in range(weight.shape[-1]):
        place = rest[..., j] / step[..., j] - offset[..., j]
        codes[..., j] = place.clamp(low[..., j], high[..., j]).round()
        value = step[..., j] * (codes[..., j] + offset[..., j])
        error = (rest[..., j] - value) / upper[:, None, j, j]
        rest[..., j + 1 :] -= error[..., None] * upper[:, None, j, j + 1 :]
    return codes.to(weight.dtype)


def _factor(inputs: Tensor, damping: float) -> Tensor:
    """U of each group ``[G, n, n]``; an input that is never there changes nothing."""
    h = inputs.clone()
    diagonal = h.diagonal(dim1=-2, dim2=-1)
    diagonal[diagonal == 0] = 1.0
    diagonal += damping * diagonal.mean(-1, keepdim=True)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(h))
    upper: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return upper
