"""Forest plots as lanes: a difference with its interval for each framework, on one scale."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.leaderboard.contents.board import Panel
from benchmarks.report.numbers import format as show
from benchmarks.report.numbers.comparisons import Difference
from benchmarks.report.numbers.groups import Group
from benchmarks.report.numbers.rows import Row
from benchmarks.report.pictures import plot
from benchmarks.report.pictures.figures import lowest_drawn
from benchmarks.report.pictures.plot import Scale, Style, marker, padded

HEIGHT, EDGE = 20, 8
WIDTHS = {1: 300, 2: 170, 3: 98}
NARROW = 90
"""Pixels of a lane by the number of lanes beside each other; with more of them it is narrow."""
BAR = 46
"""Pixels of a search cost's bar."""


@dataclass(frozen=True)
class Lane:
    """The common scale of a group's differences.

    Attributes:
        against: ``uniform``; ``best`` where uniform bits have no result.
    """

    group: Group
    against: str
    scale: Scale
    place: int

    def difference(self, row: Row) -> Difference | None:
        """What is drawn of a row."""
        return row.gains.get(self.against) if row.rank else None

    def is_zero(self, row: Row) -> bool:
        """Whether a row is what the others are measured against."""
        rival = row.label == self.group.verdict.best if self.against == "best" else False
        return bool(row.rank) and (rival or (self.against == "uniform" and row.name == "uniform"))


def lane_of(group: Group, place: int, lanes: int) -> Lane | None:
    """The lane of a group, one of ``lanes`` beside each other; None without a difference."""
    known = {
        against: [row.gains[against] for row in group.rows if against in row.gains and row.rank]
        for against in ("uniform", "best")
    }
    against = "uniform" if known["uniform"] else "best"
    found = known[against]
    if not found:
        return None
    lows = [d.mean if d.low is None else d.low for d in found]
    highs = [d.mean if d.high is None else d.high for d in found]
    top = max(0.0, *highs)
    low = min(0.0, lowest_drawn([min(0.0, value) for value in lows], top))
    ends = padded([low, top], 0.06, 0.2)
    scale = Scale(*ends, EDGE, WIDTHS.get(lanes, NARROW) - EDGE)
    return Lane(group, against, scale, place)


def axis(lane: Lane) -> str:
    """The numbers of a lane's scale, and the grid that every row of it shows."""
    scale = lane.scale
    ticks = scale.ticks(6 if scale.end > 200 else 3)
    parts = [
        plot.text(scale(tick), 10, f"{tick:g}".replace("-", "−"), "tick", "middle")
        for tick in ticks
    ]
    lines = "".join(f"M{plot.number(scale(t))} 0v{HEIGHT}" for t in ticks)
    zero = f'<path d="M{plot.number(scale(0))} 0v{HEIGHT}" class="zero"/>'
    grid = f'<defs><g id="lane{lane.place}"><path d="{lines}" class="ticks"/>{zero}</g></defs>'
    return _svg(scale.end + EDGE, 13, [grid, *parts])


def picture(lane: Lane, row: Row, look: Style) -> str:
    """A row's difference with its interval; an arrow for what lies beyond the lane."""
    scale, parts = lane.scale, [f'<use href="#lane{lane.place}"/>']
    found = lane.difference(row)
    if found is None and not lane.is_zero(row):
        return _svg(scale.end + EDGE, HEIGHT, parts)
    value, bits, middle = found.mean if found else 0.0, [], HEIGHT / 2
    x = scale(max(value, scale.low))
    if found and found.low is not None and found.high is not None:
        ends = [scale(min(max(end, scale.low), scale.high)) for end in (found.low, found.high)]
        across = f"M{plot.number(ends[0])} {middle:g}H{plot.number(ends[1])}"
        bits.append(f'<path d="{across}" class="whisker"/>')
    arrow = f"M1 {middle:g}l7 -5v10Z"
    bits.append(f'<path d="{arrow}"/>' if value < scale.low else marker(look.marker, x, middle, 4))
    parts.append(f'<g class="series {look.colour}">{"".join(bits)}</g>')
    return _svg(scale.end + EDGE, HEIGHT, parts)


def cost_scale(panel: Panel) -> Scale | None:
    """The logarithmic scale of a panel's search costs, in images."""
    known = [s.images for s in panel.standings if s.images]
    if not known:
        return None
    return Scale(min(known) / 3, max(max(known), min(known) * 10), 0, BAR, True)


def bar(scale: Scale, images: float, look: Style) -> str:
    """A search cost as a bar with its number."""
    width = plot.number(max(scale(images), 1.5))
    return f'<span class="bar {look.colour}" style="width:{width}px"></span>{show.si(images)}'


def _svg(width: float, height: float, parts: list[str]) -> str:
    size = f'width="{plot.number(width)}" height="{plot.number(height)}"'
    return f'<svg {size} class="lane" aria-hidden="true">{"".join(parts)}</svg>'
