"""BP-NAS's search: weights and theta in turns, on halves that do not meet, within the valid domain.

A step of theta that would leave the domain is halved until it stays, or not made, so that the
expected cost is below its limit at all times (`frameworks.gradient.bp_nas.barrier`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from frameworks.core.evaluation.train import Loss, cross_entropy
from frameworks.core.networks.taking.bake import mask_of, stored_weight
from frameworks.core.problem import Problem
from frameworks.core.search.course import Course
from frameworks.core.solution import Solution
from frameworks.core.split import Split
from frameworks.core.supernets.decisions import block_decisions
from frameworks.core.supernets.relaxations import Choices
from frameworks.core.supernets.supernet import frozen
from frameworks.gradient.bp_nas.barrier import Domain, prob1
from frameworks.gradient.bp_nas.pairs import PairNet
from frameworks.gradient.bp_nas.scale_clip import scale_clip_

if TYPE_CHECKING:
    from frameworks.gradient.bp_nas.framework import BPNAS

LONGEST_GRADIENT = 1.0
HALVINGS = 10
WEIGHT_LOSS: Loss = cross_entropy


class Search:
    """The state of one search: super net, theta, the valid domain and both halves of the data."""

    def __init__(self, settings: BPNAS, problem: Problem) -> None:
        s = self.settings = settings
        self.problem = problem
        self.generator = problem.generator(s.name)
        self.decisions = block_decisions(problem, s.pairs, s.layerwise)
        self.domain = Domain(problem, self.decisions)
        self.choices = Choices([len(d.options) for d in self.decisions]).to(problem.device)
        self.pushed = self.domain.enter(self.choices)
        self.net = PairNet(problem, self.decisions)
        self.for_weights, self.for_theta = problem.train.halves(0.5, self.generator)
        weights, ranges = self.net.parts()
        self.weights = [*weights, *ranges]
        self.sgd = torch.optim.SGD(weights, s.lr, momentum=0.9, weight_decay=s.weight_decay)
        if ranges:
            rate = s.lr * s.range_lr
            self.sgd.add_param_group({"params": ranges, "lr": rate, "weight_decay": 0.0})
        self.adam = torch.optim.Adam(
            self.choices.parameters(), s.theta_lr, (0.5, 0.999), weight_decay=s.theta_decay
        )
        objective = "cross-entropy of the super net on the half that theta learns from"
        self.course = Course(objective, self.generator, s.batch, s.augment)
        self.before = self.choices.logits.detach().clone()
        self.loads: list[float] = [max(self.domain.loads(self.p))]
        self.entropies: list[float] = [self.choices.entropy()]

    @property
    def p(self) -> Tensor:
        """The probabilities ``[decisions, K]``."""
        return self.choices.probabilities()

    def run(self) -> Solution:
        s, problem = self.settings, self.problem
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.sgd, max(s.epochs, 1))
        for epoch in range(s.epochs):
            problem.progress(epoch, s.epochs, "super net within the barrier")
            self.train_weights()
            schedule.step()
            if epoch >= s.warmup:
                self.train_theta(s.mu_at(epoch), s.lambda_at(epoch))
            self.entropies.append(self.choices.entropy())
            problem.checkpoint(self.domain.most_probable(self.p))
        policy = self.domain.most_probable(self.p)
        notes = {
            "pushed": self.pushed,
            "load": {"start": self.loads[0], "most": max(self.loads), "end": self.loads[-1]},
            "entropy": self.entropies,
            "prob1": float(prob1(self.p.detach())),
            "argmax": max(self.domain.loads(self.one_hot())),
            "learning": self.course.to_json(),
        }
        return Solution(policy, notes=notes, cross_entropy=self.course.last)

    def one_hot(self) -> Tensor:
        """The argmax of every decision as probabilities."""
        best = torch.tensor(self.choices.best(), device=self.problem.device)
        return nn.functional.one_hot(best, self.choices.logits.shape[1]).float()

    def train_weights(self) -> None:
        """One epoch of the weights on their half; theta does not change."""
        with torch.no_grad():
            self.net.mix(self.p)
        self.epoch(self.for_weights, self.sgd, WEIGHT_LOSS, after=self.reshape)

    def reshape(self) -> None:
        """Scale-Clip of all stored weights."""
        if self.settings.reshape:
            for layer in self.net.stored():
                scale_clip_(stored_weight(layer).data, self.settings.reshape, mask_of(layer))

    def train_theta(self, mu: float, weight: float) -> None:
        """One epoch of theta on its half; the weights do not change."""

        def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            p = self.p
            self.net.mix(p)
            task = cross_entropy(model, x, y)
            self.course.step(task, task)
            return task + self.domain.penalty(p, mu) + weight * prob1(p)

        with frozen(self.weights):
            self.epoch(self.for_theta, self.adam, loss, self.clip, self.stay)

    def epoch(
        self,
        half: Split,
        optimizer: torch.optim.Optimizer,
        loss: Loss,
        before: Callable[[], None] | None = None,
        after: Callable[[], None] | None = None,
    ) -> None:
        """One pass over a half's share of the images of an epoch."""
        images = self.settings.images
        count = None if images is None else max(images // 2, 1)
        self.course.run(self.net, half, count, [optimizer], loss, after, before)

    def clip(self) -> None:
        """Before a step: bound the gradient, and keep where theta was."""
        nn.utils.clip_grad_norm_(self.choices.parameters(), LONGEST_GRADIENT)
        self.before.copy_(self.choices.logits.detach())

    @torch.no_grad()
    def stay(self) -> None:
        """After a step: halve it until the expectation is inside, or take it back."""
        logits = self.choices.logits
        for halving in range(HALVINGS + 1):
            if self.domain.contains(self.p):
                break
            logits.copy_(self.before if halving == HALVINGS else (logits + self.before) / 2)
        self.loads.append(max(self.domain.loads(self.p)))
