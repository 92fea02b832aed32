"""DoReFa, PACT, HWGQ, HAQ, AutoQ and stochastic rounding against their formulas."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from frameworks.core.quantizers.dorefa import DoReFaPact, DoReFaWeight
from frameworks.core.quantizers.grid import on_grid
from frameworks.core.quantizers.haq import HaqLinear, LinearWeight, divergence_clip
from frameworks.core.quantizers.hwgq import (
    TABLE,
    GaussianWeight,
    HalfWaveGaussian,
    gaussian_step,
)
from frameworks.core.quantizers.pact import Pact, best_clip, calibrated_pact
from frameworks.core.quantizers.stochastic import Stochastic, StochasticRounding
from frameworks.core.quantizers.uniform import UniformQuantizer
from frameworks.reinforcement.autoq.quantizers import (
    AutoQBinary,
    AutoQLinear,
    BinaryBases,
    greedy_bases,
    sums,
)


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- DoReFa ------------------------------------------------------------------------------


def test_dorefa_by_hand():
    # tanh(w) / max = -1, -1/2, 1/4, 1 -> u = 0, 1/4, 5/8, 1 -> 3u = 0, 0.75, 1.875, 3.
    top = math.tanh(2.0)
    x = torch.atanh(torch.tensor([-top, -top / 2, top / 4, top]))
    torch.testing.assert_close(DoReFaWeight(2)(x), torch.tensor([-1, -1 / 3, 1 / 3, 1]))
    assert DoReFaWeight(2).codes(x).code.tolist() == [0, 1, 2, 3]


def test_dorefa_one_bit_by_hand():
    x = torch.tensor([-1.0, 0.5, 0.0, 2.5], requires_grad=True)
    out = DoReFaWeight(1)(x)
    assert out.tolist() == [-1, 1, 1, 1]
    out.backward(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert x.grad.tolist() == [1, 2, 3, 4]


def test_dorefa_gradient_passes_tanh_and_its_maximum():
    x = gaussian(30, seed=3)
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    slope = gaussian(30, seed=4)
    DoReFaWeight(3)(mine).backward(slope)
    t = torch.tanh(theirs)
    (t / t.abs().max()).backward(slope)
    torch.testing.assert_close(mine.grad, theirs.grad)


def test_dorefa_scheme_keeps_the_size_of_the_weights():
    weight = gaussian(8, 4, 3, 3) * 0.05
    out = DoReFaPact().weight(weight, 8)(weight)
    assert float(out.abs().max()) == pytest.approx(float(weight.abs().max()))
    unit = DoReFaWeight(8)(weight)
    torch.testing.assert_close(out, unit * weight.abs().max())


# --- PACT --------------------------------------------------------------------------------


def test_pact_by_hand():
    quantizer = Pact(torch.tensor(3.0), 2)
    x = torch.tensor([-1.0, 0.0, 0.4, 1.4, 2.6, 3.0, 9.0], requires_grad=True)
    quantizer.learn_range()
    out = quantizer(x)
    assert out.tolist() == [0, 0, 0, 1, 3, 3, 3]
    assert quantizer.codes(x).code.tolist() == [0, 0, 0, 1, 3, 3, 3]
    out.backward(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]))
    assert x.grad.tolist() == [0, 2, 3, 4, 5, 0, 0]
    assert float(quantizer.alpha.grad) == 13


def test_pact_equals_its_first_equation():
    x, alpha = gaussian(500) * 3, 2.0
    y = 0.5 * (x.abs() - (x - alpha).abs() + alpha)
    expected = torch.round(y * 15 / alpha) * alpha / 15
    torch.testing.assert_close(Pact(torch.tensor(alpha), 4)(x), expected)


def test_pact_two_sided_by_hand():
    quantizer = Pact(torch.tensor(3.0), 3, signed=True)
    quantizer.learn_range()
    x = torch.tensor([-5.0, -3.0, -1.2, 0.2, 2.6, 4.0], requires_grad=True)
    out = quantizer(x)
    assert out.tolist() == [-3, -3, -1, 0, 3, 3]
    out.backward(torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0]))
    assert x.grad.tolist() == [0, 0, 4, 8, 16, 0]
    assert float(quantizer.alpha.grad) == 32 - 3
    assert Pact(torch.tensor(3.0), 1, signed=True)(x).tolist() == [-3, -3, -3, 3, 3, 3]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_pact_starts_at_the_best_clip(bits):
    for x in (gaussian(3000), gaussian(3000).relu()):
        signed = bool(x.min() < 0)
        found = float((Pact(best_clip(x, bits, signed), bits, signed)(x) - x).square().sum())
        scan = [
            float((Pact(alpha, bits, signed)(x) - x).square().sum())
            for alpha in torch.linspace(0.02, 1.05, 200) * x.abs().max()
        ]
        # At many bits the error ripples with where the largest value falls between two levels.
        assert found <= (1.05 if bits == 8 else 1.02) * min(scan)
        assert calibrated_pact(x, bits).signed == signed


# --- EdMIPS ------------------------------------------------------------------------------


def squared_error(levels, edges):
    """E (z - level)^2 over N(0, 1), with z in (edges[i], edges[i + 1]) sent to levels[i]."""
    low, high = edges[:-1], edges[1:]
    flat = [np.where(np.isinf(e), 0, e) for e in (low, high)]
    mass = norm.cdf(high) - norm.cdf(low)
    first = norm.pdf(low) - norm.pdf(high)
    second = mass + flat[0] * norm.pdf(low) - flat[1] * norm.pdf(high)
    return float((second - 2 * levels * first + levels**2 * mass).sum())


def weight_error(step, bits):
    half = 2 ** (bits - 1)
    edges = np.arange(-half, half + 1.0) * step
    edges[[0, -1]] = -np.inf, np.inf
    return squared_error((np.arange(-half, half) + 0.5) * step, edges)


def activation_error(step, bits):
    levels = np.arange(1, 2**bits)
    edges = np.append(levels - 0.5, np.inf) * step
    edges[0] = 0
    return squared_error(levels * step, edges)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7, 8, 16])
@pytest.mark.parametrize("kind", ["weight", "activation"])
def test_table_steps_are_optimal_on_gaussians(kind, bits):
    error = weight_error if kind == "weight" else activation_error
    step = gaussian_step(kind, bits)
    best = minimize_scalar(
        error, bounds=(step / 2, step * 2), args=(bits,), method="bounded", options={"xatol": 1e-9}
    )
    # The published steps have three or four digits.
    assert step == pytest.approx(best.x, rel=5e-3 if bits <= 4 else 1e-4)


@pytest.mark.parametrize(("bits", "published"), [(2, 0.996), (4, 0.336)])
def test_weight_steps_by_a_scan_of_samples(bits, published):
    z = torch.from_numpy(norm.ppf((np.arange(20_000) + 0.5) / 20_000)).float()
    half = 2 ** (bits - 1)
    scan = torch.arange(0.5, 1.5, 0.005) * published
    errors = [float((on_grid(z, s, -half, half - 1, 0.5) - z).square().mean()) for s in scan]
    assert float(scan[int(np.argmin(errors))]) == pytest.approx(published, rel=0.015)


def test_published_steps():
    table = json.loads(TABLE.read_text())
    assert [table["weight"][b] for b in "1234"] == [1.596, 0.996, 0.586, 0.336]
    assert [table["activation"][b] for b in "1234"] == [0.799, 0.538, 0.3217, 0.185]
    with pytest.raises(ValueError, match="no Gaussian step for 9 bits"):
        gaussian_step("weight", 9)


def test_gaussian_weights_by_hand():
    w = torch.tensor([-2.0, -0.4, 0.0, 0.9, 3.1])
    step = 0.996 * float(w.std())
    half = [-1.5, -0.5, -0.5, 0.5, 1.5]
    expected = torch.tensor(half) * step
    torch.testing.assert_close(GaussianWeight(2)(w), expected)
    # The released formula, literally.
    literal = ((torch.round(w / step + 0.5) - 0.5) * step).clamp(-1.5 * step, 1.5 * step)
    torch.testing.assert_close(GaussianWeight(2)(w), literal)


def test_gaussian_weights_one_bit():
    w = gaussian(4, 100)
    expected = torch.where(w > 0, 1.0, -1.0) * 0.798 * w.std()
    torch.testing.assert_close(GaussianWeight(1)(w), expected)


def test_gaussian_weight_gradient_is_the_identity():
    w = (gaussian(50) * 5).requires_grad_()
    GaussianWeight(2)(w).backward(torch.arange(50.0))
    assert torch.equal(w.grad, torch.arange(50.0))


def test_half_wave_activations_by_hand():
    # Root mean square 1 of the positive values: the published step as it is.
    sample = torch.tensor([0.0, 0.0, 0.6, math.sqrt(2 - 0.36)])
    quantizer = HalfWaveGaussian().activation(sample, 2)
    assert float(quantizer.step) == pytest.approx(0.538)
    x = torch.tensor([-1.0, 0.2, 0.3, 1.0, 1.6, 5.0], requires_grad=True)
    out = quantizer(x)
    torch.testing.assert_close(out, torch.tensor([0, 0, 1, 2, 3, 3]) * 0.538)
    out.sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 0]


def test_half_wave_scale_follows_the_data():
    x = gaussian(20_000).relu()
    steps = [float(HalfWaveGaussian().activation(x * s, 3).step) for s in (1, 5)]
    assert steps[0] == pytest.approx(0.3217, rel=0.02)
    assert steps[1] == pytest.approx(5 * steps[0])


def test_signed_inputs_take_the_weight_levels():
    x = gaussian(20_000) * 2
    quantizer = HalfWaveGaussian().activation(x, 4)
    assert float(quantizer.step) == pytest.approx(0.336 * 2, rel=0.02)
    assert quantizer(x).unique().numel() == 16
    assert quantizer(torch.tensor([0.01, -0.01])).tolist() == pytest.approx(
        [0.336, -0.336], rel=0.02
    )


# --- HAQ ---------------------------------------------------------------------------------


def test_haq_weights_by_hand():
    quantizer = LinearWeight(torch.tensor(3.0), 3)
    w = torch.tensor([-9.0, -1.4, 0.4, 1.6, 9.0], requires_grad=True)
    out = quantizer(w)
    assert out.tolist() == [-3, -1, 0, 2, 3]
    out.backward(torch.arange(5.0))
    assert w.grad.tolist() == [0, 1, 2, 3, 4]


def released_threshold(data, bits):
    """The search for the clip as the method's description has it, step by step."""
    sizes = np.abs(data)
    hist, edges = np.histogram(sizes, bins="sqrt", range=(0, sizes.max()))
    cumulative = np.cumsum(hist / hist.sum())
    n = 2 ** (bits - 1)
    best, threshold = np.inf, edges[-1]
    for i in range(n + 1, len(edges)):
        p = cumulative.copy()
        p[i - 1 :] = 1
        short = np.interp(np.linspace(0, 1, n), np.linspace(0, 1, i), p[:i])
        q = p.copy()
        q[:i] = np.interp(np.linspace(0, 1, i), np.linspace(0, 1, n), short)
        cost = np.sum((cumulative - q) * np.log2(cumulative / q))
        if cost < best:
            best, threshold = cost, (i + 0.5) * edges[1]
    return threshold


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_divergence_clip(bits):
    data = gaussian(4000, seed=5)
    expected = released_threshold(data.double().numpy(), bits)
    assert divergence_clip(data, bits) == pytest.approx(expected)


