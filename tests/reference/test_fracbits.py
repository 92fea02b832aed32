"""FracBits' published targets are the costs of uniform bits, by ours; from the JSON file beside."""

import json
from pathlib import Path

import pytest
import timm

from frameworks import Policy, describe
from frameworks.hardware.bops import Bops

DATA = json.loads((Path(__file__).parent / "fracbits_targets.json").read_text())
MODELS = {"resnet18": "resnet18", "mobilenetv1": "mobilenetv1_100"}
CASES = [(name, metric, bits) for name in MODELS for metric in ("bitops_g", "size_mb")
         for bits in DATA["budget"][name][metric]]  # fmt: skip


def uniform(layers, bits):
    """First convolution 8/8, classifier's weights 8 bits, all else at some."""
    first, *inner, last = (layer.name for layer in layers)
    return Policy({first: (8, 8), **dict.fromkeys(inner, (bits, bits)), last: (8, bits)})


@pytest.mark.parametrize(("name", "metric", "bits"), CASES)
def test_published_targets_are_those_of_uniform_bits(name, metric, bits):
    layers = describe(timm.create_model(MODELS[name], pretrained=False), (3, 224, 224))
    listed = DATA["layers"][name]
    assert [(x.params, x.macs) for x in layers] == [(x["params"], x["macs"]) for x in listed]
    costs = Bops().cost(layers, uniform(layers, int(bits)))
    # The released size has the classifier's 1000 biases of four bytes besides.
    cost = costs["bops"] / 1e9 if metric == "bitops_g" else (costs["size"] + 4000) / 1e6
    assert cost == pytest.approx(DATA["check"][name][metric][bits], abs=5.1e-5)
    assert cost == pytest.approx(DATA["budget"][name][metric][bits], abs=0.0052)
