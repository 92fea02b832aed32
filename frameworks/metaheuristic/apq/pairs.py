"""What APQ's predictors learn from: pairs of a policy and an accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frameworks.core.evolution.genetic import Genes
from frameworks.core.policy import Policy
from frameworks.core.problem import Problem
from frameworks.core.search.alone import runs
from frameworks.core.space import Space

Integers = NDArray[np.int64]
TRIES = 50
"""Draws for each policy wanted, after which a space counts as exhausted."""


def policy_of(space: Space, genes: Genes) -> Policy:
    """The policy of genes, positions in each decision's list of bits."""
    return space.decode([c.bits[g] for c, g in zip(space.choices, genes, strict=True)])


def genes_of(space: Space, policy: Policy) -> Genes:
    """Inverse of `policy_of`."""
    values = zip(space.choices, space.encode(policy), strict=True)
    return tuple(choice.bits.index(value) for choice, value in values)


def spread(space: Space, rng: np.random.Generator) -> Genes:
    """Genes at a level that is drawn uniformly between the fewest bits and the most.

    Uniform draws of many decisions all cost about the same, which is hardly ever a budget.
    """
    level = rng.random()
    return tuple(int(rng.binomial(len(choice.bits) - 1, level)) for choice in space.choices)


def distinct(problem: Problem, count: int, rng: np.random.Generator) -> tuple[list[Genes], int]:
    """Up to so many distinct genes that the target runs, and how many were drawn for them."""
    found: dict[Genes, None] = {}
    draws = 0
    while len(found) < count and draws < TRIES * count:
        draws += 1
        genes = spread(problem.space, rng)
        if genes not in found and runs(problem, policy_of(problem.space, genes)):
            found[genes] = None
    return list(found), draws


def cheap_pairs(
    problem: Problem,
    divergences: Mapping[str, Mapping[str, float]],
    best: float,
    count: int,
    rng: np.random.Generator,
) -> tuple[list[Genes], Tensor]:
    """Pairs that cost no evaluation: genes, and stand-ins ``[count]`` of accuracies in [0, 1].

    What the target does not run has no divergence and is drawn again; where hardly anything is run,
    there are fewer pairs.

    The stand-in is ``best exp(-D / m)`` with D the sum of the divergences of layers quantized alone
    and m its median over the pairs.

    Args:
        problem: the space, and the target that runs it.
        divergences: as of `frameworks.core.search.alone.divergences`.
        best: the float network's accuracy.
    """
    space = problem.space
    draws = (spread(space, rng) for _ in range(TRIES * count))
    genes = list(islice((g for g in draws if runs(problem, policy_of(space, g))), count))
    table = np.array(genes, np.int64).reshape(-1, len(space.choices))
    total = np.zeros(len(genes))
    for name, losses in divergences.items():
        rows = [_column(space, table, name, kind) for kind in ("weight", "act")]
        weights, acts = space.weight_bits[name], space.act_bits[name]
        each = np.array([[losses.get(f"{w} {a}", np.nan) for a in acts] for w in weights])
        total += each[rows[0], rows[1]]
    middle = max(float(np.median(total)), 1e-12)
    return genes, torch.tensor(best * np.exp(-total / middle), dtype=torch.float32)


def _column(space: Space, table: Integers, name: str, kind: str) -> Integers:
    """The genes of a layer's weights or activations; zeros where they are pinned."""
    for i, choice in enumerate(space.choices):
        if name in choice.layers and choice.kind in (kind, "both"):
            return table[:, i]
    return np.zeros(len(table), np.int64)
