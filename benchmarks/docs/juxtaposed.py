"""The page that juxtaposes all frameworks on the survey's two axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args, get_type_hints

from benchmarks.docs import claims, measured
from benchmarks.docs.claims import Claim
from benchmarks.docs.framework import ELSEWHERE, paper
from benchmarks.docs.markup import code, listed, page, table
from benchmarks.records.escape import markdown as escape
from benchmarks.report.formats.reported import MARKS
from benchmarks.report.numbers.marks import BEST
from frameworks import Card, Framework

INTRO = (
    "[Mixed-Precision Neural Networks: A Survey](https://arxiv.org/abs/2208.06064) classifies "
    "frameworks by their optimization technique and by their quantization technique. Here is every "
    "framework of this project on these two axes, with what papers say for and against it and what "
    "the committed records say. Under `ptq` and `controlled` all use one quantizer, so that only "
    "the searches differ; the technique named here is that of the paper, in force under `paper`."
)
MEANINGS = {
    "deterministic rounding": "to the nearest step of a fixed or measured range",
    "stochastic rounding": "up or down by chance",
    "codebook": "values at any distance, found by clustering",
    "learned range": "steps or clipping points are trained",
    "bit planes": "the bits themselves are trained",
}
"""The quantization techniques of cards, in words."""
RANDOM = (
    "`protocol.quantizer=stochastic` searches and measures any of them under stochastic rounding."
)
SOURCES = (
    "The claims are in our words, each with its source (`results/claims.csv`): the papers "
    "themselves, their code, and later papers on them. The survey's own juxtaposition was not at "
    "hand: where a framework is placed is our reading of its paper."
)


def categories() -> tuple[str, ...]:
    """The optimization techniques, baselines last."""
    return get_args(get_type_hints(Card)["category"])


def juxtaposed(found: Mapping[str, type[Framework]], said: Sequence[Claim]) -> str:
    """The page, in Markdown."""
    cards = {name: cls.card for name, cls in found.items()}
    order = sorted(cards, key=lambda n: (categories().index(cards[n].category), n))
    ordered = {name: cards[name] for name in order}
    lines = ["# The frameworks side by side", "", INTRO, ""]
    lines += ["## Optimization by quantization", "", *_axes(ordered)]
    lines += ["## What each is", "", *_facts(ordered)]
    lines += ["## As measured here", "", *_measured(ordered)]
    lines += ["## Advantages and shortcomings, as published", "", *_claims(ordered, said)]
    return page(lines)


def _link(name: str) -> str:
    return f"[{code(name)}]({name}.md)"


def _axes(cards: Mapping[str, Card]) -> list[str]:
    rows = [
        [
            f"**{category}**",
            *(
                ", ".join(
                    _link(name)
                    for name, card in cards.items()
                    if card.category == category and technique in card.quantization
                )
                for technique in MEANINGS
            ),
        ]
        for category in categories()
    ]
    meanings = [f"{technique}: {says}." for technique, says in MEANINGS.items()]
    empty = [t for t in MEANINGS if not any(t in card.quantization for card in cards.values())]
    notes = [f"No framework here has {technique} as its paper's own yet." for technique in empty]
    notes += [RANDOM] * ("stochastic rounding" in empty)
    return [*table(["", *MEANINGS], rows), *listed([*meanings, *notes])]


def _facts(cards: Mapping[str, Card]) -> list[str]:
    rows = [
        [
            _link(name),
            card.category,
            ", ".join(card.quantization),
            card.granularity,
            ", ".join(card.searches),
            ", ".join(sorted(card.needs)).replace("_", " ") or "nothing",
            "yes" if card.hardware_aware else "no",
            paper(card) if card.category != "baseline" else "",
        ]
        for name, card in cards.items()
    ]
    headings = ["framework", "optimization", "quantization", "granularity", "searches", "needs"]
    return table([*headings, "asks the hardware", "paper"], rows)


def _measured(cards: Mapping[str, Card]) -> list[str]:
    groups = measured.suites()[measured.MAIN].groups
    rows = []
    for name in (name for name in cards if name not in ELSEWHERE):
        ranks = {id(group): row for group, row in measured.rows(name)}
        cells = [ranks.get(id(group)) for group in groups]
        said = [f"{row.rank}{BEST * bool(row.best)}" if row else "-" for row in cells]
        rows.append([_link(name), *said])
    headings = [escape(f"{g.protocol}, {g.hardware}, {g.budget}") for g in groups]
    note = (
        f"The rank by mean test accuracy in the groups of the suite {code(measured.MAIN)} "
        f"([table](../../results/{measured.MAIN}/juxtaposition.md)). {BEST}: the best, or not told "
        "apart from it; -: not measured in it, or without a rank there. Every framework's "
        "page has the numbers, and its place in the other suites."
    )
    return [note, "", *table(["framework", *headings], rows, 1)]


def _claims(cards: Mapping[str, Card], said: Sequence[Claim]) -> list[str]:
    sources = {(claim.source, claim.mark): 0 for claim in said if claim.framework in cards}
    sources = {source: number for number, source in enumerate(sources, 1)}
    rows = [
        [
            _link(name),
            *(
                "; ".join(
                    f"{escape(c.claim)} \\[{sources[c.source, c.mark]}\\]"
                    for c in claims.of(said, name, side)
                )
                for side in claims.SIDES
            ),
        ]
        for name, card in cards.items()
        if card.category != "baseline"
    ]
    notes = [f"\\[{n}\\] {escape(source)} ({mark})" for (source, mark), n in sources.items()]
    notes += [f"{mark}: {meaning}." for mark, meaning in MARKS.items()]
    return [*table(["framework", "for", "against"], rows), SOURCES, "", *listed(notes)]
