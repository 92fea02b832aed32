"""HAWQ-V2: traces against dense Hessians, frontiers against enumeration, numbers by hand."""

import itertools
import json
import math
from dataclasses import replace

import pytest
import torch
from torch.func import functional_call
from torch.nn import functional

from frameworks import Budget, BudgetSpec, InfeasibleBudget, Scores, Space, schemes
from frameworks.core.estimators.perturbation import sensitivity
from frameworks.core.solvers.pareto import Frontier
from frameworks.heuristic.hawq_v2 import HAWQV2, ranking
from frameworks.testing import toy

FAST = HAWQV2(images=16, batch=16, probes=2)
FREE = ("blocks.0.conv1", "blocks.0.conv2", "blocks.1.depthwise", "blocks.1.pointwise")


def given(problem, traces=(1.0, 3.0, 2.0, 4.0), act=1.0):
    """Scores of the toy network's free layers: the given mean traces, errors that fall by 4."""
    errors = {n: {str(b): 4.0**-b for b in problem.space.weight_bits[n]} for n in FREE}
    acts = [n for n in FREE if len(problem.space.act_bits[n]) > 1]
    return Scores(
        {
            "weight_trace": dict(zip(FREE, traces, strict=True)),
            "weight_error": errors,
            "act_trace": dict.fromkeys(acts, act),
            "act_error": {
                n: {str(b): (i + 1) * 4.0**-b for b in problem.space.act_bits[n]}
                for i, n in enumerate(acts)
            },
        }
    )


# --- step 1: traces


@pytest.fixture(scope="module")
def scored():
    problem = toy.make_problem("bops", like=3)
    framework = HAWQV2(images=8, batch=8, probes=8)
    return problem, framework.score(problem).values


def drawn(problem):
    (batch,) = problem.train.subset(8, problem.generator("hessian")).batches(8)
    return batch


@pytest.mark.parametrize("name", ["blocks.1.depthwise", "blocks.1.pointwise"])
def test_weight_traces_are_means_over_the_dense_hessians_diagonal(scored, name):
    problem, values = scored
    x, y = drawn(problem)
    model = problem.float_model()
    weight = model.get_submodule(name).weight.detach()

    def loss(flat):
        changed = {f"{name}.weight": flat.view_as(weight)}
        return functional.cross_entropy(functional_call(model, changed, (x,)), y)

    dense = torch.autograd.functional.hessian(loss, weight.flatten())
    want = float(dense.diagonal().sum()) / weight.numel()
    assert values["weight_trace"][name] == pytest.approx(want, rel=1e-3)


def test_activation_traces_are_means_of_single_images_dense_hessians(scored):
    problem, values = scored
    x, y = drawn(problem)
    model, name = problem.float_model(), "blocks.1.pointwise"
    reads = []
    model.get_submodule(name).register_forward_pre_hook(lambda module, args: reads.append(args[0]))
    with torch.no_grad():
        model(x)
    total = 0.0
    for a, label in zip(reads[0], y, strict=True):

        def loss(flat, a=a, label=label):
            z = model.blocks[1].pointwise(flat.view(1, *a.shape))
            z = functional.relu(model.blocks[1].bn2(z)).mean((2, 3))
            return functional.cross_entropy(model.fc(z), label[None])

        total += float(torch.autograd.functional.hessian(loss, a.flatten()).diagonal().sum())
    want = total / len(x) / reads[0][0].numel()
    assert values["act_trace"][name] == pytest.approx(want, rel=1e-3)


def test_only_what_is_free_has_a_trace(scored):
    assert list(scored[1]["weight_trace"]) == list(scored[1]["act_trace"]) == list(FREE)
    space = toy.make_problem("size").space
    pinned = {n: (bits[-1],) for n, bits in space.weight_bits.items()}
    half = Space(space.layers, {**pinned, FREE[1]: (2, 4)}, {**pinned, FREE[2]: (2, 4)})
    problem = toy.make_problem("bops")
    problem.space = half
    values = FAST.score(problem).values
    assert list(values["weight_trace"]) == [FREE[1]]
    assert list(values["act_trace"]) == [FREE[2]]


