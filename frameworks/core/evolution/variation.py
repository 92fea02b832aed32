"""Variation of bounded real genes: simulated binary crossover and polynomial mutation.

With u uniform on [0, 1] and the distribution index eta, SBX (Deb and Agrawal, Complex Systems 9,
1995) puts the children of y1 < y2 at ((y1 + y2) -+ beta (y2 - y1)) / 2, where

    beta = (u alpha)^(1/(eta+1))            if u <= 1/alpha
           (1/(2 - u alpha))^(1/(eta+1))    otherwise,     alpha = 2 - beta_max^-(eta+1),

and beta_max is where the child meets its bound. Mutation moves a gene x within [l, h] by delta
(h - l) (Deb and Goyal, 1996; the bounded form of Deb's NSGA-II code):

    delta = (2u + (1-2u) (1 - (x-l)/(h-l))^(eta+1))^(1/(eta+1)) - 1            if u <= 1/2
            1 - (2(1-u) + (2u-1) (1 - (h-x)/(h-l))^(eta+1))^(1/(eta+1))        otherwise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.floating[Any]]


def sbx(
    first: Reals, second: Reals, low: Reals, high: Reals, eta: float, rng: np.random.Generator
) -> tuple[Reals, Reals]:
    """Bounded simulated binary crossover of two arrays of parents ``[pairs, genes]``.

    Every gene is crossed with probability 1/2. The children lie symmetrically about the parents'
    mean where no bound is near.
    """
    left, right = np.minimum(first, second), np.maximum(first, second)
    gap = np.maximum(right - left, 1e-14)
    u = rng.random(first.shape)
    a = 0.5 * (left + right - _spread(u, 1 + 2 * (left - low) / gap, eta) * gap)
    b = 0.5 * (left + right + _spread(u, 1 + 2 * (high - right) / gap, eta) * gap)
    a, b = np.clip(a, low, high), np.clip(b, low, high)
    swapped = rng.random(first.shape) < 0.5
    a, b = np.where(swapped, b, a), np.where(swapped, a, b)
    crossed = (rng.random(first.shape) < 0.5) & (right - left > 1e-14)
    return np.where(crossed, a, first), np.where(crossed, b, second)


def _spread(u: Reals, beta: Reals, eta: float) -> Reals:
    """The spread factor of SBX at the quantile u, cut so that it stays below beta."""
    alpha = 2 - beta ** -(eta + 1)
    inside = u <= 1 / alpha
    base = np.where(inside, u * alpha, 1 / np.where(inside, 1.0, 2 - u * alpha))
    factor: Reals = base ** (1 / (eta + 1))
    return factor


def polynomial(
    genes: Reals, low: Reals, high: Reals, eta: float, rng: np.random.Generator
) -> Reals:
    """Bounded polynomial mutation of every gene."""
    width, u = high - low, rng.random(genes.shape)
    to_low, to_high = (genes - low) / width, (high - genes) / width
    down = (2 * u + (1 - 2 * u) * (1 - to_low) ** (eta + 1)) ** (1 / (eta + 1)) - 1
    up = 1 - (2 * (1 - u) + (2 * u - 1) * (1 - to_high) ** (eta + 1)) ** (1 / (eta + 1))
    mutated: Reals = np.clip(genes + np.where(u <= 0.5, down, up) * width, low, high)
    return mutated
