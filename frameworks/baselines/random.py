"""Random search: the best of N random policies within the budget, in four forms.

A draw over budget is repaired, not thrown away (`frameworks.core.search.draws`): a rejection
sampler would hardly ever hit a tight budget, and would be too weak a baseline. What a repair leaves
of the budget is used. Searches that lower a policy until it fits, as HAQ's action wall does, leave
it; on a loss that is a sum over decisions this alone is worth as much as the agent is. So there is

- `Random`: repaired and refilled, measured without training;
- `RandomPlain`: repaired only, the fair rival of searches that do not refill;
- `RandomRetrained`: each policy is trained before it is measured, as HAQ and AutoQ do, where the
  protocol trains;
- `RandomKernel`: weight bits per output channel, as AutoQ searches them; trained likewise.

All count distinct policies: one that comes again is not evaluated and not counted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from frameworks.core.card import Card
from frameworks.core.evaluation.evaluate import Score
from frameworks.core.evaluation.train import Recipe
from frameworks.core.framework import Framework
from frameworks.core.policy import Policy
from frameworks.core.problem import Problem
from frameworks.core.registry import register
from frameworks.core.search.draws import Draws
from frameworks.core.solution import Solution


@register
@dataclass
class Random(Framework):
    """The most accurate of N distinct random policies, by search-validation accuracy.

    Attributes:
        evaluations: how many distinct policies are evaluated.
        images: if above 0, the search goes on until it has run so many images (forward and
            backward), however many policies that are: to stand beside a search that trains.
        repeats: so many draws in a row that only repeat what is known end the search, as there
            is hardly more to find.
        refill: whether a repaired policy uses what is left of the budget.
    """

    name: ClassVar[str] = "random"
    card: ClassVar[Card] = Card(
        title="Random search (Bergstra and Bengio, 2012)",
        year=2012,
        category="baseline",
        quantizer="mse",
        quantization=("deterministic rounding",),
        granularity="layer",
        searches=("weight", "act"),
        needs=frozenset({"calibration", "valid"}),
    )

    evaluations: int = 100
    images: int = 0
    repeats: int = 200
    refill: bool = True

    def __post_init__(self) -> None:
        if self.evaluations < 1:
            raise ValueError(f"evaluations = {self.evaluations}: at least one policy is needed")
        if self.images < 0:
            raise ValueError(f"images = {self.images}: give a number of images, or 0")
        if self.repeats < 1:
            raise ValueError(f"repeats = {self.repeats}: at least one draw is needed")

    @property
    def evaluations_asked(self) -> int | None:
        return None if self.images else super().evaluations_asked

    def draws(self, problem: Problem) -> Draws:
        """Where the policies come from."""
        return Draws(problem, problem.rng("random"), refill=self.refill)

    def score(self, problem: Problem, policy: Policy, least: float | None) -> Score | None:
        """The score of a policy, or None where its accuracy is below ``least``."""
        return problem.contend(policy, least)

    def search(self, problem: Problem) -> Solution:
        best: tuple[float, float, Policy] | None = None
        known: set[Policy] = set()
        drawn = repeated = 0
        for policy in self.draws(problem):
            drawn += 1
            repeated = repeated + 1 if policy in known else 0
            if repeated:
                if repeated == self.repeats:
                    break
                continue
            known.add(policy)
            score = self.score(problem, policy, best and best[0])
            if score is not None and (best is None or (score.accuracy, -score.loss) > best[:2]):
                best = (score.accuracy, -score.loss, policy)
                problem.checkpoint(policy, score.accuracy)
            if self._enough(problem, len(known)):
                break
        assert best is not None
        notes = {"distinct": len(known), "draws": drawn}
        if repeated:
            said = f"{len(known)} distinct policies: {self.repeats} draws in a row brought no other"
            return Solution(best[2], notes={**notes, "remark": said})
        return Solution(best[2], notes=notes)

    def _enough(self, problem: Problem, evaluated: int) -> bool:
        """Whether the search has had its evaluations, or its images."""
        if not self.images:
            problem.progress(evaluated, self.evaluations, "random policies")
            return evaluated >= self.evaluations
        spent = problem.meter.read()
        done = spent.images_forward + spent.images_backward
        problem.progress(min(done, self.images), self.images, "images of random policies")
        return done >= self.images


@register
@dataclass
class RandomPlain(Random):
    """Random search that leaves what a repair leaves: draws are lowered until they fit, no more."""

    name: ClassVar[str] = "random_plain"
    card: ClassVar[Card] = replace(Random.card, title="Random search, without refilling the budget")

    refill: bool = False


@register
@dataclass
class RandomRetrained(Random):
    """Random search whose policies are trained before they are measured, where the protocol trains.

    HAQ's and AutoQ's retraining with the same settings, so that what they find beyond this is
    their agents' doing.

    Attributes:
        retrain_epochs: epochs of fine-tuning before a policy is measured; 0 for none.
        retrain_images: training images an epoch.
        retrain_lr: their learning rate.
    """

    name: ClassVar[str] = "random_retrained"
    card: ClassVar[Card] = replace(
        Random.card,
        title="Random search, each policy retrained before it is measured",
        needs=frozenset({"calibration", "train", "valid"}),
    )

    retrain_epochs: float = 1
    retrain_images: int = 20000
    retrain_lr: float = 1e-3

    @property
    def retraining(self) -> Recipe | None:
        """The training before a measurement; see `frameworks.core.agents.drl.ActorCriticSearch`."""
        if not self.retrain_epochs:
            return None
        return Recipe(
            epochs=self.retrain_epochs,
            images=self.retrain_images,
            lr=self.retrain_lr,
            schedule="constant",
            weight_decay=4e-5,
            augment=True,
        )

    def score(self, problem: Problem, policy: Policy, least: float | None) -> Score | None:
        if not problem.retrains or self.retraining is None:
            return super().score(problem, policy, least)
        return problem.evaluate(policy, self.retraining)


@register
@dataclass
class RandomKernel(RandomRetrained):
    """Random search with weight bits per output channel, retrained as AutoQ's policies are.

    Attributes:
        prune: whether a kernel may be drawn at 0 bits (never all kernels of a layer).
    """

    name: ClassVar[str] = "random_kernel"
    card: ClassVar[Card] = replace(
        RandomRetrained.card,
        title="Random search, kernel by kernel",
        granularity="kernel",
        deviations=(
            "a layer draws two candidates, and each of its kernels one between them: independent "
            "draws would give all layers the same mean",
        ),
    )

    prune: bool = False

    def draws(self, problem: Problem) -> Draws:
        rng = problem.rng("random")
        return Draws(problem, rng, refill=self.refill, kernels=True, prune=self.prune)
