"""What a whole space tells: its front, regrets of searches, ranks of sensitivities, additivity.

    python -m benchmarks.studies.landscape results/oracle/NAME.parquet --out results/oracle/NAME

The table is one of ``juxtabit oracle``. Searches look their scores up in it, with the settings in
``settings.json``; each is kept, so that the command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.oracle.oracle_table import OracleTable
from benchmarks.records.store import write_text
from benchmarks.studies.landscape import page
from benchmarks.studies.landscape.shape import additivity
from benchmarks.studies.landscape.study import Study, settings


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.landscape")
    parser.add_argument("table", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--lengths", nargs="*", help="of searches; default: all")
    parser.add_argument("--workers", type=int, default=1, help="processes that search")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    plan = settings()
    study = Study(OracleTable.read(chosen.table), plan, chosen.out, chosen.workers)
    write_text(chosen.out / "study.md", written(study, chosen.seeds or plan["seeds"], chosen))
    return 0


def written(study: Study, seeds: int, chosen: argparse.Namespace) -> str:
    """Make what is missing, draw the pictures, and give the page."""

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    table, cost = study.table, f"cost.{study.ground.target}"
    lengths = f" --lengths {' '.join(chosen.lengths)}" if chosen.lengths else ""
    measures = [name for name in table.columns if name.startswith(("valid.", "test."))]
    shapes = {name: additivity(table, name) for name in measures}
    write_text(chosen.out / "front.svg", page.landscape_picture(table, cost, "test.accuracy"))
    lines = [
        f"# The landscape {chosen.table.stem}",
        "",
        f"`python -m benchmarks.studies.landscape {chosen.table} --out {chosen.out}{lengths}` "
        f"makes this page from a table of {len(table)} policies ({table.fingerprint()[:16]}).",
        "",
        "![front](front.svg)",
        "",
        "## How nearly losses add up over layers",
        "",
        "Shares of the variance over all policies that the best sum of one term a decision "
        "explains, and with one for each pair of decisions; and how well the sum of what each "
        "decision changes alone (from the most bits) orders all policies.",
        "",
        *page.additive_lines(shapes),
        "",
        "## How well sensitivities order the loss",
        "",
        "Spearman's rank correlation with the loss on the search-validation images.",
        "",
        *page.rank_lines(study.ranks(say)),
        "",
        "## Regret",
        "",
        "Points of search-validation accuracy that are missing to the best policy of the budget, "
        "by evaluations; means over seeds with 95 % intervals. `test`: what the returned "
        "policy lacks on the test images to the one that is best on the search-validation images; "
        "`loss`: by how much its loss on the search-validation images is more than the least of "
        "the budget, in nats, as some methods go by the loss.",
        "",
    ]
    cheapest = {
        like: best.valid - float(table.columns["valid.accuracy"][0])
        for like, best in study.ground.truths.items()
    }
    for length, facts in study.plan["searches"].items():
        if chosen.lengths and length not in chosen.lengths:
            continue
        own = min(seeds, facts.get("seeds", seeds))
        runs = study.regrets(length, own, say)
        lines += [f"### {length}: {facts['what']} ({own} seeds)", ""]
        lines += page.regret_lines(runs, study.ground.truths, study.plan["places"], cheapest)
        for like in study.ground.truths:
            name = f"regret-{length}-{like:g}.svg"
            write_text(
                chosen.out / name,
                page.regret_picture(runs, like, cheapest[like]),
            )
            lines += [f"![regret at like={like:g}]({name})", ""]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    sys.exit(main())
