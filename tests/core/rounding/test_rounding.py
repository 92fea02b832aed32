"""Rounding against brute force and against the plain formulas, on layers of a few weights."""

from itertools import product

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import prune

from frameworks import Policy, schemes
from frameworks.core.networks.taking.bake import mask_of
from frameworks.core.rounding.adaquant import adaquant
from frameworks.core.rounding.adaround import adaround, beta, soft, start
from frameworks.core.rounding.apply import gathered, round_weights
from frameworks.core.rounding.gptq import gptq
from frameworks.core.rounding.levels import Levels, levels_of
from frameworks.core.rounding.moments import LayerMoments, patches
from frameworks.core.rounding.ranges import FACTORS, scaled
from frameworks.testing import toy


def moments_of(x, y):
    """Of inputs ``[P, n]`` and wanted outputs ``[P, R]``, one group."""
    x, y = x.double(), y.double()
    n = len(x)
    parts = (x.T @ x / n, y.T @ x / n, (y**2).mean(0), x.mean(0), y.mean(0))
    return LayerMoments(*(part[None] for part in parts))


@pytest.fixture
def small():
    """Two output channels of six weights at two bits, over inputs that go together."""
    generator = torch.Generator().manual_seed(3)
    mixing = torch.randn(6, 6, generator=generator) + 2
    x = torch.randn(400, 6, generator=generator) @ mixing
    weight = torch.randn(1, 2, 6, generator=generator)
    step = torch.full_like(weight, 0.7)
    ones = torch.ones_like(weight)
    levels = Levels(step, -2 * ones, ones, 0 * ones)
    return weight, levels, moments_of(x, x @ weight[0].T), x


def error(weight, levels, moments, codes):
    return moments.error(levels.value(codes).double()).sum()


def test_the_moments_give_the_error_of_the_outputs(small):
    weight, levels, moments, x = small
    rounded = levels.value(levels.nearest(weight))
    plain = ((x @ rounded[0].T - x @ weight[0].T) ** 2).mean(0)
    assert torch.allclose(moments.error(rounded.double())[0].float(), plain, rtol=1e-4)
    about = moments.centred()
    off = x @ rounded[0].T - x @ weight[0].T
    assert torch.allclose(about.error(rounded.double())[0].float(), off.var(0, False), rtol=1e-3)
    assert torch.allclose(moments.shift(rounded.double())[0].float(), off.mean(0), rtol=1e-3)


