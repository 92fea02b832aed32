"""Pictures beside names: search cost on logarithmic lanes, and a row's interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.records.escape import html as escape
from benchmarks.report.numbers import format as show
from benchmarks.report.numbers.groups import Group
from benchmarks.report.numbers.rows import Row, mean
from benchmarks.report.pictures import plot
from benchmarks.report.pictures.figures import Styles, lowest_drawn
from benchmarks.report.pictures.plot import Scale, Style, marker, number, padded

_LANES: tuple[tuple[str, Callable[[Row], float | None], Callable[[float | None], str]], ...] = (
    ("images", lambda row: row.images, show.si),
    ("time", lambda row: row.mean("search", "seconds"), show.seconds),
    ("peak memory", lambda row: row.mean("search", "peak_memory"), show.memory),
)


def costs(groups: Sequence[Group], looks: Styles) -> str:
    """Search cost by framework, mean over the budgets of a panel, on logarithmic scales."""
    rows: dict[str, list[Row]] = {}
    for group in groups:
        for row in group.rows:
            if row.cells:
                rows.setdefault(row.label, []).append(row)
    values = {
        label: [mean(of(row) for row in found) for _, of, _ in _LANES]
        for label, found in rows.items()
    }
    order = sorted(values, key=lambda label: (-(values[label][0] or 0), label))
    if not order:
        return ""
    left, lane, step = 130, 158, 20
    height = 26 + step * len(order)
    parts = [plot.text(left + i * lane, 14, name, "title") for i, (name, _, _) in enumerate(_LANES)]
    scales = [_lane([v[i] for v in values.values()], left + i * lane) for i in range(len(_LANES))]
    for n, label in enumerate(order):
        y = 32 + step * n
        parts.append(plot.text(left - 12, y + 4, plot.clipped(label, 18), "name", "end"))
        look, bits = looks[label], []
        for scale, value, (_, _, text) in zip(scales, values[label], _LANES, strict=True):
            if value is None or scale is None:
                continue
            x = scale(max(value, scale.low))
            bits.append(plot.line(scale.start, y, x, y, "stem"))
            bits.append(marker(look.marker, x, y, 4))
            bits.append(plot.text(x + 9, y + 4, text(value), "value"))
        parts.append(
            f'<g class="series {look.colour}" data-f="{escape(label)}">{"".join(bits)}</g>'
        )
    return plot.svg(left + lane * len(_LANES), height, parts, "Search cost by framework", "costs")


def _lane(values: Sequence[float | None], start: float) -> Scale | None:
    known = [v for v in values if v is not None and v > 0]
    if not known:
        return None
    return Scale(min(known) / 1.5, max(max(known), min(known) * 10), start, start + 95, True)


def interval(row: Row, look: Style, scale: Scale, marks: Sequence[tuple[float, str]]) -> str:
    """A row's mean and interval on the group's scale, with reference lines behind it."""
    if row.accuracy is None:
        return ""
    parts = [plot.line(scale(v), 0, scale(v), 20, kind) for v, kind in marks if v >= scale.low]
    a = row.accuracy
    x = scale(max(a.mean, scale.low))
    bits = []
    if a.low is not None and a.high is not None:
        ends = scale(max(a.low, scale.low)), scale(max(a.high, scale.low))
        bits.append(plot.line(ends[0], 10, ends[1], 10, "whisker"))
    bits += [plot.ring(x, 10, 7)] * bool(row.best)
    outside = a.mean < scale.low
    shape = "M5 10L11 5L11 15Z"
    bits.append(f'<path d="{shape}"/>' if outside else marker(look.marker, x, 10, 4))
    state = " over" if row.over else ""
    parts.append(f'<g class="series {look.colour}{state}">{"".join(bits)}</g>')
    width = number(scale.end + scale.start)
    size = f'width="{width}" height="20" aria-hidden="true"'
    return f'<svg {size} class="interval">{"".join(parts)}</svg>'


def interval_scale(group: Group) -> Scale | None:
    """The common scale of a group's intervals."""
    found = [row.accuracy for row in group.rows if row.accuracy]
    if not found:
        return None
    highs = [a.mean if a.high is None else a.high for a in found]
    lows = [a.mean if a.low is None else a.low for a in found]
    top = max([*highs, group.float_accuracy or 0])
    return Scale(*padded([lowest_drawn(lows, top), top], 0.05, 0.2), 6, 154)
