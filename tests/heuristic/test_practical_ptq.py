"""SQNR, list, walk and its end by hand; groups by a network's structure."""

import itertools
import json
import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frameworks import BudgetSpec, Data, InfeasibleBudget, Space, describe
from frameworks.core.policy import FLOAT, LayerBits, Policy
from frameworks.core.target import SeparableTarget
from frameworks.heuristic.practical_ptq.ends import SEARCHES, longest
from frameworks.heuristic.practical_ptq.framework import PracticalPTQ
from frameworks.heuristic.practical_ptq.groups import groups_of, readers
from frameworks.heuristic.practical_ptq.walk import Flip, listed, walked
from frameworks.testing import toy
from tests.heuristic.shortcuts import WithShortcut

NEEDS = frozenset({"calibration"})
FAST = PracticalPTQ(images=16)


def problem(target="bops", **more):
    return toy.make_problem(
        target, **{"needs": NEEDS, "scheme": "minmax", "bits": (2, 4, 8), **more}
    )


# --- the ratio

SIGNAL = torch.tensor([[1.0, 2, 2], [2, 0, 1]])
NOISY = torch.tensor([[1.1, 1.9, 2.2], [1.8, 0.1, 1]])


@pytest.mark.parametrize(
    ("settings_of", "expected"),
    [
        ({}, 21.0474),
        ({"per_image": True}, 20.9691),
        ({"per_image": True, "epsilon": 1e-4}, 20.9457),
    ],
)
def test_the_ratio_by_hand(settings_of, expected):
    assert PracticalPTQ(**settings_of).sqnr(SIGNAL, NOISY) == pytest.approx(expected, abs=1e-4)


def test_epsilon_caps_the_ratio_as_in_the_toolkit():
    method = PracticalPTQ(epsilon=1e-4)
    assert method.sqnr(SIGNAL, SIGNAL) == pytest.approx(
        10 * math.log10(SIGNAL.square().mean() * 1e4)
    )
    assert method.sqnr(SIGNAL, SIGNAL) == pytest.approx(43.6798, abs=1e-4)


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.floats(0.01, 100), st.booleans())
def test_the_ratio_is_blind_to_the_scale_of_outputs(seed, scale, per_image):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(8, 5, generator=g).double() + 0.1
    noise = torch.randn(8, 5, generator=g).double()
    method = PracticalPTQ(per_image=per_image)
    assert method.sqnr(scale * x, scale * (x + noise)) == pytest.approx(method.sqnr(x, x + noise))
    # A tenth of the noise is 20 dB.
    louder, softer = (method.sqnr(x, x + k * noise) for k in (1.0, 0.1))
    assert softer - louder == pytest.approx(20)
    assert method.sqnr(x, 1.1 * x) == pytest.approx(20)


def test_ratios_without_noise_or_sense_are_finite():
    for method in (PracticalPTQ(), PracticalPTQ(per_image=True)):
        assert method.sqnr(SIGNAL, SIGNAL) == 120
        assert method.sqnr(SIGNAL, SIGNAL * math.nan) == -120
        assert method.sqnr(SIGNAL, SIGNAL * math.inf) == -120
        assert method.sqnr(SIGNAL * 0, NOISY) == -120


# --- list and walk: three groups with 1000, 3000 and 6000 MACs, and W8A16, W8A8, W4A8

MACS = (1000, 3000, 6000)
HIGH, MIDDLE, LOW = (8, 16), (8, 8), (4, 8)
PRICES = [{p: macs * p[0] * p[1] for p in (HIGH, MIDDLE, LOW)} for macs in MACS]
WHOLE = sum(p[HIGH] for p in PRICES)


def relative(flips):
    """Relative BOPs after each flip."""
    now = [p[HIGH] for p in PRICES]
    for flip in flips:
        now[flip.group] = PRICES[flip.group][flip.pair]
        yield sum(now) / WHOLE


