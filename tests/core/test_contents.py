"""What files and data sets hold: every change is seen, where they lie does not count."""

import hashlib
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import ConcatDataset, Dataset, Subset

from frameworks.core import contents
from frameworks.core.contents import (
    CONTENT,
    FACTS,
    file_digest,
    files_under,
    folder_state,
    identify_dataset,
    identify_files,
)
from frameworks.core.randomness import torch_rng
from frameworks.core.streaming import DatasetSplit


class Folder(Dataset):
    """As an image folder: a list of files with labels."""

    def __init__(self, root, transform=None):
        names = sorted(root.rglob("*.bin"))
        self.samples = [(str(path), int(path.parent.name)) for path in names]
        self.transform = transform

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        path, label = self.samples[index]
        with open(path, "rb") as file:
            return torch.tensor(list(file.read())), label


@pytest.fixture
def root(tmp_path):
    for label in (0, 1):
        (tmp_path / "a" / str(label)).mkdir(parents=True)
        for i in range(3):
            (tmp_path / "a" / str(label) / f"{i}.bin").write_bytes(bytes([label, i, 7]))
    return tmp_path / "a"


def known(root, **options):
    return identify_dataset(Folder(root, **options))


def test_equal_content_at_another_place_is_the_same(root, tmp_path):
    shutil.copytree(root, tmp_path / "deep" / "b")
    assert known(tmp_path / "deep" / "b") == known(root)
    assert known(root).basis == CONTENT


def rewrite(root):
    (root / "1" / "2.bin").write_bytes(bytes([1, 2, 8]))


def dated_back(root):
    path = root / "1" / "2.bin"
    facts = path.stat()
    path.write_bytes(bytes([1, 2, 8]))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def replaced(root):
    other = root.parent / "other"
    other.write_bytes(bytes([1, 2, 8]))
    other.replace(root / "1" / "2.bin")


