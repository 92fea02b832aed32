import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from benchmarks.models.build import ModelConfig, create, models
from benchmarks.models.network_check import (
    PROBES,
    check_modules,
    check_network,
    check_training,
    uncompiled,
)
from frameworks import seeded, torch_rng
from frameworks.testing import toy

SHAPE = (1, 8, 8)
IMAGES = torch.randn(PROBES, *SHAPE, generator=torch_rng(0))


class Net(nn.Module):
    """A small network whose forward pass is changed by ``act(self, hidden, x)``."""

    def __init__(self, act=lambda self, h, x: h, **more):
        super().__init__()
        self.stem, self.head, self.act = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 10), act
        self.more = nn.ModuleDict(more)

    def forward(self, x):
        h = self.act(self, functional.relu(self.stem(x)), x)
        return self.head(h.mean((2, 3)))


def net(act=lambda self, h, x: h, **more):
    with seeded(0):
        return Net(act, **more)


def check(model, images=IMAGES, classes=10):
    check_network(model, images, classes, "model mine")


def conv():
    return nn.Conv2d(4, 4, 3, padding=1)


@pytest.mark.parametrize("make", [net, toy.ToyConvNet, toy.ToyViT])
def test_a_good_network_passes_and_is_left_alone(make):
    model = make()
    images = IMAGES if make is net else toy.split("train", PROBES).images()
    classes = model(images).shape[1]
    model.train()
    list(model.children())[-1].eval()
    modes = [m.training for m in model.modules()]
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    check(model, images, classes)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("name", ["resnet8", "mobilenetv2_small", "test_vit", "test_convnext"])
def test_the_suites_own_networks_pass(name):
    options = {"img_size": 32, "patch_size": 8} if name == "test_vit" else {}
    model = create(ModelConfig(name=name, options=options), 10, (3, 32, 32))
    check(model, torch.randn(PROBES, 3, 32, 32, generator=torch_rng(1)))


class Out(nn.Module):
    """Gives something else than logits."""

    def __init__(self, change):
        super().__init__()
        self.net, self.change = net(), change

    def forward(self, x):
        return self.change(self.net(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y: (y, y), r"a tuple of 2 outputs, not one float tensor of logits .*\[4, 10\]"),
        (lambda y: [y], "a list of 1 outputs"),
        (lambda y: {"logits": y, "aux": y}, "a dict of 2 outputs.*return its logits alone"),
        (lambda y: None, "a NoneType, not one float tensor"),
        (lambda y: y[:, :3], r"gives \[4, 3\], not one .* = \[4, 10\]"),
        (lambda y: y[:, :, None, None], r"gives \[4, 10, 1, 1\]"),
        (lambda y: y.mean(), r"gives \[\], not one"),
        (lambda y: y.argmax(1), r"gives \[4\], not one"),
        (lambda y: y.bfloat16(), r"gives torch.bfloat16.*\.float\(\)"),
        (lambda y: y * torch.tensor(torch.nan), "NaN or infinite logits for images"),
        (lambda y: y / 0, "NaN or infinite logits for images"),
    ],
)
def test_anything_but_one_tensor_of_logits_is_refused(change, message):
    with pytest.raises(ValueError, match=f"model mine gives .*{message}|model mine {message}"):
        check(Out(change))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_than_float32_are_named(dtype):
    model = net()
    model.head.to(dtype)
    short = str(dtype).removeprefix("torch.")
    with pytest.raises(ValueError, match=rf"model mine: head.weight is {short}; .*\.float\(\)"):
        check(model)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_not_finite_are_named(value):
    model = net(norm=nn.BatchNorm2d(4))
    with torch.no_grad():
        model.head.bias[3] = value
    with pytest.raises(ValueError, match=r"model mine: head\.bias has NaN or infinite"):
        check(model)
    model = net(norm=nn.BatchNorm2d(4))
    model.more["norm"].running_var[0] = abs(value)
    with pytest.raises(ValueError, match=r"more\.norm\.running_var has NaN or infinite"):
        check(model)


def test_masks_of_attention_may_be_infinite():
    model = net()
    model.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))
    check(model)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda s, h, x: s.more["a"](input=h), r"more\.a is called with the keyword input; .*no k"),
        (lambda s, h, x: s.more["up"](h, [8, 8]), r"more\.up is called with 2 arguments"),
        (lambda s, h, x: s.more["fc"](*()), r"more\.fc is called with 0 arguments"),
    ],
)
def test_layers_are_called_with_one_positional_tensor(act, message):
    up = nn.ConvTranspose2d(4, 4, 3, padding=1)
    with pytest.raises(ValueError, match=f"model mine: layer {message}"):
        check(net(act, a=conv(), up=up, fc=nn.Linear(4, 4)))


@pytest.mark.parametrize("kind", [nn.Conv3d, nn.ConvTranspose3d])
def test_layers_of_three_dimensions_are_named(kind):
    with pytest.raises(ValueError, match=rf"layer more\.a is a {kind.__name__}; only 1D and 2D"):
        check(net(a=kind(1, 1, 3)))


def brightest(self, h, x):
    return self.more["ab"[int(float(x.abs().mean()) > 0)]](h)


def repeated(self, h, x):
    for _ in range(1 + int(float(x.abs().sum()) > 0)):
        h = self.more["a"](h)
    return h


