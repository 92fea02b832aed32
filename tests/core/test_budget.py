import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from frameworks.core.budget import (
    TOLERANCE,
    Bound,
    Budget,
    BudgetSpec,
    InfeasibleBudget,
    cheapest,
    least,
)
from frameworks.core.networks.taking.describe import describe
from frameworks.core.policy import Policy
from frameworks.core.space import Space
from frameworks.core.target import SeparableTarget
from frameworks.hardware.bops import Bops
from frameworks.hardware.size import Size
from frameworks.testing import toy

# 27, 36 and 60 weights; 972, 1,296 and 60 multiply-accumulates.
LAYERS = describe(
    nn.Sequential(nn.Conv2d(3, 1, 3, padding=1), nn.Conv2d(1, 4, 3, padding=1), nn.Flatten(),
                  nn.AvgPool1d(12, 12), nn.Linear(12, 5)),
    (3, 6, 6),
)  # fmt: skip
BITS = (2, 4, 8)
SPACE = Space.build(LAYERS, BITS, BITS, pinned={LAYERS[0].name: (8, 8)})


@dataclass(frozen=True)
class Plain(SeparableTarget):
    """Two metrics, of which the second is the first plus the activation bits."""

    name: ClassVar[str] = "plain"
    kind: ClassVar[str] = "model"
    metrics: ClassVar[Mapping[str, str]] = {"weights": "bits", "both": "bits"}

    def layer_cost(self, layer, bits):
        return {"weights": bits.mean_weight, "both": bits.mean_weight + bits.act}


def test_layers_are_those_of_the_hand_worked_numbers():
    assert [(x.params, x.macs) for x in LAYERS] == [(27, 972), (36, 1296), (60, 60)]


@pytest.mark.parametrize(
    ("spec", "limit"),
    [
        (BudgetSpec(like=4), 972 * 64 + 1356 * 16),
        (BudgetSpec(like=4.0), 972 * 64 + 1356 * 16),
        (BudgetSpec(like=3), 972 * 64 + 1356 * 9),
        (BudgetSpec(like=2.25), 972 * 64 + 1356 * (4 + 0.25 * (9 - 4))),
        (BudgetSpec(like=8), (972 + 1356) * 64),
        (BudgetSpec(ratio=0.75), 0.75 * (972 + 1356) * 64),
        (BudgetSpec(ratio=2), 2 * (972 + 1356) * 64),
        (BudgetSpec(limit=123456.5), 123456.5),
        (BudgetSpec(like=4, metric="size"), 27 + 96 * 4 / 8),
        (BudgetSpec(ratio=0.5, metric="size"), 0.5 * 123),
    ],
)
def test_limits(spec, limit):
    budget = spec.resolve(Bops(), SPACE)
    assert budget.limit == pytest.approx(limit, rel=1e-12)
    assert budget.metric == (spec.metric or "bops")
    assert budget.unit == ("bytes" if spec.metric else "bit operations")
    assert budget.label == spec.label


def test_default_metric_is_the_targets_first():
    assert BudgetSpec(like=4).resolve(Plain(), SPACE).metric == "weights"
    assert BudgetSpec(like=4, metric="both").resolve(Plain(), SPACE).limit == 16 + 2 * 8


def test_bits_of_a_budget_need_not_be_candidates():
    assert BudgetSpec(like=5).resolve(Size(), SPACE).limit == 27 + 96 * 5 / 8


def test_the_smallest_cost_is_allowed_and_less_is_not():
    smallest = 972 * 64 + 1356 * 4
    assert BudgetSpec(limit=smallest).resolve(Bops(), SPACE).limit == smallest
    with pytest.raises(InfeasibleBudget) as error:
        BudgetSpec(limit=smallest - 1).resolve(Bops(), SPACE)
    assert f"{smallest:.6g}" in str(error.value)
    assert f"at most {smallest - 1:.6g} bit operations" in str(error.value)
    assert "bops" in str(error.value)
    assert "limit=" in str(error.value)


def test_infeasible_like_and_ratio():
    with pytest.raises(InfeasibleBudget, match="like=1"):
        BudgetSpec(like=1).resolve(Bops(), SPACE)
    with pytest.raises(InfeasibleBudget, match=r"ratio=0\.1.*smallest cost.*on size is 51"):
        BudgetSpec(ratio=0.1).resolve(Size(), SPACE)


def test_a_cost_that_is_no_sum():
    space = Space.build(LAYERS, BITS, (8,), pinned={LAYERS[0].name: (8, 8)})
    assert BudgetSpec(like=4).resolve(toy.Peak(), space).limit == 30
    with pytest.raises(InfeasibleBudget, match="is 27"):
        BudgetSpec(limit=26).resolve(toy.Peak(), space)


