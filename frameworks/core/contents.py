"""What files and data sets hold, as digests that are cheap to ask for again.

Content is read once for each state of a file (size, times, inode), so that asking before every run
costs a look at the files' facts and no more. Where a set of files is larger than `CONTENT_LIMIT`,
its relative paths, sizes and times stand for it, which is then said as its basis.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import ConcatDataset, Dataset, Subset

from frameworks.core.randomness import seeded

CONTENT_LIMIT = 256 * 2**20
"""Bytes of all files together up to which they are known by their content."""
SAMPLE_LIMIT = 4096
"""Samples up to which all are read, of a data set that neither lists its files nor holds arrays."""
SAMPLES_READ = 64
"""How many of more samples are read, evenly spread."""
CONTENT = "content"
FACTS = "paths, sizes and times"
TICK = 0.02
"""Seconds in which a file system may give two changes the same time."""
MANY = 10_000
"""Files from which on a walk through a folder is trusted for a hundred times as long as it took."""

_contents: dict[str, str] = {}
_walks: dict[Path, tuple[float, str]] = {}


@dataclass(frozen=True)
class Known:
    """A digest, and what it was taken of."""

    digest: str
    basis: str


def encoded(text: str) -> bytes:
    """Text with the names of files in it, also of those that are no UTF-8 on disk."""
    return text.encode("utf-8", "surrogateescape")


def _settle(newest: float) -> None:
    """Wait until a change after this one must have another time."""
    if abs(time.time() - newest) < TICK:
        time.sleep(TICK)


def _facts(files: Mapping[str, Path]) -> tuple[list[str], str, int]:
    """Name, size and time of each file; a digest that any change changes; bytes in all."""
    found = {name: os.stat(path) for name, path in files.items()}
    _settle(max((stat.st_ctime for stat in found.values()), default=0.0))
    lines, size = [], 0
    state = hashlib.sha256()
    for name, stat in found.items():
        lines.append(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}")
        # What an editor puts in a file's place, or dates back, has another inode or ctime.
        state.update(encoded(f"{lines[-1]}\0{stat.st_ctime_ns}\0{stat.st_ino}\0{stat.st_dev}\n"))
        size += stat.st_size
    return lines, state.hexdigest(), size


def _content(files: Mapping[str, Path], state: str) -> str:
    if state not in _contents:
        digest = hashlib.sha256()
        for name, path in files.items():
            with path.open("rb") as file:
                digest.update(encoded(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}"))
        _contents[state] = digest.hexdigest()[:16]
    return _contents[state]


def identify_files(files: Mapping[str, Path]) -> Known:
    """What a set of files holds, by the names that are to count for them.

    Raises:
        OSError: one of them cannot be read; the message names it.
    """
    files = dict(sorted(files.items()))
    lines, state, size = _facts(files)
    if size <= CONTENT_LIMIT:
        return Known(_content(files, state), CONTENT)
    return Known(hashlib.sha256(encoded("\n".join(lines))).hexdigest()[:16], FACTS)


def file_digest(path: Path) -> str:
    """A digest of one file's content, whatever its size and name.

    Raises:
        OSError: it cannot be read; the message names it.
    """
    files = {"": path}
    return _content(files, f"{path} {_facts(files)[1]}")


def files_under(root: Path) -> dict[str, Path]:
    """All files at any depth by their path relative to ``root``, without hidden ones."""
    found = {}
    for folder, names in _walk(root):
        for name in names:
            path = folder / name
            if not name.startswith(".") and path.is_file():
                found[path.relative_to(root).as_posix()] = path
    return found


def _walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """The folders at any depth that are not hidden, also through links, with their files' names.

    A link to a folder that it lies in, which would go on for ever, is not followed.
    """
    above = {os.fspath(root): frozenset(_inodes(root))}
    for folder, folders, names in os.walk(root, followlinks=True):
        passed = above.pop(folder)
        kept = []
        for name in folders:
            path = os.path.join(folder, name)
            own = _inodes(path)
            if not name.startswith(".") and not passed & own:
                above[path] = passed | own
                kept.append(name)
        folders[:] = kept
        yield Path(folder), names


def _inodes(path: str | Path) -> set[tuple[int, int]]:
    """Device and inode of a folder; empty if it is gone."""
    try:
        stat = os.stat(path)
    except OSError:
        return set()
    return {(stat.st_dev, stat.st_ino)}


def folder_state(root: Path) -> str:
    """A digest that any change below a folder (or of a file) changes; empty if there is none.

    A walk through `MANY` files is trusted for a hundred times as long as it took.
    """
    started = time.monotonic()
    until, known = _walks.get(root, (0.0, ""))
    if started < until:
        return known
    if not root.exists():
        return ""
    files = {"": root} if root.is_file() else files_under(root)
    state = _facts(files)[1]
    if len(files) >= MANY:
        now = time.monotonic()
        _walks[root] = (now + 100 * (now - started), state)
    return state


def identify_dataset(dataset: Dataset[Any]) -> Known:
    """What a torch data set holds: its files, its arrays, or its samples; and the transform.

    Parts (`Subset`) are told apart by their indices. Where the files lie does not count.

    Raises:
        OSError: a file cannot be read.
    """
    if isinstance(dataset, Subset):
        indices = torch.as_tensor(list(dataset.indices)).numpy().tobytes()
        return _part_of(identify_dataset(dataset.dataset), indices)
    if isinstance(dataset, ConcatDataset):
        parts = [identify_dataset(part) for part in dataset.datasets]
        named = [part for part in parts if part.basis != CONTENT] or parts
        return _part_of(named[0], repr(parts).encode())
    known = _listed(dataset) or _held(dataset) or _read(dataset)
    return _part_of(known, f"{len(dataset)} {transforms_of(dataset)}".encode())  # type: ignore[arg-type]


def transforms_of(dataset: Any) -> str:
    """The transforms of a data set and of what it reads through, as text."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    found = [getattr(owner, "transform", None) for owner in _owners(dataset)]
    # An object without a text of its own has its address in memory.
    return re.sub(r" at 0x[0-9a-f]+", "", repr([one for one in found if one is not None]))


