import math
from dataclasses import replace

import pytest
import torch

from frameworks import schemes, steer
from frameworks.core.networks.taking.bake import raw_weight
from frameworks.core.supernets.activations import affordable_activations
from frameworks.gradient import waveq
from frameworks.gradient.waveq import framework, sinusoid
from frameworks.gradient.waveq.network import (
    policy_of,
    reach_of,
    waved,
    waves_of,
)
from frameworks.gradient.waveq.sinusoid import Period, WaveWeight, profile, wave
from frameworks.testing import toy
from tests.gradient.learning import minimised, silent

WaveQ = waveq.WaveQ
FAST = WaveQ(epochs=4, images=256, batch=32, lr=0.02, beta_lr=10.0, lambda_beta=0.3)
FREE = ("blocks.0.conv1", "blocks.0.conv2", "blocks.1.depthwise", "blocks.1.pointwise")


def problem(target="size", **fields):
    return toy.make_problem(target, **{"needs": WaveQ.card.needs, **fields})


def number(value, **kind):
    return torch.tensor(value, dtype=torch.float64, **kind)


def slopes(weight, beta, norm=1.0):
    weight, beta = number(weight, requires_grad=True), number(beta, requires_grad=True)
    value = wave(weight, beta, norm)
    return value.item(), *(g.sum().item() for g in torch.autograd.grad(value, (weight, beta)))


def test_defaults_are_the_released_ones():
    method = WaveQ()
    assert (method.epochs + WaveQ.recipe.epochs, method.batch) == (1000, 128)
    assert (method.lr, method.weight_decay, method.beta_lr) == (0.005, 1e-4, 1.0)
    assert (method.lambda_w, method.lambda_beta) == (1.0, 0.03)
    assert method.epochs * framework.RISE == 0.2 * 1000
    assert method.epochs * framework.WIDTH == 0.02 * 1000


@pytest.mark.parametrize(
    ("weight", "beta", "expected"),
    [
        (0.3, 2.0, (0.02387288, -1.38493637, -0.40053331)),
        (0.3, 3.5, (0.00750409, 1.59652481, 0.35897557)),
        (1 / 3, 2.0, (0.0, 0.0, 0.0)),
        (0.5, 2.0, (0.25, 0.0, -0.17328680)),
        (0.25, 1.0, (0.25, 1.57079633, 0.37110973)),
    ],
)
def test_sinusoid_and_its_slopes_by_hand(weight, beta, expected):
    assert slopes(weight, beta) == pytest.approx(expected, abs=1e-8)


def test_other_norms_by_hand():
    assert slopes(0.3, 2.0, 0)[::2] == pytest.approx((0.09549150, -1.53594359))
    assert slopes(0.3, 2.0, 2)[::2] == pytest.approx((0.00596822, -0.10427018))


def test_a_layer_has_the_mean_over_its_weights():
    value, _, slope = slopes([0.30, 0.10, -0.62, 0.95], 3.0)
    assert (value, slope) == pytest.approx((0.07224394, -0.13927663))
    spread = torch.linspace(-1, 1, 100_001, dtype=torch.float64)
    assert wave(spread, number(8.0)).item() == pytest.approx(0.5 / 256, rel=1e-3)


@pytest.mark.parametrize("beta", [1, 2, 3, 5])
def test_minima_are_the_levels_and_no_other_weights(beta):
    levels = 2**beta - 1
    grid = torch.arange(-levels, levels + 1, dtype=torch.float64) / levels
    assert wave(grid, number(float(beta))).item() < 1e-25
    between = (grid[1:] + grid[:-1]) / 2  # where the sinusoid has its maxima
    assert wave(between, number(float(beta))).item() == pytest.approx(2.0**-beta)
    # They are what the scheme rounds to, the largest weight at 1.
    codes = schemes.get("waveq")().weight(torch.tensor([1.0, -1.0]), beta + 1)
    spread = torch.linspace(-1, 1, 1001)
    torch.testing.assert_close(codes(spread).unique(), grid.float(), rtol=0, atol=1e-6)


