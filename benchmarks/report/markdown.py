"""The table in Markdown (GitHub's dialect)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from benchmarks.report.blocks import Block


def escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    flat = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\|*_`\[\]~])", r"\\\1", flat)


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
    for row in block.rows:
        yield "| " + " | ".join(map(escape, row)) + " |"
    yield ""
    yield from notes(block.notes)


def notes(lines: object) -> Iterator[str]:
    """A list of notes with an empty line after it."""
    assert isinstance(lines, list | tuple)
    for note in lines:
        yield f"- {escape(note)}"
    if lines:
        yield ""
