import json
import math
from fractions import Fraction
from pathlib import Path
from statistics import fmean, median

import pytest
import timm
from torch import nn

from frameworks import Layer, Policy, describe, targets
from frameworks.core.policy import LayerBits
from frameworks.core.target import UnsupportedBits, kept_channels
from frameworks.hardware.bitfusion import CORE_PJ, SETUP, BitFusion, compute_cycles, speed

APQ = json.loads((Path(__file__).parents[1] / "reference" / "apq_bitfusion.json").read_text())
TARGET = BitFusion()


def conv(inputs, outputs, kernel=1, size=8, stride=1, groups=1, index=1):
    out = math.ceil(size / stride)
    params = outputs * inputs // groups * kernel**2
    return Layer(
        name="x", kind="conv", index=index, in_channels=inputs, out_channels=outputs,
        kernel=(kernel, kernel), stride=(stride, stride), groups=groups, in_size=(size, size),
        out_size=(out, out), params=params, macs=params * out**2, block="x",
    )  # fmt: skip


def cycles(layer, weight, act):
    return round(TARGET.layer_cost(layer, LayerBits(weight, act))["latency"] * 500e3, 6)


# --- the speed of a unit -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("act", "speeds"),
    [(2, (16, 8, 4, 2)), (4, (8, 4, 2, 1)), (8, (4, 2, 1, 1 / 2)), (16, (2, 1, 1 / 2, 1 / 4))],
)
def test_multiply_accumulates_of_a_unit(act, speeds):
    assert [speed(w, act) for w in (2, 4, 8, 16)] == [Fraction(s) for s in speeds]


def test_bits_between_powers_of_two_are_as_slow_as_the_next_one():
    assert len({speed(w, a) for w in range(5, 9) for a in range(5, 9)}) == 1
    assert speed(3, 4) == speed(4, 4)
    assert speed(1, 2) == speed(2, 2)


# --- worked by hand ----------------------------------------------------------------------------


def test_a_layer_that_computes_longer_than_it_loads():
    # 512 -> 64, 3x3, 16x16: 2 passes of 32 channels, 256 positions, 9 taps, 512 / (16 f) steps.
    layer = conv(512, 64, kernel=3, size=16)
    assert cycles(layer, 8, 8) == 2 * 256 * 9 * 32
    assert cycles(layer, 4, 8) == 2 * 256 * 9 * 16
    assert cycles(layer, 5, 7) == cycles(layer, 8, 8)


def test_w8a8_takes_16_times_as_long_as_w2a2_where_the_inputs_fill_the_array():
    layer = conv(16 * 16, 32, kernel=7, size=16)
    assert cycles(layer, 8, 8) == 16 * cycles(layer, 2, 2) == 16 * 256 * 49
    # 300 inputs: 19 steps of 16, or 2 of 256.
    layer = conv(300, 32, kernel=7, size=16)
    assert cycles(layer, 8, 8) / cycles(layer, 2, 2) == 19 / 2


def test_a_layer_that_loads_longer_than_it_computes():
    # 16 -> 64, 1x1, 8x8: 2 * 64 cycles of computation; weights 1,024 * 8 bits and inputs
    # 1,024 * 8 bits once, 4,096 outputs at 32 bits in and out: 278,528 bits, 192 a cycle.
    assert cycles(conv(16, 64), 8, 8) == math.ceil(278_528 / 192) == 1451


def test_what_exceeds_a_buffer_is_loaded_again():
    # 1,024 -> 512, 1x1, 4x4: weights 4,194,304 bits, sixteen halves of the weight buffer; inputs
    # 131,072 bits, exactly half of the input buffer, so the weights come once.
    layer, compute = conv(1024, 512, size=4), 16 * 16 * 64
    outputs = 512 * 16 * 64
    assert cycles(layer, 8, 8) == math.ceil((4_194_304 + 131_072 + outputs) / 192) > compute
    # At 16 activation bits the inputs are two halves: 4 times the inputs per weight pass is less.
    more = conv(1024, 64, size=8)
    weights, inputs, outputs = 1024 * 64 * 8, 1024 * 64 * 8, 64 * 64 * 64
    assert cycles(more, 8, 8) == max(2 * 64 * 64, math.ceil((weights + 2 * inputs + outputs) / 192))


