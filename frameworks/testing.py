"""Contract tests that the author of a plugin subclasses in a test file of their own.

    from frameworks.testing import FrameworkContract

    class TestMyMethod(FrameworkContract):
        framework = MyMethod(steps=3)      # small hyper-parameters, so that it takes a second

pytest collects the inherited tests. They run on the toy problems of `frameworks.toy` and need no
data and no pytest themselves. A test that does not apply is skipped with its reason.
"""

from __future__ import annotations

import dataclasses
import json
import pickle
import random
import re
from collections.abc import Sequence
from itertools import pairwise, product
from typing import Any, ClassVar
from unittest import SkipTest

import numpy as np
import torch
from torch import Tensor, nn

from frameworks import toy
from frameworks.core.budget import BudgetSpec
from frameworks.core.card import NEEDS
from frameworks.core.framework import Framework, ScoringFramework
from frameworks.core.layers import Layer
from frameworks.core.networks.describe import describe
from frameworks.core.policy import FLOAT, PRUNED, LayerBits, Policy
from frameworks.core.problem import Problem
from frameworks.core.quantizers.base import Float, Quantizer, Scheme
from frameworks.core.registry import frameworks as registry
from frameworks.core.registry import schemes
from frameworks.core.solution import Scores, Solution
from frameworks.core.steering import steer
from frameworks.core.target import Target

BITS = range(1, 9)


def _global_random_state() -> tuple[Any, ...]:
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002 (it is the global state we check)
    return random.getstate(), kind, np.asarray(keys).tobytes(), rest, torch.get_rng_state().tolist()


def _plain(data: Any) -> Any:
    return json.loads(json.dumps(data, allow_nan=False))


