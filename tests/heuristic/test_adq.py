"""ADQ's codebooks, thresholds and sensitivities by hand."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from frameworks import schemes
from frameworks.core.evaluation.answered import AnsweredSplit
from frameworks.core.evaluation.evaluate import measure
from frameworks.core.evaluation.train import Recipe
from frameworks.core.solution import Scores, Solution
from frameworks.core.split import TensorSplit
from frameworks.heuristic.adq.codebook import Codebook, quantile_levels
from frameworks.heuristic.adq.fisher import fisher_traces
from frameworks.heuristic.adq.framework import ADQ
from frameworks.heuristic.adq.thresholds import Thresholds
from frameworks.testing import toy

BY_HAND = torch.tensor([-0.8, -0.4, -0.2, -0.1, 0.1, 0.2, 0.3, 0.5, 0.6, 0.9])
NEEDS = frozenset({"calibration", "train"})


def near(found, wanted):
    torch.testing.assert_close(found.detach(), torch.tensor(wanted), atol=2e-6, rtol=0)


# --- codebooks -----------------------------------------------------------------------------


def test_levels_are_quantiles_of_each_side_with_zero_between():
    levels = quantile_levels(BY_HAND, 3)
    near(levels, [-0.6, -0.3, -0.15, 0, 11 / 60, 0.4, 0.65])
    quantizer = Codebook(levels)
    assert quantizer.labels(BY_HAND).tolist() == [0, 1, 2, 2, 4, 4, 5, 5, 6, 6]
    assert float((quantizer(BY_HAND) - BY_HAND).square().mean()) == pytest.approx(0.01472222)


def test_levels_of_few_bits_and_of_one_side():
    near(quantile_levels(BY_HAND, 2), [-0.3, 0, 0.4])
    near(quantile_levels(BY_HAND, 1), [-0.3, 0.4])
    near(quantile_levels(BY_HAND.abs(), 2), [0, 0.35])
    near(quantile_levels(torch.zeros(5), 1), [0.0])


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_each_level_of_a_side_has_as_many_weights_about_it(bits):
    """Its quantiles are the middles of parts of equal size: counts differ by no more than one."""
    side = torch.from_numpy(np.random.default_rng(bits).gamma(2.0, size=307)).float()
    levels = quantile_levels(side, bits)[1:]
    count = len(levels)
    assert count == 2 ** (bits - 1) - 1
    ends = np.quantile(side.double().numpy(), np.arange(1, count) / count)
    parts = np.bincount(np.searchsorted(ends, side.numpy()), minlength=count)
    assert parts.max() - parts.min() <= 1
    assert np.searchsorted(ends, levels.numpy()).tolist() == list(range(count))


def trained(quantizer, weight):
    """A step of training as the codebook sees it."""
    quantizer.train()
    return quantizer(weight.clone().requires_grad_())


def test_levels_follow_the_weights_by_hand():
    quantizer = Codebook(quantile_levels(BY_HAND, 3))
    trained(quantizer, BY_HAND)
    near(quantizer.levels, [-0.602, -0.301, -0.15, 0, 0.183, 0.4, 0.651])
    labels = quantizer.labels(BY_HAND)
    for _ in range(3000):
        quantizer.follow(BY_HAND, labels)
    torch.testing.assert_close(
        quantizer.levels, torch.tensor([-0.8, -0.4, -0.15, 0, 0.15, 0.4, 0.75]), atol=1e-4, rtol=0
    )


def test_only_training_moves_the_levels():
    quantizer = Codebook(quantile_levels(BY_HAND, 3))
    before = quantizer.levels.clone()
    quantizer(BY_HAND)
    quantizer.codes(BY_HAND)
    quantizer.eval()(BY_HAND.clone().requires_grad_())
    with torch.no_grad():
        quantizer.train()(BY_HAND.clone().requires_grad_())
    assert torch.equal(quantizer.levels, before)


def test_a_level_without_weights_stays():
    quantizer = Codebook(torch.tensor([-5.0, 0.0, 1.0]))
    trained(quantizer, torch.tensor([0.9, 1.3, 0.1]))
    near(quantizer.levels, [-5.0, 0.0, 1.001])


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.floats(-10, 10, width=32), min_size=2, max_size=40),
    bits=st.integers(1, 5),
    shift=st.floats(-1, 1),
)
def test_levels_stay_in_order_and_err_no_more(values, bits, shift):
    """Of weights that have moved the mean squared error never rises with steps of the average."""
    weight = torch.tensor(values).double()
    quantizer = Codebook(quantile_levels(weight, bits))
    moved, errors = weight + shift, []
    for _ in range(30):
        errors.append(float((trained(quantizer, moved) - moved).square().mean().detach()))
        assert (quantizer.levels.diff() >= 0).all()
        assert bits == 1 or (quantizer.levels == 0).sum() == 1
    assert all(b <= a * (1 + 1e-9) + 1e-15 for a, b in itertools.pairwise(errors))


def test_the_gradient_of_weights_is_the_identity():
    weight = BY_HAND.clone().requires_grad_()
    slope = torch.arange(10.0)
    (Codebook(quantile_levels(BY_HAND, 2))(weight) * slope).sum().backward()
    assert torch.equal(weight.grad, slope)


# --- thresholds ----------------------------------------------------------------------------


def by_hand():
    """N2UQ's two bits with widths .5, .7, .8 and unit scales."""
    quantizer = Thresholds(torch.tensor(2 / 3), 0, 2)
    quantizer.widths.data = torch.tensor([0.5, 0.7, 0.8])
    quantizer.learn_range()
    return quantizer


