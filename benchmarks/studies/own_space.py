"""Is a policy poor for what its method can choose from, or for what it is measured by?

    python -m benchmarks.studies.own_space results/fashion_mnist/records --out FILE.md

Some methods choose among fewer policies than random search does (one width for all activations,
equal bits for both, no more weight bits than activation bits), and some rank policies by a network
that they train, while ``ptq`` measures them untrained. So each committed policy of such a method is
set beside random ones of the whole space and of the method's own, all as near to the budget as a
step allows, on the search-validation images: untrained, and after a short training. What the method
says that its policies lose is ranked against both (Spearman). Each look is kept in a JSON file
beside the page, so that the command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from scipy.stats import spearmanr

from benchmarks.records.record import Record
from benchmarks.records.store import find_records, read_json, write_json, write_text
from benchmarks.suite.cell import Run
from frameworks import Policy, Problem, Recipe, Score, ScoringFramework

OWN = {
    "ompq": "one width for all activations",
    "bmpq": "equal bits of weights and activations, 2 or 4",
    "limpq": "the whole space",
    "spos": "the pairs of bits that it is given",
}
"""The methods, and what each can choose from."""
DRAWS, TRAINED = 30, 8
SHORT = Recipe(epochs=1, images=2048, batch=64, lr=0.01, weight_decay=1e-4)
Allowed = Callable[[int, int], bool]
Pairs = Sequence[Sequence[int]]
Predicted = Callable[[Policy], float]


def allowed(method: str, found: Policy, free: Sequence[str], pairs: Pairs = ()) -> Allowed:
    """Which (weight, activation) bits a layer may have in a method's own space.

    Args:
        method: its name.
        found: its policy.
        free: the layers that are searched.
        pairs: of bits that it was given to choose from; none for all that SPOS forms by itself.
    """
    acts = {found[name].act for name in free}
    rules: dict[str, Allowed] = {
        "ompq": lambda w, a: a in acts,
        "bmpq": lambda w, a: w == a and w in (2, 4),
        "limpq": lambda w, a: True,
        "spos": lambda w, a: [w, a] in pairs if pairs else w <= a,
    }
    return rules[method]


def drawn(problem: Problem, rule: Allowed, rng: np.random.Generator) -> Policy:
    """A random policy of a space: lowered step by step until it fits, then raised while it does."""
    costs = problem.layer_costs()
    free = {layer.name for layer in problem.space.free_layers}
    options = {
        name: sorted((p for p in row if name not in free or rule(*p)), key=lambda p: (row[p], p))
        for name, row in costs.items()
    }
    at = {name: int(rng.integers(len(options[name]))) for name in options}

    def policy() -> Policy:
        return Policy({name: options[name][i] for name, i in at.items()})

    while not problem.within(policy()):
        at[str(rng.choice([name for name, i in at.items() if i]))] -= 1
    for name in rng.permutation(sorted(at)).tolist():
        for i in reversed(range(at[name] + 1, len(options[name]))):
            low, at[name] = at[name], i
            if problem.within(policy()):
                break
            at[name] = low
    return policy()


@runtime_checkable
class Trains(Protocol):
    """A method that scores policies by a network that it trains first."""

    def scorer(
        self, problem: Problem, notes: dict[str, Any]
    ) -> tuple[Callable[[Policy], Score], Any]:
        """What scores policies, and how its training went."""


def predictor(record: Record, run: Run, problem: Problem) -> Predicted:
    """What a method says that a policy loses, up to its scale."""
    framework = run.setting.framework
    if isinstance(framework, Trains):
        score, _ = framework.scorer(problem, {})
        return lambda policy: score(policy).loss
    if isinstance(framework, ScoringFramework):
        losses = framework.losses(problem, framework.score(problem))
        assert losses is not None
        return lambda policy: math.fsum(losses[n][b.weight, b.act] for n, b in policy.items())  # type: ignore[index]
    worth = record.notes["sensitivity"]
    return lambda policy: -math.fsum(worth.get(n, 0.0) * b.mean_weight for n, b in policy.items())


@dataclass(frozen=True)
class Look:
    """One record beside random policies: losses, accuracies in percent, and ranks.

    Attributes:
        whole, own: accuracies of random policies of the whole space and of the method's own,
            ``(untrained, trained)``.
        mine: those of the method's policy.
        ranks: Spearman of the predicted with the measured loss over the method's own space,
            untrained and trained; NaN where it predicts the same for all.
    """

    method: str
    seed: int
    whole: tuple[list[float], list[float]]
    own: tuple[list[float], list[float]]
    mine: tuple[float, float]
    ranks: tuple[float, float]


@dataclass(frozen=True)
class Sample:
    """Random policies of a space and their scores, untrained and (the first of them) trained."""

    policies: list[Policy]
    scores: tuple[list[Score], list[Score]]

    @classmethod
    def of(cls, problem: Problem, rule: Allowed, seed: int, policies: int, trained: int) -> Sample:
        """Draw and measure; a space may have fewer policies than asked for."""
        rng = np.random.default_rng(seed)
        found = dict.fromkeys(drawn(problem, rule, rng) for _ in range(3 * policies))
        chosen = list(found)[:policies]
        untrained = [problem.evaluate(policy) for policy in chosen]
        after = [problem.evaluate(policy, SHORT) for policy in chosen[:trained]]
        return cls(chosen, (untrained, after))

    @property
    def accuracies(self) -> tuple[list[float], list[float]]:
        """In percent."""
        untrained, trained = ([score.accuracy for score in side] for side in self.scores)
        return untrained, trained


def look(
    record: Record, known: dict[int, Sample], policies: int = DRAWS, trained: int = TRAINED
) -> Look:
    """Compare one record.

    Args:
        record: of one of the methods.
        known: random policies of the whole space by seed; they are added where missing.
        policies, trained: how many random policies are measured, and how many of them trained.
    """
    run = Run.aside(record.cell)
    problem, framework = run.problem().at(retrains=True), run.setting.framework
    assert record.policy is not None
    mine = Policy.from_json(record.policy)
    free = [layer.name for layer in problem.space.free_layers]
    pairs: Pairs = record.cell["framework"].get("pairs", ())
    sizes = run.seed, policies, trained
    if run.seed not in known:
        known[run.seed] = Sample.of(problem, lambda w, a: True, *sizes)
    own = Sample.of(problem, allowed(framework.name, mine, free, pairs), *sizes)
    predicted = predictor(record, run, run.problem(framework.card.needs))
    said = [predicted(policy) for policy in own.policies]
    ranks = [
        float(spearmanr(said[: len(side)], [score.loss for score in side]).statistic)
        for side in own.scores
    ]
    return Look(
        framework.name, run.seed, known[run.seed].accuracies, own.accuracies,
        (problem.evaluate(mine).accuracy, problem.evaluate(mine, SHORT).accuracy),
        (ranks[0], ranks[1]),
    )  # fmt: skip


def _row(found: Look) -> str:
    cells = [found.method, str(found.seed), OWN[found.method]]
    for i in range(2):
        for side in (found.whole[i], found.own[i]):
            cells += [f"{np.mean(side):.1f}", f"{max(side):.1f}"]
        cells += [f"{found.mine[i]:.1f}", f"{found.ranks[i]:.2f}"]
    return "| " + " | ".join(cells) + " |"


def page(looks: Sequence[Look], title: str) -> str:
    """Markdown: a row for each record."""
    sides = ("untrained", "trained")
    names = [
        f"{side}, {what}"
        for side in sides
        for what in ("mean", "best", "own mean", "own best", "its policy", "rank")
    ]
    heading = ["method", "seed", "its own space", *names]
    return "\n".join(
        [
            f"# Policies within the spaces of their methods: {title}",
            "",
            f"Search-validation accuracy in percent: mean and best of {DRAWS} random policies of "
            "each space (those with training: of the first "
            f"{TRAINED}, which see {SHORT.images} images once), and of the policy that the method "
            "chose. Rank: Spearman's correlation of what the method says that policies of its own "
            "space lose with the loss that they have; where that space has few policies within a "
            "step of the budget (BMPQ's has two), it says nothing. Made by `python -m "
            "benchmarks.studies.own_space`.",
            "",
            "| " + " | ".join(heading) + " |",
            "|:--|--:|:--|" + "--:|" * (len(heading) - 3),
            *map(_row, looks),
            "",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Compare all records of these methods under ``ptq``, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.own_space")
    parser.add_argument("records", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", nargs="*", default=list(OWN), choices=list(OWN))
    parser.add_argument("--like", type=float, default=2.4)
    chosen = parser.parse_args(argv)
    torch.set_num_threads(1)

    def asked(record: Record) -> bool:
        cell = record.cell
        named = [cell[axis]["name"] for axis in ("framework", "protocol", "hardware")]
        return (
            named[0] in chosen.methods
            and named[1:] == ["ptq", "bops"]
            and cell["budget"].get("like") == chosen.like
            and record.policy is not None
        )

    wanted = [r for r in find_records(chosen.records) if asked(r)]
    wanted.sort(key=lambda r: (r.cell["framework"]["name"], r.cell["seed"]))
    kept = chosen.out.with_suffix(".json")
    found: dict[str, Any] = read_json(kept) if kept.exists() else {}
    found = {r.key: found[r.key] for r in wanted if r.key in found}
    known: dict[int, Sample] = {}
    for record in wanted:
        if record.key not in found:
            found[record.key] = asdict(look(record, known))
            write_json(kept, found, nonfinite=True)  # a rank over equal values is none
            print(_row(Look(**found[record.key])), file=sys.stderr, flush=True)
    looks = [Look(**found[record.key]) for record in wanted]
    write_text(chosen.out, page(looks, f"bops like={chosen.like:g}, ptq"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