def each_its_own(self, h, x):
    return torch.cat([self.more["ab"[int(float(i.sum()) > 0)]](g[None]) for g, i in zip(h, x)])  # noqa: B905


@pytest.mark.parametrize(
    ("act", "names"),
    [(brightest, r"more\.a, more\.b"), (repeated, r"more\.a"), (each_its_own, r"more\.[ab]")],
)
def test_branches_by_value_are_refused(act, names):
    model = net(act, a=conv(), b=conv())
    with pytest.raises(ValueError, match=rf"depend on the values.*{names} may be never reached by"):
        check(model)


def test_a_batch_that_its_images_see_is_refused():
    centred = net(lambda s, h, x: h - h.mean(0))
    with pytest.raises(ValueError, match=r"logits of an image depend.*\(first seen in head\)"):
        check(centred)
    batch_norm = net(lambda s, h, x: s.more["n"](h), n=nn.BatchNorm2d(4, track_running_stats=False))
    with pytest.raises(ValueError, match=r"depend on the other images.*\(first seen in more\.n\)"):
        check(batch_norm)


def test_a_batch_of_fixed_size_is_refused():
    with pytest.raises(ValueError, match="fails on a batch of 1 images: "):
        check(net(lambda s, h, x: h.view(4, 4, 8, 8)))


def test_chance_in_eval_mode_is_named():
    functional_dropout = net(lambda s, h, x: functional.dropout(h, 0.5))
    with pytest.raises(ValueError, match=r"other logits for the same .* in head\); leave dropout"):
        check(functional_dropout)

    class Always(nn.Dropout):
        def forward(self, x):
            return functional.dropout(x, self.p, True)

    with pytest.raises(ValueError, match=r"same images in eval mode \(first seen in more\.drop\)"):
        check(net(lambda s, h, x: s.more["drop"](h), drop=Always()))


def test_buffers_and_inputs_stay_as_they_are():
    class Stubborn(nn.BatchNorm2d):
        def train(self, mode=True):
            return super().train(True)

    with pytest.raises(ValueError, match=r"forward pass in eval mode changes more\.n\.running"):
        check(net(lambda s, h, x: s.more["n"](h), n=Stubborn(4)))
    with pytest.raises(ValueError, match="changes its input in place"):
        check(net(lambda s, h, x: h + x.mul_(2)))


def test_networks_without_values_are_refused():
    with pytest.raises(ValueError, match="model mine has no parameters"):
        check(nn.Flatten())
    with torch.device("meta"):
        model = Net()
    with pytest.raises(ValueError, match=r"stem\.weight is on the meta device"):
        check_modules(model, "model mine")


def test_create_checks_before_it_runs_and_takes_lazy_layers(monkeypatch):
    models.names()
    monkeypatch.setitem(models._entries, "half", lambda **_: net().half())
    with pytest.raises(ValueError, match=r"model half: stem\.weight is float16"):
        create(ModelConfig(name="half"), 10, SHAPE)
    lazy = nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(10))
    monkeypatch.setitem(models._entries, "lazy", lambda **_: copy.deepcopy(lazy))
    check(create(ModelConfig(name="lazy"), 10, SHAPE))
    monkeypatch.setitem(models._entries, "odd", lambda **_: net(lambda s, h, x: {}["h"]))
    with pytest.raises(ValueError, match="model odd does not work on inputs of"):
        create(ModelConfig(name="odd"), 10, SHAPE)


def test_a_compiled_network_is_taken_as_the_one_that_was_compiled(monkeypatch):
    model = net()
    assert uncompiled(model) is model
    assert uncompiled(torch.compile(model)) is model
    models.names()
    monkeypatch.setitem(models._entries, "fast", lambda **_: torch.compile(net()))
    made = create(ModelConfig(name="fast"), 10, SHAPE)
    assert list(made.state_dict()) == list(model.state_dict())
    check(made)


def test_a_compiled_part_is_named():
    model = net(lambda self, h, x: self.more["part"](h), part=torch.compile(conv()))
    with pytest.raises(ValueError, match=r"mine: more\.part is compiled by torch\.compile"):
        check(model)


class Auxiliary(Net):
    """A second head in train mode."""

    def forward(self, x):
        y = super().forward(x)
        return (y, y) if self.training else y


def test_what_a_network_gives_in_train_mode_is_looked_at_on_a_copy():
    model = net(
        lambda s, h, x: s.more["drop"](s.more["n"](h)), n=nn.BatchNorm2d(4), drop=nn.Dropout()
    )
    before, state = copy.deepcopy(model.eval().state_dict()), torch.get_rng_state()
    check_training(model, IMAGES[:2], 10, "mine")
    assert not model.training
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    check(Auxiliary())
    with pytest.raises(ValueError, match=r"mine in train mode gives a tuple of 2 outputs, not one"):
        check_training(Auxiliary(), IMAGES[:2], 10, "mine")
    with pytest.raises(ValueError, match="mine: all parameters are frozen, and"):
        check_training(net().requires_grad_(False), IMAGES[:2], 10, "mine")
    part = net()
    part.stem.requires_grad_(False)
    check_training(part, IMAGES[:2], 10, "mine")
    odd = net(lambda s, h, x: {}["h"] if s.training else h)
    with pytest.raises(ValueError, match="mine fails in train mode: 'h'"):
        check_training(odd, IMAGES[:2], 10, "mine")
