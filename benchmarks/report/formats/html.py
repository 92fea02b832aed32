"""The table as one page: no network, inline style, pictures and script."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path

from benchmarks.records.escape import html as escape
from benchmarks.records.record import digest
from benchmarks.report.formats.beside import beside_block
from benchmarks.report.formats.blocks import (
    NOTES,
    OVERALL_NOTES,
    Block,
    cards_block,
    overall_block,
    panel_parts,
)
from benchmarks.report.formats.markup import anchor, plain
from benchmarks.report.formats.reported import Reported, entries, reported_block
from benchmarks.report.formats.sections import group_section
from benchmarks.report.numbers import format as show
from benchmarks.report.numbers.groups import Group
from benchmarks.report.numbers.marks import BEST
from benchmarks.report.numbers.overall import Overall, Standing
from benchmarks.report.pictures import curves, figures, plot, strips
from benchmarks.report.pictures.figures import Styles

OPEN_GROUPS = 8
"""Up to this many groups their convergence pictures are unfolded."""
LONGEST_NAME = 200
"""Letters of a picture's file; longer ones, and those that are taken, are told by a digest."""

_PARETO = (
    "Mean and 95 % interval. The broad line is the Pareto front of what is within budget; hollow "
    "markers are over budget. A ring marks the best of a budget and all that are not told apart "
    "from it, which the interval of their difference (vs best) decides and not those drawn here."
)
_COSTS = "Search cost, mean over seeds and budgets; logarithmic."
_PROFILE = "Performance profile: higher, and further left, is better."


