"""Evaluation of policies: metered, cached and resumed, the hot path of every search.

The plain way (quantize all weights, calibrate all ranges, correct BatchNorm, run the network on
every image) gives the same scores to the last bit. What is saved here: quantized weights and ranges
are kept per layer and bit width (`frameworks.core.networks.qmodel`), passes go on from the first
layer at which the policy differs from an earlier one (`frameworks.core.evaluation.resume`), and a
policy that cannot reach a given accuracy any more is left (`Evaluator.contend`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from frameworks.core.evaluation.resume import LIMIT, Pass, Resumer, Unexpected
from frameworks.core.networks.correction import Correction
from frameworks.core.networks.meter import Meter
from frameworks.core.networks.qmodel import QModel
from frameworks.core.policy import Policy
from frameworks.core.split import Split

Run = Callable[[Tensor], Tensor]
Skips = Callable[[nn.Module], bool]
Found = TypeVar("Found")

EVALUATION_BATCH = 125
"""Small enough that the activations of a small network stay in the cache."""


@dataclass(frozen=True)
class Score:
    """How well a network does on a split, by the split's labels.

    Labels that are shares ``[B, classes]`` are those of a network to be like
    (`frameworks.core.evaluation.answered`), with D the mean KL(shares || network).
    """

    accuracy: float
    """What searches maximise: top-1 in percent; with shares 100 exp(-D)."""
    loss: float
    """Mean cross-entropy; with shares D, in nats."""
    agreement: float | None = None
    """With shares: images in percent whose top-1 is that of the shares."""


def measure(model: nn.Module, split: Split, batch: int = EVALUATION_BATCH) -> Score:
    """Top-1 accuracy and mean loss of a model over a whole split, in eval mode."""
    model.eval()
    return _whole(_measured(model, split, batch))


def _whole(score: Score | None) -> Score:
    assert score is not None, "without a least accuracy every pass is gone through"
    return score


@torch.no_grad()
def _measured(
    run: Run,
    split: Split,
    batch: int = EVALUATION_BATCH,
    least: float | None = None,
) -> Score | None:
    """The score, or None as soon as the accuracy cannot reach ``least`` any more."""
    right, seen, loss, total = 0, 0, 0.0, len(split)
    soft = False
    for x, y in split.batches(batch):
        logits = run(x)
        soft = y.dim() == 2
        right += int((logits.argmax(1) == (y.argmax(1) if soft else y)).sum())
        loss += _divergence(y, logits) if soft else _entropy(y, logits)
        seen += len(y)
        best = _likeness(loss / total) if soft else 100.0 * (right + total - seen) / total
        if least is not None and best < least:
            return None
    if soft:
        return Score(_likeness(loss / seen), loss / seen, 100.0 * right / seen)
    return Score(100.0 * right / seen, loss / seen)


def _entropy(y: Tensor, logits: Tensor) -> float:
    return float(functional.cross_entropy(logits, y, reduction="sum"))


def _divergence(shares: Tensor, logits: Tensor) -> float:
    """The sum over a batch of KL(shares || softmax(logits)); rounding makes none negative."""
    each = functional.kl_div(functional.log_softmax(logits, 1), shares, reduction="none").sum(1)
    return float(each.clamp_min(0).sum())


def _likeness(divergence: float) -> float:
    """A mean divergence on the scale of an accuracy; logits that are not finite have none of it."""
    return 0.0 if math.isnan(divergence) else 100.0 * math.exp(-divergence)


class Evaluator:
    """Scores policies on one split without training: quantize, correct BatchNorm, measure.

    Scores are cached by policy; a cached policy costs nothing and is not counted again.

    Args:
        qmodel: the network, watched by the meter; its weights must stay as they are (`QModel.free`
            makes it forget what it computed).
        split: the labelled images.
        correction: corrects BatchNorm, with the images that it takes for it.
        meter: counts. Every image of every pass is one image forward, whether the pass was resumed
            or stopped early: the count says how much was evaluated, not how fast.
        limit: bytes of intermediate outputs that may be kept; 0 for none.
    """

    def __init__(
        self,
        qmodel: QModel,
        split: Split,
        correction: Correction,
        meter: Meter,
        limit: int = LIMIT,
    ) -> None:
        self.qmodel, self.split, self.correction, self.meter = qmodel, split, correction, meter
        self.resumer = Resumer(qmodel, limit)
        self._scores: dict[Policy, Score] = {}
        self._failed: dict[Policy, float] = {}
        self._freed = qmodel.freed
        self._splits: list[Split] = []

    def __call__(self, policy: Policy) -> Score:
        return _whole(self.contend(policy, None))

    def contend(self, policy: Policy, least: float | None) -> Score | None:
        """The score of a policy, or None if its accuracy is below ``least`` (in percent).

        A policy that cannot reach it any more is not run to the end. It counts once, and as if it
        were, so that searches stay comparable by their counts.
        """
        if policy not in self._scores:
            if least is not None and self._failed.get(policy, math.inf) <= least:
                return None
            counts = self.meter.policies, self.meter.images_forward
            self.apply(policy)
            whole = self.meter.images_forward + len(self.split)
            score = self._measured(self.split, least)
            self.meter.images_forward = whole
            if policy in self._failed:
                self.meter.policies, self.meter.images_forward = counts
            if score is None:
                assert least is not None
                self._failed[policy] = least
                return None
            self._scores[policy] = score
        score = self._scores[policy]
        return score if least is None or score.accuracy >= least else None

    def apply(self, policy: Policy) -> QModel:
        """The network at a policy, ready to be measured; counted every time."""
        self.meter.policies += 1
        self.qmodel.fix(policy)
        self._norms()
        return self.qmodel

    def settle(self, policy: Policy) -> None:
        """As `apply`, for those who go on to `measure` and need no network."""
        self.apply(policy)

    def _norms(self) -> None:
        if not self.correction.works_on(self.qmodel):
            return
        if self.correction.layers or not self.correction.at_once:
            self.correction(self.qmodel)
            return

        def norms(run: Run, skips: Skips) -> bool:
            self.correction(self.qmodel, run, skips)
            return True

        self._resumed("norms", norms)

    def measure(self, split: Split) -> Score:
        """The score on any split at the policy applied last."""
        return _whole(self._measured(split))

    def outputs(self, split: Split) -> Tensor:
        """What the network gives on any split at the policy applied last: ``[N, classes]``."""

        def all_of(run: Run, skips: Skips) -> list[Tensor]:
            return [run(x) for x, _ in split.batches(EVALUATION_BATCH)]

        return torch.cat(self._over(split, all_of))

    def _measured(self, split: Split, least: float | None = None) -> Score | None:
        return self._over(split, lambda run, skips: _measured(run, split, least=least))

    def _over(self, split: Split, body: Callable[[Run, Skips], Found]) -> Found:
        # By identity: equal numbers could be another split's once this one is gone.
        if not any(split is known for known in self._splits):
            self._splits.append(split)
        number = next(i for i, known in enumerate(self._splits) if known is split)
        self.qmodel.eval()
        with torch.no_grad():
            return self._resumed(number, body)

    def _resumed(self, name: Hashable, body: Callable[[Run, Skips], Found]) -> Found:
        """The result of a pass over the batches of a name, falsy if it was not gone through."""
        if self._freed != self.qmodel.freed:
            self._freed = self.qmodel.freed
            self.resumer.clear()
        if self.resumer.works:
            counted = self.meter.images_forward
            try:
                with self.resumer.start(
                    name, self.correction.images, norms=name == "norms"
                ) as going:
                    found = body(going.run, going.skips)
                    if found:
                        going.finish()
                self._compare(going)
                return found
            except Exception:
                # `Unexpected`, or an error from what an earlier pass left behind in a module: if
                # the network is at fault, the whole pass says so.
                self.resumer.works = False
                self.resumer.clear()
                if name != "norms":
                    # Their statistics may come from a resumed pass, too.
                    self._norms()
                self.meter.images_forward = counted
        return body(self.qmodel, lambda module: False)

    def _compare(self, going: Pass) -> None:
        """Compare the first pass resumed after so many layers with a whole one, on its first batch.

        Raises:
            Unexpected: they differ: a module leaves something behind that resuming passes by.
        """
        if going.resumed in self.resumer.trusted or going.norms or going.sample is None:
            return
        x, resumed = going.sample
        counted = self.meter.images_forward
        whole = self.qmodel(x)
        self.meter.images_forward = counted
        if not torch.equal(whole, resumed):
            raise Unexpected("a resumed pass gives other numbers than a whole one")
        self.resumer.trusted.add(going.resumed)
