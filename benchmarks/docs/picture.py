"""The README's picture: who wins at which budget, with the intervals that decide it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.docs.measured import MAIN
from benchmarks.records.escape import html as escape
from benchmarks.report.formats.html import alone
from benchmarks.report.numbers import format as show
from benchmarks.report.numbers.groups import Group
from benchmarks.report.numbers.rows import Row
from benchmarks.report.pictures import plot
from benchmarks.report.pictures.figures import lowest_drawn, styles
from benchmarks.report.pictures.plot import Scale, Style, marker, padded
from benchmarks.studies.statements.measures import table

PROTOCOL = "ptq"
NAMES, LANE, STEP, TOP = 112, 150, 21, 46
"""Sizes in pixels: the names, a group, a framework, the headings."""


@dataclass(frozen=True)
class Gap:
    """How far a row is from the best one of its group.

    Attributes:
        mean: the difference, in points; 0 of the best one.
        low, high: the interval by which the two are told apart, or the mean where none was tested.
        tested: whether there is an interval.
    """

    mean: float
    low: float
    high: float
    tested: bool = False


def gaps(group: Group) -> dict[str, Gap]:
    """The rows that have a rank by what is drawn of them.

    A ring is at all whose interval reaches 0, and at no other: both are of the same test.
    """
    best = group.row(group.verdict.best) or group.rows[0]
    top = best.accuracy.mean if best.accuracy else 0.0
    found: dict[str, Gap] = {}
    for row in group.rows:
        if not row.rank or row.accuracy is None:
            continue
        behind = row.gains.get("best")
        if behind is None or behind.low is None or behind.high is None:
            mean = row.accuracy.mean - top
            found[row.label] = Gap(mean, mean, mean)
        else:
            found[row.label] = Gap(behind.mean, behind.low, behind.high, True)
    return found


def picture() -> str:
    """A row a framework, a column a budget: how far it is from the best, with the interval."""
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
    said = (
        "ring: best, or its interval reaches 0; arrow: beyond the lane; dashed: the float network"
    )
    parts.append(plot.text(NAMES, height - 6, said, "tick"))
    what = f"{groups[0].model} on {groups[0].dataset}, no training after the search: test accuracy"
    parts.append(plot.text(NAMES, 14, f"{what} minus the best one's, in points", "title"))
    label = f"Test accuracy of each framework minus the best one's at {len(groups)} budgets"
    return alone(plot.svg(width, height, parts, label, "wins"))


def _lane(group: Group, order: Sequence[str], looks: dict[str, Style], start: float) -> list[str]:
    """One budget: reference lines, then each framework that has a result."""
    found, rows = gaps(group), {row.label: row for row in group.rows if row.rank}
    level = _float_gap(group)
    top = max([*(gap.high for gap in found.values()), level or 0.0])
    low = lowest_drawn([gap.low for gap in found.values()], top)
    scale = Scale(*padded([low, top], 0.06, 0.2), start + 8, start + LANE - 12)
    bottom = TOP + STEP * len(order)
    parts = [plot.text(start + 8, TOP - 14, f"{group.hardware}, {group.budget}", "title")]
    for value in scale.ticks(4):
        parts.append(plot.line(scale(value), TOP - 6, scale(value), bottom, "grid"))
        parts.append(plot.text(scale(value), bottom + 14, f"{value:g}", "tick", "middle"))
    for at, kind in ((0.0, "limit"), (level, "float")):
        if at is not None:
            parts.append(plot.line(scale(at), TOP - 6, scale(at), bottom, kind))
    for n, label in enumerate(order):
        if label in found:
            y = TOP + STEP * n + 10
            parts.append(_mark(rows[label], found[label], looks[label], scale, y))
    return parts


def _float_gap(group: Group) -> float | None:
    """The float network's accuracy minus that of the best row."""
    best = group.row(group.verdict.best) or group.rows[0]
    if group.float_accuracy is None or best.accuracy is None:
        return None
    return group.float_accuracy - best.accuracy.mean


def _mark(row: Row, gap: Gap, look: Style, scale: Scale, y: float) -> str:
    """A framework's difference with its interval, ringed if it is among the best."""
    bits, below = [], gap.mean < scale.low
    x = scale(max(gap.mean, scale.low))
    if gap.tested and gap.high >= scale.low:
        ends = scale(max(gap.low, scale.low)), scale(gap.high)
        bits.append(plot.line(ends[0], y, ends[1], y, "whisker"))
    bits += [plot.ring(x, y, 7)] * bool(row.best)
    arrow = f"M{plot.number(x - 4)} {y}L{plot.number(x + 4)} {y - 5}L{plot.number(x + 4)} {y + 5}Z"
    shape = f'<path d="{arrow}"/>' if below else marker(look.marker, x, y, 4)
    said = show.difference(row.gains.get("best")) or show.signed(gap.mean)
    tip = f"{row.label}: {said} ({show.estimate(row.accuracy)})"
    beyond = plot.text(x + 9, y - 4, f"{gap.mean:.1f}", "tick") if below else ""
    shown = f"{''.join(bits)}{shape}{beyond}<title>{escape(tip)}</title>"
    return f'<g class="series {look.colour}">{shown}</g>'
