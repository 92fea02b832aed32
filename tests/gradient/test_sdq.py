from dataclasses import replace

import pytest
import torch

from frameworks import schemes, steer
from frameworks.core.quantizers.base import Codes, Quantizer
from frameworks.core.supernets.activations import affordable_activations
from frameworks.gradient import sdq
from frameworks.gradient.sdq import framework
from frameworks.gradient.sdq.framework import error, policy_of
from frameworks.gradient.sdq.stochastic import (
    Ladder,
    ScaledWeight,
    SDQScheme,
    StochasticWeight,
    bin_regularizer,
    mean_of_bins,
    relaxed_choice,
)
from frameworks.testing import toy
from tests.gradient import learning

SDQ = sdq.SDQ
FAST = SDQ(epochs=6, images=256, batch=32, lr=0.002, beta_lr=4.0, lambda_q=0.1)
FREE = ("blocks.0.conv1", "blocks.0.conv2", "blocks.1.depthwise", "blocks.1.pointwise")
CPU = torch.device("cpu")
WEIGHT = torch.tensor([0.30, -0.55, 0.80, -0.10])
FOUR = torch.tensor([0.333333, -0.6, 0.866667, -0.066667])
THREE = torch.tensor([0.428571, -0.428571, 0.714286, -0.142857])


class Levels(Quantizer):
    """The plain uniform quantizer of the hand-worked numbers, on [-1, 1]."""

    def __init__(self, bits):
        super().__init__()
        self.levels = 2**bits - 1

    def forward(self, x):
        value = 2 * torch.round(self.levels * (x + 1) / 2) / self.levels - 1
        return x + (value - x).detach()

    def codes(self, x):
        raise NotImplementedError


def problem(target="size", **fields):
    return toy.make_problem(target, **{"needs": SDQ.card.needs, **fields})


def two_levels(beta):
    ladder = Ladder((3, 4), 0.9, CPU)
    ladder.logit.data.fill_(torch.logit(torch.tensor(beta)))
    return StochasticWeight(ladder, {bits: Levels(bits) for bits in (3, 4)})


def test_defaults():
    method = SDQ()
    assert (method.epochs, method.lambda_q, method.lambda_e) == (60, 1e-6, 0.1)
    assert (method.start, method.threshold, method.tau) == (0.99, 0.01, 1.0)
    assert SDQ.recipe.epochs == 120
    with pytest.raises(ValueError, match="threshold"):
        replace(method, threshold=0.995).validate()
    with pytest.raises(ValueError, match="tau"):
        replace(method, tau=0.0).validate()


@pytest.mark.parametrize(
    ("draws", "tau", "choice", "slope"),
    [
        ((0.2, -0.1), 1.0, 0.759017, 0.871001),
        ((0.2, -0.1), 0.5, 0.908428, 0.792249),
        ((-1.0, 0.5), 1.0, 0.342381, None),
    ],
)
def test_relaxed_choice_by_hand(draws, tau, choice, slope):
    beta = torch.tensor(0.7, requires_grad=True)
    soft = relaxed_choice(torch.logit(beta), torch.tensor(draws), tau)
    assert soft.item() == pytest.approx(choice, abs=1e-6)
    if slope is not None:
        soft.backward()
        assert beta.grad.item() == pytest.approx(slope, abs=1e-5)


def test_slope_of_the_relaxed_choice_is_that_of_finite_differences():
    logit = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    draws = torch.tensor([0.3, -0.4], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: relaxed_choice(x, draws, 0.7), (logit,))


@pytest.mark.parametrize("tau", [0.3, 1.0])
def test_bits_are_drawn_as_often_as_beta_says_and_forward_is_one_of_them(tau):
    quantizer = two_levels(0.7)
    generator = torch.Generator().manual_seed(0)
    times, count, total = 0, 4000, torch.zeros(4)
    for _ in range(count):
        quantizer.ladder.sample(generator, tau)
        out = quantizer(WEIGHT).detach()
        high = torch.allclose(out, FOUR, atol=1e-5)
        assert high or torch.allclose(out, THREE, atol=1e-5)
        times, total = times + high, total + out
    assert times / count == pytest.approx(0.7, abs=0.025)
    expected = torch.tensor([0.361905, -0.548571, 0.820952, -0.089524])
    torch.testing.assert_close(total / count, expected, rtol=0, atol=0.006)


