import pytest
from torch import nn

from frameworks import LayerBits, describe
from frameworks.hardware.cortex_m import CortexM


def cycles(module, shape, weight, act):
    layer = describe(module, shape)[0]
    return CortexM().layer_cost(layer, LayerBits(weight, act))["latency"]


def test_a_convolution_by_hand():
    conv, shape = nn.Conv2d(4, 4, 1), (4, 2, 2)
    # Two pairs of pixels, two pairs of channels.
    assert cycles(conv, shape, 8, 8) == 2 * (2 * 8 + 2 * 6 + 2 * (22 + 44))
    assert cycles(conv, shape, 4, 8) == 2 * (2 * 8 + 2 * 6 + 2 * (50 + 44))
    assert cycles(conv, shape, 8, 4) == 2 * (2 * 22 + 2 * 6 + 2 * (22 + 44))


def test_a_linear_layer_is_half_a_pair_of_pixels():
    assert cycles(nn.Linear(16, 2), (16,), 2, 2) == (2 * 42 + 8 * 6 + 98 + 44) / 2
    assert cycles(nn.Linear(16, 2), (6, 16), 2, 2) == 6 * cycles(nn.Linear(16, 2), (16,), 2, 2)


def test_a_depthwise_convolution_by_hand():
    module, shape = nn.Conv2d(4, 4, 3, padding=1, groups=4), (4, 2, 2)
    assert cycles(module, shape, 8, 8) == 4 * (36 / 2 + 5 * 34 + 44)
    assert cycles(module, shape, 2, 4) == 4 * (36 * 7 / 2 + 5 * 48 + 44)


@pytest.mark.parametrize(("weight", "rate"), [(8, 16 / 22), (4, 32 / 50), (2, 64 / 98)])
def test_rates_approach_those_of_the_inner_loop(weight, rate):
    macs = 64 * 512 * 1152
    measured = macs / cycles(nn.Conv2d(128, 512, 3, padding=1), (128, 8, 8), weight, 8)
    assert 0.95 * rate < measured < rate


def test_eight_bits_agree_with_the_published_speed_up():
    # arXiv 2007.07759: 16 MACs a cycle are 21 to 25 times an STM32H7.
    rate = 256 * 64 * 288 / cycles(nn.Conv2d(32, 64, 3, padding=1), (32, 16, 16), 8, 8)
    assert 16 / 25 < rate < 16 / 21


def test_groups_run_one_after_the_other():
    whole = cycles(nn.Conv2d(8, 8, 1), (8, 8, 8), 4, 4)
    assert cycles(nn.Conv2d(16, 16, 1, groups=2), (16, 8, 8), 4, 4) == 2 * whole
