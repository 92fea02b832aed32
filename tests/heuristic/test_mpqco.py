"""MPQCO: the second-order term against gradients of single images and dense Hessians, by hand;
the knapsack against brute force."""

import itertools
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from frameworks import Budget, BudgetSpec, InfeasibleBudget
from frameworks.core.budget import Bound
from frameworks.core.estimators.derivatives import twice_differentiable
from frameworks.heuristic.mpqco import taylor
from frameworks.heuristic.mpqco.framework import MPQCO, moves, quantizers, walk
from frameworks.heuristic.mpqco.greedy import greedy, hull
from frameworks.heuristic.mpqco.taylor import Taylor
from frameworks.testing import toy

FAST = MPQCO(images=32, batch=16)
NEEDS = MPQCO.card.needs


def problem_of(target="bops", **changes):
    return toy.make_problem(target, **{"needs": NEEDS, "bits": (2, 4, 8), **changes})


def terms(model, weights, batches, form="fisher", inputs=None):
    generator = torch.Generator().manual_seed(0)
    with twice_differentiable(model):
        return Taylor(model, weights, inputs or {}, form, generator)(batches)


# --- steps 1 and 2: the term

X = torch.tensor([[1.0, 2.0], [2.0, -1.0]], dtype=torch.float64)
Y = torch.tensor([1, 0])
DELTA = torch.tensor([[0.1, -0.1], [0.0, 0.2], [-0.1, 0.0]], dtype=torch.float64)


def classifier():
    model = nn.Sequential(nn.Linear(2, 3, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1, 0], [0, 1], [-1, 0.5]]))
    return model


def of_classifier(form, x=X, y=Y, scale=1.0):
    return terms(classifier(), {"0": {2: scale * DELTA}}, [(x, y)], form)[0]["0"][2]


def test_a_hand_worked_classifier():
    assert of_classifier("fisher") == pytest.approx(0.007209903, rel=1e-6)
    assert of_classifier("ggn") == pytest.approx(0.017300075, rel=1e-6)
    # The squared products that the first one is the mean of.
    assert of_classifier("fisher") == pytest.approx((0.167380**2 + 0.028700**2) / 4, rel=1e-5)


@pytest.mark.parametrize("form", ["fisher", "ggn"])
def test_the_term_is_quadratic_and_zero_without_a_move(form):
    assert of_classifier(form, scale=2.0) == pytest.approx(4 * of_classifier(form))
    assert of_classifier(form, scale=0.0) == 0.0
    assert of_classifier("fisher", scale=2.0) == pytest.approx(0.028839611, rel=1e-6)


def test_over_labels_drawn_from_the_network_the_papers_form_is_gauss_newton():
    p = classifier()(X).softmax(1).detach()
    expected = 0.0
    for n, k in itertools.product(range(2), range(3)):
        one = of_classifier("fisher", X[n : n + 1], torch.tensor([k]))
        expected += float(p[n, k]) * one / 2
    assert expected == pytest.approx(of_classifier("ggn"))


def test_without_labels_the_papers_form_is_the_expectation_over_the_networks_answers():
    with torch.no_grad():
        shares = classifier()(X).softmax(1)
    found = of_classifier("fisher", y=shares)
    assert found == pytest.approx(of_classifier("ggn"), rel=1e-9)
    assert found > 0


def test_of_a_linear_classifier_gauss_newton_is_the_hessian():
    def loss(weight):
        return functional.cross_entropy(X @ weight.view(3, 2).T, Y)

    dense = torch.autograd.functional.hessian(loss, classifier()[0].weight.detach().flatten())
    move = DELTA.flatten()
    assert of_classifier("ggn") == pytest.approx(float(move @ dense @ move) / 2, rel=1e-5)


def by_single_images(problem, x, y, name, move, form):
    """The same by gradients of images one at a time, and a Jacobian for ``ggn``."""
    model = problem.float_model()
    for module in model.modules():
        if getattr(module, "inplace", False):
            module.inplace = False
    weight = model.get_submodule(name).weight
    weight.requires_grad_()
    total = 0.0
    for image, label in zip(x, y, strict=True):
        logits = model(image[None])
        p = logits.detach().softmax(1)[0].double()
        rows = [
            torch.autograd.grad(logits[0, c], weight, retain_graph=True)[0]
            for c in range(toy.CLASSES)
        ]
        u = torch.stack([(row.double() * move.double()).sum() for row in rows])
        if form == "fisher":
            total += float((p - functional.one_hot(label, toy.CLASSES)) @ u) ** 2
        else:
            total += float(p @ u.square() - (p @ u) ** 2)
    return total / (2 * len(x))


