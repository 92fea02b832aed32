"""The plugin interface: a framework searches for a policy."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar

from frameworks.core.card import Card
from frameworks.core.evaluation.train import Recipe
from frameworks.core.networks.batchnorm import batchnorms
from frameworks.core.solution import Scores, Solution

if TYPE_CHECKING:
    from frameworks.core.networks.qmodel import QModel
    from frameworks.core.problem import Problem
    from frameworks.core.space import Space
    from frameworks.core.target import Target

COUNTS = frozenset(
    {
        "batch", "bins", "episodes", "epochs", "evaluations", "generations", "hidden1", "hidden2",
        "images", "interval", "iterations", "limit", "low_replay", "offspring", "points",
        "population", "probes", "replay", "sample_every", "samples", "step", "steps", "subsets",
    }
)  # fmt: skip
"""Names of counts that must be at least 1; at least 0 where 0 is the default (no limit, all)."""
RATES = ("lr", "decay", "noise", "tau", "temperature", "tolerance")
"""A number whose name is or ends with one of these must not be negative."""
SHARES = frozenset({"share", "discount", "low_discount", "tau"})
"""Names of numbers that must not exceed 1."""


def fault(name: str, value: Any, default: Any) -> str | None:
    """What is wrong with the value of a hyper-parameter, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not math.isfinite(value):
        return "must be finite"
    if name in COUNTS:
        least = 0 if default == 0 else 1
        return None if value >= least else f"must be at least {least}"
    whole = isinstance(value, int) and isinstance(default, int) and default >= 0
    rate = any(name == end or name.endswith(f"_{end}") for end in RATES)
    if value < 0 and (whole or rate or name in SHARES):
        return "must not be negative"
    if value > 1 and name in SHARES:
        return "must not exceed 1"
    return None


class Framework(ABC):
    """One search method. A subclass is a dataclass: its fields are its hyper-parameters.

    Attributes:
        name: the name in configurations and tables.
        card: the facts.
        strength: name of the hyper-parameter that weighs the cost, if the method steers by a
            penalty and not by a hard limit; `frameworks.steer` then adjusts it until the budget
            is met, and all of that is search cost. A larger strength means fewer bits.
        close: a run whose policy uses at least this share of the budget ends the steering.
        lowers_bits: whether fewer bits are its only way to a lower cost; it then skips problems
            where more bits can cost less.
        searches_choices: whether its search cannot run where the space leaves no decision; it then
            skips such problems.
        searches_weights: whether its search cannot run where the space pins all weight bits; it
            then skips such problems.
        evaluates: the hyper-parameters, as far as it has them, that add up to the number of
            distinct policies that it evaluates.
        recipe: the paper's own training of the found policy, used by ``protocol=paper``.
        rounding: the rounding of weights that belongs to the method, one of
            `frameworks.rounding.ROUNDINGS`, in the place of the protocol's; None where it has none.
        trains: whether `finish` trains the network, which then must be one that can be.
    """

    name: ClassVar[str]
    card: ClassVar[Card]
    strength: ClassVar[str | None] = None
    close: ClassVar[float] = 0.97
    lowers_bits: ClassVar[bool] = False
    searches_choices: ClassVar[bool] = False
    searches_weights: ClassVar[bool] = False
    evaluates: ClassVar[tuple[str, ...]] = ("evaluations",)
    recipe: ClassVar[Recipe | None] = None
    rounding: ClassVar[str | None] = None
    trains: ClassVar[bool] = True

    @property
    def rounding_options(self) -> Mapping[str, Any]:
        """What its `rounding` is called with (`frameworks.core.problem.Problem.rounded`)."""
        return {}

    @property
    def evaluations_asked(self) -> int | None:
        """How many distinct policies the search evaluates; its baselines get as many.

        None where it does not say: it trains, or scores decisions and not policies. The baselines
        of a search that trains get the images that it has run.
        """
        counts = (getattr(self, name, 0) for name in self.evaluates)
        return sum(map(int, counts)) or None

    @abstractmethod
    def search(self, problem: Problem) -> Solution:
        """Find a policy within ``problem.budget`` (steered methods: lighter with more strength)."""

    def validate(self) -> None:
        """Check the hyper-parameters before any work; overrides add what only they know.

        Numbers are compared with what their names and defaults say; see `fault`.

        Raises:
            ValueError: one cannot be used; the message names it.
        """
        defaults = type(self)().hyperparameters()
        for name, value in self.hyperparameters().items():
            reason = fault(name, value, defaults[name])
            if reason is None and name == self.strength and value < 0:
                reason = "must not be negative"  # it weighs the cost
            if reason is not None:
                raise ValueError(f"{name} = {value}: {reason}")

    def widened(self, space: Space, target: Target) -> Space:
        """The space that its policies are of, asked for before any work.

        The protocol's, unless the method brings along a policy that may lie elsewhere; budgets are
        those of the protocol's space all the same.

        Raises:
            ValueError: what it brings does not fit; the message begins with the hyper-parameter.
        """
        return space

    def skip(self, problem: Problem) -> str | None:
        """Why this method cannot solve this problem, or None. Overrides add to these reasons."""
        needs = self.card.needs
        if self.searches_choices and not problem.space.choices:
            return f"{self.name} finds nothing to search: the space pins all of its decisions"
        if self.searches_weights and all(c.kind == "act" for c in problem.space.choices):
            return f"{self.name} finds nothing to search: the space pins all weight bits"
        if "separable_cost" in needs and not problem.target.separable:
            target = problem.target.name
            return f"{self.name} needs a cost that is a sum over layers; {target}'s is not"
        if self.lowers_bits and not problem.monotone:
            metric, target = problem.budget.metric, problem.target.name
            return f"{self.name} lowers bits to lower the cost; on {target} that can raise {metric}"
        if "batchnorm" in needs and next(batchnorms(problem.network), None) is None:
            return f"{self.name} needs BatchNorm statistics; the model has no BatchNorm"
        if self.card.granularity == "kernel" and not problem.target.per_channel:
            return f"{problem.target.name} cannot price bits per output channel"
        return None

    def finish(self, problem: Problem, solution: Solution) -> QModel:
        """Train the found policy as the paper does (``protocol=paper`` only).

        The default trains all layers at once. ``problem.recipe`` is this framework's ``recipe``,
        or a shorter one where the protocol bounds it, or the protocol's where there is none.
        """
        return problem.fine_tune(solution.policy, weights=solution.weights)

    def hyperparameters(self) -> dict[str, Any]:
        """The dataclass fields by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]


class ScoringFramework(Framework):
    """A framework whose costly part does not depend on the budget: score once, solve many times."""

    @abstractmethod
    def score(self, problem: Problem) -> Scores:
        """The costly pass; it must not look at ``problem.budget``."""

    @abstractmethod
    def solve(self, problem: Problem, scores: Scores) -> Solution:
        """The cheap pass: the best policy within ``problem.budget`` by the scores."""

    def losses(
        self, problem: Problem, scores: Scores
    ) -> Mapping[str, Mapping[tuple[int, int], float]] | None:
        """What each layer loses at each pair of weight and activation bits, by the scores.

        For methods whose estimate of a policy is the sum of these over layers, so that it can be
        held against what policies lose in truth; None for others.
        """
        return None

    def search(self, problem: Problem) -> Solution:
        return self.solve(problem, self.score(problem))
