"""LIMPQ's indicators, its joint step and its integer programme, by hand."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from frameworks import LayerBits, UniformQuantizer
from frameworks.core.budget import BudgetSpec
from frameworks.core.solution import Scores
from frameworks.core.solvers.milp import multiple_choice
from frameworks.core.space import Space
from frameworks.heuristic.limpq.framework import LIMPQ, settle
from frameworks.heuristic.limpq.indicators import (
    IndicatorNet,
    Indicators,
    SwitchableNorm,
    followers,
    three_sigma_step,
)
from frameworks.heuristic.limpq.programme import outliers, without_outliers
from frameworks.testing import toy


class Shared(toy.ToyConvNet):
    """Both convolutions of the block have one weight."""

    def __init__(self):
        super().__init__()
        self.blocks[0].conv2.weight = self.blocks[0].conv1.weight


FAST = LIMPQ(epochs=5, images=160, batch=16)  # at the released rates
FREE = ("blocks.0.conv1", "blocks.0.conv2", "blocks.1.depthwise", "blocks.1.pointwise")
BITS = (2, 3, 4)


def problem(target="bops", **fields):
    return toy.make_problem(target, **{"needs": LIMPQ.card.needs, "bits": BITS, **fields})


def batch(count=32):
    return next(toy.split("train", 256).batches(count))


# --- indicators


def test_defaults_are_the_released_ones():
    method = LIMPQ()
    assert (method.epochs, method.batch, method.lr, method.weight_decay) == (5, 256, 0.01, 2.5e-5)
    assert (method.smoothing, method.alpha, method.range_lr) == (0.1, 2.0, 1.0)
    rates = [method.rate(epoch) for epoch in range(5)]
    assert rates[0] == 0.01
    assert rates == sorted(rates, reverse=True)
    assert rates[2] == pytest.approx(1e-5 + (0.01 - 1e-5) * (1 + math.cos(0.4 * math.pi)) / 2)


def test_weights_start_at_three_standard_deviations():
    weight = torch.tensor([[1.0, 3.0]])  # mean 2, deviation sqrt(2)
    expected = (2 + 3 * math.sqrt(2)) / torch.tensor([8.0, 2.0])
    steps = torch.stack([three_sigma_step(weight, bits) for bits in (4, 2)])
    torch.testing.assert_close(steps, expected)
    torch.testing.assert_close(three_sigma_step(-weight, 4), expected[0])
    torch.testing.assert_close(Indicators((4, 2), True, weight, weight=True).steps.data, expected)


def test_inputs_start_from_the_first_batch_and_only_that():
    x = torch.tensor([0.0, 1.0, 2.0, 3.0])
    acts = Indicators((4, 2), False, x, weight=False)
    acts.use(2)
    acts(x)
    acts(10 * x)
    assert acts.values() == {4: 1.0, 2: pytest.approx(2 * 1.5 / math.sqrt(3))}
    acts.use(4)
    acts(x)
    assert acts.values()[4] == pytest.approx(2 * 1.5 / math.sqrt(15))
    assert acts.moved() == 0


@pytest.mark.parametrize("signed", [True, False])
def test_values_and_gradients_are_lsq_s_and_only_the_step_in_force_learns(signed):
    x = torch.randn(40, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with torch.no_grad():
        x.mul_(1.0).clamp_(min=None if signed else 0, max=9.0)
    q = Indicators((4, 3, 2), signed, x, weight=True)
    with torch.no_grad():
        q.steps.mul_(0.4)  # so that some are clipped
    q.use(3)
    y = q(x)
    (y.square().sum()).backward()
    # 3 bits: g = 1 / sqrt(40 Q_P), with Q_P = 3 of signed data and 7 of others.
    low, high, g = (-4, 3, 0.0912871) if signed else (0, 7, 0.0597614)
    values, slopes, passed = [], [], []
    for v in (x.detach() / q.steps.detach()[1]).tolist():
        inside = low < v < high
        code = round(v) if inside else low if v <= low else high
        values.append(code * q.steps[1].item())
        slopes.append(code - v if inside else code)  # LSQ, equation 3
        passed.append(inside)
    assert 0 < sum(passed) < len(passed)
    upstream = torch.tensor([2 * value for value in values])
    torch.testing.assert_close(y.detach(), torch.tensor(values))
    torch.testing.assert_close(x.grad, upstream * torch.tensor(passed))
    expected = g * float((upstream * torch.tensor(slopes)).sum())
    assert q.steps.grad.tolist() == [0.0, pytest.approx(expected, rel=1e-4), 0.0]
    torch.testing.assert_close(q.codes(x).dequantize(), y.detach())


def test_steps_of_more_bits_than_published_learn_at_a_tenth_of_the_rate():
    x = torch.randn(40, generator=torch.Generator().manual_seed(0))
    q = Indicators((8,), True, x, weight=True)
    q(x).square().sum().backward()
    plain = UniformQuantizer(q.steps.detach()[0], -128, 127)
    plain.learn_range()
    plain(x).square().sum().backward()
    assert q.steps.grad[0].item() == pytest.approx(plain.step.grad.item() / 10, rel=1e-4)


def test_a_width_that_a_layer_lacks_is_the_nearest():
    q = Indicators((8, 4, 2), True, torch.randn(9), weight=True)
    found = []
    for width in (8, 6, 5, 3, 2):
        q.use(width)
        found.append(q.bits[q.place])
    assert found == [8, 4, 4, 2, 2]


def test_an_input_has_no_start_before_it_is_trained():
    acts = Indicators((4, 2), False, torch.ones(1), weight=False).eval()
    acts(torch.zeros(3))
    assert not any(acts.met)
    acts.train()(torch.ones(3))
    assert acts.met == [True, False]
    assert acts.values()[4] == pytest.approx(2 / math.sqrt(15))


# --- the network


def test_no_step_of_an_input_has_started_before_the_training():
    net = IndicatorNet(problem())
    assert not any(met for q in net.acts.values() for met in q.met)
    net.train()(batch()[0])
    assert [q.met for q in net.acts.values()] == [[True, False, False]] * len(FREE)


def test_searched_layers_have_indicators_and_the_ends_stay_float():
    net = IndicatorNet(problem())
    assert net.widths == (4, 3, 2)
    assert tuple(net.weights) == tuple(net.acts) == FREE
    ends = [net.qmodel.qlayer(name) for name in ("stem", "fc")]
    assert all(q.bits == LayerBits(32, 32) for q in ends)
    weights = IndicatorNet(problem("size"))
    assert {q.bits for q in weights.acts.values()} == {(8,)}


def test_every_batchnorm_follows_the_layer_before_it():
    asked = problem()
    after = {id(norm): name for norm, name in followers(asked.quantized(), asked.images).items()}
    assert sorted(after.values()) == sorted(["stem", *FREE])
    net = IndicatorNet(asked)
    assert {name: len(norms) for name, norms in net.norms.items()} == dict.fromkeys(FREE, 1)
    assert not isinstance(net.qmodel.model.bn, SwitchableNorm)
    assert net.qmodel.model.blocks[0].bn1 is net.norms[FREE[0]][0]
    net.uniform(3)
    assert {norms[0].place for norms in net.norms.values()} == {1}
    assert {q.place for q in (*net.weights.values(), *net.acts.values())} == {1}


def test_bits_drawn_for_layers_are_those_of_weight_input_and_batchnorm():
    net, generator, seen = IndicatorNet(problem()), torch.Generator().manual_seed(0), set()
    for _ in range(30):
        net.mixed(generator)
        drawn = tuple(net.weights[name].place for name in FREE)
        assert drawn == tuple(net.acts[name].place for name in FREE)
        assert drawn == tuple(net.norms[name][0].place for name in FREE)
        seen.add(drawn)
    assert len(seen) > 20
    tied = IndicatorNet(problem(groups=[FREE[:2]]))
    for _ in range(10):
        tied.mixed(generator)
        assert tied.weights[FREE[0]].place == tied.weights[FREE[1]].place


def test_each_width_keeps_batchnorm_statistics_of_its_own():
    net = IndicatorNet(problem()).train()
    x, _ = batch()
    before = [c.running_mean.clone() for c in net.norms[FREE[0]][0].copies]
    net.uniform(3)
    net(x)
    after = [c.running_mean for c in net.norms[FREE[0]][0].copies]
    same = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert same == [True, False, True]


# --- the joint step


def test_one_update_adds_up_the_gradients_of_all_passes():
    """Against the sum of the passes' gradients, each computed alone on a second network."""
    method = replace(FAST, epochs=1, images=32, batch=32, lr=0.1, range_lr=1.0, augment=False)
    asked = problem()
    net, course = method.trained(asked)
    assert len(course.values) == 1
    spent = asked.meter.read()
    assert spent.images_backward == 32 * (len(BITS) + 1)
    other = problem()
    by_hand = IndicatorNet(other).train()
    optimizer = method.optimizer(by_hand)
    part = other.train.subset(32, generator := other.generator("limpq"))
    ((x, y),) = part.batches(32, generator)
    draws, losses = other.generator("mixed bits"), []
    parameters = [p for p in by_hand.parameters() if p.requires_grad]
    for width in (4, 3, 2, None):
        by_hand.mixed(draws) if width is None else by_hand.uniform(width)
        loss = functional.cross_entropy(by_hand(x), y, label_smoothing=0.1)
        losses.append(loss.item())
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for p, gradient in zip(parameters, gradients, strict=True):
            old = torch.zeros_like(p) if p.grad is None else p.grad
            p.grad = old if gradient is None else old + gradient
    assert course.values[0] == pytest.approx(sum(losses) / 4, rel=1e-4)
    settle([p for group in optimizer.param_groups for p in group["params"]])
    optimizer.step()
    pairs = zip(net.named_parameters(), by_hand.named_parameters(), strict=True)
    for (name, found), (_, expected) in pairs:
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5, msg=name)