def test_the_slope_of_a_draw_compares_the_neighbours():
    quantizer = two_levels(0.7)
    quantizer.ladder.sample(torch.Generator().manual_seed(3), 1.0)
    slope = torch.tensor([1.0, -2.0, 0.5, 3.0])
    (slope * quantizer(WEIGHT)).sum().backward()
    u = torch.rand(2, generator=torch.Generator().manual_seed(3))
    soft = relaxed_choice(quantizer.ladder.logit, -torch.log(-torch.log(u)), 1.0)
    expected = (slope * (FOUR - THREE)).sum() * soft * (1 - soft)
    assert quantizer.ladder.logit.grad.item() == pytest.approx(expected.item(), rel=1e-3)
    assert quantizer.ladder.logit.grad.item() != 0


def test_quantization_error_by_hand_pushes_bits_down():
    quantizer = two_levels(0.7)
    assert quantizer.error(WEIGHT).item() == pytest.approx(0.00916667, abs=1e-7)
    beta = quantizer.ladder.beta
    beta.retain_grad()
    (beta * quantizer.error(WEIGHT)).backward()
    assert beta.grad.item() == pytest.approx(0.00916667, abs=1e-7)
    assert quantizer.ladder.logit.grad.item() > 0


def test_a_ladder_goes_down_one_level_at_a_time_and_never_up():
    ladder = Ladder((2, 4, 8), 0.99, CPU)
    assert (ladder.bits, ladder.beta.item()) == (8, pytest.approx(0.99))
    ladder.logit.data.fill_(30.0)
    assert not ladder.drop(0.01)
    assert ladder.beta.item() == pytest.approx(0.99)  # it can still come back
    ladder.logit.data.fill_(-5.0)
    assert ladder.drop(0.01)
    assert (ladder.bits, ladder.beta.item()) == (4, pytest.approx(0.99))
    assert ladder.expected == pytest.approx(3.98)
    ladder.logit.data.fill_(-5.0)
    assert ladder.drop(0.01)
    ladder.logit.data.fill_(-50.0)
    assert not ladder.drop(0.01)
    assert (ladder.bits, ladder.beta.item(), ladder.expected) == (2, 1, 2)


def test_expected_bits_by_hand():
    total, sizes = 0.0, (1000, 4000, 500)
    for size, pair, beta in zip(sizes, ((3, 4), (2, 3), (7, 8)), (0.7, 0.2, 0.95), strict=True):
        ladder = Ladder(pair, 0.9, CPU)
        ladder.logit.data.fill_(torch.logit(torch.tensor(beta)))
        total += size * ladder.expected
    assert total / sum(sizes) == pytest.approx(2.995455, abs=1e-5)


def test_scaled_weights_by_hand():
    weight = torch.tensor([[0.1, -0.2, 0.3, -0.4]])
    quantizer = SDQScheme().weight(weight, 2)
    assert quantizer.scale(weight).item() == pytest.approx(0.375)
    expected = torch.tensor([[0.125, -0.125, 0.375, -0.375]])
    torch.testing.assert_close(quantizer(weight), expected)
    for bits, mean in ((2, 2 / 3), (3, 4 / 7), (8, 128 / 255)):
        each = ScaledWeight(bits)
        assert (weight / each.scale(weight)).abs().mean().item() == pytest.approx(mean)


def test_a_channel_s_scale_is_its_own():
    weight = torch.tensor([[0.1, -0.3], [1.0, -3.0]])
    one, other = ScaledWeight(3)(weight)
    torch.testing.assert_close(10 * one, other)


