from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import pytest

from frameworks.baselines.greedy import Greedy, Harms
from frameworks.core.budget import BudgetSpec
from frameworks.core.evaluation.evaluate import Score
from frameworks.core.target import SeparableTarget, Target
from frameworks.testing import toy


@dataclass
class Counted:
    """A made-up loss in place of the evaluator; counts the policies, each once."""

    problem: object
    loss: object
    seen: list = field(default_factory=list)

    def __call__(self, policy):
        if policy not in self.seen:
            self.seen.append(policy)
            self.problem.meter.policies += 1
        return Score(0.0, self.loss(self.problem.space.encode(policy)))


def with_loss(loss, target="bops", like=3, **more):
    problem = toy.make_problem(target, like=like, **more)
    problem.__dict__["_evaluator"] = Counted(problem, loss)
    return problem


WEIGHTS = (3.0, 1.0, 4.0, 1.5, 5.0, 9.0, 2.0, 6.0)


def separable(values):
    return sum(w * 4.0**-b for w, b in zip(WEIGHTS, values, strict=False))


def plain_greedy(problem, loss):
    """The textbook algorithm: all steps evaluated in every round; then room is filled."""
    space, metric = problem.space, problem.budget.metric
    values = [choice.bits[-1] for choice in space.choices]

    def cost(v):
        return problem.cost(space.decode(v))[metric]

    def steps(v):
        for i, choice in enumerate(space.choices):
            if v[i] > choice.bits[0]:
                yield [*v[:i], choice.bits[choice.bits.index(v[i]) - 1], *v[i + 1 :]]

    path = [values]
    while cost(values) > problem.budget.limit * (1 + 1e-9):
        values = min(
            steps(values),
            key=lambda v: (loss(v) - loss(values)) / (cost(values) - cost(v)),
        )
        path.append(values)
    return path


def raised_by_none_or_more(policy, values, space):
    return all(a >= b for a, b in zip(space.encode(policy), values, strict=True))


@pytest.mark.parametrize("target", ["bops", "size"])
@pytest.mark.parametrize("like", [2.2, 3, 4.5])
def test_both_ways_agree_with_a_plain_greedy_on_a_separable_loss(target, like):
    problem = with_loss(separable, target, like)
    path = plain_greedy(problem, separable)
    ends = []
    for lazy in (True, False):
        mine = with_loss(separable, target, like)
        policy = Greedy(lazy=lazy).search(mine).policy
        assert mine.within(policy)
        assert raised_by_none_or_more(policy, path[-1], mine.space)
        ends.append((policy, mine.meter.policies))
    assert ends[0][0] == ends[1][0]
    assert ends[0][1] < ends[1][1], "the lazy one evaluates less"


def test_the_plain_way_evaluates_every_step_of_every_round():
    problem = with_loss(separable, like=3)
    path = plain_greedy(problem, separable)
    space, expected = problem.space, set()
    for values in path[:-1]:
        expected.add(space.decode(values))
        for i, choice in enumerate(space.choices):
            below = [b for b in choice.bits if b < values[i]]
            if below:
                expected.add(space.decode([*values[:i], below[-1], *values[i + 1 :]]))
    Greedy(lazy=False).search(problem)
    assert set(problem._evaluator.seen) == expected


def test_harmless_layers_go_first():
    """Only the first decision matters: everything else is lowered before it."""

    def loss(values):
        return float(8 - values[0])

    problem = with_loss(loss, like=4)
    policy = Greedy().search(problem).policy
    assert problem.space.encode(policy)[0] == 8


def test_lazy_follows_harms_that_grow():
    """Harm of a layer grows as others are lowered (submodular): both ways choose the same."""

    def loss(values):
        return sum(w * (8 - b) for w, b in zip(WEIGHTS, values, strict=False)) ** 2

    ends = {
        Greedy(lazy=lazy).search(with_loss(loss, "size", like=3)).policy for lazy in (True, False)
    }
    assert len(ends) == 1


@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize("evaluations", [1, 2, 5, 12, 40])
@pytest.mark.parametrize("target", ["bops", "size", toy.Peak()])
def test_the_cap_is_kept_and_the_budget_met(lazy, evaluations, target):
    problem = with_loss(separable, target, like=2.5)
    policy = Greedy(lazy=lazy, evaluations=evaluations).search(problem).policy
    assert problem.meter.policies <= evaluations
    assert problem.within(policy)
    problem.space.validate(policy)


@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize("evaluations", range(2, 14))
def test_all_but_at_most_one_of_the_evaluations_are_used(lazy, evaluations):
    """A step needs one evaluation, or two where the policy it starts from is new as well."""
    problem = with_loss(separable, like=2.5)
    Greedy(lazy=lazy, evaluations=evaluations).search(problem)
    assert evaluations - 1 <= problem.meter.policies <= evaluations


