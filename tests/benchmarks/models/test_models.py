import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from benchmarks.models.build import ModelConfig, create, models
from frameworks import UnknownName, describe

ROOT = Path(__file__).parents[3]


def conv(inputs, outputs, side):
    return inputs * outputs * side * side


def resnet_weights(blocks, in_chans=1, classes=10):
    """Weights of convolutions and of the classifier of a 6n+2 ResNet, counted by hand."""
    total, inputs = conv(in_chans, 16, 3), 16
    for width in (16, 32, 64):
        for _ in range(blocks):
            total += conv(inputs, width, 3) + conv(width, width, 3)
            total += conv(inputs, width, 1) if inputs != width else 0
            inputs = width
    return total + 64 * classes


@pytest.mark.parametrize(
    ("name", "blocks", "weights"),
    [("resnet8", 1, 77_072), ("resnet20", 3, 270_608), ("resnet56", 9, 851_216)],
)
def test_the_cifar_resnets_have_6n_plus_2_layers(name, blocks, weights):
    model = create(ModelConfig(name=name), 10, (1, 28, 28))
    layers = describe(model, (1, 28, 28))
    assert sum(layer.params for layer in layers) == resnet_weights(blocks) == weights
    shortcuts = [layer for layer in layers if layer.kernel == (1, 1)]
    assert len(layers) == 6 * blocks + 2 + len(shortcuts)
    assert len(shortcuts) == 2
    norms = sum(2 * m.num_features for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    assert sum(p.numel() for p in model.parameters()) == weights + norms + 10
    by_name = {layer.name: layer for layer in layers}
    assert by_name["conv1"].out_size == (28, 28)
    assert by_name["layer2.0.conv1"].out_size == (14, 14)
    assert by_name["layer3.0.conv1"].out_size == (7, 7)
    assert layers[-1].name == "fc"


def test_resnet20_on_cifar_has_the_papers_parameters():
    """He et al. (arXiv 1512.03385), table 6: 0.27 million, 0.85 million."""
    for name, millions in (("resnet20", 0.27), ("resnet56", 0.85)):
        model = create(ModelConfig(name=name), 10, (3, 32, 32))
        assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) in (
            millions,
            millions + 0.01,
        )


def test_mobilenetv2_small():
    model = create(ModelConfig(name="mobilenetv2_small"), 7, (3, 32, 32))
    layers = describe(model, (3, 32, 32))
    depthwise = [layer for layer in layers if layer.depthwise]
    assert len(depthwise) == 7
    assert len(layers) == 1 + 3 * 7 + 1 + 1
    assert [layer.stride for layer in depthwise] == [
        (1, 1), (2, 2), (1, 1), (2, 2), (1, 1), (1, 1), (1, 1),
    ]  # fmt: skip
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    # Expansion 4 of the stage's input width: 16 -> 64 -> 16, then 16 -> 64 -> 24.
    assert (layers[1].out_channels, layers[3].out_channels, layers[6].out_channels) == (64, 16, 24)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 28, 28)])
@pytest.mark.parametrize("name", ["resnet8", "mobilenetv2_small"])
def test_small_models_take_any_small_image(name, shape):
    model = create(ModelConfig(name=name), 5, shape)
    assert not model.training
    assert model(torch.zeros(2, *shape)).shape == (2, 5)


def test_the_small_models_are_registered_with_timm():
    for name in ("resnet8", "resnet20", "resnet56", "mobilenetv2_small"):
        assert timm.is_model(name)
    assert timm.create_model("resnet8", num_classes=3).fc.out_features == 3


def test_any_model_of_timm_by_name_and_options():
    model = create(ModelConfig(name="resnet10t"), 4, (3, 32, 32))
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 4)
    config = ModelConfig(
        name="vit_tiny_patch16_224", options={"img_size": 32, "patch_size": 8, "depth": 1}
    )
    vit = create(config, 4, (1, 32, 32))
    assert vit(torch.zeros(1, 1, 32, 32)).shape == (1, 4)
    assert len(vit.blocks) == 1


def test_initial_weights_are_the_same_every_time_and_spare_global_randomness():
    before = torch.get_rng_state()
    first, second = (create(ModelConfig(), 10, (1, 8, 8)).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "near"), [("resnet9000", "resnet"), ("mobilnetv2_small", "mobilenetv2_small")]
)
def test_a_wrong_name_suggests_the_nearest(name, near):
    with pytest.raises(UnknownName, match=rf"unknown model '{name}'.*nearest are .*{near}"):
        create(ModelConfig(name=name), 10, (3, 32, 32))


def test_a_name_like_no_other_still_says_what_works():
    with pytest.raises(UnknownName, match=r"resnet8, resnet20, resnet56 and.*timm\.list_models"):
        create(ModelConfig(name="@"), 10, (3, 32, 32))


def test_options_and_inputs_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"model resnet8 does not work.*colour"):
        create(ModelConfig(options={"colour": 1}), 10, (1, 8, 8))
    with pytest.raises(ValueError, match="model vit_tiny_patch16_224 does not work on inputs of"):
        create(ModelConfig(name="vit_tiny_patch16_224", options={"depth": 1}), 10, (3, 8, 8))


def test_a_plugins_factory_gets_timms_keywords(monkeypatch):
    seen = {}

    def factory(pretrained, num_classes, in_chans, **options):
        seen.update(options, pretrained=pretrained)
        return nn.Sequential(nn.Flatten(), nn.Linear(in_chans * 16, num_classes))

    models.names()
    monkeypatch.setitem(models._entries, "mine", factory)
    model = create(ModelConfig(name="mine", options={"extra": 2}), 3, (1, 4, 4))
    assert model(torch.zeros(2, 1, 4, 4)).shape == (2, 3)
    assert seen == {"extra": 2, "pretrained": False}


def test_our_networks_do_without_timm_which_knows_them_once_it_is_loaded():
    code = (
        "import sys; from benchmarks.models import ModelConfig, create;"
        "import benchmarks.suite.running.worker, benchmarks.commands.runs;"
        "ours = create(ModelConfig('resnet8'), 10, (1, 8, 8));"
        "assert not {'timm', 'torchvision'} & set(sys.modules);"
        "import timm; named = timm.create_model('resnet8', num_classes=10);"
        "assert named.fc.out_features == ours.fc.out_features;"
        "create(ModelConfig('test_resnet'), 10, (1, 32, 32))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
