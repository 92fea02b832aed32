"""The table for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from benchmarks.records.escape import line as escape
from benchmarks.report.formats.blocks import Block

WIDTH = 140


def _fitted(block: Block, flexible: Sequence[int]) -> list[int]:
    """Column widths; flexible ones shrink, the widest first, until the block fits."""
    lines = [block.headings, *block.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(block.headings))]
    while sum(widths) + 2 * len(widths) > WIDTH:
        i = max(flexible, key=lambda i: widths[i])
        if widths[i] <= 12:
            break
        widths[i] -= 1
    return widths


def _wrapped(text: str, indent: str = "  ") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent + "  ")


def render(block: Block, flexible: Sequence[int]) -> Iterator[str]:
    """The lines of a block."""
    rows = [[escape(cell) for cell in row] for row in block.rows]
    headings = [escape(heading) for heading in block.headings]
    block = Block(escape(block.title), headings, rows, block.left)  # signs alone stand out here
    widths = _fitted(block, flexible)
    yield from _wrapped(block.title, "")
    for line in (block.headings, *rows):
        cells = [
            [cell] if len(cell) <= width else textwrap.wrap(cell, width)
            for cell, width in zip(line, widths, strict=True)
        ]
        for parts in zip_longest(*cells, fillvalue=""):
            fitted = [
                part.ljust(width) if i in block.left else part.rjust(width)
                for i, (part, width) in enumerate(zip(parts, widths, strict=True))
            ]
            yield ("  " + "  ".join(fitted)).rstrip()


def notes(lines: Sequence[str], indent: str = "  ! ") -> list[str]:
    """Wrapped notes below a block."""
    return [line for note in lines for line in _wrapped(escape(note), indent)]
