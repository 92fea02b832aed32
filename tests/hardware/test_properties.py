"""What every registered target must keep, whatever its model: searched for counterexamples.

The layers are drawn: grouped, depthwise, one-dimensional and linear ones among them. Targets that
need arguments get them in `make`; bits that a target does not run are never asked for. `cpu` and
`gpu` price the layers of a measured file alone, whatever it says: see `test_measured`.
"""

import itertools
import json
import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from frameworks import Layer, Policy, describe, targets
from frameworks.core.policy import VALID_BITS, LayerBits

NAMES = [name for name in targets.names() if name not in ("cpu", "gpu")]
PAIRS = list(itertools.product(sorted(VALID_BITS - {0}), repeat=2))
WIDTHS = [1, 2, 3, 5, 8, 16, 24, 31, 32, 33, 48, 64, 96, 160, 257]
settings.register_profile("targets", deadline=None, max_examples=40)


@pytest.fixture(scope="module", params=NAMES)
def target(request, tmp_path_factory):
    return make(request.param, tmp_path_factory.mktemp("table") / "table.json")


def make(name, path):
    """A target by name, with the arguments that it needs."""
    if name != "table":
        return targets.get(name)()
    rows = [
        {"layer": f"layer{i}", "w_bits": w, "a_bits": a, "cost": (i + 1) * (w + a)}
        for i, (w, a) in itertools.product(range(3), PAIRS)
    ]
    path.write_text(json.dumps({"rows": rows}))
    return targets.get(name)(path=str(path))


@st.composite
def layer(draw, index=None):
    """One layer of consistent sizes."""
    index = draw(st.integers(0, 2)) if index is None else index
    kind = draw(st.sampled_from(["conv", "grouped", "depthwise", "conv1d", "linear", "tokens"]))
    inputs, outputs = draw(st.sampled_from(WIDTHS)), draw(st.sampled_from(WIDTHS))
    groups = {"grouped": 2, "depthwise": inputs}.get(kind, 1)
    if kind == "grouped":
        inputs, outputs = 2 * inputs, 2 * outputs
    elif kind == "depthwise":
        outputs = inputs * draw(st.sampled_from([1, 2]))
    dims = {"conv1d": 1, "linear": 1, "tokens": 1}.get(kind, 2)
    flat = kind in ("linear", "tokens")
    kernel = 1 if flat else draw(st.sampled_from([1, 3]))
    stride = 1 if flat else draw(st.sampled_from([1, 2]))
    side = draw(st.sampled_from([1, 4, 7, 14, 17, 32]))
    out = (math.ceil(side / stride),) * dims if kind != "linear" else ()
    params = outputs * (inputs // groups) * kernel**dims
    return Layer(
        name=f"layer{index}", kind="linear" if flat else "conv", index=index, in_channels=inputs,
        out_channels=outputs, kernel=(kernel,) * dims, stride=(stride,) * dims, groups=groups,
        in_size=(side,) * dims if kind != "linear" else (), out_size=out, params=params,
        macs=params * math.prod(out), block=f"layer{index}",
    )  # fmt: skip


def runs(target, layer):
    """The pairs of bits at which a target runs a layer."""
    return [pair for pair in PAIRS if target.supports(layer, *pair)]


def pair_of(data, target, layer, label):
    pairs = runs(target, layer)
    assume(pairs)
    return data.draw(st.sampled_from(pairs), label)


def cost(target, layer, weight, act):
    return target.cost([layer], Policy({layer.name: LayerBits(weight, act)}))


ULP = 1 + 1e-12  # sums of floats in another order


@settings(settings.get_profile("targets"))
@given(st.data())
def test_more_bits_never_cost_less(target, data):
    if not target.monotone:
        pytest.skip("the target does not claim it")
    drawn = data.draw(layer())
    weight, act = pair_of(data, target, drawn, "bits")
    more = [(w, a) for w, a in runs(target, drawn) if w >= weight and a >= act]
    low = cost(target, drawn, weight, act)
    for pair in more:
        high = cost(target, drawn, *pair)
        assert all(low[m] <= high[m] * ULP for m in target.metrics), pair


@settings(settings.get_profile("targets"))
@given(st.data())
def test_more_bits_of_one_channel_never_cost_less(target, data):
    if not (target.monotone and target.per_channel):
        pytest.skip("the target does not claim it")
    drawn = data.draw(layer())
    _, act = pair_of(data, target, drawn, "bits")
    allowed = [0, *(w for w, a in runs(target, drawn) if a == act)]
    bits = data.draw(
        st.lists(st.sampled_from(allowed), min_size=drawn.out_channels, max_size=drawn.out_channels)
    )
    position = data.draw(st.integers(0, drawn.out_channels - 1))
    value = data.draw(st.sampled_from([w for w in allowed if w >= bits[position]]))
    more = [*bits[:position], value, *bits[position + 1 :]]
    low, high = (cost(target, drawn, tuple(b), act) for b in (bits, more))
    assert all(low[m] <= high[m] * ULP for m in target.metrics)


@settings(settings.get_profile("targets"))
@given(st.data())
def test_channels_of_equal_bits_cost_what_the_layer_without_the_pruned_ones_does(target, data):
    if not target.per_channel:
        pytest.skip("no bits per output channel")
    drawn = data.draw(layer())
    assume(drawn.groups == 1 and drawn.out_channels > 1)
    weight, act = pair_of(data, target, drawn, "bits")
    kept = data.draw(st.integers(1, drawn.out_channels - 1), "kept channels")
    bits = data.draw(st.permutations([weight] * kept + [0] * (drawn.out_channels - kept)))
    params = drawn.params // drawn.out_channels * kept
    smaller = replace(drawn, out_channels=kept, params=params, macs=params * drawn.positions)
    expected = cost(target, smaller, weight, act)
    assert cost(target, drawn, tuple(bits), act) == pytest.approx(expected, rel=1e-12)


@settings(settings.get_profile("targets"))
@given(st.data())
def test_pruned_layers_cost_nothing(target, data):
    drawn = data.draw(layer())
    _, act = pair_of(data, target, drawn, "bits")
    assert target.supports(drawn, 0, act)
    assert set(cost(target, drawn, 0, act).values()) == {0}
    if target.per_channel:
        assert set(cost(target, drawn, (0,) * drawn.out_channels, act).values()) == {0}


@settings(settings.get_profile("targets"))
@given(st.data())
def test_costs_are_sums_over_layers(target, data):
    if not target.separable:
        pytest.skip("the cost is not a sum over layers")
    drawn = [data.draw(layer(i), f"layer {i}") for i in range(3)]
    policy = Policy({x.name: pair_of(data, target, x, x.name) for x in drawn})
    whole = target.cost(drawn, policy)
    assert set(whole) == set(target.metrics)
    for metric, total in whole.items():
        parts = [target.cost([x], policy)[metric] for x in drawn]
        assert total == pytest.approx(sum(parts), rel=1e-12)
        assert all(math.isfinite(part) and part > 0 for part in parts)


@settings(settings.get_profile("targets"))
@given(st.data())
def test_what_a_target_does_not_run_has_no_price(target, data):
    drawn = data.draw(layer())
    other = sorted(set(PAIRS) - set(runs(target, drawn)))
    if not other:
        pytest.skip("the target runs all bits")
    with pytest.raises(ValueError, match=drawn.name):
        cost(target, drawn, *data.draw(st.sampled_from(other)))


# --- against a count by hand: every weight and every output position, one by one -----------------


@cache
def tiny_nets():
    """Small networks with the shape of one input."""
    groups, strides = nn.Conv2d(4, 6, (1, 3), groups=2), nn.Conv2d(4, 8, 3, 2, 1, groups=4)
    return [
        (nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), groups), (3, 5, 4)),
        (nn.Sequential(strides, nn.Flatten(), nn.Linear(48, 5)), (4, 5, 4)),
        (nn.Sequential(nn.Conv2d(2, 3, 3, dilation=2, padding=1)), (2, 6, 5)),
        (nn.Sequential(nn.Conv1d(3, 6, 3, stride=2, groups=3), nn.Linear(4, 2)), (3, 9)),
        (nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 2)), (4, 5)),
    ]