class Shared(toy.ToyConvNet):
    """Two convolutions with one weight."""

    def __init__(self):
        super().__init__()
        self.blocks[0].conv2.weight = self.blocks[0].conv1.weight


@pytest.mark.parametrize("form", ["fisher", "ggn"])
@pytest.mark.parametrize("kind", [toy.ToyConvNet, toy.ToyViT, Shared])
def test_terms_of_weights_are_those_of_single_images(kind, form):
    problem = problem_of(kind=kind)
    values = MPQCO(images=6, batch=4, form=form).score(problem).values["weight"]
    split = problem.train.subset(6, problem.generator("fisher"))
    x, y = next(iter(split.batches(6)))
    names = [layer.name for layer in problem.space.free_layers if not layer.shared]
    assert list(values) == names
    for name in names:
        move = moves(problem, name)[2]
        want = by_single_images(problem, x, y, name, move, form)
        assert values[name]["2"] == pytest.approx(want, rel=1e-3, abs=1e-9)
        assert values[name]["2"] > values[name]["8"] > 0


class Twice(toy.ToyConvNet):
    """A convolution that is called twice."""

    def __init__(self):
        super().__init__()
        self.blocks[0].conv2 = self.blocks[0].conv1


def by_single_inputs(problem, x, y, name, quantizer, form):
    """As `by_single_images`, of what a layer reads in all of its calls."""
    model, reads = problem.float_model(), []

    def note(module, args):
        # A copy: what a layer reads may go past it, too, where nothing is quantized.
        given = args[0].clone() if args[0].requires_grad else args[0].clone().requires_grad_()
        reads.append(given)
        return given, *args[1:]

    model.get_submodule(name).register_forward_pre_hook(note)
    total = 0.0
    for image, label in zip(x, y, strict=True):
        reads.clear()
        logits = model(image[None])[0]
        p, shifts = (
            logits.detach().softmax(0).double(),
            [(quantizer(a) - a).detach() for a in reads],
        )
        u = torch.zeros(toy.CLASSES, dtype=torch.float64)
        for c in range(toy.CLASSES):
            slopes = torch.autograd.grad(logits[c], reads, retain_graph=True)
            u[c] = sum(float((g * d).sum()) for g, d in zip(slopes, shifts, strict=True))
        if form == "fisher":
            total += float((p - functional.one_hot(label, toy.CLASSES)) @ u) ** 2
        else:
            total += float(p @ u.square() - (p @ u) ** 2)
    return total / (2 * len(x)), len(reads)


@pytest.mark.parametrize("form", ["fisher", "ggn"])
@pytest.mark.parametrize("kind", [toy.ToyConvNet, toy.ToyViT, Twice])
def test_terms_of_inputs_are_those_of_single_images(kind, form):
    problem = problem_of(kind=kind)
    values = MPQCO(images=6, batch=4, form=form).score(problem).values["act"]
    split = problem.train.subset(6, problem.generator("fisher"))
    x, y = next(iter(split.batches(6)))
    assert values.keys() == {layer.name for layer in problem.space.free_layers}
    calls = {}
    for name, found in values.items():
        quantizer = quantizers(problem, name)[2]
        want, calls[name] = by_single_inputs(problem, x, y, name, quantizer, form)
        assert found["2"] == pytest.approx(want, rel=1e-3, abs=1e-9)
    assert set(calls.values()) == ({1, 2} if kind is Twice else {1})


@pytest.mark.parametrize("form", ["fisher", "ggn"])
def test_batches_and_portions_are_no_matter(form):
    one, two = (
        MPQCO(images=24, batch=batch, form=form).score(problem_of()).values for batch in (24, 5)
    )
    for kind in ("weight", "act"):
        for name, row in one[kind].items():
            assert two[kind][name] == pytest.approx(row, rel=1e-4)


def test_of_many_classes_signs_have_the_same_mean(monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 12))
    batch = torch.randn(300, 5), torch.zeros(300, dtype=torch.long)
    weights = {"0": {2: torch.randn(12, 5)}}
    exact = terms(model, weights, [batch], "ggn")[0]["0"][2]
    monkeypatch.setattr(taylor, "MOST_CLASSES", 8)
    assert terms(model, weights, [batch], "ggn")[0]["0"][2] == pytest.approx(exact, rel=0.1)


