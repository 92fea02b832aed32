"""Contract tests that the author of a hardware target subclasses."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import ClassVar
from unittest import SkipTest

import numpy as np

from frameworks.core.budget import BudgetSpec
from frameworks.core.layers import Layer
from frameworks.core.networks.taking.describe import describe
from frameworks.core.policy import FLOAT, PRUNED, LayerBits, Policy
from frameworks.core.target import Target
from frameworks.testing import toy


class TargetContract:
    """What the suite relies on in every hardware target.

    Attributes:
        target: an instance.
        bits: candidates for weights and activations; only pairs that it supports are asked for.
        monotone: whether more bits never cost less; None for what the target says of itself.
    """

    target: ClassVar[Target]
    bits: ClassVar[Sequence[int]] = (2, 4, 8)
    monotone: ClassVar[bool | None] = None

    def layers(self) -> tuple[Layer, ...]:
        """The layers that are priced: those of the toy network by default."""
        return describe(toy.network(toy.ToyConvNet), toy.SHAPE)

    def pairs(self, layer: Layer) -> list[tuple[int, int]]:
        """The pairs of weight and activation bits that a layer may have."""
        every = [(w, a) for w in self.bits for a in self.bits]
        return [pair for pair in every if self.target.supports(layer, *pair)]

    def common(self) -> list[tuple[int, int]]:
        """The pairs that every layer may have, from few bits to many."""
        return sorted(set.intersection(*(set(self.pairs(layer)) for layer in self.layers())))

    def policies(self, count: int = 20) -> list[Policy]:
        """Random policies that the target supports."""
        rng = np.random.default_rng(0)
        policies = []
        for _ in range(count):
            bits = {}
            for layer in self.layers():
                pairs = self.pairs(layer)
                bits[layer.name] = pairs[int(rng.integers(len(pairs)))]
            policies.append(Policy(bits))
        return policies

    def test_facts(self) -> None:
        target = self.target
        assert target.kind in ("model", "table", "measured")
        assert target.metrics
        assert target.metric == next(iter(target.metrics))
        assert all(isinstance(unit, str) for unit in target.metrics.values())
        target.prepare(self.layers())

    def test_costs_are_finite_and_not_negative(self) -> None:
        for policy in self.policies():
            costs = self.target.cost(self.layers(), policy)
            assert set(costs) == set(self.target.metrics)
            assert all(0 <= value < float("inf") for value in costs.values())

    def test_supports_answers_for_every_layer(self) -> None:
        for layer in self.layers():
            answers = [self.target.supports(layer, w, a) for w in self.bits for a in self.bits]
            assert all(isinstance(answer, bool) for answer in answers)
            assert any(answers), f"{layer.name} is supported at none of {list(self.bits)}"

    def test_refuses_what_it_does_not_support(self) -> None:
        layers, bits = self.layers(), max(self.bits)
        for layer in layers:
            for pair in product((*self.bits, FLOAT), repeat=2):
                if self.target.supports(layer, *pair):
                    continue
                policy = Policy.uniform(layers, bits, bits)
                policy = policy.replace(layer.name, weight=pair[0], act=pair[1])
                assert layer.name in _refusal(self.target, layers, policy), (layer.name, pair)

    def test_more_bits_never_cost_less(self) -> None:
        if not (self.target.monotone if self.monotone is None else self.monotone):
            raise SkipTest("the target does not claim it")
        layers = self.layers()
        for policy in self.policies(8):
            costs = self.target.cost(layers, policy)
            for layer in layers:
                for bits in _raised(policy[layer.name], self.pairs(layer)):
                    more = self.target.cost(layers, Policy({**policy, layer.name: bits}))
                    assert all(more[metric] >= costs[metric] for metric in costs), (layer, bits)

    def test_separable_costs_add_up(self) -> None:
        if not self.target.separable:
            raise SkipTest("the cost is not a sum over layers")
        layers = self.layers()
        for policy in self.policies(8):
            parts = [self.target.cost([layer], policy) for layer in layers]
            for metric, total in self.target.cost(layers, policy).items():
                assert np.isclose(total, sum(part[metric] for part in parts), rtol=1e-9)

    def test_pruning_a_layer_never_costs_more(self) -> None:
        layers = self.layers()
        for policy in self.policies(4):
            costs = self.target.cost(layers, policy)
            for layer in layers:
                pruned = self.target.cost(layers, policy.replace(layer.name, weight=PRUNED))
                assert all(pruned[metric] <= costs[metric] for metric in costs)

    def test_a_network_without_weights_costs_nothing(self) -> None:
        layers = self.layers()
        costs = self.target.cost(layers, Policy.uniform(layers, PRUNED, max(self.bits)))
        assert costs == dict.fromkeys(self.target.metrics, 0.0)

    def test_a_pruned_layer_costs_nothing(self) -> None:
        if not self.target.separable:
            raise SkipTest("the cost is not a sum over layers")
        for layer in self.layers():
            policy = Policy({layer.name: (PRUNED, self.pairs(layer)[0][1])})
            assert not any(self.target.cost([layer], policy).values())

    def test_pruned_channels_leave_size_and_bit_operations(self) -> None:
        if not self.target.per_channel:
            raise SkipTest("no bits per output channel")
        layers = self.layers()
        bits, act = self.common()[-1]
        policy = Policy.uniform(layers, bits, act)
        for layer in layers:
            gone = layer.out_channels // 4
            some = (PRUNED,) * gone + (bits,) * (layer.out_channels - gone)
            whole, part, none = (
                self.target.cost(layers, policy.replace(layer.name, weight=weight))
                for weight in (bits, some, PRUNED)
            )
            for metric in {"size", "bops"} & set(self.target.metrics):
                share = gone / layer.out_channels
                saved = (whole[metric] - none[metric]) * share
                assert np.isclose(whole[metric] - part[metric], saved, rtol=1e-9)
                assert none[metric] < whole[metric]

    def test_channels_cost_between_their_extremes(self) -> None:
        if not self.target.per_channel:
            raise SkipTest("no bits per output channel")
        layers = self.layers()
        high, act = self.common()[-1]
        low = min(w for w, a in self.common() if a == act)
        for layer in layers:
            half = layer.out_channels // 2
            mixed = (low,) * half + (high,) * (layer.out_channels - half)
            policy = Policy.uniform(layers, high, act)
            costs = [
                self.target.cost(layers, policy.replace(layer.name, weight=weight))
                for weight in (low, mixed, high)
            ]
            assert all(costs[0][m] <= costs[1][m] <= costs[2][m] for m in self.target.metrics)

    def test_activation_bits_matter_as_declared(self) -> None:
        layers, common = self.layers(), self.common()
        high = max(w for w, _ in common)
        acts = [a for w, a in common if w == high]
        if len(acts) < 2:
            raise SkipTest("activation bits are tied to weight bits")
        costs = [self.target.cost(layers, Policy.uniform(layers, high, a)) for a in acts]
        assert (costs[0] != costs[-1]) == self.target.prices_activations

    def test_resolves_relative_budgets(self) -> None:
        equal = [w for w, a in self.common() if w == a]
        if not equal:
            raise SkipTest("no uniform policy to refer to")
        bits, every = max(equal), {(w, a) for w in equal for a in equal}
        problem = toy.make_problem(
            self.target,
            budget=BudgetSpec(like=bits),
            bits=equal,
            paired=not every.issubset(self.common()),
        )
        assert problem.within(problem.space.reference(bits, bits))
        lowest = problem.cost(problem.space.lowest())[self.target.metric]
        assert lowest <= problem.budget.limit or not self.target.monotone


def _refusal(target: Target, layers: Sequence[Layer], policy: Policy) -> str:
    """Why the target prices no such policy; empty if it does."""
    try:
        target.cost(layers, policy)
    except ValueError as error:
        return str(error)
    return ""


def _raised(entry: LayerBits, pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    assert isinstance(entry.weight, int)
    old = (entry.weight, entry.act)
    return [(w, a) for w, a in pairs if w >= old[0] and a >= old[1] and (w, a) != old]
