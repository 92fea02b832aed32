from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pytest
from torch import nn

from frameworks.core.networks.taking.describe import describe
from frameworks.core.policy import LayerBits, Policy
from frameworks.core.target import SeparableTarget, Target, UnsupportedBits, kept_channels
from frameworks.hardware.size import Size
from frameworks.testing import toy

LAYERS = describe(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 5)), (2,))


@dataclass(frozen=True)
class Two(SeparableTarget):
    """Metrics ``energy`` and ``time``; a layer without weights takes no time."""

    name: ClassVar[str] = "two"
    kind: ClassVar[str] = "model"
    metrics: ClassVar[Mapping[str, str]] = {"energy": "mJ", "time": "ms"}
    scale: float = 1.0

    def layer_cost(self, layer, bits):
        costs = {"energy": self.scale * layer.params * bits.weight}
        return {**costs, "time": layer.macs * bits.act} if bits.weight else costs


def test_costs_add_up_in_every_metric():
    policy = Policy({"0": (2, 8), "1": (4, 3)})
    assert Two().cost(LAYERS, policy) == {"energy": 6 * 2 + 15 * 4, "time": 6 * 8 + 15 * 3}
    assert Two(0.5).cost(LAYERS, policy)["energy"] == 36
    assert Two().cost(LAYERS[:1], policy) == {"energy": 12, "time": 48}
    assert Two().cost(LAYERS, policy.replace("1", weight=0)) == {"energy": 12, "time": 48}


def test_a_layer_may_not_bring_a_metric_of_its_own():
    class Odd(Two):
        def layer_cost(self, layer, bits):
            return {"size": 1.0}

    with pytest.raises(KeyError):
        Odd().cost(LAYERS, Policy.uniform(LAYERS, 4, 4))


def test_defaults():
    target = Two()
    assert target.metric == "energy"
    assert target.separable
    assert target.per_channel
    assert target.prices_activations
    assert target.supports(LAYERS[0], 3, 5) is True
    assert target.prepare(LAYERS) is None


def test_interfaces_cannot_be_made():
    for cls in (Target, SeparableTarget):
        with pytest.raises(TypeError, match="abstract"):
            cls()


def test_peak_is_the_largest_layer():
    policy = Policy({"0": (8, 8), "1": (2, 8)})
    assert toy.Peak().cost(LAYERS, policy) == {"peak": 6.0}
    assert toy.Peak().cost(LAYERS, policy.replace("1", weight=4)) == {"peak": 7.5}


class Narrow(Two):
    """Runs 4 bits alone, one width a layer."""

    per_channel = False

    def supports(self, layer, weight, act):
        return (weight, act) == (4, 4)


def test_what_the_hardware_does_not_run_is_refused_by_name():
    layer = LAYERS[0]
    Narrow().require(layer, LayerBits(4, 4))
    Narrow().require(layer, LayerBits(0, 8))
    with pytest.raises(ValueError, match=r"two does not run layer 0 at w_bits=2, a_bits=4"):
        Narrow().require(layer, LayerBits(2, 4))
    with pytest.raises(ValueError, match=r"two has no costs per output channel \(0\)"):
        Narrow().require(layer, LayerBits((4, 4, 0), 4))
    Two().require(layer, LayerBits((4, 2, 0), 4))


def test_kept_channels_of_groups():
    layer = describe(nn.Sequential(nn.Conv2d(4, 8, 1, groups=4)), (4, 2, 2))[0]
    assert kept_channels(layer, LayerBits(4, 8)) == {(4, 4): 4}
    assert kept_channels(layer, LayerBits(0, 8)) == {}
    mixed = LayerBits((2, 8, 8, 2, 0, 4, 0, 0), 8)
    assert kept_channels(layer, mixed) == {(8, 2): 2, (4,): 1}


def test_bits_that_a_target_does_not_run_are_refused():
    class Fours(Size):
        name = "fours"
        per_channel = True

        def supports(self, layer, weight, act):
            return weight in (0, 4)

    class Whole(Fours):
        per_channel = False

    layer = describe(nn.Sequential(nn.Linear(3, 2)), (3,))[0]
    Fours().require(layer, LayerBits((0, 4), 8))
    Whole().require(layer, LayerBits(4, 8))
    with pytest.raises(UnsupportedBits, match="fours does not run layer 0 at w_bits=2, a_bits=8"):
        Fours().require(layer, LayerBits((4, 2), 8))
    with pytest.raises(UnsupportedBits, match=r"no costs per output channel \(0\)"):
        Whole().require(layer, LayerBits((0, 4), 8))