def test_the_walk_by_hand():
    rated = [{MIDDLE: 40, LOW: 22}, {MIDDLE: 35, LOW: 30}, {MIDDLE: 28, LOW: 25}]
    flips = list(walked(listed(rated, PRICES), PRICES))
    assert [f.sqnr for f in flips] == [40, 35, 30, 28, 25, 22]
    assert list(relative(flips)) == [0.95, 0.8, 0.725, 0.425, 0.275, 0.25]


def test_a_flip_to_more_bits_is_passed_by():
    rated = [{MIDDLE: 40, LOW: 22}, {MIDDLE: 30, LOW: 35}, {MIDDLE: 28, LOW: 25}]
    flips = listed(rated, PRICES)
    assert list(relative(flips))[:3] == [0.95, 0.725, 0.8]
    assert list(relative(walked(flips, PRICES)))[:3] == [0.95, 0.725, 0.425]
    assert Flip(1, MIDDLE, 30) not in list(walked(flips, PRICES))


def test_of_equal_ratios_more_bits_then_more_saved_then_the_earlier_group():
    rated = [{LOW: 1.0, MIDDLE: 1.0}, {LOW: 1.0, MIDDLE: 1.0}]
    prices = [PRICES[0], PRICES[1]]
    found = [(f.group, f.pair) for f in listed(rated, prices)]
    assert found == [(1, MIDDLE), (0, MIDDLE), (1, LOW), (0, LOW)]
    same = [(f.group, f.pair) for f in listed(rated, [PRICES[0], PRICES[0]])]
    assert same == [(0, MIDDLE), (1, MIDDLE), (0, LOW), (1, LOW)]


@settings(max_examples=40)
@given(st.integers(0, 10_000))
def test_the_walk_goes_down_and_has_every_group_at_the_cheapest_that_is_clean_enough(seed):
    rng = np.random.default_rng(seed)
    pairs = [(8, 8), (8, 4), (4, 8), (4, 4), (2, 2)]
    prices = [{p: float(m * p[0] * p[1]) for p in pairs} for m in rng.integers(1, 50, 4)]
    rated = [{p: float(rng.integers(0, 40)) for p in pairs[1:]} for _ in prices]
    now = [p[8, 8] for p in prices]
    for flip in walked(listed(rated, prices), prices):
        before = sum(now)
        now[flip.group] = prices[flip.group][flip.pair]
        assert sum(now) < before
    assert now == [p[2, 2] for p in prices]
    level = float(rng.integers(0, 40)) + 0.5
    reached = [p[8, 8] for p in prices]
    for flip in itertools.takewhile(
        lambda f: f.sqnr > level, walked(listed(rated, prices), prices)
    ):
        reached[flip.group] = prices[flip.group][flip.pair]
    assert reached == [
        min([p[8, 8], *(p[pair] for pair, ratio in row.items() if ratio > level)])
        for p, row in zip(prices, rated, strict=True)
    ]


# --- the end at an accuracy

FALLING = (0.760, 0.758, 0.750, 0.741, 0.700, 0.690)


@pytest.mark.parametrize("how", SEARCHES)
def test_the_end_by_hand(how):
    assert longest(how, 6, FALLING.__getitem__, 0.762 - 0.02) == 2  # three flips
    assert longest(how, 6, FALLING.__getitem__, 0.8) == -1
    assert longest(how, 6, FALLING.__getitem__, 0.690) == 5
    assert longest(how, 1, FALLING.__getitem__, 0.7) == 0


@settings(max_examples=60)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=40), st.floats(0, 100))
def test_all_searches_find_the_same_end(values, target):
    falling = sorted(values, reverse=True)
    expected = sum(v >= target for v in falling) - 1
    for how in SEARCHES:
        assert longest(how, len(falling), falling.__getitem__, target) == expected


