"""Image files as 8-bit RGB, whatever their mode: the one way in for training and test images.

| mode | becomes |
|---|---|
| 8 bit (grey, palette, RGB, CMYK, 1 bit) | as Pillow converts it |
| with transparency | as it looks on white |
| 16-bit grey | divided by 257 (12-bit TIFF and the like: by their own largest value) |
| 32-bit integers, floats | scaled from 0..1, 0..255 or 0..65535 (integers), as their set is |

Orientation tags are not followed, as timm and torchvision do not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from benchmarks.data.load import CorruptData

DEEPEST = 65535
DIM = 4095
"""16-bit files that stay below this all along hold 12 bits or fewer, and would be all black."""
TOPS = {"I;16": (DEEPEST,), "I": (1, 255, DEEPEST), "F": (1, 255)}
"""What may be white in images of more than 8 bit, by Pillow's mode."""
Source = str | Path | IO[bytes]


@dataclass(frozen=True)
class Pictures:
    """Reads the files of one data set.

    Attributes:
        tops: the value that is white, by Pillow's mode, for those that do not say it themselves.
    """

    tops: Mapping[str, float] = field(default_factory=lambda: {"I;16": DEEPEST})

    def read(self, source: Source, name: str) -> Image.Image:
        """A path or an open file as 8-bit RGB.

        Raises:
            CorruptData: it cannot be read, or as `rgb` does.
        """
        return self.rgb(loaded(source, name), name)

    def rgb(self, image: Image.Image, name: str) -> Image.Image:
        """An image as 8-bit RGB.

        Args:
            image: in any of Pillow's modes.
            name: names it in messages.

        Raises:
            CorruptData: its mode is unknown, or its values lie outside of the data set's range.
        """
        if mode := _deep(image):
            return self._scaled(image, _declared(image) or self.tops.get(mode), name)
        try:
            if image.mode != "RGB" and image.has_transparency_data:
                shown = image.convert("RGBA")
                white = Image.new("RGBA", image.size, "white")
                return Image.alpha_composite(white, shown).convert("RGB")
            return image.convert("RGB")
        except ValueError as error:
            raise CorruptData(f"{name}: {error}; convert it to RGB of 8 bit") from error

    def _scaled(self, image: Image.Image, top: float | None, name: str) -> Image.Image:
        values = np.asarray(image).astype(np.float64)
        if top is None or not (values.min() >= 0 and values.max() <= top):
            raise CorruptData(
                f"{name}: {_kind(image.mode)} from {values.min():g} to {values.max():g}, "
                + (f"in a data set from 0 to {top:g}" if top else "of which the range is unknown")
                + "; save all images with 8 bit"
            )
        grey = np.rint(values * (255 / top)).astype(np.uint8)
        return Image.fromarray(grey, "L").convert("RGB")


class PictureFiles(Dataset[Any]):
    """Files with their classes, as torchvision's ImageFolder names them.

    Attributes:
        samples: (path, class number) of every image.
    """

    def __init__(
        self, samples: Sequence[tuple[str, int]], pictures: Pictures, transform: Any
    ) -> None:
        self.samples, self.pictures, self.transform = list(samples), pictures, transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        path, label = self.samples[index]
        return self.transform(self.pictures.read(path, path)), label


def loaded(source: Source, name: str) -> Image.Image:
    """An image file, decoded to its end.

    Raises:
        CorruptData: it cannot be.
    """
    try:
        with Image.open(source) as image:
            image.load()
            return image
    except Exception as error:  # a decoder may raise anything on a damaged file
        fault = str(error) or type(error).__name__
        raise CorruptData(
            f"{name} cannot be read as an image: {fault}; get it again or remove it"
        ) from error


def check_readable(path: str) -> None:
    """Read a file to its end; whether its values fit those of its set is for `scan`.

    Raises:
        CorruptData: it cannot be read, its mode is unknown, or its values lie outside of every
            range.
    """
    image = loaded(path, path)
    if (mode := _deep(image)) is None:
        Pictures().rgb(image, path)
        return
    tops = (top,) if (top := _declared(image)) else TOPS[mode]
    low, high = _ends(image)
    if not 0 <= low <= high <= max(tops):
        raise CorruptData(
            f"{path}: {_kind(mode)} from {low:g} to {high:g}, where {_ranges(tops)} are expected; "
            "save it with 8 bit"
        )


def scan(paths: Iterable[str]) -> Pictures:
    """Read files to their end, and find the range of those that do not say theirs.

    Raises:
        CorruptData: a file cannot be read, or the range cannot be told; the message names a file.
    """
    ends: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
    for path in paths:
        image = loaded(path, path)
        if (mode := _deep(image)) and not _declared(image):
            ends[mode].append((*_ends(image), path))
    found = {mode: _top(mode, seen) for mode, seen in ends.items()}
    return Pictures({**Pictures().tops, **found})


def _top(mode: str, ends: Sequence[tuple[float, float, str]]) -> float:
    """The value that is white in a data set whose files have these least and largest values."""
    low, high = min(e[0] for e in ends), max(e[1] for e in ends)
    whole = all(0 <= e[0] <= e[1] <= max(TOPS[mode]) for e in ends)
    if whole and not (mode == "I;16" and high <= DIM):
        return next(top for top in TOPS[mode] if high <= top)
    odd = next((e[2] for e in ends if not 0 <= e[0] <= e[1] <= max(TOPS[mode])), ends[0][2])
    raise CorruptData(
        f"{odd}: {_kind(mode)} that run from {low:g} to {high:g} in this data set, where "
        f"{_ranges(TOPS[mode])} are expected; save the images with 8 bit, or scale them to such a "
        "range"
    )


def _ends(image: Image.Image) -> tuple[float, float]:
    """The least and the largest value of an image; NaN, where it has one, which is in no range."""
    values = np.asarray(image)
    return float(values.min()), float(values.max())


def _ranges(tops: Iterable[float]) -> str:
    return " or ".join(f"0 to {top}" for top in tops)


def _declared(image: Image.Image) -> float | None:
    """The value that is white by an image's own word: a TIFF of 9 to 15 bits, a PGM, a PNG."""
    if image.mode == "I":
        return DEEPEST if image.format in ("PNG", "PPM") else None
    tags: Any = getattr(image, "tag_v2", {})
    bits = tags.get(258, 0)
    bits = bits[0] if isinstance(bits, tuple) else bits
    return 2 ** int(bits) - 1 if _deep(image) == "I;16" and 8 < bits < 16 else None


def _deep(image: Image.Image) -> str | None:
    """The mode of an image of more than 8 bit, byte orders alike."""
    mode = "I;16" if image.mode.startswith("I;16") else image.mode
    return mode if mode in TOPS else None


def _kind(mode: str) -> str:
    return {"F": "floats", "I": "integers of 32 bit"}.get(mode, "integers of 16 bit")