@lru_cache
def _asset(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _legend(standings: Iterable[Standing], looks: Styles) -> str:
    order = sorted(standings, key=lambda s: (looks[s.label].colour == "base", s.label))
    items = "".join(
        f'<li data-f="{escape(s.label)}">{figures.swatch(looks[s.label])}'
        f"{escape(s.label + BEST * bool(s.best))}</li>"
        for s in order
    )
    return f'<ul class="legend">{items}</ul>'


def _figure(picture: str, caption: str, classes: str = "linked") -> str:
    """A picture whose series light up together under the pointer."""
    return f'<figure class="{classes}">{picture}<figcaption>{escape(caption)}</figcaption></figure>'


def pictures(groups: Sequence[Group]) -> dict[str, str]:
    """The accuracy-cost and the learning pictures as SVG files of their own, by their names."""
    looks = figures.styles(groups)
    found: dict[str, str] = {}
    for _, members in groupby(groups, key=lambda g: g.panel):
        panel = list(members)
        if picture := figures.pareto(panel, looks):
            found[_file_name("pareto", panel[0].panel, found)] = alone(picture)
    for group in groups:
        if picture := curves.sheet(group, looks):
            parts = (*group.panel, group.budget)
            found[_file_name("learning", parts, found)] = alone(picture)
    return found


def _file_name(kind: str, parts: tuple[str, ...], taken: Container[str]) -> str:
    name = f"{kind}-{anchor(*parts)}"
    if len(name) > LONGEST_NAME or name in taken:
        return f"{name[:LONGEST_NAME]}-{digest(parts)[:6]}"
    return name


def alone(picture: str) -> str:
    """A picture of the page as a file of its own."""
    look = "svg { background: var(--bg); font-family: sans-serif; }"
    opening, inside = plot.namespaced(picture).split(">", 1)
    return f"{opening}><style>{_asset('page.css')} {look}</style>{inside}\n"


def _panel(groups: Sequence[Group], looks: Styles, unfold: bool) -> Iterator[str]:
    first = groups[0]
    title = " | ".join(panel_parts(first.panel)[1:]) + f" ({first.kind})" * bool(first.kind)
    yield f'<h3 id="{anchor(*first.panel)}">{escape(title)}</h3>'
    picture = figures.pareto(groups, looks)
    if picture:
        yield (
            '<div class="pictures">'
            + _figure(picture, _PARETO)
            + _figure(strips.costs(groups, looks), _COSTS)
            + "</div>"
        )
    for group in groups:
        yield from group_section(group, looks, unfold)


def _overall(standing: Overall, looks: Styles) -> Iterator[str]:
    yield f"<h3>{escape(overall_block(standing).title)}</h3>"
    yield f'<div class="pictures"><div>{plain(overall_block(standing))}</div>'
    picture = figures.profiles(standing, looks)
    if picture:
        drawn = [s for s in standing.standings if s.ratios]
        yield _figure(picture + _legend(drawn, looks), _PROFILE, "linked narrow")
    yield "</div>"


def _beside(groups: Sequence[Group], numbers: Sequence[Reported]) -> Iterator[str]:
    if groups and numbers:
        block = beside_block(groups, numbers)
        yield f'<h3 id="beside">{escape(block.title)}</h3>{plain(block)}{_notes(block.notes)}'


def _faults(groups: Sequence[Group]) -> Iterator[str]:
    rows = [(group, row) for group in groups for row in group.rows]
    failed = [(g, row, r) for g, row in rows for r in row.failed]
    skipped = [(g, row, r) for g, row in rows for r in row.skipped]
    if not failed and not skipped:
        return
    yield '<h2 id="faults">Failed and skipped cells</h2>'
    for group, row, record in failed:
        title = f"{row.label} | {group.title} | seed {record.cell.get('seed', 0)}"
        yield (
            f'<details><summary><span class="alarm">failed</span> {escape(title)}: '
            f"{escape(show.last_line(record.error))}</summary>"
            f"<pre>{escape(record.error or 'no traceback')}</pre></details>"
        )
    if skipped:
        rows_text = [
            [row.label, g.title, str(r.cell.get("seed", 0)), r.reason or "no reason given"]
            for g, row, r in skipped
        ]
        heads = ["framework", "group", "seed", "reason"]
        yield plain(Block("", heads, rows_text, frozenset({0, 1, 3})), frozenset({3}))


def _notes(lines: Iterable[str]) -> str:
    return "".join(f'<p class="notes">{escape(line)}</p>' for line in lines)


def _navigation(panels: Sequence[Sequence[Group]], links: Sequence[tuple[str, str]]) -> str:
    items = [f'<li><a href="#{target}">{escape(text)}</a></li>' for target, text in links[:1]]
    for groups in panels:
        first = groups[0]
        text = " | ".join(panel_parts(first.panel))
        items.append(f'<li><a href="#{anchor(*first.panel)}">{escape(text)}</a></li>')
    items += [f'<li><a href="#{target}">{escape(text)}</a></li>' for target, text in links[1:]]
    return f"<nav><ul>{''.join(items)}</ul></nav>"


def _measured(panels: Sequence[Sequence[Group]], looks: Styles, unfold: bool) -> Iterator[str]:
    for protocol, members in groupby(panels, key=lambda groups: groups[0].protocol):
        yield f'<h2 id="{anchor("protocol", protocol)}">Protocol {escape(protocol)}</h2>'
        for groups in members:
            yield from _panel(groups, looks, unfold)


def render(
    title: str,
    counts: str,
    groups: Sequence[Group],
    standings: Sequence[Overall],
    numbers: Sequence[Reported],
) -> str:
    """The whole page."""
    looks = figures.styles(groups)
    panels = [list(members) for _, members in groupby(groups, key=lambda g: g.panel)]
    has_faults = any(row.failed or row.skipped for group in groups for row in group.rows)
    links = [("overall", "overall")]
    links += [("faults", "failed and skipped")] * has_faults
    links += [("frameworks", "frameworks")]
    links += [("published", "as published")] * bool(numbers)
    alarm = ' class="alarm"' if "OVER BUDGET" in counts or has_faults else ""
    body = [
        f"<header><h1>{escape(title)}</h1><p{alarm}>{escape(counts)}</p></header>",
        _navigation(panels, links),
        "<main>",
        '<h2 id="overall">Overall, as measured here</h2>',
        *(part for standing in standings for part in _overall(standing, looks)),
        _notes(OVERALL_NOTES),
        *_beside(groups, numbers),
        *_measured(panels, looks, len(groups) <= OPEN_GROUPS),
        _notes(NOTES),
        *_faults(groups),
        f'<h2 id="frameworks">Frameworks</h2>{plain(cards_block(groups))}',
    ]
    if numbers:
        block = reported_block(entries(numbers))
        body.append(f'<h2 id="published">{escape(block.title)}</h2>')
        body.append(plain(block, frozenset({3, 7})) + _notes(block.notes))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title>"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_asset('page.css')}</style></head>\n<body>{chr(10).join(body)}</main>"
        f"<footer></footer><script>{_asset('page.js')}</script></body></html>\n"
    )
