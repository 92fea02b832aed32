"""Where layers get images, and traces of odd layouts against dense Hessians."""

import pytest
import timm
import torch
from torch import nn
from torch.func import functional_call, hessian
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from frameworks import describe, layer_traces, taken, twice_differentiable
from frameworks.core.estimators.layouts import ALONE, Layout, layouts

SHAPE = (2, 4, 4)
IMAGES = 5


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Net(nn.Module):
    """With a curved activation, or one that leaves traces exact."""

    act = staticmethod(torch.tanh)


class Windows(Net):
    """Swin's way: windows of 2 x 2 tokens in front, image by image; a convolution of windows."""

    layers = ("embed", "mix", "conv", "head")

    def __init__(self):
        super().__init__()
        self.embed, self.mix = nn.Linear(2, 3), nn.Linear(3, 3)
        self.conv, self.head = nn.Conv2d(3, 3, 2, padding=1), nn.Linear(3, 3)

    def forward(self, x):
        x = self.act(self.embed(x.permute(0, 2, 3, 1)))
        x = x.view(-1, 2, 2, 2, 2, 3).transpose(2, 3).flatten(0, 2).flatten(1, 2)
        x = self.act(self.mix(x))  # [images * 4, 4, 3]
        x = self.act(self.conv(x.transpose(1, 2).unflatten(2, (2, 2))))
        return self.head(self.act(x.mean((2, 3)).view(-1, 4, 3)).mean(1))


class Steps(Net):
    """Time before images, and laid over them: ``[T * N, ...]``, the images alternating."""

    layers = ("conv", "mix", "head")

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 2)
        self.mix, self.head = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        x = self.act(self.conv(x.transpose(0, 1).flatten(0, 1).unsqueeze(1)))
        x = self.act(self.mix(x.mean((2, 3)).view(2, -1, 3)))  # [T, N, C]
        return self.head(x.mean(0))


class Recurring(Net):
    """A recurrent module that gets the time first."""

    layers = ("rnn.ih_l0", "rnn.hh_l0", "head")

    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.GRU(8, 3), nn.Linear(3, 3)

    def forward(self, x):
        return self.head(self.rnn(x.flatten(2).unflatten(2, (2, 8)).mean(1).transpose(0, 1))[0][-1])


class Again(Net):
    """A layer called twice, a weight that two layers share, and one that a function reads, too."""

    layers = ("twice", "first", "both", "head")

    def __init__(self):
        super().__init__()
        self.twice, self.first, self.second = (nn.Linear(4, 4) for _ in range(3))
        self.both, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
        self.second.weight = self.first.weight

    def forward(self, x):
        x = self.twice(self.act(self.twice(x.mean(1))))
        x = self.second(self.act(self.first(x)))
        x = functional.linear(self.act(self.both(x)), self.both.weight)
        return self.head(self.act(x).mean(1))


class ByFunction(Net):
    """Weights that functions read, of a module that is not called and of a bare parameter."""

    layers = ("qkv", "bare_read", "head")

    def __init__(self):
        super().__init__()
        self.qkv, self.head = nn.Linear(4, 3), nn.Linear(3, 3)
        self.bare = nn.Parameter(torch.randn(3, 3))

    def forward(self, x):
        x = self.act(functional.linear(x.mean(1).transpose(0, 1), self.qkv.weight, self.qkv.bias))
        return self.head(self.act(functional.linear(self.act(x), self.bare)).mean(0))


class Table(Net):
    """A layer that makes biases from a table of places, which no image has a part in (Swin V2)."""

    layers = ("table", "mix", "head")

    def __init__(self):
        super().__init__()
        self.table, self.mix, self.head = nn.Linear(1, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.register_buffer("places", torch.linspace(-1, 1, 4)[:, None])

    def forward(self, x):
        return self.head(self.act(self.mix(x.mean(1) + self.table(self.places))).mean(1))


class OneByOne(Net):
    """Each image has a call of its own."""

    layers = ("conv", "head")

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 3, 3), nn.Linear(3, 3)

    def forward(self, x):
        return self.head(torch.stack([self.act(self.conv(i)).mean((1, 2)) for i in x]))


