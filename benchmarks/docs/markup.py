"""Pieces of Markdown that the pages share."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.records.escape import markdown as escape

NOTICE = (
    "<!-- Made by `python -m benchmarks.docs`; edits belong into cards, docstrings and data. -->"
)


def code(text: str) -> str:
    """Text as code, also within a table."""
    return f"`{text}`".replace("|", "\\|") if text else ""


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int = 99) -> list[str]:
    """The lines of a table of Markdown cells; its first ``left`` columns begin at the left."""
    rule = "|".join(":--" if i < left else "--:" for i in range(len(headings)))
    lines = [list(headings), *rows]
    found = ["| " + " | ".join(cells) + " |" for cells in lines]
    return [found[0], f"|{rule}|", *found[1:], ""]


def listed(items: Sequence[str]) -> list[str]:
    """The lines of a list."""
    return [*(f"- {item}" for item in items), ""]


def prose(text: str) -> str:
    """A docstring's line as Markdown: its ``code`` stays code, all else is shown as it is."""
    parts = text.replace("``", "`").split("`")
    return "".join(code(part) if i % 2 else _escaped(part) for i, part in enumerate(parts))


def _escaped(text: str) -> str:
    """Escaped text that keeps the blanks at its ends."""
    inner = text.strip()
    return text.replace(inner, escape(inner), 1) if inner else text


def page(lines: Sequence[str]) -> str:
    """A whole page."""
    return "\n".join([NOTICE, "", *lines]).rstrip("\n") + "\n"