def test_images_end_the_evaluations():
    whole = toy.make_problem()
    Greedy(evaluations=10).search(whole)
    images, one = whole.meter.images_forward, toy.make_problem()
    one.evaluate(one.space.highest())
    problem = toy.make_problem()
    policy = Greedy(images=images).search(problem).policy
    assert problem.within(policy)
    assert images <= problem.meter.images_forward < images + 2 * one.meter.images_forward


@dataclass(frozen=True)
class Staircase(Target):
    """A cost that most single steps do not change: the sum of bits, rounded up to tens."""

    name: ClassVar[str] = "staircase"
    kind: ClassVar[str] = "model"
    metrics: ClassVar[Mapping[str, str]] = {"stairs": "steps"}
    separable: ClassVar[bool] = False

    def cost(self, layers, policy):
        total = sum(policy[x.name].mean_weight + policy[x.name].act for x in layers)
        return {"stairs": float(-(-total // 10))}


@dataclass(frozen=True)
class Crooked(Target):
    """A cost that may rise as bits fall: odd widths are dear."""

    name: ClassVar[str] = "crooked"
    kind: ClassVar[str] = "model"
    metrics: ClassVar[Mapping[str, str]] = {"crooked": "units"}

    def cost(self, layers, policy):
        bits = [b for x in layers for b in (policy[x.name].mean_weight, policy[x.name].act)]
        return {"crooked": sum(b + 3 * (b % 2) for b in bits)}


@dataclass(frozen=True)
class Hole(SeparableTarget):
    """Weights of eight bits with activations of two are cheap, all else is not."""

    name: ClassVar[str] = "hole"
    kind: ClassVar[str] = "model"
    metrics: ClassVar[Mapping[str, str]] = {"hole": "units"}
    monotone: ClassVar[bool] = False

    def layer_cost(self, layer, bits):
        return {"hole": 1.0 if (bits.weight, bits.act) == (8, 2) else 10.0}


def test_ends_at_the_cheapest_policy_where_lowering_leads_past_it():
    problem = toy.make_problem(Hole(), budget=BudgetSpec(limit=24))
    assert not problem.within(problem.space.lowest())
    assert Greedy().search(problem).policy == problem.cheapest()


@dataclass(frozen=True)
class Bytes(Hole):
    """The same, but activations of two and four bits cost the same."""

    def layer_cost(self, layer, bits):
        return {"hole": 1.0 if bits.weight == 8 and bits.act < 8 else 10.0}


def test_of_equally_cheap_policies_it_ends_at_that_of_most_bits():
    problem = toy.make_problem(Bytes(), budget=BudgetSpec(limit=24), bits=(2, 4, 8))
    free = problem.space.free_layers
    policy = Greedy().search(problem).policy
    assert {(policy[x.name].weight, policy[x.name].act) for x in free} == {(8, 4)}


@pytest.mark.parametrize("target", [toy.Peak(), Staircase(), Crooked()], ids=lambda t: t.name)
@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize("like", [2, 2.5, 4])
def test_ends_within_budgets_that_are_no_sums_or_not_monotone(target, lazy, like):
    problem = with_loss(separable, target, like)
    policy = Greedy(lazy=lazy).search(problem).policy
    assert problem.within(policy)


def test_random_losses_never_break_it():
    """Harms of any sign, in any order."""
    import random

    for seed in range(20):
        draw = random.Random(seed)
        known = {}

        def loss(values, draw=draw, known=known):
            return known.setdefault(tuple(values), draw.uniform(-1, 1))

        problem = with_loss(loss, like=2.5)
        policy = Greedy(evaluations=draw.choice([0, 3, 30])).search(problem).policy
        assert problem.within(policy)


def test_the_room_that_a_last_large_step_leaves_is_used():
    problem = with_loss(separable, "size", like=4, bits=(2, 8))
    values = list(problem.space.encode(Greedy().search(problem).policy))
    for i in range(len(values)):
        if values[i] == 2:
            raised = problem.space.decode([*values[:i], 8, *values[i + 1 :]])
            assert not problem.within(raised)


def test_a_budget_of_everything_lowers_nothing():
    problem = with_loss(separable, like=8)
    assert Greedy().search(problem).policy == problem.space.highest()
    assert problem.meter.policies == 0


def test_unmeasured_steps_are_judged_by_the_last_known_ones():
    harms = Harms()
    assert harms.guess(0) == 1.0
    harms.known, harms.sure = {0: 0.5, 1: -0.2}, {0, 1}
    assert harms.rank(0, {0: 2.0}) == 0.25
    assert harms.rank(2, {2: 2.0}) == -float("inf")
    assert harms.guess(2) == pytest.approx(0.15)
    harms.step(1, 2)
    # Two bits fewer: the squared error of a uniform quantizer is 4 * 4 times as large.
    assert harms.guess(1) == pytest.approx(3.2)
    assert harms.rank(1, {1: 1.0}) == -float("inf")
