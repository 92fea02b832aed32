"""A framework as the site knows it: the card of its records, and what its class says here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.docs import facts
from benchmarks.docs.framework import KINDS, NEEDS

CATEGORIES = ("gradient", "reinforcement", "heuristic", "metaheuristic", "baseline")
OTHER = "other"
"""What has no card, or one of another category; and policies that were found elsewhere."""
DATA = {"labels": ("train", "valid"), "unlabelled images": ("calibration",)}


@dataclass(frozen=True)
class Method:
    """One framework.

    Attributes:
        slug: of its page.
        category: one of `CATEGORIES`, or `OTHER`.
        card: as its newest records have it; empty if they have none.
        summary: the first paragraph of its docstring; empty where it is not installed.
        text: its module's docstring, which follows the paper.
    """

    name: str
    slug: str
    category: str
    card: Mapping[str, Any]
    summary: str = ""
    text: str = ""

    @property
    def data(self) -> str:
        """What data a search needs: ``labels``, ``unlabelled images`` or ``none``."""
        if not self.card:
            return ""
        needs = set(self.card.get("needs", ()))
        return next((word for word, asked in DATA.items() if needs & set(asked)), "none")

    @property
    def facts(self) -> list[tuple[str, str]]:
        """What the card says, in words; what it does not say is left out."""
        card = self.card
        aware = {True: "yes", False: "no"}.get(card.get("hardware_aware", ""), "")
        found = [
            ("category", self.category),
            ("quantization", ", ".join(card.get("quantization", ()))),
            ("its own quantizer", str(card.get("quantizer", ""))),
            ("granularity", str(card.get("granularity", ""))),
            (
                "searches",
                " and ".join(f"bits of {KINDS.get(k, k)}" for k in card.get("searches", ())),
            ),
            ("needs", "; ".join(NEEDS.get(need, need) for need in card.get("needs", ()))),
            ("asks the hardware", aware),
            ("year", str(card.get("year") or "")),
            ("venue", str(card.get("venue", ""))),
        ]
        return [(name, value) for name, value in found if value]


def method_of(name: str, slug: str, card: Mapping[str, Any], said: str) -> Method:
    """A framework of some records, with its docstrings if it is installed.

    Args:
        said: the category of its rows.
    """
    category = said if said in CATEGORIES else OTHER
    cls = _installed(name)
    if cls is None:
        return Method(name, slug, category, card)
    return Method(name, slug, category, card, facts.sentence(cls), facts.module_text(cls))


def _installed(name: str) -> type | None:
    from frameworks import UnknownName, registry

    try:
        return registry.get(name)
    except UnknownName:
        return None
