"""What searches share that train one composite network and its logits together.

EdMIPS (arXiv 2004.05795, section 4) and those that build on it: the penalty is the expected cost in
units of the first searched layer, weights and logits step together by an SGD each, and the policy
is the argmax of every choice.
"""

from __future__ import annotations

import torch

from frameworks.core.policy import Policy
from frameworks.core.problem import Problem
from frameworks.core.space import Space
from frameworks.core.supernets.relaxations import Choices, ExpectedCost, choice_rows, expected_cost
from frameworks.core.supernets.supernet import CompositeNet

MOMENTUM = 0.9


def complexity(problem: Problem) -> ExpectedCost:
    """The expected cost in units of the first searched layer at one bit.

    For BOPs the unit is the layer's MACs. For other metrics it is the layer's cost at its fewest
    bits divided by the product of the bits that are searched.
    """
    space, costs = problem.space, problem.layer_costs()
    weight, act = choice_rows(space)[space.free_layers[0].name]
    table = costs[space.free_layers[0].name]
    (w_bits, a_bits), cheapest = min(
        ((bits, cost) for bits, cost in table.items() if cost > 0), key=lambda x: x[1]
    )
    unit = cheapest / ((w_bits if weight is not None else 1) * (a_bits if act is not None else 1))
    return expected_cost(space, costs, unit)


def optimizers_of(
    net: CompositeNet,
    choices: Choices,
    *,
    lr: float,
    alpha_lr: float,
    weight_decay: float,
    range_lr: float,
) -> list[torch.optim.Optimizer]:
    """SGD for the weights and SGD for the logits.

    Args:
        net: the composite network.
        choices: with the logits.
        lr: learning rate of the weights.
        alpha_lr: of the logits.
        weight_decay: of weights and logits.
        range_lr: learning rate of learned quantization ranges, relative to ``lr``; they do not
            decay.
    """
    weights, ranges = net.parts()
    of_weights = torch.optim.SGD(weights, lr, momentum=MOMENTUM, weight_decay=weight_decay)
    if ranges:
        of_weights.add_param_group({"params": ranges, "lr": lr * range_lr, "weight_decay": 0.0})
    logits = choices.parameters()
    of_logits = torch.optim.SGD(logits, alpha_lr, momentum=MOMENTUM, weight_decay=weight_decay)
    return [of_weights, of_logits]


def chosen(space: Space, choices: Choices) -> Policy:
    """The most probable bits of every choice."""
    picks = zip(space.choices, choices.best(), strict=True)
    return space.decode([choice.bits[best] for choice, best in picks])
