"""Each framework over all groups of a protocol. Protocols are never averaged together."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.report.numbers.groups import Group
from benchmarks.report.numbers.rows import Row, mean
from benchmarks.report.numbers.statistics import (
    Estimate,
    estimate,
    hypervolume,
    performance_ratios,
    profile_area,
)

Panel = tuple[str, str, str, str, str]
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
        volumes: hypervolume of the budgets' (cost, accuracy) points, by panel.
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
    volumes: dict[Panel, float] = field(default_factory=dict)

    @property
    def volume(self) -> float | None:
        """Mean hypervolume over the panels that it was tried in."""
        return mean(self.volumes.values())


@dataclass
class Overall:
    """All frameworks under one protocol, the best mean gain first."""

    protocol: str
    groups: int
    panels: list[Panel]
    standings: list[Standing]


def _tally(differences: Sequence[float]) -> tuple[int, int, int]:
    wins = sum(d > 1e-9 for d in differences)
    losses = sum(d < -1e-9 for d in differences)
    return wins, len(differences) - wins - losses, losses


def reference(groups: Sequence[Group]) -> tuple[float, float] | None:
    """Reference point of a panel's hypervolume: uniform 8-bit's cost, half the float accuracy."""
    cost, accuracy = mean(g.int8_cost for g in groups), mean(g.float_accuracy for g in groups)
    return None if not cost or not accuracy else (cost, accuracy / 2)


def points(groups: Sequence[Group], label: str) -> list[tuple[float, float]]:
    """Mean cost and mean accuracy of a framework at each budget of a panel, within budget."""
    found = []
    for group in groups:
        for row in group.rows:
            if row.label == label and row.rank and row.accuracy:
                cost = group.cost(row)
                if cost is not None:
                    found.append((cost, row.accuracy.mean))
    return found


def _volumes(panels: dict[Panel, list[Group]]) -> dict[str, dict[Panel, float]]:
    """By framework: hypervolumes as shares of the area between the reference point and the
    corner of no cost and float accuracy.
    """
    found: dict[str, dict[Panel, float]] = defaultdict(dict)
    for panel, groups in panels.items():
        corner = reference(groups)
        if corner is None:
            continue
        for label in {row.label for group in groups for row in group.rows}:
            area = hypervolume(points(groups, label), corner)
            found[label][panel] = area / (corner[0] * corner[1])
    return found


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
    panels: dict[Panel, list[Group]] = defaultdict(list)
    for group in groups:
        panels[group.panel].append(group)
    problems = [_problem(group) for group in groups]
    comparable = [p for p in problems if sum(map(math.isfinite, p.values())) >= FEWEST_RIVALS]
    ratios, volumes = performance_ratios(comparable), _volumes(panels)
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
            volumes=volumes[label],
        )
        for label, found in rows.items()
    ]
    standings.sort(key=_order)
    return Overall(protocol, len(groups), list(panels), standings)


def _order(standing: Standing) -> tuple[float, float, str]:
    """By mean gain over uniform (uniform's own is zero), then by profile area."""
    gain = standing.gain.mean if standing.gain else None
    if gain is None:
        gain = 0.0 if standing.name == "uniform" and standing.groups else -math.inf
    return -gain, -(standing.area or 0), standing.label
