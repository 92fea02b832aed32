import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frameworks import schemes
from frameworks.core.quantizers.bitplanes import (
    BitPlanes,
    DynamicRange,
    SignMagnitude,
    from_planes,
    to_planes,
)


def planes_of(code, step=0.25, planes=7):
    return BitPlanes(torch.tensor(code, dtype=torch.float32), torch.tensor(step), planes)


def value(planes):
    return planes(torch.zeros(())).detach()


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_planes_by_hand():
    planes = to_planes(torch.tensor([0.0, 1, 6, 7]), 3)
    assert planes.tolist() == [[0, 1, 0, 1], [0, 0, 1, 1], [0, 0, 1, 1]]
    assert from_planes(planes).tolist() == [0, 1, 6, 7]


@given(st.lists(st.integers(-127, 127), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
def test_integers_survive_the_round_trip(codes):
    planes = planes_of(codes)
    assert planes.integers().tolist() == codes
    assert value(planes).tolist() == pytest.approx([0.25 * c for c in codes], rel=1e-6)
    assert not (planes.positive * planes.negative).any()
    planes.requantize()
    assert planes.integers().tolist() == codes


@given(
    st.lists(st.integers(-15, 15), min_size=1, max_size=12),
    st.integers(0, 3),
    st.floats(1e-3, 10),
)
@settings(max_examples=60, deadline=None)
def test_adjustment_changes_no_weight(codes, shift, step):
    codes = [c * 2**shift for c in codes]
    planes = planes_of(codes, step)
    before = value(planes)
    planes.requantize()
    planes.adjust()
    torch.testing.assert_close(value(planes), before, rtol=1e-6, atol=0)
    most = max(abs(c) for c in codes)
    shared = min((c & -c).bit_length() - 1 for c in map(abs, codes) if c) if most else 0
    assert planes.count == max(most.bit_length() - shared, 1)
    assert planes.bits == (planes.count + 1 if most else 0)


def test_stripping_by_hand():
    planes = planes_of([4, -12, 0], step=0.5)  # 4 = 0b0000100, 12 = 0b0001100
    planes.adjust()
    assert (planes.count, planes.bits) == (2, 3)
    assert float(planes.step) == pytest.approx(2.0)
    assert float(planes.scale.detach()) == pytest.approx(6.0)  # s = step * (2^2 - 1)
    assert planes.integers().tolist() == [1, -3, 0]
    assert value(planes).tolist() == pytest.approx([2.0, -6.0, 0.0])


def test_steps_per_channel_are_kept_apart():
    code = torch.tensor([[4.0, 8.0], [-4.0, 0.0]])
    step = torch.tensor([[0.5], [2.0]])
    planes = BitPlanes(code, step, 7)
    planes.adjust()
    assert planes.count == 2
    torch.testing.assert_close(value(planes), code * step)
    assert planes.step.flatten().tolist() == pytest.approx([2.0, 8.0])


def test_a_layer_of_zeros_keeps_one_plane_and_has_no_bits():
    planes = planes_of([0, 0])
    planes.requantize()
    planes.adjust()
    assert (planes.count, planes.bits) == (1, 0)
    assert value(planes).tolist() == [0, 0]


def test_equal_scale_at_the_paper_s_start():
    w = normal(50)
    planes = BitPlanes.of(w, 8)
    assert float(planes.scale.detach()) == pytest.approx(float(w.abs().max()))
    uniform = torch.round(w / w.abs().max() * 255) / 255 * w.abs().max()
    torch.testing.assert_close(value(planes), uniform)


def test_rounding_of_trained_planes_by_hand():
    planes = planes_of([5, -2], step=1.0, planes=3)
    with torch.no_grad():
        planes.positive[0, 0] = 0.3  # 4 + 0.3 = 4.3, to 4
        planes.negative[1, 1] = 1.3  # -2.6, to -3
    assert value(planes).tolist() == pytest.approx([4.0, -3.0])
    planes.requantize()
    assert planes.negative[:, 1].tolist() == [1, 1, 0]


def test_gradients_are_those_of_equation_3():
    planes = planes_of([5, -2], step=2.0, planes=3)  # s = 14
    out = planes(torch.zeros(()))
    upstream = torch.tensor([1.0, -3.0])
    out.backward(upstream)
    for b in range(3):
        expected = 14 * 2**b / 7 * upstream
        torch.testing.assert_close(planes.positive.grad[b], expected)
        torch.testing.assert_close(planes.negative.grad[b], -expected)
    # dL/ds = sum of g times the code over 2^n - 1
    assert float(planes.scale.grad) == pytest.approx((5 * 1 + -2 * -3) / 7)


def test_the_gradient_passes_the_clip():
    planes = planes_of([7], step=1.0, planes=3)
    with torch.no_grad():
        planes.positive.fill_(2.0)  # a sum of 14, clipped to 7
    out = planes(torch.zeros(()))
    assert out.tolist() == [7.0]
    out.backward(torch.ones(1))
    assert planes.positive.grad.flatten().tolist() == pytest.approx([1.0, 2.0, 4.0])


def test_an_outgrown_sum_takes_one_more_plane():
    planes = planes_of([4, 2], step=1.0, planes=5)
    planes.adjust()
    assert (planes.count, float(planes.step)) == (2, 2.0)
    with torch.no_grad():
        planes.positive[:, 0] = torch.tensor([1.0, 2.0])  # 1 + 4 = 5 > 3
    planes.requantize()
    assert planes.count == 3
    assert float(planes.step) == pytest.approx(2.0)
    assert value(planes).tolist() == pytest.approx([10.0, 2.0])


def test_the_most_planes_saturate():
    planes = planes_of([7], step=1.0, planes=3)
    with torch.no_grad():
        planes.positive.fill_(2.0)
    planes.requantize()
    assert planes.count == 3
    assert planes.integers().tolist() == [7]
    assert planes_of([200], planes=7).integers().tolist() == [127]


def test_trained_bits_stay_between_zero_and_two():
    planes = planes_of([5])
    with torch.no_grad():
        planes.positive += 5
        planes.negative -= 5
    planes.clamp_()
    assert bool((planes.positive == 2).all())
    assert bool((planes.negative == 0).all())


def test_group_lasso_by_hand():
    planes = planes_of([5, -1], planes=3)  # planes: {1, -1}, {}, {4}
    expected = (2 + 1e-8) ** 0.5 + 1e-4 + (1 + 1e-8) ** 0.5
    assert planes.group_lasso().item() == pytest.approx(expected, rel=1e-6)


def test_codes_are_what_forward_gives():
    planes = planes_of([5, -128, 77])
    torch.testing.assert_close(planes.codes(torch.zeros(())).dequantize(), value(planes))


def test_fixed_planes_quantizer_by_hand():
    quantizer = SignMagnitude(torch.tensor(3.0), 3)  # 2 planes and a sign, step 1
    x = torch.tensor([-5.0, -1.4, 0.4, 2.6])
    assert quantizer(x).tolist() == pytest.approx([-3.0, -1.0, 0.0, 3.0])
    quantizer.set_step(0.5)
    assert quantizer(x).tolist() == pytest.approx([-1.5, -1.5, 0.5, 1.5])


def test_fixed_planes_gradients():
    quantizer = SignMagnitude(torch.tensor(3.0), 3)
    quantizer.learn_range()
    x = torch.tensor([-5.0, 1.2], requires_grad=True)
    quantizer(x).backward(torch.tensor([2.0, 1.0]))
    torch.testing.assert_close(x.grad, torch.tensor([2.0, 1.0]))
    assert float(quantizer.scale.grad) == pytest.approx(2 * -1 + 1 * 1 / 3)


def test_stripped_planes_are_on_the_grid_of_the_fixed_quantizer():
    planes = BitPlanes.of(normal(40), 7)
    with torch.no_grad():
        planes.positive[:4] = planes.negative[:4] = 0
    planes.requantize()
    planes.adjust()
    weight = value(planes)
    quantizer = SignMagnitude(torch.tensor(1.0), planes.bits)
    quantizer.set_step(float(planes.step))
    torch.testing.assert_close(quantizer(weight), weight)


def test_activations_scale_with_the_batch():
    quantizer = DynamicRange(2, signed=False)
    assert quantizer(torch.tensor([0.0, 1.4, 3.0])).tolist() == pytest.approx([0, 1, 3])
    assert quantizer(torch.tensor([0.0, 1.4, 6.0])).tolist() == pytest.approx([0, 2, 6])
    signed = DynamicRange(3, signed=True)
    assert signed(torch.tensor([-3.0, 1.4])).tolist() == pytest.approx([-3, 1])


def test_scheme_counts_the_sign():
    scheme = schemes.get("bsq")()
    w = normal(8, 4)
    for bits in (2, 4, 8):
        code = scheme.weight(w, bits).codes(w).code
        assert float(code.abs().max()) == 2 ** (bits - 1) - 1
    x = normal(500).relu()
    assert type(scheme.activation(x, 3)).__name__ == "Pact"
    assert type(scheme.activation(x, 4)).__name__ == "DynamicRange"
