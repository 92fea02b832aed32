import json
import math
from pathlib import Path

import numpy as np
import pytest
import timm
from torch import nn

from frameworks import Layer, Policy, describe, targets
from frameworks.core.policy import LayerBits
from frameworks.core.target import UnsupportedBits
from frameworks.hardware.bismo import BismoCloud, BismoEdge
from frameworks.hardware.table import Table

PATH = Path(__file__).parents[1] / "reference" / "haq_mobilenetv2_latency.json"
CLOUD, EDGE = BismoCloud(), BismoEdge()


@pytest.fixture(scope="module")
def layers():
    return describe(timm.create_model("mobilenetv2_100"), (3, 224, 224))


@pytest.fixture(scope="module")
def published():
    return np.array(json.loads(PATH.read_text())["latency_cycles"])


def conv(inputs, outputs, kernel=1, height=16, width=16, groups=1):
    params = outputs * inputs // groups * kernel**2
    return Layer(
        name="x", kind="conv", index=1, in_channels=inputs, out_channels=outputs,
        kernel=(kernel, kernel), stride=(1, 1), groups=groups, in_size=(height, width),
        out_size=(height, width), params=params, macs=params * height * width, block="x",
    )  # fmt: skip


def cycles(layer, weight, act, target=CLOUD):
    return target.layer_cost(layer, LayerBits(weight, act))["latency"]


# --- published: HAQ's table ----------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7, 8])
def test_uniform_totals_are_those_of_the_table(layers, bits):
    table, policy = Table(str(PATH)), Policy.uniform(layers, bits, bits)
    total = CLOUD.cost(layers, policy)["latency"]
    assert total == pytest.approx(table.cost(layers, policy)["latency"], rel=0.015)


def test_each_cell_of_the_table(layers, published):
    ours = np.array([[[cycles(x, w, a) for a in range(1, 9)] for w in range(1, 9)] for x in layers])
    errors = np.abs(ours / published - 1)
    assert errors.shape == (53, 8, 8)
    assert errors.mean() == pytest.approx(0.046, abs=5e-4)
    assert errors.max() == pytest.approx(0.678, abs=1e-3)
    assert np.median(errors) < 0.02


def test_the_published_policy_keeps_its_ratio(layers):
    entries = json.loads(PATH.read_text())["policy"]
    policy = Policy(
        {x.name: (w, 8 if a == -1 else a) for x, (w, a) in zip(layers, entries, strict=True)}
    )
    reference = CLOUD.cost(layers, Policy.uniform(layers, 8, 8))["latency"]
    # 0.5965 of 8 bits by the table.
    assert CLOUD.cost(layers, policy)["latency"] / reference == pytest.approx(0.5965, abs=0.005)


def test_what_binds_depthwise_layers_is_their_activations(layers, published):
    for layer, cells in zip(layers, published, strict=True):
        if layer.depthwise:
            assert cycles(layer, 1, 6) == cycles(layer, 8, 6) == 6 * cycles(layer, 8, 1)
            assert np.ptp(cells[:, 7]) < 0.2 * cells[7, 7]


# --- worked by hand ------------------------------------------------------------------------------


def test_compute_bound():
    # 300 -> 40, 16x16: 2 vectors of 256, 16 tiles of 16 positions, 3 tiles of channels.
    assert cycles(conv(300, 40), 7, 6) == 16 * 2 * 16 * 3 * 7 * 6
    # At the edge: 5 vectors of 64, 32 tiles of 8 positions, 5 tiles of 8 channels, one image.
    assert cycles(conv(300, 40), 4, 6, EDGE) == 5 * 32 * 5 * 4 * 6


def test_bound_by_the_loads():
    # One tile of channels: 16 rows of activations take longer than 1 * 4 passes.
    assert cycles(conv(256, 16), 4, 6) == 16 * 16 * 16 * 6
    # One tile of positions: 100 channels' weights take longer than 7 tiles * 3 bits.
    assert cycles(conv(256, 100, height=4, width=4), 5, 3) == 16 * 100 * 5


