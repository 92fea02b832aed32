"""One colour and one marker a category: told apart in print and by the colour-blind, too."""

from __future__ import annotations

from benchmarks.leaderboard.contents.methods import CATEGORIES, OTHER
from benchmarks.report.pictures.plot import Style

_MARKERS = ("circle", "triangle", "square", "diamond", "star", "down")
LOOKS = {
    category: Style(f"c-{category}", shape)
    for category, shape in zip((*CATEGORIES, OTHER), _MARKERS, strict=True)
}


def swatch(category: str) -> str:
    """A category's marker, for names and legends; the style sheet has its shape."""
    return f'<i class="mark {LOOKS[category].colour}"></i>'
