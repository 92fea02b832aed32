"""Names of pages: letters that any file system and address takes, whatever the thing is called."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.records.record import digest
from benchmarks.report.formats.markup import anchor

LONGEST = 72


def slugs(names: Iterable[str]) -> list[str]:
    """A name for each page, all different; where two would be the same, a digest tells them."""
    found: list[str] = []
    for name in names:
        slug = anchor(name)[:LONGEST].strip("-")
        if not slug or slug in found:
            slug = f"{slug}-{digest(name)[:6]}".strip("-")
        while slug in found:
            slug += "-"
        found.append(slug)
    return found
