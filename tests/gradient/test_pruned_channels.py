"""What methods that prune and quantize take away is gone from every target's costs and from files.

The policies are those of DJPQ's and Bayesian Bits' own networks, with some channels shut.
"""

import math
from functools import cache

import pytest
import torch

from benchmarks.export.formats.packed import load_packed, save_packed
from frameworks import LayerBits, Policy, targets
from frameworks.gradient.bayesian_bits import BayesianBits
from frameworks.gradient.bayesian_bits.framework import THRESHOLD
from frameworks.gradient.djpq.jointnet import JointNet
from frameworks.testing import toy

LAYERS = {"blocks.0.conv1": 3, "blocks.1.pointwise": 5, "blocks.1.depthwise": 8}
"""Layers and how many of their first channels are pruned; the depthwise one has no more."""


def problem(target="bops"):
    return toy.make_problem(target, bits=(2, 4, 8), retrains=True)


@torch.no_grad()
def of_djpq(of):
    net = JointNet(of, False, 1e-3, True)
    for name, count in LAYERS.items():
        net.gates[name].mu[:count] = 0
    return net.policy()


@torch.no_grad()
def of_bayesian_bits(of):
    net = BayesianBits().gated(of)
    for name, count in LAYERS.items():
        net.channels[name].logits[:count] = -9
    return net.policy(THRESHOLD)


JOINT = {"djpq": of_djpq, "bayesian_bits": of_bayesian_bits}


@pytest.fixture(params=JOINT)
def pruned(request):
    return cached(request.param)


@cache
def cached(name):
    return JOINT[name](problem())


def pricing_channels():
    """Every hardware target that has costs per output channel, without options."""
    found = [targets.get(name) for name in targets.names()]
    return [t for t in found if t.per_channel and t.__module__.startswith("frameworks.hardware.")]


def kept(layer, bits):
    """The layer without its pruned channels, as (weights, MACs) and the bits of the others."""
    left = [b for b in bits.channels(layer.out_channels) if b]
    return layer.params // layer.out_channels, layer.macs / layer.out_channels, left


def test_there_are_such_targets():
    names = {target.name for target in pricing_channels()}
    assert {"bops", "size", "bitfusion", "bismo_edge", "bismo_cloud", "mpic"} <= names


def test_the_policies_are_those_of_shut_channels(pruned):
    problem().space.validate(pruned)
    for name, bits in pruned.items():
        channels = bits.channels(len(toy.network().get_submodule(name).weight))
        assert channels[: LAYERS.get(name, 0)].count(0) == channels.count(0) == LAYERS.get(name, 0)


@pytest.mark.parametrize("target", pricing_channels(), ids=lambda target: target.name)
def test_pruned_channels_are_in_no_cost(target, pruned):
    of = problem()
    whole = Policy({n: (max(b.channels(64)) if isinstance(b.weight, int) else max(b.weight), b.act)
                    if b.weight else (8, b.act) for n, b in pruned.items()})  # fmt: skip
    cost, full = (target().cost(of.layers, policy) for policy in (pruned, whole))
    parts = {layer.name: kept(layer, pruned[layer.name]) for layer in of.layers}
    if "size" in cost:
        assert cost["size"] == pytest.approx(sum(n * sum(b) / 8 for n, _, b in parts.values()))
    if "bops" in cost:
        expected = [macs * sum(b) * pruned[name].act for name, (_, macs, b) in parts.items()]
        assert cost["bops"] == pytest.approx(sum(expected))
    assert all(cost[metric] < full[metric] for metric in target.metrics)


@pytest.mark.parametrize("target", pricing_channels(), ids=lambda target: target.name)
def test_bits_are_counted_channel_by_channel(target):
    of, priced = problem(), target()
    layer = next(x for x in of.layers if x.name == "blocks.1.pointwise")
    mixed = (2,) * 5 + (4,) * 6 + (8,) * 5

    def costs(weight):
        return priced.cost([layer], Policy({layer.name: LayerBits(weight, 8)}))

    found, bounds = costs(mixed), (costs(2), costs(8))
    if "size" in found:
        per_channel = layer.params // layer.out_channels
        assert found["size"] == pytest.approx(per_channel * sum(mixed) / 8)
    if "bops" in found:
        assert found["bops"] == pytest.approx(layer.macs / layer.out_channels * sum(mixed) * 8)
    for metric, value in found.items():
        assert bounds[0][metric] <= value <= bounds[1][metric]
        assert costs(mixed[::-1])[metric] == pytest.approx(value)
        assert costs((0, *mixed[1:]))[metric] <= value


def test_packed_files_have_fewer_weights(pruned, tmp_path):
    of = problem()
    whole = Policy.uniform(of.layers, 8, 8)
    sizes = {}
    for name, policy in (("whole", whole), ("pruned", pruned)):
        model = of.quantized(policy)
        sizes[name] = save_packed(model, tmp_path / name, toy.SHAPE)
        again = load_packed(tmp_path / name, of.network)
        torch.testing.assert_close(again(of.images), model(of.images), rtol=0, atol=0)
    parts = [kept(layer, pruned[layer.name]) for layer in of.layers]
    assert sizes["pruned"] == sum(math.ceil(n * sum(bits) / 8) for n, _, bits in parts)
    assert sizes["pruned"] < sizes["whole"]
    gone = (tmp_path / "whole").stat().st_size - (tmp_path / "pruned").stat().st_size
    # The header names the bits of every channel, and is longer by less than the weights are fewer.
    assert gone > 0
