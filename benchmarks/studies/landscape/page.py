"""The page of the study: what was found, in words, tables and pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.oracle.oracle_table import OracleTable
from benchmarks.report.numbers.statistics import estimate
from benchmarks.report.pictures.plot import (
    Axes,
    Style,
    marker,
    namespaced,
    padded,
    path,
    stairs,
    svg,
    text,
)
from benchmarks.studies import growth
from benchmarks.studies.landscape.ranks import Ranks
from benchmarks.studies.landscape.regret import Truth, at
from benchmarks.studies.landscape.shape import Additivity, front
from frameworks import registry

Runs = Mapping[str, Sequence[Mapping[str, Any]]]
LOOK = (
    growth.LOOK
    + ".base{stroke:#777;fill:#777}.all{fill:#bbb}.front{stroke:#dc3912;fill:none;stroke-width:2}"
)
ENDS = ("returned", "test", "loss")
DRAWN = 4000
"""At most about so many policies of a landscape are drawn."""


def curve(runs: Sequence[Mapping[str, Any]], places: Sequence[int], start: float) -> list[Any]:
    """Means with intervals of the regret after so many evaluations."""
    return [estimate(values) for values in zip(*(at(r["curve"], places, start) for r in runs))]  # noqa: B905


def regret_lines(
    runs: Runs, truths: Mapping[float, Truth], places: Sequence[int], starts: Mapping[float, float]
) -> list[str]:
    """A table for each budget: regret by evaluations, and of what was returned."""
    lines: list[str] = []
    for like, best in truths.items():
        mine = {k.split(" ")[0]: v for k, v in runs.items() if k.endswith(f" like={like:g}")}
        most = max(1, *(run["evaluations"] for found in mine.values() for run in found))
        shown = [place for place in places if place <= most]
        test = "" if best.test is None else f", {best.test:.2f} % on the test images"
        lines += [
            f"**like={like:g}**: the best policy has {best.valid:.2f} %{test}.",
            "",
            f"| {' | '.join(['framework', *map(str, shown), *ENDS, 'evaluations'])} |",
            "|:--" + "|--:" * (len(shown) + 4) + "|",
        ]
        for name, found in mine.items():
            cells = [_text(value) for value in curve(found, shown, starts[like])]
            ends = [
                _text(estimate(run[what] for run in found if run.get(what) is not None), digits)
                for what, digits in (("regret", 2), ("test", 2), ("loss", 4))
            ]
            spent = math.fsum(run["evaluations"] for run in found) / len(found)
            over = sum(run["over"] for run in found)
            said = f" ({over} of {len(found)} over the budget)" if over else ""
            lines.append(f"| {name} | {' | '.join([*cells, *ends])} | {spent:.0f}{said} |")
        lines.append("")
    return lines


def _text(value: Any, digits: int = 2) -> str:
    if value is None:
        return ""
    if value.low is None:
        return f"{value.mean:.{digits}f}"
    return f"{value.mean:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def rank_lines(found: Mapping[str, Ranks]) -> list[str]:
    """A row for each sensitivity, the best first."""
    lines = [
        "| sensitivity | one decision changed | all policies |",
        "|:--|--:|--:|",
    ]
    for name, value in sorted(found.items(), key=lambda item: -item[1].policies):
        lines.append(f"| {name} | {value.layers:.3f} | {value.policies:.3f} |")
    return lines


def additive_lines(found: Mapping[str, Additivity]) -> list[str]:
    """A row for each measure."""
    lines = [
        "| measure | one term a decision | and one a pair | rank correlation of changes alone |",
        "|:--|--:|--:|--:|",
    ]
    for name, value in found.items():
        lines.append(
            f"| {name} | {100 * value.main:.1f} % | {100 * value.pairs:.1f} % | {value.alone:.3f} |"
        )
    return lines


def landscape_picture(table: OracleTable, cost: str, value: str) -> str:
    """All policies (thinned) and the front, by cost and accuracy."""
    costs, values = table.columns[cost], table.columns[value]
    step = max(1, len(table) // DRAWN)
    every = list(zip(costs[::step].tolist(), values[::step].tolist(), strict=True))
    best = front(table, cost, value)
    low = sorted(values.tolist())[len(values) // 50]
    axes = Axes.of((640, 400), padded(costs.tolist()), padded([low, float(values.max())]))
    axes.frame(
        cost.replace("cost.", ""),
        f"{value} (%)",
        [(t, f"{t:.3g}") for t in axes.x.ticks(6)],
        [(t, f"{t:g}") for t in axes.y.ticks(6)],
    )
    dots = [marker("circle", axes.x(x), axes.y(y), 1.2) for x, y in every if y >= low]
    axes.parts.append(f'<g class="all">{"".join(dots)}</g>')
    corners = stairs([(x, y) for x, y in best if y >= low])
    axes.parts.append(
        f'<path d="{path([(axes.x(x), axes.y(y)) for x, y in corners])}" class="front"/>'
    )
    return _whole(axes, f"{value} of {len(table)} policies against {cost}; the line is the front")


def regret_picture(runs: Runs, like: float, start: float) -> str:
    """Mean regret against evaluations, by framework."""
    mine = {k.split(" ")[0]: v for k, v in runs.items() if k.endswith(f" like={like:g}")}
    most = max(1, *(run["evaluations"] for found in mine.values() for run in found))
    shown = sorted({1, 2, 3, *range(5, min(most, 100), 5), *range(100, most, 20), most})
    lines = {name: curve(found, shown, start) for name, found in mine.items()}
    highest = sorted(e.mean for line in lines.values() for e in line)[-1]
    axes = Axes.of((640, 380), (shown[0], most * 1.02), (0, highest * 1.05), (12, 130, 42, 54))
    axes.frame(
        "evaluations",
        "regret (points)",
        [(t, f"{t:g}") for t in axes.x.ticks(6)],
        [(t, f"{t:g}") for t in axes.y.ticks(6)],
    )
    for i, (name, line) in enumerate(lines.items()):
        baseline = registry.get(name).card.category == "baseline"
        style = Style.baseline(i) if baseline else Style.number(i)
        spent = max(run["evaluations"] for run in mine[name])
        points = [
            (axes.x(x), axes.y(e.mean)) for x, e in zip(shown, line, strict=True) if x <= spent
        ] or [(axes.x(shown[0]), axes.y(line[0].mean))]  # no policy was evaluated
        axes.parts.append(f'<g class="{style.colour}">')
        axes.parts.append(f'<path d="{path(points)}" style="fill:none"/>')
        axes.parts.append(marker(style.marker, *points[-1], 4) + "</g>")
        axes.parts.append(text(axes.x.end + 20, 24 + 18 * i, name, "key"))
        axes.parts.append(
            f'<g class="{style.colour}">{marker(style.marker, axes.x.end + 10, 20 + 18 * i, 4)}</g>'
        )
    return _whole(axes, f"mean regret against evaluations, like={like:g}")


def _whole(axes: Axes, label: str) -> str:
    parts = [f"<style>{LOOK}</style>", *axes.parts]
    return namespaced(svg(axes.width, axes.height, parts, label))
