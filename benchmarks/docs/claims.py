"""What is said for and against each framework, with sources (``results/claims.csv``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.docs.facts import ROOT
from benchmarks.records.sheet import rows_of
from benchmarks.report.formats.reported import MARKS

_PACKAGE = Path(__file__).resolve().parents[1]
_PLACES = (ROOT / "results" / "claims.csv", _PACKAGE / "claims.csv")
FILE = next((place for place in _PLACES if place.is_file()), _PLACES[0])
"""In a checkout's results, or beside this package's code."""
SIDES = ("advantage", "shortcoming")


@dataclass(frozen=True)
class Claim:
    """One advantage or shortcoming, in our words.

    Attributes:
        source: where it was read: the paper, its code, or a later paper.
        mark: how far to trust it, see `benchmarks.report.formats.reported.MARKS`.
    """

    framework: str
    side: str
    claim: str
    source: str
    mark: str

    @property
    def cited(self) -> str:
        """The claim with its source, and a word if that is second-hand."""
        second = "; second-hand" if self.mark == "verified-2nd" else ""
        return f"{self.claim} ({self.source}{second})"


COLUMNS = tuple(f.name for f in fields(Claim))


def read(path: Path = FILE) -> list[Claim]:
    """The claims, in the file's order.

    Raises:
        OSError: the file cannot be read.
        ValueError: a column or an entry is wrong; the message names file, line and choices.
    """
    return rows_of(path, COLUMNS, _checked)


def _checked(row: dict[Any, Any], where: str) -> Claim:
    if None in row or not all(row.values()):
        raise ValueError(f"{where}: not {len(COLUMNS)} fields with something in each")
    for name, choices in (("side", SIDES), ("mark", tuple(MARKS))):
        if row[name] not in choices:
            raise ValueError(f"{where}: {name} {row[name]!r} is none of {list(choices)}")
    return Claim(**row)


def of(claims: Sequence[Claim], framework: str, side: str) -> list[Claim]:
    """The claims of one side about a framework."""
    return [claim for claim in claims if (claim.framework, claim.side) == (framework, side)]
