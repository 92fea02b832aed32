"""Every shape of layer is priced by every target that models an engine."""

import pytest
from torch import nn

from frameworks import LayerBits, describe, targets

SHAPES = {
    "conv": (nn.Conv2d(8, 12, (3, 5), 2, 1), (8, 9, 9)),
    "depthwise": (nn.Conv2d(8, 8, 5, padding=2, groups=8), (8, 9, 9)),
    "multiplier": (nn.Conv2d(8, 16, 3, padding=1, groups=8), (8, 9, 9)),
    "grouped": (nn.Conv2d(8, 12, 3, padding=1, groups=4), (8, 9, 9)),
    "sequence": (nn.Conv1d(8, 12, 3, padding=1), (8, 20)),
    "depthwise sequence": (nn.Conv1d(8, 8, 3, padding=1, groups=8), (8, 20)),
    "linear": (nn.Linear(20, 7), (20,)),
    "tokens": (nn.Linear(20, 7), (6, 20)),
}
ENGINES = ["gap8_pulp_nn", "mpic", "ne16", "diana", "cortex_m"]


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_has_a_price(name, shape):
    target, layer = targets.get(name)(), describe(*SHAPES[shape])[0]
    for bits in (LayerBits(w, a) for w in (2, 4, 8) for a in (2, 4, 8)):
        if target.supports(layer, bits.weight, bits.act):
            costs = target.layer_cost(layer, bits)
            assert costs["latency"] > 0
            assert costs["size"] == layer.params * bits.weight / 8
        else:
            with pytest.raises(ValueError, match="does not run"):
                target.layer_cost(layer, bits)
    assert set(target.layer_cost(layer, LayerBits(0, 8)).values()) == {0.0}


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        return self.conv(self.conv(x))


@pytest.mark.parametrize("name", ENGINES)
def test_a_layer_that_runs_twice_takes_twice_as_long(name):
    target = targets.get(name)()
    once, twice = (
        target.layer_cost(describe(model, (8, 9, 9))[0], LayerBits(8, 8))
        for model in (Twice().conv, Twice())
    )
    assert twice["latency"] == 2 * once["latency"]
    assert twice["size"] == once["size"]
