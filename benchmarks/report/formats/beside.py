"""Published beside measured, a row for each framework, network and data set.

Papers and this suite use other networks, data and budgets, so hardly two accuracies are of the
same thing; what they can be held against is their own float network.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.report.formats.blocks import Block
from benchmarks.report.formats.reported import TOP1, Reported
from benchmarks.report.numbers.format import fixed, signed
from benchmarks.report.numbers.groups import Group

BESIDE_NOTE = (
    "Top-1 in percent and minus that of the float network in points, from the lowest to the "
    "highest: of the published operating points (the second of those that give the float "
    "network's), and of the means measured here within their budgets. Other published metrics are "
    "in the list of published numbers alone. Blank: no top-1 of the paper is known here."
)
Place = tuple[str, str, str]
"""Framework, model and dataset."""


@dataclass
class _Side:
    """What is known of one place: published top-1, and measured losses by protocol."""

    published: list[Reported] = field(default_factory=list)
    measured: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @property
    def points(self) -> int:
        """Published operating points."""
        return len({(n.setting, n.source, n.mark) for n in self.published})

    @property
    def top1(self) -> list[float]:
        """Published accuracies."""
        return [n.value for n in self.published]

    @property
    def lost(self) -> list[float]:
        """The same minus the float network's, where that was published, too."""
        return [n.value - n.float_value for n in self.published if n.float_value is not None]


def _span(texts: Mapping[float, str]) -> str:
    """``-1.25 to -0.27`` from numbers and their texts; empty for nothing."""
    ends = [texts[key] for key in (min(texts), max(texts))] if texts else []
    return " to ".join(dict.fromkeys(ends))


def _lost(values: Iterable[float]) -> str:
    return _span({value: signed(value) for value in values})


def _sides(groups: Sequence[Group], numbers: Sequence[Reported]) -> dict[Place, _Side]:
    """Both halves by place: of each framework that is measured, the measured places first.

    One of which nothing is known that was published has its row, too, and baselines need none.
    """
    found: dict[Place, _Side] = defaultdict(_Side)
    for group in (g for g in groups if g.shows == "accuracy"):
        level = group.float_accuracy
        for row in group.rows:
            own = not row.baseline and not row.given
            if own and row.rank and row.accuracy and level is not None:
                side = found[row.name, group.model, group.dataset]
                side.measured[group.protocol].append(row.accuracy.mean - level)
    measured = {place[0] for place in found}
    for n in numbers:
        if n.framework in measured and n.metric == TOP1:
            found[n.framework, n.model, n.dataset].published.append(n)
    return dict(sorted(found.items(), key=lambda item: item[0][0]))


def beside_block(groups: Sequence[Group], numbers: Sequence[Reported]) -> Block:
    """A row for each framework, network and data set, of each framework that is measured."""
    protocols = list(dict.fromkeys(group.protocol for group in groups))
    rows = [
        [
            *place,
            *(_lost(side.measured.get(protocol, ())) for protocol in protocols),
            _span({value: fixed(value) for value in side.top1}),
            _lost(side.lost),
            str(side.points or ""),
        ]
        for place, side in _sides(groups, numbers).items()
    ]
    headings = [
        "framework", "model", "dataset", *(f"here, {protocol}" for protocol in protocols),
        "published", "minus float", "points",
    ]  # fmt: skip
    return Block("Published beside measured", headings, rows, frozenset({0, 1, 2}), [BESIDE_NOTE])
