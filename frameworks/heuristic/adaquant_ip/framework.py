"""Improving Post Training Neural Quantization: Layer-wise Calibration and Integer Programming
(Hubara, Nahshan, Hanani, Banner and Soudry), arXiv 2006.10518; ICML 2021 as "Accurate Post Training
Quantization With Small Calibration Sets".

Two pipelines, ``advanced`` with all steps, and ``light`` with the programme and para-normalization
alone:

1. AdaQuant (section 3.1): each layer's weights, ranges and bias are moved until its output is the
   float one's, at each pair (k, n) of weight and activation bits, all layers in parallel
   (`frameworks.heuristic.adaquant_ip.calibration`).
2. Integer programme: with L the loss of the network at the most bits (8), and
   L_l(k, n) its loss with layer l alone replaced by its calibrated version of k and n bits,

       dL_l(k, n) = max(L_l(k, n) - L, 1e-6),    0 at the most bits,
       minimise  sum_l dL_l(k_l, n_l)   subject to   the budget,

   the form of the released code. The paper's other one saves the most under a limit on sum_l dL_l.
3. At the bits found: AdaQuant again, now sequentially, on inputs from layers that are quantized
   already (`rounding`); para-normalization of BatchNorm; tuning of biases (`finish`,
   `frameworks.heuristic.adaquant_ip.tuning`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from frameworks.core.card import Card
from frameworks.core.evaluation.evaluate import Evaluator
from frameworks.core.evaluation.train import Recipe
from frameworks.core.framework import ScoringFramework
from frameworks.core.networks.correction import Correction
from frameworks.core.networks.qmodel import QModel
from frameworks.core.policy import Pair, Policy
from frameworks.core.problem import Problem
from frameworks.core.registry import register
from frameworks.core.rounding.apply import round_weights
from frameworks.core.rounding.ranges import FACTORS
from frameworks.core.search.sensitivities import exact
from frameworks.core.solution import Scores, Solution
from frameworks.heuristic.adaquant_ip import quantizer  # noqa: F401 (registers the scheme)
from frameworks.heuristic.adaquant_ip.calibration import calibrated
from frameworks.heuristic.adaquant_ip.tuning import para_normalize, tune_biases

ADVANCED, LIGHT = PIPELINES = ("advanced", "light")
LEAST = 1e-6
"""A layer with fewer bits loses at least this."""


@register
@dataclass
class AdaQuantIP(ScoringFramework):
    """Losses of layers that are calibrated one by one, and an exact integer programme.

    Attributes:
        pipeline: ``advanced``, or ``light`` without AdaQuant and without tuning of biases.
        images: labelled training images that the losses are of.
        iterations: AdaQuant's steps for each layer and pair of bits, and in the final network.
    """

    name: ClassVar[str] = "adaquant_ip"
    card: ClassVar[Card] = Card(
        title="Improving Post Training Neural Quantization: Layer-wise Calibration and Integer "
        "Programming",
        arxiv="2006.10518",
        year=2020,
        venue="ICML 2021",
        category="heuristic",
        quantizer="calibtip",
        quantization=("learned range", "deterministic rounding"),
        granularity="layer",
        searches=("weight", "act"),
        needs=frozenset({"calibration", "train", "separable_cost"}),
        hardware_aware=True,
        deviations=(
            "AdaQuant minimises the error over all images at once, by second moments, with no "
            "activation function in the error (released code: 50 images a step, after ReLU for "
            "some layers of each network). Through moments no gradient leads to an input's range: "
            "it is the best of eight multiples of the calibrated one about its zero point, each "
            "tried with a short AdaQuant on 64 images (published: trained, with the zero point; "
            "released rate 0.1).",
            "AdaQuant's rate is 4e-3 of a step of the grid at every width (released: 1e-5 as it "
            "is, tuned for 8 bits), and one factor scales a channel's range about its integer zero "
            "point (released: width and lower end are trained apart).",
            "BatchNorm is not folded into the layers before they are calibrated; for one that was "
            "never folded, para-normalization is a pass of its own in train mode.",
            "Losses are cross-entropy with labels on training images, as in the released code, but "
            "on other images than AdaQuant's, which are the protocol's and without labels. While "
            "they are measured, BatchNorm's statistics stay as stored, as published.",
            "Weights and activations may have different bits, as the paper's programme has them; "
            "its experiments have equal ones (4 and 8, or 2 to 8). All layers the protocol leaves "
            "free are variables; first and last are so in the paper, too.",
            "Protocols other than paper correct BatchNorm by their own rule, and biases are not "
            "tuned. Sequential AdaQuant replaces the inputs of all batches; the released code "
            "those of the first one.",
            "The final network's layers are calibrated sequentially, as the paper has it once the "
            "bits are fixed; the programme's losses are of layers calibrated in parallel. The "
            "released advanced_pipeline.sh keeps the parallel ones and tunes after them; its "
            "sequential AdaQuant is a script of its own, without tuning.",
            "Bias tuning draws its 200 images anew for each pass from the calibration images, "
            "with the float network's answer to each (released: one answer a class). Biases are "
            "float (released: k + n bits between their ends), and the classifier's input keeps its "
            "range (released: trained along, at 0.1). Noise on the losses, for several solutions, "
            "is left out.",
            "Ranges of activations are calibrated to the ends of a sample of them (released: "
            "running means over images). Least loss under a budget is the one programme here; the "
            "paper's other one, most saved under a limit on the losses, is left out.",
        ),
    )
    trains: ClassVar[bool] = False
    rounding: ClassVar[str | None] = "adaquant"
    """Of the advanced pipeline; the light one leaves it to the protocol."""
    recipe: ClassVar[Recipe | None] = Recipe(
        epochs=200, images=200, batch=50, lr=0.1, schedule="constant", momentum=0.0,
        weight_decay=0.0,
    )  # fmt: skip
    """Of the advanced pipeline's biases: 10 times 20 passes over 4 batches."""

    pipeline: str = ADVANCED
    images: int = 1000
    iterations: int = 1000

    def __post_init__(self) -> None:
        if self.pipeline == LIGHT:  # what it leaves out, the protocol decides on
            object.__setattr__(self, "rounding", None)

    @property
    def rounding_options(self) -> Mapping[str, Any]:
        return {"steps": self.iterations, "factors": FACTORS}

    def validate(self) -> None:
        super().validate()
        if self.pipeline not in PIPELINES:
            raise ValueError(f"pipeline = {self.pipeline!r}: choose from {list(PIPELINES)}")

    def score(self, problem: Problem) -> Scores:
        steps = self.iterations if self.pipeline == ADVANCED else 0
        pairs = options(problem)
        base = Policy({name: found[-1] for name, found in pairs.items()})
        decided = [members for members in _tied(problem) if len(pairs[members[0]]) > 1]
        total = sum(len(pairs[members[0]]) - 1 for members in decided)
        loss = self._evaluator(problem, calibrated(problem, pairs, steps))
        found: dict[str, dict[str, float]] = {}
        start, done = loss(base).loss, 0
        for members in decided:
            for pair in pairs[members[0]][:-1]:
                problem.progress(done, total, "layers replaced alone")
                value = loss(replaced(base, members, pair)).loss
                # What is decided as one loses as one: its first layer has all of the loss.
                found.setdefault(members[0], {})[f"{pair[0]} {pair[1]}"] = value
                done += 1
        return Scores({"base": start, "losses": found})

    def _evaluator(self, problem: Problem, model: QModel) -> Evaluator:
        """Measures the loss on labelled images, with BatchNorm's statistics as stored."""
        labelled = problem.train.subset(self.images, problem.generator("degradation"))
        stored = Correction.of(problem.float_model(), problem.images, "stored")
        return Evaluator(model, labelled, stored, problem.meter)

    def losses(self, problem: Problem, scores: Scores) -> dict[str, dict[Pair, float]]:
        measured: Mapping[str, Mapping[str, float]] = scores.values["losses"]
        start = float(scores.values["base"])
        table: dict[str, dict[Pair, float]] = {}
        for name, pairs in problem.layer_entries().items():
            values = {(w, a): measured.get(name, {}).get(f"{w} {a}") for w, a in pairs}
            table[name] = {p: 0.0 if v is None else loss_of(v, start) for p, v in values.items()}
        return table

    def solve(self, problem: Problem, scores: Scores) -> Solution:
        table = self.losses(problem, scores)
        policy = exact(problem, table)
        problem.checkpoint(policy)
        lost = math.fsum(table[n][b.weight, b.act] for n, b in policy.items())  # type: ignore[index]
        return Solution(policy, notes={"base": scores.values["base"], "degradation": lost})

    def finish(self, problem: Problem, solution: Solution) -> QModel:
        """Step 3: nothing but ranges, statistics and biases, and what AdaQuant moves."""
        qmodel, images = problem.quantized(solution.policy), problem.images
        if self.pipeline == LIGHT:
            para_normalize(qmodel, images)
            return qmodel
        teacher = problem.float_model()
        round_weights(qmodel, teacher, images, "adaquant", **self.rounding_options)
        para_normalize(qmodel, images)
        generator = problem.generator("bias tuning")
        tune_biases(qmodel, teacher, images, problem.recipe, generator)
        return qmodel


def loss_of(loss: float, base: float) -> float:
    """What a replaced layer loses, dL."""
    return max(loss - base, LEAST)


def options(problem: Problem) -> dict[str, list[Pair]]:
    """The pairs of bits of each layer, the most bits last; those of tied layers are common."""
    entries = problem.layer_entries()
    found: dict[str, list[Pair]] = {}
    for members in _tied(problem):
        common = [p for p in entries[members[0]] if all(p in entries[n] for n in members)]
        ordered = sorted(common, key=lambda pair: (sum(pair), pair))
        found.update(dict.fromkeys(members, ordered))
    return {name: found[name] for name in problem.space.names}


def _tied(problem: Problem) -> list[tuple[str, ...]]:
    """All layers, those that share their bits together."""
    group = {name: members for members in problem.space.groups for name in members}
    return list(dict.fromkeys(group.get(name, (name,)) for name in problem.space.names))


def replaced(base: Policy, members: tuple[str, ...], pair: Pair) -> Policy:
    """The policy with some layers at other bits."""
    for name in members:
        base = base.replace(name, weight=pair[0], act=pair[1])
    return base
