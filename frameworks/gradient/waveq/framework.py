"""WaveQ: Gradient-Based Deep Quantization of Neural Networks through Sinusoidal Regularization.

Elthakeb, Pilligundla, Mireshghallah, Elgindi, Deledalle and Esmaeilzadeh, 2020, arXiv 2003.00146;
released code he-actlab/waveq.code.

- Regularizer: a sinusoid over the weights whose period is the layer's bits, a trained number beta,
      L = CE + lambda_w sum_l mean_j sin^2(pi w_lj (2^beta_l - 1)) / 2^beta_l
             + lambda_beta sum_l beta_l,
  so that weights are drawn to the levels, and bits down, in one gradient descent. The minima are
  the grid k / (2^beta - 1): beta counts the bits of the magnitude, ceil(beta) + 1 those with sign.
- The period gives a bit width b = ceil(beta) and a scale factor alpha = b / beta, by which the
  forward pass quantizes: alpha Q_b(w / alpha). Its slope in alpha is (Q_b - w / alpha) . dL/dw,
  about twice what rounding adds to the loss: where bits matter, the loss holds beta up.
- Three parts (the framework's figure): 1. both strengths about 0; 2. from a fifth of the training
  on both at their plateaus, and bits are learned; 3. from four fifths on lambda_beta is 0 again,
  bits are fixed and weights settle at their levels.

Bits are decided when part 2 ends: parts 1 and 2 are the search, part 3 is what `finish` trains.

The slopes of the sinusoid are much alike in all layers and above those of the loss by far, so that
bits are nearly uniform where the strength is steered long enough. On digits (ResNet-8, 2.4 bits in
bit operations, 5 short epochs, 2 seeds) uniform 3 bits were then found with the loss's gradient and
without. In the two runs of the suite quick (3 seeds) the loss holds up the first block: 95.6 % with
its gradient and 94.7 % without, on search-validation images. With
lambda_w at 0.06 bits differ by layer with it, and 1.9 points are lost to the noise of so few steps
(6 epochs, 1 seed).

Shorter searches: what lambda_beta takes from beta is its sum over the steps times the learning
rate, less the resistance of the layers, so that the number of steps is part of the operating point;
raise ``beta_lr`` as they become fewer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from frameworks.core.card import Card
from frameworks.core.evaluation.train import Recipe, cross_entropy
from frameworks.core.framework import Framework
from frameworks.core.networks.qmodel import QModel
from frameworks.core.networks.taking.bake import raw_weight
from frameworks.core.problem import Problem
from frameworks.core.registry import register
from frameworks.core.search.course import Course
from frameworks.core.solution import Solution
from frameworks.core.supernets.activations import affordable_activations
from frameworks.core.supernets.placed import PlacedNet
from frameworks.gradient.waveq.network import (
    policy_of,
    reach_of,
    waved,
    waves_of,
    weights_of,
)
from frameworks.gradient.waveq.sinusoid import Period, profile, wave

MOMENTUM = 0.9
RISE, WIDTH = 0.25, 0.025
"""Where both strengths rise, and how fast, as shares of parts 1 and 2 (0.2 and 0.02 of all)."""


@register
@dataclass
class WaveQ(Framework):
    """Bits as the trained period of a sinusoid over the weights, whose minima are the levels.

    Attributes:
        epochs: passes over the training images in parts 1 and 2.
        images: training images an epoch; None for all.
        batch: batch size.
        lr: learning rate of the weights (SGD with momentum 0.9).
        beta_lr: learning rate of the periods, relative to ``lr``; 1 as released.
        lambda_w: plateau of the sinusoid's strength.
        lambda_beta: plateau of the strength that draws bits down.
        act_bits: activation bits of all layers; fewer where the budget asks for it (see the card).
        weight_decay: of the weights.
        range_lr: learning rate of learned quantization ranges, relative to ``lr``.
        augment: whether images are augmented as the dataset says.
    """

    name: ClassVar[str] = "waveq"
    card: ClassVar[Card] = Card(
        title="WaveQ: Gradient-Based Deep Quantization of Neural Networks through Sinusoidal "
        "Adaptive Regularization",
        year=2020,
        category="gradient",
        quantizer="waveq",
        quantization=("deterministic rounding",),
        granularity="layer",
        searches=("weight",),
        needs=frozenset({"calibration", "train"}),
        arxiv="2003.00146",
        deviations=(
            "a layer's bits count the sign, as the grid of the paper's formula with beta has "
            "2 (2^beta - 1) + 1 levels; beta starts at one less than the most bits allowed, and "
            "stays between 1 and that; the released code starts at 8 and does not bound it",
            "lambda_beta is adjusted to meet the budget; the paper has no target",
            "the forward pass has weights at ceil(beta) magnitude bits under the scale "
            "ceil(beta) / beta, which the abstract's learned scale factor is taken to be; the "
            "released code learns bits with float weights, by the regularizer alone",
            "weights are divided by the pretrained max|w| of their layer, by which the grid fits; "
            "the released code takes raw weights",
            "the regularizer is the mean over a layer's weights, as released; the paper's formula "
            "has the sum",
            "bits are decided and fixed where lambda_beta has fallen by half, at four fifths; the "
            "released code fixes them nowhere and bits drift on",
            "periods have no weight decay and a learning rate of their own beside the weights'",
            "activation bits, which the paper sets by hand, are where the target prices them the "
            "most up to act_bits at which the uniform policy of equal bits is within the budget",
            "bits that are no candidate are raised to the next; tied layers share one period; "
            "where bits are paired, activations have the most bits during the search and follow "
            "the weights in the policy; one bit is never chosen",
            "under quantizers other than the paper's the minima of the sinusoid are not their "
            "levels: weights are rounded by the protocol's",
            "weights start from the pretrained network, and the search keeps them within its "
            "max|w|, as WRPN clips them, whose grid this is: the gradient of a channel that is all "
            "0 goes through a normalisation without variance, and one step throws its weights far "
            "out; pinned layers have no period",
            "in short searches the loss has little say: where the strength is steered in many "
            "runs, digits have uniform bits with its gradient and without (quick has two runs)",
        ),
    )
    strength: ClassVar[str | None] = "lambda_beta"
    close: ClassVar[float] = 0.9
    lowers_bits: ClassVar[bool] = True
    searches_weights: ClassVar[bool] = True
    recipe: ClassVar[Recipe | None] = Recipe(
        epochs=200, batch=128, lr=0.005, schedule="constant", weight_decay=1e-4, augment=True
    )

    epochs: int = 800
    images: int | None = None
    batch: int = 128
    lr: float = 0.005
    beta_lr: float = 1.0
    lambda_w: float = 1.0
    lambda_beta: float = 0.03
    act_bits: int = 4
    weight_decay: float = 1e-4
    range_lr: float = 0.1
    augment: bool = True

    def search(self, problem: Problem) -> Solution:
        acts = affordable_activations(problem, self.act_bits)
        net, periods = waved(problem, acts)
        objective = "cross-entropy + lambda_w * sinusoid + lambda_beta * bits"
        course = Course(objective, problem.generator(self.name), self.batch, self.augment)
        optimizer, history = self.optimizer(net, periods), []
        steps = self.epochs * math.ceil(self.seen(problem) / self.batch)
        reaches = weights_of(net)

        def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            t = len(course.losses) / steps
            of_waves, of_bits = profile(t, RISE, 1.0, WIDTH)
            task, waves = cross_entropy(model, x, y), self.lambda_w * waves_of(net)
            bits = self.lambda_beta * torch.stack([each.beta for each in periods.values()]).sum()
            course.step(task, task + waves + bits)  # at the plateaus, to compare steps by
            return task + of_waves * waves + of_bits * bits

        @torch.no_grad()
        def clamp() -> None:
            for each in periods.values():
                each.clamp_()
            for weight, reach in reaches:
                weight.clamp_(-reach, reach)

        for epoch in range(self.epochs):
            problem.progress(epoch, self.epochs, f"periods, lambda_beta {self.lambda_beta:.3g}")
            course.run(net.qmodel, problem.train, self.images, [optimizer], loss, clamp)
            history.append([float(each.beta.detach()) for each in periods.values()])
            problem.checkpoint(policy_of(net, acts))
        notes = {
            "lambda_beta": self.lambda_beta,
            "periods": history,
            "learning": course.to_json(),
        }
        policy, weights = policy_of(net, acts), net.qmodel.float_state()
        return Solution(policy, weights, notes=notes, cross_entropy=course.last)

    def finish(self, problem: Problem, solution: Solution) -> QModel:
        """Part 3: the weights of the search settle at the levels of their bits, now fixed."""
        reach = {n: reach_of(problem.network.get_submodule(n)) for n in problem.space.names}
        free = problem.space.free_weights
        betas = {n: torch.tensor(solution.policy[n].mean_weight - 1.0) for n in free}

        def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            assert isinstance(model, QModel)
            waves = [
                wave(raw_weight(model.qlayer(n).inner) / reach[n], beta.to(x.device))
                for n, beta in betas.items()
                if beta > 0
            ]
            total = self.lambda_w * torch.stack(waves).sum() if waves else 0.0
            return cross_entropy(model, x, y) + total

        return problem.fine_tune(solution.policy, weights=solution.weights, loss=loss)

    def seen(self, problem: Problem) -> int:
        """Images of an epoch."""
        return min(self.images or len(problem.train), len(problem.train))

    def optimizer(self, net: PlacedNet, periods: dict[int, Period]) -> torch.optim.Optimizer:
        """SGD over weights, periods and learned ranges."""
        betas = [each.beta for each in periods.values()]
        groups = [
            {"params": net.qmodel.weight_parameters(), "weight_decay": self.weight_decay},
            {"params": betas, "lr": self.lr * self.beta_lr},
            {"params": net.ranges_beside(betas), "lr": self.lr * self.range_lr},
        ]
        return torch.optim.SGD(groups, lr=self.lr, momentum=MOMENTUM)
