"""Small spaces whose scores are known: an additive one on the toy network, and LeNet's of ReLeQ."""

import itertools
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.oracle.oracle_table import OracleTable
from frameworks import (
    BudgetSpec,
    Data,
    Problem,
    Score,
    Space,
    TensorSplit,
    describe,
    schemes,
    seeded,
    targets,
)
from frameworks.core.search.sensitivities import exact
from frameworks.testing import toy

TABLE = Path(__file__).parents[2] / "results/oracle/releq-lenet.parquet"


class Additive(dict):
    """Accuracy 95 less the sum of ``weight * 2^-bits`` over decisions of random weights."""

    def __init__(self, space, seed):
        super().__init__()
        self.space = space
        self.weights = np.exp(np.random.default_rng(seed).normal(0, 1.0, len(space.choices)))
        self.weights *= 30 / self.weights.sum()

    def lost(self, place, bits):
        """What a decision loses at some bits."""
        return float(self.weights[place] * 2.0**-bits)

    def __missing__(self, policy):
        loss = sum(itertools.starmap(self.lost, enumerate(self.space.encode(policy))))
        self[policy] = Score(95 - loss, loss)
        return self[policy]


class Chain(nn.Sequential):
    """Ten convolutions of different widths and a mean; its weights do not matter."""

    WIDTHS = (3, 8, 8, 12, 12, 4, 16, 16, 8, 20, 4)

    def __init__(self):
        pairs = zip(self.WIDTHS, self.WIDTHS[1:], strict=False)
        super().__init__(*(nn.Conv2d(a, b, 3, 1, 1, bias=False) for a, b in pairs))

    def forward(self, x):
        return super().forward(x).mean((2, 3))


@cache
def chain():
    """A problem of sixteen decisions: eight inner layers' weights and activations."""
    with seeded(0):
        network = Chain().eval()
    layers, target = describe(network, toy.SHAPE), targets.get("bops")()
    pinned = {layer.name: (8, 8) for layer in (layers[0], layers[-1])}
    space = Space.build(layers, (2, 3, 4, 5, 6, 8), (2, 3, 4, 5, 6, 8), pinned=pinned)
    split = toy.split("valid", 128)
    return Problem(
        network=network,
        space=space,
        target=target,
        budget=BudgetSpec(like=3).resolve(target, space),
        scheme=schemes.get("minmax")(),
        data=Data(split, split, split.images(8)),
    )


def additive(seed):
    """The chain at a seed, with scores that are a sum over its decisions; 95 % in float."""
    problem = chain().at(seed=seed, known=Additive(chain().space, seed))
    problem.__dict__["_float_score"] = Score(95.0, 0.0)
    return problem


def regret(problem, policy):
    """Points of accuracy to the best policy within the budget, by an exact programme."""
    found, places = problem.known, {choice: i for i, choice in enumerate(problem.space.choices)}

    def lost(name, pair):
        return sum(
            found.lost(place, pair[choice.kind == "act"])
            for choice, place in places.items()
            if choice.layers[0] == name
        )

    table = {
        name: {pair: lost(name, pair) for pair in pairs}
        for name, pairs in problem.layer_entries().items()
    }
    return found[exact(problem, table)].accuracy - found[policy].accuracy


class LeNet(nn.Module):
    """The network of ReLeQ's table, with random weights: its scores are those of the table."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 20, 5), nn.Conv2d(20, 50, 5)
        self.fc1, self.fc2 = nn.Linear(800, 500), nn.Linear(500, 10)

    def forward(self, x):
        x = nn.functional.max_pool2d(self.conv1(x), 2)
        x = nn.functional.max_pool2d(self.conv2(x), 2)
        return self.fc2(self.fc1(x.flatten(1)).relu())


@cache
def lenet():
    """The problem of the committed table, without a budget that binds; copy it by `lenet_at`.

    Of 500 labels the network misses one, so that its accuracy is the published 99.8.
    """
    with seeded(0), torch.no_grad():
        network, images = LeNet().eval(), torch.randn(500, 1, 28, 28)
        labels = network(images).argmax(1)
    labels[0] = (labels[0] + 1) % 10
    layers, table = describe(network, (1, 28, 28)), OracleTable.read(TABLE)
    bits, names = table.choices[0].bits, [layer.name for layer in layers]
    space = Space(layers, dict.fromkeys(names, bits), dict.fromkeys(names, (32,)))
    target, split, known = targets.get("size")(), TensorSplit(images, labels), table.scores("valid")
    return Problem(
        network=network,
        space=space,
        target=target,
        budget=BudgetSpec(like=8).resolve(target, space),
        scheme=schemes.get("minmax")(),
        data=Data(split, split, images[:8]),
        known={policy: known[policy] for policy in known},
    )


def lenet_at(seed):
    """The problem at a seed, fresh, whose float network need not be measured again."""
    problem = lenet().at(seed=seed)
    problem.__dict__["_float_score"] = lenet().float_score()
    return problem