def test_thresholds_and_levels_by_hand():
    quantizer = by_hand()
    _, edges, thresholds = quantizer.places()
    near(edges, [0, 0.5, 1.2, 2])
    near(thresholds, [0.25, 0.85, 1.6])
    found = quantizer(torch.tensor([-1.0, 0.2, 0.25, 0.84, 0.85, 1.59, 1.6, 9.0]))
    near(found, [0, 0, 2 / 3, 2 / 3, 4 / 3, 4 / 3, 2, 2])


def test_gradients_are_those_of_the_line_by_hand():
    quantizer = by_hand()
    near(quantizer.line(torch.tensor([1.0])), [1.142857])
    x = torch.tensor([1.0], requires_grad=True)
    quantizer(x).sum().backward()
    near(x.grad, [0.952381])
    near(quantizer.widths.grad, [-0.952381, -0.680272, 0])
    near(quantizer.start.grad, -0.952381)
    near(quantizer.scale_out.grad, 4 / 3)  # of the level, not of the line
    near(quantizer.scale_in.grad, 0.952381)
    ends = torch.tensor([-0.1, 2.1, 0.3, 1.9], requires_grad=True)
    quantizer(ends).sum().backward()
    near(ends.grad, [0, 0, 4 / 3, 5 / 6])


def test_the_line_is_differentiated_right():
    quantizer = by_hand().double()
    x = torch.tensor([0.1, 0.6, 1.3, 1.7, 2.5, -0.3]).double().requires_grad_()
    names = ("widths", "start")

    def line(x, *values):
        for name, value in zip(names, values, strict=True):
            delattr(quantizer, name)
            setattr(quantizer, name, value)
        return quantizer.line(x)

    values = [getattr(quantizer, name).detach().clone().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(line, (x, *values))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_activations_start_at_the_grid_of_least_squared_error(bits, signed):
    sample = torch.randn(3000, generator=torch.Generator().manual_seed(3))
    sample = sample if signed else sample.relu()
    ours = schemes.get("adq")().activation(sample, bits)
    theirs = schemes.get("mse")().activation(sample, bits)
    apart = (ours(sample) - theirs(sample)).abs()
    assert float((apart > 1e-4).double().mean()) < 0.002  # rounding at the edge of a cell
    assert ours.uniform_grid() is None


def test_widths_have_a_floor_that_keeps_thresholds_in_order():
    quantizer = by_hand()
    quantizer.widths.data = torch.tensor([0.5, -3.0, 0.8])
    widths, edges, thresholds = quantizer.places()
    near(widths, [0.5, 0.001, 0.8])
    assert (edges.diff() > 0).all()
    assert (thresholds.diff() > 0).all()
    assert float(Thresholds(torch.tensor(1.0), 0, 16).places()[0].min()) > 0


# --- sensitivity ---------------------------------------------------------------------------


def test_fisher_traces_of_a_linear_network_by_hand():
    """g = (p - y) x^T for weights and W^T (p - y) for inputs."""
    draw = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 3, bias=False)).eval()
    x, y = torch.randn(7, 5, generator=draw), torch.randint(3, (7,), generator=draw)
    weights, inputs = fisher_traces(model, TensorSplit(x, y), ["0"], ["0"])
    matrix = model[0].weight.detach()
    off = (x @ matrix.T).softmax(1) - nn.functional.one_hot(y, 3)
    wanted = (off.square().sum(1) * x.square().sum(1)).mean()
    assert weights["0"] == pytest.approx(float(wanted), rel=1e-5)
    assert inputs["0"] == pytest.approx(float((off @ matrix).square().sum(1).mean()), rel=1e-5)


def test_fisher_traces_of_shares_are_those_of_labels_drawn_by_them():
    """sum_c y_c ||p - 1_c||^2 ||x||^2; also where the shares are the network's own."""
    draw = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4, bias=False)).eval()
    x = torch.randn(2, 5, generator=draw)
    own = model(x).softmax(1).detach()
    for y in (own, torch.randn(2, 4, generator=draw).softmax(1)):
        off = (own[:, None] - torch.eye(4)).square().sum(2)
        wanted = ((y * off).sum(1) * x.square().sum(1)).mean()
        many = TensorSplit(x.repeat(300, 1), y.repeat(300, 1))
        found, _ = fisher_traces(model, many, ["0"], [], generator=draw)
        assert found["0"] == pytest.approx(float(wanted), rel=0.1)