def test_the_first_layer_unrolls_its_kernel():
    # 3 -> 32, 3x3, 64x64: 27 of 16 lanes are 2 steps; in direct form 9 taps of 1 step.
    assert cycles(conv(3, 32, kernel=3, size=64, index=0), 8, 8) == max(
        4096 * 2, math.ceil((864 * 8 + 3 * 4096 * 8 + 32 * 4096 * 64) / 192)
    )
    assert cycles(conv(128, 32, kernel=3, index=0), 8, 8) == 64 * 72
    assert cycles(conv(3, 32, kernel=7, size=8), 8, 8) == 64 * 49


def test_grouped_and_depthwise_convolutions():
    # 4 groups of 64 -> 8: one pass of 8 channels each, 64 positions, 9 taps, 4 steps.
    assert cycles(conv(256, 32, kernel=3, groups=4), 8, 8) == 4 * 64 * 9 * 4
    # 100 channels, 8 f to a pass.
    layer = conv(100, 100, kernel=7, groups=100)
    assert cycles(layer, 8, 8) == 64 * 49 * 13
    assert cycles(layer, 4, 4) == 64 * 49 * 4
    mixed = LayerBits((8,) * 9 + (4,) * 60 + (0,) * 31, 8)
    # Two passes of 8, the second with 7 channels of 4 bits; 53 more at 16 to a pass.
    assert TARGET.layer_cost(layer, mixed)["latency"] * 500e3 == pytest.approx(64 * 49 * 6)


def test_linear_and_one_dimensional_layers():
    model = nn.Sequential(nn.Conv1d(256, 64, 3, padding=1), nn.Flatten(), nn.Linear(1280, 96))
    first, last = describe(model, (256, 20))
    assert compute_cycles(first, kept_channels(first, LayerBits(8, 8)), 8) == 2 * 20 * 48
    assert cycles(first, 8, 8) == (64 * 256 * 3 * 8 + 256 * 20 * 8 + 64 * 20 * 64) / 192 == 2688
    assert cycles(last, 8, 8) == math.ceil((1280 * 96 * 8 + 1280 * 8 + 96 * 64) / 192)
    (tokens,) = describe(nn.Sequential(nn.Linear(256, 32)), (50, 256))
    assert cycles(tokens, 2, 2) == math.ceil((256 * 32 * 2 + 50 * 256 * 2 + 50 * 32 * 64) / 192)


def test_energy():
    # 16 -> 32, 1x1, one position: 1 cycle; 512 weights, 16 inputs, 32 outputs.
    cost = TARGET.layer_cost(conv(16, 32, size=1), LayerBits(8, 4))
    array = 3_673_500e-9 * 32 / 500e6 * 1e3  # nW of 16 units to mJ in a cycle of 512
    weights, inputs, outputs, macs = 512 * 8, 16 * 4, 32 * 32, 512
    pj = (
        weights * (0.000683701 + 0.000925317) + macs * 4 * 0.00190318 + inputs * 0.00363853
        + 2 * outputs * (0.00106097 + 0.00233869)
    ) * 1e3 / 32 + 15 * (weights + inputs + 2 * outputs)  # fmt: skip
    assert cost["energy"] == pytest.approx(array + pj * 1e-9, rel=1e-9)
    assert pytest.approx(235.104) == CORE_PJ
    assert cost["size"] == 512


def test_channels_of_different_bits_run_32_to_a_pass():
    layer = conv(256, 96, kernel=3)
    uniform = {b: cycles(layer, b, 8) for b in (2, 8)}
    assert uniform == {2: 3 * 64 * 9 * 4, 8: 3 * 64 * 9 * 16}
    # Sorted: a pass of 8 bits, a pass of 8 and 2 bits at 8, and 30 channels of 2 bits.
    bits = (2, 8, 2) * 30 + (8,) * 4 + (0, 2)
    assert cycles(layer, bits, 8) == 64 * 9 * (16 + 16 + 4)
    pruned = (8,) * 32 + (0,) * 64
    assert cycles(layer, pruned, 8) == cycles(conv(256, 32, kernel=3), 8, 8)
    cost = TARGET.layer_cost(layer, LayerBits(pruned, 8))
    alone = TARGET.layer_cost(conv(256, 32, kernel=3), LayerBits(8, 8))
    assert cost == pytest.approx(alone)


def test_pruned_groups_read_no_inputs():
    whole = conv(64, 64, kernel=3, groups=2)
    half = TARGET.layer_cost(whole, LayerBits((8,) * 32 + (0,) * 32, 8))
    assert half == pytest.approx(TARGET.layer_cost(conv(32, 32, kernel=3), LayerBits(8, 8)))
    assert set(TARGET.layer_cost(whole, LayerBits(0, 32)).values()) == {0.0}