def test_a_search_by_halves_asks_for_few():
    asked = set()

    def accuracy(position):
        asked.add(position)
        return 100.0 - position

    assert longest("binary", 1000, accuracy, 100.0 - 321) == 321
    assert len(asked) <= 12
    asked.clear()
    assert longest("interpolation", 1000, accuracy, 100.0 - 321) == 321
    assert len(asked) <= 4  # both ends, the place itself and the next


# --- groups


def test_layers_that_read_one_tensor_are_a_group():
    net = WithShortcut().eval()
    names = ["stem", "blocks.0.conv1", "blocks.0.conv2", "blocks.0.downsample", "fc"]
    found = readers(net, names, torch.randn(1, *toy.SHAPE))
    assert found == [
        ["stem"],
        ["blocks.0.conv1", "blocks.0.downsample"],
        ["blocks.0.conv2"],
        ["fc"],
    ]
    layers = describe(net, toy.SHAPE)
    pinned = {layers[0].name: (8, 8), layers[-1].name: (8, 8)}
    ties = [("blocks.0.conv1", "blocks.1.depthwise")]
    space = Space.build(layers, (2, 4, 8), (2, 4, 8), pinned=pinned, groups=ties)
    asked = problem()
    budget = BudgetSpec(like=3).resolve(asked.target, space)
    asked = asked.at(network=net, space=space, budget=budget)
    assert groups_of(asked) == [
        ("blocks.0.conv1", "blocks.0.downsample", "blocks.1.depthwise"),
        ("blocks.0.conv2",),
        ("blocks.1.pointwise",),
    ]
    policy = FAST.search(asked).policy
    assert len({policy[n] for n in groups_of(asked)[0]}) == 1
    # Different candidates keep them apart.
    bits = {**asked.space.weight_bits, "blocks.0.downsample": (2, 8)}
    asked.space = replace(asked.space, weight_bits=bits)
    assert ("blocks.0.downsample",) in groups_of(asked)


