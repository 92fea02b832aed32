import json
import warnings
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import timm
from torch import nn

from frameworks import BudgetSpec, InfeasibleBudget, Policy, Space, describe, targets
from frameworks.core.policy import LayerBits
from frameworks.core.target import UnsupportedBits
from frameworks.hardware.t4 import SHAPE, T4, rows

HAWQ = json.loads((Path(__file__).parents[1] / "reference" / "hawq_v3_resnet18.json").read_text())
TARGET = T4()


@pytest.fixture(scope="module")
def layers():
    return describe(timm.create_model("resnet18"), (3, 224, 224))


@pytest.fixture(scope="module")
def inner(layers):
    """What HAWQ-V3 measured: all but the first convolution and the classifier."""
    return layers[1:-1]


def policy_of(inner, name):
    bits = HAWQ["published_bits"][name]
    return Policy({x.name: (b, b) for x, b in zip(inner, bits, strict=True)})


def latency(layers, policy):
    return TARGET.cost(layers, policy)["latency"]


def test_the_shipped_table_is_the_published_one_with_timms_shapes(inner):
    for i, (row, layer) in enumerate(zip(rows(), inner, strict=True)):
        shape = [getattr(layer, field) for field in SHAPE]
        assert [tuple(v) if isinstance(v := row[f], list) else v for f in SHAPE] == shape
        assert (row["layer"], row["macs"]) == (HAWQ["layers"][i], layer.macs)
        assert row["latency_ms"] == {b: HAWQ[f"latency_int{b}_ms"][i] for b in ("4", "8")}


def test_published_totals(inner):
    int8, int4 = (latency(inner, policy_of(inner, f"uniform{b}")) for b in (8, 4))
    assert (round(int8, 3), round(int4, 3)) == (5.344, 3.149)
    assert int8 == pytest.approx(sum(HAWQ["latency_int8_ms"]), rel=1e-12)
    assert int4 == pytest.approx(sum(HAWQ["latency_int4_ms"]), rel=1e-12)
    assert round(int8 / int4, 2) == 1.70


@pytest.mark.parametrize("share", [0.75, 0.5, 0.25])
def test_published_policies_keep_to_their_limits(inner, share):
    # By the notebook's own rows; the mean over equal shapes moves a mixed total by up to 1 %.
    low, high = (latency(inner, policy_of(inner, f"uniform{b}")) for b in (4, 8))
    cost = latency(inner, policy_of(inner, f"latency_{share}"))
    bits = HAWQ["published_bits"][f"latency_{share}"]
    exact = sum(HAWQ[f"latency_int{b}_ms"][i] for i, b in enumerate(bits))
    assert exact <= low + share * (high - low)
    assert cost == pytest.approx(exact, rel=0.01)


def test_published_sizes(layers):
    sizes = [TARGET.cost(layers, Policy.uniform(layers, b, b))["size"] / 2**20 for b in (8, 4)]
    assert round(sizes[0], 1) == HAWQ["published_table"]["uniform8"][0]
    assert sizes[0] == 2 * sizes[1]


def test_layers_are_known_by_shape_and_not_by_name(inner):
    first = [x for x in inner if x.name.startswith("layer1")]
    mean = fmean(HAWQ["latency_int8_ms"][:4])
    for layer in (*first, replace(first[0], name="other", index=3)):
        assert TARGET.measured(layer)
        assert TARGET.layer_cost(layer, LayerBits(8, 8))["latency"] == pytest.approx(mean)
    assert not TARGET.measured(replace(first[0], out_size=(28, 28)))
    assert not TARGET.measured(replace(first[0], groups=2))
    twice = replace(first[0], macs=2 * first[0].macs)
    assert TARGET.layer_cost(twice, LayerBits(8, 8))["latency"] == pytest.approx(2 * mean)


