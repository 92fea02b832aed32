"""APQ's search on a predictor: blocks that mutate whole, and limits of the hardware."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from frameworks.core.evolution.genetic import Genes, Genetic, Settings
from frameworks.core.problem import Problem
from frameworks.core.search.alone import runs
from frameworks.core.search.draws import Draws
from frameworks.core.space import Space
from frameworks.core.target import UnsupportedBits
from frameworks.metaheuristic.apq.pairs import genes_of, policy_of
from frameworks.metaheuristic.apq.predictor import Code, Predictor


def blocks(space: Space, layerwise: bool = False) -> list[list[int]]:
    """The decisions of each block (or layer) of the network, which mutate and cross together."""
    block = {layer.name: layer.name if layerwise else layer.block for layer in space.layers}
    found: dict[str, list[int]] = {}
    for i, choice in enumerate(space.choices):
        found.setdefault(block[choice.layers[0]], []).append(i)
    return list(found.values())


def evolution(
    problem: Problem, settings: Settings, rng: np.random.Generator, layerwise: bool = False
) -> Genetic:
    """The evolutionary search within the problem's budget."""
    space, draws = problem.space, Draws(problem, rng, refill=False)

    def feasible(genes: Genes) -> bool:
        policy = policy_of(space, genes)
        return runs(problem, policy) and problem.within(policy)

    cheapest = genes_of(space, problem.cheapest())

    def repair(genes: Genes) -> Genes:
        try:
            return genes_of(space, draws.policy())
        except UnsupportedBits:  # on the way down; the cheapest policy runs
            return cheapest

    return Genetic(
        [len(choice.bits) for choice in space.choices], rng, settings,
        feasible=feasible, repair=repair,
        units=blocks(space, layerwise), start=[cheapest],
    )  # fmt: skip


@torch.no_grad()
def predicted(
    predictor: Predictor, code: Code, genomes: Sequence[Genes], problem: Problem
) -> list[tuple[float]]:
    """The predicted accuracy of each genome."""
    found: list[float] = predictor(code.encode(genomes, problem.device)).tolist()
    return [(value,) for value in found]
