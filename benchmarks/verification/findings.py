"""What verification finds: faults, and notes on what could not be looked at."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.records.record import Record


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    Attributes:
        file: where it was found.
        field: the record's field, such as ``costs.bops``; empty where it is the whole file.
        message: what is wrong, in words.
        recorded: the value in the file.
        recomputed: what it should be, where that is known.
        note: it is no fault, but something that was not, or cannot be, looked at.
    """

    file: str
    field: str
    message: str
    recorded: Any = None
    recomputed: Any = None
    note: bool = False

    @property
    def key(self) -> str:
        """The key of the record, by its file's name."""
        return Path(self.file).stem

    @property
    def text(self) -> str:
        """One line for people."""
        values = ""
        if self.recorded is not None or self.recomputed is not None:
            values = f" (recorded {short(self.recorded)}, recomputed {short(self.recomputed)})"
        where = f"{self.field}: " if self.field else ""
        return f"{self.file}: {where}{self.message}{values}"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"key": self.key, **asdict(self)}


def short(value: Any) -> str:
    """A value in a message."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


@dataclass
class Case:
    """A record that is being verified.

    Attributes:
        path: its file.
        raw: what the file holds.
        record: the same as a record.
        findings: what was found so far.
        level: how far it has been verified; None while it is not, or has a fault.
    """

    path: Path
    raw: dict[str, Any]
    record: Record
    findings: list[Finding] = field(default_factory=list)
    level: str | None = None

    @property
    def faulty(self) -> bool:
        """Whether there is a fault."""
        return any(not finding.note for finding in self.findings)

    def fault(self, field: str, message: str, recorded: Any = None, here: Any = None) -> None:
        """Add a fault; ``here`` is what was recomputed."""
        self.findings.append(Finding(str(self.path), field, message, recorded, here))

    def note(self, field: str, message: str) -> None:
        """Add a note."""
        self.findings.append(Finding(str(self.path), field, message, note=True))

    def compare(self, field: str, recorded: Any, here: Any, message: str) -> None:
        """Add a fault for each entry that differs from what was recomputed."""
        for place, ours, theirs in differences(field, recorded, here):
            self.fault(place, message, ours, theirs)


def differences(field: str, ours: Any, theirs: Any) -> list[tuple[str, Any, Any]]:
    """Where two pieces of plain data differ: the place and both values; whole numbers are equal
    to floats of their value.
    """
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = dict.fromkeys([*theirs, *ours])
        inner = [differences(f"{field}.{k}", ours.get(k), theirs.get(k)) for k in keys]
        return [found for part in inner for found in part]
    if isinstance(ours, bool) is not isinstance(theirs, bool) or ours != theirs:
        return [(field, ours, theirs)]
    return []
