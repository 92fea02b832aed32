"""LIMPQ's published budgets, from the JSON file beside this one, by the costs of our targets."""

import json
import math
from pathlib import Path

import pytest
import timm

from frameworks import Policy, describe
from frameworks.hardware.bops import Bops

DATA = json.loads((Path(__file__).parent / "limpq_budgets_resnet18_mobilenetv1.json").read_text())
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
