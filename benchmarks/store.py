"""The store: one JSON file a record, named by its content's key, written atomically."""

from __future__ import annotations

import json
import math
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.record import CorruptRecord, Record


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that it is either whole or not there: temporary file, fsync, rename.

    Raises:
        OSError: the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=".part")
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


def read_record(path: Path) -> Record:
    """Read and check one record.

    Raises:
        CorruptRecord: the file is not a whole, valid record, or is not named by its key.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
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
        """The record of a key; None if there is none, or it is corrupt (noted in `corrupt`)."""
        path = self.path(key)
        if not path.exists():
            return None
        try:
            return read_record(path)
        except CorruptRecord as error:
            self.corrupt[path] = str(error)
            return None

    def put(self, record: Record) -> None:
        """Keep a record, replacing an earlier one of the same key."""
        write_json(self.path(record.key), record.to_json())

    def records(self) -> Iterator[Record]:
        """All records that can be read, by key; the others are noted in `corrupt`."""
        for path in sorted(self.folder.glob("*.json")):
            record = self.get(path.stem)
            if record is not None:
                yield record


def find_records(root: Path, faults: list[str] | None = None) -> list[Record]:
    """All records in a folder, at any depth below ``records/`` folders, or in one file.

    Corrupt ones are left out with a warning that names each; it is added to ``faults``, too.

    Raises:
        FileNotFoundError: there is nothing there.
        CorruptRecord: the one file cannot be read.
    """
    if root.is_file():
        return [read_record(root)]
    folders = sorted({p.parent for p in root.rglob("*.json") if p.parent.name == "records"})
    if root.is_dir() and not folders and any(root.glob("*.json")):
        folders = [root]
    found: list[Record] = []
    for folder in folders:
        store = Store(folder)
        found += store.records()
        for fault in store.corrupt.values():
            warnings.warn(f"left out a corrupt record: {fault}", stacklevel=2)
            if faults is not None:
                faults.append(fault)
    if not found:
        raise FileNotFoundError(f"no records in {root}: run 'juxtabit run' first, or name a folder")
    return found