CHANGES = {
    "one byte": rewrite,
    "one byte, dated back": dated_back,
    "another file in its place": replaced,
    "a file more": lambda root: (root / "1" / "3.bin").write_bytes(b"x"),
    "a file less": lambda root: (root / "1" / "2.bin").unlink(),
    "another name": lambda root: (root / "1" / "2.bin").rename(root / "1" / "9.bin"),
    "another class": lambda root: (root / "1" / "2.bin").rename(root / "0" / "3.bin"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_change_is_seen_at_once(root, change):
    before, state = known(root), folder_state(root)
    change(root)
    assert known(root) != before
    assert folder_state(root) != state


def test_a_set_too_large_is_known_by_paths_sizes_and_times(root, tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "CONTENT_LIMIT", 17)
    before = known(root)
    assert before.basis == FACTS
    shutil.copytree(root, tmp_path / "b")  # times are copied, too
    assert known(tmp_path / "b") == before
    path = root / "0" / "0.bin"
    os.utime(path, ns=(1, 1))
    assert known(root) != before
    monkeypatch.setattr(contents, "CONTENT_LIMIT", 18)
    assert known(root) == known(tmp_path / "b"), "by content again, which times do not change"


def test_content_is_read_once(root, monkeypatch):
    read = []
    digest = contents.hashlib.file_digest
    monkeypatch.setattr(
        contents.hashlib, "file_digest", lambda *args: read.append(1) or digest(*args)
    )
    files = files_under(root)
    identify_files(files)
    first = len(read)
    identify_files(files)
    assert first == len(read) == 6


@settings(max_examples=25)
@given(st.lists(st.binary(max_size=3), min_size=2, max_size=2))
def test_a_file_is_known_by_its_content_alone(tmp_path_factory, pair):
    folder = tmp_path_factory.mktemp("files")
    paths = [folder / "a", folder / "b"]
    for path, content in zip(paths, pair, strict=True):
        path.write_bytes(content)
    assert (file_digest(paths[0]) == file_digest(paths[1])) == (pair[0] == pair[1])


def test_a_file_written_twice_in_a_moment_is_read_twice(tmp_path):
    path, seen = tmp_path / "x", set()
    for i in range(20):
        path.write_bytes(bytes([i]))
        seen.add(file_digest(path))
    assert len(seen) == 20


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.bin"):
        file_digest(tmp_path / "none.bin")


def test_hidden_files_do_not_count(root):
    before = folder_state(root)
    (root / ".ipynb_checkpoints").mkdir()
    (root / ".ipynb_checkpoints" / "0.bin").write_bytes(b"x")
    (root / ".DS_Store").write_bytes(b"x")
    assert folder_state(root) == before
    assert len(files_under(root)) == 6


def test_what_is_not_there_has_no_state(tmp_path):
    assert folder_state(tmp_path / "nowhere") == ""


def test_a_walk_through_many_files_is_trusted_for_a_while(root, monkeypatch):
    monkeypatch.setattr(contents, "MANY", 6)
    before = folder_state(root)
    rewrite(root)
    assert folder_state(root) == before
    time.sleep(0.01)
    monkeypatch.setattr(contents, "_walks", {})
    assert folder_state(root) != before


def test_parts_and_unions_differ(root):
    whole = Folder(root)
    parts = [Subset(whole, [0, 1]), Subset(whole, [1, 0]), ConcatDataset([whole, whole]), whole]
    assert len({identify_dataset(part).digest for part in parts}) == 4
    assert identify_dataset(Subset(whole, torch.tensor([0, 1]))) == identify_dataset(parts[0])


def test_labels_order_and_transforms_count(root):
    plain, relabelled, turned = Folder(root), Folder(root), Folder(root)
    relabelled.samples = [(path, 1 - label) for path, label in plain.samples]
    turned.samples = plain.samples[::-1]
    resized = Folder(root, transform="Resize(size=8)")
    others = [identify_dataset(other) for other in (relabelled, turned, resized)]
    assert len({known(root), *others}) == 4
    by_address = [identify_dataset(Folder(root, transform=object())) for _ in range(2)]
    assert by_address[0] == by_address[1]


class Reader:
    """A data set that reads through another object, as timm's do."""

    def __init__(self, inner):
        self.reader = inner

    def __len__(self):
        return len(self.reader)


def test_what_a_reader_lists_counts(root):
    before = identify_dataset(Reader(Folder(root)))
    rewrite(root)
    assert identify_dataset(Reader(Folder(root))) != before


class Arrays(Dataset):
    """As torchvision's small data sets."""

    def __init__(self, data, targets):
        self.data, self.targets = data, targets

    def __len__(self):
        return len(self.data)


def test_arrays_count_by_every_value():
    data, targets = np.zeros((5000, 2, 2), np.uint8), list(range(5000))
    before = identify_dataset(Arrays(data, targets))
    assert before == identify_dataset(Arrays(torch.as_tensor(data), targets))
    assert before.basis == CONTENT
    data[4321, 1, 1] = 1
    assert identify_dataset(Arrays(data, targets)) != before


class Fingerprinted:
    _fingerprint = "f1"

    def __len__(self):
        return 3


def test_a_fingerprint_of_its_own_is_taken():
    one, two = Fingerprinted(), Fingerprinted()
    two._fingerprint = "f2"
    assert identify_dataset(Reader(one)) != identify_dataset(Reader(two))


class Made(Dataset):
    """Neither files nor arrays."""

    def __init__(self, count, other=None):
        self.count, self.other = count, other

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return torch.tensor([index == self.other]), index % 2


def test_of_few_samples_every_one_is_read():
    assert identify_dataset(Made(4096)).basis == CONTENT
    assert identify_dataset(Made(4096)) != identify_dataset(Made(4096, other=4001))


def test_of_many_samples_some_are_read_which_is_said():
    assert identify_dataset(Made(5000)).basis == "64 samples"
    assert identify_dataset(Made(5000)) != identify_dataset(Made(5000, other=0))


def test_a_split_is_known_by_its_files_not_by_its_name(root, tmp_path):
    shutil.copytree(root, tmp_path / "b")
    one = DatasetSplit(Folder(root), name="a")
    two = DatasetSplit(Folder(tmp_path / "b"), name="b", workers=2)
    assert one.known() == two.known()
    assert one.fingerprint() == one.known().digest
    cut = [split.halves(0.5, torch_rng(0))[0].fingerprint() for split in (one, two)]
    assert cut[0] == cut[1] != one.fingerprint()
    rewrite(root)
    assert one.fingerprint() != two.fingerprint()


def test_the_training_transform_counts(root):
    augmented = [
        DatasetSplit(Folder(root), augmented=Folder(root, transform=text), name="x").fingerprint()
        for text in ("Flip()", "Flip(p=0.1)", "Flip()")
    ]
    assert augmented[0] == augmented[2] != augmented[1]


def test_links_that_lead_round_in_a_circle_end(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "1.png").write_text(name)
    for place, target in {"a/x": "..", "a/y": "../b", "b/y": "../a", "b/z": "."}.items():
        (tmp_path / "train" / place).symlink_to(target)
    assert sorted(files_under(tmp_path)) == [
        "train/a/1.png", "train/a/y/1.png", "train/b/1.png", "train/b/y/1.png"
    ]  # fmt: skip


def test_names_that_are_no_utf8_are_known_like_others(tmp_path):
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    odd.mkdir()
    (odd / os.fsdecode(b"\xe9.bin")).write_bytes(b"1")
    files = files_under(tmp_path)
    first, state = identify_files(files), folder_state(tmp_path)
    assert first == identify_files(files)
    (odd / os.fsdecode(b"\xe9.bin")).write_bytes(b"2")
    assert identify_files(files) != first
    assert folder_state(tmp_path) != state


def test_the_digest_of_other_names_is_of_their_utf8(tmp_path):
    (tmp_path / "café").write_bytes(b"1")
    content = hashlib.sha256(b"1").hexdigest()
    expected = hashlib.sha256(f"café\0{content}".encode()).hexdigest()[:16]
    assert identify_files(files_under(tmp_path)).digest == expected