# --- steps 3 and 4: the knapsack

BITS = (2, 3, 4, 8)
WORKED = {
    name: {b: (loss, float(n * b)) for b, loss in zip(BITS, losses, strict=True)}
    for name, n, losses in (
        ("a", 100, (9, 4, 1.5, 0.1)),
        ("b", 200, (6, 5.5, 1, 0.05)),
        ("c", 400, (2, 0.8, 0.3, 0.02)),
    )
}


def within(table, limit):
    return lambda chosen: sum(table[name][option][1] for name, option in chosen.items()) <= limit


def summed_loss(table, chosen):
    return sum(table[name][option][0] for name, option in chosen.items())


def brute(table, limit):
    choices = (dict(zip(table, c, strict=True)) for c in itertools.product(*table.values()))
    return min((summed_loss(table, c) for c in choices if within(table, limit)(c)), default=None)


def test_the_filter_leaves_the_lower_hull():
    assert {name: hull(options) for name, options in WORKED.items()} == {
        "a": [2, 3, 4, 8],
        "b": [2, 4, 8],
        "c": [2, 3, 4, 8],
    }
    assert hull({"x": (1.0, 5.0), "y": (0.5, 5.0), "z": (0.5, 5.0)}) == ["y"]
    assert hull({2: (1.0, 2.0), 4: (3.0, 4.0), 8: (0.0, 8.0)}) == [2, 8]


@pytest.mark.parametrize(
    ("limit", "bits", "loss"),
    [
        (2100, (4, 4, 2), 4.5),
        (2400, (8, 4, 2), 3.1),
        (2600, (8, 4, 2), 3.1),
        (3000, (8, 4, 3), 1.9),
    ],
)
def test_hand_worked_budgets_where_greedy_is_exact(limit, bits, loss):
    chosen = greedy(WORKED, within(WORKED, limit))
    assert tuple(chosen.values()) == bits
    assert summed_loss(WORKED, chosen) == pytest.approx(loss) == brute(WORKED, limit)


def test_a_hand_worked_budget_where_it_is_not():
    table = {
        name: {b: (loss, float(n * b)) for b, loss in zip((2, 4), losses, strict=True)}
        for name, n, losses in (("a", 40, (5, 1)), ("b", 100, (9, 2)), ("c", 100, (9.2, 2)))
    }
    chosen = greedy(table, within(table, 880))
    assert (tuple(chosen.values()), summed_loss(table, chosen)) == ((4, 2, 4), 12.0)
    assert brute(table, 880) == 9.0


NUMBERS = st.integers(0, 12).map(float)
TABLES = st.lists(
    st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=4), min_size=1, max_size=5
).map(lambda rows: {f"layer{i}": dict(enumerate(row)) for i, row in enumerate(rows)})


@given(TABLES, st.integers(0, 50))
def test_greedy_fits_and_is_within_a_step_of_the_optimum(table, limit):
    best = brute(table, limit)
    if best is None:
        with pytest.raises(InfeasibleBudget):
            greedy(table, within(table, limit))
        return
    chosen = greedy(table, within(table, limit))
    assert within(table, limit)(chosen)
    steps = [
        table[name][a][0] - table[name][b][0]
        for name, options in table.items()
        for a, b in itertools.pairwise(hull(options))
    ]
    assert best <= summed_loss(table, chosen) <= best + max(steps, default=0.0) + 1e-9


@given(TABLES, st.data())
def test_greedy_is_exact_where_its_steps_fill_the_budget(table, data):
    """Budgets at corners of the summed hull; two steps of equal slope may be taken in any order."""
    ordered = greedy(table, lambda chosen: True)
    costs = [summed_cost(table, chosen) for chosen in walked(table)]
    limit = data.draw(st.sampled_from(costs))
    chosen = greedy(table, within(table, limit))
    assert summed_loss(table, chosen) == pytest.approx(brute(table, limit), abs=1e-9)
    assert summed_loss(table, ordered) == sum(
        min(loss for loss, _ in options.values()) for options in table.values()
    )


def summed_cost(table, chosen):
    return sum(table[name][option][1] for name, option in chosen.items())


def walked(table):
    """Every choice that the greedy walk passes without a limit."""
    seen = []
    greedy(table, lambda chosen: seen.append(dict(chosen)) or True)
    return seen


# --- the framework


