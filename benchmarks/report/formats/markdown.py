"""The table in Markdown (GitHub's dialect)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from benchmarks.records.escape import markdown as escape
from benchmarks.report.formats.blocks import Block


def render(block: Block, level: int = 3) -> Iterator[str]:
    """The lines of a block."""
    yield f"{'#' * level} {escape(block.title)}"
    yield ""
    yield "| " + " | ".join(map(escape, block.headings)) + " |"
    yield (
        "|"
        + "|".join(":--" if i in block.left else "--:" for i in range(len(block.headings)))
        + "|"
    )
    for r, row in enumerate(block.rows):
        cells = [
            f"**{escape(c)}**" if (r, i) in block.strong else escape(c) for i, c in enumerate(row)
        ]
        yield "| " + " | ".join(cells) + " |"
    yield ""
    yield from notes(block.notes)


def notes(lines: object) -> Iterator[str]:
    """A list of notes with an empty line after it."""
    assert isinstance(lines, list | tuple)
    for note in lines:
        # What begins a heading, a quotation or another list would do so within a list, too.
        yield "- " + re.sub(r"^(\d*)([#+=.)-])(?=#*\s)", r"\1\\\2", escape(note))
    if lines:
        yield ""
