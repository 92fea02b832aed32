import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from frameworks.core.evaluation.train import (
    Recipe,
    cross_entropy,
    fit,
    make_optimizer,
    train_epoch,
)
from frameworks.core.randomness import seeded, torch_rng
from frameworks.core.split import TensorSplit
from frameworks.testing import toy


def linear():
    with seeded(0):
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 3))


@pytest.fixture
def split():
    generator = torch_rng(0)
    x = torch.randn(20, 3, 2, 2, generator=generator)
    return TensorSplit(x, torch.randint(3, (20,), generator=generator), pad=1, flip=True)


def test_rates():
    cosine = Recipe(schedule="cosine")
    assert [cosine.rate(t) for t in (0, 0.5, 1, 1.5)] == pytest.approx([1, 0.5, 0, 0], abs=1e-12)
    assert cosine.rate(1 / 3) == pytest.approx(0.75)
    step = Recipe(schedule="step")
    assert [step.rate(t) for t in (0, 0.49, 0.5, 0.74, 0.75, 1)] == [1, 1, 0.1, 0.1, 0.01, 0.01]
    assert [Recipe(schedule="constant").rate(t) for t in (0, 0.7, 1)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": -1}, "must be positive"),
        ({"batch": 0}, "must be positive"),
        ({"lr": -0.1}, "must be positive"),
        ({"lr": math.nan}, r"recipe\.lr = nan"),
        ({"epochs": math.inf}, r"recipe\.epochs = inf"),
        ({"weight_decay": math.nan}, r"recipe\.weight_decay = nan"),
        ({"images": 0}, r"recipe\.images = 0: give at least 1, or null"),
        ({"optimizer": "lamb"}, "choose sgd or adam"),
        ({"schedule": "linear"}, "choose cosine, constant, step"),
    ],
)
def test_impossible_recipes(fields, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**fields)


def test_sgd_against_the_formula_by_hand(split):
    """Two epochs of momentum SGD with a cosine, weight decay on the matrix alone."""
    recipe = Recipe(epochs=2, batch=8, lr=0.3, momentum=0.8, weight_decay=0.05)
    net = fit(linear(), split, recipe, torch_rng(1, "order"))
    hand = linear()[1]
    w, b = hand.weight.detach().clone(), hand.bias.detach().clone()
    v, u = torch.zeros_like(w), torch.zeros_like(b)
    generator = torch_rng(1, "order")
    for step in range(6):
        if step % 3 == 0:
            order = torch.randperm(20, generator=generator)
        index = order[8 * (step % 3) :][:8]
        x, y = split.x[index].flatten(1), functional.one_hot(split.y[index], 3)
        slope = ((x @ w.T + b).softmax(1) - y) / len(x)
        v = 0.8 * v + slope.T @ x + 0.05 * w
        u = 0.8 * u + slope.sum(0)
        rate = 0.3 * 0.5 * (1 + math.cos(math.pi * step / 6))
        w, b = w - rate * v, b - rate * u
    torch.testing.assert_close(net[1].weight, w, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(net[1].bias, b, rtol=1e-4, atol=1e-6)


def test_groups_of_the_optimizer():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    net[0].bias.requires_grad_(False)
    step = nn.Parameter(torch.ones(4, 1, 1, 1))
    recipe = Recipe(lr=0.2, range_lr=0.05, weight_decay=0.3, momentum=0.7)
    optimizer = make_optimizer(recipe, net.parameters(), [step])
    matrices, vectors, ranges = optimizer.param_groups
    assert [id(p) for p in matrices["params"]] == [id(net[0].weight)]
    assert [id(p) for p in vectors["params"]] == [id(net[1].weight), id(net[1].bias)]
    assert [id(p) for p in ranges["params"]] == [id(step)]
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.3, 0, 0]
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.2, 0.2, 0.01])
    assert {(g["momentum"], g["nesterov"]) for g in optimizer.param_groups} == {(0.7, False)}
    assert isinstance(optimizer, torch.optim.SGD)
    adam = make_optimizer(Recipe(optimizer="adam", lr=0.2), net.parameters())
    assert isinstance(adam, torch.optim.Adam)
    assert len(adam.param_groups) == 2


class Steps(nn.Module):
    """Counts training passes."""

    def __init__(self):
        super().__init__()
        self.fc, self.sizes = nn.Linear(12, 3), []

    def forward(self, x):
        self.sizes.append(len(x))
        return self.fc(x.flatten(1))


@pytest.mark.parametrize(
    ("epochs", "images", "sizes"),
    [
        (1, None, [8, 8, 4]),
        (2, None, [8, 8, 4] * 2),
        (0.5, None, [8, 8]),
        (1.5, None, [8, 8, 4, 8, 8]),
        (0.01, None, [8]),
        (2, 9, [8, 1] * 2),
        (1, 99, [8, 8, 4]),
        (0, None, []),
    ],
)
def test_length_of_training(split, epochs, images, sizes):
    net, heard = Steps(), []
    recipe = Recipe(epochs=epochs, images=images, batch=8)
    out = fit(net, split, recipe, torch_rng(0), on_epoch=lambda *args: heard.append(args))
    assert net.sizes == sizes
    assert out is net
    assert not net.training
    assert [args[:2] for args in heard] == [
        (i + 1, math.ceil(epochs)) for i in range(math.ceil(epochs))
    ]


