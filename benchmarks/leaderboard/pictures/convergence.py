"""Convergence by category: the best objective so far against images, random search in grey."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from benchmarks.leaderboard.contents.methods import Method
from benchmarks.leaderboard.pictures.looks import LOOKS
from benchmarks.records.escape import html as escape
from benchmarks.report.numbers import format as show
from benchmarks.report.numbers.groups import Group
from benchmarks.report.numbers.marks import BEST
from benchmarks.report.pictures import plot
from benchmarks.report.pictures.convergence import mean_curve
from benchmarks.report.pictures.figures import Points, lowest_drawn, tick_labels
from benchmarks.report.pictures.plot import Axes, marker, padded, stairs

MOST_STEPS = 24
_FRAME = '<use href="#frame"/>'
SIZE, MARGINS = (318.0, 196.0), (8.0, 98.0, 36.0, 52.0)


def _thin(points: Points) -> Points:
    """At most `MOST_STEPS` of a curve's points, the first and the last among them."""
    if len(points) <= MOST_STEPS:
        return points
    kept = {round(i * (len(points) - 1) / (MOST_STEPS - 1)) for i in range(MOST_STEPS)}
    return [points[i] for i in sorted(kept)]


def pictures(group: Group, methods: Mapping[str, Method]) -> list[tuple[str, str]]:
    """A category and its picture each; all have the same axes, and random search in them."""
    curves: dict[str, dict[str, Points]] = defaultdict(dict)
    for row in group.rows:
        found = _thin(mean_curve(row, "images")) if row.rank else []
        if found:
            label = row.label + BEST * bool(row.best)
            curves[methods[row.name].category][label] = [(max(x, 1.0), y) for x, y in found]
    rivals = {k: v for k, v in curves.get("baseline", {}).items() if k.startswith("random")}
    rival = dict(sorted(rivals.items())[:1])
    every = [p for of in curves.values() for points in of.values() for p in points]
    if not every:
        return []
    xs, ends = [x for x, _ in every], [v[-1][1] for of in curves.values() for v in of.values()]
    floor = lowest_drawn(ends, max(ends))
    spanned = (min(xs) / 1.3, max(xs) * 1.3), padded([floor, max(ends)], 0.1, 0.5)
    order = [category for category in LOOKS if category in curves]
    frame = Axes.of(SIZE, *spanned, MARGINS, True)
    frame.frame(
        "images",
        "objective (%)",
        tick_labels(frame.x, 4, show.si),
        tick_labels(frame.y, 4, lambda t: f"{t:g}"),
    )
    # All have the same frame, which stands in the first one.
    first = f'<g id="frame">{"".join(frame.parts)}</g>'
    drawn: list[tuple[str, str]] = []
    for category in order:
        axes = replace(frame, parts=[_FRAME if drawn else first])
        drawn.append((category, _picture(category, {**rival, **curves[category]}, rival, axes)))
    return drawn


def _picture(
    category: str,
    curves: Mapping[str, Points],
    rival: Mapping[str, Points],
    axes: Axes,
) -> str:
    low = axes.y.low
    ends = [axes.y(max(points[-1][1], low)) for points in curves.values()]
    heights = _within(plot.spread(ends, 12), axes)
    for (label, points), end, height in zip(curves.items(), ends, heights, strict=True):
        look = LOOKS["baseline" if label in rival else category]
        corners = stairs([(axes.x(x), axes.y(max(y, low))) for x, y in points])
        steps = f'<path d="{plot.path(corners)}" class="curve"/>' if len(points) > 1 else ""
        leader = plot.line(corners[-1][0] + 4, end, axes.x.end + 3, height, "leader")
        name = plot.text(axes.x.end + 6, height + 4, _clipped(label), "label")
        role = "rival" if label in rival else "own"
        title = f"<title>{escape(f'{label}: {points[-1][1]:.2f}')}</title>"
        shape = marker(look.marker, *corners[-1], 3)
        axes.parts.append(
            f'<g class="series {look.colour} {role}">{steps}{shape}{leader}{name}{title}</g>'
        )
    return axes.render(f"Convergence of {category} frameworks against images", "small")


def _clipped(label: str) -> str:
    """A name as there is room for it; its sign stays."""
    name = label.removesuffix(BEST)
    return plot.clipped(name, 13) + label[len(name) :]


def _within(heights: Sequence[float], axes: Axes) -> list[float]:
    """Heights of names moved down until the first is below the upper edge."""
    lower = max(0.0, axes.y.end + 4 - min(heights))
    return [height + lower for height in heights]
