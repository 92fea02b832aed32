"""The page's pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.records.escape import html as escape
from benchmarks.report.numbers import format as show
from benchmarks.report.numbers.groups import Group
from benchmarks.report.numbers.overall import Overall
from benchmarks.report.numbers.rows import Row, mean
from benchmarks.report.numbers.statistics import PROFILE_LIMIT, pareto_front, profile
from benchmarks.report.pictures import plot
from benchmarks.report.pictures.plot import Axes, Scale, Style, marker, padded, stairs

RINGED = "best, or 'vs best' includes 0"
"""What a ring means: the interval of the difference decides, not those that are drawn."""

Styles = Mapping[str, Style]
Points = list[tuple[float, float]]


def styles(groups: Sequence[Group]) -> dict[str, Style]:
    """A colour and marker for every framework, the same on the whole page."""
    rows = {row.label: row.baseline for group in groups for row in group.rows}
    surveyed = sorted(label for label, baseline in rows.items() if not baseline)
    baselines = sorted(label for label, baseline in rows.items() if baseline)
    found = {label: Style.number(i) for i, label in enumerate(surveyed)}
    return found | {label: Style.baseline(i) for i, label in enumerate(baselines)}


def swatch(style: Style) -> str:
    """A framework's marker for legends and tables."""
    shape = marker(style.marker, 6, 6, 4.4)
    size = 'width="12" height="12" aria-hidden="true"'
    return f'<svg {size} class="swatch {style.colour}">{shape}</svg>'