def test_a_weight_that_is_stored_once_has_one_trace():
    class Twice(toy.ToyConvNet):
        def __init__(self):
            super().__init__()
            self.blocks[0].conv2.weight = self.blocks[0].conv1.weight

    problem = toy.make_problem("bops", kind=Twice)
    shared = next(layer for layer in problem.layers if layer.shared)
    values = FAST.score(problem).values
    assert shared.name not in values["weight_trace"]
    assert ranking(problem.space, values).count(shared.shared) == 1
    problem.space.validate(FAST.solve(problem, Scores(values)).policy)


# --- step 2: sensitivities


def test_omega_of_a_hand_worked_layer():
    # W = (0.9, -0.5, 0.3, 0.1) and H = diag(4, 2, 1, 1), so that the mean trace is 2.
    weight = torch.tensor([[0.9, -0.5, 0.3, 0.1]], dtype=torch.float64)
    scheme = schemes.get("minmax")()
    errors = {
        b: float((scheme.weight(weight, b)(weight) - weight).square().sum()) for b in (2, 4, 8)
    }
    scores = {
        "weight_trace": {"w": 2.0},
        "weight_error": {"w": {str(b): error for b, error in errors.items()}},
        "act_trace": {},
    }
    for bits, want in ((2, 0.52), (4, 0.005714286), (8, 3.224006e-5)):
        assert sensitivity(scores, "w", bits, 8) == pytest.approx(want, rel=1e-6)


def test_losses_are_the_sensitivities_of_all_pairs():
    problem = toy.make_problem("bops", bits=(2, 4))
    scores = given(problem)
    table = FAST.losses(problem, scores)
    assert table["blocks.0.conv2"] == {
        (w, a): 3.0 * 4.0**-w + 2 * 4.0**-a for w in (2, 4) for a in (2, 4)
    }
    assert table["stem"] == {(8, 8): 0.0}


# --- step 3: the order


def test_the_order_is_that_of_average_traces_whatever_their_sign():
    problem = toy.make_problem("bops")
    scores = given(problem, (1.0, -3.0, 2.0, 4.0)).values
    assert ranking(problem.space, scores) == [FREE[3], FREE[1], FREE[2], FREE[0]]


def test_layers_that_share_bits_have_the_average_over_all_their_weights():
    problem = toy.make_problem("bops", groups=[(FREE[0], FREE[3])])
    n = {layer.name: layer.params for layer in problem.layers}
    scores = given(problem).values
    mean = (1.0 * n[FREE[0]] + 4.0 * n[FREE[3]]) / (n[FREE[0]] + n[FREE[3]])
    assert 1 < mean < 2
    assert ranking(problem.space, scores) == [FREE[1], FREE[2], FREE[0]]


@pytest.mark.parametrize(
    ("limit", "bits", "omega"),
    [
        (2000, (4, 2, 4), 2.4),
        (2400, (8, 2, 4), 2.202),
        (2800, (4, 4, 4), 0.6),
        (3600, (4, 4, 8), 0.402),
        (5600, (8, 8, 8), 0.006),
    ],
)
def test_hand_worked_choices(limit, bits, omega):
    # n, mean traces and squared errors at 2, 4 and 8 bits of three layers.
    rows = {
        "a": (100, 2.0, (1, 0.1, 0.001)),
        "b": (400, 0.5, (4, 0.4, 0.004)),
        "c": (200, 1.0, (2, 0.2, 0.002)),
    }
    table = {
        name: {b: (trace * e, float(n * b)) for b, e in zip((2, 4, 8), errors, strict=True)}
        for name, (n, trace, errors) in rows.items()
    }
    found = Frontier(table).within(limit)
    assert found.value == pytest.approx(omega)
    order = Frontier(table, descending=["a", "c", "b"]).within(limit)
    # (4, 4, 8) would break the order; (8, 4, 4) has the same Omega.
    assert tuple(order.options.values()) == ((8, 4, 4) if limit == 3600 else bits)
    assert order.value == pytest.approx(omega)


# --- step 4: the frontier


