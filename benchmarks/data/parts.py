"""The parts, classes and files of a data set that is a tree of folders.

It is a folder with one of `TRAIN` and with one of `TEST` or `VALID` in it, or both, each with one
folder of images for each class. Hidden files and folders, and those that file managers and
notebooks leave behind, are no data.
"""

from __future__ import annotations

import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from benchmarks.data.load import CorruptData, MissingData

TRAIN = ("train", "training")
VALID = ("val", "valid", "validation", "eval", "evaluation")
TEST = ("test", "testing")
LEFTOVERS = ("__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "__pycache__")
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


class File(NamedTuple):
    """An image: its path and class, and what tells it from others."""

    path: str
    label: str
    size: int
    inode: tuple[int, int]


@dataclass(frozen=True)
class Flavour:
    """How a library reads folders.

    Attributes:
        leaf: the class is the innermost folder's name, not the outermost's.
        class_key: sorts class names; their order gives their numbers.
        file_key: sorts files.
    """

    leaf: bool
    class_key: Callable[[str], Any]
    file_key: Callable[[File], Any]


def part_folders(root: Path, name: str) -> dict[str, Path]:
    """The folders of ``train``, ``test`` and, beside a test folder, ``valid``.

    A test folder without class folders, as ImageNet's, has no labels and is left aside.

    Raises:
        MissingData: there are none.
        CorruptData: there are two for one part.
    """
    train, valid, test = (_only(root, names) for names in (TRAIN, VALID, TEST))
    if test and valid and not _is_labelled(test):
        test = None
    held = test or valid
    if not train or not held:
        has = sorted(f"{e.name}/" for e in root.iterdir() if e.is_dir()) if root.is_dir() else []
        raise MissingData(
            f"{name} was looked for in {root}: it needs the folders train/ and val/ (or test/, or "
            "both) with one folder of images for each class; "
            f"it has {', '.join(has[:8]) or 'no folders'}"
        )
    both = {"valid": valid} if test and valid else {}
    return {"train": train, **both, "test": held}


def files_of(folder: Path, flavour: Flavour) -> list[File]:
    """The images of a part, ordered as the flavour's library does.

    Raises:
        CorruptData: there are no class folders, one without images or two of one name, or a file
            cannot be read or is empty.
    """
    found: list[File] = []
    homes: dict[str, set[str]] = defaultdict(set)
    others: list[str] = []
    for place, folders, names in _walk(folder):
        steps = Path(place).relative_to(folder).parts
        images = [n for n in names if steps and n.lower().endswith(SUFFIXES)]
        others += [os.path.join(place, n) for n in names if n not in images]
        if steps and not (flavour.leaf and folders and not images):
            label, home = (steps[-1], place) if flavour.leaf else (steps[0], steps[0])
            homes[label].add(home)
            found += [_file(os.path.join(place, n), label) for n in images]
    _check_homes(folder, homes, {file.label for file in found})
    if others:
        warnings.warn(
            f"{folder}: {len(others)} files are no images of a class and are left out: "
            f"{', '.join(others[:3])}",
            stacklevel=2,
        )
    return sorted(found, key=flavour.file_key)


def images_below(folder: Path) -> list[str]:
    """The paths of all files below a folder whose names are those of images, sorted."""
    return sorted(
        os.path.join(place, name)
        for place, _, names in _walk(folder)
        for name in names
        if name.lower().endswith(SUFFIXES)
    )


def _only(root: Path, names: Sequence[str]) -> Path | None:
    places = {(root / n).resolve(): root / n for n in reversed(names) if (root / n).is_dir()}
    if len(places) > 1:
        several = " and ".join(sorted(f"{place.name}/" for place in places.values()))
        raise CorruptData(f"{root} has {several}: which of them is meant? Keep one")
    return next(iter(places.values()), None)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in LEFTOVERS


def _is_labelled(folder: Path) -> bool:
    entries = [entry for entry in folder.iterdir() if not _hidden(entry.name)]
    return not entries or any(entry.is_dir() for entry in entries)


def _walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Every folder below with its own folders and files; links are followed, but in no circle."""
    seen: dict[tuple[int, int], str] = {}
    for place, folders, files in os.walk(folder, followlinks=True, onerror=_unreadable):
        status = os.stat(place)
        other = seen.setdefault((status.st_dev, status.st_ino), place)
        if other != place:
            raise CorruptData(f"{place} is {other} again, by a link; remove one of the two")
        folders[:] = sorted(name for name in folders if not _hidden(name))
        yield place, folders, sorted(name for name in files if not _hidden(name))


def _unreadable(error: OSError) -> NoReturn:
    raise CorruptData(f"{error.filename} cannot be read: {error.strerror}") from error


def _file(path: str, label: str) -> File:
    try:
        status = os.stat(path)
    except OSError as error:
        _unreadable(error)
    if not status.st_size:
        raise CorruptData(f"{path} is empty (0 bytes); get it again or remove it")
    return File(path, label, status.st_size, (status.st_dev, status.st_ino))


def _check_homes(folder: Path, homes: Mapping[str, set[str]], filled: set[str]) -> None:
    if not homes:
        raise CorruptData(f"{folder} holds no readable class folders")
    for label, places in homes.items():
        if label not in filled:
            raise CorruptData(
                f"{folder}: the class folder {label} holds no images ({' '.join(SUFFIXES)}); put "
                "some there, or remove the folder in every part"
            )
        if len(places) > 1:
            two = " and ".join(sorted(places)[:2])
            raise CorruptData(f"{folder}: two folders are the class {label}: {two}; rename one")