def lowest_drawn(values: Sequence[float], top: float) -> float:
    """The lowest accuracy to draw in full: one hopeless method must not flatten the others.

    What is more than twice as far from the top as the lower quarter begins is off the scale, and
    pictures put a sign for it at the edge.
    """
    ordered = sorted(values)
    quarter = ordered[min(max(1, len(ordered) // 4), len(ordered) - 1)]
    floor = top - max(2 * (top - quarter), 1.0)
    return min((value for value in ordered if value >= floor), default=floor)


def tick_labels(
    scale: Scale, count: int, show_value: Callable[[float], str]
) -> list[tuple[float, str]]:
    """A scale's ticks with their text."""
    return [(tick, show_value(tick)) for tick in scale.ticks(count)]


def pareto(groups: Sequence[Group], looks: Styles) -> str:
    """Accuracy against cost over the budgets of a panel; empty without a finished cell.

    Markers are means with their intervals, joined by framework; hollow ones are over budget, ringed
    ones the best of their budget and those not told apart from it. The
    stepped line is the Pareto front of what is within budget, the dashed one the float network.
    """
    found = [
        (row, cost, row.accuracy)
        for group in groups
        for row in group.rows
        if row.accuracy and (cost := group.cost(row)) is not None
    ]
    if not found:
        return ""
    float_accuracy = mean(group.float_accuracy for group in groups)
    lows = [a.mean if a.low is None else a.low for _, _, a in found]
    highs = [a.mean if a.high is None else a.high for _, _, a in found]
    top = max([*highs, float_accuracy or 0])
    floor = lowest_drawn(lows, top)
    limits = {group.limit: group.budget for group in groups if group.limit is not None}
    xs = padded([*(cost for _, cost, _ in found), *limits])
    axes = Axes.of((640, 410), xs, padded([floor, top]), (12, 130, 42, 54))
    unit = groups[0].unit
    axes.frame(
        groups[0].metric + (f" ({unit})" if unit and unit != groups[0].metric else ""),
        f"{groups[0].shows} (%)",
        tick_labels(axes.x, 6, show.si),
        tick_labels(axes.y, 6, lambda t: f"{t:g}"),
    )
    for limit, label in limits.items():
        x = axes.x(limit)
        axes.parts.append(plot.line(x, axes.y.start, x, axes.y.end, "limit"))
        axes.parts.append(plot.text(x - 4, axes.y.start - 6, label, "tick", "end"))
    if float_accuracy is not None:
        level = axes.y(float_accuracy)
        axes.parts.append(plot.line(axes.x.start, level, axes.x.end, level, "float"))
        label = f"float {float_accuracy:.2f}"
        axes.parts.append(plot.text(axes.x.start + 4, level - 5, label, "tick"))
    front = pareto_front((cost, a.mean) for row, cost, a in found if row.rank and a.mean >= floor)
    if front:
        corners = stairs([*front, (axes.x.high, front[-1][1])])
        drawn = plot.path([(axes.x(x), axes.y(y)) for x, y in corners])
        axes.parts.append(f'<path d="{drawn}" class="front"><title>Pareto front</title></path>')
    labels = sorted(
        {row.label for row, _, _ in found}, key=lambda x: (looks[x].colour != "base", x)
    )
    last = {x: max((c, a.mean) for row, c, a in found if row.label == x) for x in labels}
    ends = {x: (axes.x(cost), axes.y(max(value, floor))) for x, (cost, value) in last.items()}
    placed = plot.spread([ends[x][1] for x in labels], 13)
    lower = max(0.0, 6 - min(placed))  # the names of many would not fit above the first ones' ends
    heights = {x: y + lower for x, y in zip(labels, placed, strict=True)}
    for label in labels:
        mine = [(row, cost, a) for row, cost, a in found if row.label == label]
        name = _leader(ends[label], (axes.x.end, heights[label]), label)
        axes.parts.append(_series(axes, label, looks[label], mine, floor, name))
    if any(row.best for row, _, _ in found):
        said = plot.text(axes.width - 4, axes.height - 6, f"ring: {RINGED}", "tick", "end")
        axes.parts.append(said)
    first = groups[0]
    title = f"{first.shows.capitalize()} against {first.metric}: {first.title}"
    return axes.render(title, "pareto")


def _leader(start: tuple[float, float], end: tuple[float, float], label: str) -> str:
    """A framework's name beside the plot, with a thin line from its last point."""
    return plot.line(start[0] + 6, start[1], *end, "leader") + plot.text(
        end[0] + 4, end[1] + 4, plot.clipped(label, 20), "label"
    )


def _series(axes: Axes, label: str, look: Style, points: list[Any], floor: float, name: str) -> str:
    """One framework's markers, intervals, the line through them and its name."""
    parts = [name]
    ranked = sorted(
        (axes.x(cost), axes.y(max(a.mean, floor))) for row, cost, a in points if row.rank
    )
    if len(ranked) > 1:
        parts.append(f'<path d="{plot.path(ranked)}" class="join"/>')
    for row, cost, accuracy in points:
        x, y = axes.x(cost), axes.y(max(accuracy.mean, floor))
        below = accuracy.mean < floor
        if accuracy.low is not None and not below:
            ends = axes.y(max(accuracy.low, floor)), axes.y(accuracy.high)
            parts.append(plot.line(x, ends[0], x, ends[1], "whisker"))
        tip = f"{label}: {show.estimate(accuracy)} at {show.si(cost)}{' OVER BUDGET' * row.over}"
        tip += f", {RINGED}" * bool(row.best)
        shape = marker("down" if below else look.marker, x, y, 5)
        state = ' class="over"' if row.over else ""
        shape += plot.ring(x, y, 8) if row.best else ""
        parts.append(f"<g{state}>{shape}<title>{escape(tip)}</title></g>")
        if below:
            parts.append(plot.text(x + 8, y + 4, f"{accuracy.mean:.1f}", "tick"))
    return f'<g class="series {look.colour}" data-f="{escape(label)}">{"".join(parts)}</g>'


def profiles(overall: Overall, looks: Styles) -> str:
    """Dolan-More profiles: share of groups within a ratio of the least test error."""
    drawn = [s for s in overall.standings if s.ratios]
    if not drawn:
        return ""
    finite = [r for s in drawn for r in s.ratios if r <= PROFILE_LIMIT]
    end = min(PROFILE_LIMIT, 1 + 1.25 * max(max(finite, default=2.0) - 1, 0.02))
    axes = Axes.of((440, 300), (1.0, end), (0.0, 1.02))
    axes.frame(
        "test error / least test error of the group",
        "share of groups",
        tick_labels(axes.x, 5, lambda t: f"{t:g}"),
        tick_labels(axes.y, 5, lambda t: f"{t:g}"),
    )
    for standing in sorted(drawn, key=lambda s: not s.baseline):
        steps = sorted({1.0, *(r for r in standing.ratios if r <= end), end})
        corners = stairs([(t, profile(standing.ratios, t)) for t in steps])
        data = plot.path([(axes.x(x), axes.y(y)) for x, y in corners])
        look = looks[standing.label]
        axes.parts.append(
            f'<g class="series {look.colour}" data-f="{escape(standing.label)}">'
            f'<path d="{data}" class="curve"/>{_best(axes, standing.ratios, look)}'
            f"<title>{escape(standing.label)}</title></g>"
        )
    return axes.render(f"Performance profiles under {overall.protocol}", "profile")


def _best(axes: Axes, ratios: Sequence[float], look: Style) -> str:
    """A marker where a profile reaches its full height."""
    last = max((r for r in ratios if r <= axes.x.high), default=1.0)
    return marker(look.marker, axes.x(last), axes.y(profile(ratios, last)), 3.6)


def fronts(row: Row, look: Style) -> list[str]:
    """The Pareto fronts that a search found: each further objective against the first.

    All are to be minimised. The line joins what is not dominated in the two that are drawn.
    """
    found = [r.front for r in row.records if r.front]
    names = list(found[0][0].get("objectives", {})) if found else []
    pictures = []
    for name in names[1:]:
        pairs = [
            [
                (float(p["objectives"][names[0]]), float(p["objectives"][name]))
                for p in front
                if {names[0], name} <= p.get("objectives", {}).keys()
            ]
            for front in found
        ]
        pictures.append(_fronts(row.label, (names[0], name), [p for p in pairs if p], look))
    return pictures


def _fronts(label: str, names: tuple[str, str], found: Sequence[Points], look: Style) -> str:
    points = [p for one in found for p in one]
    axes = Axes.of(
        (270, 190), padded([p[0] for p in points]), padded([p[1] for p in points]), (8, 14, 36, 54)
    )
    axes.frame(*names, tick_labels(axes.x, 4, show.si), tick_labels(axes.y, 4, show.si))
    for one in found:
        best = [(x, -value) for x, value in pareto_front((x, -y) for x, y in one)]
        drawn = plot.path([(axes.x(x), axes.y(y)) for x, y in best])
        shapes = "".join(
            f"<g>{marker(look.marker, axes.x(x), axes.y(y), 2.8)}"
            f"<title>{escape(f'{names[0]} {show.si(x)}, {names[1]} {show.si(y)}')}</title></g>"
            for x, y in one
        )
        axes.parts.append(
            f'<g class="series {look.colour}"><path d="{drawn}" class="join"/>{shapes}</g>'
        )
    return axes.render(f"Pareto fronts of {label}: {names[1]} against {names[0]}", "small")