def _part_of(known: Known, more: bytes) -> Known:
    return Known(hashlib.sha256(known.digest.encode() + more).hexdigest()[:16], known.basis)


def _owners(dataset: Any) -> Iterator[Any]:
    """A data set and what it reads through, such as the reader of timm's data sets."""
    for _ in range(8):
        yield dataset
        inner = [getattr(dataset, name, None) for name in ("reader", "dataset")]
        dataset = next((found for found in inner if found is not None), None)
        if dataset is None:
            return


def _listed(dataset: Any) -> Known | None:
    """By the files and labels of a data set that lists them, as image folders do."""
    lists = (getattr(owner, n, None) for owner in _owners(dataset) for n in ("samples", "imgs"))
    samples = next((found for found in lists if _are_files(found)), None)
    if samples is None:
        return None
    paths = [Path(sample[0]) for sample in samples]
    root = os.path.commonpath([path.parent for path in paths])
    names = [path.relative_to(root).as_posix() for path in paths]
    known = identify_files(dict(zip(names, paths, strict=True)))
    labels = hashlib.sha256()
    for name, sample in zip(names, samples, strict=True):
        labels.update(encoded(f"{name}\0{sample[1]}\n"))
    return _part_of(known, labels.digest())


def _are_files(samples: Any) -> bool:
    if not isinstance(samples, list | tuple) or not samples:
        return False
    first = samples[0]
    pair = isinstance(first, list | tuple) and len(first) >= 2
    return pair and isinstance(first[0], str | os.PathLike) and Path(first[0]).is_file()


def _held(dataset: Any) -> Known | None:
    """By the arrays or the fingerprint that a data set holds, as torchvision's and HF's do."""
    for owner in _owners(dataset):
        named = getattr(owner, "_fingerprint", None)
        if isinstance(named, str):
            return Known(named, "fingerprint of datasets")
        labels = getattr(owner, "targets", getattr(owner, "labels", None))
        if hasattr(getattr(owner, "data", None), "shape") and labels is not None:
            digest = hashlib.sha256(str(tuple(owner.data.shape)).encode())
            for array in (owner.data, labels):
                digest.update(torch.as_tensor(array).contiguous().numpy().tobytes())
            return Known(digest.hexdigest()[:16], CONTENT)
    return None


def _read(dataset: Any) -> Known:
    """By its samples: all, or of many a few."""
    count = len(dataset)
    whole = count <= SAMPLE_LIMIT
    chosen = range(count) if whole else (i * count // SAMPLES_READ for i in range(SAMPLES_READ))
    digest = hashlib.sha256(str(count).encode())
    with seeded(0, "identity"):
        for value in chain.from_iterable(dataset[i] for i in chosen):
            digest.update(torch.as_tensor(value).contiguous().numpy().tobytes())
    return Known(digest.hexdigest()[:16], CONTENT if whole else f"{SAMPLES_READ} samples")
