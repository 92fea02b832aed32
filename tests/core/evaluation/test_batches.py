import itertools
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from frameworks.core.evaluation.batches import Kept
from frameworks.core.evaluation.train import Recipe, cross_entropy, fit
from frameworks.core.randomness import seeded, torch_rng
from frameworks.core.split import TensorSplit
from frameworks.testing.placement import GPU, some_gpu
from frameworks.testing.state import global_random_state


class Keeping(nn.Module):
    """A linear network that keeps what it was trained on, as sums of images."""

    def __init__(self):
        super().__init__()
        with seeded(0):
            self.fc = nn.Linear(12, 3)
        self.seen = []

    def forward(self, x):
        self.seen.append(x.flatten(1).sum(1))
        return self.fc(x.flatten(1))


@pytest.fixture
def split():
    generator = torch_rng(0)
    x = torch.randn(20, 3, 2, 2, generator=generator)
    return TensorSplit(x, torch.randint(3, (20,), generator=generator), pad=1, flip=True)


def trained(split, recipe=None, seed=1, **how):
    return fit(
        Keeping(), split, recipe or Recipe(epochs=2, batch=8, lr=0.1), torch_rng(seed), **how
    )


def same(one, other):
    return torch.equal(one.fc.weight, other.fc.weight)


def sizes(net):
    return [len(x) for x in net.seen]


# --- loaders


def test_the_splits_own_batches_by_a_loader_train_the_same_network(split):
    plain = trained(split)
    generator = torch_rng(1)
    batches = [batch for _ in range(2) for batch in split.batches(8, generator)]
    # As a list of both epochs, and as a function that begins each of them.
    once = Recipe(epochs=1, batch=8, lr=0.1)
    assert same(plain, trained(None, once, loader=batches))
    assert same(plain, trained(split, loader=lambda g: split.batches(8, g)))
    assert same(plain, trained(None, loader=split))
    assert not same(plain, trained(split, seed=2))


