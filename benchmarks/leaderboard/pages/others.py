"""Pages of what papers say, and of the downloads."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.docs import claims
from benchmarks.leaderboard.contents.board import Board
from benchmarks.leaderboard.pages.shell import Page, filled, paragraphs
from benchmarks.records.escape import html as escape
from benchmarks.report.formats.beside import beside_block
from benchmarks.report.formats.blocks import Block
from benchmarks.report.formats.markup import plain
from benchmarks.report.formats.reported import entries, reported_block


def published_page(board: Board) -> Page | None:
    """Published numbers beside measured ones, and claims; None where nothing is published."""
    numbers = board.table.reported
    parts = []
    if board.groups and numbers:
        block = filled(beside_block(board.groups, numbers))
        parts.append(f"<h2>{escape(block.title)}</h2>{plain(block)}{paragraphs(block.notes)}")
    said = [claim for claim in board.claims if claim.framework in board.methods]
    if said:
        rows = [[c.framework, c.side, c.claim, c.source, c.mark] for c in said]
        heads = ["framework", "side", "claim", "source", "mark"]
        table = plain(Block("", heads, rows, frozenset(range(5))), frozenset({2, 3}))
        sides = " and ".join(f"{side}s" for side in claims.SIDES)
        parts.append(f"<h2>Claims</h2><p>{sides.capitalize()}, in our words.</p>{table}")
    if numbers:
        block = reported_block(entries(numbers))
        parts.append(f"<h2>{escape(block.title)}</h2>")
        parts.append(plain(block, frozenset({3, 7})) + paragraphs(block.notes))
    if not parts:
        return None
    return Page("published.html", "As published", "".join(parts), scripts=("page.js",))


def data_page(board: Board, files: Mapping[str, tuple[str, int]]) -> Page:
    """The downloads.

    Args:
        files: what each file is, and its bytes, by its path; 0 bytes if it is not there.
    """
    items = "".join(
        f'<li><a href="{escape(path)}" download>{escape(path.rpartition("/")[2])}</a> '
        f"({size / 1024:.0f} KB): {escape(says)}</li>"
        if size
        else f"<li>{escape(path.rpartition('/')[2])}: {escape(says)}</li>"
        for path, (says, size) in files.items()
    )
    body = (
        "<p>What the pages are made of, to six significant digits. "
        "What was not measured is empty.</p>"
        f"<ul>{items}</ul>"
    )
    return Page("data.html", "Downloads", body)