def test_divergence_clip_decreases_with_fewer_bits():
    data = gaussian(36_864)
    clips = [divergence_clip(data, bits) for bits in (2, 3, 4)]
    assert clips[0] < clips[1] < clips[2] <= 1.01 * float(data.abs().max())


def test_divergence_clip_of_odd_data():
    assert divergence_clip(torch.zeros(10), 4) == 0
    assert divergence_clip(torch.tensor([1.0, -2.0]), 4) == 2
    assert divergence_clip(torch.full((100,), 3.0), 2) == pytest.approx(3.0)


def test_haq_thresholds():
    weight = gaussian(16, 64)
    scheme = HaqLinear()
    for bits in (5, 6, 8):
        assert float(scheme.weight(weight, bits).threshold) == float(weight.abs().max())
    for bits in (2, 3, 4):
        threshold = float(scheme.weight(weight, bits).threshold)
        assert threshold == pytest.approx(divergence_clip(weight, bits))
    assert float(scheme.weight(weight, 1).threshold) == pytest.approx(float(weight.abs().mean()))


def test_haq_activation_clips():
    positive, signed = gaussian(4000).relu() * 4, gaussian(4000)
    scheme = HaqLinear()
    assert float(scheme.activation(positive, 8).alpha) == 6
    assert float(scheme.activation(positive / 4, 5).alpha) == float(positive.max() / 4)
    assert float(scheme.activation(positive, 3).alpha) == pytest.approx(
        min(6, divergence_clip(positive, 3))
    )
    # Two-sided at 5 bits: sign and a magnitude of 4 bits, so the divergence decides.
    assert float(scheme.activation(signed, 5).alpha) == pytest.approx(
        min(float(signed.abs().max()), divergence_clip(signed, 4))
    )


