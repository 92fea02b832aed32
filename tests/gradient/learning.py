"""Whether a search by gradients learns from data: run with the loss's gradient, and without it.

Without it the same search at the same settings is steered by its penalty alone. A search that
learns finds other policies, and better ones, with it than without it.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from statistics import fmean

import pytest
from torch import Tensor, nn

from benchmarks.studies.learning import silenced
from benchmarks.suite.cell import Run
from benchmarks.suite.config import cell_of, composed, hydra
from frameworks import Framework, Policy, Problem, registry, steer
from frameworks.core.evaluation.train import Loss
from frameworks.core.search import course

SEEDS = 0, 1, 2


def problem(
    name: str, seed: int, *changes: str, dataset: str = "digits", like: float = 2.4
) -> Problem:
    """ResNet-8 from its committed checkpoint as the suites set a framework before it.

    Args:
        name: the framework, whose card says which data it gets.
        seed: of the cell.
        changes: further overrides of the configuration (``hardware=size``, ...).
        dataset: digits or fashion_mnist.
        like: the budget.
    """
    named = [f"framework={name}", "model=resnet8", f"dataset={dataset}", f"budget.like={like}"]
    given = any(change.startswith("hardware=") for change in changes)
    fixed = [f"seed={seed}", "protocol=ptq", "protocol.calibration_images=256"]
    with hydra():
        cell = cell_of(composed([*named, *fixed, *([] if given else ["hardware=bops"]), *changes]))
    run = Run.aside(cell)
    return run.problem(registry.get(name).card.needs)


@dataclass(frozen=True)
class Learned:
    """Policies and their accuracies (percent, on the search-validation images), by seed."""

    with_loss: list[tuple[Policy, float]]
    without: list[tuple[Policy, float]]

    @property
    def gain(self) -> float:
        """Points of mean accuracy that the loss's gradient brings."""
        return fmean(a for _, a in self.with_loss) - fmean(a for _, a in self.without)

    @property
    def differ(self) -> bool:
        """Whether the policies differ for every seed."""
        pairs = zip(self.with_loss, self.without, strict=True)
        return all(a[0] != b[0] for a, b in pairs)


def learned(method: Framework, changes: tuple[str, ...] = (), **where: object) -> Learned:
    """Search with and without the loss's gradient, each steered to the budget, over the seeds."""
    found: tuple[list, list] = ([], [])
    for seed in SEEDS:
        for out, blind in zip(found, (nullcontext(), silenced(method.name)), strict=True):
            with blind:
                policy = steer(method, problem(method.name, seed, *changes, **where)).policy
            # Not by the search's own problem, which may not read the validation images.
            judge = problem("haq", seed, *changes, **where)
            assert judge.within(policy), "a policy over the budget tells nothing"
            out.append((policy, judge.evaluate(policy).accuracy))
    return Learned(*found)


def silent(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """A task loss that says nothing: it and all its gradients are 0."""
    return 0 * model(x).sum()


def minimised(patch: pytest.MonkeyPatch) -> list[float]:
    """The loss of each later step, which the objective in a search's notes need not be."""
    found: list[float] = []
    plain = course.train_epoch

    def noted(model: nn.Module, batches: object, optimizers: object, loss: Loss, *hooks: object):
        def kept(*batch: object) -> Tensor:
            value = loss(*batch)
            found.append(float(value.detach()))
            return value

        return plain(model, batches, optimizers, kept, *hooks)

    patch.setattr(course, "train_epoch", noted)
    return found