def test_slopes_are_those_of_finite_differences():
    weight = torch.rand(7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    weight.requires_grad_()
    for beta in (1.3, 2.0, 3.7):
        assert torch.autograd.gradcheck(wave, (weight, number(beta, requires_grad=True)))


def test_profiles_by_hand():
    expected = {
        190: (0.119203, 0.119203),
        200: (0.5, 0.5),
        210: (0.880797, 0.880797),
        500: (1.0, 0.5),
        510: (1.0, 0.119203),
    }
    for t, both in expected.items():
        assert profile(t, 200, 500, 10) == pytest.approx(both, abs=1e-6)


@pytest.mark.parametrize("off", ["lambda_w", "lambda_beta"])
def test_both_strengths_follow_their_profile_in_the_search(monkeypatch, off):
    monkeypatch.setattr(framework, "cross_entropy", silent)
    found = minimised(monkeypatch)
    method = replace(FAST, epochs=8, images=32, **{off: 0.0})  # a step an epoch
    plateau = method.search(problem()).notes["learning"]["curve"]
    shares = [a / b for a, b in zip(found, plateau, strict=True)]
    # (1 + tanh((t - 1/4) / 0.025)) / 2; that of the bits begins to fall before the end.
    assert shares[:3] == pytest.approx([2.1e-9, 4.54e-5, 0.5], rel=0.02)
    assert shares[3:7] == pytest.approx([0.999955, 1, 1, 1], abs=1e-6)
    assert shares[7] == pytest.approx(1 if off == "lambda_beta" else 0.999955, abs=1e-6)


@pytest.mark.parametrize(
    ("bits", "beta", "expected"),
    [
        ((2, 3, 4, 8), 3.0, 4),
        ((2, 3, 4, 8), 3.01, 8),
        ((2, 3, 4, 8), 1.0, 2),
        ((1, 2), 1.0, 2),
        ((2, 3, 4, 8), 7.0, 8),
    ],
)
def test_bits_are_the_next_candidate_with_a_sign(bits, beta, expected):
    period = Period(bits, torch.device("cpu"))
    assert period.beta.item() == bits[-1] - 1
    period.beta.data.fill_(beta)
    assert period.bits == expected
    assert period.scale().item() == pytest.approx(math.ceil(beta) / beta)


def test_periods_stay_among_the_candidates():
    period = Period((3, 4, 6), torch.device("cpu"))
    for given, kept in ((0.4, 2.0), (9.0, 5.0), (3.3, 3.3)):
        period.beta.data.fill_(given)
        period.clamp_()
        assert period.beta.item() == pytest.approx(kept)


def test_the_scale_takes_the_loss_to_the_bits():
    # dL/dbeta = dalpha/dbeta * sum_j dL/dw_q (Q(w / alpha) - w / alpha) inside the range.
    scheme, weight = schemes.get("waveq")(), torch.tensor([0.31, -0.12, 0.6, -1.0])
    period = Period((2, 3, 4), torch.device("cpu"))
    period.beta.data.fill_(2.4)
    each = {bits: scheme.weight(weight, bits) for bits in (2, 3, 4)}
    quantizer = WaveWeight(period, weight.abs().max(), each)
    slope = torch.tensor([0.5, -2.0, 1.0, 0.25])
    (slope * quantizer(weight)).sum().backward()
    alpha = 3 / 2.4
    inner = weight / alpha
    expected = (slope * (each[4](inner) - inner)).sum() * -3 / 2.4**2
    assert period.beta.grad.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(quantizer(weight), alpha * each[4](inner))


def test_rounding_that_hurts_holds_bits_up():
    # The loss is the squared error to the weight itself: its slope in beta must be negative.
    scheme = schemes.get("waveq")()
    weight = torch.randn(500, generator=torch.Generator().manual_seed(1))
    for beta in (1.3, 2.0, 2.6, 3.5):
        period = Period((2, 3, 4, 5), torch.device("cpu"))
        period.beta.data.fill_(beta)
        each = {bits: scheme.weight(weight, bits) for bits in (2, 3, 4, 5)}
        (WaveWeight(period, weight.abs().max(), each)(weight) - weight).square().sum().backward()
        assert period.beta.grad.item() < 0, beta


def test_tied_layers_share_a_period_and_pinned_have_none():
    of = problem(groups=[FREE[:2]])
    net, periods = waved(of, affordable_activations(of, 4))
    assert len(periods) == 3
    placed = {spot.layer.name: q.period for spot, q in net.placed("weight")}
    assert tuple(placed) == FREE
    assert placed[FREE[0]] is placed[FREE[1]]
    by_layer = [
        wave(raw_weight(net.qmodel.qlayer(n).inner) / reach_of(of.network.get_submodule(n)), p.beta)
        for n, p in placed.items()
    ]
    assert waves_of(net).item() == pytest.approx(torch.stack(by_layer).sum().item(), rel=1e-5)


def test_without_a_sinusoid_bits_fall_by_their_strength_alone():
    of = problem("bops")
    with pytest.MonkeyPatch.context() as patch:
        loss = framework.cross_entropy
        patch.setattr(framework, "cross_entropy", lambda *a: loss(*a).detach())
        solution = replace(FAST, lambda_w=0.0, lambda_beta=0.02).search(of)
    course = torch.tensor(solution.notes["periods"])
    assert (course[1:] <= course[:-1]).all()
    assert (course[-1] < course[0] - 0.2).all()
    torch.testing.assert_close(course, course[:, :1].expand_as(course))


def test_more_strength_leaves_fewer_bits():
    costs = []
    for strength in (0.001, 0.1, 50.0):
        of = problem("bops")
        found = replace(FAST, lambda_beta=strength).search(of)
        costs.append(of.cost(found.policy)["bops"])
    assert costs[0] > costs[1] > costs[2]
    assert {found.policy[name].weight for name in FREE} == {2}


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


def test_finishing_settles_weights_at_their_levels():
    of = problem("bops", scheme="waveq", retrains=True)
    of = of.at(recipe=replace(WaveQ.recipe, epochs=8, batch=16, lr=0.05))
    solution = replace(FAST, lambda_beta=50.0).search(of)  # 2 bits, a step of half the range

    def apart(method):
        """Mean distance of the weights from their levels, in steps."""
        found = []
        for name, weight in method.finish(of, solution).float_state().items():
            layer = name.removesuffix(".weight")
            if layer in FREE and name != layer:
                levels = 2 ** (solution.policy[layer].weight - 1) - 1
                places = weight / reach_of(of.network.get_submodule(layer)) * levels
                found.append((places - places.round()).abs().mean())
        assert len(found) == len(FREE)
        return float(torch.stack(found).mean())

    with_waves, without = apart(replace(FAST, lambda_w=10.0)), apart(replace(FAST, lambda_w=0.0))
    assert with_waves < 0.5 * without


def test_weights_are_kept_within_what_they_reached():
    """At a rate that throws them far out."""
    task = problem()
    found = replace(FAST, lr=1.0, beta_lr=0.2).search(task)
    for name in FREE:
        reach = reach_of(task.network.get_submodule(name))
        assert float(found.weights[f"{name}.weight"].abs().max()) <= float(reach) * (1 + 1e-6)


def test_same_seed_same_result():
    one, other = (FAST.search(problem("bops", seed=3)) for _ in range(2))
    assert one.policy == other.policy
    assert one.notes == other.notes
    assert one.notes != FAST.search(problem("bops", seed=4)).notes


def test_skips_where_weights_are_pinned():
    assert "nothing to search" in FAST.skip(problem("size", bits=(8,), like=8))
    assert FAST.skip(problem()) is None
    assert schemes.get(WaveQ.card.quantizer) is sinusoid.WaveScheme


def test_a_policy_is_read_from_the_periods():
    of = problem("bops", like=4)
    acts = affordable_activations(of, 4)
    net, periods = waved(of, acts)
    for period, beta in zip(periods.values(), (1.0, 1.2, 3.0, 6.9), strict=True):
        period.beta.data.fill_(beta)
    assert [policy_of(net, acts)[name].weight for name in FREE] == [2, 3, 4, 8]


def test_periods_come_to_rest():
    # At a strength that the sinusoid can hold, the change of the periods in an epoch dies down.
    of = problem("bops")
    solution = replace(FAST, epochs=12, lambda_w=1.0, lambda_beta=0.05).search(of)
    course = torch.tensor(solution.notes["periods"])
    moved = (course[1:] - course[:-1]).abs().mean(1)
    assert moved[-1] < 0.3 * moved.max()
    assert solution.notes["learning"]["improved"]
