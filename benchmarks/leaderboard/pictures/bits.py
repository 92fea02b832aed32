"""Bits by layer: strips that compare frameworks, and bars of one framework's policy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from benchmarks.leaderboard.contents.policies import SIDES, layer_bits
from benchmarks.records.escape import html as escape
from benchmarks.report.numbers.groups import Group
from benchmarks.report.numbers.rows import Row
from benchmarks.report.pictures import plot

NAMES, STEP, GAP = 118, 18, 26
WIDEST, NARROWEST, AREA = 30, 5, 620
"""Pixels of a layer, and of all layers together where they have to share."""
NUMBERED = 20
"""Cells of at least so many pixels have their number in them."""
TILTED = 74
"""Pixels for the names of layers above the strips."""
_WORD = {"weight": "weight bits", "act": "activation bits"}

Bits = Mapping[str, float]


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
    numbers: dict[str, list[str]] = defaultdict(list)
    for row, of in enumerate(found):
        for column, layer in enumerate(layers):
            if layer not in of:
                continue
            x, y = left + cell * column, top + STEP * row
            shades[level(of[layer])].append(f"M{x} {y + STEP // 2}h{cell - 1}")
            if cell >= NUMBERED:
                kind = "on-dark" if level(of[layer]) >= 5 else "on-light"
                text = f"{of[layer]:.1f}".removesuffix(".0")
                numbers[kind].append(f'<text x="{x + cell / 2:g}" y="{y + 13}">{text}</text>')
    parts += [f'<path class="b{n}" d="{"".join(d)}"/>' for n, d in sorted(shades.items())]
    return parts + [f'<g class="{kind}">{"".join(of)}</g>' for kind, of in numbers.items()]


def _head(layer: str, number: int, x: float, top: int, cell: int) -> str:
    if cell < 12:  # there is no room for names
        tick = plot.text(x + cell / 2, top - 6, str(number + 1), "tick", "middle")
        return tick if (number + 1) % 10 == 0 or number == 0 else ""
    turned = f'transform="translate({x + cell / 2 + 3:g} {top - 5}) rotate(-45)" class="tick"'
    name = layer if len(layer) <= 16 else f"..{layer[-14:]}"
    return f"<text {turned}>{escape(name)}</text>"


def bars(row: Row, budget: str) -> str:
    """One framework's mean weight bits as bars, its activation bits as ticks above them."""
    weights, acts = (layer_bits(row.records, side) for side in SIDES)
    if not weights:
        return ""
    left, base, height = 20, 76, 64
    step = max(min(22, 280 // len(weights)), 3)
    most = max(8.0, *weights.values(), *acts.values())
    width = left + step * len(weights) + 6
    parts = []
    lines = "".join(f"M{left} {base - height * t / most:g}H{width - 4}" for t in (0, 4, 8))
    parts.append(f'<path d="{lines}" class="ticks"/>')
    parts += [plot.text(2, base - height * t / most + 4, str(t)) for t in (0, 8)]
    middle = (step - 2) / 2
    solid = "".join(
        f"M{left + step * n + middle:g} {base}v-{height * b / most:.0f}"
        for n, b in enumerate(weights.values())
        if b > 0
    )
    broad = f'<path d="{solid}" stroke-width="{max(step - 2, 2)}" class="weights"/>'
    marks = "".join(
        f"M{left + step * n} {base - height * b / most:.0f}h{max(step - 2, 2)}"
        for n, b in enumerate(acts.values())
    )
    parts.append(f'{broad}<path d="{marks}" class="acts"/>')
    said = " ".join(f"{b:.2g}" for b in weights.values())
    return plot.svg(width, base + 6, parts, f"Weight bits by layer at {budget}: {said}", "bars")
