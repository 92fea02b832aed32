"""A space of sixteen decisions whose losses add up, to hold searches against `random`."""

import math
from dataclasses import replace

import numpy as np
import torch

from frameworks import Data, Problem, describe, schemes
from frameworks.core.budget import BudgetSpec
from frameworks.core.evaluation.evaluate import Score
from frameworks.core.space import Space
from frameworks.hardware.bops import Bops
from frameworks.testing import toy

BITS = (2, 3, 4, 5, 6, 8)


class Sum(dict):
    """Losses that add up over decisions, each step down costing four times more."""

    def __init__(self, space, rng):
        self.space, self.sizes = space, rng.lognormal(0, 1, len(space.choices))

    def __missing__(self, policy):
        values = self.space.encode(policy)
        loss = float(sum(s * 4.0 ** (2 - b) for s, b in zip(self.sizes, values, strict=True)))
        return Score(100 * math.exp(-loss / 20), loss)


def chain():
    """Nine convolutions and a classifier; never run."""
    widths, strides = [3, 16, 16, 16, 32, 32, 64, 64, 64, 64], [1, 1, 1, 2, 1, 2, 1, 1, 1]
    convs = [
        torch.nn.Conv2d(a, b, 3, s, 1, bias=False)
        for a, b, s in zip(widths, widths[1:], strides, strict=False)
    ]
    return torch.nn.Sequential(*convs, torch.nn.Flatten(), torch.nn.Linear(64 * 16, 10)).eval()


def problems(like, seeds, blocks=False):
    """Problems of one space, each with other losses, its policies' scores known.

    With blocks these hold up to three layers; without, each layer is one.
    """
    network = chain()
    layers = describe(network, (3, 16, 16))
    ends = {layers[0].name: (8, 8), layers[-1].name: (8, 8)}
    if blocks:
        layers = [replace(x, block=f"block{i // 3}") for i, x in enumerate(layers)]
    space = Space.build(layers, BITS, BITS, pinned=ends)
    budget = BudgetSpec(like=like).resolve(Bops(), space)
    data = Data(None, toy.split("valid", 128), None)
    for seed in range(seeds):
        yield Problem(
            network, space, Bops(), budget, schemes.get("minmax")(), data,
            seed=seed, bn="stored", known=Sum(space, np.random.default_rng(seed)),
        )  # fmt: skip


def losses(framework, like=4, seeds=4):
    """What policies lose that a search finds, in each of the problems."""
    every = list(problems(like, seeds))
    return [problem.known[framework.search(problem).policy].loss for problem in every]
