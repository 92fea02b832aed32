"""HTML tables: escaped cells, with the value that each is sorted by."""

from __future__ import annotations

import re
from collections.abc import Iterable

from benchmarks.records.escape import html as escape
from benchmarks.report.formats.blocks import Block

EMPTY = re.compile("<td[^>]*></td>")
"""A cell that shows nothing."""


def anchor(*parts: str) -> str:
    """A name for links."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


def cell(text: str, value: object = None, classes: str = "") -> str:
    """A cell of escaped text; ``value`` is what it is sorted by, where that is not the text."""
    return raw_cell(escape(text), None if str(value) == text else value, classes)


def raw_cell(markup: str, value: object = None, classes: str = "") -> str:
    """A cell of finished markup; see `cell`."""
    data = "" if value is None else f' data-v="{escape(str(value))}"'
    name = f' class="{classes}"' if classes else ""
    return f"<td{name}{data}>{markup}</td>"


def sortable(heads: Iterable[tuple[str, str]], rows: Iterable[str]) -> str:
    """A sortable table of (heading, classes) and finished rows."""
    cells = "".join(
        f'<th scope="col" class="{classes}"><button type="button">{escape(text)}</button></th>'
        for text, classes in heads
    )
    return (
        f'<div class="scroll"><table class="sortable"><thead><tr>{cells}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _sortable(text: str) -> object:
    """What a plain block's cell is sorted by: its leading number, if that is what it shows."""
    found = re.match(r"[+-]?\d+(\.\d+)?(?=$|[ %*/\[])", text)
    return found.group() if found else None


def plain(block: Block, wrap: frozenset[int] = frozenset()) -> str:
    """A plain block as a table."""

    def classes(i: int, row: int = -1) -> str:
        found = ["left"] * (i in block.left) + ["name"] * (i == 0) + ["wrap"] * (i in wrap)
        return " ".join(found + ["best"] * ((row, i) in block.strong))

    heads = [(text, classes(i)) for i, text in enumerate(block.headings)]
    rows = (
        "<tr>" + "".join(cell(t, _sortable(t), classes(i, r)) for i, t in enumerate(row)) + "</tr>"
        for r, row in enumerate(block.rows)
    )
    return sortable(heads, rows)
