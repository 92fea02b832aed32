"""LIMPQ's published budgets by the costs of our targets, and its policy from its indicators.

Of the JSON files beside this one.
"""

import itertools
import json
import math
from pathlib import Path

import pytest
import timm

from frameworks import Policy, describe
from frameworks.core.solvers.milp import multiple_choice
from frameworks.hardware.bops import Bops
from frameworks.heuristic.limpq.programme import outliers, without_outliers


def read(name):
    return json.loads((Path(__file__).parent / f"{name}.json").read_text())


DATA = read("limpq_budgets_resnet18_mobilenetv1")
CASES = [(name, case) for name, cases in DATA["budget"].items() for case in cases]


def uniform(layers, bits):
    """First convolution and classifier at 8 bits, all else at some."""
    ends = {layers[0].name, layers[-1].name}
    return Policy({x.name: (8, 8) if x.name in ends else (bits, bits) for x in layers})


@pytest.mark.parametrize(
    ("name", "model"), [("resnet18", "resnet18"), ("mobilenetv1", "mobilenetv1_100")]
)
def test_exact_costs_are_those_of_our_targets(name, model):
    layers = describe(timm.create_model(model, pretrained=False), (3, 224, 224))
    listed = DATA["layers"][name]
    assert [(x.params, x.macs) for x in layers] == [(x["params"], x["macs"]) for x in listed]
    for case, budget in DATA["budget"][name].items():
        costs = Bops().cost(layers, uniform(layers, int(case[1])))
        assert costs["bops"] == budget["bitops_exact"]
        assert costs["size"] / 2**20 == pytest.approx(budget["size_mib"], abs=5e-7)


def searched_macs(layer):
    """As the released search counts them: the floor is taken of the product of both sides."""
    if layer["type"] == "linear":
        return layer["macs"]
    side = (layer["in_size"] + 2 * (layer["kernel"] // 2) - layer["kernel"]) / layer["stride"] + 1
    weights = layer["params"] // layer["out_channels"] * layer["out_channels"]
    return math.floor(side * side) * weights


@pytest.mark.parametrize(("name", "case"), CASES)
def test_the_released_search_counts_more(name, case):
    first, *inner, last = DATA["layers"][name]
    bits, budget = int(case[1]), DATA["budget"][name][case]
    macs = {x["name"]: searched_macs(x) for x in DATA["layers"][name]}
    assert macs == {x["name"]: x["macs_search"] for x in DATA["layers"][name]}
    total = 64 * (macs[first["name"]] + macs[last["name"]])
    total += bits**2 * sum(macs[x["name"]] for x in inner)
    assert total == budget["bitops_search"] > budget["bitops_exact"]


def test_the_published_figures_are_nearest_to_what_the_search_counts():
    published = DATA["published"]["mobilenetv1_w4a4"]["bitops_g"]
    budget = DATA["budget"]["mobilenetv1"]["w4a4"]
    assert round(budget["bitops_search"] / 1e9, 2) == published != budget["bitops_exact"] / 1e9
    assert round(budget["bitops_exact"] / 1e9, 2) == 9.67
    assert round(DATA["budget"]["resnet18"]["w4a4"]["bitops_search"] / 1e9, 2) == 35.04


# --- ResNet-50, W3A4, 12.2 times smaller

RELEASED = read("limpq_indicators_resnet50")
RESNET50 = {x["name"]: x for x in read("ompq_resnet50_qat")["layers"]}
SEARCHED = [x["name"] for x in RELEASED["layers"]]


@pytest.fixture(scope="module")
def values():
    bits = [str(b) for b in RELEASED["candidates"]]
    return {
        kind: {x["name"]: dict(zip(bits, x[kind], strict=True)) for x in RELEASED["layers"]}
        for kind in ("weight", "act")
    }


def limits(macs):
    """The released search's: bit operations of uniform bits, and a share of the float size."""
    budget, params = RELEASED["budget"], sum(x["params"] for x in RESNET50.values())
    ends = sum(x["params"] for name, x in RESNET50.items() if name not in SEARCHED)
    return {
        "bops": sum(macs.values()) * budget["weight_bits"] * budget["act_bits"],
        "size": 32 * params / budget["compression"] - 8 * ends,
    }


def test_released_outliers_are_two(values):
    found = {n: bits for kind in values.values() for n, r in kind.items() if (bits := outliers(r))}
    assert found == {"layer4.0.downsample.0": [5], "layer4.2.conv3": [5]}


def test_the_released_policy_is_reproduced_from_the_released_indicators(values):
    weights, acts = without_outliers(values, RELEASED["budget"]["alpha"])
    macs = {name: searched_macs(RESNET50[name]) for name in SEARCHED}
    assert sum(macs.values()) == 4_023_713_792
    table = {
        n: {
            (w, a): (
                weights[n][w] + acts[n][a],
                {"bops": macs[n] * w * a, "size": RESNET50[n]["params"] * w},
            )
            for w, a in itertools.product(RELEASED["candidates"], repeat=2)
        }
        for n in SEARCHED
    }
    found = multiple_choice(table, limits(macs))
    assert found == {x["name"]: tuple(x["bits"]) for x in RELEASED["layers"]}
    assert sum(table[n][found[n]][0] for n in SEARCHED) == pytest.approx(4.617439227, rel=1e-8)
    used = sum(table[n][found[n]][1]["bops"] for n in SEARCHED)
    assert used == 48_283_189_248 <= limits(macs)["bops"] == 48_284_565_504
