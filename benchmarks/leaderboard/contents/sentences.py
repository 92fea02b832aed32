"""One sentence a picture, made from the numbers that it shows."""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.leaderboard.contents.board import Panel
from benchmarks.leaderboard.contents.policies import layer_bits
from benchmarks.report.numbers import format as show
from benchmarks.report.numbers.comparisons import FEWEST
from benchmarks.report.numbers.groups import Group
from benchmarks.report.numbers.rows import Row
from benchmarks.report.numbers.statistics import pareto_front
from benchmarks.report.pictures.convergence import mean_curve

MOST_NAMES = 5
NEAR = 1.0
"""Points below the float network within which a policy counts as near it."""


def named(names: Sequence[str], most: int = MOST_NAMES) -> str:
    """Names in a row: ``a, b and c``, or ``a, b and 7 more``."""
    if len(names) > most + 1:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def tied(panel: Panel) -> list[str]:
    """Frameworks that are best, or not told apart from it, in every group that has a best one."""
    judged = [group.verdict.marked for group in panel.groups if group.verdict.best is not None]
    shared = frozenset.intersection(*judged) if judged else frozenset()
    return [s.label for s in panel.standings if s.label in shared]


def wins(panel: Panel) -> str:
    """Who wins, by how much, and whether it is significant."""
    ranked = [s for s in panel.standings if s.groups]
    if not ranked:
        return "No framework has a result within the budget here."
    if len(panel.groups) == 1:
        return _wins_once(panel.first)
    same, lead = tied(panel), _lead(panel)
    if not any(s.judged for s in ranked):
        return f"{lead}; with fewer than {FEWEST} seeds nothing can be told apart."
    if not same:
        return f"{lead}; no framework is among the best at every budget."
    verb = "is" if len(same) == 1 else "are"
    return (
        f"{lead}. Of {len(ranked)} frameworks {len(same)} {verb} the best, or not told apart "
        f"from it, at every budget: {named(same)}."
    )


def _lead(panel: Panel) -> str:
    """Who gains most over the budgets of a panel."""
    first, count = panel.standings[0], len(panel.groups)
    if first.gain:
        gain = f"{show.signed(first.gain.mean)} points in the mean"
        return f"Over {count} budgets {first.label} gains most over uniform bits: {gain}"
    if first.name == "uniform":
        return f"In the mean of {count} budgets no framework gains over uniform bits"
    return f"Uniform bits, to gain over, have no result at these {count} budgets"


def _wins_once(group: Group) -> str:
    rows = [row for row in group.rows if row.rank]
    verdict, top = group.verdict, rows[0]
    assert top.accuracy is not None
    reached = f"{top.label} reaches most: {show.fixed(top.accuracy.mean)} % {group.shows}"
    gain = top.gains.get("uniform")
    if gain is not None:
        reached += f", {show.difference(gain)} points over uniform bits"
    if verdict.best is None:
        return f"{reached}; with fewer than {FEWEST} seeds nothing can be told apart."
    judged = len(verdict.behind) + 1
    others = [row.label for row in rows if row.label in verdict.marked - {verdict.best}]
    if not others:
        return f"{reached}; all other {judged - 1} are told apart from it."
    if len(others) == judged - 1:
        return f"{reached}, but none of the other {len(others)} is told apart from it."
    verb = "is" if len(others) == 1 else "are"
    count = f"{len(others)} of the other {judged - 1} {verb} not told apart"
    return f"{reached}; {count}: {named(others)}."


def cost(panel: Panel) -> str:
    """At what search cost."""
    same = tied(panel) or [s.label for s in panel.standings if s.groups]
    spent = {s.label: s.images for s in panel.standings if s.label in same and s.images}
    if not spent:
        return ""
    least, most = min(spent, key=lambda k: spent[k]), max(spent, key=lambda k: spent[k])
    who = "Among the best" if tied(panel) else "Of all"
    said = f"{who}, {least} searches at the least cost: {show.si(spent[least])} images"
    if least == most:
        return f"{said}."
    return f"{said}; {most} takes {show.si(spent[most])}."


