"""The board of a panel: gains with intervals, gaps to the best and search cost, a row each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from benchmarks.leaderboard.contents import sentences
from benchmarks.leaderboard.contents.board import Panel, row_of
from benchmarks.leaderboard.contents.methods import Method
from benchmarks.leaderboard.pictures import lanes
from benchmarks.leaderboard.pictures.lanes import Lane
from benchmarks.leaderboard.pictures.looks import LOOKS, swatch
from benchmarks.records.escape import html as escape
from benchmarks.report.formats.markup import raw_cell
from benchmarks.report.numbers import format as show
from benchmarks.report.numbers.groups import Group
from benchmarks.report.numbers.marks import BEST, signs
from benchmarks.report.numbers.overall import Standing
from benchmarks.report.numbers.rows import Row
from benchmarks.report.pictures.plot import Scale

SHADES = (0.1, 0.25, 0.5, 1.0, 2.0)
"""Upper ends of the gaps (in points) that share a shade; the last shade is what is beyond."""


@dataclass(frozen=True)
class _Sheet:
    """What every row of a board needs."""

    panel: Panel
    methods: Mapping[str, Method]
    lanes: list[Lane | None]
    scale: Scale | None
    root: str


def board_table(panel: Panel, methods: Mapping[str, Method], root: str) -> str:
    """The whole board; ``root`` leads to the site's folder."""
    count = len(panel.groups)
    drawn = [lanes.lane_of(group, n, count) for n, group in enumerate(panel.groups)]
    sheet = _Sheet(panel, methods, drawn, lanes.cost_scale(panel), root)
    rows = "".join(_row(sheet, standing) for standing in panel.standings)
    return (
        f'<table class="sortable score"><thead><tr>{"".join(_heads(sheet))}</tr></thead>'
        f"<tbody>{rows}</tbody></table>{_legend()}"
    )


def _heads(sheet: _Sheet) -> Iterator[str]:
    yield _head("framework", "left name")
    for group, lane in zip(sheet.panel.groups, sheet.lanes, strict=True):
        if lane:
            against = "gain" if lane.against == "uniform" else "to best"
            yield _head(against, "left lane", group.budget, lanes.axis(lane))
    for group in sheet.panel.groups:
        yield _head("gap", "gap", _brief(sheet.panel, group))
    if sheet.scale:
        yield _head("images", "left")


def _brief(panel: Panel, group: Group) -> str:
    """A budget's number, where all budgets of the panel are of one kind."""
    kinds = {g.budget.partition("=")[0] for g in panel.groups}
    return group.budget.partition("=")[2] if len(kinds) == 1 else group.budget


def _head(text: str, classes: str, budget: str = "", below: str = "") -> str:
    named = escape(budget).replace("=", "=<wbr>")
    button = f'<button type="button">{escape(text)}{" " * bool(named)}{named}</button>'
    return f'<th scope="col" class="{classes}">{button}{below}</th>'


def _row(sheet: _Sheet, standing: Standing) -> str:
    method = sheet.methods[standing.name]
    rows = sheet.panel.rows(standing.label)
    sign = "".join(dict.fromkeys("".join(signs(r).lstrip(BEST) for r in rows if r)))
    link = f'<a href="{sheet.root}frameworks/{method.slug}.html">{escape(standing.label)}</a>'
    name = f"{swatch(method.category)}{link}{escape(sign)}{vanished(method.category)}"
    cells = [f'<th scope="row" class="left name" data-v="{escape(standing.label)}">{name}</th>']
    for lane in sheet.lanes:
        if lane:
            cells.append(_lane(lane, row_of(lane.group, standing.label), method))
    cells += [_gap(group, row_of(group, standing.label)) for group in sheet.panel.groups]
    if sheet.scale:
        spent = standing.images
        drawn = lanes.bar(sheet.scale, spent, LOOKS[method.category]) if spent else ""
        time = f"{show.si(spent)} images, {show.seconds(standing.seconds)}" if spent else ""
        cells.append(_titled(drawn, "" if spent is None else spent, "left", time))
    return f'<tr class="{"baseline" * standing.baseline}">{"".join(cells)}</tr>'


def _lane(lane: Lane, row: Row | None, method: Method) -> str:
    if row is None:
        return raw_cell("", "", "left lane")
    found = lane.difference(row)
    drawn = lanes.picture(lane, row, LOOKS[method.category])
    if found is None:
        text = "0" if lane.is_zero(row) else ""
        said = f"{row.label} is what the others are measured against" if text else row.status
    else:
        text, said = show.signed(found.mean).replace("-", "−"), show.difference(found)
        said += f" points, {found.n} seeds" + ", told apart" * found.significant
    value = "" if not text else f"{found.mean:.6g}" if found else 0
    markup = f'{drawn}<span class="value">{text}</span>'
    return _titled(markup, value, "left lane" + " tied" * bool(row.best), said)


def _gap(group: Group, row: Row | None) -> str:
    """How far a row is behind the best of its group, and whether it is told apart."""
    if row is None or row.rank is None or row.accuracy is None:
        word = sentences.missing([row])
        return _titled(escape(word), "", "gap none", row.status if row else "not tried")
    top = group.rows[0]
    found = row.gains.get("best")
    behind = (
        -found.mean if found else (top.accuracy.mean if top.accuracy else 0) - row.accuracy.mean
    )
    text = show.fixed(max(behind, 0.0))
    if row.label == group.verdict.best:
        said, text = "the best", "best"
    elif row.best:
        said, text = "not told apart from the best", f"{text}{BEST}"
    else:
        said = "not judged: too few seeds" if row.best is None else "told apart from the best"
    shade = sum(behind > end for end in SHADES)
    classes = f"gap g{shade}" + " tied" * bool(row.best)
    level = show.fixed(row.accuracy.mean)
    markup = escape(text) + vanished(f" ({said})" * (text != "best"))
    return _titled(markup, f"{behind:.6g}", classes, f"{level} % {group.shows}: {said}")


def _titled(markup: str, value: object, classes: str, title: str) -> str:
    cell = raw_cell(markup, value, classes)
    return cell.replace("<td", f'<td title="{escape(title)}"', 1) if title else cell


def vanished(text: str) -> str:
    """Text for screen readers alone."""
    return f'<span class="vh">{escape(text)}</span>' if text else ""


def _legend() -> str:
    shades = "".join(f'<span class="key g{n}">&le; {end:g}</span>' for n, end in enumerate(SHADES))
    shades += f'<span class="key g{len(SHADES)}">&gt; {SHADES[-1]:g}</span>'
    kinds = "".join(
        f"<span>{swatch(category)}{category}</span>" for category in LOOKS if category != "other"
    )
    return (
        f'<p class="legend-line">{kinds}</p>'
        '<p class="legend-line"><span class="key tied">shaded</span>'
        f"the best, or not told apart from it ({BEST}): the interval of their difference includes "
        f'zero.</p><p class="legend-line">Gap to the best in points: {shades}</p>'
    )
