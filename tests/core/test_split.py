import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset

from frameworks.core.randomness import torch_rng
from frameworks.core.split import Split, TensorSplit
from frameworks.core.streaming import DatasetSplit


def tensors(count, size=(3, 4, 5), **options):
    """Images whose every pixel is their number, with the number as label."""
    number = torch.arange(count)
    images = number.view(-1, 1, 1, 1).float().expand(count, *size)
    return TensorSplit(images, number, **options)


def global_state():
    legacy = np.random.get_state()[1].tolist()  # noqa: NPY002
    return random.getstate(), legacy, torch.get_rng_state().tolist()


class Numbers(Dataset):
    """The same on disk; under ``noise``, a random transform of global generators is added."""

    def __init__(self, count, noise=False):
        self.count, self.noise = count, noise

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        x = torch.full((3, 4, 5), float(index))
        if self.noise:
            x += 0.1 * (random.random() + torch.rand(()))
            x += 0.1 * float(np.random.rand())  # noqa: NPY002
        return x, index


def on_disk(count, **options):
    return DatasetSplit(Numbers(count), augmented=Numbers(count, True), name="numbers", **options)


MAKERS = [tensors, on_disk]


def labels(split, size=7, generator=None, **options):
    return [int(y) for _, part in split.batches(size, generator, **options) for y in part]


@pytest.mark.parametrize("make", MAKERS)
class TestBothKinds:
    def test_batches_cover_every_image_once_in_order(self, make):
        batches = list(make(23).batches(5))
        assert [len(x) for x, _ in batches] == [5, 5, 5, 5, 3]
        assert torch.cat([y for _, y in batches]).tolist() == list(range(23))
        assert all(torch.equal(x[:, 0, 0, 0], y.float()) for x, y in batches)

    def test_shuffled_batches_repeat_with_the_generator(self, make):
        split = make(23)
        one, two = (labels(split, 5, torch_rng(1, "order")) for _ in range(2))
        assert one == two
        assert sorted(one) == list(range(23)) != one
        assert labels(split, 5, torch_rng(2, "order")) != one

    def test_epochs_of_one_generator_differ(self, make):
        split, generator = make(23), torch_rng(0)
        assert labels(split, 5, generator) != labels(split, 5, generator)

    def test_images_and_labels_stay_together_when_shuffled(self, make):
        for x, y in make(23).batches(5, torch_rng(1)):
            assert torch.equal(x[:, 2, 3, 4], y.float())

    def test_channels_lie_last(self, make):
        for generator in (None, torch_rng(0)):
            for x, _ in make(6).batches(4, generator):
                assert x.is_contiguous(memory_format=torch.channels_last)

    def test_subset(self, make):
        split = make(40)
        part = split.subset(12, torch_rng(1))
        chosen = labels(part)
        assert len(part) == len(set(chosen)) == 12
        assert chosen != list(range(12))
        assert chosen == labels(split.subset(12, torch_rng(1)))
        assert chosen != labels(split.subset(12, torch_rng(2)))
        assert split.subset(40, torch_rng(1)) is split
        assert split.subset(99, torch_rng(1)) is split

    def test_train_valid_and_test_are_disjoint(self, make):
        whole = make(60)
        rest, test = whole.halves(0.75, torch_rng(3, "test"))
        train, valid = rest.halves(0.8, torch_rng(3, "valid"))
        assert [len(part) for part in (train, valid, test)] == [36, 9, 15]
        numbers = [labels(part) for part in (train, valid, test)]
        assert sorted(number for part in numbers for number in part) == list(range(60))
        again = whole.halves(0.75, torch_rng(3, "test"))[0].halves(0.8, torch_rng(3, "valid"))
        assert [labels(part) for part in again] == numbers[:2]

    def test_halves_are_never_empty(self, make):
        for share in (0.0, 1.0):
            one, two = make(5).halves(share, torch_rng(0))
            assert sorted((len(one), len(two))) == [1, 4]

    def test_images(self, make):
        split = make(300)
        assert torch.equal(split.images(260)[:, 0, 0, 0], torch.arange(260.0))
        assert split.images().shape == (300, 3, 4, 5)
        assert split.images(999).shape == (300, 3, 4, 5)
        assert split.images(2).shape == (2, 3, 4, 5)

    def test_no_global_randomness_is_used(self, make):
        before = global_state()
        split = make(20)
        for generator in (None, torch_rng(0)):
            for augment in (False, True):
                labels(split, 7, generator, augment=augment)
        split.subset(5, torch_rng(0)).images(3)
        split.fingerprint()
        assert global_state() == before

    def test_fingerprints_tell_contents_apart(self, make):
        split = make(30)
        assert split.fingerprint() == make(30).fingerprint()
        others = [make(31), *split.halves(0.5, torch_rng(0)), split.subset(29, torch_rng(0))]
        assert len({part.fingerprint() for part in [split, *others]}) == 5

    def test_an_empty_split_is_refused(self, make):
        with pytest.raises(ValueError, match="split"):
            make(0)


def test_as_many_labels_as_images():
    with pytest.raises(ValueError, match="3 images and 2 labels"):
        TensorSplit(torch.zeros(3, 1, 2, 2), torch.zeros(2))


