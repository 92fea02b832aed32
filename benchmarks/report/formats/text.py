"""The table for a terminal: what fits its width, and many rows by their category."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from benchmarks.records.escape import line as escape
from benchmarks.report.formats.blocks import Block

WIDTH = 140
"""Columns of a terminal that is none, such as a file."""
LEAST_WIDTH = 60
NARROWEST = 12
"""Columns that a flexible one keeps at least."""
KEPT = frozenset({"#", "framework", "accuracy", "agreement", "n", "vs uniform", "status"})
"""Columns that are never left out for want of width; of the others the last ones go first."""


def _widths(block: Block, flexible: Sequence[int], width: int) -> list[int] | None:
    """Column widths; flexible ones shrink, the widest first, until the block fits, if it can."""
    lines = [block.headings, *block.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(block.headings))]
    while sum(widths) + 2 * len(widths) > width:
        i = max(flexible, key=lambda i: widths[i])
        if widths[i] <= NARROWEST:
            return None
        widths[i] -= 1
    return widths


def _natural(block: Block) -> list[int]:
    lines = [block.headings, *block.rows]
    return [max(len(line[i]) for line in lines) for i in range(len(block.headings))]


def _without(block: Block, column: int) -> Block:
    """A block without a column."""
    kept = [i for i in range(len(block.headings)) if i != column]
    rows = [[row[i] for i in kept] for row in block.rows]
    left = frozenset(new for new, old in enumerate(kept) if old in block.left)
    return Block(block.title, [block.headings[i] for i in kept], rows, left)


def _fitted(
    block: Block, flexible: Sequence[int], width: int
) -> tuple[Block, list[int], list[str]]:
    """A block that fits the width, its columns' widths, and the columns that it has lost."""
    names = {block.headings[i] for i in flexible}
    lost: list[str] = []
    while True:
        places = [i for i, heading in enumerate(block.headings) if heading in names]
        found = _widths(block, places, width)
        if found is not None:
            return block, found, lost
        spare = [i for i, h in enumerate(block.headings) if h not in KEPT | names]
        if not spare or "framework" not in block.headings:
            narrow = [
                min(w, NARROWEST) if i in places else w for i, w in enumerate(_natural(block))
            ]
            return block, narrow, lost
        lost.insert(0, block.headings[spare[-1]])
        block = _without(block, spare[-1])


def _wrapped(text: str, indent: str = "  ", width: int = WIDTH) -> list[str]:
    return textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent + "  ")


def render(
    block: Block,
    flexible: Sequence[int],
    width: int = WIDTH,
    sections: Sequence[str] = (),
) -> Iterator[str]:
    """The lines of a block.

    Args:
        block: what is shown.
        flexible: the columns that may be wrapped.
        width: of the terminal; columns that do not fit are left out, and named.
        sections: for each row, the heading that it stands under; rows of one are put together.
    """
    width = max(width, LEAST_WIDTH)
    rows = [[escape(cell) for cell in row] for row in block.rows]
    headings = [escape(heading) for heading in block.headings]
    # Signs alone stand out here.
    plain = Block(escape(block.title), headings, rows, block.left)
    block, widths, lost = _fitted(plain, flexible, width)
    yield from _wrapped(block.title, "", width)
    yield from _line(block.headings, widths, block.left)
    for section in dict.fromkeys(sections or [""]):
        members = [i for i in range(len(rows)) if not sections or sections[i] == section]
        if section:
            yield f"  -- {escape(section)} ({len(members)})"
        for i in members:
            yield from _line(block.rows[i], widths, block.left)
    if lost:
        yield from notes([f"Not shown at {width} columns: {', '.join(lost)}."], width=width)


def _line(line: Sequence[str], widths: Sequence[int], left: frozenset[int]) -> Iterator[str]:
    """The lines of a row."""
    cells = [
        [cell] if len(cell) <= width else textwrap.wrap(cell, width)
        for cell, width in zip(line, widths, strict=True)
    ]
    for parts in zip_longest(*cells, fillvalue=""):
        fitted = [
            part.ljust(width) if i in left else part.rjust(width)
            for i, (part, width) in enumerate(zip(parts, widths, strict=True))
        ]
        yield ("  " + "  ".join(fitted)).rstrip()


def notes(lines: Sequence[str], indent: str = "  ! ", width: int = WIDTH) -> list[str]:
    """Wrapped notes below a block."""
    width = max(width, LEAST_WIDTH)
    return [line for note in lines for line in _wrapped(escape(note), indent, width)]
