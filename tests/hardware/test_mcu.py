import pytest
import timm
from torch import nn

from frameworks import BudgetSpec, Policy, Space, describe, targets
from frameworks.core.budget import cheapest
from frameworks.hardware.mcu import MCU

# 0: 3 -> 4 channels, 3x3, 6x6 -> 6x6: 108 weights, 108 inputs, 144 outputs.
# 1: 4 -> 4 channels, 3x3, 6x6 -> 3x3, depthwise: 36 weights, 144 inputs, 36 outputs.
# 3: 36 -> 5: 180 weights.
LAYERS = describe(
    nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Conv2d(4, 4, 3, 2, 1, groups=4),
        nn.Flatten(),
        nn.Linear(36, 5),
    ),
    (3, 6, 6),
)


def test_hand_worked_memories():
    costs = MCU().cost(LAYERS, Policy({"0": (8, 8), "1": (4, 2), "3": (2, 4)}))
    # Layer 0 holds 108 bytes and 144 outputs of 2 bits, layer 1 36 bytes and 36 of 4 bits.
    assert costs["ram"] == 108 + 36
    extras = (40 + 8) + (40 + 8) + (35 + 4)
    assert costs["flash"] == 108 + 18 + 45 + extras
    assert costs["fill"] == 144 / 512_000


def test_the_last_output_has_eight_bits():
    costs = MCU().cost(LAYERS[2:], Policy({"3": (2, 2)}))
    assert costs["ram"] == 36 / 4 + 5


def test_the_tighter_memory_fills_the_device():
    policy = Policy.uniform(LAYERS, 8, 8)
    costs = MCU(flash_limit=918, ram_limit=1e6).cost(LAYERS, policy)
    assert (costs["ram"], costs["flash"]) == (252, 324 + 135)
    assert costs["fill"] == 0.5
    with pytest.raises(ValueError, match="ram_limit = 0"):
        MCU(ram_limit=0)


def test_it_is_no_sum_over_layers():
    policy = Policy.uniform(LAYERS, 8, 8)
    parts = [MCU().cost([layer], policy)["ram"] for layer in LAYERS]
    assert MCU().cost(LAYERS, policy)["ram"] == max(parts[:2]) < sum(parts)
    assert not MCU.separable


def test_a_pruned_layer_needs_no_memory_but_keeps_its_input_bits():
    full, pruned = (
        MCU().cost(LAYERS, Policy({"0": (8, 8), "1": (w, 4), "3": (8, 8)})) for w in (8, 0)
    )
    assert full["flash"] - pruned["flash"] == 36 + 48
    assert pruned["ram"] == 108 + 144 / 2
    assert MCU().cost(LAYERS, Policy.uniform(LAYERS, 0, 8)) == {"fill": 0, "flash": 0, "ram": 0}


def test_mobilenet_v1_peaks_at_its_first_pointwise_layer():
    layers = describe(timm.create_model("mobilenetv1_100"), (3, 224, 224))
    policy = Policy.uniform(layers, 8, 8)
    costs = MCU().cost(layers, policy)
    assert costs["ram"] == 112 * 112 * (32 + 64) == 1_204_224
    first = layers[2]
    assert (first.kernel, first.in_channels, first.out_channels) == ((1, 1), 32, 64)
    assert MCU().cost([first], policy)["ram"] == costs["ram"]
    # Neither memory of the STM32H7 holds it: cuts are needed.
    assert costs["flash"] > 4.2e6
    assert costs["fill"] == max(costs["flash"] / 2_048_000, costs["ram"] / 512_000) > 2
    # At two bits for what is free it fits.
    low = Policy.uniform(layers, 2, 2).replace(layers[0].name, act=8)
    assert MCU().cost(layers, low)["fill"] < 1


def test_budgets_of_each_metric():
    space = Space.build(LAYERS, [2, 4, 8], [2, 4, 8])
    for metric in ("fill", "flash", "ram"):
        budget = BudgetSpec(ratio=0.5, metric=metric).resolve(MCU(), space)
        eight = MCU().cost(LAYERS, Policy.uniform(LAYERS, 8, 8))[metric]
        assert budget.limit == eight / 2
    assert BudgetSpec(like=4).resolve(targets.get("mcu")(), space).metric == "fill"


def test_bits_that_the_target_lacks_do_not_hinder_the_cheapest_policy():
    """The space has six bits, which are tried (after eight) where more bits are free."""
    space = Space.build(LAYERS, [2, 4, 6, 8], [2, 4, 6, 8])
    chosen = cheapest(MCU(), space, "ram")
    assert MCU().cost(LAYERS, chosen)["ram"] == MCU().cost(LAYERS, space.lowest())["ram"]
    assert chosen["0"].weight == chosen["1"].weight == chosen["3"].weight == 8


def test_unsupported_bits_are_refused():
    with pytest.raises(ValueError, match="mcu does not run layer 1 at w_bits=3, a_bits=8"):
        MCU().cost(LAYERS, Policy({"0": (8, 8), "1": (3, 8), "3": (8, 8)}))
