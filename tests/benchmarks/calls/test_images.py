from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from benchmarks.calls.images import as_split
from frameworks import DatasetSplit, TensorSplit, torch_rng

X = torch.arange(10 * 2 * 3 * 3, dtype=torch.float32).reshape(10, 2, 3, 3)
Y = torch.arange(10) % 3


class Plain(Dataset):
    """Any map-style dataset, whose labels are Python numbers."""

    def __getitem__(self, index):
        return X[index], int(Y[index])

    def __len__(self):
        return len(X)


class Stream(IterableDataset):
    def __iter__(self):
        return zip(X, Y, strict=True)


class Odd(Dataset):
    """Ten samples, one of which is another; a network of three outputs is theirs."""

    def __init__(self, index, x=None, y=None):
        self.index, self.other = index, (x, y)

    def __getitem__(self, index):
        x, y = self.other if index == self.index else (None, None)
        return X[index] if x is None else x, int(Y[index]) if y is None else y

    def __len__(self):
        return len(X)


class Batched(Odd):
    """One that reads a batch at once."""

    asked: ClassVar = []

    def __getitems__(self, index):
        self.asked.append(index)
        return [self[i] for i in index]


class Short(Odd):
    """One that leaves out a sample of a batch."""

    def __getitems__(self, index):
        return [self[i] for i in index[:3]]


class Unsized(Dataset):
    def __getitem__(self, index):
        return X[index], int(Y[index])


class Flipped(Plain):
    """Arrays whose last axis runs backwards, as flips of NumPy leave them."""

    def __getitem__(self, index):
        return X[index].flip(-1).numpy()[..., ::-1], int(Y[index])


def collated(samples):
    return torch.stack([x for x, _ in samples]), torch.tensor([int(y) for _, y in samples])


def batches():
    return [(X[:4], Y[:4]), (X[4:], Y[4:])]


def content(split):
    parts = list(split.batches(4))
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ((X, Y), TensorSplit),
        ([X.numpy(), Y.numpy().astype(np.uint8)], TensorSplit),
        (TensorDataset(X, Y), TensorSplit),
        (Subset(TensorDataset(X.flip(0), Y.flip(0)), list(range(9, -1, -1))), TensorSplit),
        (Plain(), DatasetSplit),
        (Flipped(), DatasetSplit),
        ((X.flip(-1).numpy()[..., ::-1], Y.flip(0).numpy()[::-1]), TensorSplit),
        (Subset(TensorDataset(X.flip(0), Y.flip(0)), np.arange(10)[::-1]), TensorSplit),
        (DataLoader(Plain(), batch_size=3, num_workers=2), DatasetSplit),
        (DataLoader(Plain(), batch_size=3, shuffle=True), DatasetSplit),
        (DataLoader(TensorDataset(X, Y), batch_size=3, shuffle=True), TensorSplit),
        (DataLoader(Plain(), batch_size=3, collate_fn=collated), TensorSplit),
        (DataLoader(Stream(), batch_size=3), TensorSplit),
        (Stream(), None),
        (batches(), TensorSplit),
        (iter(batches()), TensorSplit),
        (TensorSplit(X, Y), TensorSplit),
        (TensorSplit(X, Y.to(torch.uint8)), TensorSplit),
        (DatasetSplit(Plain(), name="mine"), DatasetSplit),
    ],
)
def test_all_forms_hold_the_same_images(data, kind):
    if kind is None:  # images one by one are no batches
        with pytest.raises(ValueError, match=r"train: images \[.*\] and labels"):
            as_split(data, "train")
        return
    split = as_split(data, "train")
    assert type(split) is kind
    x, y = content(split)
    assert torch.equal(x, X)
    assert torch.equal(y, Y)
    assert y.dtype == torch.int64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": -100}, r"valid, image 7: its label is -100, those of .* 3 outputs run from 0 to 2;"),
        ({"y": 3}, r"valid, image 7: its label is 3, those of a model of 3 outputs"),
        ({"y": "cat"}, r"valid, image 7: its label is 'cat'; give a class number"),
        ({"y": 1.0}, r"valid, image 7: its label is 1\.0; give a class number"),
        ({"y": torch.tensor([0, 1, 0])}, r"valid, image 7: its label is tensor\(\[0, 1, 0\]\);"),
        ({"x": X[7] * torch.nan}, r"valid, image 7 holds NaN or infinite values"),
        ({"x": X[7].double()}, r"valid, image 7 is torch\.float64; give torch\.float32"),
        ({"x": X[7][:1]}, r"valid, image 7 is \[1, 3, 3\], image 0 \[2, 3, 3\]; give all"),
        ({"x": Image.new("L", (3, 3))}, r"valid, image 7 is a Image: give a tensor \[C, H, W\]"),
    ],
)
@pytest.mark.parametrize("kind", [Odd, Batched])
@pytest.mark.parametrize("shuffled", [False, True])
def test_a_bad_sample_of_a_dataset_is_named_when_it_is_read(kind, shuffled, change, message):
    split = as_split(kind(7, **change), "valid")
    split.dataset.classes = 3
    with pytest.raises(ValueError, match=message):
        list(split.batches(4, torch_rng(0) if shuffled else None))
    part = split.subset(9, torch_rng(1))
    with pytest.raises(ValueError, match=message):
        list(part.batches(4))


