"""The table as titled blocks of text cells, the same for text, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.report.numbers import format as show
from benchmarks.report.numbers.groups import Group
from benchmarks.report.numbers.marks import MARK_NOTE, footnotes, signs
from benchmarks.report.numbers.overall import Overall, Panel, Standing
from benchmarks.report.numbers.rows import Row
from benchmarks.report.numbers.statistics import PROFILE_LIMIT

NOTES = (
    "b marks a baseline; # is the rank by mean accuracy within the budget.",
    "Accuracy is top-1 on the test split in percent: mean over seeds [95 % bootstrap interval].",
    "A gain is the mean of paired differences at the same seed, in points; * marks one whose "
    "interval excludes zero and that a paired t test confirms at 5 % (at least 3 pairs, not "
    "corrected for the number of comparisons).",
    "Front: points of the Pareto front that the search found, mean over seeds; the policy measured "
    "is the one it takes for the budget.",
    "Policies, images (forward plus backward) and time are what the search cost.",
    "Cells over budget are shown, but never ranked, paired or averaged with those within.",
    MARK_NOTE,
)
OVERALL_NOTES = (
    "Gain: mean over groups of the mean paired gain over uniform, interval over groups. Won/tied/"
    "lost: cells against that baseline at the same budget and seed.",
    f"Profile: area under the Dolan-More profile of the test error, ratio 1 to {PROFILE_LIMIT:g}; "
    "1 is the best everywhere; a cell that failed, was skipped or is over budget is infinite.",
    "Hypervolume: area that the points (cost, accuracy) dominate, up to the cost of uniform 8 bit "
    "and half the float accuracy; 1 would be float accuracy at no cost. Mean over panels.",
)


@dataclass(frozen=True)
class Block:
    """A titled table. ``left`` are the columns that are aligned to the left."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: frozenset[int] = frozenset({0})
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Column:
    """A column of a group's table."""

    heading: str
    text: Callable[[Group, Row], str]
    left: bool = False


def row_name(row: Row) -> str:
    """The framework's label; baselines are marked."""
    return f"{row.label} (b)" if row.baseline else row.label


def marked_name(row: Row) -> str:
    """The same with the signs of what its searches have to say."""
    return f"{row.label}{signs(row)}" + " (b)" * row.baseline


def bits(row: Row) -> str:
    """Mean weight and activation bits."""
    weight, act = row.mean("bits", "weight"), row.mean("bits", "act")
    return "" if weight is None or act is None else f"{weight:.2f}/{act:.2f}"


def _spent(key: str, text: Callable[[float | None], str]) -> Callable[[Group, Row], str]:
    return lambda group, row: text(row.mean("search", key))


def _accuracy(key: str) -> Callable[[Group, Row], str]:
    return lambda group, row: show.fixed(row.mean("accuracy", key))


COLUMNS: dict[str, Column] = {
    "rank": Column("#", lambda g, r: str(r.rank or ""), True),
    "framework": Column("framework", lambda g, r: marked_name(r), True),
    "accuracy": Column("accuracy", lambda g, r: show.estimate(r.accuracy)),
    "seeds": Column("n", lambda g, r: str(len(r.cells) or "")),
    "uniform": Column("vs uniform", lambda g, r: show.difference(r.gains.get("uniform"))),
    "random": Column("vs random", lambda g, r: show.difference(r.gains.get("random"))),
    "share": Column("of budget", lambda g, r: show.percent(g.share(r))),
    "cost": Column("cost", lambda g, r: show.si(g.cost(r))),
    "float": Column("float", _accuracy("float")),
    "ptq": Column("PTQ", _accuracy("ptq")),
    "fine_tuned": Column("fine-tuned", _accuracy("fine_tuned")),
    "bits": Column("bits W/A", lambda g, r: bits(r)),
    "front": Column("front", lambda g, r: show.si(r.front)),
    "policies": Column("policies", _spent("policies", show.si)),
    "images": Column("images", lambda g, r: show.si(r.images)),
    "forward": Column("forward", _spent("images_forward", show.si)),
    "backward": Column("backward", _spent("images_backward", show.si)),
    "seconds": Column("time", _spent("seconds", show.seconds)),
    "memory": Column("memory", _spent("peak_memory", show.memory)),
    "status": Column("status", lambda g, r: r.status, True),
}
_HEAD = ("rank", "framework", "accuracy", "seeds", "uniform")
BRIEF = (*_HEAD, "share", "bits", "policies", "images", "seconds", "status")
MEDIUM = (
    *_HEAD,
    "random",
    "share",
    "cost",
    "bits",
    "front",
    "policies",
    "images",
    "seconds",
    "status",
)
FULL = (
    *(*_HEAD, "random", "share", "cost", "float", "ptq", "fine_tuned", "bits", "front"),
    *("policies", "forward", "backward", "seconds", "memory", "status"),
)
"""Columns of a group's table in the terminal, in LaTeX and in Markdown."""


