import pytest
import torch
from torch import nn
from torch.nn import functional

from frameworks.core.networks import calibrate
from frameworks.core.networks.calibrate import SAMPLE, observe
from frameworks.core.networks.taking.describe import describe
from frameworks.core.quantizers.uniform import MinMax
from frameworks.core.randomness import seeded, torch_rng
from frameworks.testing import toy


@pytest.fixture
def images():
    return toy.split("train", 256).images(40)


def direct_inputs(net, x):
    """The inputs of every layer of the toy network, by its own formulas."""
    inputs = {"stem": x}
    x = functional.relu(net.bn(net.stem(x)))
    first, second = net.blocks
    inputs["blocks.0.conv1"] = x
    y = functional.relu(first.bn1(first.conv1(x)))
    inputs["blocks.0.conv2"] = y
    x = functional.relu(x + first.bn2(first.conv2(y)))
    inputs["blocks.1.depthwise"] = x
    y = functional.relu(second.bn1(second.depthwise(x)))
    inputs["blocks.1.pointwise"] = y
    x = functional.relu(second.bn2(second.pointwise(y)))
    inputs["fc"] = x.mean((2, 3))
    return inputs


def test_samples_are_the_inputs_of_the_layers(tiny_net, images, monkeypatch):
    monkeypatch.setattr(calibrate, "SAMPLE", 10**9)
    layers = describe(tiny_net, toy.SHAPE)
    samples = observe(tiny_net, layers, images, torch_rng(0)).samples
    with torch.no_grad():
        expected = direct_inputs(tiny_net, images)
    assert list(samples) == [layer.name for layer in layers] == list(expected)
    assert all(torch.equal(samples[name], x.flatten()) for name, x in expected.items())


def test_large_inputs_are_sampled_with_their_exact_ends(tiny_net, images):
    layers = describe(tiny_net, toy.SHAPE)
    samples = observe(tiny_net, layers, images, torch_rng(0)).samples
    with torch.no_grad():
        expected = direct_inputs(tiny_net, images)
    assert expected["blocks.0.conv1"].numel() == 40 * 8 * 64 > SAMPLE
    for name, x in expected.items():
        sample = samples[name]
        assert sample.numel() == min(x.numel(), SAMPLE)
        assert (sample.min(), sample.max()) == (x.min(), x.max())
        assert set(sample.tolist()) <= set(x.flatten().tolist())
    x, sample = expected["blocks.0.conv1"], samples["blocks.0.conv1"]
    assert abs(float(sample.mean() - x.mean())) < 5 * float(x.std()) / SAMPLE**0.5


def test_ranges_of_a_quantizer_are_those_of_a_direct_computation(tiny_net, images):
    layers = describe(tiny_net, toy.SHAPE)
    samples = observe(tiny_net, layers, images, torch_rng(0)).samples
    with torch.no_grad():
        expected = direct_inputs(tiny_net, images)
    for name, x in expected.items():
        low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
        quantizer = MinMax().activation(samples[name], 4)
        assert float(quantizer.step) == pytest.approx((high - low) / 15, rel=1e-6)


def test_samples_repeat_with_the_generator(tiny_net, images):
    layers = describe(tiny_net, toy.SHAPE)
    one, two, three = (observe(tiny_net, layers, images, torch_rng(s)).samples for s in (1, 1, 2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["blocks.0.conv1"], three["blocks.0.conv1"])


def test_observing_leaves_no_trace(images):
    with seeded(0):
        net = toy.ToyConvNet()
    before = {name: x.clone() for name, x in net.state_dict().items()}
    layers = describe(net, toy.SHAPE)
    observe(net.train(), layers, images, torch_rng(0))
    assert not net.training
    assert not any(m._forward_pre_hooks for m in net.modules())
    assert all(torch.equal(before[name], x) for name, x in net.state_dict().items())
    with pytest.raises(RuntimeError):
        observe(net, layers, images[:, :2], torch_rng(0))
    assert not any(m._forward_pre_hooks for m in net.modules())


def test_a_layer_that_is_called_twice_has_the_samples_of_both_calls():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 2)

        def forward(self, x):
            return self.fc(10 + self.fc(x))

    with seeded(0):
        net = Twice()
    x = torch.randn(5, 2, generator=torch_rng(0))
    (sample,) = observe(net, describe(net, (2,)), x, torch_rng(0)).samples.values()
    assert torch.equal(sample, torch.cat([x.flatten(), (10 + net.fc(x)).flatten().detach()]))


def test_samples_do_not_follow_changes_in_place():
    net = nn.Sequential(nn.Linear(2, 2))
    x = torch.ones(3, 2)
    samples = observe(net, describe(net, (2,)), x, torch_rng(0)).samples
    x.zero_()
    assert samples["0"].eq(1).all()