def test_gradients_are_clipped_by_value_and_zeros_are_no_gradients():
    a, b = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    a.grad, b.grad = torch.tensor([-3.0, 0.5]), torch.zeros(2)
    settle([a, b])
    assert a.grad.tolist() == [-1.0, 0.5]
    assert b.grad is None


def test_steps_biases_and_norms_do_not_decay():
    method = replace(FAST, range_lr=10.0)
    large, small, steps = method.optimizer(IndicatorNet(problem())).param_groups
    assert (large["weight_decay"], small["weight_decay"], steps["weight_decay"]) == (2.5e-5, 0, 0)
    assert len(large["params"]) == 6
    assert len(steps["params"]) == 2 * len(FREE)
    assert (steps["share"], large["nesterov"], large["momentum"]) == (10, True, 0.9)


# --- what is learned


@pytest.fixture(scope="module")
def learned():
    asked = problem(like=3)
    return asked, FAST.score(asked)


def test_the_data_teach_the_steps_and_change_the_policy(learned):
    asked, scores = learned
    untaught = replace(FAST, lr=0.0).score(problem())
    assert untaught.values["moved"] == {"weight": 0, "act": 0}
    moved = scores.values["moved"]
    assert moved["weight"] > 0.05 > 0.01 > moved["act"] > 0  # see the card on steps of inputs
    policies = [FAST.solve(asked, each).policy for each in (scores, untaught)]
    assert policies[0] != policies[1]
    assert scores.values["learning"]["improved"]