def test_short_rows_of_an_image_share_the_rows_of_the_array():
    # Two rows of 7 fit into 16, so 9 of them take 5 tiles, and of 10 only one.
    assert cycles(conv(256, 16 * 64, height=9, width=7), 8, 8) == 16 * 5 * 64 * 64
    assert cycles(conv(256, 16 * 64, height=9, width=10), 8, 8) == 16 * 9 * 64 * 64
    assert cycles(conv(256, 16 * 64, height=3, width=20), 8, 8) == 16 * 4 * 64 * 64


def test_the_kernel_is_part_of_the_vectors():
    assert cycles(conv(64, 160, kernel=3), 8, 8) == 16 * math.ceil(576 / 256) * 16 * 10 * 64


def test_grouped_and_depthwise_convolutions():
    one = cycles(conv(64, 32, kernel=3), 4, 4)
    assert cycles(conv(256, 128, kernel=3, groups=4), 4, 4) == 4 * one
    assert cycles(conv(100, 100, kernel=3, groups=100), 3, 5) == 16 * 256 * 7 * 5
    assert cycles(conv(100, 100, kernel=3, groups=100), 3, 5, EDGE) == 256 * 13 * 5


def test_linear_and_one_dimensional_layers():
    model = nn.Sequential(nn.Conv1d(32, 64, 3, padding=1), nn.Flatten(), nn.Linear(1280, 1000))
    first, last = describe(model, (32, 20))
    assert cycles(first, 8, 8) == 16 * 2 * 4 * 64
    # The batch of 16 fills one tile of rows: the weights' load binds.
    assert cycles(last, 8, 8) == 5 * 1000 * 8
    (tokens,) = describe(nn.Sequential(nn.Linear(256, 320)), (50, 256))
    assert cycles(tokens, 8, 8) == 50 * 20 * 64
    assert cycles(tokens, 8, 8, EDGE) == 4 * 7 * 40 * 64


def test_channels_of_different_bits_are_sorted_into_tiles():
    layer = conv(256, 64)
    bits = (2, 8) * 20 + (4,) * 8 + (0,) * 16
    # 16 of 8 bits, 4 of 8 with 8 of 4 and 4 of 2 bits, 16 of 2 bits.
    assert cycles(layer, bits, 8) == 16 * 16 * (8 + 8 + 2) * 8
    assert cycles(layer, (8,) * 16 + (0,) * 48, 8) == cycles(conv(256, 16), 8, 8)
    channels = conv(100, 100, kernel=3, groups=100)
    assert cycles(channels, (0,) * 36 + (3,) * 64, 5) == 16 * 256 * 4 * 5
    assert set(CLOUD.layer_cost(layer, LayerBits(0, 32)).values()) == {0}


@pytest.mark.parametrize("bits", [(32, 32), (8, 32), (32, 8), (4, 0)])
@pytest.mark.parametrize("target", [CLOUD, EDGE])
def test_float_is_refused(target, bits):
    with pytest.raises(UnsupportedBits, match=f"{target.name} does not run layer x at"):
        target.layer_cost(conv(4, 4), LayerBits(*bits))


def test_facts():
    assert targets.get("bismo_cloud") is BismoCloud
    assert targets.get("bismo_edge") is BismoEdge
    for target in (CLOUD, EDGE):
        assert (target.kind, target.metric) == ("model", "latency")
        assert target.metrics == {"latency": "cycles", "size": "bytes"}
    assert CLOUD.layer_cost(conv(64, 64), LayerBits(3, 8))["size"] == 64 * 64 * 3 / 8
    # Binary multiply-accumulates a cycle.
    assert [t.array.rows * t.array.columns * t.array.depth for t in (CLOUD, EDGE)] == [65536, 4096]