def test_bin_regularizer_by_hand():
    # Levels -1, -1/3, 1/3, 1: each bin's squared distances, averaged, summed over the bins.
    weight = torch.tensor([0.30, 0.40, -0.30, -0.42, 0.95])
    codes = torch.round((weight + 1) * 1.5)
    apart = weight - (codes / 1.5 - 1)
    value = mean_of_bins(apart.square(), codes.long())
    assert value.item() == pytest.approx(0.00958889, abs=1e-7)
    bins = [weight[codes == code] for code in codes.unique()]
    centres = codes.unique() / 1.5 - 1
    written = sum(
        (each.mean() - centre) ** 2 + each.var(unbiased=False)
        for each, centre in zip(bins, centres, strict=True)
    )
    assert value.item() == pytest.approx(written.item(), rel=1e-5)


def test_bin_regularizer_is_zero_at_the_levels_and_draws_weights_there():
    weight = torch.randn(4, 9, generator=torch.Generator().manual_seed(0)).requires_grad_()
    quantizer = ScaledWeight(2)
    value = bin_regularizer(weight, quantizer)
    value.backward()
    toward = (quantizer(weight) - weight).detach()
    assert value > 0
    assert ((-weight.grad) * toward >= 0).all()
    level = torch.tensor([[1.0, -1.0, 1.0, -1.0]])  # 1 bit: all at the mean magnitude
    assert bin_regularizer(level, ScaledWeight(1)).item() == pytest.approx(0, abs=1e-12)


def test_tied_layers_share_a_ladder_and_pinned_have_none():
    of = problem(groups=[FREE[:2]])
    net, ladders = FAST.stochastic(of, affordable_activations(of, 4))
    assert len(ladders) == 3
    placed = {spot.layer.name: q.ladder for spot, q in net.placed("weight")}
    assert tuple(placed) == FREE
    assert placed[FREE[0]] is placed[FREE[1]]
    by_layer = 0.0
    for name, ladder in placed.items():
        weight = of.network.get_submodule(name).weight.detach()
        quantized = of.quantizer(name, "weight", 8)(weight)
        by_layer += float(ladder.beta.detach()) * float((quantized - weight).square().sum())
    assert error(net).item() == pytest.approx(by_layer, rel=1e-4)


def test_without_a_loss_the_error_alone_brings_every_layer_down():
    of = problem("bops", like=2.5)
    with pytest.MonkeyPatch.context() as patch:
        loss = framework.cross_entropy
        patch.setattr(framework, "cross_entropy", lambda *a: loss(*a).detach())
        solution = replace(FAST, epochs=30).search(of)
    course = torch.tensor(solution.notes["bits"])
    assert (course[1:] <= course[:-1] + 0.02).all()  # a fresh DBP starts at 0.99
    assert max(solution.policy[name].weight for name in FREE) < 8
    assert of.within(solution.policy)


def test_bits_stop_falling_where_the_budget_is_met():
    of = problem("bops", like=4)
    solution = replace(FAST, epochs=40).search(of)
    assert of.within(solution.policy)
    assert len(solution.notes["bits"]) < 40
    # One level less of the last drop is what it took: some layer back up is over the budget.
    up = [
        solution.policy.replace(name, weight=solution.policy[name].weight + 1)
        for name in FREE
        if solution.policy[name].weight < 8
    ]
    assert not all(of.within(policy) for policy in up)


def test_a_fresh_dbp_has_nothing_of_the_dropped_one_s_momentum(monkeypatch):
    """One step, after which the first layer drops and the budget is met."""
    monkeypatch.setattr(framework, "cross_entropy", learning.silent)
    kept, method = [], replace(FAST, images=32, beta_lr=100.0)
    plain = method.optimizer
    monkeypatch.setattr(method, "optimizer", lambda *given: kept.append(plain(*given)) or kept[0])
    policy = method.search(problem(like=7.9)).policy
    assert [policy[name].weight for name in FREE] == [6, 8, 8, 8]
    (optimizer,) = kept
    logits = optimizer.param_groups[1]["params"]
    assert [logit in optimizer.state for logit in logits] == [False, True, True, True]


@pytest.mark.parametrize("target", ["bops", "size"])
def test_the_budget_is_met_by_steering(target):
    of = problem(target, like=4)
    solution = steer(FAST, of)
    assert of.within(solution.policy)
    of.space.validate(solution.policy)
    assert "collapsed" not in solution.notes
    acts = {solution.policy[name].act for name in FREE}
    assert acts == ({8} if target == "size" else {4})
    assert solution.policy["stem"].weight == 8


