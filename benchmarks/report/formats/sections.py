"""The page's section of one group: table, convergence pictures and Pareto fronts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import compress

from benchmarks.records.escape import html as escape
from benchmarks.report.formats.blocks import marked_name, used
from benchmarks.report.formats.markup import EMPTY, anchor, cell, raw_cell, sortable
from benchmarks.report.numbers import format as show
from benchmarks.report.numbers.comparisons import Difference
from benchmarks.report.numbers.groups import RIVALS, Group
from benchmarks.report.numbers.marks import footnotes, signs
from benchmarks.report.numbers.rows import Row
from benchmarks.report.pictures import convergence, curves, figures, strips
from benchmarks.report.pictures.figures import Styles

_INTERVAL = "| uniform, \u00a6 float"


def _number(value: float | None, text: Callable[[float | None], str], classes: str = "") -> str:
    return cell(text(value), "" if value is None else value, classes)


def _gain(found: Difference | None) -> str:
    if found is None:
        return cell("", "")
    classes = ("better" if found.mean > 0 else "worse") if found.significant else ""
    return cell(show.difference(found), found.mean, classes)


def _name(row: Row, looks: Styles) -> str:
    tag = '<span class="tag">baseline</span>' if row.baseline else ""
    markup = f"{figures.swatch(looks[row.label])}{escape(row.label + signs(row))}{tag}"
    return raw_cell(markup, row.label, "left name")


def _result(group: Group, row: Row, looks: Styles, drawn: str) -> Iterator[tuple[str, str, str]]:
    """Heading, classes and cell of what a row's policies reach."""
    accuracy = row.accuracy
    mean = "" if accuracy is None else accuracy.mean
    alarm = f'<span class="alarm">{escape(row.status)}</span>' if row.status else ""
    yield "#", "left", cell(str(row.rank or ""), row.rank or "", "left")
    yield "framework", "left name", _name(row, looks)
    yield "status", "left", raw_cell(alarm, row.status, "left")
    yield _INTERVAL, "left", raw_cell(drawn, mean, "left")
    yield group.shows, "", cell(show.estimate(accuracy), mean, "best" * bool(row.best))
    yield "n", "", cell(str(len(row.cells) or ""), len(row.cells))
    yield "vs best", "", _gain(group.behind(row))
    for rival in RIVALS:
        yield f"vs {rival}", "", _gain(row.gains.get(rival) if rival in group.told else None)
    share = group.share(row)
    yield (
        "of budget",
        "",
        cell(used(group, row), "" if share is None else share, "alarm" * row.over),
    )
    yield group.metric or "cost", "", _number(group.cost(row), show.si)
    for metric in group.metrics:
        yield metric, "", _number(row.mean("costs", metric), show.si)
    yield "PTQ", "", _number(row.untrained, show.fixed)
    for heading, key in (("W bits", "weight"), ("A bits", "act")):
        yield heading, "", _number(row.mean("bits", key), show.fixed)


_SEARCH: tuple[tuple[str, str, Callable[[float | None], str]], ...] = (
    ("policies", "policies", show.si),
    ("images fwd", "images_forward", show.si),
    ("images bwd", "images_backward", show.si),
    ("time", "seconds", show.seconds),
    ("memory", "peak_memory", show.memory),
)


def _facts(row: Row) -> Iterator[tuple[str, str, str]]:
    """Heading, classes and cell of what the search cost and what the card says."""
    card = row.card
    for heading, key, text in _SEARCH:
        yield heading, "", _number(row.mean("search", key), text)
    for key in ("category", "quantizer", "granularity"):
        yield key, "left", cell(str(card.get(key, "")), None, "left")
    yield "searches", "left", cell("+".join(card.get("searches", ())), None, "left")
    aware = show.AWARE.get(card.get("hardware_aware"), "")
    yield "hw-aware", "left", cell(aware, None, "left")
    yield "year", "", cell(str(card.get("year", "")))


def _table(group: Group, looks: Styles) -> str:
    scale = strips.interval_scale(group)
    uniform = next((r.accuracy for r in group.rows if r.name == "uniform" and r.rank), None)
    marks = [(uniform.mean, "uniform")] if uniform else []
    if group.float_accuracy is not None:
        marks.append((group.float_accuracy, "float"))
    lines = []
    for row in group.rows:
        drawn = strips.interval(row, looks[row.label], scale, marks) if scale else ""
        lines.append([*_result(group, row, looks, drawn), *_facts(row)])
    filled = [
        any(EMPTY.fullmatch(line[i][2]) is None for line in lines) for i in range(len(lines[0]))
    ]
    classes = [" ".join(["baseline"] * r.baseline + ["over"] * r.over) for r in group.rows]
    rows = (
        f'<tr class="{kind}">{"".join(markup for _, _, markup in compress(line, filled))}</tr>'
        for kind, line in zip(classes, lines, strict=True)
    )
    return sortable([(heading, kind) for heading, kind, _ in compress(lines[0], filled)], rows)


def _card(caption: str, picture: str) -> str:
    return f'<figure class="card"><figcaption>{escape(caption)}</figcaption>{picture}</figure>'


def group_section(group: Group, looks: Styles, unfold: bool) -> Iterator[str]:
    """The section of a group; ``unfold`` opens its pictures."""
    bound = f": {group.bound}" if group.bound else ""
    yield f'<h4 id="{anchor(group.title)}">{escape(group.budget + bound)}</h4>'
    yield _table(group, looks)
    if group.mixture:
        yield f'<p class="alarm">{escape(group.mixture)}</p>'
    notes = [group.left_out, group.undecided, *footnotes(group.rows)]
    yield from (f'<p class="notes">{escape(note)}</p>' for note in notes if note)
    pictures = [
        (row, picture)
        for row in group.rows
        if row.name not in ("random", "uniform") and (picture := convergence.picture(row, looks))
    ]
    if pictures:
        cards = "".join(
            _card(
                marked_name(row) + (f" and {marked_name(row.random)}" if row.random else ""),
                picture,
            )
            for row, picture in pictures
        )
        sought = "accuracy" if group.shows == "accuracy" else "objective"
        yield (
            f"<details{' open' * unfold}><summary>Convergence: best search-validation {sought} "
            "(without training) so far, mean over seeds; random search dashed</summary>"
            f'<div class="grid">{cards}</div></details>'
        )
    learned = [_card(marked_name(row), drawn) for row, drawn in curves.pictures(group, looks)]
    if learned:
        yield (
            f"<details{' open' * unfold}><summary>Learning: the search's own objective while it "
            "ran, one line a seed; dashed where it showed no improvement at 5 %</summary>"
            f'<div class="grid">{"".join(learned)}</div></details>'
        )
    fronts = [(row, p) for row in group.rows for p in figures.fronts(row, looks[row.label])]
    if fronts:
        cards = "".join(_card(marked_name(row), picture) for row, picture in fronts)
        yield (
            f"<details{' open' * unfold}><summary>Pareto fronts found by the search, one a seed "
            f'(all objectives are minimised)</summary><div class="grid">{cards}</div></details>'
        )
