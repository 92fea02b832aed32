import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frameworks.core.quantizers import uniform
from frameworks.core.quantizers.grid import fake_quantize, on_grid
from frameworks.core.quantizers.lsq import Lsq, lsq_step
from frameworks.core.quantizers.uniform import (
    MinMax,
    Mse,
    Percentile,
    UniformQuantizer,
    affine_quantizer,
    mse_step,
    symmetric_grid,
)


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rounded(v):
    return v + (torch.round(v) - v).detach()


def composed(x, step, low, high, offset, scale):
    """LSQ as its appendix writes it: autograd on clip and round, the step's gradient scaled."""
    step = step * scale + (step * (1 - scale)).detach()
    v = x / step - offset
    return (rounded(torch.clamp(v, low, high)) + offset) * step


@pytest.mark.parametrize(
    ("bits", "grid"), [(1, (-1, 0, 0.5)), (2, (-2, 1, 0)), (4, (-8, 7, 0)), (8, (-128, 127, 0))]
)
def test_symmetric_grid(bits, grid):
    assert symmetric_grid(bits) == grid


def test_symmetric_by_hand():
    quantizer = UniformQuantizer(torch.tensor(0.5), -2, 1)
    x = torch.tensor([-9.0, -0.8, -0.7, -0.2, 0.0, 0.2, 0.3, 0.75, 9.0])
    assert quantizer(x).tolist() == [-1, -1, -0.5, 0, 0, 0, 0.5, 0.5, 0.5]
    assert quantizer.codes(x).code.tolist() == [-2, -2, -1, 0, 0, 0, 1, 1, 1]


def test_halves_go_to_even():
    quantizer = UniformQuantizer(torch.tensor(1.0), -4, 3)
    assert quantizer(torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5])).tolist() == [0, 2, 2, 0, -2]


def test_one_bit_by_hand():
    quantizer = UniformQuantizer(torch.tensor(0.6), *symmetric_grid(1))
    x = torch.tensor([-2.0, -0.01, 0.01, 2.0])
    torch.testing.assert_close(quantizer(x), torch.tensor([-0.3, -0.3, 0.3, 0.3]))
    assert quantizer.codes(x).code.tolist() == [-1, -1, 0, 0]


def test_affine_by_hand():
    # [-1, 2] in 2 bits: step 1, zero point 1, levels -1, 0, 1, 2.
    quantizer = affine_quantizer(-1.0, 2.0, 2, torch.zeros(()))
    assert (float(quantizer.step), float(quantizer.q_min), float(quantizer.q_max)) == (1, -1, 2)
    assert quantizer(torch.tensor([-3.0, -0.6, 0.4, 1.2, 5.0])).tolist() == [-1, -1, 0, 1, 2]


def test_minmax_ranges():
    weight = torch.tensor([[0.7, -1.4], [0.1, 0.3]])
    step = MinMax().weight(weight, 4).step
    torch.testing.assert_close(step, torch.tensor([[0.2], [0.3 / 7]]))
    quantizer = MinMax().activation(torch.tensor([0.5, 3.0]), 2)
    assert quantizer(torch.tensor([0.4, 1.4, 3.0, 9.0])).tolist() == [0, 1, 3, 3]


def test_percentile_ignores_outliers():
    x = torch.cat([torch.linspace(0, 1, 10_000), torch.tensor([50.0])])
    assert float(MinMax().activation(x, 8).step) == pytest.approx(50 / 255)
    assert float(Percentile().activation(x, 8).step) == pytest.approx(1 / 255, rel=0.01)
    weight = torch.cat([torch.linspace(-1, 1, 9_999), torch.tensor([50.0])])[None]
    assert float(Percentile().weight(weight, 4).step) == pytest.approx(1 / 7, rel=0.01)


@pytest.mark.parametrize("bits", range(1, 9))
def test_mse_is_never_worse_than_minmax(bits):
    weight, x = gaussian(6, 100), gaussian(5_000, seed=1)
    for data, kind in ((weight, "weight"), (x, "activation"), (x.relu(), "activation")):
        error = {}
        for scheme in (Mse(), MinMax()):
            out = getattr(scheme, kind)(data, bits)(data)
            error[scheme.name] = (out - data).square().flatten(1 if kind == "weight" else 0).sum(-1)
        assert (error["mse"] <= error["minmax"]).all()


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6])
def test_mse_step_against_brute_force(bits):
    rows = gaussian(3, 400)
    low, high, offset = symmetric_grid(bits)
    start = rows.abs().amax(1, keepdim=True) * (2 if bits == 1 else 1 / high if high else 1)
    found = mse_step(rows, start, low, high, offset)
    for row, step in zip(rows, found, strict=True):
        scan = torch.linspace(0.002, 1.1, 4000)[:, None] * float(start.max())
        errors = (on_grid(row[None], scan, low, high, offset) - row).square().sum(1)
        mine = (on_grid(row, step, low, high, offset) - row).square().sum()
        assert float(mine) <= 1.02 * float(errors.min())


