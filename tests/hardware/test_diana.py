import pytest
from torch import nn

from frameworks import LayerBits, describe
from frameworks.hardware.diana import Diana

STEP = 18.2
"""Cycles of 70 ns at 260 MHz."""


def cycles(module, shape, bits):
    return Diana().layer_cost(describe(module, shape)[0], LayerBits(bits, 8))["latency"]


def test_a_convolution_on_both_accelerators():
    conv = nn.Conv2d(16, 32, 3, padding=1)
    # 2 tiles of channels * 16 inputs * 1 tile of columns * 16 * 9, and 256 (16 + 32) / 8 moved.
    assert cycles(conv, (16, 16, 16), 8) == 4608 + 1536
    # 4 columns at once: (4 + 2) * 64 * 3 = 1152 rows; writing the weights 8 * 16 * 9.
    assert cycles(conv, (16, 16, 16), 2) == pytest.approx(1152 + 256 / 4 * STEP)


def test_unrolling_is_limited_by_the_columns_of_the_array_too():
    # 2 * 256 columns; two steps of 128 inputs.
    assert cycles(nn.Conv2d(256, 256, 1), (256, 8, 8), 2) == pytest.approx(2048 + 2 * 32 * STEP)
    # 1000 columns are two steps without unrolling.
    assert cycles(nn.Linear(128, 1000), (128,), 2) == pytest.approx(1024 + 2 * STEP)
    # No unrolling fits into the rows: (2 + 4) * 64 * 5 > 1152.
    assert cycles(nn.Conv2d(8, 8, 5), (8, 6, 6), 2) == pytest.approx(8 * 8 * 25 + 4 * STEP)


def test_depthwise_convolutions_are_digital_only():
    module = nn.Conv2d(16, 16, 3, padding=1, groups=16)
    assert cycles(module, (16, 16, 16), 8) == 2304 + 1024
    layer = describe(module, (16, 16, 16))[0]
    assert not Diana().supports(layer, 2, 8)
    with pytest.raises(ValueError, match="diana does not run layer"):
        Diana().layer_cost(layer, LayerBits(2, 8))


def test_writing_the_weights_can_cost_more_than_the_digital_product():
    assert cycles(nn.Linear(64, 10), (64,), 8) == 64 + 74 / 8
    assert cycles(nn.Linear(64, 10), (64,), 2) == pytest.approx(512 + STEP / 8)
    assert not Diana.monotone


def test_other_bits_are_refused():
    layer = describe(nn.Linear(64, 10), (64,))[0]
    pairs = [(w, a) for w in range(1, 9) for a in range(1, 9) if Diana().supports(layer, w, a)]
    assert pairs == [(2, 8), (8, 8)]
    assert Diana().layer_cost(layer, LayerBits(2, 8))["size"] == 160
