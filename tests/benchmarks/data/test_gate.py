import os
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks.data import gate
from benchmarks.data.load import CorruptData, DatasetConfig, MissingData, load
from frameworks import numpy_rng

RNG = numpy_rng(0, "gate")
SCHEMES = {"imagefolder": None, "timm": "folder", "timm ": "torch/image_folder", "imagenet": None}
KINDS = pytest.mark.parametrize("kind", SCHEMES)


def picture(path, level=None):
    """A grey image of noise, all different, or around a level."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = RNG.integers(0, 20, (12, 12, 3)) + (RNG.integers(0, 236) if level is None else level)
    Image.fromarray(values.astype(np.uint8)).save(path)
    return path


@pytest.fixture
def root(tmp_path):
    """Classes a, b and c, dark to bright: four training and two images in ``val`` each."""
    for part, count in (("train", 4), ("val", 2)):
        for level, name in enumerate("abc"):
            for i in range(count):
                picture(tmp_path / part / name / f"{i}.png", 90 * level)
    return tmp_path


def read(root, kind="imagefolder", **more):
    fields = {"valid": 3, "image_size": 8, "scheme": SCHEMES[kind], **more}
    return load(DatasetConfig(name=kind.strip(), root=str(root), **fields))


def meaning(split):
    """Brightness by label, in thirds."""
    x, y = split.images(), torch.cat([b for _, b in split.batches(8)])
    return {int(c): round(float(x[y == c].mean()) / 1.5) for c in y.unique()}


def sizes(splits):
    return [len(part) for part in (splits.train, splits.valid, splits.test)]


@KINDS
def test_every_reader_gives_the_same_three_parts(root, kind):
    splits = read(root, kind)
    assert sizes(splits) == [9, 3, 6]
    assert splits.classes == 3
    assert meaning(splits.test) == {0: -1, 1: 0, 2: 1}


@KINDS
def test_hidden_files_and_leftovers_are_no_data(root, kind):
    for part in ("train", "val"):
        picture(root / part / ".ipynb_checkpoints" / "0.png")
        picture(root / part / "__MACOSX" / "0.png")
        picture(root / part / "a" / ".ipynb_checkpoints" / "0-checkpoint.png")
        picture(root / part / "a" / "@eaDir" / "0.png")
        for name in ("._0.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
            (root / part / "b" / name).write_bytes(b"x")
        (root / part / ".DS_Store").write_bytes(b"x")
    (root / ".git").mkdir()
    splits = read(root, kind)
    assert (splits.classes, sizes(splits)) == (3, [9, 3, 6])


@KINDS
def test_test_beside_val_is_the_test_split(root, kind):
    for level, name in enumerate("abc"):
        picture(root / "test" / name / "0.png", 90 * level)
    splits = read(root, kind)
    assert sizes(splits) == [12, 6, 3], "searches see val, and nothing is cut from train"
    assert splits.valid.augmented is None
    assert meaning(splits.valid) == meaning(splits.test) == {0: -1, 1: 0, 2: 1}


def test_a_test_folder_without_labels_is_left_aside(root):
    picture(root / "test" / "ILSVRC_0.png")
    assert sizes(read(root)) == [9, 3, 6]


@KINDS
@pytest.mark.parametrize("names", [("val", "test"), ("val", "validation"), ("train", "training")])
def test_no_part_is_chosen_in_silence(root, kind, names):
    first, second = names
    if second == "test":
        (root / first).rename(root / second)
        assert sizes(read(root, kind)) == [9, 3, 6]
    else:
        shutil.copytree(root / first, root / second)
        with pytest.raises(CorruptData, match=f"{root} has {first}/ and {second}/: which of them"):
            read(root, kind)


@KINDS
@pytest.mark.parametrize("part", ["train", "val"])
def test_a_missing_part_is_never_replaced_by_the_whole(root, kind, part):
    shutil.rmtree(root / part)
    left = {"train": "val/", "val": "train/"}[part]
    with pytest.raises(MissingData, match=rf"looked for in {root}: it needs .*it has {left}"):
        read(root, kind)


def test_a_tar_file_or_no_root_has_no_parts(tmp_path):
    (tmp_path / "all.tar").write_bytes(b"")
    with pytest.raises(MissingData, match=r"all\.tar: it needs the folders train/"):
        read(tmp_path / "all.tar", "timm")
    with pytest.raises(MissingData, match=r"dataset timm: name its folder with dataset\.root"):
        load(DatasetConfig(name="timm", scheme="folder"))


@KINDS
def test_classes_are_the_same_in_all_parts(root, kind):
    shutil.rmtree(root / "val" / "b")
    with pytest.raises(CorruptData, match=rf"{root}/val has other classes than {root}/train: b;"):
        read(root, kind)
    (root / "val" / "b").mkdir()
    with pytest.raises(CorruptData, match=f"{root}/val: the class folder b holds no images"):
        read(root, kind)
    picture(root / "val" / "B" / "0.png")
    (root / "val" / "b").rmdir()
    with pytest.raises(CorruptData, match=r"other classes than .*: B, b;"):
        read(root, kind)


@given(st.sets(st.integers(0, 120).map("class{}".format), min_size=2, max_size=5))
def test_numbers_of_classes_follow_the_library(names):
    """Plain order for torchvision, natural order (2 before 10) for timm; one map for all parts."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for part in ("train", "test"):
            for name in names:
                for i in range(2):
                    picture(root / part / name / f"{i}.png")
        for kind, key in (("imagefolder", str), ("timm", lambda name: int(name[5:]))):
            splits = read(root, kind, valid=1)
            order = sorted(names, key=key)
            samples = splits.test.dataset.samples
            assert all(Path(path).parent.name == order[label] for path, label in samples)
            assert splits.classes == len(names)