def test_mse_steps_of_equal_data_are_scanned_for_once(monkeypatch):
    scans = []
    scanned = uniform._scanned
    monkeypatch.setattr(uniform, "_KNOWN", {})
    monkeypatch.setattr(uniform, "_scanned", lambda *a: scans.append(a[2:]) or scanned(*a))
    rows = gaussian(3, 50)
    start = rows.abs().amax(1, keepdim=True)
    first = mse_step(rows, start, -2, 1)
    kept = first.clone()
    first.zero_()  # what is given away is the caller's own
    assert torch.equal(mse_step(rows.clone(), start, -2, 1), kept)
    assert scans == [(-2, 1, 0.0)]
    other = rows.clone()
    other[0, 0] += 1e-6
    for data, begin, low, high, offset in (
        (other, start, -2, 1, 0.0), (rows, 2 * start, -2, 1, 0.0), (rows, start, -4, 3, 0.0),
        (rows, start, -2, 1, 0.5), (rows.double(), start.double(), -2, 1, 0.0),
        (rows.reshape(6, 25), start.repeat(2, 1), -2, 1, 0.0),
        (rows.T.contiguous().T, start, -2, 1, 0.0),
    ):  # fmt: skip
        found = mse_step(data, begin, low, high, offset)
        assert torch.equal(found, scanned(data, begin, low, high, offset))
    assert len(scans) == 8
    monkeypatch.setattr(uniform, "KEPT", 2)
    for shift in (1, 2, 3, 4):
        mse_step(rows + shift, start, -2, 1)
        assert len(uniform._KNOWN) <= 2


def test_lsq_gradient_by_hand():
    # Equation 3 with Q_N = 2, Q_P = 1, s = 1/2, v/s = -4 (clipped), -0.6, 0.8, 3 (clipped):
    # slopes -2, -1 + 0.6, 1 - 0.8, 1; their sum is -1.2, scaled by 1 / sqrt(4 * 1).
    quantizer = UniformQuantizer(torch.tensor(0.5), -2, 1)
    quantizer.learn_range()
    x = torch.tensor([-2.0, -0.3, 0.4, 1.5], requires_grad=True)
    quantizer(x).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 0]
    assert float(quantizer.step.grad) == pytest.approx(-1.2 / 2)


def test_the_ends_are_inside():
    for step in (torch.tensor(0.5), torch.full((1, 1), 0.5).expand(2, 1)):
        x = torch.tensor([[-1.0, 0.5]] * 2, requires_grad=True)
        fake_quantize(x, step, -2.0, 1.0, 0.0, 1.0).sum().backward()
        assert x.grad.tolist() == [[1, 1], [1, 1]]
    x = torch.tensor([0.0, 1.5], requires_grad=True)
    fake_quantize(x, torch.tensor(0.1), 0.0, 15.0, 0.0, 1.0).sum().backward()
    assert x.grad.tolist() == [1, 1]


GRIDS = [(0, 15, 0.0), (-8, 7, 0.0), (-3, 12, 0.0), (-1, 0, 0.5), (0, 255, 0.0), (-2, 1, 0.5)]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize(("low", "high", "offset"), GRIDS)
def test_gradients_equal_the_composed_reference(low, high, offset, per_channel, channels_last):
    x = gaussian(6, 5, 4, 4) * 2
    slope = gaussian(6, 5, 4, 4, seed=1)
    if channels_last:
        x, slope = (t.contiguous(memory_format=torch.channels_last) for t in (x, slope))
    size = 4 / (high - low)
    step = (
        torch.linspace(0.8, 1.2, 6).view(6, 1, 1, 1) * size if per_channel else torch.tensor(size)
    )
    quantizer = UniformQuantizer(step, low, high, offset)
    quantizer.learn_range()
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    reference = step.clone().requires_grad_()
    scale = 1 / math.sqrt(x.numel() / step.numel() * max(high, 1))
    out, expected = quantizer(mine), composed(theirs, reference, low, high, offset, scale)
    torch.testing.assert_close(out, expected)
    out.backward(slope)
    expected.backward(slope)
    torch.testing.assert_close(mine.grad, theirs.grad)
    torch.testing.assert_close(quantizer.step.grad, reference.grad, rtol=1e-4, atol=1e-5)


