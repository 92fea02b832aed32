"""Drawing primitives for inline SVG: scales, ticks, markers and a set of axes.

Colours come from the page's style sheet (classes ``s0`` to ``s6`` and ``base``), so that a
picture follows the reader's light or dark scheme.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from benchmarks.records.escape import html as escape

COLOURS = 7
_UNIT = {
    "circle": None,
    "square": [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)],
    "triangle": [(0, -1.15), (1.05, 0.8), (-1.05, 0.8)],
    "diamond": [(0, -1.25), (1.1, 0), (0, 1.25), (-1.1, 0)],
    "down": [(0, 1.15), (1.05, -0.8), (-1.05, -0.8)],
    "star": [
        (
            1.3 * (1.0 if i % 2 else 0.45) * math.sin(i * math.pi / 5),
            1.3 * (1.0 if i % 2 else 0.45) * math.cos(i * math.pi / 5),
        )
        for i in range(10)
    ],
}
MARKERS = tuple(_UNIT)


@dataclass(frozen=True)
class Style:
    """How a series looks: a colour class and a marker, both different between neighbours."""

    colour: str
    marker: str

    @classmethod
    def number(cls, index: int) -> Style:
        """The style of a surveyed framework."""
        return cls(f"s{index % COLOURS}", MARKERS[index % len(MARKERS)])

    @classmethod
    def baseline(cls, index: int) -> Style:
        """The style of a baseline."""
        return cls("base", MARKERS[(index + 1) % len(MARKERS)])


def number(value: float) -> str:
    """A coordinate, short."""
    return f"{value:.1f}".rstrip("0").rstrip(".")


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers within a range."""
    span = high - low
    if span <= 0:
        return [low]
    step = 10 ** math.floor(math.log10(span / count))
    step *= next(m for m in (1, 2, 5, 10) if span / (step * m) <= count)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def log_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Powers of ten within a range; round numbers between them if there are too few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        found = [f * 10.0**p for p in powers for f in factors]
        found = [t for t in found if low * 0.999 <= t <= high * 1.001]
        if len(found) >= 2:
            break
    while len(found) > count:
        found = found[::2]
    return found or [low]


@dataclass(frozen=True)
class Scale:
    """Maps a range of numbers to pixels, linearly or by logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(max(value, self.low * 1e-3))
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int) -> list[float]:
        """Round numbers within the range."""
        return (log_ticks if self.log else ticks)(self.low, self.high, count)


def padded(values: Iterable[float], share: float = 0.06, least: float = 0.0) -> tuple[float, float]:
    """The range of some values with a margin on both sides, at least ``least`` wide."""
    kept = list(values)
    low, high = min(kept), max(kept)
    margin = max((high - low) * share, (least - (high - low)) / 2, abs(high) * 1e-6, 1e-9)
    return low - margin, high + margin


def marker(shape: str, x: float, y: float, size: float) -> str:
    """A filled marker."""
    corners = _UNIT[shape]
    if corners is None:
        return f'<circle cx="{number(x)}" cy="{number(y)}" r="{number(size)}"/>'
    points = " ".join(f"{number(x + size * a)},{number(y + size * b)}" for a, b in corners)
    return f'<polygon points="{points}"/>'


def ring(x: float, y: float, size: float) -> str:
    """A circle around a marker."""
    return f'<circle cx="{number(x)}" cy="{number(y)}" r="{number(size)}" class="ring"/>'


def path(points: Sequence[tuple[float, float]]) -> str:
    """The data of a polyline; what is level or upright, as stairs are, takes one number."""
    shown = [(number(x), number(y)) for x, y in points]
    parts = [f"M{x} {y}" for x, y in shown[:1]]
    for (before, height), (x, y) in pairwise(shown):
        parts.append(f"H{x}" if y == height else f"V{y}" if x == before else f"L{x} {y}")
    return "".join(parts)


def stairs(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The corners of a step function that holds each value until the next point."""
    corners = list(points[:1])
    for (_, before), (x, after) in pairwise(points):
        corners += [(x, before), (x, after)] if after != before else [(x, after)]
    return corners


def spread(positions: Sequence[float], gap: float) -> list[float]:
    """Positions moved apart until neighbours are ``gap`` apart, in the given order."""
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    placed = list(positions)
    for _ in range(50):
        for i, j in pairwise(order):
            lacking = gap - (placed[j] - placed[i])
            if lacking > 1e-6:
                placed[i] -= lacking / 2
                placed[j] += lacking / 2
    return placed


def text(x: float, y: float, content: str, classes: str = "", anchor: str = "start") -> str:
    """A piece of text."""
    return (
        f'<text x="{number(x)}" y="{number(y)}" class="{classes}" text-anchor="{anchor}">'
        f"{escape(content)}</text>"
    )


def clipped(content: str, width: int) -> str:
    """Text of at most so many letters."""
    return content if len(content) <= width else f"{content[: width - 2]}.."


def line(x1: float, y1: float, x2: float, y2: float, classes: str = "") -> str:
    """A straight line."""
    ends = f'x1="{number(x1)}" y1="{number(y1)}" x2="{number(x2)}" y2="{number(y2)}"'
    return f'<line {ends} class="{classes}"/>'


def svg(width: float, height: float, parts: Iterable[str], label: str, classes: str = "") -> str:
    """A whole picture with a description for those who cannot see it."""
    return (
        f'<svg viewBox="0 0 {number(width)} {number(height)}" width="{number(width)}" '
        f'height="{number(height)}" class="{classes}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def namespaced(drawn: str) -> str:
    """A picture of `svg` as a file of its own needs it: with SVG's namespace."""
    return drawn.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)


@dataclass
class Axes:
    """A frame with grid, tick labels and axis titles, and the parts drawn into it."""

    width: float
    height: float
    x: Scale
    y: Scale
    parts: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        size: tuple[float, float],
        xs: tuple[float, float],
        ys: tuple[float, float],
        margins: tuple[float, float, float, float] = (12, 14, 42, 54),
        log: bool = False,
    ) -> Axes:
        """Axes of a size in pixels over two ranges; margins are top, right, bottom, left."""
        (width, height), (top, right, bottom, left) = size, margins
        x = Scale(*xs, left, width - right, log)
        return cls(width, height, x, Scale(*ys, height - bottom, top))

    def frame(
        self,
        x_title: str,
        y_title: str,
        x_text: Sequence[tuple[float, str]],
        y_text: Sequence[tuple[float, str]],
    ) -> None:
        """Draw grid lines with their labels, and the titles."""
        x, y = self.x, self.y
        for value, label in y_text:
            self.parts.append(line(x.start, y(value), x.end, y(value), "grid"))
            self.parts.append(text(x.start - 6, y(value) + 4, label, "tick", "end"))
        for value, label in x_text:
            self.parts.append(line(x(value), y.start, x(value), y.start + 4, "axis"))
            self.parts.append(text(x(value), y.start + 16, label, "tick", "middle"))
        self.parts.append(line(x.start, y.start, x.end, y.start, "axis"))
        if x_title:
            self.parts.append(
                text((x.start + x.end) / 2, self.height - 6, x_title, "title", "middle")
            )
        if y_title:
            middle = (y.start + y.end) / 2
            self.parts.append(
                f'<text transform="translate(12 {number(middle)}) rotate(-90)" class="title" '
                f'text-anchor="middle">{escape(y_title)}</text>'
            )

    def render(self, label: str, classes: str = "") -> str:
        """The picture."""
        return svg(self.width, self.height, self.parts, label, classes)
