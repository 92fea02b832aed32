import math

import pytest
import torch

from frameworks.core.supernets.gates import GAMMA, TAU, ZETA, HardConcrete, nested_cost

LOGITS = [-3.0, -0.935, 0.0, 1.5, 6.0]


def draws(gate, count=40_000, seed=0):
    """Many draws of one gate, from that many gates with its logit."""
    many = HardConcrete([gate] * count)
    return many.sample(torch.Generator().manual_seed(seed)).detach()


def test_constants_are_the_published_ones():
    assert (TAU, ZETA, GAMMA) == (2 / 3, 1.1, -0.1)


def test_probability_of_being_open_by_hand():
    # sigmoid(0 - 2/3 log(0.1 / 1.1)) = sigmoid(1.59860) = 0.83182
    assert HardConcrete([0.0]).active().item() == pytest.approx(0.83182, abs=1e-5)
    # and by symmetry P(z = 1) = 1 - 0.83182 at phi = 0
    assert HardConcrete([0.0]).exceeds(1.0).item() == pytest.approx(0.16818, abs=1e-5)


@pytest.mark.parametrize("logit", LOGITS)
def test_frequencies_agree_with_the_closed_forms(logit):
    gate, z = HardConcrete([logit]), draws(logit)
    for t in (0.0, 0.25, 0.5, 0.9):
        assert float((z > t).float().mean()) == pytest.approx(gate.exceeds(t).item(), abs=0.01)
    assert float((z == 1).float().mean()) == pytest.approx(gate.exceeds(1.0).item(), abs=0.01)
    assert float(z.min()) >= 0
    assert float(z.max()) <= 1


@pytest.mark.parametrize("logit", LOGITS)
def test_mean_is_the_integral_of_the_survival_function(logit):
    gate = HardConcrete([logit])
    grid = [(i + 0.5) / 1000 for i in range(1000)]
    mean = sum(gate.exceeds(t).item() for t in grid) / 1000
    assert float(draws(logit).mean()) == pytest.approx(mean, abs=0.01)


def test_draws_follow_the_formula():
    gate = HardConcrete([0.3, -0.4])
    u = torch.rand(2, generator=torch.Generator().manual_seed(5))
    expected = []
    for value, phi in zip(u.tolist(), (0.3, -0.4), strict=True):
        s = 1 / (1 + math.exp(-(math.log(value) - math.log(1 - value) + phi) / TAU))
        expected.append(min(1.0, max(0.0, s * 1.2 - 0.1)))
    z = gate.sample(torch.Generator().manual_seed(5))
    assert z.tolist() == pytest.approx(expected, abs=1e-5)


def test_gradient_of_a_draw_is_that_of_the_stretched_sigmoid_inside():
    gate = HardConcrete([0.0] * 200)
    z = gate.sample(torch.Generator().manual_seed(0))
    z.sum().backward()
    s = (z.detach() - GAMMA) / (ZETA - GAMMA)
    inside = (z > 0) & (z < 1)
    slope = s * (1 - s) / TAU * (ZETA - GAMMA)
    assert 0 < int(inside.sum()) < 200
    torch.testing.assert_close(gate.logits.grad[inside], slope[inside], rtol=1e-4, atol=1e-6)
    assert not gate.logits.grad[~inside].any()


def test_extreme_noise_is_finite():
    class Ends:
        def __call__(self, *args, **kwargs):
            return torch.tensor([0.0, 1.0])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand", Ends())
        z = HardConcrete([0.0, 0.0]).sample(torch.Generator())
    z.sum().backward()
    assert z.tolist() == [0.0, 1.0]


def test_decision_is_by_the_probability_of_being_shut():
    # P(z = 0) < 0.34 where phi > log(0.66 / 0.34) - 1.59860 = -0.93530
    assert HardConcrete([-0.936, -0.935, 6.0, -6.0]).decided(0.34) == [False, True, True, False]


def test_nested_cost_by_hand():
    q = [torch.tensor(x) for x in (0.5, 0.8, 0.25)]
    # 2 * 0.5 + 4 * 0.5 * 0.8 + 8 * 0.5 * 0.8 * 0.25
    assert nested_cost(q, [2, 4, 8]).item() == pytest.approx(1.0 + 1.6 + 0.8)
    channels = torch.tensor([1.0, 0.0, 0.5])
    each = nested_cost([channels, *q[1:]], [2, 4, 8])
    assert each.tolist() == pytest.approx([6.8, 0.0, 3.4])


def test_nested_cost_is_the_mean_cost_of_drawn_gates():
    logits = (1.0, 0.0, -0.5)
    z = torch.stack([draws(phi, seed=i) for i, phi in enumerate(logits)])
    opened = (z > 0).float().cumprod(0)
    sampled = float((opened * torch.tensor([2.0, 4, 8])[:, None]).sum(0).mean())
    q = [HardConcrete([phi]).active() for phi in logits]
    assert nested_cost(q, [2, 4, 8]).item() == pytest.approx(sampled, rel=0.01)


def test_costs_and_gates_must_match():
    with pytest.raises(ValueError, match="zip"):
        nested_cost([torch.ones(1)], [1, 2])