@pytest.mark.parametrize(
    ("epochs", "images", "length", "expected"),
    [
        (1, None, 3, 3),
        (2, None, 3, 6),
        (0.5, None, 4, 2),
        (1.5, None, 4, 6),
        (2, 16, 3, 4),  # two batches of 8 are an epoch, whatever the loader's size of a batch
        (2, 80, 3, 6),
        (1, None, None, 3),  # as the split's 20 images
        (2, 9, None, 4),
        (0, None, 3, 0),
    ],
)
def test_length_of_a_training(split, epochs, images, length, expected):
    batches = [(split.x[:5], split.y[:5])] * (length or 2)
    loader = batches if length else lambda generator: iter(batches)
    heard, rates = [], []

    def loss(model, x, y):
        rates.append(1)
        return cross_entropy(model, x, y)

    recipe = Recipe(epochs=epochs, images=images, batch=8)
    net = trained(
        split, recipe, loader=loader, loss=loss, on_epoch=lambda *args: heard.append(args[:2])
    )
    assert sizes(net) == [5] * expected
    assert not net.training
    count = -(-epochs // 1) if expected else 0
    assert heard == [(i + 1, count) for i in range(int(count))]


def test_passes_follow_each_other_until_the_steps_are_done(split):
    """A pass may be shorter or longer than an epoch."""
    batches = [(split.x[i : i + 1], split.y[i : i + 1]) for i in range(5)]
    order = [float(x.sum()) for x, _ in batches]
    net = trained(None, Recipe(epochs=3, images=16, batch=8), loader=batches)
    assert [float(x) for x in net.seen] == pytest.approx([*order, order[0]])
    net = trained(
        None, Recipe(epochs=3, images=16, batch=8), loader=lambda g: itertools.cycle(batches)
    )
    assert [float(x) for x in net.seen] == pytest.approx([*order, order[0]])
    endless = trained(None, Recipe(epochs=3, images=16, batch=8), loader=itertools.cycle(batches))
    assert [float(x) for x in endless.seen] == pytest.approx([*order, order[0]])


def test_a_shuffled_data_loader_repeats_and_leaves_the_global_generators(split):
    data = TensorDataset(split.x, split.y)

    def net(seed):
        return trained(None, seed=seed, loader=DataLoader(data, 8, shuffle=True))

    before = global_random_state()
    one, two, other = net(1), net(1), net(2)
    assert global_random_state() == before
    assert same(one, two)
    assert not same(one, other)
    epochs = torch.cat(one.seen[:3]), torch.cat(one.seen[3:])
    assert not torch.equal(*epochs)
    assert torch.equal(*(x.sort().values for x in epochs))


def test_a_data_loader_over_a_stream_has_no_length(split):
    class Stream(IterableDataset):
        def __iter__(self):
            return zip(split.x, split.y, strict=True)

    net = trained(None, Recipe(epochs=1, images=32, batch=8), loader=DataLoader(Stream(), 8))
    assert sizes(net) == [8, 8, 4, 8]


def test_batches_are_moved_to_where_the_network_is(split):
    batches = [(split.x[:5].contiguous(), [0, 1, 2, 0, 1])]
    places = []

    def loss(model, x, y):
        places.append((x.device, y.device, x.is_contiguous(memory_format=torch.channels_last)))
        return cross_entropy(model, x, y)

    with some_gpu() as gpu:
        net = fit(Keeping().to(gpu), None, Recipe(), torch_rng(0), loss=loss, loader=batches)
        assert places == [(GPU, GPU, True)]
        assert net.fc.weight.device == GPU
        fit(Keeping().to(gpu), None, Recipe(), torch_rng(0), loss=loss, loader=split)
        assert places[1][:2] == (GPU, GPU)


def test_a_loader_may_stop_within_no_grad(split):
    modes = []

    def labelled(generator):
        with torch.no_grad():
            for batch in split.batches(8, generator):
                modes.append(torch.is_grad_enabled())
                yield batch
        modes.append(torch.is_grad_enabled())

    assert same(trained(split), trained(split, loader=labelled))
    assert modes == [False] * 3 + [True] + [False] * 3
    assert torch.is_grad_enabled()


X, Y = torch.zeros(4, 3, 2, 2), torch.zeros(4).long()


@pytest.mark.parametrize(
    ("loader", "error", "message"),
    [
        ([], ValueError, "loader: it gives no batch"),
        (lambda g: iter(()), ValueError, "loader: it gives no batch"),
        (5, TypeError, r"loader: a int: give batches \(x, y\) to go through"),
        (TensorDataset(X, Y), TypeError, "loader: a TensorDataset"),
        (lambda g: 5, TypeError, "loader: the function gave a int"),
        ([X], TypeError, r"loader: batch 1 is a Tensor: give \(x, y\)"),
        ([{"x": X}], TypeError, "loader: batch 1 is a dict"),
        ([(X, Y), (X, Y, Y)], TypeError, "loader: batch 2 is a tuple"),
        ([(X[0], 3)], ValueError, "loader: batch 1 is a single image and its label: give batches"),
        ([(X, Y[:3])], ValueError, "loader: batch 1 has 4 images and 3 labels"),
        ([(X[:0], Y[:0])], ValueError, "loader: batch 1 has 0 images and 0 labels"),
        (((X, Y) for _ in range(3)), ValueError, "loader: it is used up after 3 batches"),
    ],
)
def test_what_is_no_loader(split, loader, error, message):
    with pytest.raises(error, match=message):
        trained(split, Recipe(epochs=2, batch=8), loader=loader)


def test_a_length_must_come_from_somewhere(split):
    loader = lambda g: iter([(X, Y)])  # noqa: E731
    with pytest.raises(ValueError, match=r"\(it has no len\).* say with recipe\.images"):
        trained(None, loader=loader)
    assert sizes(trained(None, Recipe(images=8, batch=8), loader=loader)) == [4]
    with pytest.raises(ValueError, match="nothing to train on: give a split or a loader"):
        trained(None)


# --- transforms


def mixup(x, y, generator):
    share = torch.rand((), generator=generator).item()
    order = torch.randperm(len(x), generator=generator)
    y = nn.functional.one_hot(y, 3).float()
    return share * x + (1 - share) * x[order], share * y + (1 - share) * y[order]


def test_a_transform_that_changes_nothing_changes_no_number(split):
    recipe = Recipe(epochs=2, images=12, batch=5, augment=True, lr=0.1)
    plain = trained(split, recipe)
    assert same(plain, trained(split, recipe, transform=lambda x, y, generator: (x, y)))


def test_a_transform_is_trained_on_and_repeats(split):
    one, two, other = (trained(split, seed=seed, transform=mixup) for seed in (1, 1, 2))
    assert same(one, two)
    assert not same(one, other)
    # By hand, from the same generator.
    generator, hand, step = torch_rng(1), Keeping(), 0
    optimizer = torch.optim.SGD(
        [{"params": hand.fc.weight, "weight_decay": 1e-4}, {"params": hand.fc.bias}],
        lr=0.1,
        momentum=0.9,
    )
    for _ in range(2):
        for x, y in split.batches(8, generator):
            x, y = mixup(x, y, generator)
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * Recipe().rate(step / 6)
            optimizer.zero_grad()
            cross_entropy(hand, x, y).backward()
            optimizer.step()
            step += 1
    torch.testing.assert_close(hand.fc.weight, one.fc.weight)


def test_a_transform_may_draw_from_the_global_generators(split):
    def noisy(x, y, generator):
        scale = random.random() + np.random.rand()  # noqa: NPY002
        return x + scale * torch.randn(x.shape), y

    before = global_random_state()
    one, two, other = (trained(split, seed=seed, transform=noisy) for seed in (1, 1, 2))
    assert global_random_state() == before
    assert same(one, two)
    assert not same(one, other)
    batch = [(split.x, split.y)]  # nothing but the transform tells two epochs apart
    first, second = trained(None, loader=batch, transform=noisy).seen
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        (lambda x, y, g: x, TypeError, r"transform is a Tensor: give \(x, y\)"),
        (lambda x, y, g: None, TypeError, "transform is a NoneType"),
        (lambda x, y, g: (x, y[:1]), ValueError, "transform has 8 images and 1 labels"),
    ],
)
def test_what_is_no_transform(split, changed, error, message):
    with pytest.raises(error, match=message):
        trained(split, transform=changed)


