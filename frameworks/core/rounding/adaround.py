"""AdaRound: up or down for each weight, learned by what the layer's output loses.

Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", ICML 2020 (arXiv
2004.10568), section 3.2 and 4: with w = s (clip(floor(w / s) + h(v)) + o) and

    h(v) = clip(1.2 sigmoid(v) - 0.1, 0, 1)                                       (equation 23)
    min_v  E ||W x - W(v) x'||^2 + lambda sum (1 - |2 h(v) - 1|^beta)         (equations 21, 24)

x' are the inputs in the network whose earlier layers are quantized already. beta is annealed from
20 to 2 after the first fifth of the steps, which have no regularizer (AIMET's and BRECQ's code).

Deviations: the error is that of all data at once, by their second moments, not of 32 images a step;
each channel's is divided by the variance of its output, as no BatchNorm is folded in, whose scales
lambda would have to follow; no activation function lies between; 1,000 steps at a rate of 1e-2 in
place of 10,000 (BRECQ 20,000) at 1e-3, as there is no noise to average out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from frameworks.core.rounding.levels import Levels
from frameworks.core.rounding.moments import LayerMoments

STRETCH, EDGE = 1.2, 0.1
WEIGHT = 0.01
"""lambda."""
STEPS, RATE = 1000, 1e-2
FREE = 0.2
"""The share of the steps without a regularizer."""
START, END = 20.0, 2.0
"""beta, at the first and at the last step."""


def soft(v: Tensor) -> Tensor:
    """h(v)."""
    return (STRETCH * torch.sigmoid(v) - EDGE).clamp(0, 1)


def start(share: Tensor) -> Tensor:
    """The v at which h(v) is a share between 0 and 1."""
    return -torch.log(STRETCH / (share + EDGE) - 1)


def beta(step: int, steps: int) -> float | None:
    """The exponent at a step; None while there is no regularizer."""
    begin = FREE * steps
    if step < begin:
        return None
    return END + (START - END) * (1 - (step - begin) / max(steps - begin, 1))


def adaround(
    weight: Tensor,
    levels: Levels,
    moments: LayerMoments,
    *,
    steps: int | None = None,
    rate: float = RATE,
) -> Tensor:
    """The codes ``[G, R, n]`` of weights ``[G, R, n]``, each one of its two neighbours."""
    w, steps = weight.double(), STEPS if steps is None else steps
    step, low, high, offset = (
        x.double() for x in (levels.step, levels.low, levels.high, levels.offset)
    )
    below = (w / step - offset).floor()
    v = start((w / step - offset - below).clamp(1e-6, 1 - 1e-6)).requires_grad_()
    scale = moments.centred().outputs.clamp_min(1e-12)
    adam = torch.optim.Adam([v], lr=rate)
    with torch.enable_grad():
        for number in range(steps):
            h = soft(v)
            value = step * ((below + h).clamp(low, high) + offset)
            loss = (moments.error(value) / scale).sum()
            if (exponent := beta(number, steps)) is not None:
                loss = loss + WEIGHT * (1 - (2 * h - 1).abs().pow(exponent)).sum()
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
    up = (soft(v.detach()) >= 0.5).double()
    found = (below + up).clamp(low, high)
    return found.to(weight.dtype)
