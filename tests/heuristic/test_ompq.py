"""Orthogonality against its other form, the programme against SciPy's and brute force."""

import itertools
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch.nn import functional

from frameworks import Budget, BudgetSpec, Data, InfeasibleBudget, Policy, Scores, Space, describe
from frameworks.heuristic.ompq.features import functions, grams, readers
from frameworks.heuristic.ompq.framework import OMPQ
from frameworks.heuristic.ompq.menu import ranges, ties_of
from frameworks.heuristic.ompq.orthogonality import gram, importance, independence, orm, overlap
from frameworks.heuristic.ompq.programme import linear, refilled, rounded, slsqp, solved
from frameworks.testing import toy
from tests.heuristic.shortcuts import WithShortcut

NEEDS = frozenset({"calibration"})
FAST = OMPQ(images=16, act_bits=4)


def problem(target="bops", **more):
    return toy.make_problem(target, **{"needs": NEEDS, "scheme": "minmax", **more})


# --- the metric


def dense(x, y, centred):
    """The paper's form, by features."""
    if centred:
        x, y = x - x.mean(0), y - y.mean(0)
    norm = np.linalg.norm
    return norm(y.T @ x) ** 2 / (norm(x.T @ x) * norm(y.T @ y))


@pytest.mark.parametrize(("centred", "expected"), [(False, 0.548408), (True, 0.798024)])
def test_the_metric_of_two_small_matrices(centred, expected):
    x = torch.tensor([[1.0, 0], [0, 1], [1, 1]])
    y = torch.tensor([[1.0, 2], [3, 0], [0, 1]])
    found = orm([gram(m, centred=centred) for m in (x, y)])
    assert float(found[0, 1]) == pytest.approx(expected, abs=1e-6)
    assert dense(x.numpy(), y.numpy(), centred) == pytest.approx(expected, abs=1e-6)


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.booleans())
def test_the_metric_equals_the_form_by_features_and_is_blind_to_scale_and_rotation(seed, centred):
    g = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(6, 4, 3, generator=g).double() + 1, torch.randn(6, 5, generator=g)]
    drawn.append(torch.randn(6, 2, generator=g))
    found = orm([gram(x, centred=centred) for x in drawn])
    for i, j in itertools.product(range(3), repeat=2):
        pair = [drawn[k].flatten(1).double().numpy() for k in (i, j)]
        assert float(found[i, j]) == pytest.approx(dense(*pair, centred), abs=1e-9)
    assert torch.equal(found, found.T)
    assert torch.allclose(found.diagonal(), torch.ones(3).double())
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=g).double())[0]
    turned = [drawn[0] * -0.3, drawn[1].double() @ rotation * 7, drawn[2]]
    assert torch.allclose(orm([gram(x, centred=centred) for x in turned]), found, atol=1e-9)


def test_a_function_that_is_the_same_for_all_images_has_nothing_in_common():
    g = torch.Generator().manual_seed(0)
    x, same = torch.randn(5, 3, generator=g), torch.full((5, 4), 0.1)
    found = orm([gram(x), gram(same)])
    assert found[1].tolist() == [0, 0]
    assert float(found[0, 0]) == pytest.approx(1)
    assert orm([]).shape == (0, 0)


def test_importance_by_hand():
    metric = torch.tensor([[1, 0.8, 0.2], [0.8, 1, 0.5], [0.2, 0.5, 1]]).double()
    gamma = overlap(metric)
    assert gamma.tolist() == pytest.approx([1.0, 1.3, 0.7])
    absolute = importance(independence(gamma, 1.0, relative=False))
    assert absolute.tolist() == pytest.approx([0.378999, 0.384559, 0.496585], abs=1e-6)
    relative = importance(independence(gamma, 1.0))
    assert (relative / absolute).tolist() == pytest.approx([math.exp(0.7)] * 3)
    theta = [4.54e-5, 2.26e-6, 9.119e-4]
    assert independence(gamma, 10.0, relative=False).tolist() == pytest.approx(theta, rel=1e-3)
    means = [sum(theta[i:]) / (3 - i) for i in range(3)]
    found = importance(independence(gamma, 10.0, relative=False))
    assert found.tolist() == pytest.approx(means, rel=1e-3)
    far = independence(torch.tensor([2000.0, 3000.0]), 10.0)
    assert importance(far).tolist() == [0.5, 0.0]
    assert importance(independence(gamma, 0.0)).tolist() == [1.0, 1.0, 1.0]


