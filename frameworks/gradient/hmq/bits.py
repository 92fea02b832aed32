"""What HMQ's blocks say about bits: probabilities, their cost, and the policy; activation bits.

Activation bits are not learned. With C_a the wanted compression of the largest activation tensor,
the tensor i of s_i elements has (released code; clipped to 4 ... 8 there)

    b_i = clip(floor(32 max_j s_j / (C_a s_i)), b_min, 8).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from frameworks.core.policy import FLOAT, PRUNED, LayerBits, Policy
from frameworks.core.problem import Problem
from frameworks.core.space import Space
from frameworks.core.supernets.activations import affordable_activations
from frameworks.core.supernets.relaxations import expected_cost
from frameworks.gradient.hmq.block import HMQBlock

MOST = 8
"""Activation bits that the rule gives at most."""


def sized_bits(space: Space, compression: float) -> dict[str, int]:
    """Activation bits of every layer by the rule above, at its nearest candidate that is not 0."""
    sizes = {layer.name: layer.in_elements for layer in space.layers}
    largest = max(sizes.values())
    free = {n: int(FLOAT * largest / (compression * size)) for n, size in sizes.items()}
    fewest = {
        n: min((b for b in bits if b != PRUNED), default=1) for n, bits in space.act_bits.items()
    }
    wanted = {name: min(max(bits, fewest[name]), MOST) for name, bits in free.items()}
    rule = Policy({n: LayerBits(space.weight_bits[n][0], b) for n, b in wanted.items()})
    return {name: bits.act for name, bits in space.nearest(rule).items()}


def activation_bits(problem: Problem) -> dict[str, int]:
    """Those of the least compression at which weights of as many bits as its 32nd part still fit.

    Where none does, all layers have the same bits; where the target does not price them, their
    most.
    """
    space = problem.space
    if problem.target.prices_activations and not space.paired:
        found = {b for c in space.choices for b in c.bits} - {PRUNED, FLOAT}
        for bits in sorted(found, reverse=True):
            acts = sized_bits(space, FLOAT / bits)
            weights = space.nearest(space.reference(bits, bits))
            policy = Policy({n: LayerBits(weights[n].weight, acts[n]) for n in space.names})
            if problem.within(policy):
                return acts
    return affordable_activations(problem, FLOAT)


class BitChoices:
    """The choices of weight bits, each with the blocks that decide it together.

    Args:
        problem: gives space, costs and budget; its target must be a sum over layers.
        blocks: by the row of the choice in the space.
        acts: activation bits of every layer.
    """

    def __init__(
        self, problem: Problem, blocks: Mapping[int, Sequence[HMQBlock]], acts: Mapping[str, int]
    ) -> None:
        self.problem, self.blocks = problem, blocks
        self.choices = problem.space.choices
        self.known = [acts[c.layers[0]] for c in self.choices]
        self.cost = expected_cost(problem.space, problem.layer_costs()).to(problem.device)
        tops = [blocks[r][0].bits[-1] if r in blocks else b for r, b in enumerate(self.known)]
        self.most = float(self._cost_of([self._certain(r, b) for r, b in enumerate(tops)]))

    def _certain(self, row: int, bits: int) -> Tensor:
        """All probability ``[K]`` at these bits."""
        at = torch.tensor(self.choices[row].bits.index(bits), device=self.problem.device)
        return functional.one_hot(at, len(self.choices[row].bits)).float()

    def row(self, row: int) -> Tensor:
        """The probabilities ``[K]`` of a choice's candidates: the mean over its blocks.

        0 for those that no block has, which are the first (pruned) and the last (float).
        """
        if row not in self.blocks:
            return self._certain(row, self.known[row])
        mean = torch.stack([block.marginal() for block in self.blocks[row]]).mean(0)
        first = self._first(row)
        return functional.pad(mean, (first, len(self.choices[row].bits) - first - len(mean)))

    def _first(self, row: int) -> int:
        """The place among a choice's candidates of the fewest bits that its blocks have."""
        return self.choices[row].bits.index(self.blocks[row][0].bits[0])

    def _cost_of(self, rows: Sequence[Tensor]) -> Tensor:
        widest = max(map(len, rows))
        cost: Tensor = self.cost(
            torch.stack([functional.pad(p, (0, widest - len(p))) for p in rows])
        )
        return cost

    def compression(self) -> Tensor:
        """C: the cost at the most bits over the expected cost, a scalar."""
        return self.most / self._cost_of([self.row(row) for row in range(len(self.choices))])

    @torch.no_grad()
    def entropy(self) -> float:
        """Mean entropy of the searched choices relative to uniform: 0 when they are decided."""
        found = []
        for row, blocks in self.blocks.items():
            p = self.row(row)[self._first(row) :][: len(blocks[0].bits)]
            if len(p) > 1:
                found.append(float(-(p * p.clamp_min(1e-30).log()).sum() / math.log(len(p))))
        return sum(found) / max(len(found), 1)

    @torch.no_grad()
    def policy(self) -> Policy:
        """The most probable bits of each choice; less probable, fewer ones until the budget is met.

        Of all steps to a choice's next fewer bits, each time the one that loses least probability.
        0 bits, which no block has tried, are left for where nothing else meets it.
        """
        picks, rows = [], [self.row(row).tolist() for row in range(len(self.choices))]
        for p in rows:
            picks.append(max(range(len(p)), key=p.__getitem__))
        while not self.problem.within(self._decoded(picks)):
            lower = {
                row: (pick == self._first(row), rows[row][pick] - rows[row][pick - 1])
                for row in self.blocks
                if (pick := picks[row]) > 0
            }
            if not lower:
                break
            picks[min(lower, key=lower.__getitem__)] -= 1
        return self._decoded(picks)

    def _decoded(self, picks: Sequence[int]) -> Policy:
        chosen = zip(self.choices, picks, strict=True)
        return self.problem.space.decode([choice.bits[pick] for choice, pick in chosen])