def test_steps_are_not_flat_and_fall_with_more_bits(learned):
    _, scores = learned
    for kind in ("weight", "act"):
        mean = [sum(scores.values[kind][n][str(b)] for n in FREE) for b in BITS]
        assert mean == sorted(mean, reverse=True)
        of_layers = [scores.values[kind][n]["2"] for n in FREE]
        assert max(of_layers) > 1.3 * min(of_layers)


def test_one_training_serves_all_budgets(learned):
    asked, scores = learned
    images = asked.meter.read().images_backward
    assert images == FAST.epochs * FAST.images * (len(BITS) + 1)
    found = []
    for like in (2.5, 3, 3.5):
        other = problem(like=like)
        solution = FAST.solve(other, scores)
        assert other.within(solution.policy)
        assert other.meter.read().images_forward == 0
        found.append(solution.notes["importance"])
    assert found == sorted(found, reverse=True)


# --- the integer programme


def test_the_policy_has_the_least_sum_of_all_within_the_budget(learned):
    asked, scores = learned
    table = FAST.losses(asked, scores)

    def loss(policy):
        return sum(table[n][b.weight, b.act] for n, b in policy.items())

    every = map(asked.space.decode, itertools.product(*(c.bits for c in asked.space.choices)))
    least = min(loss(policy) for policy in every if asked.within(policy))
    found = FAST.solve(asked, scores)
    assert loss(found.policy) == pytest.approx(least)
    assert found.notes["importance"] == pytest.approx(least)


def test_a_weight_that_is_stored_once_counts_once(learned):
    asked, scores = learned
    first, second, *_ = asked.space.free_layers
    layers = [replace(x, shared=first.name) if x == second else x for x in asked.layers]
    table = FAST.losses(asked.at(space=replace(asked.space, layers=tuple(layers))), scores)
    plain = FAST.losses(asked, scores)
    assert table[first.name] == plain[first.name]
    assert plain[second.name][2, 2] != plain[second.name][3, 2]
    for (_, a), value in table[second.name].items():
        assert value == table[second.name][BITS[0], a] > 0


