"""The rows of a group against each other: ranks, gains over baselines, and who is best."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.report.numbers.comparisons import Verdict, compared, judge
from benchmarks.report.numbers.rows import Row
from benchmarks.report.numbers.statistics import estimate


def _closest(row: Row, randoms: Sequence[Row]) -> Row:
    """The random search with the number of evaluations (or images) closest to a framework's."""

    def effort(of: Row) -> float:
        policies = row.mean("search", "policies") or 0
        return (of.mean("search", "policies") if policies > 1 else of.images) or 0

    if len(randoms) == 1:
        return randoms[0]
    return min(randoms, key=lambda other: (abs(effort(other) - effort(row)), -effort(other)))


def compare(rows: list[Row]) -> Verdict:
    """Fill in the statistics and the ranks, sort the rows, and say who is best."""
    for row in rows:
        row.accuracy = estimate(row.accuracies().values())
    ranked = [row for row in rows if row.accuracy and not row.over]
    ranked.sort(key=lambda r: (-(r.accuracy.mean if r.accuracy else 0), r.label))
    for rank, row in enumerate(ranked, 1):
        row.rank = rank
    last = len(rows) + 1
    rows.sort(key=lambda r: (r.rank or last, not r.over, r.label))
    uniforms = [row for row in ranked if row.name == "uniform"]
    randoms = [row for row in ranked if row.name == "random"]
    if uniforms:
        _against("uniform", {row.label: (row, uniforms[0]) for row in ranked})
    if randoms:
        rivals = {row.label: (row, _closest(row, randoms)) for row in ranked}
        _against("random", rivals)
        for row, rival in rivals.values():
            row.random = rival if row.name != "random" else None
    verdict = judge({row.label: row.accuracies() for row in ranked})
    for row in ranked:
        if verdict.best is not None and row.label not in verdict.unjudged:
            row.best = row.label in verdict.marked
        if row.label in verdict.behind:
            row.gains["best"] = verdict.behind[row.label]
    return verdict


def _against(name: str, pairs: dict[str, tuple[Row, Row]]) -> None:
    """Compare rows with a baseline, which itself is not compared."""
    sides = {
        label: (row.accuracies(), rival.accuracies())
        for label, (row, rival) in pairs.items()
        if row.name != name
    }
    for label, found in compared(sides).items():
        pairs[label][0].gains[name] = found
    for label, (ours, theirs) in sides.items():
        pairs[label][0].versus[name] = [
            ours[k] - theirs[k] for k in sorted(ours.keys() & theirs.keys())
        ]
