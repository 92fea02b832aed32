"""ADRL's Q-value indicators: what a decision at some bits promises, before any episode is measured.

An indicator scores one decision at one of its bit widths, in percent, more is better; what is
decided elsewhere does not enter, so that each is computed once:

- profiling: the accuracy, on a few search-validation images, of the network with that decision
  alone quantized, the rest in float; no retraining, BatchNorm corrected;
- distance: -100 ||x - Q(x)|| / ||x|| of the layer's weights, or of a sample of its activations;
  of both, where they are one decision, that of the one that suffers more.

The refiner takes, of several candidates, the fewest bits whose score lies within a tolerance of the
best one's: with a tolerance of 0 it takes the best, which is nearly always the one of most bits.
Each indicator has a tolerance of its own (`TOLERANCES`): a point of accuracy is much, one of a
relative error is what separates 6 bits from 8.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from frameworks.core.evaluation.evaluate import Evaluator
from frameworks.core.policy import FLOAT, Policy
from frameworks.core.problem import Problem
from frameworks.core.search.alone import alone
from frameworks.core.space import Choice

Indicator = Callable[[Choice, int], float]
"""The score of a decision at one of its bit widths, in percent."""


def profiling(problem: Problem, images: int) -> Indicator:
    """By accuracy; its images count as search cost, but no layer alone is a policy that counts."""
    sample = problem.valid.subset(images, problem.generator("indicator"))
    evaluator = Evaluator(problem.quantized(), sample, problem.correction, problem.meter)

    def score(choice: Choice, bits: int) -> float:
        counted = problem.meter.policies
        found = evaluator(single(problem, choice, bits)).accuracy
        problem.meter.policies = counted
        return found

    return score


def distance(problem: Problem, images: int) -> Indicator:
    """By how far quantized tensors lie from their float values; no network is run."""

    def score(choice: Choice, bits: int) -> float:
        missed, whole = defaultdict[str, float](float), defaultdict[str, float](float)
        for name in choice.layers:
            for kind, x in _tensors(problem, choice, name).items():
                quantizer = problem.quantizer(name, kind, bits)  # type: ignore[arg-type]
                with torch.no_grad():
                    missed[kind] += float((x - quantizer(x)).square().sum())
                whole[kind] += float(x.square().sum())
        return -100 * max(math.sqrt(missed[k] / max(whole[k], 1e-30)) for k in whole)

    return score


INDICATORS: Mapping[str, Callable[[Problem, int], Indicator]] = {
    "profiling": profiling,
    "distance": distance,
}

TOLERANCES: Mapping[str, float] = {"profiling": 0.5, "distance": 10.0}
"""Percent points of each indicator's score that fewer bits may cost."""


def refined(
    indicator: Indicator, choice: Choice, candidates: Sequence[int], tolerance: float
) -> int:
    """Which of the candidate bits is taken: its place among them, the first of equal ones.

    A single width needs no score.
    """
    widths = sorted(set(candidates))
    if len(widths) == 1:
        return 0
    scores = {bits: indicator(choice, bits) for bits in widths}
    best = max(scores.values())
    return list(candidates).index(next(b for b in widths if scores[b] >= best - tolerance))


def single(problem: Problem, choice: Choice, bits: int) -> Policy:
    """The policy that quantizes what is decided, and leaves all else in float."""
    weight, act = (FLOAT if choice.kind == other else bits for other in ("act", "weight"))
    return alone(problem, choice.layers, (weight, act))


def _tensors(problem: Problem, choice: Choice, name: str) -> dict[str, Tensor]:
    """What a decision quantizes of a layer."""
    found = {}
    if choice.kind != "act":
        weight = problem.network.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        found["weight"] = weight.detach()
    if choice.kind != "weight":
        found["act"] = problem.observe().samples[name]
    return found