@pytest.mark.parametrize("fields", [{"paired": True}, {"groups": [FREE[1:3]]}, {"bits": (2, 4, 8)}])
def test_other_spaces(fields):
    of = problem("bops", **fields)
    policy = FAST.search(of).policy
    of.space.validate(policy)
    if fields.get("paired"):
        assert all(policy[n].act == policy[n].weight for n in FREE)


def test_training_starts_from_the_float_weights_and_learns_from_them():
    of = problem("bops", scheme="sdq", retrains=True)
    policy = of.space.nearest(of.space.reference(2, 8))
    solution = framework.Solution(policy)

    def apart(method, epochs):
        """The bins' regularizer of the trained network, and how far from the float weights."""
        trained = method.finish(
            of.at(recipe=replace(SDQ.recipe, epochs=epochs, batch=32, lr=2e-3)), solution
        )
        total, moved = 0.0, 0.0
        for name in FREE:
            weight = trained.qlayer(name).inner.weight.detach()
            total += bin_regularizer(weight, ScaledWeight(2)).item()
            moved += (weight - of.network.get_submodule(name).weight).abs().sum().item()
        assert trained.policy == policy
        return total, moved

    at_first, unmoved = apart(FAST, 0)
    assert unmoved == 0
    with_bins, _ = apart(replace(FAST, lambda_e=3.0), 8)
    without, moved = apart(replace(FAST, lambda_e=0.0), 8)
    assert moved > 0
    assert with_bins < 0.7 * min(at_first, without)


def test_labels_are_not_read_in_training():
    of = problem("bops", scheme="sdq", retrains=True)
    of = of.at(recipe=replace(SDQ.recipe, epochs=1, images=64, batch=32))
    solution = framework.Solution(of.space.nearest(of.space.reference(3, 8)))
    one = FAST.finish(of, solution).float_state()
    x, y = of.data.train.images(), torch.zeros(len(of.data.train), dtype=torch.long)
    blind = of.at(data=replace(of.data, train=type(of.data.train)(x, y)))
    other = FAST.finish(blind, solution).float_state()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_same_seed_same_result():
    one, other = (FAST.search(problem("bops", seed=3)) for _ in range(2))
    assert one.policy == other.policy
    assert one.notes == other.notes
    assert one.notes != FAST.search(problem("bops", seed=4)).notes


def test_skips_where_weights_are_pinned():
    assert "nothing to search" in FAST.skip(problem("size", bits=(8,), like=8))
    assert FAST.skip(problem()) is None
    assert schemes.get(SDQ.card.quantizer) is SDQScheme


def test_a_policy_is_read_from_the_ladders():
    of = problem("bops", like=4)
    acts = affordable_activations(of, 4)
    net, ladders = FAST.stochastic(of, acts)
    for ladder, level in zip(ladders.values(), (2, 3, 4, 8), strict=True):
        ladder.level = ladder.candidates.index(level)
    assert [policy_of(net, acts)[name].weight for name in FREE] == [2, 3, 4, 8]


def test_an_undecided_weight_has_no_codes():
    with pytest.raises(ValueError, match="decided"):
        two_levels(0.5).codes(WEIGHT)
    assert isinstance(ScaledWeight(2).codes(WEIGHT[:, None]), Codes)


def test_expected_bits_fall_to_the_target():
    of = problem("bops", like=3)
    solution = replace(FAST, epochs=40).search(of)
    course = torch.tensor(solution.notes["bits"]).mean(1)
    assert course[-1] < 5.5 < course[0]
    assert solution.notes["learning"]["objective"] == "cross-entropy + lambda_q * error"


@pytest.mark.slow
def test_it_learns_from_data():
    """At a budget that no uniform policy uses up (see the card for one that does)."""
    method = SDQ(epochs=8, images=256, batch=16, lr=0.001, beta_lr=0.7, lambda_q=0.1)
    found = learning.learned(method, like=2.2)
    assert found.differ
    assert found.gain > 0
    assert min(accuracy for _, accuracy in found.with_loss) > 50
