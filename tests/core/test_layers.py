import math

import pytest
import timm
import torch
from torch import nn

from frameworks.core.layers import plane
from frameworks.core.networks.taking.describe import describe


def only(net, shape):
    (layer,) = describe(net, shape)
    return layer


def brute_force_macs(layer):
    """Count multiply-accumulates one by one."""
    count = 0
    for _ in range(layer.positions):
        for _ in range(layer.out_channels):
            for _ in range(layer.in_channels // layer.groups):
                count += math.prod(layer.kernel)
    return count


def test_convolution():
    layer = only(nn.Sequential(nn.Conv2d(3, 8, (3, 5), stride=2, padding=1)), (3, 9, 12))
    assert (layer.kind, layer.kernel, layer.stride, layer.groups) == ("conv", (3, 5), (2, 2), 1)
    assert (layer.in_size, layer.out_size) == ((9, 12), (5, 5))
    assert layer.params == 3 * 8 * 15
    assert layer.macs == layer.params * 25 == brute_force_macs(layer)
    assert (layer.in_elements, layer.out_elements) == (3 * 108, 8 * 25)
    assert not layer.depthwise


@pytest.mark.parametrize(("groups", "out"), [(4, 8), (8, 8), (8, 16)])
def test_grouped_and_depthwise(groups, out):
    layer = only(nn.Sequential(nn.Conv2d(8, out, 3, padding=1, groups=groups)), (8, 5, 5))
    assert layer.params == out * (8 // groups) * 9
    assert layer.macs == layer.params * 25 == brute_force_macs(layer)
    assert layer.depthwise == (groups == 8)


def test_one_channel_is_not_depthwise():
    assert not only(nn.Sequential(nn.Conv2d(1, 4, 3)), (1, 5, 5)).depthwise


def test_convolution_in_one_dimension():
    layer = only(nn.Sequential(nn.Conv1d(4, 6, 3, stride=2, dilation=2, bias=False)), (4, 11))
    assert (layer.kernel, layer.in_size, layer.out_size) == ((3,), (11,), (4,))
    assert layer.macs == 4 * 6 * 3 * 4 == brute_force_macs(layer)


def test_linear_on_a_vector_and_on_tokens():
    vector = only(nn.Sequential(nn.Linear(10, 4)), (10,))
    assert (vector.in_size, vector.out_size, vector.positions) == ((), (), 1)
    assert (vector.params, vector.macs, vector.in_elements) == (40, 40, 10)
    tokens = only(nn.Sequential(nn.Linear(10, 4)), (7, 10))
    assert (tokens.out_size, tokens.positions) == ((7,), 7)
    assert (tokens.params, tokens.macs, tokens.out_elements) == (40, 280, 28)
    plane = only(nn.Sequential(nn.Linear(10, 4)), (3, 5, 10))
    assert (plane.positions, plane.macs) == (15, 600)


class Windows(nn.Module):
    """Cuts an image of 8x8 into four windows that stand in the batch dimension, as Swin does."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 5)
        self.conv = nn.Conv2d(3, 2, 4)

    def forward(self, x):
        windows = x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, 4, 4)
        tokens = self.fc(windows.flatten(2).transpose(1, 2))
        return tokens.mean() + self.conv(windows).mean()


def test_windows_in_the_batch_dimension_all_count():
    fc, conv = describe(Windows(), (3, 8, 8))
    assert (fc.positions, fc.macs) == (64, 64 * 15)
    assert conv.macs == 4 * 96


class Shared(nn.Module):
    """One convolution called twice, at two resolutions."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        return self.conv(nn.functional.max_pool2d(self.conv(x), 2))


def test_shared_module_is_one_layer_with_the_macs_of_all_calls():
    layer = only(Shared(), (2, 8, 8))
    assert layer.name == "conv"
    assert layer.params == 36
    assert layer.macs == 36 * (64 + 16)
    assert layer.out_size == (8, 8)


def test_order_is_that_of_execution_and_modes_are_kept():
    net = nn.Module()
    net.late, net.early = nn.Linear(4, 2), nn.Conv2d(1, 4, 2)
    net.forward = lambda x: net.late(net.early(x).mean((2, 3)))
    net.late.eval()
    layers = describe(net, (1, 3, 3))
    assert [(layer.name, layer.index) for layer in layers] == [("early", 0), ("late", 1)]
    assert net.training
    assert net.early.training
    assert not net.late.training
    assert not net.early._forward_hooks


def test_model_without_layers():
    with pytest.raises(ValueError, match="no Conv1d, Conv2d or Linear"):
        describe(nn.Sequential(nn.BatchNorm2d(3)), (3, 4, 4))


def test_hooks_are_gone_after_an_error():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(7, 2))
    with pytest.raises(RuntimeError):
        describe(net, (3, 8, 8))
    assert not net[0]._forward_hooks
    assert net.training


@pytest.fixture(scope="module")
def described():
    cache = {}

    def get(name, size):
        if name not in cache:
            options = {"img_size": size} if name.startswith(("vit", "swin")) else {}
            with torch.random.fork_rng():
                net = timm.create_model(name, pretrained=False, **options)
            cache[name] = describe(net, (3, size, size))
        return cache[name]

    return get


def blocks(layers):
    return list(dict.fromkeys(layer.block for layer in layers))


@pytest.mark.parametrize(
    ("name", "size", "count", "expected"),
    [
        (
            "resnet18",
            64,
            21,
            ["conv1", *(f"layer{s}.{b}" for s in (1, 2, 3, 4) for b in (0, 1)), "fc"],
        ),
        (
            "mobilenetv2_100",
            32,
            53,
            [
                "conv_stem",
                *(f"blocks.{s}.{b}" for s, n in enumerate((1, 2, 3, 4, 3, 3, 1)) for b in range(n)),
                "conv_head",
                "classifier",
            ],
        ),
        (
            "vit_tiny_patch16_224",
            32,
            50,
            ["patch_embed.proj", *(f"blocks.{b}" for b in range(12)), "head"],
        ),
        (
            "convnext_atto",
            32,
            41,
            [
                "stem.0",
                *(
                    block
                    for s, n in enumerate((2, 2, 6, 2))
                    for block in [
                        *([f"stages.{s}.downsample.1"] if s else []),
                        *(f"stages.{s}.blocks.{b}" for b in range(n)),
                    ]
                ),
                "head.fc",
            ],
        ),
    ],
)
def test_blocks_of_known_families(described, name, size, count, expected):
    layers = described(name, size)
    assert len(layers) == count
    assert blocks(layers) == expected


def test_blocks_of_swin(described):
    layers = described("swin_tiny_patch4_window7_224", 56)
    expected = {f"layers.{s}.blocks.{b}" for s, n in enumerate((2, 2, 6, 2)) for b in range(n)}
    assert {block for block in blocks(layers) if ".blocks." in block} == expected


def test_published_totals():
    """ResNet-18: 1.814 GMACs, 11.68 M weights; ViT-Ti/16 and Swin-T by their formulas."""
    net = timm.create_model("resnet18", pretrained=False)
    layers = describe(net, (3, 224, 224))
    assert sum(layer.params for layer in layers) == 11_678_912
    assert sum(layer.macs for layer in layers) == 1_814_073_344


def test_swin_counts_every_window(described):
    layers = {x.name: x for x in described("swin_tiny_patch4_window7_224", 56)}
    qkv = layers["layers.0.blocks.0.attn.qkv"]
    assert qkv.positions == 14 * 14
    assert qkv.macs == 14 * 14 * 96 * 288


def test_kernels_and_images_in_two_dimensions():
    assert plane((3, 5)) == (3, 5)
    assert plane((7,)) == (7, 1)
    assert plane(()) == (1, 1)


def test_calls_of_a_shared_layer():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, padding=1)

        def forward(self, x):
            return self.conv(self.conv(self.conv(x)))

    assert only(Shared(), (2, 4, 4)).calls == 3
    assert only(nn.Linear(3, 4), (5, 3)).calls == 1
