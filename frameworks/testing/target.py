"""Contract tests that the author of a hardware target subclasses."""

from __future__ import annotations

import math
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
        kinds = ("model", "table", "measured")
        assert target.kind in kinds, f"kind = {target.kind!r}: choose from {', '.join(kinds)}"
        assert target.metrics, "metrics is empty: give each metric's unit, as in {'latency': 'ms'}"
        first = next(iter(target.metrics))
        assert target.metric == first, (
            f"metric = {target.metric!r}: the default is the first of metrics, {first!r}"
        )
        wrong = {name: unit for name, unit in target.metrics.items() if not isinstance(unit, str)}
        assert not wrong, f"metrics: units are texts such as 'ms', not {wrong}"
        target.prepare(self.layers())

    def test_costs_are_finite_and_not_negative(self) -> None:
        for policy in self.policies():
            costs = self.target.cost(self.layers(), policy)
            assert set(costs) == set(self.target.metrics), (
                f"cost gives {sorted(costs)}, and metrics names {sorted(self.target.metrics)}: "
                "give a number for each metric"
            )
            wrong = {name: value for name, value in costs.items() if not 0 <= value < math.inf}
            assert not wrong, f"cost gives {wrong} for {policy}: costs are finite and from 0"

    def test_supports_answers_for_every_layer(self) -> None:
        for layer in self.layers():
            answers = [self.target.supports(layer, w, a) for w in self.bits for a in self.bits]
            wrong = [answer for answer in answers if not isinstance(answer, bool)]
            assert not wrong, f"supports answers {wrong} for {layer.name}: give True or False"
            assert any(answers), f"{layer.name} is supported at none of {list(self.bits)}"

    def test_refuses_what_it_does_not_support(self) -> None:
        layers, bits = self.layers(), max(self.bits)
        for layer in layers:
            for pair in product((*self.bits, FLOAT), repeat=2):
                if self.target.supports(layer, *pair):
                    continue
                policy = Policy.uniform(layers, bits, bits)
                policy = policy.replace(layer.name, weight=pair[0], act=pair[1])
                said = _refusal(self.target, layers, policy)
                assert layer.name in said, (
                    f"supports refuses {pair} for {layer.name}, and cost "
                    f"{f'says {said!r}' if said else 'prices it'}: raise UnsupportedBits with the "
                    "layer's name"
                )

    def test_more_bits_never_cost_less(self) -> None:
        if not (self.target.monotone if self.monotone is None else self.monotone):
            raise SkipTest("the target does not claim it")
        layers = self.layers()
        for policy in self.policies(8):
            costs = self.target.cost(layers, policy)
            for layer in layers:
                for bits in _raised(policy[layer.name], self.pairs(layer)):
                    more = self.target.cost(layers, Policy({**policy, layer.name: bits}))
                    assert all(more[metric] >= costs[metric] for metric in costs), (
                        f"{layer.name} at {bits} costs {more}, at {policy[layer.name]} {costs}: "
                        "set monotone = False where more bits can cost less"
                    )

    def test_separable_costs_add_up(self) -> None:
        if not self.target.separable:
            raise SkipTest("the cost is not a sum over layers")
        layers = self.layers()
        for policy in self.policies(8):
            parts = [self.target.cost([layer], policy) for layer in layers]
            for metric, total in self.target.cost(layers, policy).items():
                added = sum(part[metric] for part in parts)
                assert np.isclose(total, added, rtol=1e-9), (
                    f"{metric} of the network is {total}, of its layers together {added}: set "
                    "separable = False where a cost is no sum over layers"
                )

    def test_pruning_a_layer_never_costs_more(self) -> None:
        layers = self.layers()
        for policy in self.policies(4):
            costs = self.target.cost(layers, policy)
            for layer in layers:
                pruned = self.target.cost(layers, policy.replace(layer.name, weight=PRUNED))
                assert all(pruned[metric] <= costs[metric] for metric in costs), (
                    f"without {layer.name} the network costs {pruned}, with it {costs}: a layer of "
                    "0 bits must not cost more"
                )

    def test_a_network_without_weights_costs_nothing(self) -> None:
        layers = self.layers()
        costs = self.target.cost(layers, Policy.uniform(layers, PRUNED, max(self.bits)))
        assert costs == dict.fromkeys(self.target.metrics, 0.0), (
            f"cost gives {costs} where all layers have 0 bits: it must be 0, as nothing is left"
        )

    def test_a_pruned_layer_costs_nothing(self) -> None:
        if not self.target.separable:
            raise SkipTest("the cost is not a sum over layers")
        for layer in self.layers():
            policy = Policy({layer.name: (PRUNED, self.pairs(layer)[0][1])})
            costs = self.target.cost([layer], policy)
            assert not any(costs.values()), f"{layer.name} of 0 bits costs {costs}: it must be 0"

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
                assert np.isclose(whole[metric] - part[metric], saved, rtol=1e-9), (
                    f"{metric} falls by {whole[metric] - part[metric]} where {share:.0%} of the "
                    f"channels of {layer.name} have 0 bits, not by their share {saved}"
                )
                assert none[metric] < whole[metric], (
                    f"{metric} without {layer.name} is {none[metric]}, with it {whole[metric]}: a "
                    "layer of 0 bits must leave it"
                )

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
            assert all(costs[0][m] <= costs[1][m] <= costs[2][m] for m in self.target.metrics), (
                f"{layer.name} costs {costs[1]} with channels of {low} and of {high} bits, all of "
                f"{low} {costs[0]}, all of {high} {costs[2]}: it must lie between them"
            )

    def test_activation_bits_matter_as_declared(self) -> None:
        layers, common = self.layers(), self.common()
        high = max(w for w, _ in common)
        acts = [a for w, a in common if w == high]
        if len(acts) < 2:
            raise SkipTest("activation bits are tied to weight bits")
        costs = [self.target.cost(layers, Policy.uniform(layers, high, a)) for a in acts]
        assert (costs[0] != costs[-1]) == self.target.prices_activations, (
            f"prices_activations = {self.target.prices_activations}, and activations of "
            f"{acts[0]} and {acts[-1]} bits cost {costs[0]} and {costs[-1]}: say what holds"
        )

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
        cost = problem.cost(problem.space.reference(bits, bits))
        assert problem.within(problem.space.reference(bits, bits)), (
            f"uniform {bits} bits cost {cost}, over the budget like={bits}, {problem.budget}: cost "
            "must give the same for the same policy"
        )
        lowest = problem.cost(problem.space.lowest())[self.target.metric]
        assert lowest <= problem.budget.limit or not self.target.monotone, (
            f"the fewest bits cost {lowest}, over the budget like={bits}, {problem.budget.limit}: "
            "set monotone = False where more bits can cost less"
        )


def _refusal(target: Target, layers: Sequence[Layer], policy: Policy) -> str:
    """Why the target prices no such policy; empty if it does."""
    try:
        target.cost(layers, policy)
    except ValueError as error:
        return str(error)
    return ""


def _raised(entry: LayerBits, pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    assert isinstance(entry.weight, int), f"bits by output channel where one is due: {entry}"
    old = (entry.weight, entry.act)
    return [(w, a) for w, a in pairs if w >= old[0] and a >= old[1] and (w, a) != old]
