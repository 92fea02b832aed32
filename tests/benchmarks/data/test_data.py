import gzip
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.data import digits
from benchmarks.data.load import (
    CorruptData,
    DatasetConfig,
    MissingData,
    Splits,
    cut_size,
    datasets,
    load,
)
from benchmarks.models.build import ModelConfig, create
from frameworks import TensorSplit, UnknownName, torch_rng

PARTS = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


def rows(split):
    """The images of a split as a set of bytes."""
    return {x.contiguous().numpy().tobytes() for x in split.images()}


def labels(split):
    return torch.cat([y for _, y in split.batches(512)])


def test_digits_are_cut_in_three_disjoint_parts():
    splits = load(DatasetConfig())
    sizes = [len(part) for part in (splits.train, splits.valid, splits.test)]
    assert sizes == [1078, 270, 449]
    assert (splits.classes, splits.input_shape) == (10, (1, 8, 8))
    parts = [rows(part) for part in (splits.train, splits.valid, splits.test)]
    assert len(set.union(*parts)) == 1797, "scikit-learn's digits are all different"
    for part in (splits.train, splits.valid, splits.test):
        counts = torch.bincount(labels(part), minlength=10).float()
        assert len(counts) == 10
        assert counts.min() > 0.6 * counts.mean(), "every class is in every part"


def test_digits_are_those_of_the_library_from_its_file_or_by_itself(monkeypatch):
    from sklearn.datasets import load_digits

    bunch, read = load_digits(), digits.pictures()
    monkeypatch.setattr(digits, "FILE", "sklearn/elsewhere.gz")
    for images, labels in (read, digits.pictures()):
        assert np.array_equal(images, bunch.images)
        assert np.array_equal(labels, bunch.target)
        assert (images.dtype, labels.dtype) == (bunch.images.dtype, bunch.target.dtype)


def test_digits_keep_their_labels():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    known = {
        x.astype(np.float32).tobytes(): y for x, y in zip(bunch.images, bunch.target, strict=True)
    }
    splits = load(DatasetConfig())
    # Undo the normalisation: digits are whole numbers up to 16, and 0 is the least in every image.
    x, y = splits.test.images(), labels(splits.test)
    unit = torch.cat([s.images() for s in (splits.train, splits.valid)]).unique().diff().median()
    for image, label in zip(x[:, 0], y, strict=True):
        raw = ((image - x.min()) / unit).round().numpy()
        assert known[raw.tobytes()] == int(label)


def test_images_are_normalised_by_the_training_images():
    splits = load(DatasetConfig())
    seen = torch.cat([splits.train.images(), splits.valid.images()])
    assert abs(float(seen.mean())) < 1e-5
    assert abs(float(seen.std()) - 1) < 1e-3


def test_the_cut_and_the_fingerprint_are_the_same_every_time():
    first, second = load(DatasetConfig()), load(DatasetConfig())
    assert first.fingerprint() == second.fingerprint()
    assert len(set(first.fingerprint().split("-"))) == 3
    other = load(DatasetConfig(valid=0.1))
    assert len(other.valid) == 135
    one, another = first.fingerprint().split("-"), other.fingerprint().split("-")
    assert one[2] == another[2], "the test split does not depend on the cut"
    assert one[0] != another[0]


@pytest.mark.parametrize(("valid", "size"), [(0.2, 20), (0.999, None), (30, 30), (1, 1), (99, 99)])
def test_the_cut_is_a_share_or_a_number(valid, size):
    if size is None:
        with pytest.raises(ValueError, match=r"dataset\.valid = 0.999"):
            cut_size(100, valid)
    else:
        assert cut_size(100, valid) == size


@pytest.mark.parametrize("valid", [0, 100, 1000, -1, float("nan"), float("inf")])
def test_a_cut_that_leaves_nothing_is_refused(valid):
    with pytest.raises(ValueError, match=r"dataset\.valid"):
        load(DatasetConfig(valid=valid and 10_000 * valid))


