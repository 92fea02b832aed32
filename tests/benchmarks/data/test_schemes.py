import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.data.load import CorruptData, DatasetConfig, MissingData, load
from frameworks import numpy_rng


class Grey:
    """A data set of torchvision's, whose images are grey and whose labels tell them apart."""

    classes = ("dark", "bright")
    class_to_idx = {"dark": 0, "bright": 1}  # noqa: RUF012

    def __init__(self, root, train, download):
        rng = numpy_rng(0, "grey")
        self.targets = torch.arange(20 if train else 6) % 2
        self.data = rng.integers(0, 50, (len(self.targets), 28, 28)).astype(np.uint8)
        self.data += 200 * self.targets[:, None, None].numpy().astype(np.uint8)

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return Image.fromarray(self.data[index]), int(self.targets[index])


def opened(monkeypatch, kind, scheme="torch/mnist"):
    from timm.data import dataset_factory

    monkeypatch.setitem(dataset_factory._TORCH_BASIC_DS, "mnist", kind)
    return load(DatasetConfig(name="timm", scheme=scheme, root="x", valid=4, image_size=8))


def test_grey_images_become_rgb(monkeypatch):
    splits = opened(monkeypatch, Grey)
    assert [len(s) for s in (splits.train, splits.valid, splits.test)] == [16, 4, 6]
    assert (splits.classes, splits.input_shape) == (2, (3, 8, 8))
    ((x, y),) = splits.test.batches(8)
    assert x.shape == (6, 3, 8, 8)
    assert torch.equal(x.mean((1, 2, 3)) > 0, y == 1)


def test_classes_are_those_of_the_data_set_not_of_its_labels(monkeypatch):
    class More(Grey):
        class_to_idx = {"dark": 0, "bright": 1, "none": 2}  # noqa: RUF012

    assert opened(monkeypatch, More).classes == 3


def test_labels_of_many_columns_are_their_first(monkeypatch):
    class Columns(Grey):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.targets = torch.stack([self.targets, 7 + self.targets], 1)

        def __getitem__(self, index):
            return Image.fromarray(self.data[index]), int(self.targets[index][0])

    assert opened(monkeypatch, Columns).classes == 2


@pytest.mark.parametrize("shift", [1, -1])
def test_labels_that_are_no_class_numbers_are_refused(monkeypatch, shift):
    class Shifted(Grey):
        def __init__(self, root, train, download):
            super().__init__(root, train, download)
            self.targets = self.targets + shift

    with pytest.raises(CorruptData, match=f"train images: labels run from {shift} to {1 + shift},"):
        opened(monkeypatch, Shifted)


def test_parts_that_number_classes_in_different_ways_are_refused(monkeypatch):
    class Turned(Grey):
        def __init__(self, root, train, download):
            super().__init__(root, train, download)
            if not train:
                self.class_to_idx = {"dark": 1, "bright": 0}

    with pytest.raises(CorruptData, match="torch/mnist: training and validation part number"):
        opened(monkeypatch, Turned)


class Reader:
    """timm's reader of Hugging Face's data sets, one of whose files is broken."""

    class_to_idx = {"dark": 0, "bright": 1}  # noqa: RUF012

    def __init__(self, files):
        self.files = files

    def __getitem__(self, index):
        return self.files[index].open("rb"), index % 2

    def iter_targets(self):
        return (i % 2 for i in range(len(self.files)))


def test_a_broken_image_is_named_and_not_replaced_by_the_next(monkeypatch, tmp_path):
    """timm's own data set goes on with the next image and label."""
    from types import SimpleNamespace

    files = [tmp_path / f"{i}.png" for i in range(6)]
    for i, file in enumerate(files):
        Image.new("I;16", (9, 9), 9000 * i).save(file)
    files[3].write_bytes(b"broken")

    class Dataset(SimpleNamespace):
        def __len__(self):
            return 6

    made = Dataset(reader=Reader(files))
    monkeypatch.setattr("timm.data.create_dataset", lambda *args, **kwargs: made)
    splits = load(DatasetConfig(name="timm", scheme="hfds/x", valid=2, image_size=8))
    assert splits.classes == 2
    with pytest.raises(CorruptData, match="hfds/x, image 3 cannot be read as an image"):
        splits.test.images()
    picture = splits.test.dataset[5][0]
    assert picture.std() < 1.0
    assert picture.max() < 2.5, "16 bits are not cut off at 255"


@pytest.mark.parametrize("scheme", ["tfds/mnist", "hfids/mnist", "wds/x", "WDS/x"])
def test_streams_are_refused(scheme):
    with pytest.raises(ValueError, match=rf"dataset\.scheme: {scheme} streams .*use hfds/"):
        load(DatasetConfig(name="timm", scheme=scheme))


def test_a_part_that_is_not_there_is_named(tmp_path):
    with pytest.raises(MissingData, match=r"timm could not open 'torch/mnist' \(train\) in"):
        load(DatasetConfig(name="timm", scheme="torch/mnist", root=str(tmp_path)))