# --- AutoQ -------------------------------------------------------------------------------


def test_autoq_scales_are_per_kernel():
    weight = gaussian(4, 50)
    out = AutoQLinear().weight(weight, 4)(weight)
    scaled = weight * torch.tensor([[1.0], [10.0], [0.1], [3.0]])
    torch.testing.assert_close(
        AutoQLinear().weight(scaled, 4)(scaled), out * torch.tensor([[1.0], [10.0], [0.1], [3.0]])
    )
    assert all(row.unique().numel() <= 15 for row in out)


def test_autoq_one_bit():
    weight = torch.tensor([[1.0, -3.0], [0.5, 0.1]])
    torch.testing.assert_close(
        AutoQLinear().weight(weight, 1)(weight), torch.tensor([[2.0, -2.0], [0.3, 0.3]])
    )


def test_binary_bases_by_hand():
    # alpha_1 = 2, residual (-1, 1, 1, -1); alpha_2 = 1: exact after two bases.
    rows = torch.tensor([[1.0, -1.0, 3.0, -3.0]])
    scales, pattern = greedy_bases(rows, 2)
    assert scales.tolist() == [[2, 1]]
    assert pattern.tolist() == [[0b10, 0b01, 0b11, 0b00]]
    assert sums(scales).tolist() == [[-3, -1, 1, 3]]
    assert BinaryBases(2)(rows).tolist() == rows.tolist()
    assert BinaryBases(1)(rows).tolist() == [[2, -2, 2, -2]]


