"""AdaQuant: weights moved freely before they are rounded, with their ranges and biases.

Hubara et al., "Improving Post Training Neural Quantization: Layer-wise Calibration and Integer
Programming" (arXiv 2006.10518), section 3.1:

    min over V, steps and bias of  E ||W x - Q(W + V) x'||^2,

by Adam with straight-through gradients; V is not bounded, so that a weight may move by more than
one level. The best bias of given weights is their mean error, so that the moments about the means
are what is minimised, and the bias follows.

Deviations: the error is that of all data at once, by their second moments, not of 50 images a step;
the rate is 4e-3 of a step of the grid at every width (released: 1e-5 as it is, which is that share
of an 8-bit step of weights within 0.3, and an 85th of it at 2 bits); a range is scaled by one
factor about its integer zero point, at a rate of 1e-3 (released: width and lower end apart, each at
1e-3); the range of the input is not trained here, but may be chosen among some
(`frameworks.core.rounding.ranges`; released: trained at 1e-1); the best of all steps is kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from frameworks.core.quantizers.base import straight_through
from frameworks.core.rounding.levels import Levels
from frameworks.core.rounding.moments import LayerMoments

STEPS = 1000
RATE, RANGE_RATE = 4e-3, 1e-3
"""Of the weights, in steps of the grid; of the ranges, in shares of themselves."""


def adaquant(
    weight: Tensor,
    levels: Levels,
    moments: LayerMoments,
    *,
    steps: int = STEPS,
    rate: float = RATE,
    range_rate: float = RANGE_RATE,
) -> tuple[Tensor, Tensor]:
    """The codes of weights ``[G, R, n]``, and the steps that go with them (both ``[G, R, n]``)."""
    w = weight.double()
    step, low, high, offset = (
        x.double() for x in (levels.step, levels.low, levels.high, levels.offset)
    )
    about = moments.centred()
    moved = torch.zeros_like(w, requires_grad=True)
    factor = torch.ones_like(w[..., :1], requires_grad=True)
    adam = torch.optim.Adam(
        [{"params": [moved], "lr": rate}, {"params": [factor], "lr": range_rate}]
    )
    scale = about.outputs.clamp_min(1e-12)
    least = torch.full_like(scale, torch.inf)
    best_code, best_factor = levels.nearest(weight).double(), torch.ones_like(factor)
    with torch.enable_grad():
        for _ in range(steps):
            place = (w / step + moved) / factor - offset
            inside = place.clamp(low, high)
            code = straight_through(inside, inside.round())
            error = about.error(factor * step * (code + offset))
            with torch.no_grad():
                better = error < least
                least = torch.where(better, error, least)
                best_code = torch.where(better[..., None], inside.round(), best_code)
                best_factor = torch.where(better[..., None], factor, best_factor)
            adam.zero_grad()
            (error / scale).sum().backward()  # type: ignore[no-untyped-call]
            adam.step()
    return best_code.to(weight.dtype), (best_factor * step).to(weight.dtype)
