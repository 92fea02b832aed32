"""The orthogonality metric (ORM) of OMPQ (arXiv 2109.07865), and what follows from it.

Two functions of the same N images, sampled as features X and Y ``[N, p]``, are the more alike the
larger

    ORM(X, Y) = ||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F) = <K_X, K_Y> / (||K_X||_F ||K_Y||_F),

with the Gram matrices K = X X^T ``[N, N]``, which are far smaller than X^T X where features are
large. It is in [0, 1], 1 for equal functions, and blind to their scale and to rotations of the
features. With Gram matrices centred by rows and columns (as the released code has them) it is the
linear centred kernel alignment.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

CONSTANT = 1e-12
"""What rounding leaves of a centred Gram matrix of features that are the same for all images."""


def gram(features: Tensor, *, centred: bool = True) -> Tensor:
    """``X X^T`` in double precision ``[N, N]`` of features ``[N, ...]``; centred, it is H X X^T H.

    All zero where features tell the images not apart.
    """
    x = features.flatten(1).double()
    plain = x @ x.T
    if not centred:
        return plain
    mean = plain.mean(0)
    found = plain - mean - mean[:, None] + mean.mean()
    return found if float(found.norm()) > CONSTANT * float(plain.norm()) else found * 0.0


def orm(grams: Sequence[Tensor]) -> Tensor:
    """The metric of every two functions ``[L, L]``; a function without variation has 0 with all."""
    if not grams:
        return torch.zeros(0, 0, dtype=torch.double)
    flat = torch.stack([matrix.flatten() for matrix in grams])
    norms = flat.norm(dim=1, keepdim=True)
    unit = torch.where(norms > 0, flat / norms.clamp_min(torch.finfo(norms.dtype).tiny), 0.0)
    return (unit @ unit.T).clamp(0.0, 1.0)


def overlap(metric: Tensor) -> Tensor:
    """``gamma_i = sum_{j != i} ORM_ij``: how much of a function the others have, too ``[L]``."""
    return metric.sum(1) - metric.diagonal()


def independence(gamma: Tensor, beta: float, *, relative: bool = True) -> Tensor:
    """``theta_i = exp(-beta gamma_i)`` ``[L]``.

    Args:
        gamma: see `overlap`.
        beta: how much orthogonality weighs.
        relative: in units of the largest, which changes no optimum and keeps them from vanishing;
            else as they are.
    """
    least = gamma.min() if relative and len(gamma) else 0.0
    return torch.exp(-beta * (gamma - least))


def importance(theta: Tensor) -> Tensor:
    """The programme's coefficient of each function's bits ``[L]``, in execution order.

    Of each function the mean of theta over itself and all that follow,
    ``1 / (L - i) sum_{j >= i} theta_j`` (i from 0).
    """
    following = torch.arange(len(theta), 0, -1, dtype=theta.dtype, device=theta.device)
    return theta.flip(0).cumsum(0).flip(0) / following
