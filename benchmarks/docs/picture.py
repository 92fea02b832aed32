"""The README's picture: who wins at which budget, with intervals."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.docs.measured import MAIN
from benchmarks.records.escape import html as escape
from benchmarks.report.formats.html import alone
from benchmarks.report.numbers.groups import Group
from benchmarks.report.numbers.rows import Row
from benchmarks.report.pictures import plot
from benchmarks.report.pictures.figures import RINGED, lowest_drawn, styles
from benchmarks.report.pictures.plot import Scale, Style, marker, padded
from benchmarks.studies.statements.measures import table

PROTOCOL = "ptq"
NAMES, LANE, STEP, TOP = 112, 150, 21, 46
"""Sizes in pixels: the names, a group, a framework, the headings."""


def picture() -> str:
    """A row a framework, a column a budget: mean test accuracy with its interval."""
    found = table(f"results/{MAIN}")
    groups = [group for group in found.groups if group.protocol_name == PROTOCOL]
    standings = next(o.standings for o in found.standings if o.protocol == PROTOCOL)
    order, looks = [s.label for s in standings], styles(groups)
    height = TOP + STEP * len(order) + 44
    parts = [
        plot.text(NAMES - 8, TOP + STEP * n + 14, label, "name", "end")
        for n, label in enumerate(order)
    ]
    for place, group in enumerate(groups):
        parts += _lane(group, order, looks, NAMES + LANE * place)
    width = NAMES + LANE * len(groups) + 6
    said = f"ring: {RINGED}; dotted line: uniform bits; dashed line: the float network"
    parts.append(plot.text(NAMES, height - 6, said, "tick"))
    what = (
        f"{groups[0].model} on {groups[0].dataset}, no training after the search: test accuracy (%)"
    )
    parts.append(plot.text(NAMES, 14, f"{what}; mean and 95 % interval over the seeds", "title"))
    label = f"Test accuracy of each framework at {len(groups)} budgets"
    return alone(plot.svg(width, height, parts, label, "wins"))


def _lane(group: Group, order: Sequence[str], looks: dict[str, Style], start: float) -> list[str]:
    """One budget: reference lines, then each framework that has a result."""
    rows = {row.label: row for row in group.rows if row.rank and row.accuracy}
    means = {label: row.accuracy for label, row in rows.items() if row.accuracy}
    lows = [a.mean if a.low is None else a.low for a in means.values()]
    highs = [a.mean if a.high is None else a.high for a in means.values()]
    top = max([*highs, group.float_accuracy or 0])
    scale = Scale(*padded([lowest_drawn(lows, top), top], 0.06, 0.2), start + 8, start + LANE - 12)
    bottom = TOP + STEP * len(order)
    parts = [plot.text(start + 8, TOP - 14, f"{group.hardware}, {group.budget}", "title")]
    for value in scale.ticks(3):
        parts.append(plot.line(scale(value), TOP - 6, scale(value), bottom, "grid"))
        parts.append(plot.text(scale(value), bottom + 14, f"{value:g}", "tick", "middle"))
    uniform = next((a.mean for label, a in means.items() if label == "uniform"), None)
    for level, kind in ((uniform, "limit"), (group.float_accuracy, "float")):
        if level is not None and level >= scale.low:
            parts.append(plot.line(scale(level), TOP - 6, scale(level), bottom, kind))
    for n, label in enumerate(order):
        if label in rows:
            parts.append(_mark(rows[label], looks[label], scale, TOP + STEP * n + 10))
    return parts


def _mark(row: Row, look: Style, scale: Scale, y: float) -> str:
    """A framework's mean with its interval, ringed if it is among the best."""
    assert row.accuracy is not None
    a, bits = row.accuracy, []
    x = scale(max(a.mean, scale.low))
    if a.low is not None and a.high is not None:
        ends = scale(max(a.low, scale.low)), scale(max(a.high, scale.low))
        bits.append(plot.line(ends[0], y, ends[1], y, "whisker"))
    bits += [plot.ring(x, y, 7)] * bool(row.best)
    arrow = f"M{plot.number(x - 4)} {y}L{plot.number(x + 4)} {y - 5}L{plot.number(x + 4)} {y + 5}Z"
    shape = f'<path d="{arrow}"/>' if a.mean < scale.low else marker(look.marker, x, y, 4)
    tip = f"<title>{escape(f'{row.label}: {a.mean:.2f}')}</title>"
    beyond = plot.text(x + 9, y + 4, f"{a.mean:.1f}", "tick") if a.mean < scale.low else ""
    return f'<g class="series {look.colour}">{"".join(bits)}{shape}{beyond}{tip}</g>'
