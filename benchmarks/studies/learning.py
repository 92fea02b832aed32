"""Do searches by gradients learn from data, or does their penalty alone choose the bits?

    python -m benchmarks.studies.learning --out results/learning.md

Every method of the category ``gradient`` searches at the settings of a suite, with the gradient of
its task loss and without it: the same images, steps and penalty, of which only the loss says
nothing any more (GMPQ's attributions neither). Both are steered to the budget as in the suite, and
both policies are measured on the search-validation images, untrained. What is found is kept in a
JSON file beside the page, so that the command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import math
import pkgutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import mean
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.fingerprints.numerics import library
from benchmarks.records.escape import markdown
from benchmarks.records.record import digest
from benchmarks.records.store import read_json, write_json, write_text
from benchmarks.suite.cell import Run
from benchmarks.suite.config import Cell, composed, suite_cells
from benchmarks.suite.progress import title
from benchmarks.suite.running.several import computed
from frameworks import registry, seeded, steer

OTHERS = {"gmpq": "frameworks.gradient.gmpq.attribution.distance"}
"""What a method learns from data by, beside its task loss."""
SIDES = ("with", "without")
BLIND_RUNS = 3
"""At the least, of a search without its loss, whose cost at the same strength is another one."""


@contextmanager
def silenced(method: str) -> Iterator[None]:
    """Within the context what a method has from data keeps its value and has a gradient of 0.

    Nothing is said of a collapse, which is seen by the loss.
    """

    def still(plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def constant(first: Tensor, *arguments: Any, **options: Any) -> Tensor:
            return plain(first, *arguments, **options).detach() + 0 * first.sum()

        return constant

    names = ["torch.nn.functional.cross_entropy", *filter(None, [OTHERS.get(method)])]
    with ExitStack() as patches:
        for name in names:
            plain = pkgutil.resolve_name(name)
            patches.enter_context(mock.patch(name, still(plain)))
        patches.enter_context(mock.patch("frameworks.core.search.steering.CHANCE", math.inf))
        yield


def of_suite(suite: str, only: Sequence[str] = (), frameworks: Sequence[str] = ()) -> list[Cell]:
    """The cells of a suite whose methods search by gradients, of those with all words in the title.

    Args:
        suite: its name.
        only: words of a title.
        frameworks: names of methods; none for all.

    Raises:
        ValueError: there is none, or none of a method that was named.
    """
    every = [
        cell
        for cell in suite_cells(composed([f"+suite={suite}"]))
        if registry.get(cell["framework"]["name"]).card.category == "gradient"
        and set(only) <= set(title(cell).split())
    ]
    names = list(dict.fromkeys(cell["framework"]["name"] for cell in every))
    if not names:
        raise ValueError(f"suite {suite}: no method that searches by gradients has {only}")
    for name in frameworks:
        if name not in names:
            raise ValueError(f"frameworks: {name!r} is none of {', '.join(names)}")
    return [c for c in every if not frameworks or c["framework"]["name"] in frameworks]


def name_of(cell: Cell) -> str:
    """What a cell's searches are kept under: its configuration and the revision of all numbers."""
    return digest({"cell": cell, "code": library()})


def looked(cell: Cell) -> dict[str, Any]:
    """One cell's search with its task loss's gradient and without it.

    Returns:
        for each of `SIDES` the ``policy``, its ``accuracy`` (percent) and ``loss`` (nats) on the
        search-validation images, whether it is ``within`` the budget, whether the search's own
        objective ``improved``, and whether it ``collapsed``.
    """
    found: dict[str, Any] = {}
    for side in SIDES:
        run = Run.aside(cell)
        framework, runs = run.setting.framework, run.protocol["steering_runs"]
        problem, judge = run.problem(framework.card.needs), run.problem()
        with ExitStack() as context:
            context.enter_context(seeded(run.seed, "global"))
            if side == "without":
                context.enter_context(silenced(framework.name))
                runs = max(runs, BLIND_RUNS)
            solution = steer(framework, problem, runs)
        score = judge.evaluate(solution.policy)
        found[side] = {
            "policy": solution.policy.to_json(),
            "accuracy": score.accuracy,
            "loss": score.loss,
            "within": judge.within(solution.policy),
            "improved": bool(solution.notes.get("learning", {}).get("improved")),
            "collapsed": bool(solution.notes.get("collapsed")),
        }
    return found


