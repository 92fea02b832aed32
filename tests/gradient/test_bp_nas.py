import itertools
import math
from dataclasses import replace

import pytest
import torch
from omegaconf import OmegaConf

from benchmarks.suite.conf import conf_folder
from frameworks import schemes
from frameworks.core.budget import BudgetSpec
from frameworks.core.supernets.decisions import block_decisions
from frameworks.core.supernets.relaxations import Choices, ExpectedCost
from frameworks.gradient.bp_nas import BPNAS
from frameworks.gradient.bp_nas import search as module
from frameworks.gradient.bp_nas.barrier import Domain, barrier, mean_bits, prob1
from frameworks.gradient.bp_nas.framework import PAIRS
from frameworks.gradient.bp_nas.pairs import PairNet
from frameworks.gradient.bp_nas.scale_clip import ScaleClipWeight, clipping_point, scale_clip_
from frameworks.gradient.bp_nas.search import Search
from frameworks.testing import toy
from tests.gradient.learning import learned, silent

FAST = BPNAS(
    epochs=3, images=128, batch=32, lr=0.01, theta_lr=0.2, mu=0.02, reshape=0.0, layerwise=True
)


def cost_at(limit, expected, mu=1.0):
    return float(barrier(torch.tensor(expected, dtype=torch.float64), limit, mu))


@pytest.mark.parametrize(
    ("expected", "value"),
    [
        *((0.0, -0.326634), (1.0, -0.094048), (2.0, 0.366513)),
        *((2.5, 0.902720), (2.9, 2.350619), (2.99, 4.610149), (1.281718, 0.0)),
    ],
)
def test_the_barrier_by_hand(expected, value):
    assert cost_at(3, expected) == pytest.approx(value, abs=2e-6)


@pytest.mark.parametrize(
    ("expected", "slope"),
    [(1, 0.303413), (2, 0.721348), (2.5, 1.644202), (2.9, 9.538235), (2.99, 99.504)],
)
def test_the_slope_of_the_barrier_by_hand(expected, slope):
    x = torch.tensor(float(expected), dtype=torch.float64, requires_grad=True)
    barrier(x, 3, 1.0).backward()
    assert float(x.grad) == pytest.approx(slope, rel=1e-4)


def test_the_barrier_depends_on_what_is_left_alone():
    assert cost_at(9, 8.0) == pytest.approx(0.366513, abs=1e-6)


def test_the_barrier_rises_ever_steeper_and_on_beyond_the_limit():
    at = [x / 100 for x in range(0, 700)]
    values = [cost_at(3, x) for x in at]
    steps = [b - a for a, b in itertools.pairwise(values)]
    assert all(s > 0 for s in steps)
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(steps))
    assert cost_at(3, 2.999) == pytest.approx(6.9083, abs=1e-3)
    assert steps[-1] == pytest.approx(999.5 / 100, rel=1e-3)  # the line from the edge on
    assert all(map(math.isfinite, values))


def test_the_barrier_s_gradient_is_the_value_s():
    x = torch.tensor([0.5, 2.2, 2.98, 3.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: sum(barrier(e, 3, 0.1) for e in v), x)


@pytest.mark.parametrize(
    ("p", "value"),
    [
        ([0.25] * 4, 0.31640625),
        ([0.7, 0.1, 0.1, 0.1], 0.2187),
        ([0.97, 0.01, 0.01, 0.01], 0.029109),
        ([0, 1.0, 0, 0], 0.0),
        ([0.125] * 8, 0.343609),
    ],
)
def test_prob1_by_hand(p, value):
    p = torch.tensor([p], dtype=torch.float64)
    assert float(prob1(p)) == pytest.approx(value, abs=1e-6)
    assert float(prob1(p.repeat(3, 1))) == pytest.approx(value, abs=1e-6)  # the mean


def test_the_gradient_of_prob1_by_hand_raises_the_leader():
    p = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64, requires_grad=True)
    prob1(p).backward()
    torch.testing.assert_close(p.grad, torch.tensor([[-0.56, -0.40, -0.35]], dtype=torch.float64))
    theta = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64).log().requires_grad_()
    prob1(theta.softmax(1)).backward()
    expected = torch.tensor([[-0.045, 0.021, 0.024]], dtype=torch.float64)
    torch.testing.assert_close(theta.grad, expected)
    assert torch.autograd.gradcheck(lambda t: prob1(t.softmax(1)), theta.detach().requires_grad_())


def test_scale_clip_by_hand():
    w = torch.tensor([0.1, -0.2, 0.3, -0.8])
    assert float(clipping_point(w, 2.0)) == pytest.approx(0.7)
    q = ScaleClipWeight(3)
    torch.testing.assert_close(q(w), torch.tensor([0, -0.2333333, 0.2333333, -0.7]))
    assert q.codes(w).code.tolist() == [0, -1, 1, -3]
    torch.testing.assert_close(scale_clip_(w), torch.tensor([0.1, -0.2, 0.3, -0.7]))


