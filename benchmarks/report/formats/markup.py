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
    """A cell of escaped text; ``value`` is what it is sorted by, where the text is not enough.

    A page reads the number that a text begins with, as `_leading` does.
    """
    return raw_cell(escape(text), None if _says(text, value) else value, classes)


def _says(text: str, value: object) -> bool:
    """Whether a text begins with a value, to the places that it shows."""
    shown = _leading(text)
    if shown is None or value is None:
        return str(value) == text
    places = len(shown.partition(".")[2])
    try:
        return abs(float(str(value)) - float(shown)) <= 0.501 * 10.0**-places
    except ValueError:
        return False


def raw_cell(markup: str, value: object = None, classes: str = "") -> str:
    """A cell of finished markup; see `cell`."""
    data = "" if value is None else f' data-v="{escape(str(value))}"'
    name = f' class="{classes}"' if classes else ""
    return f"<td{name}{data}>{markup}</td>"


def sortable(heads: Iterable[tuple[str, str]], rows: Iterable[str]) -> str:
    """A sortable table of (heading, classes) and finished rows.

    What is to the left stands in the table's class, ``l1 l3``, and not in each of its cells.
    """
    every = list(heads)
    cells = "".join(
        f'<th scope="col" class="{classes}"><button type="button">{escape(text)}</button></th>'
        for text, classes in every
    )
    left = "".join(f" l{i}" for i, (_, c) in enumerate(every, 1) if "left" in c.split())
    body = re.sub(r'<td class="([^"]*)"', _without_left, "".join(rows)) if left else "".join(rows)
    return (
        f'<div class="scroll"><table class="sortable{left}"><thead><tr>{cells}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _without_left(found: re.Match[str]) -> str:
    classes = " ".join(c for c in found.group(1).split() if c != "left")
    return f'<td class="{classes}"' if classes else "<td"


def _leading(text: str) -> str | None:
    """The number that a text begins with, if that is what it shows."""
    found = re.match(r"[+-]?\d+(\.\d+)?(?=$|[ %*/\[])", text)
    return found.group() if found else None


def plain(block: Block, wrap: frozenset[int] = frozenset()) -> str:
    """A plain block as a table."""

    def classes(i: int, row: int = -1) -> str:
        found = ["left"] * (i in block.left) + ["name"] * (i == 0) + ["wrap"] * (i in wrap)
        return " ".join(found + ["best"] * ((row, i) in block.strong))

    heads = [(text, classes(i)) for i, text in enumerate(block.headings)]
    rows = (
        "<tr>" + "".join(cell(t, None, classes(i, r)) for i, t in enumerate(row)) + "</tr>"
        for r, row in enumerate(block.rows)
    )
    return sortable(heads, rows)