def policies(problem):
    for values in itertools.product(*(choice.bits for choice in problem.space.choices)):
        policy = problem.space.decode(values)
        if problem.within(policy):
            yield policy


@pytest.mark.parametrize(
    "changes",
    [
        {"like": 3},
        {"like": 4, "paired": True},
        {"target": "size", "like": 3},
        {"like": 3, "groups": [("blocks.0.conv1", "blocks.1.pointwise")]},
        {"budget": BudgetSpec(metrics={"bops": {"like": 3}, "size": {"like": 4}})},
    ],
    ids=["free", "paired", "size", "tied", "two limits"],
)
def test_the_exact_solution_is_the_best_of_all_policies(changes):
    problem = problem_of(**changes)
    scores = FAST.score(problem)
    table = FAST.losses(problem, scores)
    least = min(
        math.fsum(table[n][b.weight, b.act] for n, b in policy.items())
        for policy in policies(problem)
    )
    exact = MPQCO(solver="exact").solve(problem, scores)
    stepped = MPQCO(solver="greedy").solve(problem, scores)
    for solution in (exact, stepped):
        problem.space.validate(solution.policy)
        assert problem.within(solution.policy)
        found = math.fsum(table[n][b.weight, b.act] for n, b in solution.policy.items())
        assert solution.notes["loss"] == pytest.approx(found)
        assert solution.notes["exact"] == pytest.approx(least)
        assert solution.notes["greedy"] == pytest.approx(stepped.notes["loss"])
    assert exact.notes["loss"] == pytest.approx(least)
    assert least <= stepped.notes["loss"] * (1 + 1e-9)


def test_activation_bits_by_hand_are_those_of_all_layers():
    problem = problem_of(like=4)
    scores = FAST.score(problem)
    for wish, want in ((2, 2), (3, 2), (4, 4)):
        policy = MPQCO(act_bits=wish).solve(problem, scores).policy
        assert {policy[layer.name].act for layer in problem.space.free_layers} == {want}
        assert problem.within(policy)
    with pytest.raises(InfeasibleBudget):
        MPQCO(act_bits=8).solve(problem_of(like=2.5), scores)


def test_where_the_cheapest_do_not_meet_two_limits_the_exact_solution_takes_the_place():
    problem = problem_of(budget=BudgetSpec(metrics={"bops": {"like": 3}, "size": {"like": 3}}))
    problem.budget = Budget("bops", 10.0, others=(Bound("size", 5.0),))
    free = {(8, 8): (0.0, {"bops": 0.0, "size": 0.0})}
    # Together the first is the cheaper one, but it is too large.
    two = {(2, 2): (1.0, {"bops": 0.0, "size": 6.0}), (4, 4): (2.0, {"bops": 9.0, "size": 4.0})}
    menu = {name: two if name == "blocks.0.conv1" else free for name in problem.space.names}
    assert walk(problem, menu) is None

    class Given(MPQCO):
        def _menu(self, problem, scores):
            return menu

    solution = Given().solve(problem, FAST.score(problem))
    assert solution.policy["blocks.0.conv1"].weight == 4
    assert solution.notes == {"loss": 2.0, "exact": 2.0, "greedy": None}


def test_one_scoring_pass_serves_all_budgets():
    problem = problem_of()
    scores = FAST.score(problem)
    assert json.loads(json.dumps(scores.values)) == scores.values
    spent = problem.meter.read()
    assert spent.images_backward >= 32
    assert spent.policies == 0
    for like in (2.5, 3, 4):
        other = problem_of(like=like)
        assert other.within(FAST.solve(other, scores).policy)
        assert other.meter.read().images_forward == other.meter.read().images_backward == 0


def test_infeasible_budgets_say_so():
    problem = problem_of()
    problem.budget = Budget("bops", 1.0)
    with pytest.raises(InfeasibleBudget, match="the smallest is"):
        FAST.solve(problem, FAST.score(problem))


def test_nothing_free():
    problem = problem_of(bits=(4,))
    assert FAST.search(problem).policy == problem.space.lowest()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"form": "hessian"}, r"form = 'hessian': choose from \['fisher', 'ggn'\]"),
        ({"solver": "ip"}, r"solver = 'ip': choose from \['greedy', 'exact'\]"),
        ({"act_bits": 9}, "act_bits = 9"),
        ({"images": 0}, "images = 0: must be at least 1"),
    ],
)
def test_what_cannot_be_used_is_named(changes, words):
    with pytest.raises(ValueError, match=words):
        MPQCO(**changes).validate()
