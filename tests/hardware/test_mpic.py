import pytest
from torch import nn

from frameworks import LayerBits, describe
from frameworks.hardware.mpic import MPIC

LINEAR = describe(nn.Linear(2100, 1000), (2100,))[0]


def test_a_million_cycles_take_21_53_microjoules():
    costs = MPIC().layer_cost(LINEAR, LayerBits(8, 8))
    assert costs["latency"] == pytest.approx(1e6)
    assert costs["energy"] == pytest.approx(21.53, abs=0.005)
    assert costs["size"] == 2_100_000


def test_two_bits_are_3_1_times_as_fast_as_eight():
    eight, two = (MPIC().layer_cost(LINEAR, LayerBits(b, b)) for b in (8, 2))
    for metric in ("latency", "energy"):
        assert eight[metric] / two[metric] == pytest.approx(6.5 / 2.1)
        assert eight[metric] / two[metric] == pytest.approx(3.10, abs=0.005)


def test_weight_and_activation_bits_are_told_apart():
    macs = LINEAR.macs
    assert MPIC().layer_cost(LINEAR, LayerBits(2, 8))["latency"] == pytest.approx(macs / 2.5)
    assert MPIC().layer_cost(LINEAR, LayerBits(8, 2))["latency"] == pytest.approx(macs / 2.2)
    assert MPIC().layer_cost(LINEAR, LayerBits(4, 2))["latency"] == pytest.approx(macs / 4.0)
    assert MPIC().layer_cost(LINEAR, LayerBits(2, 4))["latency"] == pytest.approx(macs / 3.9)


def test_depthwise_convolutions_cost_their_macs():
    layer = describe(nn.Conv2d(4, 4, 3, 2, 1, groups=4), (4, 6, 6))[0]
    assert MPIC().layer_cost(layer, LayerBits(4, 4))["latency"] == pytest.approx(324 / 3.5)


def test_each_output_channel_has_its_share():
    layer = describe(nn.Conv2d(3, 4, 1), (3, 2, 2))[0]  # 12 MACs a channel
    costs = MPIC().layer_cost(layer, LayerBits((0, 2, 2, 8), 8))
    assert costs["latency"] == pytest.approx(24 / 2.5 + 12 / 2.1)
    assert costs["size"] == 3 * 12 / 8
