"""The table in LaTeX, for a paper that uses fontenc (T1), booktabs and graphicx."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.records.escape import latex as escape
from benchmarks.report.formats.blocks import Block

HEADER = (
    "% \\usepackage[T1]{fontenc}, \\usepackage{booktabs,graphicx}; in UTF-8. One table environment "
    "a block."
)


def _cell(text: str) -> str:
    """A cell; one that begins a row with a bracket would be read as the last row's spacing."""
    safe = escape(text)
    return f"{{}}{safe}" if safe.startswith(("[", "*")) else safe


LONGEST = 45
"""Rows of one table; longer blocks are continued in another."""


def render(block: Block) -> Iterator[str]:
    """The lines of a block."""
    for start in range(0, max(len(block.rows), 1), LONGEST):
        rest = len(block.rows) - start > LONGEST
        title = block.title + (" (continued)" if start else "")
        rows = block.rows[start : start + LONGEST]
        notes = () if rest else block.notes
        strong = frozenset((r - start, i) for r, i in block.strong)
        yield from _table(Block(title, block.headings, rows, block.left, notes, strong))


def _table(block: Block) -> Iterator[str]:
    spec = "".join("l" if i in block.left else "r" for i in range(len(block.headings)))
    yield r"\begin{table}[htbp]"
    yield r"\centering\small"
    yield rf"\caption{{{escape(block.title)}}}"
    yield r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
    yield rf"\begin{{tabular}}{{{spec}}}"
    yield r"\toprule"
    yield " & ".join(map(_cell, block.headings)) + r" \\"
    yield r"\midrule"
    for r, row in enumerate(block.rows):
        cells = [
            rf"\textbf{{{_cell(c)}}}" if (r, i) in block.strong else _cell(c)
            for i, c in enumerate(row)
        ]
        yield " & ".join(cells) + r" \\"
    yield r"\bottomrule"
    yield r"\end{tabular}}"
    yield from notes(block.notes)
    yield r"\end{table}"
    yield ""


def notes(lines: Sequence[str]) -> Iterator[str]:
    """Notes as paragraphs."""
    for note in lines:
        yield rf"\par\footnotesize {escape(note)}"
