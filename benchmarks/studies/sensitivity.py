"""Do second-order sensitivities predict what low bits cost?

    python -m benchmarks.studies.sensitivity results/fashion_mnist/records/KEY.json --out FILE.md

Takes a record of HAWQ-V3, scores its problem again, and sets half of every Omega (the second-order
rise of the loss, see `frameworks.heuristic.hawq_v3.framework`) beside the rise that is measured on
the search-validation images when one layer's weights or activations alone go to those bits. All
other layers stay at their most bits.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr

from benchmarks.records.escape import markdown
from benchmarks.records.record import Record
from benchmarks.records.store import read_record, write_text
from benchmarks.suite.cell import Run
from frameworks import Problem, ScoringFramework


@dataclass(frozen=True)
class Point:
    """One layer's weights or activations at low bits: the predicted and the measured rise."""

    kind: str
    layer: str
    bits: int
    predicted: float
    measured: float


def points(
    problem: Problem, scores: dict[str, Any], bits: Sequence[int] = (2, 3, 4)
) -> list[Point]:
    """Every free decision on weights or activations alone, at each of the bits that it may take."""
    most = problem.space.highest()
    base = problem.evaluate(most).loss
    found = []
    for choice in problem.space.choices:
        if choice.kind == "both":
            continue
        for low in sorted(set(bits) & set(choice.bits[:-1])):
            policy = most
            for name in choice.layers:
                policy = policy.replace(name, **{choice.kind: low})
            omega = sum(
                abs(scores[f"{choice.kind}_trace"][name])
                * scores[f"{choice.kind}_error"][name][str(low)]
                for name in choice.layers
            )
            rise = problem.evaluate(policy).loss - base
            found.append(Point(choice.kind, choice.layers[0], low, omega / 2, rise))
    return found


def page(found: Sequence[Point], title: str) -> str:
    """Markdown: sums and rank correlation by kind, then every point."""
    lines = [f"# Predicted and measured rise of the loss: {markdown(title)}", ""]
    lines += [
        "| what | bits | predicted, sum | measured, sum | rank correlation |",
        "|:--|--:|--:|--:|--:|",
    ]
    for kind in ("weight", "act"):
        for bits in sorted({p.bits for p in found}):
            some = [p for p in found if p.kind == kind and p.bits == bits]
            if some:
                pairs = [[p.predicted for p in some], [p.measured for p in some]]
                rank = float(spearmanr(*pairs).statistic) if len(some) > 2 else math.nan
                sums = [math.fsum(side) for side in pairs]
                lines.append(f"| {kind} | {bits} | {sums[0]:.4f} | {sums[1]:.4f} | {rank:.2f} |")
    lines += ["", "| what | layer | bits | predicted | measured |", "|:--|:--|--:|--:|--:|"]
    lines += [
        f"| {p.kind} | {markdown(p.layer)} | {p.bits} | {p.predicted:.4f} | {p.measured:.4f} |"
        for p in found
    ]
    return "\n".join(lines) + "\n"


def compare(record: Record) -> str:
    """The page of a record of HAWQ-V3.

    Raises:
        ValueError: the record is of another framework.
    """
    name = record.cell["framework"]["name"]
    if name != "hawq_v3":
        raise ValueError(f"{record.key}: a record of hawq_v3 is needed, this is one of {name}")
    run = Run.aside(record.cell)
    framework, problem = run.setting.framework, run.problem()
    assert isinstance(framework, ScoringFramework)
    # Activations have a sensitivity of their own only where their bits are free.
    framework = replace(framework, paired=False)  # type: ignore[type-var]
    found = points(problem, dict(framework.score(problem).values))
    cell = record.cell
    title = f"{cell['model']['name']} on {cell['dataset']['name']}, seed {cell['seed']}"
    return page(found, title)


def main(argv: Sequence[str] | None = None) -> int:
    """Compare and print, and write where asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.sensitivity")
    parser.add_argument("record", type=Path, help="the JSON of a finished cell of hawq_v3")
    parser.add_argument("--out", type=Path, help="write the page here, too")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    text = compare(read_record(options.record))
    print(text)
    if options.out:
        write_text(options.out, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
