"""What every scheme must do: codes, bit widths, per-channel bits, grids."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frameworks.core.quantizers.base import Codes, Float, PerChannel, Zero, straight_through
from frameworks.core.registry import schemes

BITS = range(1, 9)
SCHEMES = schemes.names()
LEARNED = (
    "adq",
    "autoq",
    "bayesian_bits",
    "bmpq",
    "djpq",
    "dorefa_pact",
    "fracbits",
    "haq_linear",
    "lsq",
    "minmax",
    "mixed_dnn",
    "mse",
    "percentile",
    "rusci",
    "sdq",
    "waveq",
)


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


WEIGHT = gaussian(8, 4, 3, 3) * 0.2
SIGNED = gaussian(4096, seed=1)
POSITIVE = gaussian(4096, seed=2).relu() * 1.7


def test_all_schemes_are_registered():
    assert set(SCHEMES) >= {
        *LEARNED, "autoq_binary", "haq_kmeans", "hwgq", "stochastic",
    }  # fmt: skip


@pytest.mark.parametrize("bits", [*BITS, 16])
@pytest.mark.parametrize("name", SCHEMES)
def test_weight_codes_round_trip(name, bits):
    quantizer = schemes.get(name)().weight(WEIGHT, bits)
    codes, out = quantizer.codes(WEIGHT), quantizer(WEIGHT)
    assert torch.equal(codes.dequantize(), out)
    assert torch.equal(codes.code, codes.code.round())
    assert codes.code.unique().numel() <= 2**bits
    assert out.shape == WEIGHT.shape
    assert out.dtype == WEIGHT.dtype


@pytest.mark.parametrize("sample", [SIGNED, POSITIVE], ids=["signed", "positive"])
@pytest.mark.parametrize("bits", [*BITS, 16])
@pytest.mark.parametrize("name", [n for n in SCHEMES if n != "haq_kmeans"])
def test_activation_codes_round_trip(name, bits, sample):
    quantizer = schemes.get(name)().activation(sample, bits)
    x = sample.view(4, 16, 8, 8)
    codes, out = quantizer.codes(x), quantizer(x)
    assert torch.equal(codes.dequantize(), out)
    assert torch.equal(codes.code, codes.code.round())
    assert codes.code.unique().numel() <= 2**bits
    assert float(codes.code.max() - codes.code.min()) <= 2**bits - 1


def test_kmeans_leaves_activations_float():
    assert isinstance(schemes.get("haq_kmeans")().activation(POSITIVE, 4), Float)


@pytest.mark.parametrize("name", SCHEMES)
def test_more_bits_make_a_smaller_error(name):
    scheme = schemes.get(name)()
    errors = [float((scheme.weight(WEIGHT, b)(WEIGHT) - WEIGHT).square().sum()) for b in (2, 4, 8)]
    assert errors[0] > errors[1] > errors[2]
    if name != "haq_kmeans":
        by_bits = [scheme.activation(POSITIVE, b)(POSITIVE) - POSITIVE for b in (2, 4, 8)]
        errors = [float(e.square().sum()) for e in by_bits]
        assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("name", SCHEMES)
def test_zero_and_float(name):
    scheme = schemes.get(name)()
    for make, x in ((scheme.weight, WEIGHT), (scheme.activation, POSITIVE)):
        assert isinstance(make(x, 0), Zero)
        assert torch.equal(make(x, 0)(x), torch.zeros_like(x))
        assert torch.equal(make(x, 0).codes(x).dequantize(), torch.zeros_like(x))
        assert isinstance(make(x, 32), Float)
        assert make(x, 32)(x) is x
        with pytest.raises(ValueError, match="32 bits"):
            make(x, 32).codes(x)


@pytest.mark.parametrize("name", SCHEMES)
def test_per_channel_bits(name):
    scheme = schemes.get(name)()
    bits = (0, 1, 2, 4, 8, 2, 3, 0)
    quantizer = scheme.weight(WEIGHT, bits)
    assert isinstance(quantizer, PerChannel)
    out = quantizer(WEIGHT)
    assert torch.equal(quantizer.codes(WEIGHT).dequantize(), out)
    for row, b in enumerate(bits):
        if b == 0:
            assert not out[row].any()
        else:
            assert 1 < out[row].unique().numel() <= 2**b
    alike = torch.tensor([2, 5])
    assert torch.equal(out[alike], scheme.weight(WEIGHT[alike], 2)(WEIGHT[alike]))


def test_per_channel_bits_with_float_channels():
    out = schemes.get("mse")().weight(WEIGHT, (32,) * 4 + (2,) * 4)(WEIGHT)
    assert torch.equal(out[:4], WEIGHT[:4])
    assert not torch.equal(out[4:], WEIGHT[4:])


def test_per_channel_bits_of_the_wrong_number():
    with pytest.raises(ValueError, match="3 per-channel bits for 8 channels"):
        schemes.get("mse")().weight(WEIGHT, (2, 3, 4))


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("bits", [1, 3, 8])
def test_gradients_reach_weights_and_inputs(name, bits):
    scheme = schemes.get(name)()
    for make, data in ((scheme.weight, WEIGHT), (scheme.activation, POSITIVE)):
        quantizer = copy.deepcopy(make(data, bits))
        quantizer.learn_range()
        x = data.clone().requires_grad_()
        quantizer(x).square().sum().backward()
        assert x.grad.isfinite().all()
        assert x.grad.any()
        for parameter in quantizer.parameters():
            if parameter.requires_grad:
                assert parameter.grad.isfinite().all()


@pytest.mark.parametrize("name", SCHEMES)
def test_ranges_are_trained_only_on_request(name):
    quantizer = schemes.get(name)().activation(POSITIVE, 4)
    assert not any(p.requires_grad for p in quantizer.parameters())
    quantizer.learn_range()
    assert any(p.requires_grad for p in quantizer.parameters()) == (name in LEARNED)
    quantizer.learn_range(False)
    assert not any(p.requires_grad for p in quantizer.parameters())


@pytest.mark.parametrize("name", SCHEMES)
def test_constant_and_empty_ranges(name):
    scheme = schemes.get(name)()
    for bits in (1, 2, 8):
        for value in (0.0, 0.25):
            weight = torch.full((2, 3, 1, 1), value)
            assert scheme.weight(weight, bits)(weight).isfinite().all()
            sample = torch.full((64,), value)
            assert scheme.activation(sample, bits)(sample).isfinite().all()


def test_codebooks():
    code = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    shared = Codes.of_codebook(code, torch.tensor([-1.0, 2.0]))
    assert shared.dequantize().tolist() == [[-1, 2], [2, -1]]
    own = Codes.of_codebook(code, torch.tensor([[-1.0, 2.0], [5.0, 7.0]]))
    assert own.dequantize().tolist() == [[-1, 2], [7, 5]]


def test_straight_through():
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    y = straight_through(x, torch.tensor([5.0, 6.0]))
    assert y.tolist() == [5, 6]
    (y * torch.tensor([3.0, 4.0])).sum().backward()
    assert x.grad.tolist() == [3, 4]


vectors = st.lists(
    st.floats(-100, 100, width=32).filter(lambda v: v == 0 or abs(v) > 1e-3),
    min_size=2,
    max_size=40,
)
GRIDS = ("haq_linear", "hwgq", "lsq", "minmax", "mse", "percentile", "dorefa_pact", "autoq", "adq")


@settings(max_examples=60, deadline=None)
@given(values=vectors, bits=st.integers(1, 8), name=st.sampled_from([*GRIDS, "autoq_binary"]))
def test_activation_grids(values, bits, name):
    x = torch.tensor(values)
    quantizer = schemes.get(name)().activation(x, bits)
    out = quantizer(x)
    assert out.unique().numel() <= 2**bits
    # Values on the grid stay, up to the float rounding of the scale.
    torch.testing.assert_close(quantizer(out), out)
    order = x.argsort()
    assert (out[order].diff() >= 0).all()


@settings(max_examples=60, deadline=None)
@given(values=vectors, bits=st.integers(1, 8), name=st.sampled_from([*GRIDS, "haq_kmeans"]))
def test_weight_grids(values, bits, name):
    weight = torch.tensor(values)[None]
    quantizer = schemes.get(name)().weight(weight, bits)
    out = quantizer(weight)
    assert out.unique().numel() <= 2**bits
    assert (out[0][weight[0].argsort()].diff() >= 0).all()
    if name not in ("dorefa_pact", "hwgq"):  # these follow the current weights
        torch.testing.assert_close(quantizer(out), out)
