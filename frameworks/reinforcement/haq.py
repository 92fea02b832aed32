"""HAQ: Hardware-Aware Automated Quantization with Mixed Precision (Wang et al., CVPR 2019).

arXiv 1811.08886; released code mit-han-lab/haq (commit 8228d12). A DDPG agent
(`frameworks.core.agents.ddpg`) walks through the layers (`frameworks.core.agents.layerwise`), two
steps each: weight bits, then activation bits.

- State (section 3.2), ten columns, each min-max scaled over the layers:
  depthwise flag, c_in, c_out, stride, kernel, number of weights, input feature size, layer index,
  previous action (its bits over the largest), and a flag that is 1 in a weight step. Fully
  connected layers have kernel 1, stride 0. The size variant has no weight/activation flag.
- Action a in [0, 1] to bits: b = round((b_max - b_min + 1) * a + b_min - 1/2).
- Action wall (section 3.4, `frameworks.core.search.wall`): while the target's cost is over the
  budget, go from the last layer to the first and lower the activation bits by one step, then the
  weight bits by one step, testing after each; pass after pass until the budget is met or all is at
  its fewest bits. It only lowers: what a policy leaves of the budget stays unused.
- Reward R = 0.1 * (acc_quant - acc_origin) in percent points, on the same images, given to every
  transition of the episode; the stored action is the raw one, from before the wall.
- Each policy is fine-tuned for one epoch before it is measured (where the protocol trains).
- 600 episodes, the first 20 with uniform actions; afterwards exploration noise of
  sigma = noise * noise_decay^(t - warmup), and one update of the agent a stored step.

Here t is the number of distinct policies evaluated before the episode, and 600 of them end the
search (`frameworks.core.search.trials`): the published agent repeats most of its policies in the
end, which costs it no evaluation, so that its episodes are no measure of what it was given.

Fewer evaluations: a warm-up of a sixth of them, and noise that ends near sigma = 0.1 by
noise_decay = 0.2^(1 / (episodes - warmup)) (100: warmup 16, noise_decay 0.981). Less noise at the
end only repeats policies.

Where every policy's score is known (ResNet-8 with equal bits, 20 seeds;
`benchmarks.studies.landscape`) 100 episodes end 0.25 and 0.09 points behind the best (bops like=3
and 3.5), the published search, which makes 146 and 152 of its 600 distinct policies, 0.20 and 0.06;
random policies that fill the budget 0.11 and 0.30 after 100, 0.10 and 0.30 after 600.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from frameworks.core.agents.layerwise import LayerwiseSearch
from frameworks.core.card import Card
from frameworks.core.evaluation.train import Recipe
from frameworks.core.problem import Problem
from frameworks.core.registry import register
from frameworks.core.space import Choice

DEVIATIONS = (
    "pinned layers take no step; the released code acts on them and overwrites the action "
    "(their features still count when the state is scaled)",
    "the flag column is 1 in weight steps, as documented; the released code's in-place state "
    "update inverts it from the second step on",
    "episode and origin accuracy are measured on the search-validation split, as in the paper; "
    "the released linear code uses the training accuracy of the fine-tuning epoch",
    "hidden units 400 and 300 and a replay memory of 2000 follow the paper (from memory); the "
    "released code has 300 and 300, and 128 transitions a layer",
    "the wall's order (last layer first, activations before weights) is the released code's; the "
    "paper only says that bits are lowered layer by layer. What it leaves of the budget stays "
    "unused, as released; the baseline `random` refills it",
    "`episodes` counts distinct policies, and schedules go by them: an episode whose policy is "
    "known teaches the agent, but moves no schedule; the released code counts every episode",
    "20 policies are random, as in the paper (from memory); the released code's comparison lets "
    "21 episodes be random",
    "the input size of a fully connected layer is 1, that of its feature map; the released code's "
    "state holds its number of inputs there, too",
    "bits without a candidate go to the nearest one; tied layers, and weights and activations of "
    "equal bits, are one step, with the first layer's features",
    "policies of equal reward are ranked by their loss",
)


@register
@dataclass
class HAQ(LayerwiseSearch):
    """The linear-quantization agent: weight and activation bits of every layer."""

    name: ClassVar[str] = "haq"
    card: ClassVar[Card] = Card(
        title="HAQ: Hardware-Aware Automated Quantization with Mixed Precision",
        year=2019,
        category="reinforcement",
        quantizer="haq_linear",
        quantization=("deterministic rounding", "learned range"),
        granularity="layer",
        searches=("weight", "act"),
        needs=frozenset({"calibration", "train", "valid"}),
        arxiv="1811.08886",
        venue="CVPR 2019",
        hardware_aware=True,
        deviations=DEVIATIONS,
    )
    recipe: ClassVar[Recipe | None] = Recipe(
        epochs=30, batch=256, lr=0.01, weight_decay=4e-5, augment=True
    )


@register
@dataclass
class HAQKMeans(HAQ):
    """The size variant: weights in k-means codebooks, activation bits not searched.

    Free activation bits stay at the most that the space allows; the state has nine columns. Weight
    decay is 4e-5 in the search and 1e-5 in the final fine-tuning, as released.
    """

    name: ClassVar[str] = "haq_kmeans"
    card: ClassVar[Card] = Card(
        title="HAQ: Hardware-Aware Automated Quantization with Mixed Precision (k-means)",
        year=2019,
        category="reinforcement",
        quantizer="haq_kmeans",
        quantization=("codebook",),
        granularity="layer",
        searches=("weight",),
        needs=frozenset({"calibration", "train", "valid"}),
        arxiv="1811.08886",
        venue="CVPR 2019",
        hardware_aware=True,
        deviations=(
            *DEVIATIONS,
            "the previous action is scaled to [0, 1], as in the paper; the released code stores "
            "the bare bits",
            "layers of 7 and 8 bits are quantized all through the fine-tuning; the released code "
            "leaves those of more than 64 centroids free until the last epoch (`free_high_bit`)",
            "the ends of the network are searched only where the protocol does not pin them",
        ),
    )
    recipe: ClassVar[Recipe | None] = Recipe(
        epochs=100, batch=256, lr=0.01, weight_decay=1e-5, augment=True
    )
    flagged: ClassVar[bool] = False
    retrain_batch: ClassVar[int] = 256

    def skip(self, problem: Problem) -> str | None:
        if not self.steps(problem):
            return f"{self.name} finds nothing to search: the space pins all weight bits"
        if (reason := super().skip(problem)) is not None:
            return reason
        choices = problem.space.choices
        values = [c.bits[-1] if c.kind == "act" else c.bits[0] for c in choices]
        if not problem.within(problem.space.decode(values)):
            return f"{self.name} leaves activations at their most bits: it cannot meet the budget"
        return None

    def steps(self, problem: Problem) -> list[Choice]:
        return [choice for choice in problem.space.choices if choice.kind != "act"]
