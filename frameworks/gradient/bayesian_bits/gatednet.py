"""A network whose bits and output channels are behind stochastic gates.

Every weight and every input of a layer with a free choice has a `GatedResidual` quantizer: one gate
for each of the choice's bits above its fewest, shared by all tensors that the choice decides. With
pruning, every output channel of a searched weight has a gate too. A weight that several layers use
has one quantizer, and keeps all of its channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from frameworks.core.networks.qlayer import QLayer
from frameworks.core.policy import PRUNED, LayerBits, Policy
from frameworks.core.problem import Problem
from frameworks.core.quantizers.base import Quantizer
from frameworks.core.supernets.gates import HardConcrete
from frameworks.core.supernets.relaxations import choice_rows
from frameworks.gradient.bayesian_bits.residual import GatedResidual


class GatedNet:
    """The problem's network with gated quantizers; pinned bits have the protocol's.

    Args:
        problem: gives network, quantizers and space.
        levels: the bits of each of the space's choices, ascending.
        starts: the first logits of each choice's gates, one less than its levels.
        channels: the first logit of every channel's gate; None for no pruning.
    """

    def __init__(
        self,
        problem: Problem,
        levels: Sequence[Sequence[int]],
        starts: Sequence[Sequence[float]],
        channels: float | None = None,
    ) -> None:
        self.problem = problem
        self.qmodel = problem.quantized()
        self.rows = choice_rows(problem.space)
        self.levels = levels
        self.bits = [HardConcrete(start).to(problem.device) for start in starts]
        self.channels: dict[str, HardConcrete] = {}
        several = {n for x in problem.layers if x.shared for n in (x.name, x.shared)}
        for name, qlayer in self.qmodel.qlayers():
            if owner := qlayer.layer.shared:
                qlayer.weight_quantizer = self.qmodel.qlayer(owner).weight_quantizer
            else:
                qlayer.weight_quantizer = self._quantizer(name, "weight", self.rows[name][0])
            qlayer.act_quantizer = self._quantizer(name, "act", self.rows[name][1])
            if channels is not None and self.rows[name][0] is not None and name not in several:
                gates = HardConcrete([channels] * qlayer.layer.out_channels)
                self.channels[name] = gates.to(problem.device)

    def _quantizer(self, name: str, kind: Literal["weight", "act"], row: int | None) -> Quantizer:
        space = self.problem.space
        table = space.weight_bits if kind == "weight" else space.act_bits
        levels = table[name][:1] if row is None else self.levels[row]
        every = [self.problem.quantizer(name, kind, bits) for bits in levels]
        quantizer = every[0] if row is None else GatedResidual(every)
        quantizer.learn_range()
        return quantizer

    def gates(self) -> list[HardConcrete]:
        """Those of bits, then those of channels."""
        return [*self.bits, *self.channels.values()]

    def sample(self, generator: torch.Generator, cut: float) -> None:
        """Draw all gates for the next pass; logits up to ``cut`` shut their level and those above.

        Channels are never cut.
        """
        drawn = [gate.sample(generator) for gate in self.bits]
        passes = [(gate.logits > cut).tolist() for gate in self.bits]
        for name, qlayer in self.qmodel.qlayers():
            for quantizer, row in zip(_pair(qlayer), self.rows[name], strict=True):
                if isinstance(quantizer, GatedResidual) and row is not None:
                    pairs = zip(drawn[row].unbind(), passes[row], strict=True)
                    quantizer.gates = [z if keep else None for z, keep in pairs]
            if name in self.channels:
                weight = qlayer.weight_quantizer
                assert isinstance(weight, GatedResidual)
                weight.first = self.channels[name].sample(generator)

    def searched(self) -> Iterator[tuple[str, Sequence[int], list[Tensor]]]:
        """Layer, levels and ``P(z > 0)`` of each level, for every tensor with gates.

        The first is that of the tensor's channels ``[C]``, or 1 where they have no gates.
        """
        one = torch.ones(1, device=self.problem.device)
        for name, (weight, act) in self.rows.items():
            if weight is not None:
                gate = self.channels.get(name)
                first = one if gate is None else gate.active()
                yield name, self.levels[weight], [first, *self.bits[weight].active().unbind()]
            if act is not None:
                yield name, self.levels[act], [one, *self.bits[act].active().unbind()]

    @torch.no_grad()
    def decided(self, cut: float, threshold: float, sure: float = 0.9) -> float:
        """The share of the gates that are settled, and not drawn anew in every pass.

        A gate is open for sure if a draw is 1 with a probability of at least ``sure``, shut for
        sure up to ``cut``. Gates above one that is shut at the end decide nothing and are left out.
        """
        settled: list[bool] = []
        for gate in self.bits:
            open_ones = [*gate.decided(threshold), False]
            count = open_ones.index(False) + 1
            settled += ((gate.exceeds(1.0) >= sure) | (gate.logits <= cut)).tolist()[:count]
        for gate in self.channels.values():
            shut = 1 - gate.active() >= sure
            settled += ((gate.exceeds(1.0) >= sure) | shut).tolist()
        return sum(settled) / max(len(settled), 1)

    def policy(self, threshold: float) -> Policy:
        """Every level up to the first shut gate; 0 bits for shut channels."""
        values = []
        for levels, gate in zip(self.levels, self.bits, strict=True):
            decided = [*gate.decided(threshold), False]
            values.append(levels[decided.index(False)])
        policy = dict(self.problem.space.decode(values))
        for name, channels in self.channels.items():
            weight, act = policy[name].weight, policy[name].act
            assert isinstance(weight, int)
            kept = channels.decided(threshold)
            policy[name] = LayerBits(tuple(weight if open_ else PRUNED for open_ in kept), act)
        return Policy(policy)


def _pair(qlayer: QLayer) -> tuple[Quantizer, Quantizer]:
    return qlayer.weight_quantizer, qlayer.act_quantizer
