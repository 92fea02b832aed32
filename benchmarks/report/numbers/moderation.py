"""Variances of few values, helped by those of their family: Smyth's moderated t.

Three seeds give a variance of two degrees of freedom, which is off by a factor of ten as often as
not. The differences of a dozen frameworks on one data set have variances of a kind, and together
they say what kind: variances are taken to be draws of

    sigma^2 ~ d0 s0^2 / chi^2(d0)

whose two numbers are estimated from the family; each then counts as d0 more observations of s0^2:

    s~^2 = (d0 s0^2 + d s^2) / (d0 + d),  with d0 + d degrees of freedom.

Where variances differ no more than their sampling alone makes them, d0 is infinite; where they
differ wildly, it is near 0 and each keeps its own. Smyth's families are thousands of genes; from a
dozen, d0 is mostly too large, so that it counts as `MOST` at most. In simulated families of 5 to 16
with three seeds the chance of any false difference, which should be 5 %, is then between 1 and 4 %
where all variances are equal, and up to 10 % where they differ by factors of four and more (without
the bound: 4 to 13 %; each variance by itself: 5 %, at which hardly anything is ever told apart).

Source: Smyth, Statistical Applications in Genetics and Molecular Biology 3 (2004), sections 5 and
6.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

FEWEST = 4
"""Variances below which a family says too little of its own."""
MOST = 4.0
"""Degrees of freedom that a family may lend."""
FLOOR = 1e-5
"""Of the median: what smaller variances count as while the kind is estimated."""


@dataclass(frozen=True)
class Prior:
    """What variances of a family are like: ``d0`` degrees of freedom around ``s0^2``."""

    freedom: float
    variance: float

    def moderated(self, variance: float, freedom: float) -> tuple[float, float]:
        """A variance and its degrees of freedom with what the family knows."""
        lent = min(self.freedom, MOST)
        both = lent + freedom
        return (lent * self.variance + freedom * variance) / both, both


def prior(variances: Sequence[float], freedoms: Sequence[float]) -> Prior | None:
    """The family's, by the moments of the variances' logarithms; None where it says nothing.

    Args:
        variances: estimates.
        freedoms: their degrees of freedom, all positive.
    """
    if len(variances) < FEWEST:
        return None
    middle = sorted(variances)[len(variances) // 2]
    if middle <= 0:
        return None
    from scipy.special import digamma, polygamma

    logs = [
        math.log(max(s, FLOOR * middle)) - float(digamma(d / 2)) + math.log(d / 2)
        for s, d in zip(variances, freedoms, strict=True)
    ]
    mean = math.fsum(logs) / len(logs)
    spread = math.fsum((x - mean) ** 2 for x in logs) / (len(logs) - 1)
    spread -= math.fsum(float(polygamma(1, d / 2)) for d in freedoms) / len(freedoms)
    if spread <= 0:
        return Prior(math.inf, math.exp(mean))
    freedom = 2 * trigamma_inverse(spread)
    return Prior(freedom, math.exp(mean + float(digamma(freedom / 2)) - math.log(freedom / 2)))


def trigamma_inverse(value: float) -> float:
    """The x > 0 at which the trigamma function is ``value``, by Newton's method on 1 / trigamma."""
    from scipy.special import polygamma

    if value > 1e7:
        return 1 / math.sqrt(value)
    if value < 1e-6:
        return 1 / value
    x = 0.5 + 1 / value
    for _ in range(50):
        found = float(polygamma(1, x))
        step = found * (1 - found / value) / float(polygamma(2, x))
        x += step
        if abs(step) < 1e-10 * x:
            break
    return x
