"""APQ: Joint Search for Network Architecture, Pruning and Quantization Policy.

Wang, Wang, Cai, Lin, Liu, Wang, Lin and Han, CVPR 2020, arXiv 2006.08509; released code
mit-han-lab/apq (commit 428190a). No candidate is run in the search: a predictor tells its accuracy.

- Predictor (section 3.2, `frameworks.metaheuristic.apq.predictor`): an MLP of three layers of 400
  on the one-hot code of a candidate. A float predictor learns from many pairs (candidate, accuracy)
  that cost little, as they take no training (80,000 in the paper).
- Transfer (section 3.3): the quantization-aware predictor begins with the float one's weights, adds
  a linear map of the bits to the first layer's output, and is fine-tuned on few pairs (candidate,
  bits, accuracy), each of which costs a short training (5,000 in the paper).
- Evolution (section 3.4, `frameworks.core.evolution.genetic`): 100 candidates, the best 25 stay and
  breed 50 mutants (every block with p = 0.1, all of its bits redrawn) and 50 children (block by
  block from either parent), 500 times; what is over the limits of latency and energy, or does not
  run on the hardware, is drawn again. Fitness: the predicted accuracy.
- The winner is trained for 30 epochs.

The architecture is fixed here, so that nothing is left for a float predictor of architectures. What
stands for it keeps its part, plenty of pairs of another accuracy that cost no training and no
evaluation: policies with

    A_float exp(-D / m),   D = sum over layers of KL(float || layer i alone at w_i, a_i),

the divergence of `frameworks.core.search.alone`, which takes a pass over ``images`` calibration
images for every pair of bits of every layer, and m the median of D. No pair depends on a budget:
predictors are trained once, and every further budget costs an evolution, that is, no image.

Where every policy's score is known (ResNet-8 with equal bits, 100 pairs, 20 seeds, bops like=3;
`benchmarks.studies.landscape`) it ends 0.85 points of accuracy behind the best, random search of
100 evaluations 0.11: it takes the best by a predictor that has seen 100 pairs in place of 5,000,
and evaluates none of the policies it chooses among.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from frameworks.core.card import Card
from frameworks.core.evaluation.train import Recipe, smoothed_cross_entropy
from frameworks.core.evolution.genetic import Genes, Settings
from frameworks.core.framework import ScoringFramework
from frameworks.core.networks.qmodel import QModel
from frameworks.core.problem import Problem
from frameworks.core.registry import register
from frameworks.core.search.alone import divergences
from frameworks.core.search.learning import Learning
from frameworks.core.solution import Scores, Solution
from frameworks.metaheuristic.apq import pairs as data
from frameworks.metaheuristic.apq.evolution import evolution, predicted
from frameworks.metaheuristic.apq.predictor import Code, Fit, Predictor, fit, packed, unpack

SMOOTHING = 0.1
"""Of the labels in the final training."""


@register
@dataclass
class APQ(ScoringFramework):
    """A predictor of accuracies, transferred from cheap pairs, and an evolution on it.

    Attributes:
        cheap: pairs that the float predictor's stand-in is trained on.
        images: calibration images of these pairs' divergences, at most.
        cheap_epochs: passes over them; 0 leaves the transfer out.
        pairs: policies that are evaluated, for the quantization-aware predictor.
        epochs: passes over these.
        hidden: units of each hidden layer.
        lr: learning rate of the predictors.
        weight_decay: of the predictors.
        retrain_epochs: epochs before a policy is evaluated, where the protocol trains.
        retrain_lr: its learning rate.
        population: random policies of the evolution's first generation.
        generations: after the first one.
        parents: the best so far, of which the next generation is made.
        mutants: of a generation.
        children: of a generation, by crossover.
        mutation: probability that a block is redrawn.
        tries: draws at most of random policies, in multiples of those that are wanted.
        redraws: draws at most for each mutant and child.
        layerwise: every layer mutates and crosses by itself, and not every block.
    """

    name: ClassVar[str] = "apq"
    card: ClassVar[Card] = Card(
        title="APQ: Joint Search for Network Architecture, Pruning and Quantization Policy",
        arxiv="2006.08509",
        year=2020,
        venue="CVPR 2020",
        category="metaheuristic",
        quantizer="haq_linear",
        quantization=("deterministic rounding", "learned range"),
        granularity="layer",
        searches=("weight", "act"),
        needs=frozenset({"calibration", "train", "valid"}),
        hardware_aware=True,
        deviations=(
            "bits alone are searched: kernels, depths and widths need a once-for-all network, and "
            "the networks here are given",
            "the float predictor, of architectures, has no subject then. Sums of divergences of "
            "layers quantized alone stand for its accuracies; it reads the code of the bits, which "
            "the quantization-aware one reads a second time through its new map",
            "the divergences are evaluations of their own, a pass for each pair of bits of each "
            "layer: where bits are many and pairs few, most images go there",
            "that map starts at 0, so that the fine-tuning begins at what was transferred",
            "pairs are drawn at levels spread evenly from the fewest bits to the most, for all "
            "budgets; how the paper draws is not known, and uniform draws all cost the same",
            "optimiser (Adam 1e-3, weight decay 1e-4, batches of 500) is a co-author's advice for "
            "the sister method; the release trains no predictor. The epoch of the least error on "
            "the held-out fifth is kept, so that the rank correlation noted is too good",
            "weights and activations of each layer have bits of their own; the paper's two "
            "pointwise layers of a block share theirs",
            "a policy is fine-tuned for a fifth of an epoch before it is evaluated (the paper: "
            "some 0.2 GPU hours), where the protocol trains",
            "the released search codes all candidates as 8 bits, so that bits change their cost "
            "alone, and drops the children that it scored, as `children` 0 does; not so here",
            "no candidate comes twice, and the cheapest one joins the first generation. Of uniform "
            "draws a tight budget leaves hardly any: where ten times as many as wanted are not "
            "enough in the first generation (or in one that would be empty), draws are lowered "
            "until they fit. A mutant or child is drawn until it fits, as released, but at most "
            "1000 times; then the generation has no more of them",
            "the paper's networks have 21 blocks. Of three, most mutants are their parent, and a "
            "whole block drawn anew hardly ever fits a tight budget: with `layerwise` every layer "
            "is a unit by itself",
            "the final training has no Nesterov momentum",
            "few pairs are few for a tight budget, as they are drawn for all budgets",
        ),
    )
    recipe: ClassVar[Recipe | None] = Recipe(
        epochs=30, batch=256, lr=1e-3, weight_decay=4e-5, augment=True
    )
    evaluates: ClassVar[tuple[str, ...]] = ("pairs",)
    searches_choices: ClassVar[bool] = True

    cheap: int = 80000
    images: int = 256
    cheap_epochs: int = 20
    pairs: int = 5000
    epochs: int = 200
    hidden: int = 400
    lr: float = 1e-3
    weight_decay: float = 1e-4
    retrain_epochs: float = 0.2
    retrain_lr: float = 1e-3
    population: int = 100
    generations: int = 500
    parents: int = 25
    mutants: int = 50
    children: int = 50
    mutation: float = 0.1
    tries: int = 10
    redraws: int = 1000
    layerwise: bool = False

    def validate(self) -> None:
        least = {"cheap": 1, "cheap_epochs": 0, "pairs": 1, "hidden": 1, "generations": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least {bound}")
        self.settings()
        super().validate()

    def settings(self) -> Settings:
        """The numbers of the evolution; raises a ValueError that names a wrong one."""
        return Settings(**{name: getattr(self, name) for name in Settings.__dataclass_fields__})

    def score(self, problem: Problem) -> Scores:
        rng, generator = problem.rng("pairs"), problem.generator("predictor")
        code = Code(problem.space.choices)
        predictor = Predictor(code.length, self.hidden, problem.seed).to(problem.device)
        cheap = self.pretrain(problem, predictor, generator)
        genes, draws = data.distinct(problem, self.pairs, rng)
        accuracies = [self.accuracy(problem, g, i) for i, g in enumerate(genes)]
        found = code.encode(genes, problem.device), torch.tensor(accuracies).to(problem.device)
        aware = predictor.aware()
        tuned = self.fit(aware, found, generator, self.epochs, aware=True)
        learning = Learning("error on held-out pairs", tuned.errors, higher=False)
        values = {
            "pairs": [[list(g), a] for g, a in zip(genes, accuracies, strict=True)],
            "draws": draws,
            "cheap": cheap.to_json(),
            "tuned": tuned.to_json(),
            "learning": learning.to_json(),
            "weights": packed(aware),
        }
        return Scores(values)

    def pretrain(self, problem: Problem, predictor: Predictor, generator: torch.Generator) -> Fit:
        """Train the float predictor's stand-in on cheap pairs."""
        if not self.cheap_epochs:
            return Fit()
        losses = divergences(problem, self.images)
        best = problem.float_score().accuracy / 100
        genes, y = data.cheap_pairs(problem, losses, best, self.cheap, problem.rng("cheap"))
        x = Code(problem.space.choices).encode(genes, problem.device)
        return self.fit(predictor, (x, y.to(problem.device)), generator, self.cheap_epochs)

    def fit(
        self, predictor: Predictor, found: tuple[Tensor, Tensor], generator: torch.Generator,
        epochs: int, *, aware: bool = False,
    ) -> Fit:  # fmt: skip
        """Train a predictor in place."""
        return fit(
            predictor, found, generator, epochs=epochs, lr=self.lr,
            weight_decay=self.weight_decay, aware=aware,
        )  # fmt: skip

    def accuracy(self, problem: Problem, genes: Genes, done: int) -> float:
        """The measured accuracy of a policy, in [0, 1]."""
        problem.progress(done, self.pairs, "pairs")
        recipe = Recipe(
            epochs=self.retrain_epochs, batch=256, lr=self.retrain_lr, schedule="constant",
            weight_decay=4e-5, augment=True,
        )  # fmt: skip
        policy = data.policy_of(problem.space, genes)
        return problem.evaluate(policy, recipe if self.retrain_epochs else None).accuracy / 100

    def solve(self, problem: Problem, scores: Scores) -> Solution:
        space, code = problem.space, Code(problem.space.choices)
        predictor = Predictor(code.length, self.hidden, problem.seed).to(problem.device)
        unpack(predictor, scores.values["weights"])
        search = evolution(problem, self.settings(), problem.rng(self.name), self.layerwise)
        policy, accuracy = problem.cheapest(), None  # where no candidate is within the budget
        for generation in range(self.generations + 1):
            problem.progress(generation, self.generations + 1, "generations")
            if not (genomes := search.ask()):
                break
            search.tell(
                list(zip(genomes, predicted(predictor, code, genomes, problem), strict=True))
            )
            best, (accuracy,) = search.parents[0]
            policy = data.policy_of(space, best)
            problem.checkpoint(policy, 100 * accuracy)
        kept = {name: scores.values[name] for name in ("draws", "cheap", "tuned", "learning")}
        counts = {"distinct": len(scores.values["pairs"]), "candidates": search.draws}
        known = {} if accuracy is None else {"predicted": 100 * accuracy}
        return Solution(policy, notes={**known, **counts, **kept})

    def finish(self, problem: Problem, solution: Solution) -> QModel:
        """The final training, with smoothed labels."""
        return problem.fine_tune(solution.policy, loss=smoothed_cross_entropy(SMOOTHING))
