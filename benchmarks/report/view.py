"""What part of a table is shown, and in what order; statistics are always those of the whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase

from benchmarks.report.numbers.groups import Group
from benchmarks.report.numbers.overall import Overall
from benchmarks.report.numbers.rows import Row
from benchmarks.report.table import Table

Value = Callable[[Group, Row], float | str | None]


def _gain(group: Group, row: Row) -> float | None:
    found = row.gains.get("uniform")
    return None if found is None else -found.mean


SORTS: dict[str, Value] = {
    "rank": lambda g, r: r.rank,
    "accuracy": lambda g, r: -r.accuracy.mean if r.accuracy else None,
    "gain": _gain,
    "share": lambda g, r: g.share(r),
    "cost": lambda g, r: g.cost(r),
    "bits": lambda g, r: r.mean("bits", "weight"),
    "policies": lambda g, r: r.mean("search", "policies"),
    "images": lambda g, r: r.images,
    "time": lambda g, r: r.mean("search", "seconds"),
    "name": lambda g, r: r.label,
    "category": lambda g, r: r.category,
}
"""What rows can be sorted by, the best or the least first; a row without the value comes last."""


class BadView(ValueError):
    """A view asks for what the table has not; the message lists the choices."""


@dataclass(frozen=True)
class View:
    """What is shown of a table.

    Attributes:
        sort: one of `SORTS`.
        top: so many rows of each group, the first ones; None for all.
        only: categories, or names of frameworks (patterns); empty for all.
    """

    sort: str = "rank"
    top: int | None = None
    only: Sequence[str] = ()

    def of(self, table: Table) -> Table:
        """The table as it is to be shown.

        Raises:
            BadView: ``only`` names what the table has not; the message lists the choices.
        """
        rows = [row for group in table.groups for row in group.rows]
        for word in self.only if rows else ():
            if not any(_fits(row, word) for row in rows):
                raise BadView(_unknown(word, rows))
        kept = [self._group(group) for group in table.groups]
        shown = {row.label for group in kept for row in group.rows}
        names = {row.name for group in kept for row in group.rows}
        return replace(
            table,
            groups=[group for group in kept if group.rows],
            standings=[found for s in table.standings if (found := _overall(s, shown)).standings],
            reported=[n for n in table.reported if not rows or n.framework in names],
        )

    def _group(self, group: Group) -> Group:
        fits = [r for r in group.rows if not self.only or any(_fits(r, w) for w in self.only)]
        if self.sort != "rank":
            fits.sort(key=lambda row: _order(SORTS[self.sort](group, row)))
        kept = fits[: self.top]
        return replace(group, rows=kept, hidden=len(group.rows) - len(kept))


def _order(value: float | str | None) -> tuple[bool, float, str]:
    number = value if isinstance(value, int | float) else 0.0
    return value is None, number, value if isinstance(value, str) else ""


def _fits(row: Row, word: str) -> bool:
    names = (row.category, row.name, row.label)
    return any(name == word or fnmatchcase(name, word) for name in names)


def _unknown(word: str, rows: Sequence[Row]) -> str:
    categories = list(dict.fromkeys(row.category for row in rows))
    names = sorted({row.name for row in rows})
    near = get_close_matches(word, [*categories, *names], 1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return (
        f"--only {word}{hint}: the categories are {', '.join(categories)}; the frameworks "
        f"{', '.join(names)}"
    )


def _overall(overall: Overall, shown: set[str]) -> Overall:
    return replace(overall, standings=[s for s in overall.standings if s.label in shown])
