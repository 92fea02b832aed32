"""The table as titled blocks of text cells, the same for text, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.report.numbers import format as show
from benchmarks.report.numbers.comparisons import FEWEST
from benchmarks.report.numbers.groups import RIVALS, Group
from benchmarks.report.numbers.marks import BEST, BEST_NOTE, MARK_NOTE, footnotes, signs
from benchmarks.report.numbers.overall import Overall, Standing
from benchmarks.report.numbers.rows import Row
from benchmarks.report.numbers.statistics import PROFILE_LIMIT

NOTES = (
    "b marks a baseline; # is the rank by mean accuracy within the budget.",
    "Accuracy is top-1 on the test split in percent: mean over seeds [95 % bootstrap interval]; "
    "PTQ is that before the protocol's training.",
    BEST_NOTE,
    "A difference (vs) is the mean over equal seeds, in points, ± half the interval of the paired "
    "t test (vs best, where seeds differ: Welch's) at 5 %, its variance moderated by those of its "
    "column (Smyth 2004), after Holm's correction for the comparisons of the column; * marks one "
    f"that excludes zero. Below {FEWEST} seeds there is no interval, and nothing is told apart.",
    "Of budget: the mean share of the limit that is used; of several limits, of the one named, "
    "which is nearest.",
    "Front: points of the Pareto front that the search found, mean over seeds; the policy measured "
    "is the one it takes for the budget.",
    "Policies, images (forward plus backward) and time are what the search cost; blank where a "
    "policy was found elsewhere, and its file does not say what that cost.",
    "Cells over budget are shown, but never ranked, paired or averaged with those within.",
    MARK_NOTE,
)
OVERALL_NOTES = (
    "Gain: mean over groups of the mean paired gain over uniform, interval over groups. Vs best: "
    "mean accuracy minus the best one's, tested as in a group, with the groups as pairs; those "
    f"without a result in each of them, or all below {FEWEST} groups, are not judged.",
    f"Best in: groups in which it is marked {BEST}, of those in which it was judged. W/t/l: cells "
    "won, tied and lost against that baseline at the same budget and seed.",
    f"Profile: area under the Dolan-More profile of the test error, ratio 1 to {PROFILE_LIMIT:g}; "
    "1 is the best everywhere; a cell that failed, was skipped or is over budget is infinite.",
    "Images and time: what one search cost, mean over groups.",
)

AGREEMENT_NOTE = (
    "Agreement: test images in percent with the float network's top-1, without labels; KL: mean "
    "KL(float || final network) on them, in nats."
)


LEVEL_NOTE = (
    "Verified: checked: the record agrees with itself, its code and what its policy costs; rerun: "
    "it was computed again, with the same result; older: of another version, costs recomputed."
)


@dataclass(frozen=True)
class Block:
    """A titled table.

    ``left`` are the columns that are aligned to the left, ``strong`` the cells (row, column) that
    stand out where a format can show it.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: frozenset[int] = frozenset({0})
    notes: Sequence[str] = ()
    strong: frozenset[tuple[int, int]] = frozenset()


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


def _versus(key: str) -> Callable[[Group, Row], str]:
    """A column that is empty where it would say again what another one says."""

    def text(group: Group, row: Row) -> str:
        return show.difference(row.gains.get(key)) if key in group.told else ""

    return text


def used(group: Group, row: Row) -> str:
    """The share of the budget, and of several limits the metric that it is nearest to."""
    return f"{show.percent(group.share(row))} {group.binding(row)}".strip()


