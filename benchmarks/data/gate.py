"""The gate of every data set that is a tree of folders: passed before any work.

All parts have the same classes with the same numbers, two at least; no file, and in small sets no
copy of one, is in two parts; the files can be read, and all are brought to 8 bit in the same way.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.data.load import CorruptData
from benchmarks.data.ondisk import OnDisk
from benchmarks.data.parts import File, Flavour, files_of, part_folders
from benchmarks.data.pictures import PictureFiles, scan

SMALL = 2**27
"""Bytes up to which all files of a set are read at once; of a larger one only a sample is."""
SAMPLE = 64


def gate(root: Path, name: str, flavour: Flavour) -> OnDisk:
    """Find and check the parts of a data set.

    Raises:
        MissingData: a part is not there.
        CorruptData: parts, classes or files are not as they must be; the message names them.
    """
    folders = part_folders(root, name)
    found = {part: files_of(folder, flavour) for part, folder in folders.items()}
    classes = sorted({file.label for file in found["train"]}, key=flavour.class_key)
    for part, folder in folders.items():
        _same_classes(classes, found[part], folders["train"], folder)
    _two_classes(classes, folders["train"])
    every = [file for files in found.values() for file in files]
    small = sum(file.size for file in every) <= SMALL
    _disjoint(found)
    step = 1 if small else max(len(every) // SAMPLE, 1)
    pictures = scan(file.path for file in every[::step])
    if small:
        _no_copies(found)
    number = {label: i for i, label in enumerate(classes)}
    samples = {p: [(f.path, number[f.label]) for f in files] for p, files in found.items()}
    return OnDisk(
        classes,
        {part: [label for _, label in pairs] for part, pairs in samples.items()},
        lambda part, transform: PictureFiles(samples[part], pictures, transform),
    )


def _same_classes(classes: Sequence[str], files: Iterable[File], train: Path, part: Path) -> None:
    if odd := set(classes) ^ {file.label for file in files}:
        raise CorruptData(
            f"{part} has other classes than {train}: {', '.join(sorted(odd)[:8])}; every part "
            "needs images of the same classes, in folders of the same names"
        )


def _two_classes(classes: Sequence[str], train: Path) -> None:
    if len(classes) < 2:
        raise CorruptData(f"{train} has one class alone, {classes[0]}; two are needed at least")
    seen: dict[str, str] = {}
    for label in classes:
        if (twin := seen.setdefault(label.casefold(), label)) != label:
            raise CorruptData(
                f"{train}: the classes {twin} and {label} differ in capital letters alone; make "
                "them one, or rename one"
            )


def _disjoint(found: Mapping[str, Sequence[File]]) -> None:
    """No file, by whatever link, in two parts or two classes."""
    owners: dict[tuple[int, int], tuple[str, File]] = {}
    for part, files in found.items():
        for file in files:
            owner, other = owners.setdefault(file.inode, (part, file))
            if owner != part or other.label != file.label:
                raise CorruptData(
                    f"{file.path} and {other.path} are one file by a link; an image is in one "
                    "part and has one class: remove one of the two"
                )


def _no_copies(found: Mapping[str, Sequence[File]]) -> None:
    """No content in two parts; only files of equal size are read."""
    sizes: dict[int, set[str]] = defaultdict(set)
    for part, files in found.items():
        for file in files:
            sizes[file.size].add(part)
    owners: dict[Any, tuple[str, str]] = {}
    for part, files in found.items():
        for path in (file.path for file in files if len(sizes[file.size]) > 1):
            digest = hashlib.sha256(Path(path).read_bytes()).digest()
            owner, other = owners.setdefault(digest, (part, path))
            if owner != part:
                raise CorruptData(
                    f"{path} is a copy of {other}: a {part} image may be no {owner} image; remove "
                    "one of the two"
                )
