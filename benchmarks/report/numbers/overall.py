"""Each framework over all groups of a protocol. Protocols are never averaged together."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.report.numbers.comparisons import NOBODY, Difference, Verdict, judge
from benchmarks.report.numbers.groups import Group
from benchmarks.report.numbers.rows import Row, mean
from benchmarks.report.numbers.statistics import (
    Estimate,
    estimate,
    performance_ratios,
    profile_area,
)

FEWEST_RIVALS = 2
"""A group counts for the performance profile from this many frameworks with a result."""


@dataclass
class Standing:
    """One framework under one protocol.

    Attributes:
        groups: groups with a result within budget, of ``tried`` groups with any cell.
        gain: mean over groups of the mean paired gain over uniform; the interval is over groups.
        records: ``uniform`` and ``random``: cells won, tied and lost against it, by equal seed.
        ratios: in each tried group, error over the least error; infinite without a result.
        area: of the performance profile up to `benchmarks.report.numbers.statistics.PROFILE_LIMIT`.
        leads: groups in which it is the best or not told apart from it, of those where it was
            ``judged``.
        best: whether it is so over all groups, taken as the pairs; None where it was not judged.
        behind: its mean accuracy over the groups minus the best one's.
        images, seconds: what a search cost, mean over the groups with a result.
    """

    label: str
    name: str
    baseline: bool
    groups: int = 0
    tried: int = 0
    gain: Estimate | None = None
    records: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    ratios: list[float] = field(default_factory=list)
    area: float | None = None
    leads: int = 0
    judged: int = 0
    best: bool | None = None
    behind: Difference | None = None
    images: float | None = None
    seconds: float | None = None


@dataclass
class Overall:
    """All frameworks under one protocol, the best mean gain first."""

    protocol: str
    groups: int
    standings: list[Standing]
    verdict: Verdict = NOBODY


def _tally(differences: Sequence[float]) -> tuple[int, int, int]:
    wins = sum(d > 1e-9 for d in differences)
    losses = sum(d < -1e-9 for d in differences)
    return wins, len(differences) - wins - losses, losses


def _records(rows: Sequence[Row]) -> dict[str, tuple[int, int, int]]:
    """Cells won, tied and lost by rival; nothing for a rival that was never met."""
    found: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        for against, differences in row.versus.items():
            found[against] += differences
    return {against: _tally(differences) for against, differences in found.items() if differences}


def _problem(group: Group) -> dict[str, float]:
    """The test error of each framework tried in a group; infinite without a result."""
    errors: dict[str, float] = {}
    for row in group.rows:
        if row.rank and row.accuracy:
            errors[row.label] = 100 - row.accuracy.mean
        else:
            errors.setdefault(row.label, math.inf)
    return errors


def overall(groups: Sequence[Group]) -> list[Overall]:
    """The standings under each protocol, in the order of the groups."""
    by_protocol: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        by_protocol[group.protocol].append(group)
    return [_under(protocol, members) for protocol, members in by_protocol.items()]


def _under(protocol: str, groups: list[Group]) -> Overall:
    problems = [_problem(group) for group in groups]
    comparable = [p for p in problems if sum(map(math.isfinite, p.values())) >= FEWEST_RIVALS]
    ratios, verdict = performance_ratios(comparable), _verdict(groups)
    rows: dict[str, list[Row]] = defaultdict(list)
    for group in groups:
        for row in group.rows:
            rows[row.label].append(row)
    standings = [
        Standing(
            label=label,
            name=found[0].name,
            baseline=found[0].baseline,
            groups=sum(row.rank is not None for row in found),
            tried=sum(label in problem for problem in problems),
            gain=estimate(r.gains["uniform"].mean for r in found if "uniform" in r.gains),
            records=_records(found),
            ratios=ratios.get(label, []),
            area=profile_area(ratios[label]) if ratios.get(label) else None,
            leads=sum(bool(row.best) for row in found),
            judged=sum(row.best is not None for row in found),
            best=label in verdict.marked if label in _judged(verdict) else None,
            behind=verdict.behind.get(label),
            images=mean(row.images for row in found if row.rank),
            seconds=mean(row.mean("search", "seconds") for row in found if row.rank),
        )
        for label, found in rows.items()
    ]
    standings.sort(key=_order)
    return Overall(protocol, len(groups), standings, verdict)


def _verdict(groups: Sequence[Group]) -> Verdict:
    """Who is best over all groups, which are the pairs, among those with a result in each."""
    means: dict[str, dict[int, float]] = defaultdict(dict)
    for place, group in enumerate(groups):
        for row in group.rows:
            if row.rank and row.accuracy:
                means[row.label][place] = row.accuracy.mean
    return judge({label: of for label, of in means.items() if len(of) == len(groups)})


def _judged(verdict: Verdict) -> set[str]:
    return {*verdict.marked, *verdict.behind}


def _order(standing: Standing) -> tuple[float, float, str]:
    """By mean gain over uniform (uniform's own is zero), then by profile area."""
    gain = standing.gain.mean if standing.gain else None
    if gain is None:
        gain = 0.0 if standing.name == "uniform" and standing.groups else -math.inf
    return -gain, -(standing.area or 0), standing.label
