import pytest
from torch import nn

from frameworks import LayerBits, describe
from frameworks.hardware.gap8_pulp_nn import Gap8PulpNN


def cycles(module, shape, weight, act):
    layer = describe(module, shape)[0]
    return Gap8PulpNN().layer_cost(layer, LayerBits(weight, act))["latency"]


def test_a_convolution_by_hand():
    conv, shape = nn.Conv2d(8, 8, 3, padding=1), (8, 8, 8)
    # 72 columns, 4 pairs of columns of pixels, one row a core, 2 tiles of 4 channels.
    assert cycles(conv, shape, 8, 8) == 4 * (144 + 2 * (15 + 14 * 18))
    assert cycles(conv, shape, 4, 8) == 4 * (144 + 2 * (15 + 72 * 9))
    assert cycles(conv, shape, 2, 8) == 4 * (144 + 2 * (15 + 140 * 5))
    assert cycles(conv, shape, 8, 4) == 4 * (144 + 2 * 11 * 9 + 2 * (15 + 14 * 18))
    assert cycles(conv, shape, 8, 2) == 4 * (144 + 2 * 21 * 5 + 2 * (15 + 14 * 18))


def test_a_depthwise_convolution_by_hand():
    module, shape = nn.Conv2d(8, 8, 3, padding=1, groups=8), (8, 8, 8)
    assert cycles(module, shape, 8, 8) == 4 * 2 * 64 * 9
    # A core has one channel: 8 columns of 8 rows, 3 taps padded to 4; 9 weights.
    assert cycles(module, shape, 4, 2) == 4608 + 256 * 25 / 16 + 9 * 5 / 2


def test_a_linear_layer_by_hand():
    assert cycles(nn.Linear(16, 8), (16,), 8, 8) == 8 * 2
    # The kernel's loop takes 43 instructions for 16 MACs, that for bytes 10.
    assert cycles(nn.Linear(16, 8), (16,), 4, 4) == pytest.approx(16 * 43 / 10)
    assert cycles(nn.Linear(16, 8), (16,), 2, 8) == pytest.approx(16 * 62 / 20)
    assert cycles(nn.Linear(16, 8), (5, 16), 8, 8) == 5 * 16


def test_sub_byte_weights_save_no_time():
    module, shape = nn.Conv2d(32, 64, 3, padding=1), (32, 16, 16)
    macs = 256 * 64 * 288
    rates = {w: macs / cycles(module, shape, w, 8) for w in (8, 4, 2)}
    # 8 bits come close to the peak of 16 in arXiv 2007.07759; the others are bounded by 64 MACs
    # in 72 instructions and 128 in 140, on 8 cores.
    assert 16 < rates[8] < 18
    assert 0.95 * 8 * 64 / 72 < rates[4] < 8 * 64 / 72
    assert 0.95 * 8 * 128 / 140 < rates[2] < 8 * 128 / 140
    assert not Gap8PulpNN.monotone


def test_a_sequence_lies_along_the_axis_that_the_cores_share():
    assert cycles(nn.Conv1d(4, 4, 1), (4, 16), 8, 8) == 2 * (8 + 15 + 14)
    depthwise = nn.Conv1d(8, 8, 3, padding=1, groups=8)
    assert cycles(depthwise, (8, 16), 8, 4) == 4 * 2 * 16 * 3 + 16 * 4 * 13 / 8


def test_groups_run_one_after_the_other():
    whole = cycles(nn.Conv2d(8, 8, 1), (8, 8, 8), 4, 4)
    assert cycles(nn.Conv2d(16, 16, 1, groups=2), (16, 8, 8), 4, 4) == 2 * whole