def test_other_layers_are_interpolated(inner):
    other = replace(inner[0], kernel=(5, 5))
    small, large = (
        {b: fmean(c for c, x in zip(HAWQ[f"latency_int{b}_ms"], inner, strict=True) if x.macs == m)
         for b in (4, 8)}
        for m in (6_422_528, 115_605_504)
    )  # fmt: skip
    for b in (4, 8):

        def cost(macs, b=b):
            layer = replace(other, macs=macs)
            return TARGET.layer_cost(layer, LayerBits(b, b))["latency"]

        assert cost(6_422_528) == pytest.approx(small[b])
        assert cost(3_211_264) == pytest.approx(small[b] / 2)
        assert cost(115_605_504) == pytest.approx(large[b])
        assert cost(3 * 115_605_504) == pytest.approx(3 * large[b])
        middle = fmean(HAWQ[f"latency_int{b}_ms"][i] for i in (4, 9, 14))
        assert cost((57_802_752 + 115_605_504) // 2) == pytest.approx((middle + large[b]) / 2)


def test_guesses_are_announced_or_refused(layers, inner):
    with pytest.warns(UserWarning, match=r"t4: 2 of the model's 21 layers are not in the table"):
        TARGET.prepare(layers)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TARGET.prepare(inner)
    strict = T4(interpolate=False)
    with pytest.raises(ValueError, match=r"2 of the model's 21 .*: conv1, fc"):
        strict.prepare(layers)
    assert strict.supports(inner[0], 8, 8)
    assert not strict.supports(layers[0], 8, 8)
    with pytest.raises(UnsupportedBits, match="layer conv1"):
        strict.layer_cost(layers[0], LayerBits(8, 8))


@pytest.mark.parametrize("bits", [(32, 32), (2, 2), (4, 8), (8, 4), (16, 16), (0, 8)])
def test_only_equal_pairs_of_4_and_8_run(inner, bits):
    assert TARGET.supports(inner[0], *bits) == (bits[0] == 0)
    if bits[0]:
        with pytest.raises(UnsupportedBits, match="t4 does not run layer layer1"):
            TARGET.layer_cost(inner[0], LayerBits(*bits))
    else:
        assert TARGET.layer_cost(inner[0], LayerBits(*bits)) == {"latency": 0, "size": 0}


def test_no_costs_per_output_channel(inner):
    with pytest.raises(UnsupportedBits, match="no costs per output channel"):
        TARGET.layer_cost(inner[0], LayerBits((4,) * 32 + (8,) * 32, 8))


def test_budgets(layers):
    ends = {layer.name: (8, 8) for layer in (layers[0], layers[-1])}
    space = Space.build(layers, [4, 8], [4, 8], pinned=ends, paired=True)
    limits = [BudgetSpec(like=b).resolve(TARGET, space).limit for b in (4, 8)]
    assert limits[1] - limits[0] == pytest.approx(
        sum(HAWQ["latency_int8_ms"]) - sum(HAWQ["latency_int4_ms"])
    )
    between = BudgetSpec(like=6).resolve(TARGET, space).limit
    assert between == pytest.approx(sum(limits) / 2)
    with pytest.raises(InfeasibleBudget, match=r"uniformly at \[4, 8\]"):
        BudgetSpec(like=3).resolve(TARGET, space)


def test_layers_of_other_kinds():
    model = nn.Sequential(nn.Conv1d(32, 64, 3, padding=1), nn.Flatten(), nn.Linear(1280, 1000))
    for layer in describe(model, (32, 20)):
        four, eight = (TARGET.layer_cost(layer, LayerBits(b, b))["latency"] for b in (4, 8))
        assert 0 < four < eight < 0.034 * layer.macs / 6_422_528


def test_facts():
    assert targets.get("t4") is T4
    assert (TARGET.kind, TARGET.metric, TARGET.per_channel) == ("table", "latency", False)
    assert TARGET.metrics == {"latency": "ms", "size": "bytes"}
