"""Activation bits of methods that search weight bits alone.

Their papers set them by hand, as one number for all layers. Here that is one that leaves the
weights something to choose: the most bits b, up to the number wanted, at which the policy of b
weight and b activation bits is within the budget.
"""

from __future__ import annotations

from frameworks.core.policy import PRUNED
from frameworks.core.problem import Problem


def affordable_activations(problem: Problem, most: int) -> dict[str, int]:
    """The activation bits of every layer while its weight bits are searched.

    Where the target does not price them, or they must equal those of the weights, it is the most
    that each layer may take.

    Args:
        problem: gives space, target and budget.
        most: activation bits wanted; fewer where the budget asks for it.
    """
    space = problem.space
    wanted = max(max(bits) for bits in space.act_bits.values())
    if problem.target.prices_activations and not space.paired:
        every = {b for bits in space.act_bits.values() if len(bits) > 1 for b in bits}
        free = sorted(every - {PRUNED})
        fit = [b for b in free if problem.within(space.reference(b, b))]
        wanted = max((b for b in fit if b <= most), default=free[0] if free else 8)
    uniform = space.nearest(space.reference(wanted, wanted))
    return {name: bits.act for name, bits in uniform.items()}