KINDS = (Windows, Steps, Recurring, Again, ByFunction, Table, OneByOne)


def network(kind, act=torch.tanh):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind().eval()
        model.act = act
    reads = [x.name for x in describe(model, SHAPE) if x.read]
    model = taken(model, reads).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)  # so that the loss is well curved
    return model


def data():
    x = 2 * torch.randn(IMAGES, *SHAPE, generator=generator(1)).double()
    return x, torch.randint(3, (IMAGES,), generator=generator(2))


def dense(model, name, x, y):
    """The trace of the Hessian over one weight, wherever the network reads it."""
    weight = model.get_submodule(name).weight.detach()
    keys = [k for k, v in model.named_parameters(remove_duplicate=False)
            if v is model.get_submodule(name).weight]  # fmt: skip

    def loss(vector):
        changed = dict.fromkeys(keys, vector.view_as(weight))
        return functional.cross_entropy(functional_call(model, changed, (x,), tie_weights=False), y)

    with sdpa_kernel(SDPBackend.MATH):
        return float(hessian(loss)(weight.flatten()).trace())


def dense_inputs(model, name, x, y):
    """The mean over images of the trace over what one image gives a layer, in all calls at once."""
    total, size = 0.0, 0
    for k in range(len(x)):
        shapes = []
        layer = model.get_submodule(name)
        handle = layer.register_forward_pre_hook(lambda m, a, s=shapes: s.append(a[0].shape))
        model(x[k : k + 1])
        handle.remove()
        sizes = [shape.numel() for shape in shapes]

        def loss(vector, k=k, sizes=sizes, shapes=shapes, layer=layer):
            parts = iter(p.view(s) for p, s in zip(vector.split(sizes), shapes, strict=True))
            hook = layer.register_forward_pre_hook(lambda m, a: (a[0] + next(parts),))
            try:
                return functional.cross_entropy(model(x[k : k + 1]), y[k : k + 1])
            finally:
                hook.remove()

        total += float(hessian(loss)(torch.zeros(sum(sizes)).double()).trace()) / len(x)
        size = sum(sizes)
    return total, size


@pytest.mark.parametrize("kind", KINDS)
def test_traces_of_odd_layouts_are_those_of_the_dense_hessian(kind):
    model, (x, y) = network(kind), data()
    expected = {name: dense(model, name, x, y) for name in kind.layers}
    with twice_differentiable(model):
        found = layer_traces(
            model,
            [(x[:3], y[:3]), (x[3:], y[3:])],
            generator(),
            weights=kind.layers,
            max_probes=400,
            min_probes=400,
        ).weights
    scale = max(map(abs, expected.values()))
    for name, value in expected.items():
        assert abs(found[name].value - value) < 4 * found[name].error + 1e-9, name
        assert found[name].error < 0.3 * scale, name


@pytest.mark.parametrize("kind", [Windows, Steps, ByFunction, Table])
def test_piecewise_linear_networks_have_exact_traces_in_any_layout(kind):
    model, (x, y) = network(kind, torch.relu), data()
    expected = {name: dense(model, name, x, y) for name in kind.layers}
    with twice_differentiable(model):
        found = layer_traces(model, [(x, y)], generator(), weights=kind.layers).weights
    for name, value in expected.items():
        assert value > 1e-3, name
        assert found[name].value == pytest.approx(value, rel=1e-9), name
        assert (found[name].error, found[name].converged) == (0, True)


@pytest.mark.parametrize("kind", [k for k in KINDS if k is not ByFunction])
def test_activation_traces_of_odd_layouts_are_those_of_the_dense_hessian(kind):
    model, (x, y) = network(kind), data()
    model.requires_grad_(False)
    expected = {name: dense_inputs(model, name, x, y) for name in kind.layers}
    with twice_differentiable(model):
        found = layer_traces(
            model, [(x, y)], generator(), inputs=kind.layers, max_probes=400, min_probes=400
        ).inputs
    for name, (value, size) in expected.items():
        assert abs(found[name].value - value) < 4 * found[name].error + 1e-9, name
        assert found[name].error < 0.1, name
        assert found[name].size == size, name


