import pytest
from torch import nn

from frameworks import LayerBits, describe
from frameworks.hardware.ne16 import NE16


def cycles(module, shape, bits):
    return NE16().layer_cost(describe(module, shape)[0], LayerBits(bits, 8))["latency"]


@pytest.mark.parametrize(
    ("module", "shape", "published"),
    [
        (nn.Conv2d(64, 64, 3, padding=1), (64, 32, 32), (304_436, 180_532, 118_580)),
        (nn.Conv2d(64, 64, 1), (64, 25, 5), (11_304, 11_304, 11_304)),
        (nn.Conv2d(64, 64, 3, padding=1, groups=64), (64, 25, 5), (16_344, 11_736, 9_432)),
    ],
)
def test_cycles_of_the_authors_performance_model(module, shape, published):
    assert tuple(cycles(module, shape, bits) for bits in (8, 4, 2)) == published


def test_a_last_tile_of_fewer_channels():
    # One pixel, 40 inputs in 3 steps; 32 outputs take 3 * (19 + 6 + 38 + 2) + 9 + 32 + 13, one
    # more 3 * (19 + 6 + 7 + 2) + 9 + 1 + 13.
    assert cycles(nn.Linear(40, 33), (40,), 8) == 249 + 125


def test_larger_kernels_run_in_passes():
    # One tile at 2 bits: a pass of 3x3 is 31 + 6 + 70 + 2 + 54, each of 16 of 1x1 is 65 + 54.
    assert cycles(nn.Conv2d(16, 32, 5), (16, 7, 7), 2) == 163 + 16 * 119
    assert cycles(nn.Conv1d(16, 32, 3), (16, 5), 2) == 3 * 119
    one, four = (
        cycles(nn.Conv2d(16, 16, k, padding=k // 2, groups=16), (16, 9, 9), 4) for k in (3, 5)
    )
    assert four == 4 * one


def test_groups_run_one_after_the_other():
    assert cycles(nn.Conv2d(32, 64, 1, groups=2), (32, 3, 3), 8) == 2 * 119


def test_the_remainder_of_a_linear_layer_and_its_size():
    layer = describe(nn.Linear(40, 33), (40,))[0]
    assert NE16().layer_cost(layer, LayerBits(3, 8))["size"] == 40 * 33 * 3 / 8


def test_only_activations_of_eight_bits():
    layer = describe(nn.Linear(4, 4), (4,))[0]
    assert [w for w in range(1, 17) if NE16().supports(layer, w, 8)] == [2, 3, 4, 5, 6, 7, 8]
    assert not NE16().supports(layer, 8, 4)
    with pytest.raises(ValueError, match=r"ne16 does not run layer .* w_bits=8, a_bits=4"):
        NE16().layer_cost(layer, LayerBits(8, 4))
    with pytest.raises(ValueError, match="no costs per output channel"):
        NE16().layer_cost(layer, LayerBits((2, 2, 8, 8), 8))