# --- the programme

COEFFICIENTS = (0.378999, 0.384559, 0.496585)


def items_of(coefficients, sizes, widths):
    return [
        {b: (-c * b / 8, p * b / 8) for b in widths}
        for c, p in zip(coefficients, sizes, strict=True)
    ]


@pytest.mark.parametrize(
    ("widths", "limit", "bits", "objective"),
    [(range(4, 9), 5, [8, 8, 4], 1.011850), (range(2, 5), 2.5, [4, 4, 2], 0.505925)],
)
def test_the_programme_by_hand(widths, limit, bits, objective):
    items = items_of(COEFFICIENTS, (1, 2, 4), widths)
    between = linear(items, limit)
    assert between == pytest.approx(bits)
    assert rounded(items, between, limit) == bits
    assert sum(c * b / 8 for c, b in zip(COEFFICIENTS, bits, strict=True)) == pytest.approx(
        objective, abs=1e-6
    )


def random_items(seed, line):
    """Costs in proportion to the bits, or any."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(5):
        size, gain = rng.uniform(0.1, 2, 2)
        costs = [size * b for b in (2, 3, 4, 8)] if line else np.sort(rng.uniform(0, 9, 4))
        found.append({b: (-gain * b, c) for b, c in zip((2, 3, 4, 8), costs, strict=True)})
    rng.shuffle(found)
    low, high = (sum(pick(c for _, c in x.values()) for x in found) for pick in (min, max))
    return found, low + rng.uniform(0, 1) * (high - low)


def relaxation(items, limit):
    """The programme's least value by SciPy, with a share of every option."""
    flat = [(i, v, c) for i, item in enumerate(items) for v, c in item.values()]
    ones = [[float(i == j) for i, _, _ in flat] for j in range(len(items))]
    values, costs = [v for _, v, _ in flat], [c for _, _, c in flat]
    return linprog(values, [costs], [limit], ones, np.ones(len(items))).fun