def page(
    cells: Sequence[Cell], found: Sequence[dict[str, Any]], suite: str, options: str = ""
) -> str:
    """Markdown: a row for each method."""
    seeds = len({cell["seed"] for cell in cells})
    heading = ["framework", "with", "without", "gain", "lower loss", "other policy", "least"]
    lines = [
        f"# What searches by gradients learn from data: the suite {suite}",
        "",
        f"Search-validation accuracy in percent of the policies, untrained, means over {seeds} "
        "seeds: with the gradient of the task loss, and without it (the penalty alone). Of the "
        "seeds, those in which the loss of the policy is lower with it, and in which the policy "
        "is another one; the least accuracy with it. † one of the policies is over the budget. "
        f"Made by `python -m benchmarks.studies.learning{options}`.",
        "",
        "| " + " | ".join(heading) + " |",
        "|:--|" + "--:|" * (len(heading) - 1),
    ]
    rows: dict[str, list[dict[str, Any]]] = {}
    for cell, one in zip(cells, found, strict=True):
        rows.setdefault(cell["framework"]["name"], []).append(one)
    for name, ones in rows.items():
        on, off = ([one[side]["accuracy"] for one in ones] for side in SIDES)
        over = not all(one[side]["within"] for one in ones for side in SIDES)
        lower = sum(one["with"]["loss"] < one["without"]["loss"] for one in ones)
        other = sum(one["with"]["policy"] != one["without"]["policy"] for one in ones)
        entries = [markdown(name) + " †" * over, f"{mean(on):.1f}", f"{mean(off):.1f}"]
        entries += [f"{mean(on) - mean(off):+.1f}", f"{lower} of {len(ones)}"]
        entries += [f"{other} of {len(ones)}", f"{min(on):.1f}"]
        lines.append("| " + " | ".join(entries) + " |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Search what is missing, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.learning")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--suite", default="quick")
    parser.add_argument(
        "--only", nargs="+", default=[], help="words of the cells' titles, as of --dry-run"
    )
    parser.add_argument(
        "--frameworks", nargs="+", default=[], metavar="NAME", help="of these methods alone"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes that search")
    chosen = parser.parse_args(argv)
    torch.set_num_threads(1)
    cells = of_suite(chosen.suite, chosen.only, chosen.frameworks)
    options = "" if chosen.suite == "quick" else f" --suite {chosen.suite}"
    options += f" --only {' '.join(chosen.only)}" if chosen.only else ""
    options += f" --frameworks {' '.join(chosen.frameworks)}" if chosen.frameworks else ""
    keys = [name_of(cell) for cell in cells]
    kept = chosen.out.with_suffix(".json")
    had: dict[str, Any] = read_json(kept) if kept.exists() else {}
    found = dict(had)  # those of other methods or seeds stay
    todo = [i for i, key in enumerate(keys) if key not in found]
    for i, one in computed(looked, [(cells[i],) for i in todo], workers=chosen.workers):
        found[keys[todo[i]]] = one
        write_json(kept, found)
        name, seed = cells[todo[i]]["framework"]["name"], cells[todo[i]]["seed"]
        accuracies = " and ".join(f"{one[side]['accuracy']:.1f} {side}" for side in SIDES)
        done = sum(key in found for key in keys)
        print(f"{done} of {len(keys)}: {name} seed={seed}: {accuracies}", file=sys.stderr)
    suite = " ".join([chosen.suite, *chosen.only])
    write_text(chosen.out, page(cells, [found[key] for key in keys], suite, options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
