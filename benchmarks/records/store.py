"""The store: one JSON file a record, named by its content's key, written atomically."""

from __future__ import annotations

import json
import math
import os
import stat
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.records.record import CorruptRecord, Record

LARGEST_FILE = 2**26
"""Bytes of a JSON file that is read; records have some hundred thousand at most."""
NO_RECORDS = frozenset({"verification.json"})
"""Files that may lie beside records, and are none; see `benchmarks.records.levels`."""
LEAST_ROOM = 2**18
"""Bytes that there must be room for before anything is computed: those of a large record."""


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that it is either whole or not there: temporary file, fsync, rename.

    Raises:
        OSError: it cannot be written; the message names it.
    """
    try:
        _write(path, content)
    except OSError as error:
        raise OSError(f"{path}: cannot be written ({error.strerror or error})") from error


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}-", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_text(path: Path, content: str) -> None:
    """Write text, as UTF-8, as `write_bytes` does."""
    write_bytes(path, content.encode())


def write_json(path: Path, data: Any, *, nonfinite: bool = False) -> None:
    """Write data as `write_text` does.

    NaN and infinities are refused, or written as Python (and few others) reads them.
    """
    write_text(path, json.dumps(data, indent=1, allow_nan=nonfinite) + "\n")


def finite(data: Any) -> Any:
    """The same data with None for every NaN and infinity, which JSON does not have."""
    if isinstance(data, dict):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def read_json(path: Path) -> Any:
    """The data of a JSON file: one that is whole, unambiguous and of a size to be read.

    Raises:
        ValueError: it is no such file; the message says why, and does not name it.
    """
    try:
        # Whatever waits for a writer, such as a pipe, must not be waited for.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            facts = os.fstat(handle)
            if not stat.S_ISREG(facts.st_mode):
                raise ValueError("not a regular file")
            if facts.st_size > LARGEST_FILE:
                raise ValueError(f"{facts.st_size} bytes, more than {LARGEST_FILE}")
            text = file.read().decode()
        return json.loads(text, object_pairs_hook=_unambiguous)
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the entry {twice!a} is there twice")
    return found


def read_record(path: Path) -> Record:
    """Read and check one record.

    Raises:
        CorruptRecord: the file is not a whole, valid record, or is not named by its key.
    """
    try:
        data = read_json(path)
    except ValueError as error:
        raise CorruptRecord(f"{path}: cannot be read ({error})") from error
    record = Record.from_json(data, str(path))
    if path.stem != record.key:
        raise CorruptRecord(f"{path}: holds the record {record.key}, not {path.stem}")
    return record


class Store:
    """A folder of records."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.corrupt: dict[Path, str] = {}

    def path(self, key: str) -> Path:
        """The file of a key."""
        return self.folder / f"{key}.json"

    def get(self, key: str) -> Record | None:
        """The record of a key; None if there is none, or it is corrupt (noted in ``corrupt``)."""
        path = self.path(key)
        # A link to nothing is no record, but it is there.
        return self._read(path) if os.path.lexists(path) else None

    def _read(self, path: Path) -> Record | None:
        try:
            return read_record(path)
        except CorruptRecord as error:
            self.corrupt[path] = str(error)
            return None

    def state(self, key: str) -> tuple[int, ...] | None:
        """What changes when a record is written; None where there is none."""
        try:
            facts = os.lstat(self.path(key))
        except OSError:
            return None
        return facts.st_mtime_ns, facts.st_ino, facts.st_size

    def probe_place(self) -> None:
        """Find out that records cannot be written before anything is looked at; makes no folder.

        Raises:
            OSError: the folder, or the one that it is to be made in, cannot be written.
        """
        there = next(one for one in (self.folder, *self.folder.absolute().parents) if one.exists())
        self._probe(there)

    def probe(self, keys: Iterable[str]) -> None:
        """Make the folder, and find out that records cannot be written before any is computed.

        Raises:
            OSError: the folder cannot be written, or a folder is in a record's place.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(self.folder, error) from error
        for path in map(self.path, keys):
            if path.is_dir() and not path.is_symlink():
                raise IsADirectoryError(f"{path}: is a folder in the place of a record; remove it")
        self._probe(self.folder)

    def _probe(self, folder: Path) -> None:
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"\0" * LEAST_ROOM)
                file.flush()
        except OSError as error:
            raise self._unwritable(folder, error) from error

    def _unwritable(self, folder: Path, error: OSError) -> OSError:
        where = "" if folder == self.folder else f": {folder}"
        fault = f"{error.strerror or error}{where}"
        return OSError(f"results: {self.folder}: cannot be written ({fault})")

    def put(self, record: Record) -> None:
        """Keep a record, replacing an earlier one of the same key."""
        write_json(self.path(record.key), record.sealed())

    def paths(self) -> list[Path]:
        """The files that are records by their name, by key."""
        return sorted(path for path in self.folder.glob("*.json") if path.name not in NO_RECORDS)

    def records(self) -> Iterator[Record]:
        """All records that can be read, by key; the others are noted in ``corrupt``."""
        for path in self.paths():
            record = self._read(path)
            if record is not None:
                yield record


def _record_folders(root: Path, unread: Callable[[OSError], None]) -> Iterator[Path]:
    """The folders ``records`` at any depth that have records."""
    seen: set[tuple[int, int]] = set()
    for name, folders, files in os.walk(root, followlinks=True, onerror=unread):
        facts = os.stat(name)
        if (facts.st_dev, facts.st_ino) in seen:  # links may lead round in a circle
            folders.clear()
            continue
        seen.add((facts.st_dev, facts.st_ino))
        if Path(name).name == "records" and any(file.endswith(".json") for file in files):
            yield Path(name)


def record_folders(root: Path, unread: Callable[[OSError], None] = lambda _: None) -> list[Path]:
    """The folders of records in a folder: ``records/`` at any depth, or itself.

    Links to folders are followed, and what several lead to is read once.

    Args:
        root: the folder.
        unread: is told of folders that cannot be read.
    """
    folders = sorted(_record_folders(root, unread))
    if root.is_dir() and not folders and Store(root).paths():
        folders = [root]
    return folders


def find_records(root: Path, faults: list[str] | None = None) -> list[Record]:
    """All records in a folder, at any depth below ``records/`` folders, or in one file.

    Links to folders are followed, and what several lead to is read once. Corrupt records, and
    folders that cannot be read, are left out with a warning that names each; it is added to
    ``faults``, too.

    Raises:
        FileNotFoundError: there is nothing there.
        CorruptRecord: the one file cannot be read.
    """
    if root.is_file():
        return [read_record(root)]
    named = [] if faults is None else faults

    def unread(error: OSError) -> None:
        if isinstance(error, FileNotFoundError):  # there is none, or no longer
            return
        fault = f"{error.filename}: cannot be read ({error.strerror})"
        warnings.warn(f"left out a folder: {fault}", stacklevel=2)
        named.append(fault)

    found: list[Record] = []
    for folder in record_folders(root, unread):
        store = Store(folder)
        found += store.records()
        for fault in store.corrupt.values():
            warnings.warn(f"left out a corrupt record: {fault}", stacklevel=2)
            named.append(fault)
    if not found:
        hint = "none can be read" if named else "run 'juxtabit run' first, or name a folder"
        raise FileNotFoundError(f"no records in {root}: {hint}")
    return found
