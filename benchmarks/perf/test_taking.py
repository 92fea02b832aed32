"""What it costs at the start of a cell to take a network: layers, accounting and the probe."""

import pytest
import torch

from benchmarks.models.build import ModelConfig, create
from frameworks import QModel, account, describe, observe, schemes, torch_rng

NETS = {
    "resnet8": ("ResNet-8", 10, (1, 28, 28)),
    "resnet50": ("ResNet-50", 1000, (3, 224, 224)),
    "vit_small_patch16_224": ("ViT-S", 1000, (3, 224, 224)),
}


@pytest.mark.parametrize("name", NETS)
def test_taking_a_network_over_a_float_pass(compare, name):
    text, classes, shape = NETS[name]
    network = create(ModelConfig(name=name), classes, shape).eval()
    images = torch.randn(2, *shape, generator=torch_rng(0, "perf"))

    def take():
        layers = describe(network, shape)
        QModel(
            network, layers, schemes.get("mse")(), observe(network, layers, images, torch_rng(0))
        )
        account(network, layers, shape)

    def plain():
        with torch.no_grad():
            network(images)

    compare(
        take,
        plain,
        rounds=3,
        title=f"taking {text} (layers, samples, accounting, probe) over a float pass of two images",
        goal="seconds",
        note="once for each model and data set of a run, and once a cell",
    )
