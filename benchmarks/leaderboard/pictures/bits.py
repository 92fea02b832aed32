"""Bits by layer: strips that compare frameworks, and bars of one framework's policy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TypeVar

from benchmarks.leaderboard.contents.policies import SIDES, layer_bits
from benchmarks.records.escape import html as escape
from benchmarks.report.numbers.groups import Group
from benchmarks.report.numbers.rows import Row
from benchmarks.report.pictures import plot

NAMES, STEP, GAP = 118, 18, 26
WIDEST, NARROWEST, AREA = 30, 5, 620
"""Pixels of a layer, and of all layers together where they have to share."""
NUMBERED = 20
"""Cells of at least so many pixels have their bits in them, rounded."""
TILTED = 82
"""Pixels for the names of layers above the strips."""
LEFT, BASE, HEIGHT = 20, 76, 64
"""Pixels of the bars: where they begin, stand, and how high the most bits are."""
MOST = 8.0
"""Bits that bars have room for at least."""
_WORD = {"weight": "weight bits", "act": "activation bits"}

Bits = Mapping[str, float]
T = TypeVar("T")


def strips(group: Group) -> str:
    """The mean bits of every layer, a row a framework; empty without a policy.

    Activations stand beside the weights where they are not the same everywhere.
    """
    rows = [row for row in group.rows if row.rank and layer_bits(row.records, "weight")]
    if not rows:
        return ""
    found = {side: [layer_bits(row.records, side) for row in rows] for side in SIDES}
    layers = list(found["weight"][0])
    shown = [side for side in SIDES if side == "weight" or _varies(found[side])]
    cell = max(min(WIDEST, AREA // (len(layers) * len(shown))), NARROWEST)
    top = TILTED if cell >= 12 else 30
    parts = [
        plot.text(NAMES - 8, top + STEP * n + 13, plot.clipped(row.label, 17), "name", "end")
        for n, row in enumerate(rows)
    ]
    for place, side in enumerate(shown):
        left = NAMES + place * (cell * len(layers) + GAP)
        parts += _block(found[side], layers, left, top, cell)
        parts.append(plot.text(left, top + STEP * len(rows) + 16, _WORD[side], "title"))
    width = NAMES + len(shown) * (cell * len(layers) + GAP) + (TILTED - GAP) * (cell >= 12)
    what = f"Mean bits of {len(layers)} layers by framework, {group.budget}"
    return plot.svg(width, top + STEP * len(rows) + 24, parts, what, "bits")


def _varies(found: Sequence[Bits]) -> bool:
    return len({round(bits, 6) for of in found for bits in of.values()}) > 1


def level(bits: float) -> int:
    """The shade of some bits: 0 is pruned, 8 is 8 and more."""
    return min(8, max(0, round(bits)))


def _block(
    found: Sequence[Bits], layers: Sequence[str], left: int, top: int, cell: int
) -> list[str]:
    """The cells of one side: a path a shade, as there may be thousands, and what stands in them."""
    shades: dict[int, list[str]] = defaultdict(list)
    parts = [_head(layer, n, left + cell * n, top, cell) for n, layer in enumerate(layers)]
    for row, of in enumerate(found):
        y, levels = top + STEP * row, [level(of[x]) if x in of else None for x in layers]
        for column, count, shade in _runs(levels):
            if shade is not None:
                start = f"M{left + cell * column} {y + STEP // 2}"
                shades[shade].append(f"{start}h{cell * count - 1}")
        if cell >= NUMBERED:
            digits = "".join(" " if shade is None else str(shade) for shade in levels)
            parts.append(_digits(digits, left + cell // 2, y + 13, cell))
    # Cells of one shade side by side are one line, whose dashes part them.
    dashes = f'stroke-dasharray="{cell - 1} 1"'
    drawn = [f'<path class="b{n}" {dashes} d="{"".join(d)}"/>' for n, d in sorted(shades.items())]
    return drawn + parts


def _runs(values: Sequence[T]) -> Iterator[tuple[int, int, T]]:
    """Where equal values stand side by side: the first place, how many, and the value."""
    place = 0
    for value, run in groupby(values):
        count = len(list(run))
        yield place, count, value
        place += count


def _digits(digits: str, x: int, y: int, step: int) -> str:
    """A digit in each cell of a row: one text for those on light shades, one for the dark ones."""
    parts = []
    for kind, dark in (("on-light", False), ("on-dark", True)):
        mine = [(x + step * n, d) for n, d in enumerate(digits) if d != " " and (d > "4") == dark]
        if mine:
            places = " ".join(str(at) for at, _ in mine)
            text = "".join(d for _, d in mine)
            parts.append(f'<text class="{kind}" y="{y}" x="{places}">{text}</text>')
    return "".join(parts)


def _head(layer: str, number: int, x: float, top: int, cell: int) -> str:
    if cell < 12:  # there is no room for names
        tick = plot.text(x + cell / 2, top - 6, str(number + 1), "tick", "middle")
        return tick if (number + 1) % 10 == 0 or number == 0 else ""
    turned = f'transform="translate({x + cell / 2 + 3:g} {top - 5}) rotate(-45)" class="tick"'
    name = layer if len(layer) <= 15 else f"..{layer[-13:]}"
    return f"<text {turned}>{escape(name)}</text>"


def _axes(most: float) -> str:
    """The lines of no and of most bits; a picture cuts them off at its end."""
    top = BASE - HEIGHT
    return (
        f'<path d="M{LEFT} {BASE}H999M{LEFT} {top}H999" class="ticks"/>'
        f'<text x="2" y="{BASE + 4}">0</text><text x="2" y="{top + 4}">{most:g}</text>'
    )


def axes() -> str:
    """What the bars of a page share, which it has to have once."""
    return (
        f'<svg width=0 height=0 aria-hidden=true><defs><g id="axes">{_axes(MOST)}</g></defs></svg>'
    )


def bars(row: Row, budget: str) -> str:
    """One framework's mean weight bits as bars, its activation bits as ticks above them."""
    weights, acts = (layer_bits(row.records, side) for side in SIDES)
    if not weights:
        return ""
    step = max(min(22, 280 // len(weights)), 3)
    most = max(MOST, *weights.values(), *acts.values())
    middle, broad = (step - 2) / 2, max(step - 2, 2)
    solid = "".join(
        f"M{LEFT + step * n + middle:g} {BASE}v-{HEIGHT * b / most:.0f}"
        for n, b in enumerate(weights.values())
        if b > 0
    )
    heights = [f"{BASE - HEIGHT * b / most:.0f}" for b in acts.values()]
    marks = "".join(
        f"M{LEFT + step * n} {y}h{step * count - (step - broad)}" for n, count, y in _runs(heights)
    )
    width = LEFT + step * len(weights) + 6
    parts = [
        '<use href="#axes"/>' if most == MOST else _axes(most),
        f'<path d="{solid}" stroke-width="{broad}" class="weights"/>',
        f'<path d="{marks}" stroke-dasharray="{broad} {step - broad}" class="acts"/>',
    ]
    said = " ".join(f"{b:.2g}" for b in weights.values())
    return plot.svg(width, BASE + 6, parts, f"Weight bits by layer at {budget}: {said}", "bars")
