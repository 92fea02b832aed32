"""The files of a submission or a folder of results: records, and what has no place among them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.records.levels import FILE
from benchmarks.records.record import CorruptRecord, Record
from benchmarks.records.store import read_json, record_folders
from benchmarks.verification.findings import Case, Finding

_RECORD = re.compile(r"[0-9a-f]{20}\.json")
"""The name of a record's file: its key."""


def read_all(roots: Sequence[Path]) -> tuple[list[Case], list[Finding]]:
    """The records in some folders or files, and faults of files that are none.

    What is not called as a record is passed over, except in a folder ``records``.

    Raises:
        FileNotFoundError: a root is not there, or there are no records in any.
    """
    cases: list[Case] = []
    faults: list[Finding] = []
    for root in roots:
        root.stat()
    found = list(_files(roots, faults))
    if not found and not faults:
        raise FileNotFoundError(f"no records in {', '.join(map(str, roots))}")
    for path in found:
        read = _read(path)
        if isinstance(read, Case):
            cases.append(read)
        else:
            faults.append(read)
    return cases, faults


def _files(roots: Sequence[Path], faults: list[Finding]) -> Iterator[Path]:
    """The files to be read; each once, whichever roots and links lead to it."""
    seen: set[Path] = set()
    for root in roots:
        for path in [root] if root.is_file() else _within(root, faults):
            if path.parent.name != "records" and not _RECORD.fullmatch(path.name):
                continue
            if (whole := path.absolute()) not in seen:
                seen.add(whole)
                yield path


def _within(root: Path, faults: list[Finding]) -> Iterator[Path]:
    def unread(error: OSError) -> None:
        fault = f"cannot be read ({error.strerror})"
        faults.append(Finding(str(error.filename), "", fault))

    for folder in record_folders(root, unread):
        if any(place.is_symlink() for place in (folder, *folder.parents) if root in place.parents):
            faults.append(Finding(str(folder), "", "a link in the place of a folder of records"))
            continue
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if entry.name == FILE or entry.name.startswith("."):
                continue
            yield folder / entry.name


def _read(path: Path) -> Case | Finding:
    """A record, or the fault of a file that is none."""
    if path.is_symlink():
        return Finding(str(path), "", "a link in the place of a record: give the file itself")
    if not _RECORD.fullmatch(path.name):
        return Finding(str(path), "", "no record; a folder of records holds KEY.json files alone")
    try:
        raw: Any = read_json(path)
    except ValueError as error:
        return Finding(str(path), "", f"cannot be read ({error})")
    try:
        record = Record.from_json(raw, str(path))
    except CorruptRecord as error:
        field, message = _parted(str(error).removeprefix(f"{path}: "))
        return Finding(str(path), field, message)
    if path.stem != record.key:
        message = "the file is not named by its record's key"
        return Finding(str(path), "key", message, record.key, path.stem)
    return Case(path, raw, record)


def _parted(message: str) -> tuple[str, str]:
    """The field that a message begins with, and the rest of it."""
    first, _, rest = message.removeprefix("field ").partition(" ")
    return (first, rest) if rest and first[:1].islower() and first != "missing" else ("", message)
