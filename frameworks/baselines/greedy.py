"""Greedy descent: lower the least harmful decision until the policy fits.

From the highest bits, each round lowers one decision (the weight or the activation bits of one
layer, or of tied layers) to its next lower candidate: the one with the least

    harm_i / saved_i,    harm_i = L(policy with i lowered) - L(policy),
                         saved_i = cost(policy) - cost(policy with i lowered)

where L is the search-validation loss without training. With limits on several metrics, the cost is
the mean of those that are still exceeded, each as a share of its limit.

The plain algorithm evaluates every decision again in every round. The lazy one (Minoux,
"Accelerated greedy algorithms for maximizing submodular set functions", 1978) keeps the ratios of
earlier rounds in a priority queue and evaluates only its top again, until the top is one that was
evaluated in the current round. Both make the same choices where harms never shrink as other
decisions are lowered; where they do, the lazy one may overlook the shrunk ones.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from frameworks.core.card import Card
from frameworks.core.framework import Framework
from frameworks.core.policy import Policy
from frameworks.core.problem import Problem
from frameworks.core.registry import register
from frameworks.core.solution import Solution

Values = list[int]
Evaluation = Callable[[int], float | None]
"""The loss that a decision's next step adds, or None when no evaluation is left."""


@register
@dataclass
class Greedy(Framework):
    """Lower one decision a round: the one that harms least for each unit of cost saved.

    Attributes:
        lazy: evaluate only the top of the queue again (see above); False: everything, every round.
        evaluations: at most this many policies are evaluated; from then on the last known harms
            are used, scaled to the step (see `Harms`). 0 means no limit.
        images: the same, once the search has run so many images (forward and backward).
    """

    name: ClassVar[str] = "greedy"
    card: ClassVar[Card] = Card(
        title="Greedy layer-wise bit reduction",
        year=2015,
        category="baseline",
        quantizer="mse",
        quantization=("deterministic rounding",),
        granularity="layer",
        searches=("weight", "act"),
        needs=frozenset({"calibration", "valid"}),
    )

    lazy: bool = True
    evaluations: int = 0
    images: int = 0

    def search(self, problem: Problem) -> Solution:
        values = [choice.bits[-1] for choice in problem.space.choices]
        harms, known = Harms(), set[Policy]()
        start, limit = _load(problem, values), problem.budget.limit
        while not problem.within(problem.space.decode(values)):
            done = (start - _load(problem, values)) / max(start - limit, 1e-12)
            problem.progress(min(int(1000 * done), 1000), 1000, "greedy")
            lowered = dict(_steps(problem, values))
            over = problem.budget.exceeded(problem.cost(problem.space.decode(values)))
            cost = _price(problem, values, over)
            saved = {i: cost - _price(problem, trial, over) for i, trial in lowered.items()}
            # Where no single step saves anything (a cost that is a maximum, say), harm decides.
            saving = {i: amount for i, amount in saved.items() if amount > 0}
            saved = saving or dict.fromkeys(lowered, 1.0)
            if not saved:
                break
            chosen = self._pick(saved, harms, self._evaluation(problem, values, known))
            harms.step(chosen, values[chosen] - lowered[chosen][chosen])
            values = lowered[chosen]
        if not problem.within(problem.space.decode(values)):  # fewer bits can cost more
            values = list(problem.space.encode(problem.cheapest()))
        best = _filled(problem, values)
        problem.checkpoint(best)
        return Solution(best)

    def _pick(self, saved: Mapping[int, float], harms: Harms, evaluate: Evaluation) -> int:
        """The decision of least harm for what it saves."""
        queue = [(harms.rank(i, saved), i) for i in saved]
        heapq.heapify(queue)
        fresh: set[int] = set()
        # The lazy algorithm stops when the top is fresh, the plain one when everything is.
        while (queue[0][1] not in fresh) if self.lazy else len(fresh) < len(saved):
            i = queue[0][1] if self.lazy else next(i for i in saved if i not in fresh)
            value = evaluate(i)
            if value is None:
                return min(saved, key=lambda i: harms.guess(i) / saved[i])
            harms.known[i] = value
            harms.sure.add(i)
            fresh.add(i)
            if self.lazy:
                heapq.heapreplace(queue, (harms.rank(i, saved), i))
        return min(saved, key=lambda i: (harms.rank(i, saved), i))

    def _evaluation(self, problem: Problem, values: Values, known: set[Policy]) -> Evaluation:
        current = problem.space.decode(values)

        def evaluate(i: int) -> float | None:
            lowered = problem.space.decode(_lowered(problem, values, i))
            unknown = {current, lowered} - known
            if unknown and self._spent(problem, len(known | unknown)):
                return None
            known.update(unknown)
            return problem.evaluate(lowered).loss - problem.evaluate(current).loss

        return evaluate

    def _spent(self, problem: Problem, evaluations: int) -> bool:
        """Whether it may not come to so many evaluations, or the images are used up."""
        spent = problem.meter.read()
        images = spent.images_forward + spent.images_backward
        return 0 < self.evaluations < evaluations or 0 < self.images <= images


class Harms:
    """What is known of the next step of each decision.

    ``known`` keeps the last measured harm, ``sure`` the decisions for which that was the harm of
    their next step. Of the others it was an earlier step's, scaled: the error of a uniform
    quantizer grows by 4 with each bit taken away.
    """

    def __init__(self) -> None:
        self.known: dict[int, float] = {}
        self.sure: set[int] = set()

    def rank(self, i: int, saved: Mapping[int, float]) -> float:
        """Harm per saved cost; steps that were never measured come first."""
        return self.known[i] / saved[i] if i in self.sure else -math.inf

    def step(self, i: int, bits: int) -> None:
        """Decision ``i`` was lowered by this many bits."""
        self.sure.discard(i)
        if i in self.known:
            self.known[i] = abs(self.known[i]) * 4.0**bits

    def guess(self, i: int) -> float:
        """The known or scaled harm, or the mean of all where there is none."""
        if i in self.known:
            return self.known[i]
        return sum(self.known.values()) / len(self.known) if self.known else 1.0


def _load(problem: Problem, values: Sequence[int]) -> float:
    return problem.budget.load(problem.cost(problem.space.decode(values)))


def _price(problem: Problem, values: Sequence[int], metrics: Sequence[str]) -> float:
    return problem.budget.price(problem.cost(problem.space.decode(values)), metrics)


def _lowered(problem: Problem, values: Values, i: int) -> Values:
    """Decision ``i`` at its next lower candidate."""
    below = max(bits for bits in problem.space.choices[i].bits if bits < values[i])
    return [*values[:i], below, *values[i + 1 :]]


def _steps(problem: Problem, values: Values) -> Iterator[tuple[int, Values]]:
    """Every decision that can be lowered, with the outcome."""
    for i, choice in enumerate(problem.space.choices):
        if values[i] > choice.bits[0]:
            yield i, _lowered(problem, values, i)


def _filled(problem: Problem, values: Values) -> Policy:
    """Raise decisions again where the last step left room (it may have overshot)."""
    for i, choice in enumerate(problem.space.choices):
        for bits in (b for b in choice.bits if b > values[i]):
            raised = [*values[:i], bits, *values[i + 1 :]]
            if problem.within(problem.space.decode(raised)):
                values = raised
    return problem.space.decode(values)