def test_gradients_of_other_memory_orders():
    x = gaussian(4, 3, 5, 5).relu()
    slope = gaussian(4, 3, 5, 5, seed=1)
    grads = []
    for order in (torch.contiguous_format, torch.channels_last):
        quantizer = UniformQuantizer(torch.tensor(0.1), 0, 15)
        quantizer.learn_range()
        quantizer(x.contiguous(memory_format=order)).backward(slope)
        grads.append(float(quantizer.step.grad))
    assert grads[0] == pytest.approx(grads[1], rel=1e-4)
    quantizer = UniformQuantizer(torch.tensor(0.1), 0, 15)
    quantizer.learn_range()
    quantizer(x).sum().backward()  # its gradient is one number, expanded
    reference = torch.tensor(0.1, requires_grad=True)
    composed(x, reference, 0, 15, 0, 1 / math.sqrt(x.numel() * 15)).sum().backward()
    assert float(quantizer.step.grad) == pytest.approx(float(reference.grad), rel=1e-4)


def test_one_image_alone_needs_no_gradient():
    quantizer = UniformQuantizer(torch.tensor(0.1), 0, 15)
    quantizer.learn_range()
    quantizer(torch.tensor([0.33, 2.0])).sum().backward()
    expected = (3 - 3.3 + 15) / math.sqrt(2 * 15)
    assert float(quantizer.step.grad) == pytest.approx(expected, rel=1e-4)


def test_both_kernels_agree():
    x = gaussian(4, 100) * 3
    grads = []
    for step in (torch.tensor(0.3), torch.full((4, 1), 0.3)):
        x_i, step_i = x.clone().requires_grad_(), step.clone().requires_grad_()
        fake_quantize(x_i, step_i, -5.0, 6.0, 0.5, 1.0).square().sum().backward()
        grads.append((x_i.grad, step_i.grad.sum()))
    torch.testing.assert_close(grads[0], grads[1])


@settings(max_examples=50, deadline=None)
@given(
    step=st.floats(0.01, 2),
    bits=st.integers(1, 8),
    zero=st.integers(0, 255),
    offset=st.sampled_from([0.0, 0.5]),
)
def test_the_graph_changes_no_numbers(step, bits, zero, offset):
    low = -(zero % 2**bits)
    quantizer = UniformQuantizer(torch.tensor(step), low, low + 2**bits - 1, offset)
    x = gaussian(200) * 3
    with torch.no_grad():
        plain = quantizer(x)
    traced = quantizer(x.clone().requires_grad_())
    assert torch.equal(plain, traced.detach())
    assert torch.equal(quantizer.codes(x).dequantize(), plain)


def test_the_input_is_left_alone():
    x = gaussian(50)
    kept = x.clone()
    for quantizer in (UniformQuantizer(torch.tensor(0.1), 0, 15), Mse().activation(x, 3)):
        quantizer(x)
        quantizer.codes(x)
    assert torch.equal(x, kept)


def test_a_step_below_zero_is_no_catastrophe():
    quantizer = UniformQuantizer(torch.tensor(-1.0), 0, 15)
    assert quantizer(gaussian(10)).isfinite().all()


def test_a_fixed_grid_is_not_learned():
    quantizer = UniformQuantizer(torch.tensor(1.0), 0, 3, learned=False)
    quantizer.learn_range()
    assert not quantizer.step.requires_grad


def test_lsq_start():
    v = torch.tensor([1.0, -2.0, 3.0, -2.0])
    assert float(lsq_step(v, 4)) == pytest.approx(2 * 2 / 2)
    assert float(Lsq().weight(v[None], 3).step) == pytest.approx(4 / math.sqrt(3))
    assert float(Lsq().activation(v.abs(), 2).step) == pytest.approx(4 / math.sqrt(3))
    assert float(Lsq().activation(v, 2).step) == pytest.approx(4)


def test_lsq_grids():
    weight, signed, positive = gaussian(4, 9), gaussian(50), gaussian(50).abs()
    for quantizer, ends in (
        (Lsq().weight(weight, 3), (-4, 3)),
        (Lsq().activation(signed, 3), (-4, 3)),
        (Lsq().activation(positive, 3), (0, 7)),
    ):
        assert (float(quantizer.q_min), float(quantizer.q_max)) == ends
        assert quantizer.step.dim() == 0


def test_lsq_one_bit_starts_at_the_mean():
    weight = torch.tensor([[1.0, -2.0, 3.0]])
    assert Lsq().weight(weight, 1)(weight).tolist() == [[2, -2, 2]]


def test_training_the_step_lowers_the_error():
    x = gaussian(2000).relu()
    quantizer = Lsq().activation(x, 3)
    quantizer.learn_range()
    before = float((quantizer(x) - x).square().mean().detach())
    optimizer = torch.optim.SGD(quantizer.parameters(), lr=1.0)
    for _ in range(200):
        optimizer.zero_grad()
        (quantizer(x) - x).square().mean().mul(100).backward()
        optimizer.step()
    assert float((quantizer(x) - x).square().mean().detach()) < 0.99 * before
