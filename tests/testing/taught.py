"""A method of an odd kind, as the author of a plugin writes it: see test_taught_method.py.

It never sees a labelled training image. Rounds alternate: the weights are trained at the present
policy, taught by the float network on images of the method's own (calibration images under noise,
mixed with each other); then the policy climbs by changing one decision at a time, judged with the
weights just trained.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from frameworks import (
    Card,
    Evaluator,
    Framework,
    Learning,
    Policy,
    Problem,
    QModel,
    Recipe,
    Solution,
    distillation,
    register,
)


def mixup(x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Zhang et al., arXiv 1710.09412, with shares that are drawn evenly."""
    share = torch.rand((), generator=generator).item()
    order = torch.randperm(len(x), generator=generator).to(x.device)
    return share * x + (1 - share) * x[order], y


@register
@dataclass
class Taught(Framework):
    """Climbs among policies while a teacher trains the weights on the method's own images."""

    name: ClassVar[str] = "taught"
    card: ClassVar[Card] = Card(
        title="Taught on images of its own",
        venue="the tests",
        year=2026,
        category="heuristic",
        quantizer="mse",
        granularity="layer",
        searches=("weight", "act"),
        needs=frozenset({"calibration", "valid"}),
    )

    rounds: int = 4
    tries: int = 8
    batch: int = 16
    lr: float = 0.002
    noise: float = 0.3
    temperature: float = 2.0

    def search(self, problem: Problem) -> Solution:
        policy, weights, losses, climb = problem.cheapest(), None, [], []
        rng, teacher = problem.rng(self.name), problem.float_model()
        taught = distillation(teacher, self.temperature, weight=1.0)

        def noted(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            loss = taught(model, x, y)
            losses.append(float(loss.detach()))
            return loss

        for done in range(self.rounds):
            problem.progress(done, self.rounds, "rounds")
            weights = problem.fine_tune(
                policy,
                self.training(problem),
                weights=weights,
                loss=noted,
                transform=mixup,
                loader=self.images(problem),
                axis=f"{self.name} {done}",
            ).float_state()
            policy, accuracy = self.climbed(problem, problem.evaluator(weights), policy, rng)
            climb.append(accuracy)
            problem.checkpoint(policy, accuracy)
        learning = Learning("distillation loss", losses, higher=False).to_json()
        return Solution(policy, weights, notes={"learning": learning, "climb": climb})

    def finish(self, problem: Problem, solution: Solution) -> QModel:
        how = {"teacher": "float", "transform": mixup, "loader": self.images(problem)}
        return problem.fine_tune(solution.policy, weights=solution.weights, **how)

    def training(self, problem: Problem) -> Recipe:
        """Four passes over as many images as there are for calibration."""
        count = len(problem.images)
        return Recipe(4, count, batch=self.batch, lr=self.lr, schedule="constant")

    def images(self, problem: Problem) -> Callable[[torch.Generator], Iterator]:
        """Calibration images under noise, in another order each pass; labels are not looked at."""

        def begun(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
            images = problem.images
            for index in torch.randperm(len(images), generator=generator).split(self.batch):
                noise = torch.randn(len(index), *images.shape[1:], generator=generator)
                x = images[index.to(images.device)] + self.noise * noise.to(images.device)
                yield x, torch.zeros(len(index), dtype=torch.long)

        return begun

    def climbed(
        self, problem: Problem, evaluate: Evaluator, policy: Policy, rng: np.random.Generator
    ) -> tuple[Policy, float]:
        """The best of some neighbours within the budget, each one step from the best so far."""
        space, best = problem.space, evaluate(policy)
        for _ in range(self.tries):
            values = list(space.encode(policy))
            if not values:
                break
            where = int(rng.integers(len(values)))
            values[where] = int(rng.choice(space.choices[where].bits))
            candidate = space.decode(values)
            if not problem.within(candidate):
                continue
            score = evaluate(candidate)
            if (score.accuracy, -score.loss) > (best.accuracy, -best.loss):
                policy, best = candidate, score
        return policy, best.accuracy
