"""SPOS: Single Path One-Shot Neural Architecture Search with Uniform Sampling.

Guo, Zhang, Mu, Heng, Liu, Wei and Sun, 2019, arXiv 1904.00420; its search for mixed precision.

- Super net (`frameworks.metaheuristic.spos.single_path`): every block chooses one of a few pairs of
  (weight, activation) bits for its layers, such as (1,2) (2,2) (1,4) (2,4) (3,4) (4,4). All choices
  share one set of float weights W, quantized on the fly (DoReFa weights, PACT activations).
- Training (section 3): each step draws one path a and trains it alone,

      W* = argmin_W  E_{a ~ U} [ loss(a, W(a)) ],

  uniformly; or, "uniform constraint sampling", uniformly over bins of cost about the budget and
  over the paths of a bin (`frameworks.metaheuristic.spos.sampling`). SGD, momentum 0.9, weight
  decay 4e-5 on weights, label smoothing 0.1, a learning rate that falls linearly to 0. What a path
  does not use is neither decayed nor moved.
- Search (section 3.4, `frameworks.core.evolution.genetic`): a* = argmax_a accuracy(a, W*(a)) with
  cost(a) within the budget, BatchNorm's statistics recomputed for every path over training images.
  50 random paths; then, generation by generation, 25 mutants (p = 0.1) and 25 children of the best
  10 so far; a path over the budget is refused, and none is evaluated twice. Cost: the target's, for
  the paper sum MAC_l w_l a_l (BitOps) without the first and last layer.
- The best path is trained anew, by the same smoothed labels.

With ``epochs`` 0 there is no super net: the pretrained network's weights stand for W*, and paths
are scored as all policies are. Shorter searches: start from a lower ``lr`` (0.01 at a batch of 32).
A short super net tells little of policies: with 320 steps and six pairs (ResNet-8 on Fashion-MNIST,
bops like=2.4, three seeds) its losses rank theirs with -0.22, 0.13, -0.34 untrained, and with 0.05,
-0.64, 0.10 after a short training (`benchmarks.studies.own_space`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from frameworks.core.card import Card
from frameworks.core.evaluation.evaluate import Score
from frameworks.core.evaluation.train import Recipe, make_optimizer, smoothed_cross_entropy
from frameworks.core.evolution.genetic import Genes, Genetic, Settings
from frameworks.core.framework import Framework
from frameworks.core.networks.qmodel import QModel
from frameworks.core.policy import Policy
from frameworks.core.problem import Problem
from frameworks.core.registry import register
from frameworks.core.search.course import Course
from frameworks.core.solution import Solution
from frameworks.metaheuristic.spos.paths import Paths
from frameworks.metaheuristic.spos.single_path import SinglePath, path_evaluator

Scorer = Callable[[Policy], Score]
Notes = dict[str, Any]


@register
@dataclass
class SPOS(Framework):
    """A super net trained path by path, and an evolutionary search over its paths.

    Attributes:
        epochs: passes over the training images; 0 searches in the pretrained network.
        images: training images a pass; None for all.
        batch: batch size.
        lr: learning rate at the start, of weights; linear to zero.
        range_lr: that of quantization ranges, relative to ``lr``.
        weight_decay: of weights.
        smoothing: of the labels.
        augment: whether images are augmented as the dataset says.
        bins: of cost, from 0.9 to 1.1 of the budget or as far as paths reach, over which training
            draws paths uniformly; 0 draws uniformly over all paths.
        statistics: training images, at most those of a pass, for a path's BatchNorm statistics.
        pairs: candidate (weight, activation) bits; by default all of the protocol's bits with no
            more weight bits than activation bits.
        layerwise: every layer is a choice, and not every block.
        evaluations: distinct paths that are evaluated.
        population: random paths of the first generation.
        parents: the best paths so far, of which the next generation is made.
        mutants, children: of a generation; children are made by crossover.
        mutation: probability that a choice is redrawn.
        tries: draws at most, in multiples of the paths that are wanted.
    """

    name: ClassVar[str] = "spos"
    card: ClassVar[Card] = Card(
        title="Single Path One-Shot Neural Architecture Search with Uniform Sampling",
        arxiv="1904.00420",
        year=2019,
        venue="ECCV 2020",
        category="metaheuristic",
        quantizer="dorefa_pact",
        quantization=("deterministic rounding", "learned range"),
        granularity="block",
        searches=("weight", "act"),
        needs=frozenset({"calibration", "train", "valid", "separable_cost"}),
        hardware_aware=True,
        deviations=(
            "channels are not searched: the networks here have the widths that they have",
            "the paper's pairs (from memory) are (1,2) (2,2) (1,4) (2,4) (3,4) (4,4); by default "
            "all pairs of the protocol's bits that are formed like these, with no more weight than "
            "activation bits. Downsampling layers take their block's pair",
            "nothing of the bits' search is released: sampling, schedule, search and the "
            "statistics' recomputation are those of the blocks' search (150,000 iterations of "
            "1024; here a tenth, from the pretrained network and not from scratch)",
            "a layer's clip is learned for each of its pairs, at a tenth of the rate and without "
            "decay; BatchNorm's scale and shift are shared (the released blocks have none here)",
            "the paths of a bin of costs are counted, so that every draw is one of them; the "
            "release draws until one is, 500 times, then takes any. Bins without paths are left "
            "out; where all paths are cheaper than the bins, all are drawn alike",
            "all paths are scored on the same images of the search-validation split; the release "
            "goes on through its images from path to path. Equal accuracies: the lower loss (the "
            "release: top-5)",
            "statistics are exact ones over at most 20,000 images, the paper's number, or as many "
            "as one pass holds in a gigabyte, so that they cost a path one pass. They are the same "
            "for all paths; the release averages over 200 batches of 128",
            "of uniform draws a tight budget leaves hardly any: where ten times as many as wanted "
            "are not enough in the first generation (or in one that would be empty), choices of a "
            "draw are made cheaper until it fits. The cheapest path always joins the first",
            "the last generation counts, too (the release does not rank it), and the number of "
            "distinct paths evaluated ends the search: 1000, as many as the release ranks",
            "the found policy is trained from the pretrained network, by the cosine schedule",
            "under `ptq` paths are ranked with weights that the final network does not have; "
            "`epochs` 0 searches the pretrained network",
            "every budget trains a super net of its own; the paper has one serve several limits",
            "the first and the last layer are billed, at the bits that the space pins (not float)",
            "it trains and evaluates; `random` with as many evaluations sees far fewer images",
        ),
    )
    searches_choices: ClassVar[bool] = True
    recipe: ClassVar[Recipe | None] = Recipe(
        epochs=240, batch=1024, lr=0.5, schedule="cosine", weight_decay=4e-5, augment=True
    )

    epochs: int = 12
    images: int | None = None
    batch: int = 1024
    lr: float = 0.5
    range_lr: float = 0.1
    weight_decay: float = 4e-5
    smoothing: float = 0.1
    augment: bool = True
    bins: int = 7
    statistics: int = 20000
    pairs: list[list[int]] = field(default_factory=list)
    layerwise: bool = False
    evaluations: int = 1000
    population: int = 50
    parents: int = 10
    mutants: int = 25
    children: int = 25
    mutation: float = 0.1
    tries: int = 10

    def validate(self) -> None:
        for name, bound in (("epochs", 0), ("bins", 0), ("statistics", 1)):
            if getattr(self, name) < bound:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least {bound}")
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing = {self.smoothing}: give a share from 0 to below 1")
        self.settings()
        super(SPOS, replace(self, epochs=max(self.epochs, 1))).validate()  # 0 is allowed here

    def settings(self) -> Settings:
        """The numbers of the evolutionary search; raises a ValueError that names a wrong one."""
        names = Settings.__dataclass_fields__.keys() & vars(self).keys()
        return Settings(**{name: getattr(self, name) for name in names})

    def paths(self, problem: Problem) -> Paths:
        """What there is to choose from."""
        return Paths(problem, self.pairs, self.layerwise)

    def skip(self, problem: Problem) -> str | None:
        if (reason := super().skip(problem)) is not None:
            return reason
        try:
            paths = self.paths(problem)
        except ValueError as error:
            return f"{self.name}: {error}"
        if max(paths.counts, default=1) < 2:
            return f"{self.name} finds nothing to search: every block has one candidate"
        if not paths.fits(paths.cheapest):
            return f"{self.name} has no path within the budget: give cheaper `pairs`"
        return None

    def search(self, problem: Problem) -> Solution:
        notes: Notes = {}
        score, course = self.scorer(problem, notes)
        policy = self.evolve(problem, self.paths(problem), score, notes)
        return Solution(policy, notes=notes, cross_entropy=course.last if course else None)

    def scorer(self, problem: Problem, notes: Notes) -> tuple[Scorer, Course | None]:
        """What scores policies: the super net, trained first, or (``epochs`` 0) the problem."""
        paths, drawn = self.paths(problem), set[Genes]()
        notes["candidates"] = paths.counts
        if not self.epochs:
            return problem.evaluate, None
        net = SinglePath(problem, paths.candidates)
        course = self.train(problem, paths, net, drawn)
        notes |= {"learning": course.to_json(), "untrained": paths.missing(drawn)}
        return path_evaluator(net, problem, self.statistics), course

    def train(self, problem: Problem, paths: Paths, net: SinglePath, drawn: set[Genes]) -> Course:
        """Train the super net's weights and ranges, one path a step, which joins the drawn ones."""
        rng, sampler = problem.rng("paths"), paths.sampler(self.bins)
        net.fix(paths.policy(paths.cheapest))
        rates = Recipe(lr=self.lr, range_lr=self.range_lr, weight_decay=self.weight_decay)
        sgd = make_optimizer(rates, net.weight_parameters(), net.range_parameters())
        order = problem.generator(self.name)
        course = Course("loss of drawn paths", order, self.batch, self.augment)
        size = min(self.images or len(problem.train), len(problem.train))
        steps = self.epochs * -(-size // self.batch)
        smoothed = smoothed_cross_entropy(self.smoothing)
        falling = torch.optim.lr_scheduler.LambdaLR(sgd, lambda i: max(1 - i / steps, 0.0))

        def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            drawn.add(genes := sampler.draw(rng))
            net.fix(paths.policy(genes))
            value = smoothed(model, x, y)
            return course.step(value, value)

        for epoch in range(self.epochs):
            problem.progress(epoch, self.epochs, "super net")
            course.run(net, problem.train, self.images, [sgd], loss, after_step=falling.step)
        return course

    def evolve(self, problem: Problem, paths: Paths, score: Scorer, notes: Notes) -> Policy:
        """The best path found; facts of the search are added to the notes."""
        rng = problem.rng(self.name)
        search = Genetic(
            paths.counts, rng, self.settings(), feasible=paths.fits,
            repair=lambda genes: paths.cheaper(genes, rng), start=[paths.cheapest],
        )  # fmt: skip
        done, chosen, accuracy = 0, problem.cheapest(), None  # where no path is within the budget
        while done < self.evaluations and (genomes := search.ask()):
            scored = []
            for genes in genomes[: self.evaluations - done]:
                problem.progress(done, self.evaluations, "paths")
                found = score(paths.policy(genes))
                scored.append((genes, (found.accuracy, -found.loss)))
                done += 1
            search.tell(scored)
            chosen, accuracy = paths.policy(search.parents[0][0]), search.parents[0][1][0]
            problem.checkpoint(chosen, accuracy)
        notes |= {"accuracy": accuracy, "distinct": done, "draws": search.draws}
        return chosen

    def finish(self, problem: Problem, solution: Solution) -> QModel:
        """The final training, with smoothed labels."""
        return problem.fine_tune(solution.policy, loss=smoothed_cross_entropy(self.smoothing))