@pytest.mark.parametrize("line", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_the_programme_equals_scipys_with_at_most_one_item_between_widths(seed, line):
    items, limit = random_items(seed, line)
    found = linear(items, limit)
    between = [i for i, b in enumerate(found) if min(abs(b - w) for w in (2, 3, 4, 8)) > 1e-9]
    assert len(between) <= 1
    if line:  # a mixture of widths is then as good as the bits between them
        value = sum(np.interp(b, list(x), [v for v, _ in x.values()]) for x, b in zip(items, found))  # noqa: B905
        assert value == pytest.approx(relaxation(items, limit), rel=1e-6)
        assert (
            value
            <= sum(
                np.interp(b, list(x), [v for v, _ in x.values()])
                for x, b in zip(items, slsqp(items, limit))  # noqa: B905
            )
            + 1e-4
        )
    else:
        step = max(abs(v) for x in items for v, _ in x.values())
        whole = [i for i in range(5) if i not in between]
        value = sum(items[i][round(found[i])][0] for i in whole)
        assert abs(value - relaxation(items, limit)) <= step


@pytest.mark.parametrize("seed", range(6))
def test_rounding_equals_brute_force_and_what_is_left_suffices_for_no_step(seed):
    items, limit = random_items(seed, True)
    at = np.random.default_rng(seed).uniform(2, 8, 5)
    near = [
        {max(w for w in (2, 3, 4, 8) if w <= b), min(w for w in (2, 3, 4, 8) if w >= b)} for b in at
    ]

    def cost(bits):
        return sum(x[b][1] for x, b in zip(items, bits, strict=True))

    fitting = [bits for bits in itertools.product(*near) if cost(bits) <= limit]
    found = rounded(items, list(at), limit)
    if not fitting:
        assert found is None
        return
    assert cost(found) == pytest.approx(max(map(cost, fitting)))
    full = refilled(items, found, limit)
    assert cost(full) <= limit * (1 + 1e-9)
    assert all(a >= b for a, b in zip(full, found, strict=True))
    wider = {2: 3, 3: 4, 4: 8}
    for i, bits in enumerate(full):
        if bits in wider:
            assert cost([*full[:i], wider[bits], *full[i + 1 :]]) > limit


def test_rounding_by_hand():
    values, weights = (1.2, 3.8, 4.3, 7.9), (100, 10, 50, 30)
    items = [{b: (-b, w * b) for b in range(1, 9)} for w in weights]
    found = rounded(items[::-1], values[::-1], 610)  # from the last to the first
    assert found[::-1] == [1, 4, 5, 7]


def test_too_small_a_budget_is_refused():
    items = items_of(COEFFICIENTS, (1, 2, 4), (2, 4))
    with pytest.raises(InfeasibleBudget, match=r"least is 1\.75"):
        linear(items, 1.7)


def test_several_limits_are_met_by_the_best_of_all_bits():
    rng = np.random.default_rng(0)
    names = "abcd"
    table = {
        n: {b: (-v * b, {"x": c * b, "y": d * b * b}) for b in (2, 3, 4)}
        for n, (v, c, d) in zip(names, rng.uniform(0.1, 1, (4, 3)), strict=True)
    }
    limits = {m: 1.4 * sum(table[n][2][1][m] for n in names) for m in ("x", "y")}
    budget = Budget("x", limits["x"], others=Budget("y", limits["y"]).bounds)
    bits = solved(table, budget, [("a", "c")], "linear")

    def value(bits):
        return sum(table[n][b][0] for n, b in zip(names, bits, strict=True))

    fitting = [
        bits
        for bits in itertools.product((2, 3, 4), repeat=4)
        if bits[0] == bits[2]
        and all(
            sum(table[n][b][1][m] for n, b in zip(names, bits, strict=True)) <= limits[m]
            for m in limits
        )
    ]
    assert value(bits.values()) == pytest.approx(min(map(value, fitting)))


def test_a_small_objective_is_none_to_the_released_solver():
    """It returns the bits within the limit that are nearest to the most, as projected by hand."""
    sizes = np.array([1.0, 2.0, 4.0])
    found = slsqp(items_of(1e-9 * np.ones(3), sizes, (4, 8)), 5.0)
    step = (sizes.sum() - 5.0) / (sizes**2).sum()
    assert found == pytest.approx(list(8 * (1 - step * sizes)), abs=1e-3)


# --- layers as functions


def test_what_ends_in_one_sum_is_one_function_and_has_the_same_bits():
    net = WithShortcut().eval()
    layers = describe(net, toy.SHAPE)
    space = Space.build(
        layers, (2, 4, 8), (2, 4, 8), pinned={x.name: (8, 8) for x in (layers[0], layers[-1])}
    )
    asked = problem()
    asked = asked.at(
        network=net, space=space, budget=BudgetSpec(like=4).resolve(asked.target, space)
    )
    found = readers(asked.float_model(), asked.space.names, asked.images[:1])
    assert found["blocks.0.conv1"] == "blocks.0.conv2"
    assert found["blocks.0.conv2"] == found["blocks.0.downsample"] == "blocks.1.depthwise"
    assert found["fc"] is None
    scores = FAST.score(asked)
    assert scores.values["layers"] == [
        ["blocks.0.conv1"],
        ["blocks.0.downsample", "blocks.0.conv2"],
        ["blocks.1.depthwise"],
        ["blocks.1.pointwise"],
    ]
    policy = FAST.solve(asked, scores).policy
    assert policy["blocks.0.conv2"] == policy["blocks.0.downsample"]
    # It counts once in the objective, and not at all as a tie where it may have other bits.
    losses = FAST.losses(asked, scores)
    assert losses["blocks.0.downsample"][4, 4] > 0 == losses["blocks.0.conv2"][4, 4]
    asked.space = replace(
        asked.space, weight_bits={**asked.space.weight_bits, "blocks.0.downsample": (2, 8)}
    )
    assert ["blocks.0.downsample"] in ties_of(asked, scores.values["layers"])


class Residual(torch.nn.Module):
    """A stem with pooling, a block with a convolution on its shortcut, a plain one, an end."""

    def __init__(self):
        super().__init__()
        self.stem = self.part(3, 6, 3)
        self.pool = torch.nn.MaxPool2d(3, 2, 1)
        self.blocks = torch.nn.ModuleList(
            torch.nn.ModuleDict(
                {
                    "conv1": self.part(inputs, 8, 3, stride),
                    "conv2": self.part(8, 8, 3),
                    **({"shortcut": self.part(inputs, 8, 1, stride)} if inputs != 8 else {}),
                }
            )
            for inputs, stride in ((6, 2), (8, 1))
        )
        self.fc = torch.nn.Linear(8, 4)

    @staticmethod
    def part(inputs, outputs, kernel, stride=1):
        conv = torch.nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        return torch.nn.Sequential(conv, torch.nn.BatchNorm2d(outputs))

    def block(self, x, block):
        inner = functional.relu(block["conv1"](x), inplace=True)
        out = block["conv2"](inner)
        out += block["shortcut"](x) if "shortcut" in block else x
        return functional.relu(out, inplace=True)

    def forward(self, x):
        x = self.pool(functional.relu(self.stem(x), inplace=True))
        for block in self.blocks:
            x = self.block(x, block)
        return self.fc(functional.adaptive_avg_pool2d(x, 1).flatten(1))

    def released(self, x):
        """The features of the released list for post-training quantization, in its order."""
        x = functional.relu(self.stem(x))
        found = [x]
        x = self.pool(x)
        for block in self.blocks:
            found.append(functional.relu(block["conv1"](x)))
            x = self.block(x, block)
            found.append(x.clone())
        return [*found, self.fc(x.mean((2, 3)))]


@pytest.mark.parametrize("batch_statistics", [True, False])
@pytest.mark.parametrize("ends", [True, False])
def test_features_are_those_of_the_released_code(ends, batch_statistics):
    """With the first and the last layer (as for post-training quantization) and without."""
    torch.manual_seed(0)
    net, images = Residual().eval(), torch.randn(16, 3, 16, 16)
    names = [name for name, x in net.named_modules() if hasattr(x, "weight") and x.weight.dim() > 1]
    read_by = readers(net, names, images[:1])
    groups = functions(net, read_by, names if ends else names[1:-1], images[:1])
    inner = [
        ["blocks.0.conv1.0"],
        ["blocks.0.conv2.0", "blocks.0.shortcut.0"],
        ["blocks.1.conv1.0"],
        ["blocks.1.conv2.0"],
    ]
    assert [f.layers for f in groups] == ([["stem.0"], *inner, ["fc"]] if ends else inner)
    found = orm(grams(net, read_by, groups, images, batch_statistics=batch_statistics))
    with torch.no_grad():
        features = net.train(batch_statistics).released(images)
    features = [x.flatten(1).double().numpy() for x in (features if ends else features[1:-1])]
    for i, j in itertools.combinations(range(len(features)), 2):
        assert float(found[i, j]) == pytest.approx(dense(features[i], features[j], True), rel=1e-4)


class Parts(torch.nn.Module):
    """What follows a layer is a half of its output; of the other half, only a mean over all."""

    def __init__(self):
        super().__init__()
        self.one, self.two = torch.nn.Linear(8, 8), torch.nn.Linear(4, 8)
        self.head = torch.nn.Linear(8, 4)

    def forward(self, x):
        half, gate = torch.sigmoid(self.one(x[:, 0, 0])).chunk(2, dim=1)
        y = self.two(half * gate.mean(1, keepdim=True))
        y.exp()  # of the same shape, but nothing reads it
        return self.head(y.tanh())


def test_what_is_read_in_parts_is_taken_whole():
    torch.manual_seed(0)
    net, images = Parts().eval(), torch.randn(8, 3, 8, 8)
    read_by = readers(net, ["one", "two", "head"], images[:1])
    groups = functions(net, read_by, ["one", "two"], images[:1])
    assert groups == [(["one"], (1, 8)), (["two"], (1, 8))]
    with torch.no_grad():
        one = torch.sigmoid(net.one(images[:, 0, 0]))
        half, gate = one.chunk(2, dim=1)
        two = net.two(half * gate.mean(1, keepdim=True)).tanh()
    for matrix, feature in zip(grams(net, read_by, groups, images), (one, two), strict=True):
        assert torch.allclose(matrix, gram(feature))


class Sequences(torch.nn.Module):
    """Two layers that read time first, [T, N, C]."""

    def __init__(self):
        super().__init__()
        self.one, self.two = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)
        self.head = torch.nn.Linear(8, 4)

    def forward(self, x):
        x = self.one(x[:, 0].transpose(0, 1))
        return self.head(self.two(x.tanh()).mean(0))


