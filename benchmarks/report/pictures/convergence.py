"""Convergence pictures: a search's best objective so far, next to random search."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from benchmarks.records.escape import html as escape
from benchmarks.records.record import Record
from benchmarks.report.numbers import format as show
from benchmarks.report.numbers.marks import BEST
from benchmarks.report.numbers.rows import Row
from benchmarks.report.pictures import plot
from benchmarks.report.pictures.figures import Points, Styles, tick_labels
from benchmarks.report.pictures.plot import Axes, Style, marker, padded, stairs

_AXES = ("policies", "images", "seconds")


def _objective(point: Mapping[str, Any]) -> float | None:
    """The one entry of a curve's point that is no axis."""
    values = [v for k, v in point.items() if k not in _AXES]
    return float(values[0]) if values and isinstance(values[0], int | float) else None


def _spent(record: Record, axis: str) -> float:
    search = record.search
    if axis == "images":
        return float((search.get("images_forward") or 0) + (search.get("images_backward") or 0))
    return float(search.get(axis) or 0)


def _steps(record: Record, axis: str) -> Points:
    """A search's best objective so far, by what it had spent, to the end of the search."""
    steps: Points = []
    for point in record.curve:
        value = _objective(point)
        if value is not None and isinstance(point.get(axis), int | float):
            steps.append((float(point[axis]), max(value, steps[-1][1]) if steps else value))
    if steps and _spent(record, axis) > steps[-1][0]:
        steps.append((_spent(record, axis), steps[-1][1]))
    return steps


def mean_curve(row: Row, axis: str) -> Points:
    """Mean over seeds of the best objective so far, from where every seed has one.

    Empty for a given policy, which was not searched for here.
    """
    records = () if row.given else row.records
    curves = [steps for record in records if (steps := _steps(record, axis))]
    if not curves:
        return []
    start = max(steps[0][0] for steps in curves)
    places = sorted({x for steps in curves for x, _ in steps if x >= start})
    at = [0] * len(curves)
    points: Points = []
    for place in places:
        for i, steps in enumerate(curves):
            while at[i] + 1 < len(steps) and steps[at[i] + 1][0] <= place:
                at[i] += 1
        points.append(
            (place, math.fsum(s[i][1] for s, i in zip(curves, at, strict=True)) / len(at))
        )
    return points


def picture(row: Row, looks: Styles) -> str:
    """A framework's search next to random's: by policies if it tries several, else by images."""
    axis = "policies" if (row.mean("search", "policies") or 0) > 1 else "images"
    curves = [(row, mean_curve(row, axis))]
    if row.random is not None:
        curves.insert(0, (row.random, mean_curve(row.random, axis)))
    curves = [(of, [(max(x, 1.0), y) for x, y in points]) for of, points in curves if points]
    if not any(of is row for of, _ in curves):
        return ""
    xs = [x for _, points in curves for x, _ in points]
    ys = [y for _, points in curves for _, y in points]
    log = max(xs) > 20 * min(xs)
    spanned = (min(xs) / 1.2, max(xs) * 1.2) if log else padded([min(xs), max(xs)])
    floor = max(min(ys), max(ys) - max(6 * (max(ys) - sorted(ys)[len(ys) // 2]), 1.0))
    axes = Axes.of((270, 168), spanned, padded([floor, max(ys)], 0.1, 0.5), (8, 40, 36, 40), log)
    axes.frame(
        axis, "", tick_labels(axes.x, 4, show.si), tick_labels(axes.y, 4, lambda t: f"{t:g}")
    )
    ends = plot.spread([axes.y(max(points[-1][1], floor)) for _, points in curves], 11)
    for (of, points), y in zip(curves, ends, strict=True):
        shown = _curve(axes, points, floor, looks[of.label], y)
        role = "rival" if of is row.random else "own"
        title = f"<title>{escape(of.label + BEST * bool(of.best))}: {points[-1][1]:.2f}</title>"
        axes.parts.append(f'<g class="series {looks[of.label].colour} {role}">{shown}{title}</g>')
    return axes.render(f"Convergence of {row.label}{BEST * bool(row.best)} against {axis}", "small")


def _curve(axes: Axes, points: Points, floor: float, look: Style, label_y: float) -> str:
    """The steps of a curve, a marker at its end and the last value beside the plot."""
    corners = stairs([(axes.x(x), axes.y(max(y, floor))) for x, y in points])
    steps = f'<path d="{plot.path(corners)}" class="curve"/>' if len(points) > 1 else ""
    value = plot.text(axes.x.end + 5, label_y + 4, f"{points[-1][1]:.1f}", "value")
    return steps + marker(look.marker, *corners[-1], 3.2) + value
