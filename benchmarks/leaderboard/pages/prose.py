"""Docstrings as HTML: paragraphs, lists, and formulas as they stand."""

from __future__ import annotations

import re

from benchmarks.records.escape import html as escape

_ITEM = re.compile(r"(?:-|\d+\.) ")


def prose(text: str) -> str:
    """A docstring with each paragraph, list and indented formula as what it is."""
    blocks = re.split(r"\n\s*\n", text.strip("\n"))
    return "".join(map(_block, blocks))


def _block(block: str) -> str:
    lines = block.splitlines()
    if all(line.startswith("    ") for line in lines):
        body = "\n".join(line[4:] for line in lines)
        return f'<pre tabindex="0">{escape(body)}</pre>'
    parts: list[list[str]] = []
    for line in lines:
        if _ITEM.match(line) or not parts:
            parts.append([])
        parts[-1].append(line.strip())
    texts = [" ".join(part) for part in parts]
    return "".join(
        f'<p class="item">{_inline(text)}</p>' if _ITEM.match(text) else f"<p>{_inline(text)}</p>"
        for text in texts
    )


def _inline(text: str) -> str:
    """Escaped text whose `code` is code."""
    parts = text.replace("``", "`").split("`")
    return "".join(
        f"<code>{escape(part)}</code>" if n % 2 else escape(part) for n, part in enumerate(parts)
    )