@dataclass(frozen=True)
class Odd(SeparableTarget):
    """Two bits are slower than four in the first and last layer; 4/2 does not exist."""

    name: ClassVar[str] = "odd"
    kind: ClassVar[str] = "model"
    metrics: ClassVar[Mapping[str, str]] = {"time": "ms"}

    def supports(self, layer, weight, act):
        return (weight, act) != (4, 2)

    def layer_cost(self, layer, bits):
        assert self.supports(layer, bits.weight, bits.act)
        slow = bits.weight == 2 and layer.index != 1
        return {"time": 10 * bits.weight + bits.act + 100 * slow}


@pytest.mark.parametrize(
    ("options", "smallest"),
    [
        ({}, 44 + 22 + 44),  # 4/4, 2/2, 4/4
        ({"paired": True}, 44 + 22 + 44),
        ({"groups": [("0", "1")]}, 88 + 44),  # both at 4/4, as 2/2 takes 122 + 22
        ({"groups": [("1", "4")], "pinned": {"0": (8, 8)}}, 88 + 88),
    ],
)
def test_the_smallest_cost_where_fewer_bits_may_cost_more(options, smallest):
    space = Space.build(LAYERS, BITS, BITS, **options)
    policies = [
        space.decode(values) for values in product(*(choice.bits for choice in space.choices))
    ]
    able = [p for p in policies if all(Odd().supports(x, *_pair(p[x.name])) for x in LAYERS)]
    assert min(Odd().cost(LAYERS, policy)["time"] for policy in able) == smallest
    assert BudgetSpec(limit=smallest).resolve(Odd(), space).limit == smallest
    with pytest.raises(InfeasibleBudget, match=f"on odd is {smallest}$"):
        BudgetSpec(limit=smallest - 1).resolve(Odd(), space)


@dataclass(frozen=True)
class Flat(SeparableTarget):
    """Two and four weight bits cost the same, and so do all activation bits."""

    name: ClassVar[str] = "flat"
    kind: ClassVar[str] = "model"
    metrics: ClassVar[Mapping[str, str]] = {"time": "ms"}

    def layer_cost(self, layer, bits):
        return {"time": 0.3 if bits.weight <= 4 else 0.7}


@dataclass(frozen=True)
class FlatSum(Flat):
    """The same, as if it were no sum over layers."""

    separable: ClassVar[bool] = False


@pytest.mark.parametrize("target", [Flat(), FlatSum()])
@pytest.mark.parametrize(
    ("options", "pairs"),
    [
        ({}, [(4, 8)] * 3),
        ({"paired": True}, [(4, 4)] * 3),
        ({"groups": [("0", "1")]}, [(4, 8)] * 3),
        ({"pinned": {"0": (8, 2)}}, [(8, 2), (4, 8), (4, 8)]),
    ],
)
def test_of_policies_of_least_cost_the_one_of_most_bits_is_the_cheapest(target, options, pairs):
    space = Space.build(LAYERS, BITS, BITS, **options)
    assert [_pair(entry) for entry in cheapest(target, space, "time").values()] == pairs


def test_the_cheapest_of_a_peak_takes_what_is_free():
    """Of the layers with 27, 36 and 60 weights only the last one is at the peak of 2 bits."""
    space = Space.build(LAYERS, (1, 2, 3, 4), (8,))
    policy = cheapest(toy.Peak(), space, "peak")
    assert [entry.weight for entry in policy.values()] == [2, 1, 1]
    assert 27 * 2 <= 60 < 27 * 3
    assert 60 < 36 * 2


class Even(Bops):
    """Runs 2, 4 and 8 bit."""

    def supports(self, layer, weight, act):
        return {weight, act} <= {2, 4, 8}


def test_like_lies_between_the_bits_that_the_hardware_runs():
    limits = {like: BudgetSpec(like=like).resolve(Even(), SPACE).limit for like in (2, 3, 4, 5, 8)}
    assert limits[3] == pytest.approx((limits[2] + limits[4]) / 2)
    assert limits[5] == pytest.approx(limits[4] + (limits[8] - limits[4]) / 4)
    assert limits[4] == BudgetSpec(like=4).resolve(Bops(), SPACE).limit
    with pytest.raises(InfeasibleBudget, match=r"uniformly at \[2, 4, 8\] of 1 to 8 bits"):
        BudgetSpec(like=1.5).resolve(Even(), SPACE)


def _pair(entry):
    return entry.weight, entry.act


def test_mixed_uniform_bits_lie_on_the_line_between_whole_ones():
    """2.4 is as cheap as uniform 3/2 and 2/3, which is what suites take for a tight budget."""
    limit = BudgetSpec(like=2.4).resolve(Bops(), SPACE).limit
    for weight, act in ((3, 2), (2, 3)):
        cost = Bops().cost(LAYERS, SPACE.reference(weight, act))["bops"]
        assert limit == pytest.approx(cost, rel=1e-12)