def test_an_unknown_dataset_lists_the_known_ones():
    with pytest.raises(UnknownName, match="choose from cifar10, cifar100, digits"):
        load(DatasetConfig(name="mnist"))
    assert datasets.unavailable() == []


# --- Fashion-MNIST -------------------------------------------------------------------------


def idx(array):
    array = np.asarray(array, np.uint8)
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.tobytes()


@pytest.fixture
def idx_folder(tmp_path):
    """Ten training and five test images of 4x4, the third training image all 255."""
    rng = np.random.default_rng(0)
    train, test = rng.integers(0, 255, (10, 4, 4)), rng.integers(0, 255, (5, 4, 4))
    train[2] = 255
    arrays = [train, np.arange(10) % 3, test, [2, 1, 0, 1, 2]]
    for name, array in zip(PARTS, arrays, strict=True):
        (tmp_path / f"{name}-ubyte").write_bytes(idx(array))
    return tmp_path


def fashion(folder, **more):
    return load(DatasetConfig(name="fashion_mnist", root=str(folder), **more))


def test_idx_files_are_read(idx_folder):
    splits = fashion(idx_folder)
    assert [len(s) for s in (splits.train, splits.valid, splits.test)] == [8, 2, 5]
    assert (splits.classes, splits.input_shape) == (3, (1, 4, 4))
    assert labels(splits.test).tolist() == [2, 1, 0, 1, 2]
    x = torch.cat([splits.train.images(), splits.valid.images()])
    y = torch.cat([labels(splits.train), labels(splits.valid)])
    white = (x == x.max()).flatten(1).all(1)
    assert y[white].tolist() == [2], "the image keeps its label through the cut"


def test_gzipped_files_hold_the_same(idx_folder, tmp_path_factory):
    packed = tmp_path_factory.mktemp("packed")
    for name in PARTS:
        raw = (idx_folder / f"{name}-ubyte").read_bytes()
        (packed / f"{name}-ubyte.gz").write_bytes(gzip.compress(raw))
    assert fashion(packed).fingerprint() == fashion(idx_folder).fingerprint()


def test_missing_files_say_where_was_looked_and_how_to_get_them(tmp_path):
    with pytest.raises(MissingData) as caught:
        fashion(tmp_path / "nowhere")
    text = str(caught.value)
    assert f"looked for in {tmp_path / 'nowhere'}" in text
    for way in ("apt-get install dataset-fashion-mnist", "dataset.root=", "dataset.download=true"):
        assert way in text


def test_the_usual_places_are_named(monkeypatch, tmp_path):
    places = (str(tmp_path / "one"), str(tmp_path / "two"))
    monkeypatch.setattr("benchmarks.data.fashion_mnist.FASHION_PLACES", places)
    with pytest.raises(MissingData, match=f"{places[0]}, {places[1]}"):
        load(DatasetConfig(name="fashion_mnist"))


def test_an_incomplete_folder_counts_as_missing(idx_folder):
    (idx_folder / f"{PARTS[3]}-ubyte").unlink()
    with pytest.raises(MissingData):
        fashion(idx_folder)


WHOLE = idx(np.zeros((10, 4, 4)))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (f"{PARTS[0]}-ubyte", b""),
        (f"{PARTS[0]}-ubyte", WHOLE[:3]),
        (f"{PARTS[0]}-ubyte", WHOLE[:9]),
        (f"{PARTS[0]}-ubyte", WHOLE[:-1]),
        (f"{PARTS[0]}-ubyte", b"<html>not found</html>"),
        (f"{PARTS[0]}-ubyte", idx(np.zeros(10))),
        (f"{PARTS[0]}-ubyte.gz", WHOLE),
        (f"{PARTS[0]}-ubyte.gz", gzip.compress(WHOLE, mtime=0)[:-9]),
        (f"{PARTS[0]}-ubyte.gz", b"\x1f\x8b\x08\x00" + b"\x07" * 30),
    ],
    ids=range(9),
)
def test_a_corrupt_file_is_named(idx_folder, name, content):
    (idx_folder / name).write_bytes(content)
    with pytest.raises(CorruptData, match=f"{name} cannot be read.*get it again"):
        fashion(idx_folder)


