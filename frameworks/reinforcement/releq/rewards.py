"""ReLeQ's rewards: what a state of quantization and a state of relative accuracy are worth.

State_A is the accuracy over that of the float network, State_Q the share of the most bits:

    State_Q = sum_l c_l b_l / sum_l c_l b_max

with c_l = 1 in the released code, and c_l = n_l E_mem / E_mac + MAC_l (n_l weights, a memory access
120 times a multiply-accumulate) in the paper, as recalled. All the shaped rewards punish a lost
accuracy more than they reward saved bits, and are -1 where State_A is below a threshold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from frameworks.core.layers import Layer
from frameworks.core.space import Choice

MEMORY = 120.0
"""Energy of a memory access over that of a multiply-accumulate."""
GRID = 50
"""Points of the released linear reward's grid, in each direction."""


@dataclass(frozen=True)
class Shape:
    """The constants of a shaped reward.

    Attributes:
        a: exponent of State_Q.
        b: of State_A; more of it punishes losses more.
        threshold: of State_A.
    """

    a: float
    b: float
    threshold: float


SHAPES: Mapping[str, Shape] = {
    "budget": Shape(2.0, 3.0, 0.4),
    "plain": Shape(0.2, 0.4, 0.4),
    "shifted": Shape(0.8, 1.0, 0.1),
    "linear": Shape(1.0, 1.0, 1.0),  # has none
}
"""Those of the paper (as recalled), of the released ``releq_cifar.py``, and for a budget our own.

What an agent asks for over a budget is 0 for a good one, where Q^a with a small a is steepest: it
then learns of nothing else. A square lets it see the accuracy; b is that of ``releq_lenet.py``.
"""


def plain(quantization: float, accuracy: float, shape: Shape, least: float = 0.0) -> float:
    """(1 - Q^a) A^(b / A), for A above the threshold: the paper's form."""
    if accuracy < shape.threshold:
        return -1.0
    return (1 - math.pow(quantization, shape.a)) * math.pow(accuracy, shape.b / accuracy)


def shifted(quantization: float, accuracy: float, shape: Shape, least: float) -> float:
    """2 ((1 - (Q - Q_min)^a) A^(b / A) - 1/2), from -1 to 1: the released scripts' form."""
    if accuracy < shape.threshold:
        return -1.0
    return 2 * plain(max(quantization - least, 0.0), accuracy, shape) - 1


def linear(quantization: float, accuracy: float, shape: Shape, least: float) -> float:
    """2 max(0, 4 (Q_min - Q) + 6 A) on a grid, 0 where Q is below Q_min: for whole networks."""
    q, y = ((int(GRID * v) - 1) / (GRID - 1) for v in (quantization, accuracy))
    return 0.0 if q < least else 2 * max(0.0, 4 * (least - q) + 6 * y)


REWARDS: Mapping[str, Callable[[float, float, Shape, float], float]] = {
    "plain": plain,
    "shifted": shifted,
    "linear": linear,
}
"""By name; each takes State_Q, State_A, its constants and the State_Q of the fewest bits."""


def weights_of(layers: Sequence[Layer], choices: Sequence[Choice], energy: bool) -> list[float]:
    """c_l of each decision; that of tied layers is their sum."""
    known = {layer.name: MEMORY * layer.params + layer.macs if energy else 1.0 for layer in layers}
    return [sum(known[name] for name in choice.layers) for choice in choices]


def quantization(bits: Sequence[int], choices: Sequence[Choice], weights: Sequence[float]) -> float:
    """State_Q of decisions at these bits."""
    most = [choice.bits[-1] for choice in choices]
    return float(np.dot(weights, bits) / np.dot(weights, most))
