"""Contract tests that the author of a framework subclasses."""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
from collections.abc import Collection, Sequence, Set
from itertools import pairwise
from typing import Any, ClassVar
from unittest import SkipTest

import torch
from torch import Tensor, nn

from frameworks.core.budget import BudgetSpec
from frameworks.core.card import NEEDS
from frameworks.core.evaluation.answered import AnsweredSplit
from frameworks.core.framework import Framework, ScoringFramework
from frameworks.core.policy import Policy
from frameworks.core.problem import Problem
from frameworks.core.registry import frameworks as registry
from frameworks.core.registry import schemes
from frameworks.core.search.steering import steer
from frameworks.core.solution import Scores, Solution
from frameworks.core.target import Target
from frameworks.testing import toy
from frameworks.testing.placement import some_gpu
from frameworks.testing.state import check_plain, global_random_state, plain


@dataclasses.dataclass(frozen=True)
class Observed:
    """A search and what it left behind.

    Attributes:
        problem: searched, with its meter and checkpoints.
        solution: what was found.
        drew: whether a global generator of random numbers has moved.
        changed: names of what has changed in the float network.
    """

    problem: Problem
    solution: Solution
    drew: bool
    changed: tuple[str, ...]


_observed: dict[tuple[type, type, str], Observed] = {}


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
        cost = problem.cost(solution.policy)
        destroyed = self.framework.strength is not None and solution.notes.get("collapsed") is True
        assert destroyed or problem.within(solution.policy), f"{cost} is over {problem.budget}"

    def observed(self) -> Observed:
        """One search of the default problem and its traces, made once for the tests that look."""
        key = type(self), type(self.framework), json.dumps(plain(self.framework.hyperparameters()))
        if key not in _observed:
            problem = self.problem()
            before, drawn = _state(problem.network), global_random_state()
            solution = self.search(problem)
            after, drew = _state(problem.network), global_random_state() != drawn
            changed = [n for n in before | after if not _same(before.get(n), after.get(n))]
            _observed[key] = Observed(problem, solution, drew, tuple(changed))
        return _observed[key]

    # --- facts -----------------------------------------------------------------------------

    def test_is_registered(self) -> None:
        cls = type(self.framework)
        assert cls.name in registry.names(), (
            f"{cls.name}: no framework of this name is registered; put @register above the "
            "dataclass decorator, and name the module in the entry points of the package"
        )
        assert registry.get(cls.name) is cls, (
            f"{cls.name}: another class has this name, in {registry.get(cls.name).__module__}"
        )

    def test_card_is_complete(self) -> None:
        card = self.framework.card
        assert card.title.strip(), "card.title: give the paper's"
        assert 1950 <= card.year <= 2100, f"card.year = {card.year}: give the paper's"
        _subset("card.searches", card.searches, {"weight", "act"})
        # A method that asks for no data and no kind of cost needs nothing.
        _subset("card.needs", card.needs or NEEDS, set(NEEDS))
        _subset("card.quantizer", [card.quantizer], set(schemes.names()))
        assert re.fullmatch(r"(\d{4}\.\d{4,5})?", card.arxiv), (
            f"card.arxiv = {card.arxiv!r}: give a number such as 1811.08886, without a version"
        )
        assert card.category == "baseline" or card.arxiv or card.venue, (
            "card: give arxiv or venue, so that readers find the paper"
        )
        assert all(text.strip() for text in card.deviations), "card.deviations: one is empty"
        assert plain(card.to_json()) == card.to_json(), "card: it holds what is not plain data"

    def test_hyperparameters_are_typed_fields_with_defaults(self) -> None:
        cls = type(self.framework)
        assert dataclasses.is_dataclass(cls), f"{cls.__name__}: put @dataclass below @register"
        for field in dataclasses.fields(cls):
            missing = field.default is field.default_factory is dataclasses.MISSING
            assert not missing, f"{field.name} has no default"
            assert field.type not in (Any, "Any"), f"{field.name} has no type"
        hyperparameters = cls().hyperparameters()
        assert plain(hyperparameters).keys() == hyperparameters.keys(), (
            f"the hyper-parameters {hyperparameters} do not come back from JSON: use numbers, "
            "texts, lists and dictionaries with text keys"
        )
        assert cls.strength is None or hyperparameters[cls.strength] > 0, (
            f"strength = {cls.strength!r} must name a field whose default is above 0: it is what "
            "steering makes larger until the budget is met"
        )
        cls().validate()
        self.framework.validate()

    def test_skip_gives_a_reason_or_none(self) -> None:
        for target in ("bops", "size", toy.Peak()):
            for kind in (toy.ToyConvNet, toy.ToyViT):
                reason = self.framework.skip(toy.make_problem(target, kind=kind))
                assert reason is None or reason.strip(), (
                    "skip: give None where the problem can be solved, else a reason in words"
                )

    def test_refuses_costs_that_are_no_sum_if_it_needs_one(self) -> None:
        reason = self.framework.skip(toy.make_problem(toy.Peak()))
        assert reason or "separable_cost" not in self.framework.card.needs, (
            "the card needs a separable cost, and skip lets a target pass whose cost is no sum "
            "over layers: call super().skip(problem) first"
        )

    def test_refuses_costs_that_fall_with_more_bits_if_it_lowers_them(self) -> None:
        for metric, falls in (("time", True), ("size", False)):
            budget = BudgetSpec(like=4, metric=metric)
            reason = self.framework.skip(toy.make_problem(toy.Valley(), budget=budget)) or ""
            if "per output channel" not in reason:
                assert (f"raise {metric}" in reason) == (self.framework.lowers_bits and falls), (
                    f"lowers_bits is {self.framework.lowers_bits}, and skip says {reason!r} where "
                    f"more bits can cost less {metric}: call super().skip(problem) first"
                )

    # --- the search ------------------------------------------------------------------------

    def test_meets_budgets(self) -> None:
        for target in ("bops", "size"):
            for like in self.likes:
                problem = self.problem(target, like=like)
                self.check(problem, self.search(problem))

    def test_meets_a_budget_that_is_no_sum_over_layers(self) -> None:
        problem = self.problem(toy.Peak())
        self.check(problem, self.search(problem))

    def test_meets_limits_on_several_metrics_at_once(self) -> None:
        """Size binds the large layers, bit operations those of many positions."""
        limits = {"size": {"like": 3.0}, "bops": {"like": 3.0}}
        problem = self.problem(budget=BudgetSpec(metrics=limits))
        self.check(problem, self.search(problem))

    def test_answers_where_one_policy_is_left(self) -> None:
        """A reason, or that policy: all bits are pinned, as by candidates of one bit width."""
        problem = self.problem(bits=(4,), like=4)
        solution = self.search(problem)
        assert solution.policy == problem.space.lowest(), "the space has one policy, and it is none"

    def test_obeys_paired_bits_and_tied_layers(self) -> None:
        groups = [("blocks.0.conv1", "blocks.0.conv2")]
        problem = self.problem(paired=True, groups=groups)
        self.check(problem, self.search(problem))

    def test_works_without_labels(self) -> None:
        """Under ``protocol.objective=kl`` labels are shares ``[B, classes]``, the network's own."""
        problem = self.problem()
        train, valid = (
            None if split is None else AnsweredSplit(split, problem.float_model(), soft=True)
            for split in (problem.data.train, problem.data.valid)
        )
        data = dataclasses.replace(problem.data, train=train, valid=valid)
        answered = problem.at(data=data)
        self.check(answered, self.search(answered))

    def test_works_on_attention(self) -> None:
        problem = self.problem(kind=toy.ToyViT)
        self.check(problem, self.search(problem))

    def test_works_where_the_protocol_trains(self) -> None:
        problem = self.problem(retrains="train" in self.framework.card.needs)
        solution = self.search(problem)
        self.check(problem, solution)
        judge = toy.make_problem(retrains=True)
        trained = self.framework.finish(judge, solution)
        assert trained.policy == solution.policy, "finish: it trained at other bits than were found"
        wrong = [n for n, p in trained.named_parameters() if not bool(torch.isfinite(p).all())]
        assert not wrong, f"finish: not finite after training: {', '.join(wrong)}"

    def test_computes_where_the_problem_is(self) -> None:
        """All on a GPU, or a pretended one; see `frameworks.testing.placement`."""
        few: dict[str, Any] = {"bits": (2, 4), "scheme": "minmax"}  # pretending takes its time
        problem = self.problem(retrains="train" in self.framework.card.needs, **few)
        judge = toy.make_problem(retrains=True, **few)
        with some_gpu() as gpu:
            problem, judge = problem.to(gpu), judge.to(gpu)
            solution = dataclasses.replace(self.framework).search(problem)  # type: ignore[type-var]
            problem.space.validate(solution.policy)
            judge.evaluate(solution.policy)
            trained = self.framework.finish(judge, solution)
            places = {p.device for p in trained.parameters()}
            assert places == {gpu}, f"finish returns a network on {places}, of a problem on {gpu}"

    def test_same_seed_gives_the_same_bytes(self) -> None:
        problem = self.problem()
        first, again = (_told(x) for x in (self.observed().solution, self.search(problem)))
        assert first == again, (
            "two searches of one seed differ: draw from problem.rng or problem.generator alone, "
            f"and iterate over no sets: {first} and {again}"
        )

    def test_consumes_no_global_randomness(self) -> None:
        assert not self.observed().drew, (
            "the search drew from a global generator (random, numpy.random or torch): draw from "
            "problem.rng(axis) or problem.generator(axis)"
        )

    def test_leaves_the_float_network_as_it_was(self) -> None:
        changed = self.observed().changed
        assert not changed, (
            f"the search changed problem.network ({', '.join(changed)}): work on a copy, "
            "problem.float_model() or problem.quantized()"
        )

    def test_cost_is_metered_and_checkpoints_are_noted(self) -> None:
        problem = self.observed().problem
        spent = problem.meter.read()
        free = not self.framework.card.needs  # a rule that looks at no data and runs no network
        assert free or spent.policies + spent.images_forward + spent.images_backward > 0, (
            "the search cost nothing: evaluate by problem.evaluate, take networks from "
            "problem.float_model or problem.quantized, or watch your own with problem.meter.watch"
        )
        assert problem.checkpoints, (
            "no checkpoint was noted: call problem.checkpoint(policy) as the search goes on, for "
            "the convergence picture"
        )
        for earlier, later in pairwise(c.spent for c in problem.checkpoints):
            assert earlier.policies <= later.policies, (
                f"a checkpoint after {later.policies} policies follows one after "
                f"{earlier.policies}: note them as the search goes on, by one meter"
            )
            assert earlier.images_forward <= later.images_forward, (
                f"a checkpoint after {later.images_forward} images follows one after "
                f"{earlier.images_forward}: note them as the search goes on, by one meter"
            )

    def test_solution_is_plain_data(self) -> None:
        solution = self.observed().solution
        check_plain("solution.notes", dict(solution.notes))
        back = Policy.from_json(plain(solution.policy.to_json()))
        assert back == solution.policy, (
            f"solution.policy comes back from JSON as {back}, not {solution.policy}: give whole "
            "numbers as bits"
        )
        copied = pickle.loads(pickle.dumps(solution)).policy
        assert copied == solution.policy, (
            f"solution.policy comes out of a pickle as {copied}, not {solution.policy}: keep no "
            "state outside it"
        )

    def test_scores_are_plain_data_and_serve_every_budget(self) -> None:
        method = self.framework
        if not isinstance(method, ScoringFramework):
            raise SkipTest("scores and solving are one")
        problem = self.problem(like=3)
        values = dict(method.score(problem).values)
        check_plain("the values of score", values)
        kept = plain(values)
        assert kept == plain(dict(method.score(self.problem(like=4)).values)), (
            "score gives other scores at another budget: it must not look at problem.budget"
        )
        fresh = self.problem(like=3)
        assert method.solve(fresh, Scores(kept)).policy == method.search(problem).policy, (
            "solve finds another policy by scores that come back from JSON: use plain data"
        )


def _told(solution: Solution) -> str:
    score = toy.make_problem().evaluate(solution.policy)
    return json.dumps([solution.policy.to_json(), solution.notes, vars(score)])


def _subset(what: str, given: Collection[str], known: Set[str]) -> None:
    wrong = set(given) - known
    choices = ", ".join(sorted(known))
    assert given, f"{what} is empty: choose from {choices}"
    assert not wrong, f"{what}: {', '.join(sorted(wrong))} is none of {choices}"


def _same(before: Tensor | None, after: Tensor | None) -> bool:
    return before is not None and after is not None and torch.equal(before, after)


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
