"""How far each record was verified: what ``juxtabit verify`` wrote beside the records.

``verification.json`` is ``{"version": 1, "records": {KEY: {"level": "checked" or "rerun", "when":
"2026-11-26", "juxtabit": "0.5.0", "sha256": digest of the record's file}}}``. A record that has
been changed since is not verified any more.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.records.record import Record
from benchmarks.records.store import read_json

FILE = "verification.json"
UNVERIFIED = "unverified"
LEVELS = (UNVERIFIED, "checked", "rerun")
"""From the weakest to the strongest."""
MEANINGS = {
    UNVERIFIED: "taken as it was handed in",
    "checked": "schema, key and digests hold, and costs and bits computed anew from the policy are "
    "those that it states; this finds accidents and clumsy edits",
    "rerun": "computed anew, with the same outcome within the stated tolerance; only this finds a "
    "consistent lie",
}


@dataclass(frozen=True)
class Level:
    """How far a record was verified, when (a date), and by which version of juxtabit."""

    level: str
    when: str = ""
    version: str = ""


@dataclass(frozen=True)
class Verified:
    """How far several records were verified together: not further than the weakest."""

    level: str
    when: str
    text: str
    """Such as ``rerun 2026-11-26``, or ``2 of 3 checked``."""


def read(roots: Iterable[Path], faults: list[str] | None = None) -> dict[str, Level]:
    """The levels of the records below some folders, by key.

    A file that cannot be read is left out with a warning, which is added to ``faults``, too.
    """
    found: dict[str, Level] = {}
    for path in sorted({path for root in roots for path in _files(root)}):
        try:
            found |= _levels(path)
        except ValueError as error:
            fault = f"{path}: {error}"
            warnings.warn(f"left out a verification: {fault}", stacklevel=2)
            if faults is not None:
                faults.append(fault)
    return found


def _files(root: Path) -> Iterator[Path]:
    near = [root, root.parent, root.parent.parent] if root.is_file() else [root]
    near += [root.parent] * (root.name == "records")
    yield from (path.resolve() for folder in near if (path := folder / FILE).is_file())
    if root.is_dir():
        yield from (path.resolve() for path in root.rglob(FILE))


def _levels(path: Path) -> dict[str, Level]:
    data = read_json(path)
    entries = data.get("records") if isinstance(data, dict) else None
    if not isinstance(entries, dict) or data.get("version") != 1:
        raise ValueError("is no verification of version 1: {'version': 1, 'records': {...}}")
    found = {key: (_level(key, entry), entry) for key, entry in entries.items()}
    return {key: level for key, (level, entry) in found.items() if _unchanged(path, key, entry)}


def _level(key: str, entry: Any) -> Level:
    level = entry.get("level") if isinstance(entry, dict) else None
    if level not in LEVELS:
        raise ValueError(f"records[{key!a}].level is {level!a}, none of {', '.join(LEVELS)}")
    when = str(entry.get("when") or "")
    if when and not re.fullmatch(r"\d{4}-\d\d-\d\d", when):
        raise ValueError(f"records[{key!a}].when is {when!a}, no date such as 2026-11-26")
    return Level(level, when, str(entry.get("juxtabit") or ""))


def _unchanged(path: Path, key: str, entry: Mapping[str, Any]) -> bool:
    """Whether a record's file is still the one that was verified, as far as that is known."""
    stated = entry.get("sha256")
    if not stated:
        return True
    for folder in (path.parent / "records", path.parent):
        if Path(key).name == key and (folder / f"{key}.json").is_file():
            return bool(hashlib.sha256((folder / f"{key}.json").read_bytes()).hexdigest() == stated)
    return False


def together(records: Iterable[Record], levels: Mapping[str, Level]) -> Verified:
    """How far some records were verified, in a word or two."""
    found = [levels.get(record.key, Level(UNVERIFIED)) for record in records]
    if not found:
        return Verified("", "", "")
    counts = Counter(level.level for level in found)
    weakest = min(counts, key=LEVELS.index)
    dates = [level.when for level in found if level.level != UNVERIFIED and level.when]
    when = min(dates, default="")
    if len(counts) == 1:
        return Verified(weakest, when, f"{weakest} {when}".strip())
    best = max(counts, key=LEVELS.index)
    return Verified(weakest, when, f"{counts[best]} of {len(found)} {best} {when}".strip())
