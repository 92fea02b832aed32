import copy
import math

import pytest
import torch
from torch import nn

from frameworks import schemes
from frameworks.core.quantizers import composite
from frameworks.core.quantizers.base import Float, Zero
from frameworks.core.quantizers.composite import Composite
from frameworks.core.quantizers.uniform import UniformQuantizer
from frameworks.core.supernets.supernet import CompositeLayer

PER_TENSOR = [(1.0, -1, 0, 0.5), (0.5, -2, 1, 0.0), (0.21, 0, 15, 0.0), (0.04, -100, 155, 0.0)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def tensor(*shape, seed=0, channels_last=False):
    x = torch.randn(*shape, generator=generator(seed))
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x


def grids(settings=PER_TENSOR, channels=None, dim=4):
    made = []
    for i, (step, low, high, offset) in enumerate(settings):
        steps = torch.tensor(step)
        if channels:
            spread = 0.5 + torch.rand(channels, generator=generator(i))
            steps = (step * spread).view(-1, *(1,) * (dim - 1))
        made.append(UniformQuantizer(steps, low, high, offset))
    for quantizer in made:
        quantizer.learn_range()
    return made


def plain(x, p, quantizers):
    """LSQ's formulas written out with autograd's own operations."""
    total = 0
    for share, q in zip(p, quantizers, strict=True):
        low, high, offset = float(q.q_min), float(q.q_max), float(q.offset)
        scale = 1 / math.sqrt(x.numel() / q.step.numel() * max(high, 1))
        step = q.step * scale + (q.step - q.step * scale).detach()
        v = torch.clamp(x / step - offset, low, high)
        code = v + (v.round() - v).detach()
        total = total + share * step * (code + offset)
    return total


def gradients(function, x, p, quantizers, weight):
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    p = p.clone().requires_grad_()
    for q in quantizers:
        q.step.grad = None
    out = function(x, p)
    (out * weight).sum().backward()
    return [out.detach(), x.grad, p.grad, *(q.step.grad.clone() for q in quantizers)]


CASES = {
    "image": dict(shape=(3, 4, 5, 5)),
    "image channels-last": dict(shape=(3, 4, 5, 5), channels_last=True),
    "one position": dict(shape=(6, 5, 1, 1)),
    "tokens": dict(shape=(4, 7, 6)),
    "matrix": dict(shape=(5, 8)),
    "weights": dict(shape=(6, 4, 3, 3), channels=6),
    "weights channels-last": dict(shape=(6, 4, 3, 3), channels=6, channels_last=True),
    "weights of a linear layer": dict(shape=(7, 9), channels=7),
    "weights of one channel": dict(shape=(1, 4, 3, 3), channels=1),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("piece", [composite.PIECE, 16], ids=["one piece", "many pieces"])
def test_fused_sum_equals_the_plain_one_with_its_gradients(case, piece, monkeypatch):
    monkeypatch.setattr(composite, "PIECE", piece)
    channels = case.get("channels")
    shape, last = case["shape"], case.get("channels_last", False)
    x = tensor(*shape, channels_last=last)
    weight = tensor(*shape, seed=1, channels_last=not last and len(shape) == 4)
    p = torch.softmax(tensor(4, seed=2), 0)
    quantizers = grids(channels=channels, dim=len(shape))
    fused = Composite(quantizers)
    assert fused.fused
    found = gradients(fused, x, p, quantizers, weight)
    expected = gradients(lambda x, p: plain(x, p, quantizers), x, p, quantizers, weight)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [None, 6])
def test_equals_the_sum_of_its_branches(channels):
    x, p = tensor(6, 4, 3, 3), torch.softmax(tensor(4, seed=2), 0)
    quantizers, weight = grids(channels=channels), tensor(6, 4, 3, 3, seed=1)
    found = gradients(Composite(quantizers), x, p, quantizers, weight)

    def branches(x, p):
        return sum(share * q(x) for share, q in zip(p, quantizers, strict=True))

    for a, b in zip(found, gradients(branches, x, p, quantizers, weight), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_gradients_by_hand():
    # Two grids of 0, 1, 2, 3 and 0, 2: x = 1.2, 2.6 and 7 (clipped by both).
    quantizers = [
        UniformQuantizer(torch.tensor(1.0), 0, 3),
        UniformQuantizer(torch.tensor(2.0), 0, 1),
    ]
    for quantizer in quantizers:
        quantizer.learn_range()
    x = torch.tensor([1.2, 2.6, 7.0])
    weight = torch.tensor([1.0, 10.0, 100.0])
    p = torch.tensor([0.25, 0.75])
    out, for_x, for_p, first, second = gradients(Composite(quantizers), x, p, quantizers, weight)
    # Codes 1, 3, 3 and 1, 1, 1 (2.6 / 2 is beyond the second grid's last code).
    torch.testing.assert_close(out, torch.tensor([0.25 + 1.5, 0.75 + 1.5, 0.75 + 1.5]))
    torch.testing.assert_close(for_x, torch.tensor([1.0, 2.5, 0.0]))
    torch.testing.assert_close(for_p, torch.tensor([1 + 30 + 300.0, 2 + 20 + 200.0]))
    scaled = 0.25 * (1 - 1.2 + 10 * (3 - 2.6) + 300) / math.sqrt(3 * 3)
    torch.testing.assert_close(first, torch.tensor(scaled))
    scaled = 0.75 * (1 - 0.6 + 10 + 100) / math.sqrt(3)
    torch.testing.assert_close(second, torch.tensor(scaled))


def test_one_hot_shares_pick_a_branch_exactly():
    x, quantizers = tensor(3, 4, 5, 5, channels_last=True), grids()
    both = Composite(quantizers)
    for i, quantizer in enumerate(quantizers):
        assert torch.equal(both(x, torch.eye(4)[i]), quantizer(x))


def test_pieces_cover_everything_once():
    for channels, columns, branches in ((1, 1000, 3), (7, 50, 4), (5, 10**6, 2)):
        seen = torch.zeros(channels, columns)
        for rows, part in composite._pieces(channels, columns, branches):
            seen[rows, part] += 1
        assert bool((seen == 1).all())


def test_frozen_steps_get_no_gradient():
    quantizers = grids()
    both = Composite(quantizers)
    both.learn_range(False)
    x = tensor(2, 3, 4, 4).requires_grad_()
    both(x, torch.full((4,), 0.25)).sum().backward()
    assert all(q.step.grad is None for q in quantizers)
    both.learn_range()
    both(x, torch.full((4,), 0.25)).sum().backward()
    assert all(q.step.grad is not None for q in quantizers)


@pytest.mark.parametrize("scheme", ["hwgq", "dorefa_pact", "mse"])
def test_any_scheme_sums_its_branches(scheme):
    made = schemes.get(scheme)()
    weight, sample = tensor(4, 3, 3, 3), tensor(2000, seed=1).clamp_min(0)
    inputs = tensor(2, 3, 6, 6, seed=3).clamp_min(0)
    p = torch.tensor([0.5, 0.3, 0.2])
    for quantizers, x in (
        ([made.weight(weight, b) for b in (1, 2, 4)], weight),
        ([made.activation(sample, b) for b in (2, 3, 8)], inputs),
    ):
        both = Composite(quantizers)
        expected = sum(share * q(x) for share, q in zip(p, quantizers, strict=True))
        torch.testing.assert_close(both(x, p), expected)


def test_float_and_pruned_branches():
    x = tensor(2, 3, 4, 4)
    quantizers = [Zero(), *grids()[2:3], Float()]
    both = Composite(quantizers)
    assert not both.fused
    p = torch.tensor([0.2, 0.3, 0.5])
    torch.testing.assert_close(both(x, p), 0.3 * quantizers[1](x) + 0.5 * x)


def test_steps_of_different_shapes_are_summed_one_by_one():
    quantizers = [*grids(PER_TENSOR[:1]), *grids(PER_TENSOR[1:2], channels=4)]
    both = Composite(quantizers)
    assert not both.fused
    x, p = tensor(4, 2, 3, 3), torch.tensor([0.4, 0.6])
    torch.testing.assert_close(both(x, p), 0.4 * quantizers[0](x) + 0.6 * quantizers[1](x))


def test_a_copy_has_branches_of_its_own():
    both = Composite(grids())
    other = copy.deepcopy(both)
    x, p = tensor(2, 3, 4, 4), torch.full((4,), 0.25)
    before = both(x, p).detach()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(2)
    assert torch.equal(both(x, p), before)
    assert not torch.equal(other(x, p), before)


@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (4, 1, 3, 3), (4, 3)])
def test_aggregated_layer_is_the_sum_over_branch_pairs(shape):
    inner: nn.Module
    if len(shape) == 2:
        inner, x = nn.Linear(3, 4), tensor(5, 3)
    else:
        groups = 4 if shape[1] == 1 else 1
        inner = nn.Conv2d(shape[1] * groups, 4, 3, groups=groups)
        x = tensor(2, shape[1] * groups, 6, 6)
    weights = grids(channels=4, dim=len(shape))
    acts = grids(PER_TENSOR[1:])
    layer = CompositeLayer(inner, weights, acts)
    layer.weight_shares = torch.softmax(tensor(4, seed=5), 0)
    layer.act_shares = torch.softmax(tensor(3, seed=6), 0)
    bias = inner.bias.detach()
    expected = 0
    for share_w, q in zip(layer.weight_shares, weights, strict=True):
        for share_a, r in zip(layer.act_shares, acts, strict=True):
            with torch.no_grad():
                branch = copy.deepcopy(inner)
                branch.weight.copy_(q(inner.weight))
                branch.bias.zero_()
                expected = expected + share_w * share_a * branch(r(x))
    expected = expected + bias.view(-1, *(1,) * (x.dim() - 2))
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)
