"""Continuous relaxations of discrete choices, and the expected cost under them.

- Softmax: pi = softmax(theta) of each choice.
- Gumbel-softmax (Jang et al., arXiv 1611.01144; Maddison et al., arXiv 1611.00712):
  m_k = exp((theta_k + g_k) / tau) / sum_j exp((theta_j + g_j) / tau), g = -log(-log(u)),
  u ~ U(0, 1); one-hot samples of softmax(theta) as tau goes to 0.
- Expected cost of independent choices: sum over layers of pi_w^T T pi_a, with T the layer's table
  of costs per weight and activation candidate. For T = MACs * b_w * b_a it is the product
  MACs * E[b_w] * E[b_a].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from frameworks.core.space import Space

Term = tuple[int | None, int | None, Tensor]
"""Row of the first choice, row of the second, and costs ``[K1, K2]``; None means no choice."""


def temperature(start: float, rate: float, epoch: float) -> float:
    """The annealed temperature ``start * exp(-rate * epoch)``."""
    return start * math.exp(-rate * epoch)


class Choices(nn.Module):
    """Several discrete choices, each a distribution over its own number of candidates.

    Args:
        counts: number of candidates of each choice.
        start: initial value of every logit, so that all distributions start uniform.
    """

    valid: Tensor

    def __init__(self, counts: Sequence[int], start: float = 0.0) -> None:
        super().__init__()
        widest = max(counts)
        self.counts = tuple(counts)
        self.logits = nn.Parameter(torch.full((len(counts), widest), float(start)))
        valid = torch.arange(widest)[None] < torch.tensor(self.counts)[:, None]
        self.register_buffer("valid", valid)

    def _masked(self) -> Tensor:
        return self.logits.masked_fill(~self.valid, -math.inf)

    def probabilities(self) -> Tensor:
        """Softmax of each choice ``[choices, K]``, 0 where a choice has fewer candidates."""
        return torch.softmax(self._masked(), dim=1)

    def gumbel(self, tau: float, generator: torch.Generator) -> Tensor:
        """Soft Gumbel-softmax masks ``[choices, K]`` at temperature ``tau``."""
        tiny = torch.finfo(torch.float32).tiny
        u = torch.rand(self.logits.shape, generator=generator).clamp_min(tiny)
        noise = -torch.log((-torch.log(u)).clamp_min(tiny))
        return torch.softmax((self._masked() + noise.to(self.logits.device)) / tau, dim=1)

    def best(self) -> list[int]:
        """The most probable candidate of each choice; ties go to the first."""
        return [int(i) for i in self._masked().detach().cpu().numpy().argmax(1)]

    def sample(self, generator: torch.Generator) -> list[int]:
        """One candidate of each choice drawn from its distribution."""
        p = self.probabilities().detach().cpu()
        return [int(i) for i in torch.multinomial(p, 1, generator=generator)[:, 0]]

    @torch.no_grad()
    def hard(self, generator: torch.Generator) -> Tensor:
        """One-hot masks ``[choices, K]`` of one candidate each, drawn as by `sample`."""
        picks = torch.tensor(self.sample(generator), device=self.logits.device)
        return nn.functional.one_hot(picks, self.logits.shape[1]).to(self.logits.dtype)

    def entropy(self) -> float:
        """Mean entropy of the choices relative to uniform: 1 at the start, 0 when decided.

        Choices of a single candidate are left out.
        """
        p = self.probabilities().detach().cpu()
        open_ones = torch.tensor(self.counts) > 1
        if not bool(open_ones.any()):
            return 0.0
        each = -(p * p.clamp_min(1e-30).log()).sum(1)
        return float((each / torch.tensor(self.counts).log())[open_ones].mean())


class ExpectedCost(nn.Module):
    """The expectation of a sum of tables under independent choices, differentiable.

    Args:
        terms: the tables with the rows of `Choices.probabilities` that they depend on.
        unit: what a cost of 1 means; all tables are divided by it.
    """

    table: Tensor
    first: Tensor
    second: Tensor
    certain: Tensor

    def __init__(self, terms: Sequence[Term], rows: int, unit: float = 1.0) -> None:
        super().__init__()
        widest = max(max(table.shape) for _, _, table in terms)
        table = torch.zeros(len(terms), widest, widest, dtype=torch.float64)
        for i, (_, _, costs) in enumerate(terms):
            table[i, : costs.shape[0], : costs.shape[1]] = costs / unit
        # Row ``rows`` stands for "no choice": all its weight is on the only candidate.
        self.register_buffer("first", torch.tensor([rows if a is None else a for a, _, _ in terms]))
        self.register_buffer(
            "second", torch.tensor([rows if b is None else b for _, b, _ in terms])
        )
        self.register_buffer("table", table.float())
        self.register_buffer("certain", torch.eye(1, widest))

    def forward(self, p: Tensor) -> Tensor:
        """The expected cost (a scalar) under probabilities or masks ``p [rows, K]``."""
        p = self._with_certain(p)
        return torch.einsum("ti,tij,tj->", p[self.first], self.table, p[self.second])

    def each(self, p: Tensor) -> Tensor:
        """The expected cost of each term ``[terms]``, under the same."""
        p = self._with_certain(p)
        return torch.einsum("ti,tij,tj->t", p[self.first], self.table, p[self.second])

    def _with_certain(self, p: Tensor) -> Tensor:
        p = nn.functional.pad(p, (0, self.certain.shape[1] - p.shape[1]))
        return torch.cat([p, self.certain])


def choice_rows(space: Space) -> dict[str, tuple[int | None, int | None]]:
    """Which of the space's choices decides the weight and the activation bits of each layer.

    None where the bits are pinned. In a paired space both are the same row.
    """
    rows: dict[str, list[int | None]] = {name: [None, None] for name in space.names}
    for row, choice in enumerate(space.choices):
        for name in choice.layers:
            if choice.kind != "act":
                rows[name][0] = row
            if choice.kind != "weight":
                rows[name][1] = row
    return {name: (weight, act) for name, (weight, act) in rows.items()}


def expected_cost(
    space: Space, costs: Mapping[str, Mapping[tuple[int, int], float]], unit: float = 1.0
) -> ExpectedCost:
    """The expected cost of the space's choices, from `frameworks.Problem.layer_costs`.

    Pairs that the hardware does not support count as the layer's dearest pair.
    """
    terms: list[Term] = []
    for name, (weight, act) in choice_rows(space).items():
        dearest = max(costs[name].values())
        w_bits, a_bits = space.weight_bits[name], space.act_bits[name]
        if space.paired:
            values = [[costs[name].get((bits, bits), dearest)] for bits in w_bits]
            act = None
        else:
            values = [[costs[name].get((w, a), dearest) for a in a_bits] for w in w_bits]
        terms.append((weight, act, torch.tensor(values, dtype=torch.float64)))
    return ExpectedCost(terms, len(space.choices), unit)