def test_images_are_found_where_they_are_not_the_first_dimension():
    torch.manual_seed(0)
    net, images = Sequences().eval(), torch.randn(8, 3, 8, 8)
    read_by = readers(net, ["one", "two", "head"], images[:1])
    assert read_by == {"one": "two", "two": "head", "head": None}
    groups = functions(net, read_by, ["one", "two", "head"], images[:1])
    found = orm(grams(net, read_by, groups, images))
    with torch.no_grad():
        one = net.one(images[:, 0]).tanh()  # images first
        features = [x.flatten(1).double().numpy() for x in (one, net.two(one), net(images))]
    for i, j in itertools.combinations(range(3), 2):
        assert float(found[i, j]) == pytest.approx(dense(features[i], features[j], True), rel=1e-4)


# --- the framework


def test_scores_are_of_the_free_layers_and_serve_all_budgets():
    asked = problem()
    method = replace(FAST, act_bits=2)
    scores = method.score(asked)
    assert json.loads(json.dumps(scores.values)) == scores.values
    assert [n for names in scores.values["layers"] for n in names] == [
        x.name for x in asked.space.free_layers
    ]
    assert asked.meter.read().images_forward == 16 + 2  # and one image to see what is read where
    assert asked.meter.read().images_backward == len(asked.layers) - 1
    for like in (2.5, 3, 4, 6):
        other = problem(like=like)
        solution = method.solve(other, scores)
        assert other.within(solution.policy)
        assert other.meter.read().images_forward == 0  # its activation bits are given