def test_a_layer_called_twice_costs_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(32, 32, 3, padding=1)

        def forward(self, x):
            return self.conv(self.conv(x))

    (twice,) = describe(Twice(), (32, 8, 8))
    (once,) = describe(nn.Sequential(nn.Conv2d(32, 32, 3, padding=1)), (32, 8, 8))
    assert twice.calls == 2
    one = TARGET.layer_cost(once, LayerBits(4, 4))
    two = TARGET.layer_cost(twice, LayerBits(4, 4))
    assert two == pytest.approx({**{k: 2 * v for k, v in one.items()}, "size": one["size"]})


@pytest.mark.parametrize("bits", [(32, 32), (8, 32), (32, 8), (8, 0), ((8, 32, 8, 8), 8)])
def test_float_is_refused(bits):
    with pytest.raises(UnsupportedBits, match="bitfusion does not run layer x at"):
        TARGET.layer_cost(conv(4, 4), LayerBits(*bits))


def test_facts():
    assert (TARGET.kind, TARGET.metric, TARGET.per_channel) == ("model", "latency", True)
    assert TARGET.metrics == {"latency": "ms", "energy": "mJ", "size": "bytes"}
    assert targets.get("bitfusion") is BitFusion
    assert (SETUP["rows"], SETUP["columns"]) == (16, 32)


def test_a_whole_network():
    layers = describe(timm.create_model("resnet18"), (3, 224, 224))
    cost = {b: TARGET.cost(layers, Policy.uniform(layers, b, b)) for b in (2, 4, 8)}
    # 512 units at 500 MHz: 256 GMAC/s at 8 bits are a lower bound on the time.
    assert 1.814073344e9 / 256e9 * 1e3 < cost[8]["latency"] < 1.3 * 1.814073344e9 / 256e9 * 1e3
    assert 2.5 < cost[8]["latency"] / cost[4]["latency"] < 4
    assert cost[8]["size"] == 11_678_912
    assert 1 < cost[8]["energy"] / cost[4]["energy"] < 4


# --- published: APQ's table ----------------------------------------------------------------------


def published():
    for row in APQ["rows"]:
        r = dict(zip(APQ["columns"], row, strict=True))
        names = ("in_channels", "out_channels", "kernel", "in_size", "stride", "groups")
        layer = conv(*(r[name] for name in names))
        cost = TARGET.layer_cost(layer, LayerBits(r["w_bits"], r["a_bits"]))
        yield r, cost["latency"] / r["latency_ms"], cost["energy"] / r["energy_mj"]


def ratios(depthwise, which):
    return [x[which] for x in published() if (x[0]["groups"] > 1) == depthwise]


def test_latencies_of_apqs_table():
    pointwise, depthwise = ratios(False, 1), ratios(True, 1)
    assert len(pointwise) == 153
    assert len(depthwise) == 144
    assert 0.97 < median(pointwise) <= 1
    assert fmean(abs(r - 1) for r in pointwise) < 0.06
    assert 0.6 < min(pointwise) <= max(pointwise) < 1.2
    # A good share has exactly the published cycles.
    assert sum(abs(r - 1) < 2e-4 for r in pointwise) > 40
    assert 0.9 < median(depthwise) <= 1
    assert fmean(abs(r - 1) for r in depthwise) < 0.13
    assert 0.4 < min(depthwise) <= max(depthwise) < 1.01


def test_energies_of_apqs_table():
    pointwise = ratios(False, 2)
    assert fmean(abs(r - 1) for r in pointwise) < 0.17
    assert 0.8 < median(pointwise) < 0.9
    # Far too low for depthwise layers, as the module says.
    assert 0.55 < fmean(abs(r - 1) for r in ratios(True, 2)) < 0.6


def test_what_bits_gain_in_apqs_table():
    # A row's cost relative to the same layer at W8A8, here and there.
    gains = {1: [], 2: []}
    rows = list(published())
    base = {key(r): (lat, en) for r, lat, en in rows if (r["w_bits"], r["a_bits"]) == (8, 8)}
    for r, latency, energy in rows:
        if r["groups"] == 1:
            gains[1].append(latency / base[key(r)][0])
            gains[2].append(energy / base[key(r)][1])
    assert fmean(abs(g - 1) for g in gains[1]) < 0.06
    assert fmean(abs(g - 1) for g in gains[2]) < 0.08


def key(row):
    return tuple(row[name] for name in APQ["columns"][:6])