def test_unknown_metric_lists_the_choices():
    with pytest.raises(ValueError, match=r"bops has no 'latency'; choose from \['bops', 'size'\]"):
        BudgetSpec(like=4, metric="latency").resolve(Bops(), SPACE)


@pytest.mark.parametrize("fields", [{}, {"like": 4, "ratio": 0.5}, {"limit": 1.0, "like": 2}])
def test_exactly_one_request(fields):
    with pytest.raises(ValueError, match="exactly one of like, ratio and limit"):
        BudgetSpec(**fields)


@pytest.mark.parametrize("name", ["like", "ratio", "limit"])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
def test_numbers_must_be_positive(name, value):
    with pytest.raises(ValueError, match=rf"budget\.{name}.*positive number"):
        BudgetSpec(**{name: value})


@pytest.mark.parametrize("bits", [0.5, 8.01, 16, 32])
def test_like_is_a_bit_width(bits):
    with pytest.raises(ValueError, match=r"outside 1\.\.8 bits"):
        BudgetSpec(like=bits)


def test_labels():
    assert BudgetSpec(like=4).label == "like=4"
    assert BudgetSpec(ratio=0.25, metric="size").label == "ratio=0.25 size"
    assert BudgetSpec(limit=1.5e9).label == "limit=1.5e+09"


BOTH = {"bops": {"like": 4}, "size": {"ratio": 0.5}}


def test_several_limits():
    budget = BudgetSpec(metrics=BOTH).resolve(Bops(), SPACE)
    bops, size = 972 * 64 + 1356 * 16, 0.5 * 123
    assert budget.limits == {"bops": bops, "size": size}
    assert (budget.metric, budget.limit, budget.unit) == ("bops", bops, "bit operations")
    assert budget.label == "like=4 bops and ratio=0.5 size"
    assert budget.allows({"bops": bops, "size": size})
    for costs, over in (
        ({"bops": bops * 1.01, "size": size}, ["bops"]),
        ({"bops": bops, "size": size * 1.01}, ["size"]),
        ({"bops": bops * 2, "size": size * 2}, ["bops", "size"]),
    ):
        assert not budget.allows(costs)
        assert budget.exceeded(costs) == over
        assert budget.load(costs) > budget.limit


@given(st.floats(0, 1e9), st.floats(0, 1e9), st.floats(1, 1e6), st.floats(1, 1e6))
def test_load_and_price_are_in_the_first_metrics_unit(x, y, most_x, most_y):
    budget = Budget("x", most_x, others=(Bound("y", most_y),))
    costs = {"x": x, "y": y}
    assert budget.load(costs) == pytest.approx(most_x * max(x / most_x, y / most_y))
    assert budget.price(costs) == pytest.approx(most_x * (x / most_x + y / most_y) / 2)
    assert budget.price(costs, ["y"]) == pytest.approx(most_x * y / most_y)
    assert budget.price(costs) <= budget.load(costs) * (1 + TOLERANCE)
    one = Budget("x", most_x)
    assert one.load(costs) == one.price(costs) == x


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({}, "budget.metrics = {}"),
        ({"size": 4}, "budget.metrics.size = 4: give one of like, ratio and limit"),
        ({"size": {"like": 4, "ratio": 1}}, r"budget.metrics.size: budget: give exactly one"),
        ({"size": {"metric": "x"}}, "budget.metrics.size = "),
        ({"size": {"like": -1}}, "budget.metrics.size: budget.like = -1"),
    ],
)
def test_odd_requests_for_several_limits_are_named(metrics, message):
    with pytest.raises(ValueError, match=message):
        BudgetSpec(metrics=metrics)


def test_several_limits_stand_alone():
    for other in ({"like": 4}, {"metric": "size"}):
        with pytest.raises(ValueError, match="give each its own in there"):
            BudgetSpec(metrics=BOTH, **other)
    with pytest.raises(ValueError, match=r"bops has no 'latency'"):
        BudgetSpec(metrics={"size": {"like": 4}, "latency": {"like": 4}}).resolve(Bops(), SPACE)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"metrics": {"size": {"like": 4}, "bop": {"like": 4}}}, r"^budget\.metrics\.bop: "),
        ({"metric": "bop", "like": 4}, r"^budget\.metric: "),
    ],
)
def test_a_metric_that_there_is_not_is_named_by_its_key(spec, message):
    with pytest.raises(ValueError, match=rf"{message}bops has no 'bop' \(did you mean bops\?\)"):
        BudgetSpec(**spec).resolve(Bops(), SPACE)