def test_labels_that_do_not_match_the_images_are_refused(idx_folder):
    (idx_folder / f"{PARTS[1]}-ubyte").write_bytes(idx(np.arange(9) % 3))
    with pytest.raises(CorruptData, match="10 and 5 images, but 9 and 5 labels"):
        fashion(idx_folder)


# --- on disk -------------------------------------------------------------------------------


@pytest.fixture
def image_folder(tmp_path):
    """Two classes told apart by colour: six training and two validation images each."""
    for part, shades in (("train", range(1, 7)), ("val", range(7, 9))):
        for name, colour in (("ant", (250, 0, 0)), ("bee", (0, 0, 250))):
            folder = tmp_path / "insects" / part / name
            folder.mkdir(parents=True)
            for i in shades:
                Image.new("RGB", (12, 12), tuple(c // i for c in colour)).save(folder / f"{i}.png")
    return tmp_path / "insects"


def from_folder(root, **more):
    fields = {"name": "imagefolder", "valid": 4, "image_size": 8, **more}
    return load(DatasetConfig(root=str(root), **fields))


@pytest.mark.parametrize("name", ["imagefolder", "imagenet"])
def test_an_image_folder_is_cut_in_three(image_folder, name):
    splits = from_folder(image_folder, name=name)
    assert [len(s) for s in (splits.train, splits.valid, splits.test)] == [8, 4, 4]
    assert (splits.classes, splits.input_shape) == (2, (3, 8, 8))
    for part in (splits.train, splits.valid, splits.test):
        ((x, y),) = part.batches(16)
        assert x.shape[1:] == (3, 8, 8)
        red = x[:, 0].mean((1, 2)) > x[:, 2].mean((1, 2))
        assert torch.equal(red, y == 0)
    parts = [rows(part) for part in (splits.train, splits.valid)]
    assert len(parts[0] | parts[1]) == 12
    assert from_folder(image_folder).fingerprint() == from_folder(image_folder).fingerprint()


def test_only_training_images_are_augmented(image_folder):
    splits = from_folder(image_folder)
    assert splits.train.augmented is not None
    assert splits.valid.augmented is None
    assert splits.test.augmented is None
    ((x, _),) = splits.train.batches(16, torch_rng(0, "x"), augment=True)
    assert x.shape == (8, 3, 8, 8)


def test_a_missing_image_folder_says_what_it_needs(tmp_path):
    with pytest.raises(MissingData, match=f"looked for in {tmp_path}: it needs the folders train/"):
        from_folder(tmp_path)
    with pytest.raises(MissingData, match=r"dataset\.root=PATH"):
        load(DatasetConfig(name="imagefolder"))


def test_empty_and_mismatched_image_folders_are_refused(image_folder):
    (image_folder / "val" / "cat").mkdir()
    Image.new("RGB", (12, 12)).save(image_folder / "val" / "cat" / "0.png")
    with pytest.raises(CorruptData, match=r"other classes than .*: cat"):
        from_folder(image_folder)
    (image_folder / "train" / "cat").mkdir()
    with pytest.raises(CorruptData, match="the class folder cat holds no images"):
        from_folder(image_folder)


def test_an_empty_train_folder_is_refused(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "val").mkdir()
    with pytest.raises(CorruptData, match="train holds no readable class folders"):
        from_folder(tmp_path)


def test_a_scheme_of_timm(image_folder):
    splits = load(
        DatasetConfig(name="timm", scheme="folder/", root=str(image_folder), valid=4, image_size=8)
    )
    assert [len(s) for s in (splits.train, splits.valid, splits.test)] == [8, 4, 4]
    assert splits.classes == 2
    ours = from_folder(image_folder)
    assert torch.equal(splits.test.images(), ours.test.images())


def test_a_scheme_that_cannot_be_opened_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"dataset\.scheme"):
        load(DatasetConfig(name="timm"))
    with pytest.raises(MissingData, match="timm could not open 'torch/mnist'"):
        load(DatasetConfig(name="timm", scheme="torch/mnist", root=str(tmp_path)))


def test_labels_that_are_no_class_numbers_are_refused(idx_folder):
    for labels, message in (
        (1 + np.arange(10) % 3, "no training image has the label 0, and the largest is 3"),
        (2 * (np.arange(10) % 2), "no training image has the label 1"),
        (np.zeros(10), "two classes are needed at least"),
        (np.arange(10) % 2, "test images: labels run from 0 to 2, those of 2 classes"),
    ):
        (idx_folder / f"{PARTS[1]}-ubyte").write_bytes(idx(labels))
        with pytest.raises(CorruptData, match=message):
            fashion(idx_folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(y=torch.arange(1, 9)), r"test images: labels run from 1 to 8, those of 8 classes"),
        (dict(x=torch.zeros(8, 1, 4, 4).double()), "test images: torch.float64 of shape .*loader"),
        (
            dict(x=torch.zeros(8, 1, 4, 5)),
            r"test images: .* \(1, 4, 5\), not .*32 of \(1, 4, 4\)",
        ),
        (dict(x=torch.full((8, 1, 4, 4), torch.nan)), "test images: some hold NaN"),
    ],
)
def test_a_loader_of_a_plugin_is_checked(monkeypatch, change, message):
    def splits(**changed):
        good = TensorSplit(torch.zeros(8, 1, 4, 4), torch.arange(8))
        x, y = changed.get("x", good.x), changed.get("y", good.y)
        return lambda config: Splits(good, good, TensorSplit(x, y), 8, (1, 4, 4))

    datasets.names()
    monkeypatch.setitem(datasets._entries, "mine", splits())
    assert load(DatasetConfig(name="mine")).classes == 8
    monkeypatch.setitem(datasets._entries, "mine", splits(**change))
    with pytest.raises(CorruptData, match=f"dataset mine, {message}"):
        load(DatasetConfig(name="mine"))


