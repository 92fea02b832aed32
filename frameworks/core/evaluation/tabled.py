"""Evaluation by looking up: a space whose scores are all known, so that a search takes moments.

The counts are those of real evaluations, so that search costs can be compared (but for the two
passes over the calibration images that the first of these begins with); seconds are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from frameworks.core.evaluation.evaluate import Evaluator, Score
from frameworks.core.networks.meter import Meter
from frameworks.core.networks.qmodel import QModel
from frameworks.core.policy import Policy
from frameworks.core.split import Split


class UnknownPolicy(KeyError):
    """A policy that the table does not have."""

    def __str__(self) -> str:
        return str(self.args[0])


class TabledEvaluator(Evaluator):
    """Scores policies as `Evaluator` does, from scores that are known.

    Args:
        known: the scores of the policies of a space.
        images: that one evaluation would run forward.
        meter: counts a policy and its images the first time that its score is asked for.
    """

    def __init__(self, known: Mapping[Policy, Score], images: int, meter: Meter) -> None:
        self.known, self.images, self.meter = known, images, meter
        self._asked: set[Policy] = set()
        self._applied: Policy | None = None

    def contend(self, policy: Policy, least: float | None) -> Score | None:
        """The score, or None if its accuracy is below ``least``; raises an `UnknownPolicy`."""
        score = self._score(policy)
        if policy not in self._asked:
            self._asked.add(policy)
            self._count()
        return score if least is None or score.accuracy >= least else None

    def settle(self, policy: Policy) -> None:
        """Choose the policy that `measure` scores; counted every time."""
        self._score(policy)
        self._applied = policy
        self._count()

    def apply(self, policy: Policy) -> QModel:
        """Refused: there is no network behind a table. See `settle`."""
        self._no_network()

    def measure(self, split: Split) -> Score:
        """The score of the policy settled last, whichever images are asked for."""
        if self._applied is None:
            self._no_network()
        return self._score(self._applied)

    def _count(self) -> None:
        self.meter.policies += 1
        self.meter.images_forward += self.images

    def _score(self, policy: Policy) -> Score:
        try:
            return self.known[policy]
        except KeyError:
            raise UnknownPolicy(f"the table has no policy {policy.to_json()}") from None

    def _no_network(self) -> NoReturn:
        raise RuntimeError("an evaluation by table has no network to apply a policy to")