def _metric(name: str) -> Column:
    return Column(name, lambda g, r: show.si(r.mean("costs", name)))


def group_block(group: Group, names: Sequence[str]) -> Block:
    """A group's table with the named columns; empty ones are left out."""
    columns = [COLUMNS[name] for name in names]
    if "cost" in names:
        place = names.index("cost") + 1
        columns[place:place] = [_metric(name) for name in group.metrics]
    kept = ("#", "framework", "accuracy", "n")
    cells = [[column.text(group, row) for row in group.rows] for column in columns]
    shown = [i for i, c in enumerate(columns) if c.heading in kept or any(cells[i])]
    headings = [
        group.metric if columns[i].heading == "cost" and group.metric else columns[i].heading
        for i in shown
    ]
    accuracy = group.float_accuracy
    title = group.title + (f" | float {accuracy:.2f}" if accuracy is not None else "")
    notes = [*footnotes(group.rows), *(fault for row in group.rows for fault in row.faults)]
    if group.mixture:
        notes.insert(0, group.mixture)
    if group.left_out:
        notes.insert(0, group.left_out)
    rows = [[cells[i][r] for i in shown] for r in range(len(group.rows))]
    left = frozenset(n for n, i in enumerate(shown) if columns[i].left)
    return Block(title, headings, rows, left, notes)


def _tally(standing: Standing, against: str) -> str:
    return "/".join(map(str, standing.records[against])) if against in standing.records else ""


def overall_block(overall: Overall) -> Block:
    """The standings under one protocol."""
    rows = [
        [
            f"{s.label} (b)" if s.baseline else s.label,
            f"{s.groups}/{s.tried}",
            show.difference(s.gain),
            _tally(s, "uniform"),
            _tally(s, "random"),
            show.fixed(s.area, 3),
            show.fixed(s.volume, 3),
        ]
        for s in overall.standings
    ]
    headings = [
        "framework", "groups", "gain over uniform", "won/tied/lost: uniform", "random",
        "profile", "hypervolume",
    ]  # fmt: skip
    count = f"{overall.groups} group{'s' * (overall.groups != 1)}"
    return Block(f"Overall | {overall.protocol} | {count}", headings, rows)


def cards_block(groups: Sequence[Group]) -> Block:
    """The facts of every framework in the table."""
    cards = {row.name: row.card for group in groups for row in group.rows if row.card}
    rows = [
        [
            name,
            str(card.get("category", "")),
            str(card.get("year", "")),
            str(card.get("quantizer", "")),
            str(card.get("granularity", "")),
            "+".join(card.get("searches", ())),
            show.AWARE.get(card.get("hardware_aware"), ""),
            f"arXiv {card['arxiv']}" if card.get("arxiv") else str(card.get("venue", "")),
        ]
        for name, card in sorted(cards.items(), key=lambda c: (str(c[1].get("category")), c[0]))
    ]
    headings = [
        "framework", "category", "year", "quantizer", "granularity", "searches",
        "hardware-aware", "paper",
    ]  # fmt: skip
    return Block("Frameworks", headings, rows, frozenset({0, 1, 3, 4, 5, 6, 7}))


def panel_parts(panel: Panel) -> list[str]:
    """Protocol, model, dataset, hardware, and the metric if it is not the hardware's name."""
    *parts, hardware, metric = panel
    return [*parts, hardware] + [metric] * (metric not in ("", hardware))


def volumes_block(overall: Overall) -> Block:
    """Hypervolumes by panel."""
    panels = [p for p in overall.panels if any(p in s.volumes for s in overall.standings)]
    headings = ["framework", *(" | ".join(panel_parts(p)[1:]) for p in panels)]
    rows = [
        [
            f"{s.label} (b)" if s.baseline else s.label,
            *(show.fixed(s.volumes.get(panel), 4) for panel in panels),
        ]
        for s in overall.standings
        if s.volumes
    ]
    return Block(f"Hypervolume | {overall.protocol}", headings, rows)