def test_cifar_that_is_not_there_says_how_to_get_it(tmp_path):
    for name in ("cifar10", "cifar100"):
        with pytest.raises(MissingData, match=r"dataset\.download=true"):
            load(DatasetConfig(name=name, root=str(tmp_path)))


def test_cifar_through_torchvision(monkeypatch):
    class CIFAR10:
        def __init__(self, root, train, download):
            self.data = np.full((10, 32, 32, 3), 100 + 100 * train, np.uint8)
            self.data[::2, :, :, 1] = 0
            self.targets = [i % 4 for i in range(10)]

    monkeypatch.setattr("torchvision.datasets.CIFAR10", CIFAR10)
    splits = load(DatasetConfig(name="cifar10", valid=2))
    assert [len(s) for s in (splits.train, splits.valid, splits.test)] == [8, 2, 10]
    assert splits.input_shape == (3, 32, 32)
    assert splits.classes == 4
    assert splits.train.images()[:, 0].abs().max() < 1e-6, "the red channel is constant"
    green = splits.test.images()[:, 1].mean((1, 2))
    assert (green[::2] < green[1::2]).all(), "channels come before height and width"


def test_a_model_runs_on_every_loaded_shape(image_folder, idx_folder):
    for splits in (from_folder(image_folder), fashion(idx_folder), load(DatasetConfig())):
        model = create(ModelConfig(), splits.classes, splits.input_shape)
        assert model(splits.test.images(2)).shape == (2, splits.classes)