def test_what_was_changed_in_place_is_another_tensor():
    class InPlace(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.three = (torch.nn.Linear(4, 4) for _ in range(3))

        def forward(self, x):
            x = x.clone()
            a, b = self.one(x), self.two(x)
            return a + b + self.three(x.relu_())

    found = readers(InPlace(), ["one", "two", "three"], torch.randn(1, 4))
    assert found == [["one", "two"], ["three"]]


def test_two_views_of_one_tensor_are_one_tensor():
    class Views(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.three = (torch.nn.Linear(4, 4) for _ in range(3))

        def forward(self, x):
            a, b = self.one(x.flatten(1)), self.two(x.flatten(1))
            return a + b + self.three(x.flatten(1)[:, :4])

    found = readers(Views(), ["one", "two", "three"], torch.randn(1, 2, 2))
    assert found == [["one", "two", "three"]]
    halves = Views()
    halves.one, halves.two = torch.nn.Linear(8, 4), torch.nn.Linear(8, 4)
    found = readers(halves, ["one", "two", "three"], torch.randn(1, 2, 4))
    assert found == [["one", "two"], ["three"]]  # a part has a range of its own


# --- the framework


@torch.no_grad()
def by_hand(asked, names, pair, images):
    """The ratio of the whole network, without any of the evaluator's savings."""
    plain = Policy.uniform(asked.layers, FLOAT, FLOAT)
    policy = Policy({**plain, **{name: LayerBits(*pair) for name in names}})
    signal = asked.float_model()(images).double()
    output = asked.correct(asked.quantized(policy))(images).double()
    return 10 * math.log10(signal.square().mean() / (signal - output).square().mean())


def test_sensitivities_are_of_the_output_with_one_group_quantized():
    asked = problem(groups=[("blocks.0.conv1", "blocks.0.conv2")])
    scores = FAST.score(asked)
    assert json.loads(json.dumps(scores.values)) == scores.values
    for names, row in zip(scores.values["groups"], scores.values["sqnr"], strict=True):
        menu = FAST.menu(asked, names)
        assert menu[0] == (8, 8)
        assert list(row) == [f"{w} {a}" for w, a in menu[1:]]
        for w, a in ((2, 8), (4, 4)):
            want = by_hand(asked, names, (w, a), asked.images[:16])
            assert row[f"{w} {a}"] == pytest.approx(want, abs=0.05)


def test_one_scoring_pass_serves_all_budgets_and_solving_runs_nothing():
    asked = problem()
    scores = FAST.score(asked)
    passes = sum(len(row) for row in scores.values["sqnr"])
    spent = asked.meter.read()
    assert spent.policies == 0
    assert spent.images_forward >= 16 * passes
    for like in (2.5, 3, 4):
        other = problem(like=like)
        assert other.within(FAST.solve(other, scores).policy)
        assert other.meter.read().images_forward == 0


def test_the_walk_ends_with_the_first_policy_within_the_budget():
    asked = problem(like=3)
    scores = FAST.score(asked)
    steps = FAST.walk(asked, scores)
    solution = FAST.solve(asked, scores)
    end = solution.notes["flips"]
    assert steps[0][1] == asked.space.highest()
    assert steps[end][1] == solution.policy
    assert not asked.within(steps[end - 1][1])
    costs = [asked.cost(policy)["bops"] for _, policy in steps]
    assert costs == sorted(costs, reverse=True)
    assert asked.within(steps[-1][1])
    noise = [point.objectives["noise"] for point in solution.front]
    assert noise == sorted(noise)
    assert solution.policy in [point.policy for point in solution.front]
    assert solution.notes["sqnr"] == -next(
        p.objectives["noise"] for p in solution.front if p.policy == solution.policy
    )


@dataclass(frozen=True)
class Unpacking(SeparableTarget):
    """Two bits take less room than four, but more time in one layer and less in the other."""

    name: ClassVar[str] = "unpacking"
    kind: ClassVar[str] = "model"
    metrics: ClassVar[dict[str, str]] = {"size": "B", "time": "s"}
    prices_activations: ClassVar[bool] = False
    monotone: ClassVar[bool] = False
    TABLE: ClassVar[dict] = {
        "blocks.0.conv1": {4: (0.4, 0.1), 2: (0.2, 0.5)},
        "blocks.0.conv2": {4: (1.6, 0.1), 2: (0.8, 0.4)},
    }

    def layer_cost(self, layer, bits):
        size, time = self.TABLE.get(layer.name, {}).get(bits.weight, (0.0, 0.0))
        return {"size": size, "time": time}


@pytest.mark.parametrize("candidates", [[], [[4, 8], [2, 8]]])
def test_where_flips_by_the_mean_price_miss_a_limit_the_last_step_meets_it(candidates):
    limits = {"size": {"limit": 1.0}, "time": {"limit": 1.0}}
    budget = BudgetSpec(metrics=limits)
    asked = toy.make_problem(Unpacking(), needs=NEEDS, scheme="minmax", bits=(2, 4), budget=budget)
    method = replace(FAST, candidates=candidates)
    assert method.skip(asked) is None
    scores = method.score(asked)
    steps = method.walk(asked, scores)
    found = method.solve(asked, scores)
    assert [found.policy[n].weight for n in Unpacking.TABLE] == [2, 2]
    assert asked.cost(found.policy) == pytest.approx({"size": 1.0, "time": 0.9})
    # The walk alone leaves the first at 4 bits, as 2 raise its mean price.
    before = steps[-2][1]
    assert [before[n].weight for n in Unpacking.TABLE] == [4, 2]
    assert asked.cost(before) == pytest.approx({"size": 1.2, "time": 0.5})
    rows = zip(scores.values["groups"], scores.values["sqnr"], strict=True)
    assert found.notes["sqnr"] == min(r["2 8"] for (n,), r in rows if n in Unpacking.TABLE)
    # With a limit that nothing meets there is no such step.
    tight = replace(asked.budget, limit=0.9)
    assert method.walk(asked.at(budget=tight), scores) == steps[:-1]


def test_activations_that_cost_nothing_keep_their_bits():
    asked = problem("size", like=3)
    free = Space.build(asked.layers, (2, 4, 8), (2, 4, 8), pinned={asked.layers[0].name: (8, 8)})
    asked = asked.at(space=free, budget=BudgetSpec(like=3).resolve(asked.target, free))
    found = FAST.search(asked).policy
    assert {entry.act for entry in found.values()} == {8}


@pytest.mark.parametrize("how", SEARCHES)
def test_an_accuracy_takes_the_walk_beyond_the_budget(how):
    asked = problem(like=6)
    scores = FAST.score(asked)
    plain = FAST.solve(asked, scores)
    method = replace(FAST, drop=15.0, search_by=how, images=64)
    found = method.solve(asked, scores)
    assert found.notes["flips"] > plain.notes["flips"]
    assert asked.within(found.policy)
    with torch.no_grad():
        qmodel = asked.correct(asked.quantized(found.policy))
        same = qmodel(asked.images).argmax(1) == asked.float_model()(asked.images).argmax(1)
    assert 100 * float(same.double().mean()) >= 85
    following = found.notes["agreement"].get(str(found.notes["flips"] + 1))
    assert following is None or following < 85
    assert len(found.notes["agreement"]) <= (found.notes["longest"] if how == "every" else 10)


def test_an_accuracy_that_the_budget_rules_out_leaves_the_budgets_policy():
    asked = problem(like=2.5)
    scores = FAST.score(asked)
    none = replace(FAST, drop=1e-9).solve(asked, scores)
    assert none.policy == FAST.solve(asked, scores).policy


def test_candidates_are_those_asked_for_that_the_hardware_supports():
    few = replace(FAST, candidates=[[8, 8], [4, 8], [4, 4]])
    asked = problem(like=4)
    solution = few.search(asked)
    free = [x.name for x in asked.space.free_layers]
    assert {(solution.policy[n].weight, solution.policy[n].act) for n in free} <= {
        (8, 8),
        (4, 8),
        (4, 4),
    }
    assert few.skip(asked) is None
    tight = problem(like=2.5)
    assert "its candidates cost" in few.skip(tight)
    assert FAST.skip(tight) is None
    with pytest.raises(InfeasibleBudget, match="give other candidates"):
        few.search(tight)
    # Where a layer has none of them, all it may take count.
    odd = replace(FAST, candidates=[[5, 5]])
    assert len(odd.menu(asked, free[:1])) == 9


def test_images_of_another_kind_give_nearly_the_same_list():
    asked = problem(like=3)
    noise = torch.randn(64, *toy.SHAPE, generator=torch.Generator().manual_seed(1))
    foreign = asked.at(data=Data(None, None, noise))
    ranks = []
    for where in (asked, foreign):
        rows = PracticalPTQ(images=64).score(where).values["sqnr"]
        ranks.append(np.argsort(np.argsort([v for row in rows for v in row.values()])))
    assert np.corrcoef(*ranks)[0, 1] > 0.8
    assert asked.within(PracticalPTQ(images=64).search(foreign).policy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": 0}, "images = 0"),
        ({"candidates": [[4]]}, r"candidates: \[4\] is no pair"),
        ({"candidates": [[4, 9]]}, r"candidates: \[4, 9\]"),
        ({"drop": -1.0}, "drop = -1.0: must not be negative"),
        ({"epsilon": -1.0}, "epsilon = -1.0"),
        ({"search_by": "guess"}, "search_by = 'guess': choose from"),
    ],
)
def test_what_cannot_be_used_is_refused_before_any_work(changes, message):
    with pytest.raises(ValueError, match=message):
        PracticalPTQ(**changes).validate()