class FrameworkContract:
    """What the suite relies on in every framework.

    Attributes:
        framework: an instance with hyper-parameters small enough for a test.
        likes: budgets that are tried, as the bits of the uniform policy of equal cost.
        steering_runs: how many searches a method that steers by a penalty may use.
    """

    framework: ClassVar[Framework]
    likes: ClassVar[Sequence[float]] = (2.5, 4)
    steering_runs: ClassVar[int] = 6

    def problem(self, target: Target | str = "bops", **changes: Any) -> Problem:
        """A toy problem with the data that the card names, and no other.

        Raises:
            SkipTest: the framework says that it cannot solve it.
        """
        needs = self.framework.card.needs & set(toy.DATA_NEEDS)
        problem = toy.make_problem(target, **{"like": 3, "needs": needs, **changes})
        reason = self.framework.skip(problem)
        if reason is not None:
            raise SkipTest(reason)
        return problem

    def search(self, problem: Problem) -> Solution:
        """The search as the suite runs it."""
        return steer(dataclasses.replace(self.framework), problem, self.steering_runs)  # type: ignore[type-var]

    def check(self, problem: Problem, solution: Solution) -> None:
        """The policy and all checkpoints belong to the space, and the budget is met.

        A steered method whose penalty met it only by destroying the network must say so.
        """
        problem.space.validate(solution.policy)
        for checkpoint in problem.checkpoints:
            problem.space.validate(checkpoint.policy)
        for point in solution.front:
            problem.space.validate(point.policy)
        cost = problem.cost(solution.policy)[problem.budget.metric]
        destroyed = self.framework.strength is not None and solution.notes.get("collapsed") is True
        assert destroyed or problem.within(solution.policy), f"{cost} is over {problem.budget}"

    # --- facts -----------------------------------------------------------------------------

    def test_is_registered(self) -> None:
        cls = type(self.framework)
        assert registry.get(cls.name) is cls

    def test_card_is_complete(self) -> None:
        card = self.framework.card
        assert card.title.strip()
        assert 1950 <= card.year <= 2100
        assert card.searches
        assert set(card.searches) <= {"weight", "act"}
        assert card.needs
        assert set(card.needs) <= set(NEEDS)
        assert card.quantizer in schemes.names()
        assert re.fullmatch(r"(\d{4}\.\d{4,5})?", card.arxiv)
        assert card.category == "baseline" or card.arxiv or card.venue
        assert all(text.strip() for text in card.deviations)
        assert _plain(card.to_json()) == card.to_json()

    def test_hyperparameters_are_typed_fields_with_defaults(self) -> None:
        cls = type(self.framework)
        assert dataclasses.is_dataclass(cls)
        for field in dataclasses.fields(cls):
            missing = field.default is field.default_factory is dataclasses.MISSING
            assert not missing, f"{field.name} has no default"
            assert field.type not in (Any, "Any"), f"{field.name} has no type"
        hyperparameters = cls().hyperparameters()
        assert set(_plain(hyperparameters)) == set(hyperparameters)
        assert cls.strength is None or hyperparameters[cls.strength] > 0
        cls().validate()
        self.framework.validate()

    def test_skip_gives_a_reason_or_none(self) -> None:
        for target in ("bops", "size", toy.Peak()):
            for kind in (toy.ToyConvNet, toy.ToyViT):
                reason = self.framework.skip(toy.make_problem(target, kind=kind))
                assert reason is None or reason.strip()

    def test_refuses_costs_that_are_no_sum_if_it_needs_one(self) -> None:
        reason = self.framework.skip(toy.make_problem(toy.Peak()))
        assert reason or "separable_cost" not in self.framework.card.needs

    def test_refuses_costs_that_fall_with_more_bits_if_it_lowers_them(self) -> None:
        for metric, falls in (("time", True), ("size", False)):
            budget = BudgetSpec(like=4, metric=metric)
            reason = self.framework.skip(toy.make_problem(toy.Valley(), budget=budget)) or ""
            if "per output channel" not in reason:
                assert (f"raise {metric}" in reason) == (self.framework.lowers_bits and falls)

    # --- the search ------------------------------------------------------------------------

    def test_meets_budgets(self) -> None:
        for target in ("bops", "size"):
            for like in self.likes:
                problem = self.problem(target, like=like)
                self.check(problem, self.search(problem))

    def test_meets_a_budget_that_is_no_sum_over_layers(self) -> None:
        problem = self.problem(toy.Peak())
        self.check(problem, self.search(problem))

    def test_obeys_paired_bits_and_tied_layers(self) -> None:
        groups = [("blocks.0.conv1", "blocks.0.conv2")]
        problem = self.problem(paired=True, groups=groups)
        self.check(problem, self.search(problem))

    def test_works_on_attention(self) -> None:
        problem = self.problem(kind=toy.ToyViT)
        self.check(problem, self.search(problem))

    def test_works_where_the_protocol_trains(self) -> None:
        problem = self.problem(retrains="train" in self.framework.card.needs)
        solution = self.search(problem)
        self.check(problem, solution)
        judge = toy.make_problem(retrains=True)
        trained = self.framework.finish(judge, solution)
        assert trained.policy == solution.policy
        assert all(bool(torch.isfinite(p).all()) for p in trained.parameters())

    def test_same_seed_gives_the_same_bytes(self) -> None:
        outcomes = []
        for _ in range(2):
            problem = self.problem(seed=7)
            solution = self.search(problem)
            score = toy.make_problem(seed=7).evaluate(solution.policy)
            outcomes.append(json.dumps([solution.policy.to_json(), solution.notes, vars(score)]))
        assert outcomes[0] == outcomes[1]

    def test_consumes_no_global_randomness(self) -> None:
        problem = self.problem()
        before = _global_random_state()
        self.search(problem)
        assert _global_random_state() == before

    def test_leaves_the_float_network_as_it_was(self) -> None:
        problem = self.problem()
        before = _state(problem.network)
        self.search(problem)
        after = _state(problem.network)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)

    def test_cost_is_metered_and_checkpoints_are_noted(self) -> None:
        problem = self.problem()
        self.search(problem)
        spent = problem.meter.read()
        assert spent.policies + spent.images_forward + spent.images_backward > 0
        assert problem.checkpoints
        for earlier, later in pairwise(c.spent for c in problem.checkpoints):
            assert earlier.policies <= later.policies
            assert earlier.images_forward <= later.images_forward

    def test_solution_is_plain_data(self) -> None:
        solution = self.search(self.problem())
        assert _plain(solution.notes) is not None
        assert Policy.from_json(_plain(solution.policy.to_json())) == solution.policy
        assert pickle.loads(pickle.dumps(solution)).policy == solution.policy

    def test_scores_are_plain_data_and_serve_every_budget(self) -> None:
        method = self.framework
        if not isinstance(method, ScoringFramework):
            raise SkipTest("scores and solving are one")
        problem = self.problem(like=3)
        kept = _plain(dict(method.score(problem).values))
        assert kept == _plain(dict(method.score(self.problem(like=4)).values))
        fresh = self.problem(like=3)
        assert method.solve(fresh, Scores(kept)).policy == method.search(problem).policy