@pytest.mark.parametrize("bases", range(1, 9))
def test_binary_bases_equal_the_greedy_sum(bases):
    weight = gaussian(5, 3, 3, 3)
    expected, left = torch.zeros_like(weight), weight.clone()
    for _ in range(bases):
        sign = torch.where(left >= 0, 1.0, -1.0)
        part = left.abs().mean((1, 2, 3), keepdim=True) * sign
        expected, left = expected + part, left - part
    torch.testing.assert_close(BinaryBases(bases)(weight), expected)


def test_binary_gradients():
    weight = gaussian(5, 9).requires_grad_()
    BinaryBases(2)(weight).backward(torch.ones(5, 9))
    assert torch.equal(weight.grad, torch.ones(5, 9))
    quantizer = AutoQBinary().activation(torch.tensor([0.0, 1.0, 2.0, 3.0]), 2)
    assert quantizer.levels.tolist() == [0, 1, 2, 3]
    x = torch.tensor([-0.1, 0.4, 1.6, 3.2], requires_grad=True)
    out = quantizer(x)
    assert out.tolist() == [0, 0, 2, 3]
    out.sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 0]


# --- Stochastic rounding -----------------------------------------------------------------


def test_stochastic_rounding_is_unbiased():
    quantizer = Stochastic(UniformQuantizer(torch.tensor(0.5), -4, 3), seed=1).train()
    x = torch.tensor([-2.0, -0.8, -0.25, 0.0, 0.1, 1.3, 1.5])
    draws = quantizer(x.repeat(20_000, 1))
    # Five standard errors of the worst case, half a step each way.
    assert float((draws.mean(0) - x).abs().max()) < 5 * 0.25 / math.sqrt(20_000)
    neighbours = torch.stack([torch.floor(x / 0.5), torch.ceil(x / 0.5)]) * 0.5
    assert ((draws == neighbours[0]) | (draws == neighbours[1])).all()


def test_stochastic_rounding_frequency():
    quantizer = Stochastic(UniformQuantizer(torch.tensor(1.0), 0, 3), seed=2)
    share = float((quantizer(torch.full((100_000,), 1.3)) == 2).double().mean())
    assert share == pytest.approx(0.3, abs=0.01)


def test_stochastic_noise():
    x = gaussian(1000)
    make = StochasticRounding().activation
    quantizer = make(x, 3)
    assert torch.equal(quantizer(x), quantizer(x))
    assert torch.equal(quantizer(x), make(x, 3)(x))
    assert not torch.equal(quantizer(x), StochasticRounding(seed=1).activation(x, 3)(x))
    quantizer.train()
    codes = quantizer.codes(x)
    first = quantizer(x)
    assert torch.equal(codes.dequantize(), first)
    assert not torch.equal(first, quantizer(x))


def test_stochastic_rounding_touches_no_global_state():
    before = torch.random.get_rng_state()
    weight = gaussian(4, 9)
    quantizer = StochasticRounding().weight(weight, 2).train()
    copied = copy.deepcopy(quantizer)
    assert torch.equal(quantizer(weight), copied(weight))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_stochastic_gradient():
    quantizer = Stochastic(UniformQuantizer(torch.tensor(0.5), 0, 3), seed=0)
    x = torch.tensor([-0.1, 0.0, 1.2, 1.5, 1.6], requires_grad=True)
    quantizer(x).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 0]
