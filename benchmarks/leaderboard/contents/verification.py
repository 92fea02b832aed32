"""How far rows were verified: what ``juxtabit verify`` wrote beside their records, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from benchmarks.records import levels as kept
from benchmarks.records.levels import Level
from benchmarks.records.record import Record

UNVERIFIED = "unverified"
LEVELS = (UNVERIFIED, *kept.LEVELS)
"""From the weakest to the strongest."""
MEANINGS = {
    UNVERIFIED: "taken as it was handed in",
    "older": "of another version: key, policy and costs computed anew, card and code not compared",
    "checked": "schema, key and digests hold, and costs and bits computed anew from the policy are "
    "those that it states; this finds accidents and clumsy edits",
    "rerun": "computed anew, with the same outcome within the stated tolerance; only this finds a "
    "consistent lie",
}


@dataclass(frozen=True)
class Verified:
    """How far several records were verified together: not further than the weakest."""

    level: str
    when: str
    text: str
    """Such as ``rerun 2026-11-26``, or ``2 of 3 checked``."""


def together(records: Iterable[Record], levels: Mapping[str, Level]) -> Verified:
    """How far some records were verified, in a word or two."""
    found = [levels.get(record.key) for record in records]
    if not found:
        return Verified("", "", "")
    counts = Counter(UNVERIFIED if level is None else level.level for level in found)
    weakest = min(counts, key=LEVELS.index)
    when = min((level.when for level in found if level is not None), default="")
    if len(counts) == 1:
        return Verified(weakest, when, f"{weakest} {when}".strip())
    best = max(counts, key=LEVELS.index)
    return Verified(weakest, when, f"{counts[best]} of {len(found)} {best} {when}".strip())