def _state(model: nn.Module) -> dict[str, Tensor]:
    """Weights, buffers, modes, hooks and gradients: all that a search could leave behind."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for name, module in model.named_modules():
        marks = [module.training, len(module._forward_hooks), len(module._forward_pre_hooks)]
        state[f"{name}:marks"] = torch.tensor([int(mark) for mark in marks])
    for name, parameter in model.named_parameters():
        marks = [parameter.requires_grad, parameter.grad is not None]
        state[f"{name}:gradient"] = torch.tensor([int(mark) for mark in marks])
    return state


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


class SchemeContract:
    """What the suite relies on in every quantization scheme.

    Attributes:
        scheme: an instance.
    """

    scheme: ClassVar[Scheme]

    def weight(self) -> Tensor:
        """A weight ``[8, 6, 3, 3]`` whose channels have different ranges."""
        generator = torch.Generator().manual_seed(0)
        reach = torch.linspace(0.2, 1, 8).view(-1, 1, 1, 1)
        return torch.randn(8, 6, 3, 3, generator=generator) * reach

    def samples(self) -> list[Tensor]:
        """Activations after a ReLU, and with both signs."""
        x = torch.randn(4000, generator=torch.Generator().manual_seed(1))
        return [x.relu(), x]

    def quantizers(self, bits: int) -> list[tuple[Quantizer, Tensor]]:
        """Quantizers of weights and of activations, each with its data, in eval mode.

        What the scheme leaves at float (activations, in a scheme for weights) is left out.
        """
        weight = self.weight()
        pairs = [(self.scheme.weight(weight, bits), weight)]
        pairs += [(self.scheme.activation(x, bits), x) for x in self.samples()]
        return [(q.eval(), x) for q, x in pairs if bits == FLOAT or not isinstance(q, Float)]

    def test_is_registered(self) -> None:
        assert schemes.get(self.scheme.name) is type(self.scheme)

    def test_codes_give_back_the_quantized_values(self) -> None:
        for bits in BITS:
            for quantizer, x in self.quantizers(bits):
                codes = quantizer.codes(x)
                assert torch.equal(codes.code, codes.code.round())
                out = quantizer(x)
                assert out.shape == x.shape
                assert out.dtype == x.dtype
                assert torch.allclose(codes.dequantize(), out, rtol=1e-5, atol=1e-6)

    def test_codes_fit_into_their_bits(self) -> None:
        for bits in BITS:
            for quantizer, x in self.quantizers(bits):
                code = quantizer.codes(x).code
                assert len(set(code.flatten().tolist())) <= 2**bits
                assert float(code.max() - code.min()) <= 2**bits - 1

    def test_sixteen_bits_are_allowed(self) -> None:
        for quantizer, x in self.quantizers(16):
            assert torch.isfinite(quantizer(x)).all()

    def test_more_bits_say_more(self) -> None:
        for position in range(len(self.quantizers(2))):
            errors = []
            for bits in (2, 4, 8):
                quantizer, x = self.quantizers(bits)[position]
                out = quantizer(x)
                # Schemes may rescale: what counts is the part that no scaling explains.
                errors.append(1 - float(torch.corrcoef(torch.stack([out, x]).flatten(1))[0, 1]))
            assert errors[0] > errors[1] > errors[2]

    def test_is_deterministic_and_spares_global_randomness(self) -> None:
        before = _global_random_state()
        for bits in (2, 8):
            for (first, x), (second, _) in zip(
                self.quantizers(bits), self.quantizers(bits), strict=True
            ):
                assert torch.equal(first(x), second(x))
        assert _global_random_state() == before

    def test_gradients_pass_and_ranges_can_be_learned(self) -> None:
        for bits in BITS:
            for quantizer, x in self.quantizers(bits):
                assert not any(p.requires_grad for p in quantizer.parameters())
                quantizer.learn_range()
                learned = [p for p in quantizer.parameters() if p.requires_grad]
                leaf = x.clone().requires_grad_()
                quantizer(leaf).square().sum().backward()
                assert leaf.grad is not None
                assert torch.isfinite(leaf.grad).all()
                assert leaf.grad.abs().sum() > 0
                assert all(p.grad is not None for p in learned)
                quantizer.learn_range(False)
                assert not any(p.requires_grad for p in quantizer.parameters())

    def test_works_in_a_network(self) -> None:
        problem = toy.make_problem(scheme=self.scheme.name)
        policy = problem.space.reference(4, 4)
        first, second = (problem.evaluate(policy), problem.at().evaluate(policy))
        assert first == second
        assert problem.fine_tune(policy).policy == policy

    def test_zero_bits_prune_and_float_passes(self) -> None:
        for quantizer, x in self.quantizers(PRUNED):
            assert not quantizer(x).any()
        for quantizer, x in self.quantizers(FLOAT):
            assert torch.equal(quantizer(x), x)

    def test_channels_of_different_bits(self) -> None:
        weight = self.weight()
        bits = (0, 2, 2, 4, 4, 8, 8, 32)
        quantizer = self.scheme.weight(weight, bits).eval()
        out = quantizer(weight)
        assert not out[0].any()
        assert torch.equal(out[7], weight[7])
        for value in (2, 4, 8):
            rows = [i for i, b in enumerate(bits) if b == value]
            alone = self.scheme.weight(weight[rows], value).eval()
            assert torch.allclose(out[rows], alone(weight[rows]))
