"""Networks whose layers' bits would mean nothing are refused by the layer's name."""

import re

import pytest
import torch
from torch import nn
from torch.nn import functional

from frameworks import Policy, QModel, describe, observe, schemes, torch_rng


def wrapped(net, x):
    net.eval()
    layers = describe(net, tuple(x.shape[1:]))
    return QModel(net, layers, schemes.get("mse")(), observe(net, layers, x, torch_rng(0)))


class Net(nn.Module):
    """A network with a fault of a kind."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.stem = kind, nn.Conv2d(1, 8, 3, padding=1)
        self.middle, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 4)
        self.kept = [self.middle.weight]

    def middle_of(self, x):
        if self.kind == "fused":
            # As a fused kernel: the module is called in training and where hooks are.
            if self.middle._forward_hooks or torch.is_grad_enabled():
                return self.middle(x)
            return functional.conv2d(x, self.kept[0], self.middle.bias, padding=1)
        if self.kind == "gradients" and torch.is_grad_enabled():
            return self.middle(x) * 2
        if self.kind == "beside":
            return (
                self.middle(x)
                + self.middle._modules.get("inner", self.middle)._parameters["weight"].mean()
            )
        return self.middle(x)

    def forward(self, x):
        return self.head(
            functional.relu(self.middle_of(functional.relu(self.stem(x)))).mean((2, 3))
        )


class Own(nn.Conv2d):
    """A convolution that computes with another weight than its own."""

    def forward(self, x):
        return functional.conv2d(x, torch.ones(8, 8, 3, 3), None, padding=1) + 0 * self.weight.sum()


class Deaf(nn.Conv2d):
    """A convolution that computes without its input."""

    def forward(self, x):
        return functional.conv2d(torch.ones_like(x), self.weight, None, padding=1)


def test_a_sound_network_passes_and_is_left_as_it_was():
    x = torch.rand(4, 1, 6, 6)
    net = Net("sound")
    model = wrapped(net, x)
    assert all(not q._forward_hooks for _, q in model.qlayers())
    with torch.no_grad():
        assert torch.allclose(model.eval()(x), net(x), atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "words"),
    [("gradients", "when gradients are on"), ("beside", "middle.*float weight is read beside")],
)
def test_paths_beside_the_layers_are_refused(kind, words):
    with pytest.raises(ValueError, match=words):
        wrapped(Net(kind), torch.rand(4, 1, 6, 6))


@pytest.mark.parametrize(
    ("make", "words"),
    [(Own, "middle.*weight bits do not reach"), (Deaf, "middle.*activation bits do not reach")],
)
def test_layers_that_pass_their_weight_or_input_by_are_refused(make, words):
    net = Net("sound")
    net.middle = make(8, 8, 3, padding=1)
    with pytest.raises(ValueError, match=words):
        wrapped(net, torch.rand(4, 1, 6, 6))


def test_a_layer_that_only_zeros_reach_is_refused():
    net = Net("sound")
    forward = net.middle_of
    net.middle_of = lambda x: forward(x) if float(x.sum()) == 0 else x
    nn.init.zeros_(net.stem.bias)
    layers = describe(net, (1, 6, 6))
    x = torch.rand(4, 1, 6, 6) + 1
    with pytest.raises((ValueError, KeyError), match="middle"):
        QModel(net, layers, schemes.get("mse")(), observe(net, layers, x, torch_rng(0)))


def test_a_dead_layer_is_no_fault():
    net = Net("sound")
    net.middle = nn.utils.parametrizations.weight_norm(net.middle)
    nn.init.zeros_(net.middle.parametrizations.weight.original0)
    wrapped(net, torch.rand(4, 1, 6, 6))


def test_hooks_of_a_network_fire_once_a_call():
    net, seen = Net("sound"), []
    net.middle.register_forward_pre_hook(lambda m, args: seen.append(args[0].shape))
    model = wrapped(net, torch.rand(4, 1, 6, 6)).eval()
    seen.clear()
    with torch.no_grad():
        model(torch.rand(4, 1, 6, 6))
    assert len(seen) == 1


def test_a_forward_that_was_replaced_on_the_module_is_the_one_that_runs():
    net, x = Net("sound"), torch.rand(4, 1, 6, 6)
    plain = net.middle.forward
    net.middle.forward = lambda inputs: plain(inputs)
    wrapped_net = Net("sound")
    wrapped_net.load_state_dict(net.state_dict())

    def doubled(self, inputs):
        return 2 * nn.Conv2d.forward(self, inputs)

    wrapped_net.middle.forward = doubled.__get__(wrapped_net.middle)
    model = wrapped(wrapped_net, x).eval()
    with torch.no_grad():
        assert torch.allclose(model(x), wrapped_net(x), atol=1e-6)
        assert not torch.allclose(model(x), net(x), atol=1e-3)


class Both(nn.Module):
    """A layer that is called, and whose weight a function reads with the output of the call."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.one = kind, nn.Linear(16, 16)
        self.conv, self.head = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(16, 4)

    def forward(self, x):
        if self.kind == "conv":
            x = functional.conv2d(self.conv(x), self.conv.weight, padding=1)
        x = self.one(x.flatten(1)).relu()
        if self.kind == "linear":
            x = functional.linear(x, self.one.weight, self.head.bias.sum().expand(16))
        return self.head(x)


