import itertools

import pytest
import torch

from frameworks import schemes
from frameworks.gradient.bayesian_bits.residual import (
    LEVELS,
    GatedResidual,
    RangeQuantizer,
    decompose,
    gated_sum,
    level_shares,
    nested_steps,
    pact_clip,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gated(levels=(2, 4, 8), beta=1.0, signed=True):
    return GatedResidual([RangeQuantizer(torch.tensor(beta), b, signed) for b in levels])


def away_from_ties(x, steps):
    """Values whose place on no grid is within rounding of a tie."""
    clear = torch.ones_like(x, dtype=torch.bool)
    for step in steps:
        clear &= ((x / step) % 1 - 0.5).abs() > 1e-3
    return x[clear]


def test_steps_are_nested():
    for signed, span in ((True, 2.0), (False, 1.0)):
        steps = [s.double() for s in nested_steps(torch.tensor(1.0), signed, LEVELS)]
        assert float(steps[0]) == pytest.approx(span / 3)
        for low, (fine, coarse) in zip(LEVELS, itertools.pairwise(steps[::-1]), strict=False):
            assert low in LEVELS
            assert float(coarse) > float(fine)
        ratios = [float(a / b) for a, b in itertools.pairwise(steps)]
        assert ratios == pytest.approx([5, 17, 257, 65537], rel=1e-5)
    # s_2 is 85 times s_8 and s_4 17 times
    assert float(steps[0] / steps[2]) == pytest.approx(85)


def test_decomposition_by_hand():
    # beta = 1.5, signed: s_2 = 1, s_4 = 0.2, s_8 = 0.2 / 17
    parts = decompose(torch.tensor([0.74, -0.36]), nested_steps(torch.tensor(1.5), True, (2, 4, 8)))
    assert parts[0].tolist() == pytest.approx([1.0, 0.0])
    assert parts[1].tolist() == pytest.approx([-0.2, -0.4])
    s8 = 0.2 / 17
    assert parts[2].tolist() == pytest.approx([-5 * s8, 3 * s8], abs=1e-6)  # -0.06, 0.04 left


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_all_gates_open_is_plain_rounding(signed, count):
    steps = nested_steps(torch.tensor(1.0), signed, LEVELS[:count])
    x = away_from_ties(normal(5000) if signed else normal(5000).abs(), steps)
    assert len(x) > 4000
    clipped = pact_clip(x, torch.tensor(1.0), signed)
    total = gated_sum(decompose(clipped, steps), [torch.ones(())] * (count - 1))
    plain = torch.round(clipped / steps[-1]) * steps[-1]
    torch.testing.assert_close(total, plain, rtol=0, atol=2e-6)


def test_sixteen_bits_are_nearly_the_value():
    x = normal(1000).clamp(-0.99, 0.99)
    steps = nested_steps(torch.tensor(1.0), True, LEVELS)
    parts = decompose(x, steps)
    errors = [float((x - sum(parts[: k + 1])).abs().max()) for k in range(5)]
    for error, step in zip(errors[:4], steps[:4], strict=True):
        assert error <= float(step) / 2 * 1.01
    assert errors[4] <= errors[3]


def test_a_shut_gate_shuts_all_above():
    parts = [torch.tensor(x) for x in (1.0, 0.5, 0.25, 0.125)]
    one, zero = torch.ones(()), torch.zeros(())
    values = {
        gates: float(gated_sum(parts, [one if g else zero for g in gates]))
        for gates in itertools.product((0, 1), repeat=3)
    }
    assert values[0, 1, 1] == 1.0
    assert values[1, 0, 1] == 1.5
    assert values[1, 1, 0] == 1.75
    assert values[1, 1, 1] == 1.875


def test_soft_gates_by_hand():
    parts = [torch.tensor(x) for x in (1.0, 0.5, 0.25)]
    gates = [torch.tensor(0.5), torch.tensor(0.2)]
    assert float(gated_sum(parts, gates)) == pytest.approx(1 + 0.5 * (0.5 + 0.2 * 0.25))


def test_shares_give_the_same_sum():
    sums = [torch.tensor(x) for x in (1.0, 1.5, 1.75)]
    parts = [sums[0], sums[1] - sums[0], sums[2] - sums[1]]
    gates = [torch.tensor(0.5), torch.tensor(0.2)]
    shares = level_shares(gates, 3)
    assert shares.tolist() == pytest.approx([0.5, 0.4, 0.1])
    total = sum(p * q for p, q in zip(shares, sums, strict=True))
    assert float(total) == pytest.approx(float(gated_sum(parts, gates)))
    assert level_shares(gates[:1], 3).tolist() == pytest.approx([0.5, 0.5, 0])
    assert level_shares([], 2).tolist() == [1, 0]


def test_clip_keeps_half_steps_from_rounding_up():
    beta = torch.tensor(1.0)
    for levels in ((2,), (4,), (8,)):
        (step,) = nested_steps(beta, True, levels)
        codes = torch.round(pact_clip(torch.tensor([-9.0, 9.0]), beta, True) / step)
        assert codes.tolist() == [-(2 ** (levels[0] - 1) - 1), 2 ** (levels[0] - 1) - 1]


def test_clip_gradients():
    x = torch.tensor([-2.0, -0.5, 0.5, 2.0], requires_grad=True)
    beta = torch.tensor(1.0, requires_grad=True)
    pact_clip(x, beta, True).backward(torch.tensor([1.0, 1.0, 1.0, 3.0]))
    assert x.grad.tolist() == [0, 1, 1, 0]
    assert float(beta.grad) == pytest.approx(3 - 1)
    beta.grad = None
    pact_clip(x.detach(), beta, False).backward(torch.ones(4))
    assert float(beta.grad) == pytest.approx(1)


def test_range_gradient_by_hand():
    # s = 2 beta / 15: d/dbeta of s round(x/s) is (q - x/s) 2/15 inside, and 1 for clipped values
    # plus (q - beta/s) 2/15, straight through.
    quantizer = RangeQuantizer(torch.tensor(1.5), 4, True)
    quantizer.learn_range()
    quantizer(torch.tensor([0.74])).backward(torch.ones(1))
    assert float(quantizer.beta.grad) == pytest.approx((4 - 3.7) * 2 / 15, abs=1e-5)
    quantizer.beta.grad = None
    quantizer(torch.tensor([9.0])).backward(torch.ones(1))
    assert float(quantizer.beta.grad) == pytest.approx(1 + (7 - 7.5) * 2 / 15, abs=1e-5)


def test_input_gradient_passes_once():
    quantizer = gated()
    quantizer.gates = [torch.tensor(1.0), torch.tensor(0.5)]
    x = torch.tensor([-3.0, 0.3, 0.6], requires_grad=True)
    quantizer(x).sum().backward()
    assert x.grad.tolist() == pytest.approx([0, 1, 1])


def test_gate_gradients_are_the_residuals():
    quantizer, x = gated(beta=1.5), torch.tensor([0.74])
    gates = [torch.tensor(1.0, requires_grad=True), torch.tensor(0.5, requires_grad=True)]
    quantizer.gates = gates
    quantizer(x).sum().backward()
    s8 = 0.2 / 17
    assert float(gates[0].grad) == pytest.approx(-0.2 - 0.5 * 5 * s8, abs=1e-5)
    assert float(gates[1].grad) == pytest.approx(-5 * s8, abs=1e-5)


@pytest.mark.parametrize("scheme", ["mse", "minmax", "dorefa_pact", "bayesian_bits"])
def test_hard_gates_pick_the_scheme_s_own_quantizers(scheme):
    w = normal(6, 20)
    each = [schemes.get(scheme)().weight(w, b) for b in (2, 4, 8)]
    quantizer = GatedResidual(each)
    one, zero = torch.ones(()), torch.zeros(())
    for gates, level in (([None, None], 0), ([zero, one], 0), ([one, zero], 1), ([one, one], 2)):
        quantizer.gates = gates
        off = (quantizer(w) - each[level](w)).abs()
        # Residual rounding may end one fine step away at ties of a coarser grid.
        assert float((off > 1e-5).float().mean()) < 0.01
    quantizer.gates = [one, None]
    torch.testing.assert_close(quantizer(w), each[1](w), rtol=1e-5, atol=1e-5)


def test_levels_of_the_paper_s_grid_share_one_range():
    quantizer = gated()
    assert len(list(quantizer.parameters())) == 1
    assert len(list(GatedResidual(
        [schemes.get("mse")().weight(normal(4, 4), b) for b in (2, 4)]
    ).parameters())) == 2  # fmt: skip


def test_channel_gates_multiply_output_channels():
    w = normal(3, 4, 2, 2)
    quantizer = gated()
    whole = quantizer(w)
    quantizer.first = torch.tensor([1.0, 0.0, 0.5])
    out = quantizer(w)
    torch.testing.assert_close(out[0], whole[0])
    assert not out[1].any()
    torch.testing.assert_close(out[2], 0.5 * whole[2])


def test_codes_need_decided_gates():
    with pytest.raises(ValueError, match="decided"):
        gated().codes(torch.zeros(1))


def test_scheme_ranges_and_levels():
    scheme = schemes.get("bayesian_bits")()
    w = normal(100)
    quantizer = scheme.weight(w, 2)
    assert quantizer.codes(w).code.unique().tolist() == [-1, 0, 1]
    assert float(quantizer.beta) == pytest.approx(float(w.abs().max()))
    act = scheme.activation(w.relu(), 2)
    assert act.codes(w.relu()).code.unique().tolist() == [0, 1, 2, 3]
    assert scheme.weight(w, 1).codes(w).code.unique().tolist() == [-1, 0]
