"""DNAS: Mixed Precision Quantization of ConvNets via Differentiable Neural Architecture Search.

Wu, Wang, Zhang, Tian, Vajda and Keutzer, 2018, arXiv 1812.00090.

- Stochastic super net (section 3): every block is K copies with their own weights and BatchNorm,
  one per candidate precision; the block's output is sum_k m_k block_k(x).
- Soft masks (section 4): m_k = softmax_k((theta_k + g_k) / tau) with Gumbel noise g, the noise
  shared by a mini-batch, and the temperature tau = T_0 exp(-eta * epoch).
- Loss (section 5): L = CE * C(Cost), C = beta (log Cost)^gamma, Cost = sum over blocks of
  sum_k m_k cost_k. beta brings C to about 1 at the start; a larger gamma favours efficiency.
- Algorithm: after some warm-up epochs of weights only, every epoch trains the weights by SGD on
  80 % of the training images and then theta by Adam on the other 20 %.
- Every few epochs, architectures are sampled from softmax(theta); the best ones are trained.

Shorter searches: scale ``anneal`` with 90 / ``epochs`` to keep the last temperature, and raise
``theta_lr`` by the missing steps (80 are few). theta's gradients scale with the cross-entropy: at
0.03, of a trained network, a weight decay made for 1 drowns them; set ``theta_decay`` to 0 there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from frameworks.core.card import Card
from frameworks.core.evaluation.train import Loss, Recipe, cross_entropy
from frameworks.core.framework import Framework
from frameworks.core.policy import Policy
from frameworks.core.problem import Problem
from frameworks.core.registry import register
from frameworks.core.search.course import Course
from frameworks.core.solution import Solution
from frameworks.core.split import Split
from frameworks.core.supernets import decisions as blocks
from frameworks.core.supernets.relaxations import Choices, temperature
from frameworks.core.supernets.supernet import StochasticNet, frozen


def cost_factor(cost: Tensor, start: float, gamma: float) -> Tensor:
    """``beta (log Cost)^gamma`` with the beta at which a cost of ``start`` gives 1."""
    return (cost.log() / math.log(start)) ** gamma


@register
@dataclass
class DNAS(Framework):
    """Gumbel-softmax over copies of every block at several precisions.

    Attributes:
        epochs: passes over both parts of the training images.
        warmup: first epochs, in which only the weights are trained.
        share: share of the training images that trains weights; theta is trained on the rest.
        images: training images an epoch, both parts together; None for all.
        batch: batch size.
        lr: peak learning rate of the weights, cosine to zero.
        weight_decay: of the weights.
        theta_lr: learning rate of the architecture's logits.
        theta_decay: their weight decay.
        start_temperature: T_0.
        anneal: eta, the decay of the temperature an epoch.
        gamma: exponent of the cost.
        sample_every: epochs between samplings of architectures, after the warm-up.
        samples: architectures sampled each time, and at the end.
        pairs: candidate (weight, activation) bits of a block; by default `blocks.default_pairs`.
        range_lr: learning rate of learned quantization ranges, relative to ``lr``.
        augment: whether images are augmented as the dataset says.
    """

    name: ClassVar[str] = "dnas"
    card: ClassVar[Card] = Card(
        title="Mixed Precision Quantization of ConvNets via Differentiable Neural Architecture "
        "Search",
        year=2018,
        category="gradient",
        quantizer="dorefa_pact",
        quantization=("deterministic rounding", "learned range"),
        granularity="block",
        searches=("weight", "act"),
        needs=frozenset({"calibration", "train", "valid", "separable_cost"}),
        arxiv="1812.00090",
        venue="arXiv",
        hardware_aware=True,
        deviations=(
            "gamma, the paper's weight of the cost, is adjusted to meet the budget; beta, which "
            "only scales the loss, makes the factor 1 at the start (the paper: 0.1 for its costs)",
            "the unit of Cost is such that the cheapest architecture costs e, so that the "
            "logarithm is positive on every metric; the paper does not name its unit",
            "weights step on the cross-entropy alone: the cost factor does not depend on them and "
            "would scale their learning rate with gamma",
            "the candidates are short lists of (weight, activation) pairs, as in the paper, but "
            "drawn from the protocol's bits: equal bits, and activations one step above weights; "
            "0 and 32 bits only where the space has them",
            "starts from the pretrained network, as the paper on ImageNet but not on CIFAR-10",
            "of the samples within the budget the one of the best search-validation accuracy is "
            "returned, untrained; the paper trains several and reports two",
            "layers outside blocks are blocks of their own; tied blocks share one distribution",
            "temperature, learning rates, beta and gamma are from secondary sources and memory of "
            "the paper; the number of samples and the found policy's training are not known",
        ),
    )
    strength: ClassVar[str | None] = "gamma"
    close: ClassVar[float] = 0.8  # whole blocks make coarse steps
    recipe: ClassVar[Recipe | None] = Recipe(
        epochs=160, batch=128, lr=0.1, schedule="cosine", weight_decay=5e-4, augment=True
    )

    epochs: int = 90
    warmup: int = 10
    share: float = 0.8
    images: int | None = None
    batch: int = 512
    lr: float = 0.2
    weight_decay: float = 5e-4
    theta_lr: float = 5e-3
    theta_decay: float = 1e-3
    start_temperature: float = 5.0
    anneal: float = 0.025
    gamma: float = 0.9
    sample_every: int = 10
    samples: int = 10
    pairs: list[list[int]] = field(default_factory=list)
    range_lr: float = 0.1
    augment: bool = True

    def skip(self, problem: Problem) -> str | None:
        if (reason := super().skip(problem)) is not None:
            return reason
        if any(len(d.options) > 1 for d in blocks.block_decisions(problem, self.pairs)):
            return None
        return f"{self.name} finds nothing to search: every block has one candidate"

    def search(self, problem: Problem) -> Solution:
        return _Search(self, problem).run()


class _Search:
    """The state of one search: super net, distributions, optimizers and the two parts of data."""

    def __init__(self, settings: DNAS, problem: Problem) -> None:
        self.settings, self.problem = settings, problem
        self.generator = problem.generator(settings.name)
        self.decisions = blocks.block_decisions(problem, settings.pairs)
        candidates = blocks.block_candidates(self.decisions, problem.space)
        self.net = StochasticNet(problem, candidates, blocks.block_rows(self.decisions))
        self.choices = Choices([len(d.options) for d in self.decisions]).to(problem.device)
        self.cost = blocks.decision_cost(problem, self.decisions, math.e).to(problem.device)
        self.start_cost = float(self.cost(self.choices.probabilities()).detach())
        self.for_weights, self.for_theta = problem.train.halves(settings.share, self.generator)
        weights, ranges = self.net.parts()
        self.weights = [*weights, *ranges]
        s = settings
        self.sgd = torch.optim.SGD(weights, s.lr, momentum=0.9, weight_decay=s.weight_decay)
        if ranges:
            rate = s.lr * s.range_lr
            self.sgd.add_param_group({"params": ranges, "lr": rate, "weight_decay": 0.0})
        theta = self.choices.parameters()
        self.adam = torch.optim.Adam(theta, lr=s.theta_lr, weight_decay=s.theta_decay)
        objective = "cross-entropy * cost factor of sampled architectures"
        self.course = Course(objective, self.generator, s.batch, s.augment)
        self.best: tuple[tuple[bool, float, float], Policy] | None = None

    def run(self) -> Solution:
        s = self.settings
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.sgd, max(s.epochs, 1))
        tau = s.start_temperature
        for epoch in range(s.epochs):
            tau = temperature(s.start_temperature, s.anneal, epoch)
            self.problem.progress(epoch, s.epochs, f"super net, gamma {s.gamma:.3g}")
            self.train_weights(tau)
            schedule.step()
            if epoch < s.warmup:
                continue
            self.train_theta(tau)
            if (epoch + 1 - s.warmup) % s.sample_every == 0 and epoch + 1 < s.epochs:
                self.sample()
        self.sample()
        assert self.best is not None
        notes = {
            "gamma": s.gamma,
            "temperature": tau,
            "entropy": self.choices.entropy(),
            "candidates": [len(d.options) for d in self.decisions],
            "learning": self.course.to_json(),
        }
        return Solution(self.best[1], notes=notes, cross_entropy=self.course.last)

    def train_weights(self, tau: float) -> None:
        """One epoch of the weights on their part of the images; theta does not change."""

        def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            with torch.no_grad():
                self.net.mask(self.choices.gumbel(tau, self.generator))
            return cross_entropy(model, x, y)

        self.epoch(self.for_weights, self.settings.share, self.sgd, loss)

    def train_theta(self, tau: float) -> None:
        """One epoch of theta on its part of the images; the weights do not change."""

        def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            self.watch(x, y)
            masks = self.choices.gumbel(tau, self.generator)
            self.net.mask(masks)
            return cross_entropy(model, x, y) * self.factor(masks)

        with frozen(self.weights):
            self.epoch(self.for_theta, 1 - self.settings.share, self.adam, loss)

    def factor(self, masks: Tensor) -> Tensor:
        """What the masks' cost multiplies the loss with."""
        return cost_factor(self.cost(masks), self.start_cost, self.settings.gamma)

    @torch.no_grad()
    def watch(self, x: Tensor, y: Tensor) -> None:
        """Note the objective of an architecture drawn from softmax(theta), on a batch.

        Its expectation is what theta minimises. The loss of soft masks would not do: mixtures
        get worse as the temperature falls, whatever theta learns.
        """
        masks = self.choices.hard(self.generator)
        self.net.mask(masks)
        task = cross_entropy(self.net, x, y)
        self.course.step(task, task * self.factor(masks))

    def epoch(self, part: Split, share: float, optimizer: Optimizer, loss: Loss) -> None:
        """One pass over a part's share of the images of an epoch."""
        images = self.settings.images
        count = None if images is None else max(round(share * images), 1)
        self.course.run(self.net, part, count, [optimizer], loss)

    def sample(self) -> None:
        """Draw architectures and keep the most accurate within the budget, or the cheapest."""
        problem = self.problem
        for _ in range(self.settings.samples):
            picks = self.choices.sample(self.generator)
            policy = blocks.decided(problem.space, self.decisions, picks)
            if problem.within(policy):
                score = problem.evaluate(policy)
                rank = (True, score.accuracy, -score.loss)
            else:
                rank = (False, -problem.budget.load(problem.cost(policy)), 0.0)
            if self.best is None or rank > self.best[0]:
                self.best = (rank, policy)
        assert self.best is not None
        problem.checkpoint(self.best[1])
