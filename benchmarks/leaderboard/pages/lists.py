"""Pages that list: all groups with their winners, all frameworks, how to read the site."""

from __future__ import annotations

from benchmarks.leaderboard.contents import sentences
from benchmarks.leaderboard.contents.board import Board, Panel, row_of
from benchmarks.leaderboard.contents.verification import MEANINGS
from benchmarks.leaderboard.pages.overview import panel_path
from benchmarks.leaderboard.pages.shell import Page, paragraphs
from benchmarks.leaderboard.pictures.looks import swatch
from benchmarks.records.escape import html as escape
from benchmarks.report.formats.blocks import NOTES, OVERALL_NOTES, overall_block
from benchmarks.report.formats.markup import cell, plain, raw_cell, sortable
from benchmarks.report.numbers import format as show
from benchmarks.report.numbers.comparisons import Difference


def groups_page(board: Board) -> Page:
    """Who wins in every panel, then the standings over all groups of each protocol."""
    rows = [_panel_row(board, panel) for panel in board.panels]
    lead = (
        "A group is one model, data set, hardware target and protocol, at one or several budgets. "
        "Only what shares all of these is compared."
    )
    parts = [
        f'<p class="lead">{lead}</p>',
        sortable(_PANEL_HEADS, rows),
        "<h2>Over all groups</h2>",
    ]
    parts += [
        f"<h3>{escape(overall_block(o).title)}</h3>{plain(overall_block(o))}"
        for o in board.table.standings
    ]
    parts.append(paragraphs(OVERALL_NOTES))
    return Page("groups.html", "All groups", "".join(parts), scripts=("page.js",))


_PANEL_HEADS = (
    ("model", "left name"), ("dataset", "left"), ("target", "left"), ("protocol", "left"),
    ("budgets", ""), ("most gain", "left"), ("over uniform", ""), ("frameworks", ""),
    ("best or tied", ""), ("at every budget the best, or not told apart from it", "left"),
)  # fmt: skip


def _panel_row(board: Board, panel: Panel) -> str:
    """Who wins in a panel, by how much, and from how many it is told apart."""
    model, dataset, target, protocol = panel.parts.values()
    ranked = [s for s in panel.standings if s.groups]
    tied = sentences.tied(panel)
    first = ranked[0] if ranked else None
    gain = first.gain if first else None
    if first and len(panel.groups) == 1 and (row := row_of(panel.first, first.label)):
        gain = row.gains.get("uniform")
    said = show.difference(gain) if isinstance(gain, Difference) else show.gain(gain)
    cells = [
        raw_cell(f'<a href="{panel_path(board, panel)}">{escape(model)}</a>', model, "left name"),
        cell(dataset, None, "left"),
        cell(target, None, "left clip"),
        cell(protocol, None, "left clip"),
        cell(str(len(panel.groups))),
        cell(first.label if first else "no result", None, "left"),
        cell(said, f"{gain.mean:.6g}" if gain else ""),
        cell(str(len(ranked))),
        cell(str(len(tied) or ""), len(tied)),
        cell(sentences.named(tied, 4) if tied else "nothing is told", None, "left wrap"),
    ]
    return f"<tr>{''.join(cells)}</tr>"


def frameworks_page(board: Board) -> Page:
    """All frameworks with what their cards say."""
    heads = [("framework", "left name"), ("category", "left"), ("title", "left"), ("year", "")]
    heads += [
        ("searches", "left"),
        ("granularity", "left"),
        ("needs data", "left"),
        ("best in", ""),
    ]
    rows = []
    for method in board.methods.values():
        card = method.card
        found = [row for group in board.groups for row in group.rows if row.name == method.name]
        leads, judged = sum(bool(r.best) for r in found), sum(r.best is not None for r in found)
        link = f'<a href="frameworks/{method.slug}.html">{escape(method.name)}</a>'
        rows.append(
            "<tr>"
            + raw_cell(link, method.name, "left name")
            + raw_cell(f"{swatch(method.category)}{method.category}", method.category, "left")
            + cell(str(card.get("title", "")), None, "left wrap")
            + cell(str(card.get("year") or ""))
            + cell(" + ".join(card.get("searches", ())), None, "left")
            + cell(str(card.get("granularity", "")), None, "left")
            + cell(method.data, None, "left")
            + cell(f"{leads} of {judged}" if judged else "", leads / judged if judged else "")
            + "</tr>"
        )
    lead = "Best in: groups and budgets in which it is the best or not told apart from it."
    body = f'<p class="lead">{lead}</p>{sortable(heads, rows)}'
    return Page("frameworks.html", "Frameworks", body, scripts=("page.js",))


def about_page(board: Board) -> Page:
    """How to read the numbers, and what verification can promise."""
    levels = "".join(f"<dt>{level}</dt><dd>{escape(says)}</dd>" for level, says in MEANINGS.items())
    body = (
        "<h2>Numbers</h2>"
        + paragraphs(NOTES, "")
        + "<h2>Over all groups</h2>"
        + paragraphs(OVERALL_NOTES, "")
        + "<h2>Verification</h2><p>Each row carries the level of its weakest record, and since "
        f"when. <code>juxtabit verify</code> gives it.</p><dl>{levels}</dl>"
    )
    return Page("about.html", "How to read this", body)
