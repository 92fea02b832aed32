import pytest
import torch
from torch import nn
from torch.nn import functional

from frameworks import toy
from frameworks.core import calibrate
from frameworks.core.calibrate import SAMPLE, batchnorms, observe, reestimate_batchnorm
from frameworks.core.networks.describe import describe
from frameworks.core.quantizers.uniform import MinMax
from frameworks.core.randomness import seeded, torch_rng


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


def conv_bn():
    with seeded(0):
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)).eval()


def test_reestimation_gives_the_statistics_of_the_images(images):
    net = conv_bn()
    reestimate_batchnorm(net, images)
    with torch.no_grad():
        y = net[0](images).transpose(0, 1).flatten(1)
    torch.testing.assert_close(net[1].running_mean, y.mean(1))
    torch.testing.assert_close(net[1].running_var, y.var(1, unbiased=True))


def test_reestimation_is_the_mean_over_batches(images):
    net = conv_bn()
    reestimate_batchnorm(net, images[:24], batch=10)
    with torch.no_grad():
        parts = [net[0](x).transpose(0, 1).flatten(1) for x in images[:24].split(8)]
    torch.testing.assert_close(net[1].running_mean, torch.stack([y.mean(1) for y in parts]).mean(0))
    torch.testing.assert_close(net[1].running_var, torch.stack([y.var(1) for y in parts]).mean(0))


def test_reestimation_forgets_what_was_before_and_keeps_the_rest(images):
    net = conv_bn()
    net[1].momentum = 0.3
    state = {name: x.clone() for name, x in net.state_dict().items() if "running" not in name}
    reestimate_batchnorm(net, images)
    first = net[1].running_mean.clone()
    net[1].running_mean.fill_(100)
    reestimate_batchnorm(net, images)
    assert torch.equal(net[1].running_mean, first)
    assert net[1].momentum == 0.3
    assert not any(m.training for m in net.modules())
    del state["1.num_batches_tracked"]
    assert all(torch.equal(net.state_dict()[name], x) for name, x in state.items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_reestimation_of_float_statistics_is_close_to_those_of_training(tiny_net, images):
    import copy

    net = copy.deepcopy(tiny_net)
    reestimate_batchnorm(net, toy.split("train", 256).x)
    x, y = toy.split("valid", 128).x, toy.split("valid", 128).y
    with torch.no_grad():
        rights = [float((m(x).argmax(1) == y).float().mean()) for m in (tiny_net, net)]
    assert abs(rights[0] - rights[1]) < 0.1


def test_momentum_and_modes_come_back_after_an_error(images):
    net = conv_bn()
    with pytest.raises(RuntimeError):
        reestimate_batchnorm(net, images[:, :2])
    assert net[1].momentum == 0.1
    assert not net[1].training


def test_networks_without_batchnorm_are_left_alone(tiny_vit, images):
    assert list(batchnorms(tiny_vit)) == []
    calls = []
    handle = tiny_vit.register_forward_hook(lambda *args: calls.append(args))
    reestimate_batchnorm(tiny_vit, images)
    handle.remove()
    assert not calls


def test_batchnorm_without_statistics_does_not_count():
    net = nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False), nn.BatchNorm1d(2))
    assert list(batchnorms(net)) == [net[1]]
