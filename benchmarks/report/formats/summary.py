"""The shortest form of the table: a row per framework, a column per budget."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby

from benchmarks.report.formats.blocks import Block, row_name
from benchmarks.report.numbers.groups import Group
from benchmarks.report.numbers.marks import BEST, BEST_NOTE, MARK_NOTE, signs

MISSING = "-"


def summary_blocks(groups: Sequence[Group]) -> list[Block]:
    """A block for each model and dataset: mean accuracies of what is within budget."""
    ordered = sorted(groups, key=lambda g: (g.model, g.dataset))  # stable: budgets stay in order
    found = groupby(ordered, key=lambda g: (g.model, g.dataset))
    return [_block(model, dataset, list(members)) for (model, dataset), members in found]


def _block(model: str, dataset: str, groups: Sequence[Group]) -> Block:
    columns = range(len(groups))
    means: dict[str, dict[int, float]] = defaultdict(dict)
    said: dict[str, dict[int, str]] = defaultdict(dict)
    best: dict[str, list[int]] = defaultdict(list)
    baselines: dict[str, bool] = {}
    for column, group in enumerate(groups):
        for row in group.rows:
            baselines[row_name(row)] = row.baseline
            if row.rank and row.accuracy is not None:
                means[row_name(row)][column] = row.accuracy.mean
                said[row_name(row)][column] = signs(row)
                if row.best:
                    best[row_name(row)].append(column)

    def order(name: str) -> tuple[bool, int, float]:
        """Baselines last; then who has most results, then the best."""
        values = means[name].values()
        return baselines[name], -len(values), -math.fsum(values)

    names = sorted(baselines, key=order)
    rows = [
        [
            name,
            *(
                f"{means[name][i]:.2f}{said[name][i]}" if i in means[name] else MISSING
                for i in columns
            ),
        ]
        for name in names
    ]
    strong = {(r, i + 1) for r, name in enumerate(names) for i in best[name]}
    headings = ["framework", *(f"{g.protocol}, {g.hardware}, {g.budget}" for g in groups)]
    what = " or ".join(dict.fromkeys(group.shows for group in groups))
    title = f"{model} on {dataset}: mean test {what} (%) within the budget"
    shown = {sign for signs_of in said.values() for text in signs_of.values() for sign in text}
    notes = [BEST_NOTE] * (BEST in shown) + [MARK_NOTE] * bool(shown - {BEST})
    notes += _undecided(headings[1:], groups)
    return Block(title, headings, rows, frozenset({0}), notes, frozenset(strong))


def _undecided(headings: Sequence[str], groups: Sequence[Group]) -> list[str]:
    """Who could not be judged, in which columns; these are not named where it is so in all."""
    where: dict[str, list[str]] = defaultdict(list)
    for heading, group in zip(headings, groups, strict=True):
        if group.undecided:
            where[group.undecided].append(heading)
    return [
        sentence if len(found) == len(groups) else f"{'; '.join(found)}: {sentence}"
        for sentence, found in where.items()
    ]