def test_scale_clip_again_and_again_makes_weights_uniform():
    w = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    for _ in range(30):
        scale_clip_(w)
    reach = float(w.abs().max())
    assert 1.2 < reach < 1.6, "it does not shrink to nothing"
    assert float(w.abs().mean()) == pytest.approx(reach / 2, rel=1e-3)
    small = w.clone()
    for _ in range(30):
        scale_clip_(small, 1.0)
    assert float(small.abs().max()) < 0.1 * reach, "far smaller multiples shrink weights to 0"


def test_activations_follow_a_running_mean_in_training_alone():
    quantizer = schemes.get("scale_clip")().activation(torch.ones(100), 4)
    x = 3 * torch.ones(8, requires_grad=True)
    quantizer.eval()(x)
    assert float(quantizer.mean) == 1.0
    quantizer.train()(x).sum().backward()
    assert float(quantizer.mean) == pytest.approx(1.2)
    assert quantizer.uniform_grid().step == pytest.approx(4 * 1.2 / 15)


def test_the_expected_cost_by_hand():
    # Pairs (2,4), (3,3), (4,4); 10 and 20 multiply-accumulates.
    terms = [
        (i, None, macs * torch.tensor([[8.0], [9.0], [16.0]], dtype=torch.float64))
        for i, macs in enumerate((10, 20))
    ]
    p = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
    total = float(ExpectedCost(terms, 2)(p))
    assert total == pytest.approx(375)
    assert math.sqrt(total / 30) == pytest.approx(3.5355, abs=1e-4)


@pytest.mark.parametrize(("target", "limit"), [("bops", 9.0), ("size", 3.0)])
def test_limits_are_mean_bits(target, limit):
    of = toy.make_problem(target, like=3)
    decisions = block_decisions(of, PAIRS, True)
    domain = Domain(of, decisions)
    (constraint,) = domain.constraints
    uniform = of.space.nearest(of.space.reference(3, 3))
    at = mean_bits(of, uniform, target)
    assert constraint.limit == pytest.approx(at, rel=1e-6)
    assert constraint.limit > limit  # pinned layers have 8 bits
    p = Choices([len(d.options) for d in decisions]).probabilities()
    share = float(constraint.cost(p)) / constraint.limit
    policies = [
        sum(of.cost(with_option(of, decisions, i, k))[target] for k in range(len(d.options)))
        / len(d.options)
        for i, d in enumerate(decisions)
    ]
    base = of.cost(with_option(of, decisions, 0, 0))[target]
    assert share == pytest.approx((base + sum(x - base for x in policies)) / of.budget.limit)


def with_option(of, decisions, row, option):
    from frameworks.core.supernets.decisions import decided

    return decided(of.space, decisions, [option if i == row else 0 for i in range(len(decisions))])


@pytest.mark.parametrize("like", [2.1, 2.5, 4, 7])
def test_the_search_starts_inside(like):
    of = toy.make_problem("bops", like=like)
    decisions = block_decisions(of, PAIRS, True)
    domain, choices = Domain(of, decisions), Choices([len(d.options) for d in decisions])
    outside = not domain.contains(choices.probabilities())
    pushed = domain.enter(choices)
    assert domain.contains(choices.probabilities())
    assert (pushed > 0) == outside or like == 4
    lower = Choices([len(d.options) for d in decisions])
    with torch.no_grad():
        lower.logits[:, 0] += pushed - 0.1
    least = domain.constraints[0]
    bottom = float(least.cost(torch.nn.functional.one_hot(torch.zeros(4).long(), 8).float()))
    goal = bottom + 0.9 * (least.limit - bottom)
    if pushed:
        assert float(least.cost(lower.probabilities())) > goal, "the smallest push that is enough"


@pytest.mark.parametrize("like", [2.2, 3, 5])
def test_no_step_leaves_the_valid_domain(like):
    """Whatever the loss asks for: here it wants the dearest candidates alone."""
    of = toy.make_problem("bops", like=like)
    search = Search(replace(FAST, theta_lr=0.5), of)
    greedy = search.choices.logits.new_tensor(
        [[d.costs[min(k, len(d.costs) - 1)] for k in range(8)] for d in search.decisions]
    )
    for _ in range(60):
        search.adam.zero_grad()
        (-(search.p * greedy).sum()).backward()
        search.clip()
        assert search.choices.logits.grad.norm() <= 1 + 1e-5
        search.adam.step()
        search.stay()
        assert search.domain.contains(search.p)
        assert of.within(search.domain.most_probable(search.p))
    assert max(search.loads) < 1
    assert search.loads[-1] > 0.95, "and it goes up to the wall"