@pytest.mark.parametrize(
    ("conv", "shape"),
    [
        (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (3, 4, 7, 7)),
        (nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4, bias=False), (3, 4, 6, 6)),
        (nn.Conv2d(2, 3, (1, 3), padding_mode="circular", padding=1), (2, 2, 5, 5)),
        (nn.Conv1d(3, 4, 3), (2, 3, 9)),
        (nn.Linear(5, 3), (2, 7, 5)),
    ],
    ids=["strided groups", "dilated depthwise", "circular", "one dimension", "tokens"],
)
def test_weights_times_patches_are_the_outputs(conv, shape):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    groups = getattr(conv, "groups", 1)
    found = patches(conv, groups, x)
    weight = conv.weight.detach()
    rows = weight.reshape(groups, len(weight) // groups, -1) @ found
    out = conv(x).detach()
    if conv.bias is not None:
        shape = (-1,) if isinstance(conv, nn.Linear) else (-1, *(1,) * (out.dim() - 2))
        out = out - conv.bias.detach().view(*shape)
    flat = out.reshape(-1, len(weight)).T if isinstance(conv, nn.Linear) else out.transpose(0, 1)
    assert torch.allclose(rows.flatten(0, 1), flat.flatten(1), atol=1e-5)


def brain_surgeon(weight, levels, h):
    """Optimal Brain Quantization in a fixed order, with an inverse for each step."""
    w = weight[0].double().clone()
    codes = torch.zeros_like(w)
    for j in range(w.shape[1]):
        inverse = torch.linalg.inv(h[j:, j:])
        place = w[:, j] / levels.step[0, :, j].double()
        codes[:, j] = place.clamp(levels.low[0, :, j], levels.high[0, :, j]).round()
        off = w[:, j] - codes[:, j] * levels.step[0, :, j].double()
        w[:, j:] -= off[:, None] * inverse[0] / inverse[0, 0]
    return codes[None]


def test_gptq_is_optimal_brain_quantization_in_order(small):
    weight, levels, moments, _ = small
    h = moments.inputs[0]
    damped = h + 0.01 * h.diagonal().mean() * torch.eye(6)
    codes = gptq(weight, levels, moments)
    assert torch.equal(codes.double(), brain_surgeon(weight, levels, damped))
    assert error(weight, levels, moments, codes) < error(
        weight, levels, moments, levels.nearest(weight)
    )


def test_gptq_of_inputs_that_do_not_go_together_is_nearest(small):
    weight, levels, _, _ = small
    moments = moments_of(torch.eye(6) * 6**0.5, torch.eye(6) @ weight[0].T)
    assert torch.equal(gptq(weight, levels, moments), levels.nearest(weight))


def test_an_input_that_is_never_there_is_rounded_alone(small):
    weight, levels, _, x = small
    x = x.clone()
    x[:, 2] = 0
    moments = moments_of(x, x @ weight[0].T)
    assert torch.equal(gptq(weight, levels, moments)[..., 2], levels.nearest(weight)[..., 2])


def best(weight, levels, moments, choices):
    """The least error of each output channel over all codes ``choices(row, column)``."""
    least = []
    for r in range(weight.shape[1]):
        errors = []
        for codes in product(*(choices(r, j) for j in range(weight.shape[2]))):
            row = levels.nearest(weight)
            row[0, r] = torch.tensor(codes)
            errors.append(float(moments.error(levels.value(row).double())[0, r]))
        least.append(min(errors))
    return np.array(least)


def test_adaround_finds_the_best_of_all_roundings(small):
    weight, levels, moments, _ = small
    place = levels.place(weight)

    def neighbours(r, j):
        low, high = levels.low[0, r, j].item(), levels.high[0, r, j].item()
        below = place[0, r, j].floor().item()
        return sorted({min(max(c, low), high) for c in (below, below + 1)})

    codes = adaround(weight, levels, moments)
    found = moments.error(levels.value(codes).double())[0].numpy()
    wanted = best(weight, levels, moments, neighbours)
    nearest = moments.error(levels.value(levels.nearest(weight)).double())[0].numpy()
    assert (found <= wanted * 1.05 + 1e-9).all()
    assert found.sum() < nearest.sum()


def test_adaround_decides():
    """h(v) starts at the fraction, and beta is annealed from 20 to 2."""
    share = torch.tensor([0.1, 0.5, 0.93])
    assert torch.allclose(soft(start(share)), share)
    assert [beta(0, 100), beta(19, 100)] == [None, None]
    assert beta(20, 100) == 20
    assert beta(100, 100) == 2


def least_of_all_codes(weight, x):
    """For each output channel, with a free bias, over all 4^6 codes at the step of `small`."""
    every = 0.7 * torch.cartesian_prod(*[torch.arange(-2.0, 2.0)] * 6).double()
    outputs, wanted = x.double() @ every.T, x.double() @ weight[0].double().T
    return torch.stack([(outputs - y[:, None]).var(0, False).min() for y in wanted.T])


def test_adaquant_comes_near_the_best_of_all_codes(small):
    weight, levels, moments, x = small
    codes, step = adaquant(weight, levels, moments, range_rate=0.0)
    assert torch.equal(step, levels.step)
    about = moments.centred()
    found = about.error((step * codes).double())[0]
    least = least_of_all_codes(weight, x)
    assert least.tolist() == pytest.approx([5.530, 2.786], abs=1e-3)
    nearest = about.error(levels.value(levels.nearest(weight)).double())[0]
    assert (found >= least * (1 - 1e-6)).all()
    assert (found <= least * 1.3).all()
    assert (found <= nearest).all()
    assert found.sum() < 0.8 * nearest.sum()


def test_a_learned_range_does_better_than_any_codes_at_the_fixed_one(small):
    weight, levels, moments, x = small
    codes, step = adaquant(weight, levels, moments)
    factor = (step / levels.step)[0, :, 0]
    assert torch.allclose(step[0], factor[:, None] * levels.step[0])  # one for each channel
    assert (factor - 1).abs().max() > 0.01
    found = moments.centred().error((step * codes).double())[0]
    assert found[0] < least_of_all_codes(weight, x)[0]


@pytest.mark.parametrize("bits", [1, 2, 4, 8, (2, 8, 0, 4)])
def test_levels_hold_what_the_network_computes_with(bits):
    weight = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    scheme = schemes.get("mse")()
    levels = levels_of(scheme, weight, bits)
    value = levels.value(levels.nearest(weight))
    for row in range(4):
        b = bits if isinstance(bits, int) else bits[row]
        wanted = scheme.weight(weight, b)(weight)[row] if b else torch.zeros(3, 2, 2)
        assert torch.allclose(value[row], wanted, atol=1e-6)


@pytest.mark.parametrize("scheme", ["calibtip", "rusci"])
def test_levels_go_as_far_as_the_bits_and_not_as_the_codes_that_are_there(scheme):
    weight = torch.tensor([[0.5, 0.6, 0.9, 1.0]])
    levels = levels_of(schemes.get(scheme)(), weight, 2)
    assert (levels.low.unique().tolist(), levels.high.unique().tolist()) == ([0], [3])


def test_codebooks_and_float_have_no_levels():
    weight = torch.randn(8, 3)
    assert levels_of(schemes.get("mse")(), weight, 32) is None
    assert levels_of(schemes.get("haq_kmeans")(), weight, 2) is None


def test_kept_levels_leave_the_nearest_to_0_elsewhere():
    ones = torch.ones(1, 1, 3)
    levels = Levels(0.5 * ones, 0 * ones, 3 * ones, torch.tensor([[[-2.0, -1.4, 1.0]]]))
    kept = levels.kept(torch.tensor([[[True, False, False]]]))
    assert kept.low.tolist() == [[[0, 1, 0]]]
    assert kept.high.tolist() == [[[3, 1, 0]]]


class Cut(toy.ToyConvNet):
    """Half of one convolution is pruned."""

    def __init__(self):
        super().__init__()
        prune.random_unstructured(self.blocks[0].conv1, "weight", 0.5)


@pytest.mark.parametrize("method", ["gptq", "adaround", "adaquant"])
@pytest.mark.parametrize("bits", [2, 4])
def test_pruned_weights_stay_0(method, bits, monkeypatch):
    monkeypatch.setattr("frameworks.core.rounding.adaround.STEPS", 50)
    problem = toy.make_problem("size", kind=Cut)
    model = problem.quantized(Policy.uniform(problem.layers, bits, 8))
    layer = model.qlayer("blocks.0.conv1")
    mask, before = mask_of(layer.inner).bool(), layer.codes().code
    problem.rounded(model, method, 50 if method == "adaquant" else None)
    assert not layer.present_weight()[~mask].any()
    assert not layer.codes().code[~mask].any()
    assert not torch.equal(layer.codes().code, before)


@pytest.mark.parametrize("method", ["gptq", "adaround", "adaquant"])
def test_a_network_computes_more_like_the_float_one(make_problem, method, monkeypatch):
    monkeypatch.setattr("frameworks.core.rounding.adaround.STEPS", 200)
    monkeypatch.setattr("frameworks.core.rounding.apply.STEPS", 200)  # adaquant's
    problem = make_problem("size", like=3, seed=1)
    policy = Policy({x.name: (3, 8) for x in problem.layers})
    network, images = problem.float_model(), problem.images
    model = problem.correct(problem.quantized(policy))
    wanted = network(images)

    def off():
        return float(functional.mse_loss(model(images), wanted))

    before = off()
    model = problem.quantized(policy)
    assert problem.rounded(model, method) == ()
    assert off() < before
    for _, q in model.qlayers():
        codes = q.codes()
        assert torch.allclose(codes.dequantize(), q.present_weight())
        assert set(codes.code.unique().tolist()) <= set(range(-4, 4))
    problem.correct(model.fix(policy))
    assert off() == before


@torch.no_grad()
def moments_by_hooks(model, network, name, images):
    """What goes into a layer of the quantized network, and comes out of the float one."""
    q, seen = model.qlayer(name), {}
    handles = [
        q.register_forward_pre_hook(lambda module, args: seen.update(x=args[0])),
        network.get_submodule(name).register_forward_hook(
            lambda module, args, out: seen.update(y=out)
        ),
    ]
    model(images)
    network(images)
    for handle in handles:
        handle.remove()
    x = functional.unfold(q.act_quantizer(seen["x"]), 3, padding=1)
    return moments_of(x.transpose(1, 2).flatten(0, 1), seen["y"].permute(0, 2, 3, 1).flatten(0, 2))


def test_each_layer_is_rounded_on_what_the_rounded_ones_before_it_give(make_problem):
    """Later layers change nothing before them, so that all is there to see in the end."""
    problem = make_problem("size", like=3, seed=1)
    network, images = problem.float_model(), problem.images
    policy = Policy({x.name: (2, 8) for x in problem.layers})
    model = problem.correct(problem.quantized(policy))
    name = "blocks.0.conv2"
    before = moments_by_hooks(model, network, name, images)
    round_weights(model, network, images, "gptq")
    q, after = model.qlayer(name), moments_by_hooks(model, network, name, images)
    assert not torch.allclose(before.inputs, after.inputs, rtol=1e-2)
    found = gathered(model, network, name, images)
    for field in ("inputs", "both", "outputs", "mean_input", "mean_output"):
        wanted = getattr(after, field)
        assert torch.allclose(getattr(found, field), wanted, rtol=1e-4, atol=1e-6), field
    levels = levels_of(q.scheme, q.inner.weight.detach(), 2)
    rows = levels.view(1, len(q.inner.weight), -1)
    codes = gptq(q.inner.weight.detach().reshape(rows.step.shape), rows, found)
    assert torch.equal(codes.reshape(q.codes().code.shape), q.codes().code)


def test_the_range_of_an_input_is_chosen_among_multiples(make_problem):
    """Two bits of activations between the ends of a sample are much too wide."""
    problem = make_problem("bops", like=3, seed=1, scheme="minmax")
    network, images, name = problem.float_model(), problem.images, "blocks.0.conv1"
    policy = problem.space.highest().replace(name, weight=4, act=2)
    errors, steps = [], []
    for factors in ((), FACTORS):
        model = problem.quantized(policy)
        round_weights(model, network, images, "adaquant", 40, factors)
        q = model.qlayer(name)
        moments = moments_by_hooks(model, network, name, images)
        errors.append(float(moments.centred().error(q.present_weight().double().reshape(
            1, len(q.inner.weight), -1)).sum()))  # fmt: skip
        steps.append(float(q.act_quantizer.step))
    assert steps[0] == float(problem.quantizer(name, "act", 2).step)
    assert steps[1] / steps[0] == pytest.approx(min(FACTORS, key=lambda f: abs(
        f - steps[1] / steps[0])))  # fmt: skip
    assert steps[1] < 0.75 * steps[0]
    assert errors[1] < 0.7 * errors[0]


def test_inputs_without_bits_have_one_range():
    scheme, sample = schemes.get("minmax")(), torch.rand(100)
    assert list(scaled(scheme, sample, 32)) == [1.0]
    found = scaled(scheme, sample, 4)
    step = float(scheme.activation(sample, 4).step)
    assert {f: float(q.step) for f, q in found.items()} == pytest.approx(
        {f: f * step for f in FACTORS}
    )


def test_what_cannot_be_rounded_is_named(make_problem):
    problem = make_problem("size", like=3)
    model = problem.quantized(problem.space.reference(4, 8))
    with pytest.raises(ValueError, match=r"rounding: 'up'; choose from \['nearest', 'gptq'"):
        round_weights(model, problem.float_model(), problem.images, "up")
    assert round_weights(model, problem.float_model(), problem.images, "nearest") == ()