def test_a_pinned_weight_that_two_layers_share_has_no_importance():
    asked = problem(kind=Shared, bits=(2, 4, 8), like=4)
    ends = {n: (8, 8) for n in ("stem", "fc", FREE[0])}
    space = Space.build(asked.layers, (2, 4, 8), (2, 4, 8), pinned=ends)
    asked = asked.at(space=space, budget=BudgetSpec(like=4).resolve(asked.target, space))
    values = {n: {str(b): 1 / b for b in (8, 4, 2)} for n in FREE[2:]}
    scores = Scores({"weight": values, "act": values, "moved": {}, "learning": {}})
    assert set(FAST.losses(asked, scores)[FREE[1]].values()) == {0.0}
    policy = FAST.solve(asked, scores).policy
    assert policy[FREE[0]] == policy[FREE[1]] == LayerBits(8, 8)
    assert asked.within(policy)


HAND = {
    "act": {"a": {"4": 0.05, "3": 0.08, "2": 0.15}, "b": {"4": 0.02, "3": 0.03, "2": 0.06}},
    "weight": {"a": {"4": 0.01, "3": 0.018, "2": 0.04}, "b": {"4": 0.004, "3": 0.007, "2": 0.013}},
}


@pytest.mark.parametrize(
    ("limit", "expected", "value", "used"),
    [
        (3600, {"a": (4, 4), "b": (2, 3)}, 0.126, 3400),
        (2400, {"a": (3, 4), "b": (2, 2)}, 0.172, 2400),
    ],
)
def test_two_layers_by_hand(limit, expected, value, used):
    weights, acts = without_outliers(HAND, 2.0)
    macs = {"a": 100, "b": 300}
    table = {
        n: {
            (w, a): (weights[n][w] + acts[n][a], {"bops": macs[n] * w * a})
            for w, a in itertools.product((2, 3, 4), repeat=2)
        }
        for n in macs
    }
    found = multiple_choice(table, {"bops": limit})
    assert found == expected
    assert sum(table[n][found[n]][0] for n in macs) == pytest.approx(value)
    assert sum(table[n][found[n]][1]["bops"] for n in macs) == used


@pytest.mark.parametrize("alpha", [0.0, 1e-5, 1.0, 1e5])
@pytest.mark.parametrize(("kind", "other"), [("weight", "act"), ("act", "weight")])
def test_an_outlier_is_worth_more_than_all_others_whatever_alpha_is(kind, other, alpha):
    values = {kind: {"a": {"3": 0.2, "2": 0.1}}, other: {"a": {"3": 0.1, "2": 5.0}}}
    weights, acts = without_outliers(values, alpha)
    of = {"weight": weights["a"], "act": acts["a"]}
    assert of[kind][2] > of[kind][3] + sum(of[other].values())


def test_outliers_are_taken_only_where_nothing_else_fits():
    row = {"6": 0.1, "5": 0.05, "4": 0.2, "2": 0.15}
    assert outliers(row) == [5, 2]  # each against the next more bits, outlier or not
    values = {"weight": {"a": row}, "act": {"a": {"8": 1.0}}}
    weights, acts = without_outliers(values, 2.0)
    assert (weights["a"][6], weights["a"][4], acts["a"][8]) == (0.2, 0.4, 1.0)
    assert weights["a"][5] == weights["a"][2] == pytest.approx(2 * 1000 * 1.5)
    table = {"a": {b: (v, {"size": b}) for b, v in weights["a"].items()}}
    assert [multiple_choice(table, {"size": x})["a"] for x in (6, 5, 4, 3)] == [6, 4, 4, 2]


# --- what it refuses


def test_skips_and_refusals():
    assert "nothing to search" in FAST.skip(problem("size", bits=(8,), like=8))
    assert "0 and 32 bits" in FAST.skip(problem(bits=(2, 32)))
    assert FAST.skip(problem()) is None
    for changes, word in (({"smoothing": 1.0}, "smoothing"), ({"alpha": -1.0}, "alpha")):
        with pytest.raises(ValueError, match=word):
            replace(FAST, **changes).validate()


def test_networks_without_batchnorm_are_trained_all_the_same():
    asked = problem(kind=toy.ToyViT)
    net = IndicatorNet(asked)
    assert net.norms == {}
    assert asked.within(FAST.search(asked).policy)
