"""How far records have been verified: ``verification.json`` beside a folder of records.

``juxtabit verify`` writes it; tables and pages show it. A level is that of a file's content: where
the file has changed since, it has none.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.records.schema import Misfit, choice, complete, mapped, name, text
from benchmarks.records.store import Store, read_json, record_folders, write_json

FILE = "verification.json"
LEVELS = ("older", "checked", "rerun")
"""From the least: a record of another version whose costs were recomputed; one of this version
that agrees with itself, its code and its policy; one that was computed again and compared."""


def _day(value: Any) -> None:
    text(value)
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", value):
        raise Misfit(f"is {value!a}, no day such as 2026-11-26")


_SHAPE = complete(
    {
        "version": choice((1,), "no version that is known (1)"),
        "records": mapped(
            complete(
                {
                    "level": choice(LEVELS, f"none of {', '.join(LEVELS)}"),
                    "when": _day,
                    "juxtabit": text,
                    "sha256": name,
                }
            )
        ),
    }
)


@dataclass(frozen=True)
class Level:
    """How far a record has been verified.

    Attributes:
        level: one of `LEVELS`.
        when: the day, ``YYYY-MM-DD``.
        juxtabit: the version that verified it.
        sha256: digest of the record's file.
    """

    level: str
    when: str
    juxtabit: str
    sha256: str


def beside(records: Path) -> Path:
    """Where the levels of a folder of records are: beside ``records``, or in any other folder."""
    return (records.parent if records.name == "records" else records) / FILE


def file_digest(path: Path) -> str:
    """The SHA-256 of a record's file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_levels(records: Path) -> dict[str, Level]:
    """What was verified of a folder of records, by key; empty where nothing was.

    Raises:
        ValueError: the file is there and is none of levels; the message names it.
    """
    path = beside(records)
    if not path.is_file():
        return {}
    try:
        data = read_json(path)
        _SHAPE(data)
    except (Misfit, ValueError) as error:
        raise ValueError(f"{path}: {error}; remove it, or verify the records again") from error
    return {key: Level(**entry) for key, entry in data["records"].items()}


def levels_that_hold(paths: Iterable[Path]) -> dict[str, Level]:
    """The levels of records' files that still have the content that was verified, by key."""
    known: dict[Path, dict[str, Level]] = {}
    found: dict[str, Level] = {}
    for path in paths:
        if path.parent not in known:
            known[path.parent] = read_levels(path.parent)
        level = known[path.parent].get(path.stem)
        if level is not None and file_digest(path) == level.sha256:
            found[path.stem] = level
    return found


def levels_below(root: Path, faults: list[str] | None = None) -> dict[str, Level]:
    """How far the records in a folder, at any depth, or in one file were verified, by key.

    A file of levels that cannot be read is left out with a warning, which is added to ``faults``.
    """
    folders = [root.parent] if root.is_file() else record_folders(root)
    found: dict[str, Level] = {}
    for folder in folders:
        if not beside(folder).is_file():
            continue
        try:
            found |= levels_that_hold(Store(folder).paths())
        except ValueError as error:
            warnings.warn(f"left out a verification: {error}", stacklevel=2)
            if faults is not None:
                faults.append(str(error))
    return found


def write_levels(records: Path, levels: Mapping[str, Level]) -> None:
    """Keep the levels of a folder of records, in the order of their keys."""
    plain: dict[str, Any] = {key: asdict(levels[key]) for key in sorted(levels)}
    write_json(beside(records), {"version": 1, "records": plain})
