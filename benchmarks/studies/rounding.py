"""What does rounding weights by a layer's outputs add to the policy of each framework?

    python -m benchmarks.studies.rounding results/fashion_mnist --out FILE.md

Takes the policies that were found under ``ptq`` at one budget, and rounds the weights of each in
every way of the protocol (`frameworks.core.rounding`): to the nearest level, by GPTQ, AdaRound and
AdaQuant. Scores are those on the search-validation images. What is measured is kept in a JSON file
beside the page, so that the command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from scipy.stats import binomtest

from benchmarks.fingerprints.numerics import compute_on, place, place_named
from benchmarks.records.escape import markdown
from benchmarks.records.record import Record
from benchmarks.records.store import find_records, read_json, write_json, write_text
from benchmarks.suite.cell import Run
from benchmarks.suite.identity import environment
from benchmarks.suite.running.several import computed
from frameworks import Policy, rounding

Measured = Mapping[str, Mapping[str, Any]]
"""By policy: ``scores``, accuracy (percent) and loss (nats) by rounding, and ``on``, where made."""
SUMMARY = (
    "rounding", "gain", "least", "most", "lower loss", "p (sign test)", "deviation between policies"
)  # fmt: skip


def measured(record: Record) -> dict[str, Any]:
    """The policy of a record after each rounding."""
    run = Run.aside(record.cell)
    problem, found = run.problem(), {}
    assert record.policy is not None
    for way in rounding.ROUNDINGS:
        network = problem.quantized(Policy.from_json(record.policy))
        problem.rounded(network, way)
        score = problem.score_model(network)
        found[way] = {"accuracy": score.accuracy, "loss": score.loss}
    facts = environment()
    gpu = facts["gpu"] if place().device.type == "cuda" else None
    return {"scores": found, "on": f"{gpu or facts['processor']}, torch {facts['torch']}"}


def page(records: Sequence[Record], found: Measured, title: str) -> str:
    """Markdown: accuracies and losses of every framework, and who gains."""
    ways = rounding.ROUNDINGS
    made = Counter(one["on"] for one in found.values())
    others = [way for way in ways if way != rounding.NEAREST]
    lines = [
        f"# Rounding beyond the nearest level: {title}",
        "",
        "Search-validation accuracy in percent (loss in nats) of each framework's policy, its "
        "weights rounded in four ways; bits are means over weights and over activations. Made by "
        "`python -m benchmarks.studies.rounding`, on "
        + " and ".join(
            f"{where} ({count} of {len(found)} policies)" for where, count in sorted(made.items())
        )
        + "; sums in another order than the records' move accuracies at two bits by some tenths.",
        "",
        "| framework | bits W/A | " + " | ".join(ways) + " |",
        "|:--|--:|" + "--:|" * len(ways),
    ]
    rows = [(r, found[Policy.from_json(r.policy or {}).key]["scores"]) for r in records]
    rows.sort(key=lambda row: -row[1][rounding.NEAREST]["accuracy"])
    for record, scores in rows:
        bits: dict[str, Any] = record.bits or {}
        cells = [f"{scores[w]['accuracy']:.1f} ({scores[w]['loss']:.3f})" for w in ways]
        name = markdown(record.cell["framework"]["name"])
        means = f"{bits['weight']:.2f}/{bits['act']:.2f}"
        lines.append(f"| {name} | {means} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"Over the {len(found)} distinct policies:",
        "",
        "| " + " | ".join(SUMMARY) + " |",
    ]
    lines += ["|:--|" + "--:|" * (len(SUMMARY) - 1)]
    every = [one["scores"] for one in found.values()]
    for way in ways:
        gains = [s[way]["accuracy"] - s[rounding.NEAREST]["accuracy"] for s in every]
        less = sum(s[way]["loss"] < s[rounding.NEAREST]["loss"] for s in every)
        chance = binomtest(less, len(every)).pvalue
        judged = [f"{less} of {len(every)}", f"{chance:.2g}"] if way in others else ["", ""]
        spread = stdev(s[way]["accuracy"] for s in every)
        cells = [way, f"{mean(gains):+.2f}", f"{min(gains):+.1f}", f"{max(gains):+.1f}", *judged]
        lines.append("| " + " | ".join([*cells, f"{spread:.2f}"]) + " |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Round what is missing, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.rounding")
    parser.add_argument("records", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--hardware", default="bops")
    parser.add_argument("--like", type=float, default=2.4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes that round")
    parser.add_argument("--device", default="cpu")
    chosen = parser.parse_args(argv)
    compute_on(place_named(chosen.device))

    def asked(record: Record) -> bool:
        cell = record.cell
        return (
            cell["protocol"]["name"] == "ptq"
            and cell["protocol"]["quantizer"] == "mse"
            and cell["hardware"]["name"] == chosen.hardware
            and cell["budget"].get("like") == chosen.like
            and cell["seed"] == chosen.seed
            and record.policy is not None
        )

    records = [r for r in find_records(chosen.records) if asked(r)]
    if not records:
        raise SystemExit(f"{chosen.records}: no records of ptq with this budget and seed")
    kept = chosen.out.with_suffix(".json")
    found: dict[str, Any] = read_json(kept) if kept.exists() else {}
    todo: dict[str, Record] = {}
    for record in records:
        key = Policy.from_json(record.policy or {}).key
        if key not in found:
            todo.setdefault(key, record)
    keys, tasks = list(todo), [(record,) for record in todo.values()]
    for i, value in computed(measured, tasks, workers=chosen.workers):
        found[keys[i]] = value
        write_json(kept, found)
        name = todo[keys[i]].cell["framework"]["name"]
        print(f"{len(found)}: {name}", file=sys.stderr, flush=True)
    title = f"{chosen.hardware} like={chosen.like:g}, seed {chosen.seed}"
    write_text(chosen.out, page(records, found, title))
    return 0


if __name__ == "__main__":
    sys.exit(main())
