"""The first page, and one like it for every panel: who wins, where, by how much, at what cost."""

from __future__ import annotations

from benchmarks.leaderboard.contents import sentences
from benchmarks.leaderboard.contents.board import Board, Panel
from benchmarks.leaderboard.contents.verification import together
from benchmarks.leaderboard.pages.score import board_table
from benchmarks.leaderboard.pages.shell import Page, figure, folded, paragraphs
from benchmarks.leaderboard.pictures import bits, convergence, pareto
from benchmarks.leaderboard.pictures.looks import swatch
from benchmarks.records.escape import html as escape
from benchmarks.report.formats.blocks import BRIEF, group_block
from benchmarks.report.formats.markup import plain
from benchmarks.report.numbers.groups import Group

NONE = "There are no records yet: <code>juxtabit run +suite=quick</code> makes some."


def panel_path(board: Board, panel: Panel) -> str:
    """Where a panel's page is."""
    return "index.html" if panel is board.default else f"groups/{panel.slug}.html"


def overviews(board: Board) -> list[Page]:
    """The pages of all panels; without records one that says so."""
    if not board.panels:
        return [Page("index.html", board.title, f"<p>{NONE}</p>")]
    return [_page(board, panel) for panel in board.panels]


def _page(board: Board, panel: Panel) -> Page:
    path = panel_path(board, panel)
    root = "../" * path.count("/")
    score = figure(
        board_table(panel, board.methods, root),
        f"{sentences.cost(panel)} {sentences.gaps(panel)}".strip(),
        "score-block",
        "Gain over uniform bits, gap to the best, search cost",
    )
    explore = f'<a href="{root}pareto.html#panel={panel.slug}">Explore this plot</a>'
    front = figure(
        pareto.picture(panel, board.methods),
        sentences.pareto(panel),
        "front-block",
        f"{panel.first.shows.capitalize()} against {panel.first.metric}",
    )
    front += f'<p class="more">{explore}</p>' if front else ""
    body = (
        f"{_chooser(board, panel)}<h1>{escape(panel.title)}</h1>"
        f'<p class="lead">{escape(sentences.wins(panel))}</p>'
        f'<div class="first">{score}<div class="side">{front}</div></div>'
        f'<div class="second"><div>{"".join(_strips(panel))}</div>'
        f"<div>{''.join(_searches(board, panel))}</div></div>{''.join(_numbers(board, panel))}"
    )
    title = board.title if panel is board.default else panel.title
    return Page(path, title, body, "index.html", ("page.js", "data.js", "chooser.js"))


def _chooser(board: Board, panel: Panel) -> str:
    """Selects for model, data set, target and protocol, which a script fills; a link without."""
    selects = "".join(
        f'<label>{axis}<select data-axis="{axis}" disabled>'
        f"<option>{escape(value)}</option></select></label>"
        for axis, value in panel.parts.items()
    )
    root = "../" * panel_path(board, panel).count("/")
    return (
        f'<form class="chooser" data-panel="{panel.slug}">{selects}'
        f'<a href="{root}groups.html">{_count(len(board.panels))}</a></form>'
    )


def _count(groups: int) -> str:
    return f"All {groups} groups" if groups > 1 else "The only group"


def _strips(panel: Panel) -> list[str]:
    """Bits by layer at the tightest budget, then, folded, at the others."""
    drawn = [(group, bits.strips(group)) for group in reversed(panel.groups)]
    drawn = [(group, picture) for group, picture in drawn if picture]
    if not drawn:
        return []
    title = f"Bits of each layer at {drawn[0][0].budget}"
    found = [figure(drawn[0][1], sentences.bits(drawn[0][0]), "", title)]
    names = next(r.policy for row in drawn[0][0].rows for r in row.records if r.policy)
    layers = paragraphs([f"{', '.join(names)}."])
    found.append(folded(f"The {len(names)} layers; bits are means over seeds, rounded", layers))
    for group, picture in drawn[1:]:
        inner = figure(picture, sentences.bits(group))
        found.append(folded(f"Bits of each layer at {group.budget}", inner))
    return found


def _searches(board: Board, panel: Panel) -> list[str]:
    """Convergence at the tightest budget that has curves."""
    for group in reversed(panel.groups):
        drawn = convergence.pictures(group, board.methods)
        if drawn:
            cards = "".join(
                f'<div class="card"><h3>{swatch(category)}{category}</h3>{picture}</div>'
                for category, picture in drawn
            )
            title = f"The searches at {group.budget}: best objective so far against images"
            return [
                figure(f'<div class="grid">{cards}</div>', sentences.convergence(group), "", title)
            ]
    return []


def _numbers(board: Board, panel: Panel) -> list[str]:
    """All numbers of each budget as a table, with the notes and what has no result."""
    found = ["<h2>All numbers</h2>"]
    for group in panel.groups:
        block = group_block(group, BRIEF)
        inner = plain(block) + paragraphs([*block.notes, _verified(board, group)])
        bound = f": {group.bound}" if group.bound else ""
        found.append(folded(f"{group.budget}{bound}", inner))
    return found


def _verified(board: Board, group: Group) -> str:
    texts = {row.label: together(row.records, board.levels).text for row in group.rows if row.cells}
    said = "; ".join(
        f"{text}: {', '.join(label for label, of in texts.items() if of == text)}"
        for text in dict.fromkeys(texts.values())
    )
    return f"Verification: {said}." if said else ""
