"""EdMIPS: Rethinking Differentiable Search for Mixed-Precision Neural Networks.

Cai and Vasconcelos, CVPR 2020, arXiv 2004.05795; released code zhaoweicai/EdMIPS.

- Composite convolution (section 4.2): the parallel branches of all bit widths collapse into one
  convolution, because it is linear in its weight and in its input:
      y = (sum_i pi^w_i Q_i(W)) * (sum_j pi^a_j Q_j(x)),   pi = softmax(alpha),
  with one weight tensor W shared by all bits. alpha starts at 0.01 everywhere.
- Loss (section 4.3): CE + eta * (1 / S_0) sum_l S_l E[b_w,l] E[b_a,l], with S_l the layer's
  multiply-accumulates and S_0 those of the first searched layer.
- Single level: weights and alpha step together on every mini-batch, each with its own SGD
  (momentum 0.9, weight decay 1e-4, on alpha too); both learning rates are multiplied by 0.1 every
  ``step`` epochs. No held-out data, no sampling noise.
- The policy is the argmax of every alpha (section 4.4), and is trained anew afterwards.

On other metrics than BOPs the penalty is the expectation of the target's own table of costs under
pi^w and pi^a, which for BOPs is the product of expected bits above.

Shorter searches: the released recipe takes 125,000 steps of 0.01, 1,250 in all (550 with its
decay). With N steps, raise ``alpha_lr`` until ``alpha_lr * N`` is about as much, and set ``step``
to 0.4 of ``epochs``: a few passes over a small data set at 0.01 leave alpha where it started, and
an argmax of undecided shares says nothing. Weight decay pulls alpha back in proportion to
``alpha_lr``, so lower it as that is raised. The notes have the entropy of the shares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from frameworks.core.card import Card
from frameworks.core.evaluation.train import Recipe, cross_entropy
from frameworks.core.framework import Framework
from frameworks.core.policy import Policy
from frameworks.core.problem import Problem
from frameworks.core.registry import register
from frameworks.core.search.course import Course
from frameworks.core.solution import Solution
from frameworks.core.supernets.composite_search import chosen, complexity, optimizers_of
from frameworks.core.supernets.relaxations import Choices
from frameworks.core.supernets.supernet import CompositeNet

ALPHA_START = 0.01


@register
@dataclass
class EdMIPS(Framework):
    """Softmax over the bits of every layer's weights and inputs, in one composite network.

    Attributes:
        epochs: passes over the training images.
        images: training images an epoch; None for all.
        batch: batch size.
        lr: learning rate of the weights.
        alpha_lr: learning rate of the logits.
        step: epochs after which both learning rates are multiplied by 0.1.
        eta: weight of the complexity penalty.
        weight_decay: of weights and logits.
        range_lr: learning rate of learned quantization ranges, relative to ``lr``.
        augment: whether images are augmented as the dataset says.
    """

    name: ClassVar[str] = "edmips"
    card: ClassVar[Card] = Card(
        title="Rethinking Differentiable Search for Mixed-Precision Neural Networks",
        year=2020,
        category="gradient",
        quantizer="hwgq",
        quantization=("deterministic rounding",),
        granularity="layer",
        searches=("weight", "act"),
        needs=frozenset({"calibration", "train", "separable_cost"}),
        arxiv="2004.05795",
        venue="CVPR 2020",
        hardware_aware=True,
        deviations=(
            "starts from the pretrained network; the paper starts the search from scratch",
            "eta is adjusted to meet the budget; the paper tunes it by hand for each network",
            "on targets other than BOPs the penalty is the expected cost of the target's table; "
            "the paper only has bit operations, for which the two agree",
            "pinned layers count in the penalty as a constant; the paper's first and last layers "
            "are float and not counted",
            "quantizers with learned ranges (not the paper's own) train one range per bit width "
            "at a tenth of the weights' learning rate",
            "the network's own order of convolution, BatchNorm and ReLU is kept; the paper "
            "normalises the input of every quantized convolution",
            "tied layers share one alpha; in spaces with equal weight and activation bits one "
            "alpha decides both",
            "the found policy's learning rate falls at 1/2 and 3/4 of its training, as in every "
            "recipe by steps here; the released schedule falls after 30, 60 and 90 of 95 epochs",
        ),
    )
    strength: ClassVar[str | None] = "eta"
    close: ClassVar[float] = 0.9
    searches_choices: ClassVar[bool] = True
    recipe: ClassVar[Recipe | None] = Recipe(
        epochs=95, batch=256, lr=0.1, schedule="step", weight_decay=1e-4, augment=True
    )

    epochs: int = 25
    images: int | None = None
    batch: int = 256
    lr: float = 0.1
    alpha_lr: float = 0.01
    step: int = 10
    eta: float = 0.00335
    weight_decay: float = 1e-4
    range_lr: float = 0.1
    augment: bool = True

    def search(self, problem: Problem) -> Solution:
        choices = Choices([len(c.bits) for c in problem.space.choices], start=ALPHA_START)
        choices, cost = choices.to(problem.device), complexity(problem).to(problem.device)
        net = CompositeNet(problem)
        optimizers = self.optimizers(net, choices)
        decay = [torch.optim.lr_scheduler.StepLR(o, self.step, 0.1) for o in optimizers]
        objective, generator = "cross-entropy + eta * complexity", problem.generator(self.name)
        course = Course(objective, generator, self.batch, self.augment)

        def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            p = choices.probabilities()
            net.mix(p)
            task = cross_entropy(model, x, y)
            return course.step(task, task + self.eta * cost(p))

        for epoch in range(self.epochs):
            problem.progress(epoch, self.epochs, f"composite network, eta {self.eta:.3g}")
            course.run(net, problem.train, self.images, optimizers, loss)
            for schedule in decay:
                schedule.step()
            problem.checkpoint(self.extract(problem, choices))
        notes = {"eta": self.eta, "entropy": choices.entropy(), "learning": course.to_json()}
        policy = self.extract(problem, choices)
        return Solution(policy, notes=notes, cross_entropy=course.last)

    def optimizers(self, net: CompositeNet, choices: Choices) -> list[torch.optim.Optimizer]:
        """SGD for the weights and SGD for the logits."""
        return optimizers_of(
            net,
            choices,
            lr=self.lr,
            alpha_lr=self.alpha_lr,
            weight_decay=self.weight_decay,
            range_lr=self.range_lr,
        )

    @staticmethod
    def extract(problem: Problem, choices: Choices) -> Policy:
        """The most probable bits of every choice."""
        return chosen(problem.space, choices)
