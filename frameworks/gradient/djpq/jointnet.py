"""A network whose bits are learned by its quantizers and whose channels are behind gates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from frameworks.core.policy import FLOAT, PRUNED, LayerBits, Policy
from frameworks.core.problem import Problem
from frameworks.core.quantizers.base import Quantizer
from frameworks.core.supernets.fractional import fractional_rows, hats
from frameworks.core.supernets.placed import PlacedNet, Spot, raised
from frameworks.core.supernets.relaxations import expected_cost
from frameworks.gradient.djpq.bottleneck import Bottleneck, fold, gated_layers
from frameworks.gradient.djpq.power import DJPQScheme, PowerQuantizer, bits_of

POWERS = (2, 4, 8, 16)
START = 8
"""First bits of every tensor that may have as many."""
ALMOST = 1e-3
"""Bits that rounding up overlooks, as logarithms are not exact."""


def reachable(bits: Sequence[int], signed: bool, restrict: bool) -> tuple[int, ...]:
    """The candidates that a learned quantizer can have: integers, of signed data at least 2."""
    whole = tuple(b for b in bits if 1 + signed <= b < FLOAT)
    return tuple(b for b in whole if b in POWERS) if restrict else whole


class JointNet:
    """The problem's network with a `PowerQuantizer` at every tensor that is searched.

    Args:
        problem: gives network and space.
        restrict: whether bits are powers of two.
        threshold: ratio of a gate below which its channel is pruned.
        prune: whether layers with a BatchNorm directly behind have gates.

    Attributes:
        qmodel: the network.
        tensors: searched tensors with their quantizers, weights first; a shared weight once.
        norms: by layer, the BatchNorm behind its gates.
        gates: by layer.
    """

    def __init__(self, problem: Problem, restrict: bool, threshold: float, prune: bool) -> None:
        self.problem, self.restrict, self.threshold = problem, restrict, threshold
        self.own = isinstance(problem.scheme, DJPQScheme)
        self.placed = PlacedNet(problem, self._quantizer)
        self.qmodel = self.placed.qmodel
        every = [*self.placed.placed("weight"), *self.placed.placed("act")]
        self.tensors = [(spot, q) for spot, q in every if isinstance(q, PowerQuantizer)]
        generator = problem.generator("djpq gates")
        found = [spot.layer for spot, _ in self.placed.placed("weight")] if prune else []
        self.norms = gated_layers(problem, found)
        self.gates: dict[str, Bottleneck] = {}
        for layer in found:
            if layer.name in self.norms:
                gate = Bottleneck(layer.out_channels, layer.positions, generator)
                self.gates[layer.name] = gate.to(problem.device)
                self._norm(layer.name).register_forward_hook(self._noisy(self.gates[layer.name]))
        self._noise = problem.generator("djpq noise")
        self._cost = expected_cost(problem.space, costs_of(problem)).to(problem.device)
        for module in self.qmodel.modules():
            if isinstance(module, Quantizer) and not isinstance(module, PowerQuantizer):
                module.learn_range(False)  # not in logarithms: of another scale

    def _quantizer(self, spot: Spot) -> Quantizer:
        bits = reachable(spot.bits, spot.signed, self.restrict)
        unit = None if self.own else channel_units(self.problem, spot)
        data = spot.tensor if unit is None else spot.tensor / unit
        bends = self.own and spot.kind == "weight"
        restricted = bits if self.restrict else ()
        made = PowerQuantizer(data.abs().max(), bits[-1], spot.signed, bends, restricted, unit)
        made.keep_between(bits[0], max(START, bits[0]))
        made.caps = False  # `keep_within` does it
        return made

    def _norm(self, layer: str) -> nn.Module:
        return self.qmodel.model.get_submodule(self.norms[layer])

    def _noisy(self, gate: Bottleneck) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def hook(module: nn.Module, args: Any, out: Tensor) -> Tensor:
            z = gate.sample(len(out), self._noise)
            return out * z.view(*z.shape, *(1,) * (out.dim() - 2))

        return hook

    def quantizer_parameters(self) -> list[nn.Parameter]:
        """Steps, ranges and exponents, those of pinned tensors under the paper's scheme too."""
        return [p for p in self.qmodel.range_parameters() if p.requires_grad]

    def gate_parameters(self) -> list[nn.Parameter]:
        """Means and log variances of all gates."""
        return [p for gate in self.gates.values() for p in gate.parameters()]

    def keep_within(self) -> None:
        """Bring the bits of all tensors back between their fewest and their most candidates."""
        for spot, quantizer in self.tensors:
            bits = reachable(spot.bits, spot.signed, self.restrict)
            quantizer.keep_between(bits[0], bits[-1])

    def bits(self) -> list[Tensor]:
        """Of each of the space's choices: the most bits of its tensors, a scalar."""
        found: list[list[Tensor]] = [[] for _ in self.problem.space.choices]
        every = bits_of([quantizer for _, quantizer in self.tensors])
        for (spot, _), bits in zip(self.tensors, every.unbind(), strict=True):
            found[spot.row].append(bits)
        return [each[0] if len(each) == 1 else torch.stack(each).max() for each in found]

    def cost(self) -> Tensor:
        """``sum_l r_l C_l(b_w, b_a)``: each layer's cost at soft bits times its share of channels.

        For bit operations C is MACs b_w b_a. A scalar.
        """
        bits, options = self.bits(), {choice.bits for choice in self.problem.space.choices}
        if len(options) == 1:  # one call in the place of one a choice
            rows = hats(options.pop(), torch.stack(bits))
        else:
            rows = fractional_rows(self.problem.space, bits)
        each = self._cost.each(rows)
        if self.gates:
            kept = {name: gate.soft_share(self.threshold) for name, gate in self.gates.items()}
            whole = torch.ones_like(each[0])
            each = each * torch.stack([kept.get(n, whole) for n in self.problem.space.names])
        return each.sum()

    def information(self) -> Tensor:
        """L_VIB, a scalar; 0 without gates."""
        terms = [gate.information() for gate in self.gates.values()]
        return torch.stack(terms).sum() if terms else self._cost.table.new_zeros(())

    @torch.no_grad()
    def policy(self) -> Policy:
        """Bits rounded up to candidates, 0 for channels below the threshold."""
        wanted: dict[str, dict[str, int]] = {"weight": {}, "act": {}}
        for (name, kind), quantizer in self.placed.quantizers.items():
            assert isinstance(quantizer, PowerQuantizer)
            wanted[kind][name] = math.ceil(float(quantizer.bits()) - ALMOST)
        policy = dict(raised(self.problem.space, wanted["weight"], wanted["act"]))
        for name, gate in self.gates.items():
            bits, kept = policy[name], gate.kept(self.threshold).tolist()
            assert isinstance(bits.weight, int)
            weight = tuple(bits.weight if keep else PRUNED for keep in kept)
            policy[name] = LayerBits(weight, bits.act)
        return Policy(policy)

    def fold(self) -> None:
        """Put the gates' means into the BatchNorms, in place; pruned channels are 0 there."""
        for name, gate in self.gates.items():
            fold(self._norm(name), gate, self.threshold)

    def learned(self) -> dict[str, list[list[float] | None]]:
        """d, q_m and t of each layer's weight and input; None for other quantizers."""
        return {
            name: [
                part.learned() if isinstance(part, PowerQuantizer) else None
                for part in (q.weight_quantizer, q.act_quantizer)
            ]
            for name, q in self.qmodel.qlayers()
        }

    def pruned(self) -> float:
        """The share of the gated channels that are below the threshold."""
        kept = [gate.kept(self.threshold) for gate in self.gates.values()]
        return float((~torch.cat(kept)).float().mean()) if kept else 0.0


def costs_of(problem: Problem) -> dict[str, dict[tuple[int, int], float]]:
    """Costs of each layer by bits; bit operations where the target's is no sum over layers."""
    if problem.target.separable:
        return problem.layer_costs()
    space = problem.space
    return {
        layer.name: {
            (w, a): float(layer.macs * w * a)
            for w in space.weight_bits[layer.name]
            for a in space.act_bits[layer.name]
        }
        for layer in problem.layers
    }


def channel_units(problem: Problem, spot: Spot) -> Tensor | None:
    """The range of each output channel under the protocol's quantizer ``[C, 1, ...]``.

    None where it has one range, or no uniform grid, for the whole tensor.
    """
    if spot.kind != "weight":
        return None
    most = max(b for b in spot.bits if b < FLOAT)
    codes = problem.quantizer(spot.layer.name, "weight", most).codes(spot.tensor)
    whole = codes.codebook is not None or codes.scale.dim() < 2
    return None if whole else codes.scale * 2.0 ** (most - 1)
