"""The juxtaposition table: what was measured here, and below it what the papers report."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.records import escape
from benchmarks.records.record import Record
from benchmarks.records.store import write_text
from benchmarks.report.formats import flat, html, latex, markdown, text
from benchmarks.report.formats.beside import beside_block
from benchmarks.report.formats.blocks import (
    BRIEF,
    FULL,
    MEDIUM,
    NOTES,
    OVERALL_NOTES,
    Block,
    cards_block,
    group_block,
    overall_block,
)
from benchmarks.report.formats.reported import Reported, default_path, entries, read, reported_block
from benchmarks.report.formats.summary import summary_blocks
from benchmarks.report.numbers.current import current
from benchmarks.report.numbers.groups import Group, gather
from benchmarks.report.numbers.overall import Overall, overall

MANY = 20
"""Rows of a group above which a terminal shows them by category."""
TITLE = "Juxtaposition of mixed-precision quantization frameworks"


@dataclass(frozen=True)
class Table:
    """The juxtaposition table, ready to be shown in any format.

    Attributes:
        groups: rows by framework for each model, dataset, hardware, protocol and budget.
        standings: frameworks over all groups, by protocol.
        reported: the published half.
        older: records left out because a newer one of the same cell is there, or because the
            newest of their row are of other code or numerics.
    """

    groups: list[Group]
    standings: list[Overall]
    reported: list[Reported]
    older: int = 0

    @property
    def counts(self) -> str:
        """How many cells there are, by status."""
        rows = [row for group in self.groups for row in group.rows]
        done = sum(len(row.cells) for row in rows)
        over = sum(len(row.cells) for row in rows if row.over)
        failed, skipped = sum(len(r.failed) for r in rows), sum(len(r.skipped) for r in rows)
        beyond = f" ({over} OVER BUDGET)" if over else ""
        total = done + failed + skipped
        line = f"{total} cell{'s' * (total != 1)}: {done} done{beyond}, {failed} failed, "
        line += f"{skipped} skipped."
        if self.older:
            line += (
                f" {self.older} older record{'s' * (self.older != 1)} of the same cells left out."
            )
        return line

    def text(self, width: int = text.WIDTH) -> str:
        """For a terminal of so many columns; groups of many rows are sorted by category."""
        return "\n".join(_clean_end(self._text(width)))

    def _text(self, width: int) -> Iterator[str]:
        for group in self.groups:
            block = group_block(group, BRIEF)
            sections = [row.category for row in group.rows] if len(group.rows) > MANY else []
            yield from text.render(block, [block.headings.index("framework")], width, sections)
            yield from text.notes(block.notes, width=width)
            yield ""
        for standing in self.standings:
            yield from text.render(overall_block(standing), [0], width)
            yield ""
        for block in self._beside():
            yield from text.render(block, [1, 2], width)
            yield from text.notes(block.notes, "  ", width)
            yield ""
        if self.groups:
            yield from text.notes([*NOTES, *OVERALL_NOTES], "", width)
            yield ""
        yield self.counts
        if self.reported and self.groups:
            # Long, and of other networks and data than those above.
            yield (
                f"The {len(self.reported)} published numbers of these frameworks, with their "
                "sources, are in the Markdown, CSV, LaTeX and HTML forms."
            )
        elif self.reported:
            block = reported_block(entries(self.reported))
            yield ""
            yield from text.render(block, [3, 7, 1], width)
            yield from text.notes(block.notes, "  ", width)

    def markdown(self) -> str:
        """In GitHub's Markdown."""
        return "\n".join(_clean_end(self._markdown()))

    def _markdown(self) -> Iterator[str]:
        yield from (f"# {TITLE}", "", escape.markdown(self.counts), "", "## As measured here", "")
        for group in self.groups:
            yield from markdown.render(group_block(group, FULL))
        for block in self._summaries():
            yield from markdown.render(block)
        yield from markdown.notes([*NOTES, *OVERALL_NOTES])
        if self.reported:
            yield from markdown.render(reported_block(entries(self.reported)), 2)

    def _summaries(self) -> list[Block]:
        blocks = [*map(overall_block, self.standings), *self._beside()]
        return [*blocks, cards_block(self.groups)] if self.groups else blocks

    def _beside(self) -> list[Block]:
        """The published numbers beside the measured ones, where there are both."""
        return [beside_block(self.groups, self.reported)] if self.groups and self.reported else []

    def summary(self) -> str:
        """A Markdown table for each model and dataset: a row a framework, a column a budget."""
        blocks = summary_blocks(self.groups)
        return "\n".join(_clean_end(line for b in blocks for line in markdown.render(b, 4)))

    def latex(self) -> str:
        """To be included in a paper that uses booktabs and graphicx."""
        return "\n".join(_clean_end(self._latex()))

    def _latex(self) -> Iterator[str]:
        yield latex.HEADER
        yield f"% {escape.latex(self.counts)}"
        for group in self.groups:
            yield from latex.render(group_block(group, MEDIUM))
        for block in self._summaries():
            yield from latex.render(block)
        yield from latex.notes([*NOTES, *OVERALL_NOTES, self.counts])
        yield ""
        if self.reported:
            yield from latex.render(reported_block(entries(self.reported)))

    def csv(self) -> str:
        """Unrounded, one row a framework and group, then the rest; see ``report/flat.py``."""
        return flat.render(self.groups, self.standings, self.reported)

    def html(self, title: str = TITLE) -> str:
        """One self-contained page with plots."""
        return html.render(title, self.counts, self.groups, self.standings, self.reported)

    def files(self) -> dict[str, str]:
        """The table in every format, and its pictures, by the name of the file."""
        pages = {
            "txt": self.text(),
            "md": self.markdown(),
            "csv": self.csv(),
            "tex": self.latex(),
            "html": self.html(),
        }
        found = {f"juxtaposition.{suffix}": content for suffix, content in pages.items()}
        return found | {f"{name}.svg": content for name, content in self.pictures().items()}

    def pictures(self) -> dict[str, str]:
        """The accuracy-cost and learning pictures as SVG, by their names."""
        return html.pictures(self.groups)