def gaps(panel: Panel) -> str:
    """Where it matters: how far uniform bits are behind the best, budget by budget."""
    parts = []
    for group in panel.groups:
        uniform = next((r for r in group.rows if r.name == "uniform" and r.rank), None)
        behind = uniform.gains.get("best") if uniform else None
        if behind is not None:
            parts.append(f"{show.fixed(-behind.mean)} at {group.budget}")
        elif uniform is not None and uniform.label == group.verdict.best:
            parts.append(f"0 at {group.budget} (where they are best)")
    return f"Uniform bits are behind the best by {named(parts, 6)} (points)." if parts else ""


def pareto(panel: Panel) -> str:
    """Who makes the front, and what it takes to stay near the float network."""
    points = [
        (cost, row.accuracy.mean, row.label, group.budget)
        for group in panel.groups
        for row in group.rows
        if row.rank and row.accuracy and (cost := group.cost(row)) is not None
    ]
    if not points:
        return ""
    front = set(pareto_front((cost, mean) for cost, mean, *_ in points))
    makers = [label for c, m, label, _ in sorted(points, key=lambda p: -p[1]) if (c, m) in front]
    said = (
        f"From the most accurate down, the front is made by {named(list(dict.fromkeys(makers)))}."
    )
    level = panel.first.float_accuracy
    near = [p for p in points if level is not None and p[1] >= level - NEAR]
    if level is None or not near:
        return said
    least, mean, label, _ = min(near)
    unit = panel.first.unit or panel.first.metric
    return (
        f"{said} The cheapest within {NEAR:g} point of the float network's {show.fixed(level)} % "
        f"is {label}'s: {show.fixed(mean)} % at {show.si(least)} {unit}."
    )


def bits(group: Group) -> str:
    """Which layers get bits, and where frameworks disagree; of layers whose bits are not given."""
    rows = [row for row in group.rows if row.rank and row.name != "uniform"]
    found = [of for row in rows if (of := layer_bits(row.records, "weight"))]
    shared = set.intersection(*(set(of) for of in found)) if found else set()
    by_layer = {layer: [of[layer] for of in found] for layer in shared}
    free = {layer: values for layer, values in by_layer.items() if max(values) > min(values)}
    if not free:
        return "All searches give every layer the same weight bits." if found else ""
    means = {layer: math.fsum(values) / len(values) for layer, values in sorted(free.items())}
    most, least = max(means, key=lambda k: means[k]), min(means, key=lambda k: means[k])
    wide = max(sorted(free), key=lambda k: max(free[k]) - min(free[k]))
    return (
        f"At {group.budget} {most} gets most weight bits ({means[most]:.1f} in the mean of "
        f"{len(found)} searches) and {least} fewest ({means[least]:.1f}); they differ most on "
        f"{wide}, from {min(free[wide]):.2g} to {max(free[wide]):.2g} bits."
    )


def convergence(group: Group) -> str:
    """Who ends above random search, and after how many images."""
    ends = {row.label: (row, mean_curve(row, "images")) for row in group.rows if row.rank}
    ends = {label: (row, points) for label, (row, points) in ends.items() if points}
    if not ends:
        return ""
    best = max(ends, key=lambda label: (ends[label][1][-1][1], label))
    height = ends[best][1][-1][1]
    said = f"{best} ends its search highest, at {show.fixed(height)} % before any training"
    rivals = [points for row, points in ends.values() if row.name == "random"]
    if not rivals:
        return f"{said}."
    level, spent = rivals[0][-1][1], rivals[0][-1][0]
    passed = {
        label: next(x for x, y in points if y >= level)
        for label, (row, points) in ends.items()
        if not row.baseline and points[-1][1] >= level
    }
    if not passed and ends[best][0].name == "random":
        return f"{said}; no other search gets there."
    if not passed:
        return f"{said}; no other search gets to where random ends ({show.fixed(level)} %)."
    first = min(passed, key=lambda label: (passed[label], label))
    return (
        f"{said}; {len(passed)} get to where random ends ({show.fixed(level)} % after "
        f"{show.si(spent)} images), {first} at the least cost ({show.si(passed[first])} images)."
    )


def missing(rows: Sequence[Row | None]) -> str:
    """Why a row has no rank, in a word."""
    known = [row for row in rows if row is not None]
    if not known:
        return ""
    row = known[0]
    return "over" if row.over else "failed" if row.failed else "skipped" if row.skipped else ""
