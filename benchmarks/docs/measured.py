"""What the committed records say of a framework: its place in each of their groups."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.docs.facts import ROOT
from benchmarks.report.numbers.groups import Group
from benchmarks.report.numbers.overall import Standing
from benchmarks.report.numbers.rows import Row
from benchmarks.report.table import Table
from benchmarks.studies.statements.measures import table

MAIN = "fashion_mnist"
"""The suite whose groups stand one by one; of the others there is a line a protocol."""


@dataclass(frozen=True)
class Overview:
    """One framework over all groups of a protocol of a suite, and its place by mean gain."""

    suite: str
    protocol: str
    groups: int
    place: int
    of: int
    standing: Standing


def suites() -> dict[str, Table]:
    """The committed suites that have records, by name, the main one first."""
    names = sorted(path.parent.name for path in (ROOT / "results").glob("*/records"))
    kept = [name for name in names if (ROOT / "conf" / "suite" / f"{name}.yaml").exists()]
    kept = [name for name in kept if name != "quick"]  # of which nothing is committed
    return {name: table(f"results/{name}") for name in sorted(kept, key=lambda n: (n != MAIN, n))}


def rows(framework: str) -> Iterator[tuple[Group, Row]]:
    """Each group of the main suite in which a framework has a rank, with its row."""
    for group in table(f"results/{MAIN}").groups:
        for row in group.rows:
            if row.label == framework and row.rank:
                yield group, row


def ranked(group: Group) -> int:
    """How many rows of a group have a rank."""
    return sum(bool(row.rank) for row in group.rows)


def overviews(framework: str) -> Iterator[Overview]:
    """A framework's standing in each suite and protocol where it has a result."""
    for suite, found in suites().items():
        for overall in found.standings:
            those = [s for s in overall.standings if s.groups]
            for place, standing in enumerate(those, 1):
                if standing.label == framework:
                    at = (place, len(those), standing)
                    yield Overview(suite, overall.protocol, overall.groups, *at)