def _clean_end(lines: Iterable[str]) -> list[str]:
    """The lines without empty ones at the end, but with a final newline."""
    kept = list(lines)
    while kept and not kept[-1]:
        kept.pop()
    return [*kept, ""]


def build(
    records: Iterable[Record],
    reported: Path | None = None,
    levels: Mapping[str, str] | None = None,
) -> Table:
    """Make the table.

    Args:
        records: any records; of several of the same cell, the newest counts.
        reported: the published numbers; by default ``results/reported.csv`` of the checkout or the
            one shipped with the package, and none if there is neither. The table shows those of
            the frameworks that it measures.
        levels: how far records were verified, by key (see `benchmarks.records.levels`).

    Raises:
        OSError, ValueError: ``reported`` cannot be read, or holds something else.
    """
    path = default_path() if reported is None else reported
    cells, older = current(records)
    groups = gather(cells, levels)
    numbers = read(path) if path else []
    measured = {row.name for group in groups for row in group.rows}
    kept = [n for n in numbers if not measured or n.framework in measured]
    return Table(groups, overall(groups), kept, older)


def write(table: Table, folder: Path) -> list[Path]:
    """Write the table in every format, and its accuracy-cost and learning pictures.

    Each file is whole or not there.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {folder / name: content for name, content in table.files().items()}
    for path, content in paths.items():
        write_text(path, content)
    return list(paths)


def showable(records: Iterable[Record], faults: list[str]) -> list[Record]:
    """The records of which a table alone can be made and shown in every format.

    The gate of records refuses what tables cannot read; this is for what it does not know of. Each
    record that is left out is warned of by its key, which is added to ``faults``.
    """
    kept = []
    for record in records:
        try:
            table = build([record])
            table.files()
            table.summary()
            kept.append(record)
        except Exception as error:
            fault = f"{record.key}.json: no table can show it ({type(error).__name__}: {error})"
            warnings.warn(f"left out a record: {fault}", stacklevel=2)
            faults.append(fault)
    return kept