def scores_of(names, gammas=None):
    """Scores in which the functions overlap as given, two by two with a third one."""
    size = len(names)
    metric = torch.eye(size)
    for i, value in enumerate(gammas or [0.5] * size):
        metric[i, (i + 1) % size] = value
    return Scores({"layers": [[n] for n in names], "orm": metric.tolist()})


def test_ranges_whose_borders_a_layer_cannot_have_are_moved_and_not_emptied():
    def moved(widths, borders=(2, 4, 8)):
        menu = {"a": dict.fromkeys(widths, (8, {})), "fixed": {8: (8, {})}}
        found = ranges(menu, borders)
        assert all(list(part["fixed"]) == [8] for part in found)
        return [list(part["a"]) for part in found[::-1]]

    assert moved((2, 8)) == [[2, 8]]
    assert moved((2, 3, 8)) == [[2, 3], [3, 8]]
    assert moved((4, 8)) == [[4, 8]]
    assert moved((2, 3, 4)) == [[2, 3, 4]]
    assert moved((2, 3, 4, 5, 6, 8)) == [[2, 3, 4], [4, 5, 6, 8]]
    assert moved((8,)) == moved((2, 8), ()) == []
    # Of another layer a range may have one width.
    menu = {"a": dict.fromkeys((2, 8), (8, {})), "b": dict.fromkeys((2, 4, 8), (8, {}))}
    found = [[list(x) for x in part.values()] for part in ranges(menu, (2, 4, 8))]
    assert found == [[[2, 8], [4, 8]], [[2], [2, 4]]]


