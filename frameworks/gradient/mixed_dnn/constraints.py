"""What inferred bits cost, as shares of what they may.

Uhlich et al., arXiv 1905.11452: the memory of all weights, sum_l n_l b_l, and that of activations,
the sum over layers or the largest, must not exceed what there is. The bits are those of the grids
(`frameworks.gradient.mixed_dnn.quantizer.ParametricQuantizer.needed`), raised to the next candidate
with the gradient of the identity; tied layers have the most of any of them. The pull does not end
at the fewest candidate, of which a grid may learn fewer bits yet, to no one's gain: it is priced as
the candidate is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from frameworks.core.problem import Problem
from frameworks.core.quantizers.base import straight_through
from frameworks.core.supernets.fractional import FractionalCost
from frameworks.core.supernets.placed import PlacedNet
from frameworks.gradient.mixed_dnn.quantizer import ParametricQuantizer

MEMORIES = ("budget", "sum", "max")


class Constraints(nn.Module):
    """The budget, and on demand the paper's two memories.

    The memories may be those of the uniform bits that use up the budget.

    Args:
        problem: with budget and space.
        net: with a `ParametricQuantizer` at every spot.
        memories: ``sum`` or ``max`` adds the memory of weights and that of activations, summed over
            layers' inputs or the largest; ``budget`` adds none.
    """

    def __init__(self, problem: Problem, net: PlacedNet, memories: str) -> None:
        super().__init__()
        self.space, self.memories = problem.space, memories
        self.cost = FractionalCost(problem)
        self.grids: list[list[ParametricQuantizer]] = [[] for _ in self.space.choices]
        for key, spot in net.spots.items():
            quantizer = net.quantizers[key]
            assert isinstance(quantizer, ParametricQuantizer)
            self.grids[spot.row].append(quantizer)
        uniform = torch.tensor(self.cost.uniform(), device=problem.device)
        self.limits = self.memory([uniform] * len(self.space.choices))

    def bits(self) -> list[Tensor]:
        """The candidate of each choice that its grids need: scalars."""
        found = []
        for choice, grids in zip(self.space.choices, self.grids, strict=True):
            needed = torch.stack([grid.needed() for grid in grids]).max()
            least = float(needed.detach())
            enough = [b for b in choice.bits if b >= least] or [choice.bits[-1]]
            found.append(straight_through(needed, torch.full_like(needed, enough[0])))
        return found

    @torch.no_grad()
    def values(self) -> list[int]:
        """As `bits`, in numbers."""
        return [int(each) for each in self.bits()]

    def memory(self, bits: list[Tensor]) -> Tensor:
        """KB of weights and of activations ``[2]``; pinned layers count."""
        weight, act = dict[str, Tensor | int](), dict[str, Tensor | int]()
        for choice, each in zip(self.space.choices, bits, strict=True):
            for name in choice.layers:
                if choice.kind != "act":
                    weight[name] = each
                if choice.kind != "weight":
                    act[name] = each
        space, zero = self.space, bits[0].new_zeros(())
        of_weights, of_acts = [], []
        for layer in space.layers:
            name = layer.name
            of_weights.append(zero + layer.stored * weight.get(name, space.weight_bits[name][-1]))
            of_acts.append(zero + layer.in_elements * act.get(name, space.act_bits[name][-1]))
        acts = torch.stack(of_acts)
        both = torch.stack(
            [torch.stack(of_weights).sum(), acts.max() if self.memories == "max" else acts.sum()]
        )
        return both / (8 * 1024)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Shares of the budget's limits ``[metrics]``, and of all constraints."""
        bits = self.bits()
        shares = self.cost(bits)
        if self.memories == "budget":
            return shares, shares
        return shares, torch.cat([shares, self.memory(bits) / self.limits])