@KINDS
def test_a_classifier_needs_two_classes_with_names_of_their_own(root, kind):
    for part in ("train", "val"):
        picture(root / part / "A" / "0.png")
    with pytest.raises(CorruptData, match="the classes A and a differ in capital letters alone"):
        read(root, kind)
    for part in ("train", "val"):
        for name in "Abc":
            shutil.rmtree(root / part / name)
    with pytest.raises(CorruptData, match=f"{root}/train has one class alone, a;"):
        read(root, kind)


def test_timm_names_classes_by_the_innermost_folder(root):
    for part in ("train", "val"):
        (root / part / "more").mkdir()
        (root / part / "c").rename(root / part / "more" / "c")
    assert meaning(read(root, "timm").test) == {0: -1, 1: 0, 2: 1}
    picture(root / "train" / "less" / "c" / "0.png")
    with pytest.raises(CorruptData, match=r"two folders are the class c: .*less/c and .*more/c"):
        read(root, "timm")


@KINDS
@pytest.mark.parametrize("link", [os.symlink, os.link, shutil.copy])
def test_a_test_image_is_no_training_image(root, kind, link):
    link(root / "train" / "a" / "0.png", root / "val" / "a" / "other.png")
    with pytest.raises(CorruptData, match=r"val/a/other\.png (and|is a copy of) .*train/a/0\.png"):
        read(root, kind)


def test_a_linked_folder_is_no_second_one(root):
    os.symlink(root / "train" / "a", root / "train" / "d")
    with pytest.raises(CorruptData, match=r"train/[ad] is .*train/[ad] again, by a link"):
        read(root)
    (root / "train" / "d").unlink()
    os.symlink(root / "train", root / "train" / "a" / "up")
    with pytest.raises(CorruptData, match=r"a/up is .*train again, by a link"):
        read(root)


def test_an_image_has_one_class(root):
    os.link(root / "train" / "a" / "0.png", root / "train" / "b" / "7.png")
    with pytest.raises(CorruptData, match=r"are one file by a link; .*has one class"):
        read(root)


def test_parts_may_be_links(root, tmp_path_factory):
    place = tmp_path_factory.mktemp("linked")
    for part in ("train", "val"):
        os.symlink(root / part, place / part)
    os.symlink(root / "val", place / "validation")
    assert sizes(read(place)) == [9, 3, 6]


@KINDS
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: b"", r"a/1\.png is empty \(0 bytes\)"),
        (lambda raw: raw[:200], r"a/1\.png cannot be read as an image: .*truncated.*get it again"),
        (lambda raw: b"<html>", r"a/1\.png cannot be read as an image"),
    ],
)
def test_damaged_files_are_named_before_any_work(root, kind, damage, message):
    for part in ("val", "train"):
        path = root / part / "a" / "1.png"
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(CorruptData, match=f"{part}/{message}"):
            read(root, kind)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_large_set_names_a_damaged_file_when_it_is_met(root, monkeypatch, workers):
    monkeypatch.setattr(gate, "SMALL", 1000)
    monkeypatch.setattr(gate, "SAMPLE", 1)
    path = root / "val" / "b" / "1.png"
    path.write_bytes(path.read_bytes()[:200])
    shutil.copy(root / "train" / "a" / "0.png", root / "val" / "a" / "other.png")
    splits = read(root, workers=workers)
    with pytest.raises(CorruptData) as caught:
        splits.test.images()
    assert "val/b/1.png cannot be read as an image" in str(caught.value).splitlines()[-1]


def test_a_link_to_nowhere_is_named(root):
    os.symlink(root / "nowhere.png", root / "train" / "a" / "9.png")
    with pytest.raises(CorruptData, match=r"train/a/9\.png cannot be read: No such file"):
        read(root)


def test_other_files_are_named_and_left_out(root):
    (root / "train" / "a" / "notes.txt").write_text("x")
    picture(root / "train" / "stray.png")
    with pytest.warns(UserWarning, match=r"train: 2 files are no images of a class .*notes\.txt"):
        assert sizes(read(root)) == [9, 3, 6]


def test_a_class_without_training_images_after_the_cut_is_told(tmp_path):
    for name in "abcdefgh":
        picture(tmp_path / "train" / name / "0.png")
        picture(tmp_path / "test" / name / "0.png")
    with pytest.warns(UserWarning, match=r"no training image of 4 classes: . \(of 1\)"):
        assert read(tmp_path, valid=0.5).classes == 8