def test_a_budget_between_two_and_eight_bits_is_used():
    asked = problem("size", like=6, bits=(2, 8))
    policy = OMPQ(images=16).search(asked).policy
    assert {policy[x.name].weight for x in asked.space.free_layers} == {2, 8}
    assert asked.cost(policy)["size"] > 0.9 * asked.budget.limit


def test_bits_are_4_to_8_where_4_fit_and_2_to_4_where_they_do_not():
    names = [x.name for x in problem().space.free_layers]
    for like, allowed in ((2.5, {2, 3, 4}), (3.9, {2, 3, 4}), (4, {4}), (6, {4, 5, 6, 8})):
        found = FAST.solve(problem("size", like=like), scores_of(names)).policy
        assert {found[n].weight for n in names} <= allowed
    # A budget below the range, and no range at all, leave all candidates.
    tight = problem("size", like=2.5, bits=(1, 2, 3, 8))
    narrow = replace(FAST, bits=[3, 8])
    assert tight.within(narrow.solve(tight, scores_of(names)).policy)
    wide = replace(FAST, bits=[]).solve(problem("size", like=4), scores_of(names)).policy
    assert {2, 8} <= {wide[n].weight for n in names}


def test_the_more_orthogonal_layer_has_more_bits():
    asked = problem("size", like=3)
    names = [x.name for x in asked.space.free_layers]
    equal = {x.name: x.params for x in asked.space.free_layers[:2]}
    assert len(set(equal.values())) == 1
    bits = []
    for gammas in ([0.9, 0.0, 0.9, 0.9], [0.0, 0.9, 0.9, 0.9]):
        policy = replace(FAST, beta=3.0).solve(asked, scores_of(names, gammas)).policy
        bits.append([policy[n].weight for n in names[:2]])
    assert bits[0][1] > bits[0][0]
    assert bits[1][0] >= bits[0][0]


def test_activation_bits_are_those_nearest_to_the_float_network():
    asked = problem(like=4, bits=(2, 4, 8))
    free = OMPQ(images=16)
    scores = free.score(asked)
    solution = free.solve(asked, scores)
    tried = solution.notes["act_bits"]
    assert set(tried) == {"2", "4", "8"}
    (act,) = {b.act for n, b in solution.policy.items() if len(asked.space.act_bits[n]) > 1}
    assert tried[str(act)] == min(tried.values())
    with torch.no_grad():
        v = asked.float_model()(asked.images).double()
        z = asked.correct(asked.quantized(solution.policy))(asked.images).double()
    kl = float((v.softmax(1) * (v.log_softmax(1) - z.log_softmax(1))).sum(1).mean())
    assert tried[str(act)] == pytest.approx(kl, rel=1e-3)
    fixed = replace(free, act_bits=2).solve(asked, scores)
    assert {fixed.policy[x.name].act for x in asked.space.free_layers} == {2}
    with pytest.raises(InfeasibleBudget):
        replace(free, act_bits=8).solve(problem(like=2.5, bits=(4, 8)).at(budget=small()), scores)


def small():
    return Budget("bops", 1.0)


