"""Learning pictures: a search's own objective while it ran, one line a seed.

Small multiples, a picture a framework: objectives differ in what they are and in their scale. A
search that did not learn is dashed. Curves are those of the notes, at most 60 means of equal
stretches of the search, so that the axis is the share of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.records.escape import html as escape
from benchmarks.report.numbers import format as show
from benchmarks.report.numbers.groups import Group
from benchmarks.report.numbers.marks import BEST, learning, objective, signs
from benchmarks.report.numbers.rows import Row
from benchmarks.report.pictures import plot
from benchmarks.report.pictures.figures import Points, Styles, tick_labels
from benchmarks.report.pictures.plot import Axes, Style, padded

WIDTH, HEIGHT, TITLE, ACROSS = 270, 168, 20, 4
"""Pixels of a picture and of the name above it, and pictures beside each other."""


def points(found: Mapping[str, Any]) -> Points:
    """A curve by the share of the search in percent; what is no finite number is left out."""
    curve = found.get("curve")
    values = curve if isinstance(curve, Sequence) and not isinstance(curve, str) else []
    return [
        (100 * (i + 1) / len(values), float(value))
        for i, value in enumerate(values)
        if isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(float(value))
    ]


def picture(row: Row, looks: Styles) -> str:
    """A framework's curves; empty if its records have none of at least two points."""
    known = [said for record in row.records if (said := learning(record)) is not None]
    curves = [(said, found) for said in known if len(found := points(said)) > 1]
    if not curves:
        return ""
    xs = [x for _, found in curves for x, _ in found]
    ys = [y for _, found in curves for _, y in found]
    axes = Axes.of((WIDTH, HEIGHT), (min(0.0, *xs), max(xs)), padded(ys, 0.1), (8, 12, 36, 52))
    best = "higher" if curves[0][0].get("higher", True) is not False else "lower"
    axes.frame(
        f"% of the search ({best} is better)",
        plot.clipped(objective(curves[0][0]), 24),
        tick_labels(axes.x, 4, lambda t: f"{t:g}"),
        tick_labels(axes.y, 4, show.si),
    )
    for said, found in curves:
        axes.parts.append(_curve(axes, said, found, looks[row.label]))
    return axes.render(
        f"Learning of {row.label}{BEST * bool(row.best)}: {objective(curves[0][0])}", "small"
    )


def _curve(axes: Axes, said: Mapping[str, Any], found: Points, look: Style) -> str:
    data = plot.path([(axes.x(x), axes.y(y)) for x, y in found])
    p = said.get("p")
    chance = f" (p = {p:.2g})" if isinstance(p, int | float) else ""
    word = "learned" if said["improved"] else "did not learn"
    role = "own" if said["improved"] else "unlearned"
    return (
        f'<g class="series {look.colour} {role}"><path d="{data}" class="curve"/>'
        f"<title>{escape(word + chance)}</title></g>"
    )


def pictures(group: Group, looks: Styles) -> Iterator[tuple[Row, str]]:
    """The rows of a group that have learning curves, with their pictures."""
    for row in group.rows:
        if drawn := picture(row, looks):
            yield row, drawn


def sheet(group: Group, looks: Styles) -> str:
    """All learning pictures of a group as one; empty without any."""
    found = list(pictures(group, looks))
    parts = []
    for i, (row, drawn) in enumerate(found):
        x, y = i % ACROSS * (WIDTH + 10), i // ACROSS * (HEIGHT + TITLE + 10)
        name = plot.clipped(row.label + signs(row), 34)
        parts.append(plot.text(x + 8, y + 14, name, "name"))
        parts.append(drawn.replace("<svg ", f'<svg x="{x}" y="{y + TITLE}" ', 1))
    if not parts:
        return ""
    width = min(len(found), ACROSS) * (WIDTH + 10)
    height = math.ceil(len(found) / ACROSS) * (HEIGHT + TITLE + 10)
    return plot.svg(width, height, parts, f"Learning: {group.title}", "learning")