def test_sensitivities_to_shares_are_of_the_order_of_those_to_answers():
    problem = toy.make_problem(needs=NEEDS, bits=(2, 8))
    found = []
    for soft in (False, True):
        answers = AnsweredSplit(problem.data.train, problem.float_model(), soft=soft)
        asked = problem.at(data=replace(problem.data, train=answers))
        made = ADQ(images=24).sensitivity(asked)
        found.append(sum(row[2] for row in made.weight.values()))
        assert asked.meter.read().images_backward == 24
    # A sure answer's part is about (1 - p)^2, and that of shares p (1 - p).
    assert 1 < found[1] / found[0] < 100


def test_sensitivities_are_errors_times_mean_squared_gradients():
    problem = toy.make_problem(needs=NEEDS, scheme="adq", bits=(2, 4, 8))
    method = ADQ(images=12)
    found = method.sensitivity(problem)
    split = problem.train.subset(12, problem.generator("sensitivity"))
    model = problem.float_model()
    for layer in problem.space.free_layers:
        weight = model.get_submodule(layer.name).weight.requires_grad_()
        squares = []
        for x, y in split.batches(1):
            (slope,) = torch.autograd.grad(nn.functional.cross_entropy(model(x), y), weight)
            squares.append(float(slope.double().square().mean()))
        for bits in (2, 4, 8):
            error = Codebook(quantile_levels(weight, bits))(weight) - weight
            wanted = float(error.detach().square().sum()) * sum(squares) / len(squares)
            assert found.weight[layer.name][bits] == pytest.approx(wanted, rel=1e-4)
            assert 0 < found.act[layer.name][bits] < np.inf


def test_the_policy_has_the_least_sum_of_all_within_the_budget():
    problem = toy.make_problem(needs=NEEDS, bits=(2, 4), like=3)
    method = ADQ(images=8)
    scores = method.score(problem)
    table = method.losses(problem, scores)

    def loss(policy):
        return sum(table[n][b.weight, b.act] for n, b in policy.items())

    every = map(problem.space.decode, itertools.product(*(c.bits for c in problem.space.choices)))
    found = method.solve(problem, scores)
    least = min(loss(policy) for policy in every if problem.within(policy))
    assert problem.within(found.policy)
    assert loss(found.policy) == pytest.approx(least) == pytest.approx(found.notes["loss"])


def test_a_more_sensitive_layer_never_has_fewer_bits_than_an_equal_one():
    problem = toy.make_problem("size", needs=NEEDS, bits=(2, 3, 4), like=3)
    one, other = (f"blocks.0.conv{i}" for i in (1, 2))
    errors = {2: 4.0, 3: 1.0, 4: 0.25}
    for first, second in ((1.0, 3.0), (5.0, 0.1)):
        weight = {x.name: dict.fromkeys(errors, 0.0) for x in problem.space.free_layers}
        weight[one] = {b: first * e for b, e in errors.items()}
        weight[other] = {b: second * e for b, e in errors.items()}
        kept = {n: {str(b): v for b, v in row.items()} for n, row in weight.items()}
        policy = ADQ().solve(problem, Scores({"weight": kept, "act": {}})).policy
        assert (policy[one].weight - policy[other].weight) * (first - second) >= 0


def test_one_scoring_pass_serves_all_budgets():
    problem = toy.make_problem(needs=NEEDS)
    scores = ADQ(images=10).score(problem)
    spent = problem.meter.read()
    assert (spent.policies, spent.images_backward) == (0, 10)
    for like in (2.5, 3, 4):
        other = toy.make_problem(needs=NEEDS, like=like)
        assert other.within(ADQ(images=10).solve(other, scores).policy)
        assert other.meter.read().images_backward == other.meter.read().images_forward == 0


def test_a_weight_that_is_stored_once_counts_once():
    problem = toy.make_problem(needs=NEEDS)
    first, second, *_ = problem.space.free_layers
    layers = [replace(x, shared=first.name) if x == second else x for x in problem.layers]
    shared = problem.at(space=replace(problem.space, layers=tuple(layers)))
    found = ADQ(images=4).sensitivity(shared)
    assert not any(found.weight[second.name].values())
    assert all(found.weight[first.name].values())


# --- training ------------------------------------------------------------------------------


@pytest.mark.parametrize("distil", [True, False])
def test_training_moves_codebooks_thresholds_and_weights_and_lowers_its_loss(distil):
    recipe = Recipe(epochs=4, batch=32, optimizer="adam", lr=3e-3, weight_decay=0.0)
    problem = toy.make_problem(scheme="adq", retrains=True, recipe=recipe)
    policy = problem.space.reference(2, 2)
    split = problem.train
    if distil:
        split = AnsweredSplit(split, problem.float_model(), soft=True, keep=True)
    before = measure(problem.correct(problem.quantized(policy)), split)
    after = ADQ(distil=distil).finish(problem, Solution(policy))
    assert after.policy == policy
    assert measure(after, split).loss < before.loss
    q = after.qlayer("blocks.0.conv1")
    start = quantile_levels(problem.network.get_submodule("blocks.0.conv1").weight, 2)
    assert not torch.equal(q.weight_quantizer.levels, start)
    assert float(q.act_quantizer.widths.detach().std()) > 0
    assert len(q.codes().code.unique()) <= 3
    assert torch.equal(q.codes().dequantize(), q.present_weight().detach())