@pytest.mark.parametrize(
    ("target", "act", "policies"), [("size", 4, 2), ("bops", 2, 1), ("bops", 4, 1), ("bops", 3, 2)]
)
def test_how_many_policies_all_orders_of_the_metric_give(target, act, policies):
    """At bit operations the activations' width can leave orthogonality nothing (see the card)."""
    asked = problem(target, like=3)
    method = replace(FAST, act_bits=act)
    scores = method.score(asked)
    metric = torch.tensor(scores.values["orm"])
    found = set()
    for order in map(list, itertools.permutations(range(len(metric)))):
        permuted = {**scores.values, "orm": metric[order][:, order].tolist()}
        found.add(method.solve(asked, Scores(permuted)).policy)
    assert len(found) == policies
    solution = method.solve(asked, scores)
    least = 4 if (target, act) == ("bops", 2) else 2  # of the range
    bits = [solution.policy[names[0]].weight for names in scores.values["layers"]]
    assert solution.notes["raised"] == sum(b > least for b in bits)
    gamma, theta = (list(solution.notes[key].values()) for key in ("gamma", "theta"))
    assert gamma == pytest.approx((metric.sum(1) - 1).tolist())
    assert theta == pytest.approx([math.exp(10 * (min(gamma) - g)) for g in gamma])


def test_a_width_whose_divergence_is_no_number_is_not_chosen(monkeypatch):
    asked = problem(like=4, bits=(2, 4, 8))
    free = OMPQ(images=16)
    scores = free.score(asked)
    losses = iter([math.nan, 2.0, 1.0])
    monkeypatch.setattr(
        "frameworks.heuristic.ompq.framework.likeness",
        lambda *_: lambda policy: SimpleNamespace(loss=next(losses)),
    )
    found = free.solve(asked, scores)
    assert found.notes["act_bits"] == {"2": math.inf, "4": 2.0, "8": 1.0}
    assert {found.policy[x.name].act for x in asked.space.free_layers} == {8}


def test_one_calibration_image_is_too_few():
    asked = problem()
    assert FAST.skip(asked) is None
    one = asked.at(data=Data(None, None, asked.images[:1]))
    assert "needs two calibration images" in FAST.skip(one)


def test_pairs_ties_and_candidates_that_differ_by_layer():
    asked = problem(paired=True, groups=[("blocks.0.conv1", "blocks.1.pointwise")], like=3)
    policy = OMPQ(images=16).search(asked).policy
    asked.space.validate(policy)
    layers = asked.layers
    names = [x.name for x in layers]
    bits = {n: (8,) for n in names} | {names[1]: (2, 4), names[2]: (3, 8)}
    space = Space(layers, bits, {n: (8,) for n in names})
    budget = BudgetSpec(ratio=0.7).resolve(asked.target, space)
    apart = asked.at(space=space, budget=budget)
    found = OMPQ(images=16).search(apart).policy
    space.validate(found)
    assert apart.within(found)
    pinned = Space(layers, {n: (8,) for n in names}, {n: (4, 8) for n in names})
    only = asked.at(space=pinned, budget=BudgetSpec(ratio=0.6).resolve(asked.target, pinned))
    assert OMPQ(images=16).search(only).policy == Policy.uniform(layers, 8, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": 1}, "images = 1: must be at least 2"),
        ({"beta": -1.0}, "beta = -1.0"),
        ({"bits": [4, 2]}, r"bits = \[4, 2\]: give two or more"),
        ({"bits": [4]}, r"bits = \[4\]"),
        ({"bits": [4, 9]}, r"bits = \[4, 9\]"),
        ({"act_bits": 9}, "act_bits = 9: choose from"),
        ({"solver": "greedy"}, "solver = 'greedy': choose from"),
    ],
)
def test_what_cannot_be_used_is_refused_before_any_work(changes, message):
    with pytest.raises(ValueError, match=message):
        OMPQ(**changes).validate()
