"""The page of one framework: what it is, how it works, and all that it reached here."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

from benchmarks.docs import claims
from benchmarks.leaderboard.contents.board import Board, Panel
from benchmarks.leaderboard.contents.methods import Method
from benchmarks.leaderboard.contents.verification import together
from benchmarks.leaderboard.pages.overview import panel_path
from benchmarks.leaderboard.pages.prose import prose
from benchmarks.leaderboard.pages.shell import Page, filled, folded, paragraphs
from benchmarks.leaderboard.pictures.bits import axes, bars
from benchmarks.leaderboard.pictures.looks import LOOKS, swatch
from benchmarks.records.escape import html as escape
from benchmarks.report.formats.beside import beside_block
from benchmarks.report.formats.markup import cell, plain, raw_cell, sortable
from benchmarks.report.formats.reported import entries, reported_block
from benchmarks.report.numbers import format as show
from benchmarks.report.numbers.groups import Group
from benchmarks.report.numbers.marks import footnotes, signs
from benchmarks.report.numbers.rows import Row
from benchmarks.report.numbers.statistics import Estimate
from benchmarks.report.pictures import convergence

RIVALS = ("uniform", "best")
OPEN_PANELS = 4
"""Up to so many groups have their pictures unfolded."""
SEARCHES = 4
"""So many groups, those of most frameworks first, show how each search converged; the others do so
on their own pages, by category."""


def framework_page(board: Board, method: Method) -> Page:
    """The page of a framework."""
    parts = [
        f"<h1>{swatch(method.category)} {escape(method.name)}</h1>",
        *_card(method),
        *_measured(board, method),
        *_published(board, method),
    ]
    path = f"frameworks/{method.slug}.html"
    return Page(path, method.name, "".join(parts), "frameworks.html", ("page.js",))


def _card(method: Method) -> Iterator[str]:
    card = method.card
    if title := str(card.get("title", "")):
        arxiv = str(card.get("arxiv", ""))
        address = f"https://arxiv.org/abs/{escape(arxiv)}"
        link = f' (<a href="{address}" rel="noopener">arXiv {escape(arxiv)}</a>)' if arxiv else ""
        yield f'<p class="lead"><strong>{escape(title)}</strong>{link}</p>'
    rows = "".join(f"<dt>{escape(n)}</dt><dd>{escape(v)}</dd>" for n, v in method.facts)
    yield f'<dl class="card-facts">{rows}</dl>'
    missing = "It is not installed where this page was made, so that its card alone is known."
    yield f"<h2>How it works</h2><p>{escape(method.summary or missing)}</p>"
    if method.text:
        yield f'<div class="method">{prose(method.text)}</div>'
    if deviations := card.get("deviations"):
        known = method.category != "baseline"
        yield f"<h2>{'Where this differs from the paper' if known else 'Notes'}</h2><ul>"
        yield "".join(f"<li>{escape(text)}</li>" for text in deviations)
        yield "</ul>"


def _measured(board: Board, method: Method) -> Iterator[str]:
    found = [
        (panel, group, row)
        for panel in board.panels
        for group in panel.groups
        for row in group.rows
        if row.name == method.name
    ]
    yield f'<h2>As measured here</h2><p><a href="../table.html#name={quote(method.name)}">'
    yield "These rows in the table</a></p>"
    yield sortable(_HEADS, (_line(board, *entry) for entry in found))
    yield paragraphs(list(dict.fromkeys(footnotes([row for *_, row in found]))))
    panels = dict.fromkeys(id(panel) for panel, *_ in found)
    few = len(panels) <= OPEN_PANELS
    yield "<p>Of each policy: weight bits (bars) and activation bits (ticks), mean over seeds.</p>"
    yield axes()
    shown = sorted(board.panels, key=lambda p: -sum(len(g.rows) for g in p.groups))[:SEARCHES]
    for panel in board.panels:
        mine = [(group, row) for p, group, row in found if p is panel]
        drawn = (c for group, row in mine for c in _pictures(group, row, method, panel in shown))
        if cards := "".join(drawn):
            unfold = few or panel is board.default
            names = f'<a href="../{panel_path(board, panel)}">The names of the layers</a>'
            yield folded(panel.title, f'<div class="grid">{cards}</div>{names}', unfold)


_HEADS = (
    ("model", "left name"), ("dataset", "left"), ("target", "left"), ("protocol", "left"),
    ("budget", "left"), ("framework", "left"), ("#", ""), ("accuracy", ""), ("by seed", "left"),
    ("vs uniform", ""), ("vs best", ""), ("of budget", ""), ("W bits", ""), ("A bits", ""),
    ("policies", ""), ("images", ""), ("time", ""), ("status", "left"), ("verified", "left"),
)  # fmt: skip


def _line(board: Board, panel: Panel, group: Group, row: Row) -> str:
    parts = panel.parts
    link = f'<a href="../{panel_path(board, panel)}">{escape(parts["model"])}</a>'
    seeds = ", ".join(f"{c.seed}: {show.fixed(c.record.accuracy.get('final'))}" for c in row.cells)
    seconds, share = row.mean("search", "seconds"), group.share(row)
    cells = [
        raw_cell(link, None, "left name"),
        cell(parts["dataset"], None, "left"),
        cell(parts["target"], None, "left clip"),
        cell(parts["protocol"], None, "left clip"),
        cell(group.budget, None, "left"),
        cell(row.label + signs(row), None, "left"),
        cell(str(row.rank or "")),
        cell(show.estimate(row.accuracy), _key(row.accuracy), "best" * bool(row.best)),
        cell(seeds, None, "left"),
        *(cell(show.difference(row.gains.get(a)), _key(row.gains.get(a))) for a in RIVALS),
        cell(show.percent(share), f"{share:.4g}" if share else "", "alarm" * row.over),
        *(cell(show.fixed(row.mean("bits", kind))) for kind in ("weight", "act")),
        *(_spent(value) for value in (row.mean("search", "policies"), row.images)),
        cell(show.seconds(seconds), "" if seconds is None else f"{seconds:.4g}"),
        cell(row.status, None, "left"),
        cell(together(row.records, board.levels).text, None, "left"),
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _key(found: Estimate | None) -> str:
    """What an estimate is sorted by."""
    return f"{found.mean:.6g}" if found else ""


def _spent(value: float | None) -> str:
    return cell(show.si(value), "" if value is None else f"{value:.4g}")


def _pictures(group: Group, row: Row, method: Method, searches: bool) -> Iterator[str]:
    """A policy as bars, and the search beside random's."""
    name = f"{group.budget}, {row.label}" if row.label != row.name else group.budget
    if drawn := bars(row, group.budget):
        yield f'<figure class="card"><figcaption>{escape(name)}</figcaption>{drawn}</figure>'
    if not searches or row.name in ("random", "uniform"):
        return
    looks = {row.label: LOOKS[method.category]}
    if row.random is not None:
        looks[row.random.label] = LOOKS["baseline"]
    if drawn := convergence.picture(row, looks):
        rival = f"; {row.random.label} dashed" if row.random else ""
        caption = escape(f"{name}: best objective so far{rival}")
        yield f'<figure class="card"><figcaption>{caption}</figcaption>{drawn}</figure>'


def _published(board: Board, method: Method) -> Iterator[str]:
    for side in claims.SIDES:
        if said := claims.of(board.claims, method.name, side):
            yield f"<h2>{side.capitalize()}s, as published</h2><ul>"
            yield "".join(f"<li>{escape(claim.cited)}</li>" for claim in said) + "</ul>"
    numbers = [n for n in board.table.reported if n.framework == method.name]
    if not numbers:
        return
    beside = beside_block(board.groups, numbers)
    if beside.rows:
        yield f"<h2>{escape(beside.title)}</h2>{plain(filled(beside))}{paragraphs(beside.notes)}"
    block = reported_block(entries(numbers))
    yield "<h2>Published numbers</h2><p>Of other networks, data and trainings than ours.</p>"
    yield plain(block, frozenset({3})) + paragraphs(block.notes)