class Tokens(Net):
    """BatchNorm before a transposition to tokens, whose gradient has the channels last."""

    layers = ("conv", "mix", "head")

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)
        self.mix, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        x = self.bn(self.conv(x)).flatten(2).transpose(1, 2)
        return self.head(self.act(self.mix(x)).mean(1))


def test_images_one_by_one_have_the_traces_of_all_together():
    model, (x, y) = network(Tokens, torch.relu), data()
    expected = {name: dense(model, name, x, y) for name in Tokens.layers}
    for bound in (2**30, 1):
        with twice_differentiable(model):
            found = layer_traces(model, [(x, y)], generator(), weights=Tokens.layers, bound=bound)
        for name, value in expected.items():
            assert value > 1e-3
            assert found.weights[name].value == pytest.approx(value, rel=1e-9), (name, bound)


def seen(kind, names):
    model, (x, _) = network(kind), data()
    with twice_differentiable(model):
        model.requires_grad_(False)
        return layouts(model, x, weights=names, inputs=names)


def test_layouts_are_seen():
    windows = seen(Windows, Windows.layers)
    assert windows.together
    assert windows.weights == {
        "embed": Layout(),
        "mix": Layout(0, 4),
        "conv": Layout(0, 4),
        "head": Layout(),
    }
    steps = seen(Steps, Steps.layers)
    assert steps.weights == {"conv": Layout(0, 2, outer=False), "mix": Layout(1), "head": Layout()}
    assert steps.inputs["mix"] == [Layout(1)]
    recurring = seen(Recurring, Recurring.layers)
    assert recurring.weights == {"rnn.ih_l0": Layout(1), "head": Layout()}
    assert recurring.inputs["rnn.hh_l0"] == [Layout(), Layout()]
    assert recurring.together
    function = seen(ByFunction, ByFunction.layers)
    assert function.weights == {"qkv": Layout(1), "bare_read": Layout(1), "head": Layout()}


def test_what_cannot_be_seen_is_run_alone_or_left_to_plain_probes():
    table = seen(Table, Table.layers)
    assert not table.together
    assert table.weights == {"table": ALONE, "mix": Layout(), "head": Layout()}
    assert list(seen(Again, Again.layers).weights) == ["head"]
    single = seen(OneByOne, OneByOne.layers)
    assert list(single.weights) == ["head"]
    assert not single.together


@pytest.mark.parametrize("layout", [Layout(1, 3), Layout(0, 3, outer=False), Layout(2), ALONE])
def test_together_is_the_inverse_of_apart(layout):
    x = torch.arange(6 * 6 * 4).view(6, 6, 4)
    apart = layout.apart(x)
    assert torch.equal(layout.together(apart), x)
    images = {None: 1, 0: 2, 1: 2, 2: 4}[layout.axis]
    assert apart.shape[:2] == (images, layout.rows if layout.axis is not None else 6)


@pytest.mark.parametrize("name", ["test_vit", "swin_tiny_patch4_window7_224"])
def test_images_of_timm_networks_are_found(name):
    if name == "swin_tiny_patch4_window7_224":
        config = {"img_size": 64, "window_size": 2, "depths": (1, 2), "num_heads": (2, 4)}
        config["embed_dim"] = 16
    else:
        config = {}
    size = config.get("img_size", 160)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=3, **config).eval()
    x = torch.randn(2, 3, size, size, generator=generator())
    names = [layer.name for layer in describe(model, (3, size, size))]
    with twice_differentiable(model):
        model.requires_grad_(False)
        found = layouts(model, x, weights=names, inputs=names)
    assert found.together
    assert list(found.weights) == names
    odd = {name: layout for name, layout in found.weights.items() if layout != Layout()}
    assert bool(odd) == ("window_size" in config)
    assert all(name.endswith(("qkv", "proj")) and x.rows > 1 for name, x in odd.items())