def counted(model, shape, policy):
    """Bytes and bit operations of a network, by walking over weights and output positions."""
    bits = ops = 0.0
    x = torch.zeros(1, *shape)
    for name, module in model.named_children():
        x = module(x)
        if not hasattr(module, "weight"):
            continue
        weights, act = policy[name].channels(len(module.weight)), policy[name].act
        channels_last = isinstance(module, nn.Linear)
        for channel, weight in enumerate(weights):
            for _ in np.ndindex(tuple(module.weight.shape[1:])):
                bits += weight
                outputs = x[0, ..., channel] if channels_last else x[0, channel]
                for _ in np.ndindex(tuple(outputs.shape)):
                    ops += weight * act
    return {"size": bits / 8, "bops": ops}


@pytest.mark.parametrize("index", range(5))
@settings(settings.get_profile("targets"), max_examples=8)
@given(data=st.data())
def test_size_and_bops_are_those_of_a_brute_force_count(index, data):
    model, shape = tiny_nets()[index]
    layers = describe(model, shape)
    widths = st.sampled_from(sorted(VALID_BITS))
    policy = Policy(
        {
            x.name: LayerBits(
                tuple(
                    data.draw(st.lists(widths, min_size=x.out_channels, max_size=x.out_channels))
                ),
                data.draw(widths),
            )
            for x in layers
        }
    )
    expected = counted(model, shape, policy)
    assert targets.get("bops")().cost(layers, policy) == pytest.approx(expected, rel=1e-12)
    assert targets.get("size")().cost(layers, policy)["size"] == pytest.approx(expected["size"])
    for name in NAMES:
        if name != "table" and "size" in (hardware := targets.get(name)()).metrics:
            uniform = {x.name: pairs[0] for x in layers if (pairs := runs(hardware, x))}
            if len(uniform) < len(layers):
                continue
            total = hardware.cost(layers, Policy(uniform))["size"]
            assert total >= counted(model, shape, Policy(uniform))["size"] * (1 - 1e-12)