def test_theta_is_held_back_by_the_slope_of_the_barrier(monkeypatch):
    """And not by steps that are taken back alone: without a loss it still has this gradient."""
    monkeypatch.setattr(module, "cross_entropy", silent)
    search = Search(replace(FAST, images=64), toy.make_problem("bops", like=3))  # one step
    (constraint,) = search.domain.constraints
    expected = constraint.cost(search.p)
    (slope,) = torch.autograd.grad(expected, search.choices.logits)
    room = constraint.limit + 1 - expected.item()
    search.train_theta(0.02, 0.0)
    found = search.choices.logits.grad
    assert 1e-3 < found.norm() < 1  # it was not clipped
    torch.testing.assert_close(found, 0.02 / (room * math.log(room)) * slope)


@pytest.mark.parametrize("layerwise", [True, False])
def test_several_limits_that_its_pairs_meet_are_met(layerwise):
    """On a core that is slow at two bits the pairs of least price are over a limit."""
    of = toy.make_problem(toy.Valley(), like=4, bits=(2, 4, 8), needs=BPNAS.card.needs)
    four = of.cost(of.space.reference(4, 4))
    metrics = {"time": {"limit": 1.8 * four["time"]}, "size": {"limit": 0.85 * four["size"]}}
    of = of.at(budget=BudgetSpec(metrics=metrics).resolve(of.target, of.space))
    method = replace(FAST, epochs=1, images=64, layerwise=layerwise)
    decisions = block_decisions(of, method.pairs, layerwise)
    picks = [d.costs.index(min(d.costs)) for d in decisions]
    assert not of.within(picked(of, decisions, picks))
    assert method.skip(of) is None
    solution = method.search(of)
    assert of.within(solution.policy)
    assert solution.notes["load"]["most"] < 1


@pytest.mark.parametrize("target", ["bops", "size"])
def test_every_network_of_a_search_is_within_the_budget(target):
    of = toy.make_problem(target, like=3, needs=BPNAS.card.needs)
    solution = FAST.search(of)
    assert of.within(solution.policy)
    assert all(of.within(c.policy) for c in of.checkpoints)
    assert solution.notes["load"]["most"] < 1


def test_the_policy_is_the_argmax_where_that_fits_and_else_the_most_probable():
    of = toy.make_problem("bops", like=3)
    decisions = block_decisions(of, [[2, 2], [8, 8]], True)
    domain = Domain(of, decisions)
    p = torch.tensor([[0.1, 0.9], [0.4, 0.6], [0.45, 0.55], [0.2, 0.8]])
    best = domain.most_probable(p)
    assert of.within(best)
    assert (
        best
        == max(
            (
                (math.prod(float(p[i, k]) for i, k in enumerate(picks)), policy)
                for picks in itertools.product((0, 1), repeat=4)
                for policy in [picked(of, decisions, picks)]
                if of.within(policy)
            ),
            key=lambda entry: entry[0],
        )[1]
    )
    cheap = torch.tensor([[0.9, 0.1]] * 4)
    assert domain.most_probable(cheap) == picked(of, decisions, (0, 0, 0, 0))


def picked(of, decisions, picks):
    from frameworks.core.supernets.decisions import decided

    return decided(of.space, decisions, picks)


@pytest.mark.parametrize("kind", [toy.ToyConvNet, toy.ToyViT])
def test_a_one_hot_super_net_is_the_network_at_these_bits(kind):
    of = toy.make_problem("bops", kind=kind)
    decisions = block_decisions(of, PAIRS, True)
    net = PairNet(of, decisions).eval()
    picks = [i % len(d.options) for i, d in enumerate(decisions)]
    net.mix(torch.nn.functional.one_hot(torch.tensor(picks), len(PAIRS)).float())
    x = of.images[:16]
    expected = of.quantized(picked(of, decisions, picks))(x)
    torch.testing.assert_close(net(x), expected, rtol=1e-3, atol=1e-3)


def test_a_mixed_layer_is_the_mixture_of_its_candidates():
    of = toy.make_problem("bops")
    decisions = block_decisions(of, PAIRS, True)
    layer = PairNet(of, decisions).eval().layers[1][0]
    layer.p = torch.rand(len(PAIRS), generator=torch.Generator().manual_seed(0)).softmax(0)
    x = torch.randn(4, layer.inner.in_channels, 8, 8).relu()
    total = 0
    for k, (w, a) in enumerate(PAIRS):
        weight = of.quantizer("blocks.0.conv2", "weight", w)(layer.inner.weight)
        act = of.quantizer("blocks.0.conv2", "act", a)(x)
        total = total + layer.p[k] * torch.nn.functional.conv2d(act, weight, padding=1)
    torch.testing.assert_close(layer(x), total, rtol=1e-4, atol=1e-5)
    weights = [of.quantizer("blocks.0.conv2", "weight", w)(layer.inner.weight) for w, _ in PAIRS]
    mean = sum(p * w for p, w in zip(layer.p, weights, strict=True))
    torch.testing.assert_close(layer.present_weight(), mean)


