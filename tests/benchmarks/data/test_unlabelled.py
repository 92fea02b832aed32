"""Any folder of images, without labels."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.data import unlabelled
from benchmarks.data.load import CorruptData, DatasetConfig, MissingData, load
from benchmarks.data.unlabelled import cut_tensor
from frameworks import numpy_rng

RNG = numpy_rng(0, "unlabelled")


def picture(path, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 255, (12, 12, 3)).astype(np.uint8)).convert(mode).save(path)


def read(root, **more):
    return load(DatasetConfig(name="unlabelled", root=str(root), classes=7, image_size=8, **more))


def sizes(splits):
    return [len(part) for part in (splits.train, splits.valid, splits.test)]


def rows(splits):
    parts = [part.images() for part in (splits.train, splits.valid, splits.test)]
    return torch.cat(parts).flatten(1)


def test_flat_and_nested_images_are_cut_in_three_without_overlap(tmp_path):
    for i in range(10):
        picture(tmp_path / f"{i}.png", "L" if i % 2 else "RGB")
        picture(tmp_path / "a" / "b" / f"{i}.JPG")
    splits = read(tmp_path)
    assert sizes(splits) == [10, 5, 5]
    assert (splits.classes, splits.input_shape) == (7, (3, 8, 8))
    assert len(rows(splits).unique(dim=0)) == 20
    assert torch.equal(rows(splits), rows(read(tmp_path)))


def test_unreadable_files_and_copies_are_named_counted_and_skipped(tmp_path):
    for i in range(8):
        picture(tmp_path / f"{i}.png")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "torn.png").write_bytes((tmp_path / "0.png").read_bytes()[:60])
    (tmp_path / "copy.png").write_bytes((tmp_path / "1.png").read_bytes())
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.warns(UserWarning, match=".") as said:
        splits = read(tmp_path)
    assert sum(sizes(splits)) == 8
    text = " ".join(str(w.message) for w in said)
    assert "1 of 10 images cannot be read and are skipped: sub/torn.png" in text
    assert "1 of 10 images are copies of others and are skipped: copy.png" in text


@pytest.mark.parametrize(
    ("dtype", "odd"),
    [(np.float32, np.nan), (np.float32, -0.5), (np.float32, np.inf), (np.int32, 70000)],
)
def test_a_file_with_values_of_no_range_is_skipped_and_does_not_spoil_the_others(
    tmp_path, dtype, odd
):
    for i in range(8):
        picture(tmp_path / f"{i}.png")
    good, bad = np.ones((12, 12), dtype), np.ones((12, 12), dtype)
    bad[3, 4] = odd
    Image.fromarray(good).save(tmp_path / "good.tif")
    Image.fromarray(bad).save(tmp_path / "odd.tif")
    with pytest.warns(UserWarning, match=r"1 of 10 images cannot be .* skipped: odd\.tif$"):
        splits = read(tmp_path)
    assert sum(sizes(splits)) == 9


def test_a_folder_of_nothing_but_such_files_says_what_is_wrong_with_them(tmp_path):
    for i in range(8):
        Image.fromarray(np.full((12, 12), -1 - i, np.float32)).save(tmp_path / f"{i}.tif")
    fault = r"0 images that can be read.*0\.tif: floats from -1 to -1, where 0 to 1 or 0 to 255 are"
    with pytest.warns(UserWarning, match="8 of 8"), pytest.raises(MissingData, match=fault):
        read(tmp_path)


def test_dark_images_of_16_bit_stay_where_others_tell_the_range(tmp_path):
    for i in range(8):
        deep = np.full((12, 12), 257 * (255 - i if i % 2 else i), np.uint16)
        Image.fromarray(deep).save(tmp_path / f"{i}.tif")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        splits = read(tmp_path, mean=[0.0] * 3, std=[1.0] * 3)
    assert sizes(splits) == [4, 2, 2]
    found = (255 * rows(splits)[:, 0]).round().tolist()
    assert sorted(found) == [0, 2, 4, 6, 248, 250, 252, 254]


def test_images_of_an_unknown_range_are_refused_by_name(tmp_path):
    for i in range(8):
        Image.fromarray(np.full((12, 12), 100 + i, np.uint16)).save(tmp_path / f"{i}.tif")
    with pytest.raises(CorruptData, match=r"0\.tif: integers of 16 bit that run from 100 to 107"):
        read(tmp_path)


def test_of_a_large_folder_a_part_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(unlabelled, "MOST", 8)
    for i in range(20):
        picture(tmp_path / f"{i}.png")
    assert sizes(read(tmp_path)) == [4, 2, 2]


def test_what_cannot_be_used_is_refused(tmp_path):
    for i in range(3):
        picture(tmp_path / f"{i}.png")
    with pytest.raises(MissingData, match=r"3 images that can be read.*at least 4"):
        read(tmp_path)
    with pytest.raises(MissingData, match="no folder"):
        read(tmp_path / "nowhere")
    picture(tmp_path / "3.png")
    assert sizes(read(tmp_path)) == [2, 1, 1]
    with pytest.raises(ValueError, match="nothing is left of 4 images"):
        read(tmp_path, valid=2)


def test_a_tensor_is_cut_alike():
    images = torch.arange(32.0).view(32, 1, 1, 1).expand(32, 1, 2, 2)
    splits = cut_tensor(images)
    assert sizes(splits) == [16, 8, 8]
    assert sorted(rows(splits)[:, 0].tolist()) == list(range(32))
    for bad in (images[:3], images.long(), images[:, 0, 0]):
        with pytest.raises(ValueError, match="at least 4 float images"):
            cut_tensor(bad)
