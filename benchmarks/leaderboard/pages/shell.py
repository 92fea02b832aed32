"""What all pages share: head, navigation, the switch of light and dark, the foot."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import benchmarks
from benchmarks.leaderboard.contents.board import Board
from benchmarks.records.escape import html as escape
from benchmarks.records.escape import line
from benchmarks.report.formats.blocks import Block

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'"
)
"""Of what a page may load: nothing from elsewhere, and no script that stands in the page."""
NAVIGATION = (
    ("index.html", "Overview"),
    ("groups.html", "All groups"),
    ("table.html", "Table"),
    ("pareto.html", "Pareto"),
    ("frameworks.html", "Frameworks"),
    ("published.html", "Published"),
    ("about.html", "How to read"),
    ("data.html", "Data"),
)


@dataclass(frozen=True)
class Page:
    """A page before it is dressed.

    Attributes:
        path: from the site's folder.
        title: of the window, and the heading unless ``body`` brings its own.
        body: finished markup.
        active: the entry of the navigation that the page belongs to; its own path by default.
        scripts: files under ``assets`` that it needs beside those of all pages.
    """

    path: str
    title: str
    body: str
    active: str = ""
    scripts: Sequence[str] = ()


def dressed(page: Page, board: Board, there: Collection[str]) -> str:
    """The whole document; ``there`` are the paths of all pages."""
    root = "../" * page.path.count("/")
    active = page.active or page.path
    links = "".join(
        f'<li><a href="{root}{path}"{_current(path, active)}>{text}</a></li>'
        for path, text in NAVIGATION
        if path in there
    )
    scripts = "".join(f'<script defer src="{root}assets/{name}"></script>' for name in page.scripts)
    heading = "" if "<h1" in page.body else f"<h1>{escape(page.title)}</h1>"
    title = escape(
        line(page.title if page.title == board.title else f"{page.title} - {board.title}")
    )
    return _lean(f"""<!doctype html>
<html lang="en" data-root="{root}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="generator" content="juxtabit {escape(benchmarks.__version__)}">
<title>{title}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{root}assets/page.css">
<link rel="stylesheet" href="{root}assets/site.css">
<script src="{root}assets/theme.js"></script>
{scripts}
</head>
<body>
<a class="skip" href="#main">Skip to the content</a>
<header class="top"><a class="brand" href="{root}index.html">{escape(line(board.title))}</a>
<nav aria-label="Pages"><ul>{links}</ul></nav>
<button type="button" id="theme" hidden>Theme: auto</button></header>
<main id="main" tabindex="-1">{heading}
{page.body}
</main>
<footer class="foot">Made from records by juxtabit {escape(benchmarks.__version__)}.
{escape(board.table.counts)} <a href="{root}data.html">Downloads</a></footer>
</body>
</html>
""")


_BARE = re.compile(r' ([a-z][a-z0-9-]*)="([A-Za-z0-9_.#+-]+)"(?! ?/)')
_ENDS = re.compile(r"</t[dhr]>")


def _lean(document: str) -> str:
    """A document without quotes, end tags and attributes that HTML does not ask for.

    Tables and pictures have thousands of them. Text is escaped, so that none of it is taken for
    markup here.
    """
    short = document.replace(' class=""', "").replace(' text-anchor="start"', "")
    return _BARE.sub(r" \1=\2", _ENDS.sub("", short))


def _current(path: str, active: str) -> str:
    return ' aria-current="page"' if path == active else ""


def figure(markup: str, sentence: str, classes: str = "", title: str = "") -> str:
    """A picture with its heading and the sentence that says what it shows."""
    if not markup:
        return ""
    head = f"<h2>{escape(title)}</h2>" if title else ""
    says = f"<figcaption>{escape(sentence)}</figcaption>" if sentence else ""
    return (
        f'<figure class="block {classes}">{head}{says}'
        f'<div class="scroll-x" tabindex="0" role="group" aria-label="{escape(title or sentence)}">'
        f"{markup}</div></figure>"
    )


def folded(summary: str, markup: str, unfold: bool = False) -> str:
    """What opens on demand."""
    return f"<details{' open' * unfold}><summary>{escape(summary)}</summary>{markup}</details>"


def paragraphs(notes: Sequence[str], classes: str = "notes") -> str:
    """A paragraph a note, those that are empty left out."""
    return "".join(f'<p class="{classes}">{escape(note)}</p>' for note in notes if note)


def filled(block: Block) -> Block:
    """A block without the columns that say nothing."""
    kept = [i for i in range(len(block.headings)) if any(row[i] for row in block.rows)]
    return replace(
        block,
        headings=[block.headings[i] for i in kept],
        rows=[[row[i] for i in kept] for row in block.rows],
        left=frozenset(n for n, i in enumerate(kept) if i in block.left),
        strong=frozenset((r, kept.index(i)) for r, i in block.strong if i in kept),
    )
