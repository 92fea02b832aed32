"""Decisions per block: lists of candidates for the blocks of a network, as super nets search them.

A block's layers, and those of blocks that are tied to it, are decided together. The candidates are
a few (weight, activation) pairs of bits, each laid over all layers of the decision.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from frameworks.core.policy import LayerBits, Policy
from frameworks.core.problem import Problem
from frameworks.core.solvers.limits import InfeasibleBudget
from frameworks.core.solvers.milp import Entry, multiple_choice
from frameworks.core.space import Space
from frameworks.core.supernets.relaxations import ExpectedCost, Term

Bits = Mapping[str, LayerBits]
"""The bits of several layers, by name."""


@dataclass(frozen=True)
class Decision:
    """One searched block (or several with tied layers) and its candidates.

    Attributes:
        blocks: module paths.
        options: the bits of all layers of the blocks, per candidate.
        costs: what these layers cost in the budget's metric, per candidate.
    """

    blocks: tuple[str, ...]
    options: tuple[Bits, ...]
    costs: tuple[float, ...]


def default_pairs(space: Space) -> list[tuple[int, int]]:
    """Candidate (weight, activation) bits: equal ones, and activations one step above weights.

    Where only one kind is searched, the other stays at its pinned bits.
    """
    kinds = {choice.kind for choice in space.choices}
    bits = sorted({b for choice in space.choices for b in choice.bits})
    if kinds != {"weight", "act"}:
        return [(b, b) for b in bits]
    return sorted({*((b, b) for b in bits), *itertools.pairwise(bits)})


def block_decisions(
    problem: Problem, pairs: Sequence[Sequence[int]] = (), layerwise: bool = False
) -> list[Decision]:
    """The searched blocks with their distinct candidates; blocks with one candidate included.

    Args:
        problem: its target must be a sum over layers.
        pairs: (weight, activation) bits, moved to the nearest that a layer may take; without any,
            those of `default_pairs`.
        layerwise: every layer is a block of its own.

    Raises:
        ValueError: the hardware supports none of the pairs for some block.
    """
    if layerwise:
        apart = tuple(replace(layer, block=layer.name) for layer in problem.layers)
        problem = problem.at(space=replace(problem.space, layers=apart))
    space, table = problem.space, problem.layer_costs()
    policies = [space.nearest(space.reference(w, a)) for w, a in pairs or default_pairs(space)]
    free = {layer.name for layer in space.free_layers}
    found = []
    for blocks in tied_blocks(space):
        names = [layer.name for layer in space.layers if layer.block in blocks]
        if free.isdisjoint(names):
            continue
        options = [{name: policy[name] for name in names} for policy in policies]
        priced = [(bits, cost) for bits in options if (cost := _cost(bits, table)) is not None]
        distinct = [entry for i, entry in enumerate(priced) if entry not in priced[:i]]
        if not distinct:
            raise ValueError(f"the hardware supports none of the candidate pairs for {blocks}")
        found.append(Decision(blocks, *zip(*distinct, strict=True)))
    return found


def _cost(bits: Bits, table: Mapping[str, Mapping[tuple[int, int], float]]) -> float | None:
    """What layers cost by a table per layer; None where it lacks one of the pairs."""
    total = 0.0
    for name, entry in bits.items():
        assert isinstance(entry.weight, int)
        cost = table[name].get((entry.weight, entry.act))
        if cost is None:
            return None
        total += cost
    return total


def tied_blocks(space: Space) -> list[tuple[str, ...]]:
    """The blocks in execution order, those with tied layers together."""
    block = {layer.name: layer.block for layer in space.layers}
    group = {b: {b} for b in block.values()}
    for tied in space.groups:
        merged = set().union(*(group[block[name]] for name in tied))
        group.update(dict.fromkeys(merged, merged))
    order = list(group)
    together = [tuple(b for b in order if b in group[first]) for first in order]
    return list(dict.fromkeys(together))


def block_candidates(decisions: Sequence[Decision], space: Space) -> dict[str, list[Bits]]:
    """The candidates of each searched block, for its own layers."""
    own = {b: [x.name for x in space.layers if x.block == b] for d in decisions for b in d.blocks}
    return {
        block: [{name: option[name] for name in own[block]} for option in decision.options]
        for decision in decisions
        for block in decision.blocks
    }


def block_rows(decisions: Sequence[Decision]) -> dict[str, int]:
    """Which decision each searched block belongs to."""
    return {block: row for row, decision in enumerate(decisions) for block in decision.blocks}


def decided(space: Space, decisions: Sequence[Decision], picks: Sequence[int]) -> Policy:
    """The policy with the given candidate of each decision; all else is pinned."""
    bits = dict(space.lowest())
    for decision, pick in zip(decisions, picks, strict=True):
        bits.update(decision.options[pick])
    return Policy(bits)


def decision_cost(
    problem: Problem, decisions: Sequence[Decision], least: float, metric: str | None = None
) -> ExpectedCost:
    """The network's expected cost, in a unit such that the cheapest policy costs ``least``.

    Args:
        problem: what the decisions are of.
        decisions: from `block_decisions`.
        least: see above.
        metric: by default the budget's, with several limits their common price.
    """
    table = problem.layer_costs(metric)
    rest, costs = decided_costs(problem, decisions, table)
    cheapest = rest + sum(min(each) for each in costs)
    columns = [torch.tensor(each, dtype=torch.float64)[:, None] for each in costs]
    terms: list[Term] = [(row, None, column) for row, column in enumerate(columns)]
    terms.append((None, None, torch.tensor([[rest]], dtype=torch.float64)))
    return ExpectedCost(terms, len(decisions), cheapest / least)


def decided_costs(
    problem: Problem,
    decisions: Sequence[Decision],
    table: Mapping[str, Mapping[tuple[int, int], float]],
) -> tuple[float, list[list[float]]]:
    """What all layers without a decision cost, and what each decision's candidates do.

    Args:
        problem: what the decisions are of.
        decisions: from `block_decisions`.
        table: costs as from `frameworks.Problem.layer_costs`, in any metric.
    """
    searched = {name for decision in decisions for name in decision.options[0]}
    pinned = problem.space.lowest()
    rest = _cost({n: b for n, b in pinned.items() if n not in searched}, table)
    costs = [[_cost(bits, table) for bits in decision.options] for decision in decisions]
    assert rest is not None, "the target supports the pinned layers"
    return rest, [[cost for cost in each if cost is not None] for each in costs]


def cheapest_picks(problem: Problem, decisions: Sequence[Decision]) -> tuple[int, ...]:
    """The candidate of each decision that costs least.

    With several limits these need not be within all of them: then candidates that are, if any.

    Args:
        problem: what the decisions are of.
        decisions: from `block_decisions`.
    """
    picks = tuple(each.costs.index(min(each.costs)) for each in decisions)
    if len(problem.budget.bounds) == 1 or problem.within(decided(problem.space, decisions, picks)):
        return picks
    try:
        return least_within(problem, decisions, [each.costs for each in decisions])
    except InfeasibleBudget:
        return picks


def least_within(
    problem: Problem, decisions: Sequence[Decision], values: Sequence[Sequence[float]]
) -> tuple[int, ...]:
    """The candidate of each decision that have together the least value within all limits.

    Args:
        problem: what the decisions are of.
        decisions: from `block_decisions`.
        values: of each decision's candidates.

    Raises:
        InfeasibleBudget: none are within all limits.
    """
    limits = problem.budget.limits
    found = {m: decided_costs(problem, decisions, problem.layer_costs(m)) for m in limits}
    items: dict[str, dict[int, Entry]] = {
        str(i): {
            option: (value, {m: costs[i][option] for m, (_, costs) in found.items()})
            for option, value in enumerate(values[i])
        }
        for i in range(len(decisions))
    }
    items["rest"] = {0: (0.0, {metric: rest for metric, (rest, _) in found.items()})}
    picks = multiple_choice(items, limits)
    return tuple(picks[str(i)] for i in range(len(decisions)))