COLUMNS: dict[str, Column] = {
    "rank": Column("#", lambda g, r: str(r.rank or ""), True),
    "framework": Column("framework", lambda g, r: marked_name(r), True),
    "accuracy": Column("accuracy", lambda g, r: show.estimate(r.accuracy)),
    "kl": Column("KL", lambda g, r: show.fixed(r.mean("accuracy", "kl"), 4)),
    "seeds": Column("n", lambda g, r: str(len(r.cells) or "")),
    "best": Column("vs best", lambda g, r: show.difference(g.behind(r))),
    "uniform": Column("vs uniform", _versus("uniform")),
    "random": Column("vs random", _versus("random")),
    "share": Column("of budget", used),
    "cost": Column("cost", lambda g, r: show.si(g.cost(r))),
    "ptq": Column("PTQ", lambda g, r: show.fixed(r.untrained)),
    "bits": Column("bits W/A", lambda g, r: bits(r)),
    "front": Column("front", lambda g, r: show.si(r.front)),
    "policies": Column("policies", _spent("policies", show.si)),
    "images": Column("images", lambda g, r: show.si(r.images)),
    "forward": Column("forward", _spent("images_forward", show.si)),
    "backward": Column("backward", _spent("images_backward", show.si)),
    "seconds": Column("time", _spent("seconds", show.seconds)),
    "memory": Column("memory", _spent("peak_memory", show.memory)),
    "verified": Column("verified", lambda g, r: g.verified(r), True),
    "status": Column("status", lambda g, r: r.status, True),
}
_HEAD = ("rank", "framework", "accuracy", "kl", "seeds", "best", "uniform")
BRIEF = (*_HEAD, "share", "bits", "policies", "images", "seconds", "verified", "status")
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
    "verified",
    "status",
)
FULL = (
    *(*_HEAD, "random", "share", "cost", "ptq", "bits", "front"),
    *("policies", "forward", "backward", "seconds", "memory"),
    *("verified", "status"),
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
    elif len(group.bounds) > 1:
        place = names.index("share") + 1
        columns[place:place] = [_metric(bound.metric) for bound in group.bounds]
    kept = ("#", "framework", "accuracy", "n")
    cells = [[column.text(group, row) for row in group.rows] for column in columns]
    shown = [i for i, c in enumerate(columns) if c.heading in kept or any(cells[i])]
    headings = [
        group.metric if columns[i].heading == "cost" and group.metric else columns[i].heading
        for i in shown
    ]
    headings = [group.shows if heading == "accuracy" else heading for heading in headings]
    accuracy = group.float_accuracy
    title = group.title + (f" | float {accuracy:.2f}" if accuracy is not None else "")
    notes = [AGREEMENT_NOTE] * (group.shows == "agreement")
    notes += [LEVEL_NOTE] * ("verified" in headings)
    notes += [f"{group.hidden} more rows are not shown."] * bool(group.hidden)
    notes += [note for note in (group.left_out, group.mixture, group.undecided) if note]
    notes += [*footnotes(group.rows), *(fault for row in group.rows for fault in row.faults)]
    rows = [[cells[i][r] for i in shown] for r in range(len(group.rows))]
    left = frozenset(n for n, i in enumerate(shown) if columns[i].left)
    strong = {(r, headings.index(group.shows)) for r, row in enumerate(group.rows) if row.best}
    return Block(title, headings, rows, left, notes, frozenset(strong))


def _told(overall: Overall) -> list[str]:
    """The baselines against which standings have tallies of their own."""
    tallies = [s.records for s in overall.standings if {*RIVALS} <= s.records.keys()]
    alike = bool(tallies) and all(len({t[r] for r in RIVALS}) == 1 for t in tallies)
    return [*RIVALS[:1]] if alike else [*RIVALS]


def _tally(standing: Standing, against: str) -> str:
    return "/".join(map(str, standing.records[against])) if against in standing.records else ""


def overall_block(overall: Overall) -> Block:
    """The standings under one protocol."""
    told = _told(overall)
    rows = [
        [
            s.label + BEST * bool(s.best) + " (b)" * s.baseline,
            f"{s.groups}/{s.tried}",
            show.gain(s.gain),
            show.difference(s.behind),
            f"{s.leads}/{s.judged}" if s.judged else "",
            *(_tally(s, rival) if rival in told else "" for rival in RIVALS),
            show.fixed(s.area, 3),
            show.si(s.images),
            show.seconds(s.seconds),
        ]
        for s in overall.standings
    ]
    headings = [
        "framework", "groups", "gain over uniform", "vs best", "best in", "w/t/l uniform",
        "w/t/l random", "profile", "images", "time",
    ]  # fmt: skip
    shown = [i for i, heading in enumerate(headings) if i < 2 or any(row[i] for row in rows)]
    count = f"{overall.groups} group{'s' * (overall.groups != 1)}"
    return Block(
        f"Overall | {overall.protocol} | {count}",
        [headings[i] for i in shown],
        [[row[i] for i in shown] for row in rows],
        strong=frozenset((r, 0) for r, s in enumerate(overall.standings) if s.best),
    )


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


def panel_parts(panel: Sequence[str]) -> list[str]:
    """Protocol, model, dataset, hardware, and the metric if it is not the hardware's name."""
    *parts, hardware, metric = panel
    return [*parts, hardware] + [metric] * (metric not in ("", hardware))
