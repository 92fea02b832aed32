"""Accuracy against cost: one colour and one front a category, names on the common front."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.leaderboard.contents.board import Panel
from benchmarks.leaderboard.contents.methods import Method
from benchmarks.leaderboard.pictures.looks import LOOKS
from benchmarks.records.escape import html as escape
from benchmarks.report.numbers import format as show
from benchmarks.report.numbers.statistics import Estimate, pareto_front
from benchmarks.report.pictures import plot
from benchmarks.report.pictures.figures import lowest_drawn, tick_labels
from benchmarks.report.pictures.plot import Axes, marker, padded, stairs

SIZE, MARGINS = (440.0, 350.0), (12.0, 108.0, 42.0, 48.0)
MOST_NAMED = 12


@dataclass(frozen=True)
class Point:
    """One row of a panel."""

    label: str
    category: str
    budget: str
    cost: float
    accuracy: Estimate
    within: bool


def points(panel: Panel, methods: Mapping[str, Method]) -> list[Point]:
    """The rows of a panel that have an accuracy and a cost."""
    return [
        Point(row.label, methods[row.name].category, group.budget, cost, row.accuracy, not row.over)
        for group in panel.groups
        for row in group.rows
        if row.accuracy and (cost := group.cost(row)) is not None
    ]


def picture(panel: Panel, methods: Mapping[str, Method]) -> str:
    """The picture of a panel; empty without a point."""
    found = points(panel, methods)
    if not found:
        return ""
    first, level = panel.first, panel.first.float_accuracy
    top = max([p.accuracy.mean for p in found] + [level or 0])
    floor = lowest_drawn([p.accuracy.mean for p in found], top)
    costs = [p.cost for p in found]
    axes = Axes.of(SIZE, padded(costs, 0.08, max(costs) * 0.02), padded([floor, top]), MARGINS)
    unit = f" ({first.unit})" if first.unit and first.unit != first.metric else ""
    axes.frame(
        f"{first.metric}{unit}",
        f"{first.shows} (%)",
        tick_labels(axes.x, 4, show.si),
        tick_labels(axes.y, 6, lambda t: f"{t:g}"),
    )
    if level is not None:
        axes.parts.append(
            plot.line(axes.x.start, axes.y(level), axes.x.end, axes.y(level), "float")
        )
        axes.parts.append(
            plot.text(axes.x.start + 4, axes.y(level) + 13, f"float {level:.2f}", "tick")
        )
    for category, members in _by_category(found).items():
        axes.parts.append(_series(axes, category, members, floor))
    axes.parts += _names(axes, found, floor)
    return axes.render(f"{first.shows.capitalize()} against {first.metric}: {panel.title}", "wide")


def _mean(point: Point) -> float:
    return point.accuracy.mean


def _by_category(found: Sequence[Point]) -> dict[str, list[Point]]:
    """Points by category, baselines first, so that others are drawn over them."""
    members: dict[str, list[Point]] = defaultdict(list)
    for point in found:
        members[point.category].append(point)
    return dict(sorted(members.items(), key=lambda item: item[0] != "baseline"))


def _series(axes: Axes, category: str, members: Sequence[Point], floor: float) -> str:
    """A category's points, and the steps of its own front."""
    look = LOOKS[category]
    within = [(p.cost, p.accuracy.mean) for p in members if p.within and p.accuracy.mean >= floor]
    parts = []
    if front := pareto_front(within):
        corners = stairs([*front, (axes.x.high, front[-1][1])])
        drawn = plot.path([(axes.x(x), axes.y(y)) for x, y in corners])
        parts.append(f'<path d="{drawn}" class="own-front"/>')
    for p in members:
        x, y = axes.x(p.cost), axes.y(max(p.accuracy.mean, floor))
        said = f"{p.label}, {p.budget}: {show.estimate(p.accuracy)} at {show.si(p.cost)}"
        over = "" if p.within else ' class="over"'
        below = p.accuracy.mean < floor
        shape = f'<path d="M{plot.number(x - 4)} {plot.number(y - 7)}h8l-4 7Z"/>'
        drawn = shape if below else marker(look.marker, x, y, 3.6)
        parts.append(f"<g{over}>{drawn}<title>{escape(said)}</title></g>")
    return f'<g class="series {look.colour}">{"".join(parts)}</g>'


def _names(axes: Axes, found: Sequence[Point], floor: float) -> list[str]:
    """Names of who is on the common front, beside the plot, each with a line to its best point."""
    kept = [p for p in found if p.within and p.accuracy.mean >= floor]
    front = pareto_front((p.cost, p.accuracy.mean) for p in kept)[-MOST_NAMED:]
    best = {p.label: p for p in sorted(kept, key=_mean) if (p.cost, p.accuracy.mean) in front}
    makers = sorted(best.values(), key=_mean)
    ends = [(axes.x(p.cost), axes.y(p.accuracy.mean)) for p in makers]
    heights = plot.spread([y for _, y in ends], 13)
    lower = max(0.0, 8 - min(heights, default=8))
    parts = []
    for p, (x, y), height in zip(makers, ends, heights, strict=True):
        at = height + lower
        name = plot.text(axes.x.end + 6, at + 4, plot.clipped(p.label, 14), "label")
        leader = plot.line(x + 5, y, axes.x.end + 3, at, "leader")
        parts.append(f'<g class="series {LOOKS[p.category].colour}">{leader}{name}</g>')
    return parts