# --- losses


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (lambda m, x, y: m(x).sum(1), ValueError, r"loss: it gives \[8\]: give a scalar tensor"),
        (lambda m, x, y: m(x).sum().item(), ValueError, "loss: it gives float"),
        (lambda m, x, y: m(x).sum().detach(), ValueError, "loss: no gradient leads from it"),
        ("mse", TypeError, "loss: a str: give a function"),
    ],
)
def test_what_is_no_loss(split, loss, error, message):
    with pytest.raises(error, match=message):
        trained(split, loss=loss)


# --- images that are kept


def test_images_are_kept_as_they_came():
    def in_place(x, y, generator):
        return x.zero_(), y

    kept, images = Kept(in_place, fewest=1, most=10), torch.randn(14, 2, 3)
    for start in (0, 4, 8):
        x, y = kept(images[start : start + 4].clone(), torch.zeros(4), torch.Generator())
        assert not x.any()
        assert len(y) == 4
    other = torch.randn(4, 5, 5)
    assert Kept(None, 1, 9)(other, 1, torch.Generator()) == (other, 1)
    assert torch.equal(kept.images, images[:10])


def test_large_images_are_kept_as_the_fewest(monkeypatch):
    monkeypatch.setattr("frameworks.core.evaluation.batches.KEPT_BYTES", 7 * 4)
    for fewest, expected in ((5, 7), (8, 8), (12, 10)):
        kept = Kept(None, fewest, 10) if fewest < 10 else Kept(None, 10, 10)
        for _ in range(4):
            kept(torch.ones(3, 1), torch.zeros(3), torch.Generator())
            kept(torch.ones(3, 2), torch.zeros(3), torch.Generator())  # of another size
        assert len(kept.images) == expected