def test_limits_that_exclude_each_other_are_refused():
    """Alone each can be met: a core made for four bits is slow at two, which size would need."""
    space = Space.build(LAYERS, BITS, (8,))
    small, fast = (toy.Valley().cost(LAYERS, space.reference(b, 8)) for b in (2, 4))
    metrics = {"time": {"limit": fast["time"]}, "size": {"limit": small["size"]}}
    for metric, part in metrics.items():
        BudgetSpec(**part, metric=metric).resolve(toy.Valley(), space)
    with pytest.raises(InfeasibleBudget, match="meets all limits at once on valley"):
        BudgetSpec(metrics=metrics).resolve(toy.Valley(), space)


def test_the_least_of_several_limits_lies_between_the_cheapest_of_each():
    """Neither the fastest nor the smallest policy meets both, some policy in between does."""
    space = Space.build(LAYERS, (2, 4), (8,))
    found = [
        policy
        for bits in product((2, 4), repeat=len(LAYERS))
        if (policy := Policy({x.name: (b, 8) for x, b in zip(LAYERS, bits, strict=True)}))
    ]
    costs = [toy.Valley().cost(LAYERS, policy) for policy in found]
    middle = toy.Valley().cost(
        LAYERS, Policy({LAYERS[0].name: (4, 8), LAYERS[1].name: (4, 8), LAYERS[2].name: (2, 8)})
    )
    metrics = {m: {"limit": middle[m]} for m in ("time", "size")}
    budget = BudgetSpec(metrics=metrics).resolve(toy.Valley(), space)
    assert any(budget.allows(each) for each in costs)
    policy = least(toy.Valley(), space, budget)
    assert budget.allows(toy.Valley().cost(LAYERS, policy))


@pytest.mark.parametrize("like", product((2, 3, 4, 5), repeat=len(LAYERS)))
def test_limits_that_some_policy_meets_are_met(like):
    """Of whatever policy the limits are the costs, that one meets them, and the least one does."""
    space = Space.build(LAYERS, (2, 3, 4, 5), (8,))
    pairs = {layer.name: (bits, 8) for layer, bits in zip(LAYERS, like, strict=True)}
    costs = toy.Valley().cost(LAYERS, Policy(pairs))
    metrics = {m: {"limit": costs[m]} for m in ("time", "size")}
    budget = BudgetSpec(metrics=metrics).resolve(toy.Valley(), space)
    assert budget.allows(toy.Valley().cost(LAYERS, least(toy.Valley(), space, budget)))


@given(
    st.floats(1e-3, 1e15),
    st.floats(0, 2e15) | st.sampled_from([0.0]),
)
def test_allows_what_costs_no_more_than_the_limit(limit, cost):
    budget = Budget("x", limit)
    if cost <= limit:
        assert budget.allows({"x": cost})
    if cost > limit * (1 + 2 * TOLERANCE):
        assert not budget.allows({"x": cost})


def test_allows_looks_at_its_metric_only_and_forgives_rounding():
    budget = Budget("x", 0.3)
    assert budget.allows({"x": 0.1 + 0.2, "y": 1e9})
    assert not budget.allows({"x": 0.3001, "y": 0})
    assert not budget.allows({"x": math.nan})


policies = st.lists(
    st.tuples(st.integers(1, 8), st.integers(1, 8)), min_size=3, max_size=3
).map(lambda bits: Policy(dict(zip((x.name for x in LAYERS), bits, strict=True))))  # fmt: skip


@given(policies, st.integers(0, 2), st.integers(1, 8), st.integers(1, 8))
def test_costs_never_fall_as_bits_rise(policy, index, weight, act):
    name = LAYERS[index].name
    low = policy[name]
    more = policy.replace(name, weight=max(low.weight, weight), act=max(low.act, act))
    for target in (Bops(), Size(), toy.Peak()):
        before, after = target.cost(LAYERS, policy), target.cost(LAYERS, more)
        assert all(after[metric] >= before[metric] for metric in before)


@given(policies)
def test_a_policys_own_cost_is_within_its_budget(policy):
    cost = Bops().cost(LAYERS, policy)["bops"]
    assert Budget("bops", cost).allows({"bops": cost})
    direct = sum(x.macs * policy[x.name].weight * policy[x.name].act for x in LAYERS)
    assert cost == direct
    assert not Budget("bops", cost - 1).allows({"bops": cost})


@given(st.floats(2, 8), st.floats(2, 8))
def test_more_bits_never_mean_a_smaller_budget(one, other):
    low, high = sorted((one, other))
    limits = [BudgetSpec(like=b).resolve(Bops(), SPACE).limit for b in (low, high)]
    assert limits[0] <= limits[1] * (1 + TOLERANCE)
    assert Bops().cost(LAYERS, SPACE.reference(math.floor(low), math.floor(low)))["bops"] <= limits[
        0
    ] * (1 + TOLERANCE)