def test_fingerprint_sees_pixels_and_labels_but_not_the_memory_order():
    x, y = torch.randn(4, 3, 2, 2, generator=torch_rng(0)), torch.arange(4)
    plain = TensorSplit(x, y).fingerprint()
    assert TensorSplit(x.contiguous(memory_format=torch.channels_last), y).fingerprint() == plain
    assert TensorSplit(x, y.flip(0)).fingerprint() != plain
    changed = x.clone()
    changed[3, 2, 1, 1] += 1e-3
    assert TensorSplit(changed, y).fingerprint() != plain
    assert TensorSplit(x.view(4, 3, 4, 1), y).fingerprint() != plain


def crops(image, pad):
    """Every crop of a zero-padded image, by loops."""
    channels, height, width = image.shape
    padded = torch.zeros(channels, height + 2 * pad, width + 2 * pad)
    padded[:, pad : pad + height, pad : pad + width] = image
    return [
        padded[:, top : top + height, left : left + width]
        for top in range(2 * pad + 1)
        for left in range(2 * pad + 1)
    ]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2), st.booleans(), st.integers(0, 2**30))
def test_augmentation_is_a_crop_after_padding_and_a_mirror(pad, flip, seed):
    x = torch.randn(6, 2, 4, 5, generator=torch_rng(0))
    split = TensorSplit(x, torch.arange(6), pad=pad, flip=flip)
    for out, y in split.batches(4, torch_rng(seed), augment=True):
        assert out.is_contiguous(memory_format=torch.channels_last)
        for image, number in zip(out, y, strict=True):
            sources = [x[number], x[number].flip(-1)] if flip else [x[number]]
            assert any(torch.equal(image, crop) for s in sources for crop in crops(s, pad))
    assert torch.equal(split.x, x)


def test_augmentation_reaches_every_crop_and_both_sides_evenly():
    x = torch.randn(1, 1, 3, 3, generator=torch_rng(1)).expand(4000, 1, 3, 3)
    split = TensorSplit(x, torch.zeros(4000), pad=1, flip=True)
    options = [crop for s in (x[0], x[0].flip(-1)) for crop in crops(s, 1)]
    counts = [0] * len(options)
    for out, _ in split.batches(4000, torch_rng(2), augment=True):
        for i, option in enumerate(options):
            counts[i] = int((out == option).flatten(1).all(1).sum())
    assert sum(counts) == 4000
    assert all(abs(count - 4000 / 18) < 80 for count in counts)


def test_augmentation_needs_to_be_asked_for_and_repeats():
    split = tensors(9, pad=2, flip=True)
    plain, *_ = split.batches(9, torch_rng(0))
    assert torch.equal(plain[0], split.x[plain[1]])
    one, two = (next(split.batches(9, torch_rng(0), augment=True)) for _ in range(2))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], plain[1])
    assert not torch.equal(one[0], plain[0])


def test_subsets_keep_their_augmentation():
    part = tensors(9, pad=2, flip=True).subset(4, torch_rng(0)).halves(0.5, torch_rng(0))[1]
    assert (part.pad, part.flip, len(part)) == (2, True, 2)
    disk = on_disk(9, workers=0).subset(4, torch_rng(0)).halves(0.5, torch_rng(0))[1]
    x, y = next(disk.batches(2, torch_rng(0), augment=True))
    assert ((x[:, 0, 0, 0] - y) > 0).all()


@pytest.mark.parametrize("workers", [0, 1])
def test_transforms_on_disk_repeat_with_the_generator(workers):
    split = on_disk(6, workers=workers)
    one, two, three = (
        torch.cat([x for x, _ in split.batches(2, torch_rng(seed), augment=True)])
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, three)
    noise = one[:, 0, 0, 0] - one[:, 0, 0, 0].round()
    assert len(set(noise.tolist())) == 6


def test_without_a_training_transform_augmentation_changes_nothing():
    split = DatasetSplit(Numbers(4), name="plain")
    x, y = next(split.batches(4, torch_rng(0), augment=True))
    assert torch.equal(x[:, 0, 0, 0], y.float())


@pytest.mark.parametrize(("count", "sizes"), [(1, [10]), (3, [3, 3, 4]), (4, [2, 3, 2, 3])])
def test_parts_are_disjoint_and_make_up_the_whole(count, sizes):
    found = tensors(10).parts(count, torch_rng(0, "parts"))
    assert sorted(len(part) for part in found) == sorted(sizes)
    labels = [int(y) for part in found for _, ys in part.batches(4) for y in ys]
    assert sorted(labels) == list(range(10))
    assert count == 1 or labels != list(range(10))


def test_a_split_of_a_plugin_s_own_needs_no_device_but_the_cpu():
    class Own(Split):
        def __len__(self):
            return 1

        def subset(self, count, generator):
            return self

        def halves(self, share, generator):
            return self, self

        def batches(self, size, generator=None, *, augment=False):
            yield torch.zeros(1, 3, 2, 2), torch.zeros(1, dtype=torch.int64)

        def fingerprint(self):
            return "own"

    own = Own()
    assert own.to(torch.device("cpu")) is own
    with pytest.raises(TypeError, match="Own cannot hand out images on cuda: write its `to`"):
        own.to(torch.device("cuda"))
