import pytest
import timm
from torch import nn

from frameworks import BudgetSpec, Policy, Space, describe
from frameworks.core.policy import LayerBits
from frameworks.hardware.bops import Bops
from frameworks.hardware.size import Size

# conv: 3 -> 4 channels, 3x3, 6x6 -> 6x6: 108 weights, 3,888 MACs.
# depthwise: 4 channels, 3x3, stride 2, 6x6 -> 3x3: 36 weights, 324 MACs.
# fc: 36 -> 5: 180 weights, 180 MACs.
MODEL = nn.Sequential(
    nn.Conv2d(3, 4, 3, padding=1),
    nn.Conv2d(4, 4, 3, 2, 1, groups=4),
    nn.Flatten(),
    nn.Linear(36, 5),
)
LAYERS = describe(MODEL, (3, 6, 6))


def test_hand_worked_costs():
    policy = Policy({"0": (8, 8), "1": (4, 2), "3": (2, 6)})
    size = 108 * 8 / 8 + 36 * 4 / 8 + 180 * 2 / 8
    assert Size().cost(LAYERS, policy) == {"size": size}
    bops = 3888 * 64 + 324 * 8 + 180 * 12
    assert Bops().cost(LAYERS, policy) == {"bops": bops, "size": size}


def test_bits_of_each_output_channel_are_averaged():
    policy = Policy({"0": LayerBits((8, 4, 0, 0), 2), "1": (1, 1), "3": (0, 1)})
    assert Size().cost(LAYERS, policy) == {"size": 27 * 12 / 8 + 36 / 8}
    assert Bops().cost(LAYERS, policy)["bops"] == 972 * 12 * 2 + 324


def test_default_metrics_units_and_kinds():
    assert (Size().metric, Size().kind, Size.metrics) == ("size", "model", {"size": "bytes"})
    assert (Bops().metric, Bops().kind) == ("bops", "model")
    assert Bops.metrics == {"bops": "bit operations", "size": "bytes"}
    assert not Size.prices_activations
    assert Bops.prices_activations


def test_budgets_like_uniform_bits():
    space = Space.build(LAYERS, [2, 4, 8], [2, 4, 8], pinned={"0": (8, 8)})
    low, high = (BudgetSpec(like=b).resolve(Bops(), space).limit for b in (2, 4))
    assert low == 3888 * 64 + 504 * 4
    assert high == 3888 * 64 + 504 * 16
    three = BudgetSpec(like=3).resolve(Bops(), space).limit
    assert three == 3888 * 64 + 504 * 9
    assert BudgetSpec(like=2.5).resolve(Bops(), space).limit == pytest.approx((low + three) / 2)
    assert BudgetSpec(ratio=0.5, metric="size").resolve(Bops(), space).limit == 324 / 2


@pytest.mark.parametrize("bits", [1, 4, 8, 32])
def test_uniform_totals_of_a_timm_model(bits):
    layers = describe(timm.create_model("resnet18"), (3, 224, 224))
    policy = Policy.uniform(layers, bits, bits)
    # 11,678,912 weights in convolutions and the classifier, 1,814,073,344 MACs.
    assert Size().cost(layers, policy)["size"] == 11_678_912 * bits / 8
    assert Bops().cost(layers, policy)["bops"] == 1_814_073_344 * bits**2