def test_same_generator_same_bytes_and_nothing_global(split):
    before = torch.get_rng_state()
    recipe = Recipe(epochs=2, images=12, batch=5, augment=True, lr=0.1)
    one, two, three = (
        fit(linear(), split, recipe, torch_rng(seed))[1].weight for seed in (1, 1, 2)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, three)
    assert torch.equal(torch.get_rng_state(), before)


def test_augmentation_only_if_asked(split):
    seen = []

    class Keep(Steps):
        def forward(self, x):
            seen.append(x.clone())
            return super().forward(x)

    for augment in (False, True):
        fit(Keep(), split, Recipe(batch=20, augment=augment), torch_rng(0))
    images = {tuple(x.flatten().tolist()) for x in split.x}
    plain, changed = ({tuple(x.flatten().tolist()) for x in batch} for batch in seen)
    assert plain == images
    assert len(changed - images) > 10


def test_a_part_of_the_weights(split):
    net = linear()
    before = net[1].weight.clone()
    fit(net, split, Recipe(lr=0.1), torch_rng(0), weights=[net[1].bias])
    assert torch.equal(net[1].weight, before)
    assert not torch.equal(net[1].bias, linear()[1].bias)


def test_ranges_have_their_own_rate():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.s = nn.Parameter(torch.ones(1, 2)), nn.Parameter(torch.ones(1, 2))

        def forward(self, x):
            return x * (self.w + self.s)

    net = Scaled()
    data = TensorSplit(torch.ones(4, 2), torch.zeros(4).long())
    recipe = Recipe(lr=0.5, range_lr=0.25, weight_decay=0, batch=4, schedule="constant")
    fit(net, data, recipe, torch_rng(0), weights=[net.w], ranges=[net.s])
    torch.testing.assert_close((net.s - 1), 0.25 * (net.w - 1))
    assert not torch.equal(net.w, torch.ones(1, 2))


def test_divergence_is_an_error(split):
    def broken(model, x, y):
        return cross_entropy(model, x, y) * math.nan

    with pytest.raises(FloatingPointError, match="diverged in epoch 1: loss nan"):
        fit(linear(), split, Recipe(), torch_rng(0), loss=broken)


def test_divergence_names_the_step_at_which_it_began(split):
    seen = []

    def late(model, x, y):
        seen.append(1)
        return cross_entropy(model, x, y) * (math.nan if len(seen) == 5 else 1)

    with pytest.raises(FloatingPointError, match=r"epoch 2: loss nan after step 2 .*\(2 of 3\)"):
        fit(linear(), split, Recipe(epochs=3, batch=8), torch_rng(0), loss=late)
    assert len(seen) == 5, "nothing is trained after it"


def test_weights_that_the_last_step_breaks_are_no_result(split):
    """The loss of a step says nothing of the weights after it."""
    recipe = Recipe(epochs=1, batch=20, lr=1e38, momentum=0, weight_decay=1e38)
    with pytest.raises(FloatingPointError, match=r"1\.weight is not finite after step 1 of the"):
        fit(linear(), split, recipe, torch_rng(0))


def test_mean_loss_is_over_images_and_hooks_see_each_step(split):
    net, calls = linear(), []
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    mean = train_epoch(
        net,
        split.batches(8),
        [optimizer],
        before_step=lambda: calls.append(float(net[1].weight.grad.abs().sum()) > 0),
        after_step=lambda: calls.append("after"),
    )
    whole = float(cross_entropy(net, split.x, split.y).detach())
    assert mean == pytest.approx(whole, rel=1e-5)
    assert calls == [True, "after"] * 3


def test_gradients_do_not_pile_up(split):
    net = linear()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    train_epoch(net, split.batches(20), [optimizer])
    once = net[1].weight.grad.clone()
    train_epoch(net, split.batches(20), [optimizer])
    assert torch.equal(net[1].weight.grad, once)


def test_training_learns():
    with seeded(3):
        net = toy.ToyConvNet()
    losses = []
    recipe = Recipe(epochs=4, batch=32, lr=0.1)
    fit(
        net,
        toy.split("train", 256),
        recipe,
        torch_rng(0),
        on_epoch=lambda epoch, epochs, loss: losses.append(loss),
    )
    assert losses[-1] < 0.75 * losses[0]


def test_a_network_without_anything_to_train_is_told_so(split):
    model = linear().requires_grad_(False)
    with pytest.raises(ValueError, match=r"nothing to train: all parameters are frozen"):
        fit(model, split, Recipe(epochs=1), torch_rng(0))


def test_a_last_batch_of_one_image_is_named_where_batchnorm_fails_on_it():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3))
    images = TensorSplit(torch.randn(9, 1, 2, 2, generator=torch_rng(1)), torch.arange(9) % 3)
    with pytest.raises(ValueError, match=r"one image alone, .*BatchNorm.*another batch size"):
        fit(model, images, Recipe(epochs=1, batch=4), torch_rng(0))
    fit(model, images, Recipe(epochs=1, batch=3), torch_rng(0))