def test_a_bad_sample_of_a_callers_own_split_is_named():
    mine = DatasetSplit(Odd(7, x=X[7] * torch.nan), augmented=Odd(5, y=9), name="mine", workers=0)
    split = as_split(mine, "train")
    assert as_split(split, "train") is split
    split.augmented.classes = 3
    with pytest.raises(ValueError, match="train, image 7 holds NaN or infinite values"):
        list(split.batches(4))
    with pytest.raises(ValueError, match="train, augmented, image 5: its label is 9"):
        list(split.batches(4, augment=True))


def test_a_callers_own_resident_split_keeps_how_it_augments():
    split = as_split(TensorSplit(X, Y.int(), pad=2, flip=True), "train")
    assert (split.pad, split.flip) == (2, True)


def test_a_dataset_that_reads_batches_at_once_still_does():
    Batched.asked.clear()
    split = as_split(Batched(None), "train")
    assert torch.equal(content(split)[0], X)
    assert Batched.asked == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_labels_of_a_dataset_may_be_any_whole_numbers():
    for label in (np.uint8(2), np.int64(2), torch.tensor(2, dtype=torch.int16), 2):
        y = content(as_split(Odd(7, y=label), "train"))[1]
        assert y.dtype == torch.int64
        assert y[7] == 2


def test_a_loaders_workers_and_subset_are_kept():
    assert as_split(DataLoader(Plain(), num_workers=2), "train").workers == 2
    split = as_split(DataLoader(Plain(), sampler=SubsetRandomSampler([7, 2])), "train")
    assert content(split)[1].tolist() == [int(Y[7]), int(Y[2])]


def test_a_loader_that_draws_in_its_own_way_is_gathered_the_same_each_time():
    sampler = WeightedRandomSampler([1.0] * 10, 20)
    loader = DataLoader(Plain(), batch_size=4, sampler=sampler)
    state = torch.get_rng_state()
    first, second = as_split(loader, "train"), as_split(loader, "train")
    assert len(first) == 20
    assert torch.equal(first.x, second.x)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_split_of_a_loader_can_be_cut():
    split = as_split(DataLoader(Plain()), "valid").subset(4, torch_rng(0, "data"))
    assert len(split) == 4


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (7, r"train is a int: give a DataLoader, a Dataset, a pair of tensors"),
        ("folder", r"train is a str: give a DataLoader"),
        ({"x": X}, r"train is a dict: give a DataLoader"),
        (X, r"train is a Tensor: give a DataLoader"),
        ((X.double(), Y), r"train: images are torch\.float64; give torch\.float32"),
        (((X > 3).byte(), Y), r"train: images are torch\.uint8"),
        ((X / 0, Y), r"train: some images hold NaN or infinite values"),
        ((X, Y[:4]), r"images \[10, 2, 3, 3\] and labels \[4\] of torch\.int64"),
        ((X, Y.float()), r"of torch\.float32; give \[N, C, H, W\] and class numbers"),
        ((X, Y[:, None]), r"labels \[10, 1\]"),
        ((X[:0], Y[:0]), r"images \[0, 2, 3, 3\]"),
        ([], r"train has no batches"),
        ([X, X, X], r"train gives a Tensor: give pairs \(images, labels\)"),
        ([(X, Y, Y)], r"train gives a tuple of 3: give pairs"),
        ((X, ["cat"] * 10), r"train: images and labels are a Tensor and list, of which torch"),
        ([(X, Y), (X[..., :2], Y)], r"images of \[2, 3, 3\] and \[2, 3, 2\]; give all one size"),
        (Subset(Plain(), []), r"train has no images"),
        (TensorSplit(X.double(), Y), r"train: images are torch\.float64; give torch\.float32"),
        (TensorSplit(X / 0, Y), r"train: some images hold NaN or infinite values"),
        (TensorSplit(X, Y.float()), r"of torch\.float32; give \[N, C, H, W\] and class numbers"),
        (Subset(TensorDataset(X, Y), []), r"train has no images"),
        (Unsized(), r"train is a Unsized without a length: give it __len__"),
        (Short(None), r"train: __getitems__ gives 3 samples for 4 indices; give a list with one"),
        *(
            (data, r"train: images: a tensor of the layout sparse_coo; give x\.to_dense\(\)")
            for data in (
                (X.to_sparse(), Y),
                Subset(TensorDataset(X.to_sparse(), Y), [0]),
            )
        ),
        (Odd(0, x=X[0].to_sparse()), r"train, image 0: a tensor of the layout sparse_coo"),
        (Odd(0, x=np.array([None])), r"train, image 0: torch makes no tensor of it .*; give torch"),
        ((np.array([None] * 10), Y), r"train: images and labels are a ndarray and Tensor, of"),
    ],
)
def test_what_is_no_data_is_refused_with_the_choices(data, message):
    with pytest.raises((TypeError, ValueError), match=message):
        list(as_split(data, "train").batches(4))
