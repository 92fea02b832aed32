"""What a leaderboard is made of: the table, its panels, frameworks, claims and verifications."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from benchmarks.docs.claims import Claim
from benchmarks.leaderboard.contents.methods import Method, method_of
from benchmarks.leaderboard.contents.slugs import slugs
from benchmarks.records.levels import Level
from benchmarks.report.formats.blocks import panel_parts
from benchmarks.report.numbers.groups import Group
from benchmarks.report.numbers.overall import Overall, Standing, overall
from benchmarks.report.numbers.rows import Row
from benchmarks.report.table import Table


@dataclass(frozen=True)
class Panel:
    """Groups that differ in the budget only: one model, data set, target and protocol.

    Attributes:
        slug: of its page.
        groups: one a budget, the largest first.
        overall: the standings over these groups.
    """

    slug: str
    groups: tuple[Group, ...]
    overall: Overall

    @property
    def first(self) -> Group:
        """The group that stands for what all share."""
        return self.groups[0]

    @property
    def target(self) -> str:
        """Hardware target, with the metric where that is not its name, and its kind."""
        named = " ".join(panel_parts(self.first.panel)[3:])
        return f"{named} ({self.first.kind})" if self.first.kind else named

    @property
    def parts(self) -> dict[str, str]:
        """What a reader chooses a panel by."""
        first = self.first
        return {
            "model": first.model,
            "dataset": first.dataset,
            "target": self.target,
            "protocol": first.protocol,
        }

    @property
    def title(self) -> str:
        """Model, data set, target and protocol in one line."""
        return " | ".join(self.parts.values())

    @property
    def standings(self) -> list[Standing]:
        """Frameworks by mean gain over uniform, those that have no result in any group last."""
        return sorted(self.overall.standings, key=lambda s: not s.groups)

    @property
    def seeds(self) -> int:
        """The most seeds that a row has."""
        return max((len(row.cells) for group in self.groups for row in group.rows), default=0)

    def rows(self, label: str) -> list[Row | None]:
        """A framework's row in each group: the ranked one, else what there is."""
        return [row_of(group, label) for group in self.groups]


def row_of(group: Group, label: str) -> Row | None:
    """A framework's row in a group: the ranked one, else what there is."""
    found = [row for row in group.rows if row.label == label]
    return min(found, key=lambda row: row.rank is None, default=None)


@dataclass(frozen=True)
class Board:
    """All that the pages are made of.

    Attributes:
        methods: the frameworks that have a cell, by name.
        levels: how far records were verified, by key.
    """

    title: str
    table: Table
    panels: tuple[Panel, ...]
    methods: Mapping[str, Method]
    claims: Sequence[Claim] = ()
    levels: Mapping[str, Level] = field(default_factory=dict)

    @property
    def groups(self) -> list[Group]:
        """All groups, in the order of the table."""
        return self.table.groups

    @property
    def default(self) -> Panel | None:
        """The panel that the first page shows: that of most ranked rows."""
        return max(self.panels, key=_ranked, default=None)


def _ranked(panel: Panel) -> int:
    return sum(row.rank is not None for group in panel.groups for row in group.rows)


def _short(group: Group) -> str:
    """What tells most panels apart, in few words."""
    metric = group.metric if group.metric != group.hardware else ""
    parts = (group.model, group.dataset, group.hardware, metric, group.protocol_name)
    return " ".join(part.partition(" (")[0] for part in parts if part)


def board(
    title: str,
    table: Table,
    claims: Sequence[Claim] = (),
    levels: Mapping[str, Level] | None = None,
) -> Board:
    """Arrange a table for a site."""
    by_panel = [tuple(found) for _, found in groupby(table.groups, key=lambda g: g.panel)]
    named = slugs(_short(found[0]) for found in by_panel)
    panels = tuple(
        Panel(slug, found, overall(found)[0]) for slug, found in zip(named, by_panel, strict=True)
    )
    rows = {row.name: row for group in table.groups for row in group.rows}
    cards = {row.name: row.card for group in table.groups for row in group.rows if row.card}
    names = sorted(rows)
    methods = {
        name: method_of(name, slug, cards.get(name, {}), rows[name].category)
        for name, slug in zip(names, slugs(names), strict=True)
    }
    return Board(title, table, panels, methods, claims, levels or {})
