"""Pages that JavaScript fills: the table with its filters, and the interactive plots."""

from __future__ import annotations

from benchmarks.leaderboard.contents.board import Board
from benchmarks.leaderboard.contents.methods import CATEGORIES, OTHER
from benchmarks.leaderboard.pages.shell import Page
from benchmarks.leaderboard.pictures.looks import swatch
from benchmarks.records.escape import html as escape

FILTERS = ("category", "model", "dataset", "target", "protocol", "budget", "data", "level")
_SHOWN = {"data": "needs data", "level": "verification"}


def table_page(board: Board) -> Page:
    """All rows, to be sorted and filtered; what is chosen is kept in the address."""
    selects = "".join(
        f'<label>{_SHOWN.get(name, name)}<select data-filter="{name}"><option value="">all</option>'
        "</select></label>"
        for name in FILTERS
    )
    body = (
        '<noscript><p class="alarm">Sorting and filtering need JavaScript; without it, '
        '<a href="groups.html">all groups</a> have their numbers on their own pages, and there are '
        '<a href="data.html">downloads</a>.</p></noscript>'
        f'<form class="filters"><label>framework<input type="search" data-filter="name" '
        f'placeholder="part of a name"></label>{selects}'
        '<label>search cost up to (images)<input type="number" min="0" step="any" '
        'data-filter="images"></label>'
        '<label class="check"><input type="checkbox" data-filter="tied"> only the best and what is '
        'not told apart</label><button type="reset">Clear</button></form>'
        '<p id="count" role="status" aria-live="polite"></p>'
        '<div class="scroll" tabindex="0" role="group" aria-label="All rows"><table id="rows">'
        "<thead></thead><tbody></tbody></table></div>"
        '<p><button type="button" id="more" hidden>Show all</button></p>'
    )
    return Page("table.html", "All rows", body, scripts=("data.js", "table.js"))


def pareto_page(board: Board) -> Page:
    """One plot at a time, whose frameworks can be picked out, filtered and hovered over."""
    checks = "".join(
        f'<label class="check"><input type="checkbox" value="{category}" checked>'
        f"{swatch(category)}{category}</label>"
        for category in (*CATEGORIES, OTHER)
    )
    options = "".join(
        f'<option value="{panel.slug}">{escape(panel.title)}</option>' for panel in board.panels
    )
    body = (
        '<noscript><p class="alarm">This plot needs JavaScript; the pages of '
        '<a href="groups.html">all groups</a> have it as a picture.</p></noscript>'
        f'<form class="filters"><label class="wide">group<select id="panel">{options}</select>'
        '</label><label>across<select id="across"><option value="cost">cost of the policy</option>'
        '<option value="images">search cost (images)</option>'
        '<option value="weight">mean weight bits</option></select></label>'
        '<label>up<select id="up"><option value="accuracy">accuracy</option>'
        '<option value="gain">gain over uniform</option></select></label>'
        '<label class="check"><input type="checkbox" id="whiskers" checked>intervals</label>'
        f'<fieldset id="categories"><legend>Categories</legend>{checks}</fieldset></form>'
        '<div class="explore"><figure class="block"><div id="plot" class="scroll-x" tabindex="0" '
        'role="group" aria-label="Plot"></div>'
        '<figcaption id="says" role="status" aria-live="polite"></figcaption></figure>'
        '<div class="picks"><h2>Frameworks</h2><p class="soft">Pick some out; click a point for '
        'its own.</p><label>find<input type="search" id="find"></label>'
        '<div id="picks"></div></div></div>'
        '<h2>Picked out</h2><div class="scroll" tabindex="0" role="group" aria-label="Picked out">'
        '<table id="picked"><thead></thead><tbody></tbody></table></div>'
    )
    scripts = ("vendor/plot.min.js", "data.js", "pareto.js")
    return Page("pareto.html", "Accuracy against cost", body, scripts=scripts)