def policies(problem, order=()):
    """Every policy, or all along whose order weight bits do not grow."""
    for values in itertools.product(*(choice.bits for choice in problem.space.choices)):
        policy = problem.space.decode(values)
        along = [policy[name].weight for name in order]
        if along == sorted(along, reverse=True):
            yield policy


@pytest.mark.parametrize("ordered", [True, False])
def test_the_frontier_is_that_of_all_settings(ordered):
    problem = toy.make_problem("bops", like=3, bits=(2, 4, 8))
    framework = HAWQV2(ordered=ordered, points=10_000)
    scores = given(problem)
    solution = framework.solve(problem, scores)
    assert solution.notes["ordered"] is ordered
    table = framework.losses(problem, scores)
    every = {}
    for policy in policies(problem, solution.notes["ranking"] if ordered else ()):
        loss = math.fsum(table[n][b.weight, b.act] for n, b in policy.items())
        cost = problem.cost(policy)["bops"]
        every[cost] = min(every.get(cost, math.inf), loss)
    best, want = math.inf, []
    for cost, loss in sorted(every.items()):
        if loss < best * (1 - 1e-9):
            best = loss
            want.append((cost, loss))
    found = [(p.objectives["bops"], p.objectives["omega"]) for p in solution.front]
    assert [cost for cost, _ in found] == pytest.approx([cost for cost, _ in want])
    assert [loss for _, loss in found] == pytest.approx([loss for _, loss in want])
    assert len(found) == solution.notes["frontier"] > 50
    # And of these the one of least Omega within the budget.
    least = min(loss for cost, loss in want if cost <= problem.budget.limit * (1 + 1e-9))
    assert solution.notes["omega"] == pytest.approx(least)
    assert problem.within(solution.policy)


def test_the_order_leaves_few_settings():
    problem = toy.make_problem("size", bits=(2, 4, 8))
    order = ranking(problem.space, given(problem).values)
    assert len(list(policies(problem, order))) == math.comb(4 + 3 - 1, 3 - 1)
    assert math.comb(54 + 3 - 1, 3 - 1) == 1540


@pytest.mark.parametrize("kind", [toy.ToyConvNet, toy.ToyViT])
def test_weight_bits_fall_along_the_average_traces(kind):
    problem = toy.make_problem("bops", like=2.5, kind=kind)
    solution = FAST.search(problem)
    order = solution.notes["ranking"]
    assert len(order) == len(problem.space.free_layers)
    for point in (solution.policy, *(point.policy for point in solution.front)):
        bits = [point[name].weight for name in order]
        assert bits == sorted(bits, reverse=True)
    assert solution.notes["ordered"] is True


def test_in_a_paired_space_activations_count_and_follow():
    problem = toy.make_problem("bops", like=3, bits=(2, 4, 8), paired=True)
    scores = given(problem)
    solution = HAWQV2(ordered=False).solve(problem, scores)
    table = FAST.losses(problem, scores)
    totals = [
        sum(table[n][b.weight, b.act] for n, b in policy.items())
        for policy in policies(problem)
        if problem.within(policy)
    ]
    assert solution.notes["omega"] == pytest.approx(min(totals))


@pytest.mark.parametrize("ordered", [True, False])
def test_several_limits_are_met_with_least_omega(ordered):
    limits = {"size": {"like": 4}, "bops": {"like": 3}}
    problem = toy.make_problem("bops", budget=BudgetSpec(metrics=limits), bits=(2, 4, 8))
    scores = given(problem)
    solution = HAWQV2(ordered=ordered).solve(problem, scores)
    table = FAST.losses(problem, scores)
    totals = [
        sum(table[n][b.weight, b.act] for n, b in policy.items())
        for policy in policies(problem, solution.notes["ranking"] if ordered else ())
        if problem.within(policy)
    ]
    assert problem.within(solution.policy)
    assert solution.notes["omega"] == pytest.approx(min(totals))


