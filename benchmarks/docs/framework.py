"""The page of one framework."""

from __future__ import annotations

import re
from collections.abc import Sequence

from benchmarks.docs import claims, facts, measured
from benchmarks.docs.claims import Claim
from benchmarks.docs.markup import code, listed, page, prose, table
from benchmarks.records.escape import markdown as escape
from benchmarks.report.formats import markdown
from benchmarks.report.formats.reported import Reported, entries, reported_block
from benchmarks.report.numbers import format as show
from frameworks import Card, Framework, ScoringFramework

KINDS = {"weight": "weights", "act": "activations"}
NEEDS = {
    "calibration": "a few unlabelled training images",
    "train": "the labelled training split",
    "valid": "the labelled search-validation split",
    "second_order": "a network that can be differentiated twice",
    "separable_cost": "a cost that is a sum over layers",
    "batchnorm": "a network with BatchNorm statistics",
}
"""The needs of cards (`frameworks.Card`), in words."""
ASKED = {"memory_driven": "hardware=mcu budget.like=4"}
"""What to run frameworks on that no limit on bit operations can be given."""


LIMITS = {"given": "no limit: as given"}
"""How a framework meets its budget that neither steers, nor scores, nor keeps to it."""
UNMEASURED = "Not measured in a committed suite yet."
ELSEWHERE = {
    "given": "Its rows have the names of what they came from: see [other toolkits' policies]"
    "(../../results/toolkits/juxtaposition.md)."
}
"""What stands in the place of results, where a framework has none under its own name."""


def paper(card: Card) -> str:
    """Where a framework was published, with a link if there is one."""
    dated = bool(re.search(r"\b\d{4}\b", card.venue))
    venue = "" if card.venue == "arXiv" else card.venue
    where = escape(", ".join(filter(None, [venue, "" if dated else str(card.year)])))
    link = f"[arXiv {card.arxiv}](https://arxiv.org/abs/{card.arxiv})" if card.arxiv else ""
    return ", ".join(filter(None, [where, link]))


def searched(card: Card) -> str:
    """What a framework searches."""
    return " and ".join(f"bits of {KINDS[kind]}" for kind in card.searches)


def framework_page(
    name: str, cls: type[Framework], said: Sequence[Claim], reported: Sequence[Reported]
) -> str:
    """The page of a framework, in Markdown."""
    card, path = cls.card, facts.source(cls)
    known = card.category != "baseline"
    lines = [f"# {code(name)}", ""]
    lines += [f"**{escape(card.title)}**" + (f" ({paper(card)})" if known else ""), ""]
    lines += [prose(facts.sentence(cls)), ""]
    lines += _facts(cls)
    lines += ["## Run it", "", *_commands(name, cls), "## Hyper-parameters", ""]
    lines += _hyperparameters(cls)
    for side in claims.SIDES:
        if found := claims.of(said, name, side):
            lines += [f"## {side.capitalize()}s, as published", ""]
            lines += listed([escape(claim.cited) for claim in found])
    if card.deviations:
        lines += [
            "## Where this differs from the paper" if known else "## Notes",
            "",
            *listed([*map(prose, card.deviations)]),
        ]
    lines += _measured(name)
    if numbers := [n for n in reported if n.framework == name]:
        lines += [
            "## Published numbers",
            "",
            "Of other networks, data and trainings than ours.",
            "",
        ]
        lines += list(markdown.render(reported_block(entries(numbers)), 3))[2:]
    lines += ["## The method", "", f"From [{code(path)}](../../{path}):", ""]
    lines += ["```text", *facts.module_text(cls).splitlines(), "```", ""]
    return page([*lines, "[All frameworks side by side](README.md)"])


def _facts(cls: type[Framework]) -> list[str]:
    card = cls.card
    steered = f"a penalty, {code(cls.strength)}, adjusted to the budget" if cls.strength else ""
    scores = "one scoring pass for all budgets" if issubclass(cls, ScoringFramework) else ""
    rows = [
        ("optimization", card.category),
        ("quantization", ", ".join(card.quantization)),
        ("its own quantizer", code(card.quantizer)),
        ("granularity", card.granularity),
        ("searches", searched(card)),
        ("needs", "; ".join(NEEDS[need] for need in sorted(card.needs)) or "nothing"),
        ("asks the hardware", "yes" if card.hardware_aware else "no"),
        ("meets the budget by", steered or scores or LIMITS.get(cls.name, "a hard limit")),
    ]
    return table(["", ""], [list(row) for row in rows if row[1]])


def _commands(name: str, cls: type[Framework]) -> list[str]:
    found = facts.hyperparameters(cls)
    needed = "".join(f" framework.{p.name}={p.name.upper()}" for p in found if p.required)
    run = f"juxtabit run framework={name} {ASKED.get(name, 'hardware=bops budget.like=3')}{needed}"
    usable = (p for p in found if p.default not in ("None", "''") and not p.required)
    first = next(usable, None)
    also = [f"{run} framework.{first.name}={first.default.replace(' ', '')}"] if first else []
    comment = ["# a hyper-parameter, here at its default"] * bool(also)
    return ["```sh", run, *comment, *also, "```", ""]


def _hyperparameters(cls: type[Framework]) -> list[str]:
    found = facts.hyperparameters(cls)
    if not found:
        return ["It has none.", ""]
    rows = [[code(p.name), code(p.type), code(p.default), prose(p.says)] for p in found]
    return table(["name", "type", "default", "what it is"], rows)


def _measured(name: str) -> list[str]:
    rows = [
        [
            escape(f"{group.protocol}, {group.hardware}, {group.budget}"),
            f"{row.rank} of {measured.ranked(group)}" + ", best or not told apart" * bool(row.best),
            escape(show.estimate(row.accuracy)),
            escape(show.difference(row.gains.get("uniform"))),
            show.si(row.images),
        ]
        for group, row in measured.rows(name)
    ]
    over = [
        [
            code(o.suite),
            escape(o.protocol),
            f"{o.place} of {o.of}",
            escape(show.gain(o.standing.gain)),
            f"{o.standing.leads} of {o.standing.judged}" if o.standing.judged else "-",
            f"{o.standing.groups} of {o.groups}",
        ]
        for o in measured.overviews(name)
    ]
    lines = ["## As measured here", ""]
    if not over:
        return [*lines, ELSEWHERE.get(name, UNMEASURED), ""]
    if rows:
        lines += [
            f"Suite {code(measured.MAIN)} (mean test accuracy in percent over the seeds):",
            "",
        ]
        lines += table(["group", "rank", "accuracy", "vs uniform", "images"], rows, 2)
    lines += [
        "Over all groups of each suite, by mean gain over uniform bits at the same budget:",
        "",
    ]
    headings = ["suite", "protocol", "place", "gain", "best in", "groups with a result"]
    return [*lines, *table(headings, over, 2)]
