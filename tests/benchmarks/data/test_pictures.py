import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks.data.load import CorruptData
from benchmarks.data.pictures import Pictures, scan

EDGES = [0, 51, 102, 255]


def stored(image, kind="PNG", **more):
    file = io.BytesIO()
    image.save(file, kind, **more)
    file.seek(0)
    return file


def grey(image):
    """The values of an 8-bit RGB image whose channels are alike."""
    values = np.asarray(image)
    assert image.mode == "RGB"
    assert (values == values[..., :1]).all()
    return values[..., 0].ravel().tolist()


def array(values, dtype):
    return Image.fromarray(np.array(values, dtype).reshape(2, 2))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_divided_by_257(kind):
    """So that the darkest stays black and the brightest white, in the files of every format."""
    file = stored(array([257 * v for v in EDGES], np.uint16), kind)
    assert grey(Pictures().read(file, "x")) == EDGES


@given(st.lists(st.integers(0, 65535), min_size=4, max_size=4))
def test_sixteen_bits_are_off_by_rounding_alone(values):
    found = grey(Pictures().read(stored(array(values, np.uint16)), "x"))
    assert np.allclose(found, np.array(values) / 257, atol=0.5)


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        (np.float32, [v / 255 for v in EDGES]),
        (np.float32, EDGES),
        (np.int32, EDGES),
        (np.int32, [257 * v for v in EDGES]),
    ],
)
def test_deep_files_are_scaled_by_the_range_of_their_set(tmp_path, dtype, values):
    paths = [str(tmp_path / f"{i}.tif") for i in range(2)]
    dark = values[:2] * 2
    for path, content in zip(paths, (dark, values), strict=True):
        array(content, dtype).save(path)
    pictures = scan(paths)
    assert grey(pictures.read(paths[1], "x")) == EDGES
    assert grey(pictures.read(paths[0], "x")) == EDGES[:2] * 2, "not by its own range"


@pytest.mark.parametrize(
    ("dtype", "values", "message"),
    [
        (np.float32, [-1, 0, 0, 1], "floats that run from -1 to 1 .*0 to 1 or 0 to 255"),
        (np.float32, [0, 0, 0, 1000], "floats that run from 0 to 1000"),
        (np.float32, [0, 0, np.nan, 1], "floats that run from nan"),
        (np.int32, [0, 0, 0, 70000], "integers of 32 bit that run from 0 to 70000"),
        (np.int32, [-5, 0, 0, 255], "integers of 32 bit that run from -5"),
        (np.uint16, [0, 0, 0, 4095], "integers of 16 bit that run from 0 to 4095"),
    ],
)
def test_a_range_that_cannot_be_told_is_refused(tmp_path, dtype, values, message):
    path = str(tmp_path / "odd.tif")
    array(values, dtype).save(path)
    with pytest.raises(CorruptData, match=rf"odd\.tif: {message}.*8 bit"):
        scan([path])


def test_values_beyond_the_sample_are_refused_when_they_are_met(tmp_path):
    path = str(tmp_path / "f.tif")
    array([0, 0, 0, 1], np.float32).save(path)
    pictures = scan([path])
    array([0, 0, 0, 200], np.float32).save(path)
    with pytest.raises(CorruptData, match=r"f\.tif: floats from 0 to 200, in a data set from 0 to"):
        pictures.read(path, path)
    with pytest.raises(CorruptData, match="of which the range is unknown"):
        Pictures().read(path, path)


def test_transparent_parts_are_as_on_white():
    shape = np.zeros((2, 2, 4), np.uint8)
    shape[..., 3] = [[0, 255], [0, 255]]
    assert grey(Pictures().read(stored(Image.fromarray(shape, "RGBA")), "x")) == [255, 0, 255, 0]
    two = Image.fromarray(shape[..., 2:], "LA")
    assert grey(Pictures().read(stored(two), "x")) == [255, 0, 255, 0]
    palette = Image.fromarray(np.array([[0, 1], [0, 1]], np.uint8), "P")
    palette.putpalette([9, 9, 9, 0, 0, 0])
    file = stored(palette, transparency=0)
    assert grey(Pictures().read(file, "x")) == [255, 0, 255, 0]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "RGBA", "LA"])
def test_eight_bits_stay_what_they_are(mode):
    source = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8))
    image = source.convert("RGBA").convert(mode) if mode == "LA" else source.convert(mode)
    file = stored(image, "TIFF" if mode == "CMYK" else "PNG")
    assert grey(Pictures().read(file, "x")) == [0, 255, 255, 0]


def test_a_damaged_file_is_named():
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8)
    for kind in ("PNG", "JPEG", "TIFF", "WEBP", "BMP"):
        raw = stored(Image.fromarray(noise), kind).getvalue()
        with pytest.raises(CorruptData, match=rf"cat\.{kind} cannot be read as an image: .+; get"):
            Pictures().read(io.BytesIO(raw[: len(raw) // 2]), f"cat.{kind}")
