"""Images on disk that are kept where they fit: read once, the same values in the same order."""

import gc

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset

from frameworks.core.randomness import torch_rng
from frameworks.core.streaming import DatasetSplit, Room

IMAGE = 3 * 4 * 5 * 4 + 8
"""Bytes of an image and its label."""


class Counted(Dataset):
    """Images that count how often they are read."""

    def __init__(self, count):
        self.count, self.reads = count, 0

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.reads += 1
        return torch.full((3, 4, 5), float(index)), index


def passes(split, sizes_and_seeds):
    return [
        [
            (x.clone(), y.clone())
            for x, y in split.batches(size, None if s is None else torch_rng(s))
        ]
        for size, s in sizes_and_seeds
    ]


@given(
    st.integers(1, 20),
    st.lists(st.tuples(st.integers(1, 8), st.none() | st.integers(0, 3)), min_size=1, max_size=4),
)
def test_kept_images_are_those_of_the_disk_in_the_same_order(count, wanted):
    data = Counted(count)
    kept = passes(DatasetSplit(data, name="kept", room=Room(count * IMAGE)), wanted)
    assert data.reads == count
    read = passes(DatasetSplit(Counted(count), name="read"), wanted)
    for ours, theirs in zip(kept, read, strict=True):
        for (x, y), (x2, y2) in zip(ours, theirs, strict=True):
            assert torch.equal(x, x2)
            assert torch.equal(y, y2)
            assert torch.equal(x[:, 0, 0, 0], y.float())


def test_what_does_not_fit_is_read_in_each_pass():
    data = Counted(6)
    room = Room(6 * IMAGE - 1)
    split = DatasetSplit(data, name="large", room=room)
    passes(split, [(4, None)] * 3)
    assert data.reads == 18
    assert room.free == 6 * IMAGE - 1
    part = split.subset(5, torch_rng(0))
    passes(part, [(4, None)] * 3)
    assert data.reads == 18 + 5
    assert room.free == IMAGE - 1


def test_splits_share_the_room_and_give_it_back():
    room = Room(10 * IMAGE)
    one = DatasetSplit(Counted(6), name="one", room=room)
    two = DatasetSplit(Counted(6), name="two", room=room)
    passes(one, [(6, None)])
    passes(two, [(6, None)] * 2)
    assert two.dataset.reads == 12
    assert room.free == 4 * IMAGE
    del one
    gc.collect()
    assert room.free == 10 * IMAGE
    passes(two, [(6, None)] * 3)
    assert two.dataset.reads == 18


def test_a_pass_that_is_left_keeps_nothing():
    room = Room(10 * IMAGE)
    split = DatasetSplit(Counted(6), name="left", room=room)
    assert len(split.images(2)) == 2
    gc.collect()
    assert room.free == 10 * IMAGE
    both = zip(split.batches(2), split.batches(3), strict=False)  # at the same time
    assert len(list(both)) == 2
    gc.collect()
    passes(split, [(4, None)])
    assert room.free == 4 * IMAGE


def test_augmented_passes_always_read():
    data, noisy = Counted(6), Counted(6)
    split = DatasetSplit(data, augmented=noisy, name="augmented", room=Room(1e6))
    for _ in range(2):
        list(split.batches(3, torch_rng(0), augment=True))
        list(split.batches(3, torch_rng(0)))
    assert (noisy.reads, data.reads) == (12, 6)


@pytest.mark.parametrize("workers", [0, 1])
def test_kept_images_cannot_be_changed_by_who_takes_them(workers):
    split = DatasetSplit(Counted(4), name="changed", workers=workers, room=Room(1e6))
    for _ in range(3):
        for x, y in split.batches(4):
            assert torch.equal(x[:, 0, 0, 0], y.float())
            x.zero_()