def test_a_linear_layer_both_called_and_read_has_two_calls():
    net, x = Both("linear"), torch.randn(5, 1, 4, 4)
    model = wrapped(net, x).eval()
    (one, _) = model.layers
    assert (one.name, one.macs, one.read) == ("one", 2 * 256, True)
    seen = []
    model.qlayer("one").register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    with torch.no_grad():
        assert torch.allclose(model(x), net(x), atol=1e-6)
    assert len(seen) == 2
    policy = Policy.uniform(model.layers, 32, 32).replace("one", weight=2, act=3)
    with torch.no_grad():
        weight = model.fix(policy).qlayer("one").weight
        grid = model.qlayer("one").act_quantizer
        hidden = functional.linear(grid(x.flatten(1)), weight, net.one.bias).relu()
        hidden = functional.linear(grid(hidden), weight, net.head.bias.sum().expand(16))
        assert torch.allclose(model(x), net.head(hidden), atol=1e-6)


def test_a_convolution_both_called_and_read_is_refused():
    with pytest.raises(ValueError, match="layer conv is called as a module and"):
        describe(Both("conv"), (1, 4, 4))


class Around(nn.Module):
    """Calls one of its layers, or one of its own forward, by ``.forward``."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.stem, self.head = kind, nn.Conv2d(1, 6, 3), nn.Linear(6, 4)
        self.up = nn.ConvTranspose2d(6, 6, 3)

    def forward(self, x):
        x = self.stem.forward(x) if self.kind == "stem" else self.stem(x)
        x = self.up.forward(x) if self.kind == "up" else self.up(x)
        x = x.relu().mean((2, 3))
        return self.head.forward(x) if self.kind == "head" else self.head(x)


@pytest.mark.parametrize("kind", ["stem", "up", "head"])
def test_a_layer_that_is_called_by_its_forward_is_refused(kind):
    net = Around(kind)
    words = f"layer {kind} is called by .forward; call it as a module: {kind}(x)"
    with pytest.raises(ValueError, match=re.escape(words)):
        describe(net, (1, 8, 8))
    net.kind = ""
    net.stem.forward = lambda x: nn.functional.conv2d(x, net.stem.weight) * 2
    replaced = net.stem.forward
    assert [layer.name for layer in describe(net, (1, 8, 8))] == ["stem", "up", "head"]
    assert net.stem.forward is replaced
    assert "forward" not in vars(net.head)


def test_a_weight_that_an_embedding_shares_is_refused():
    class Looked(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(4, 16), nn.Linear(16, 4)
            self.head.weight = self.table.weight

        def forward(self, x):
            return self.head(x.flatten(1) + self.table(torch.zeros(len(x), dtype=torch.long)))

    with pytest.raises(ValueError, match=r"head.*float weight is read beside"):
        wrapped(Looked(), torch.rand(4, 1, 4, 4))