@pytest.mark.parametrize("limits", [("bops",), ("size", "bops")])
def test_every_reported_point_is_of_the_space(limits):
    budget = BudgetSpec(metrics={metric: {"like": 4} for metric in limits})
    problem = toy.make_problem("bops", budget=budget, bits=(2, 4, 8), groups=[FREE[:2]])
    solution = HAWQV2(ordered=False, points=9).solve(problem, given(problem))
    assert 2 < len(solution.front) <= 10
    for point in solution.front:
        problem.space.validate(point.policy)
    ends = [solution.front[i].policy for i in (0, -1)]
    assert ends == [problem.space.lowest(), problem.space.highest()]
    assert solution.policy in [point.policy for point in solution.front]


def test_where_no_policy_keeps_the_order_all_are_looked_at():
    problem = toy.make_problem("bops", bits=(2, 4, 8))
    space = problem.space
    # The most sensitive layer may have fewer bits than the least sensitive one only.
    own = {**space.weight_bits, FREE[3]: (2, 4), FREE[0]: (6, 8)}
    problem.space = Space(space.layers, own, space.act_bits)
    scores = given(problem)
    solution = HAWQV2().solve(problem, scores)
    assert solution.notes["ordered"] is False
    assert problem.within(solution.policy)
    problem.space.validate(solution.policy)


def test_hardware_on_which_few_bits_cost_more():
    problem = toy.make_problem(toy.Valley(), like=None, budget=BudgetSpec(like=4, metric="time"))
    solution = HAWQV2().solve(problem, given(problem))
    assert problem.within(solution.policy)


def test_infeasible_budgets_say_so():
    problem = toy.make_problem("bops")
    problem.budget = Budget("bops", 1.0)
    with pytest.raises(InfeasibleBudget, match="smallest cost"):
        FAST.solve(problem, given(problem))


def test_a_larger_budget_never_harms():
    found = []
    for like in (2, 2.5, 3, 4, 6, 8):
        problem = toy.make_problem("bops", like=like)
        found.append(HAWQV2().solve(problem, given(problem)).notes["omega"])
    assert found == sorted(found, reverse=True)


def test_one_scoring_pass_serves_all_budgets():
    problem = toy.make_problem("bops", like=3)
    scores = FAST.score(problem)
    assert json.loads(json.dumps(scores.values)) == scores.values
    spent = problem.meter.read()
    assert spent.images_backward >= 16
    assert spent.policies == 0
    for like in (2.5, 3, 4):
        other = toy.make_problem("bops", like=like)
        assert other.within(FAST.solve(other, scores).policy)
        assert other.meter.read().images_forward == other.meter.read().images_backward == 0


def test_negative_traces_weigh_errors_by_their_magnitude_and_are_noted():
    problem = toy.make_problem("bops", bits=(2, 4, 8))
    scores = given(problem, (1.0, -3.0, 2.0, 4.0), act=-1.0)
    table = FAST.losses(problem, scores)
    assert table == FAST.losses(problem, given(problem))
    assert min(loss for row in table.values() for loss in row.values()) >= 0
    solution = FAST.solve(problem, scores)
    noted = solution.notes["negative_traces"]
    assert noted == [f"weight {FREE[1]}", *(f"act {name}" for name in FREE)]
    assert solution.policy == FAST.solve(problem, given(problem)).policy


@pytest.mark.parametrize("kind", [toy.ToyConvNet, toy.ToyViT])
def test_batches_only_draw_signs(kind):
    """No number depends on them where the estimate is exact, else none by more than noise does."""
    problem = toy.make_problem("bops", kind=kind)
    whole, parts = (
        HAWQV2(images=10, batch=batch, probes=24, tolerance=0.0).score(problem).values
        for batch in (16, 4)  # the last one has two images
    )
    for name in ("weight_trace", "act_trace"):
        noise = whole["relative_error"][name.split("_")[0]]
        assert (max(noise.values()) < 1e-6) == (kind is toy.ToyConvNet)
        for layer, value in whole[name].items():
            assert parts[name][layer] == pytest.approx(value, rel=1e-4 + 6 * noise[layer])
    assert parts["weight_error"] == whole["weight_error"]
    assert parts["act_error"] == whole["act_error"]


def test_nothing_free():
    problem = toy.make_problem("bops", like=4, bits=(4,))
    assert replace(FAST, ordered=True).search(problem).policy == problem.space.lowest()