def test_schedules():
    method = BPNAS(epochs=9, mu=0.1, prob1=2.0)
    assert [method.mu_at(e) for e in (0, 2, 3, 5, 6, 8)] == pytest.approx(
        [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    )
    weights = [method.lambda_at(e) for e in range(9)]
    assert weights == pytest.approx([0, 0, 0, 1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2])


def test_blocks_decide_together_and_layers_alone():
    of = toy.make_problem("bops", like=4)
    by_block = replace(FAST, layerwise=False, prob1=0.0).search(of).policy
    assert by_block["blocks.0.conv1"] == by_block["blocks.0.conv2"]
    assert len(block_decisions(of, PAIRS, True)) == 4
    assert len(block_decisions(of, PAIRS)) == 2


def test_tied_layers_and_paired_bits():
    of = toy.make_problem("bops", like=4, groups=[("blocks.0.conv1", "blocks.0.conv2")])
    policy = FAST.search(of).policy
    assert policy["blocks.0.conv1"] == policy["blocks.0.conv2"]
    paired = toy.make_problem("bops", like=4, paired=True)
    assert all(b.weight == b.act for b in FAST.search(paired).policy.values())


def test_weights_and_theta_learn_from_halves_that_do_not_meet():
    of = toy.make_problem("bops")
    search = Search(replace(FAST, images=None), of)
    assert len(search.for_weights) == len(search.for_theta) == len(of.train) / 2
    images = [
        {x.numpy().tobytes() for x in half.images()}
        for half in (search.for_weights, search.for_theta)
    ]
    assert not images[0] & images[1]
    layers = search.net.stored()
    weights = [layer.weight.clone() for layer in layers]
    logits = search.choices.logits.detach().clone()
    search.train_theta(0.1, 0.1)
    assert all(torch.equal(a, b.weight) for a, b in zip(weights, layers, strict=True))
    assert not torch.equal(logits, search.choices.logits)
    logits = search.choices.logits.detach().clone()
    search.train_weights()
    assert torch.equal(logits, search.choices.logits)
    assert not torch.equal(weights[0], layers[0].weight)


def test_weights_are_reshaped_after_every_update():
    of = toy.make_problem("bops", scheme="scale_clip")
    search = Search(replace(FAST, reshape=2.0), of)
    search.train_weights()
    for layer in search.net.stored():
        assert float(layer.weight.abs().max()) <= 2.1 * float(layer.weight.abs().mean())
    solution = replace(FAST, reshape=2.0).search(of)
    judge = toy.make_problem("bops", scheme="scale_clip", retrains=True)
    trained = FAST.finish(judge, solution)
    assert trained.policy == solution.policy


def test_same_seed_same_result():
    def found(seed):
        solution = FAST.search(toy.make_problem("bops", seed=seed))
        return solution.policy, solution.notes

    torch.manual_seed(1)
    first = found(0)
    torch.manual_seed(2)
    assert found(0) == first
    assert found(1)[1] != first[1]


def test_skips_where_there_is_nothing_to_choose():
    assert "nothing to search" in FAST.skip(toy.make_problem("bops", bits=(8,), like=8))
    one = replace(FAST, pairs=[[4, 4]])
    assert "one candidate" in one.skip(toy.make_problem("bops", like=4))
    dear = replace(FAST, pairs=[[4, 4], [8, 8]])
    assert "over the budget" in dear.skip(toy.make_problem("bops", like=3))
    assert FAST.skip(toy.make_problem("bops")) is None


def test_divergence_is_reported():
    with pytest.raises(FloatingPointError, match="diverged in pass"):
        replace(FAST, lr=1e20).search(toy.make_problem("bops"))


def test_prob1_decides_as_the_search_goes_on():
    of = toy.make_problem("bops", like=4)
    method = replace(FAST, epochs=12, images=256, prob1=3.0)
    notes = method.search(of).notes
    assert notes["entropy"][-1] < 0.5 * max(notes["entropy"])
    assert notes["entropy"][-1] < 0.2
    free = replace(method, prob1=0.0).search(of).notes
    assert free["entropy"][-1] > notes["entropy"][-1]


def as_in_the_suite():
    suite = OmegaConf.load(conf_folder() / "suite" / "quick.yaml")
    return BPNAS(**OmegaConf.to_container(suite.overrides.framework.bp_nas))


@pytest.mark.slow
def test_it_learns_from_data():
    found = learned(as_in_the_suite())
    assert found.differ
    assert found.gain > 0
    assert min(accuracy for _, accuracy in found.with_loss) > 30
