"""ReLeQ: A Reinforcement Learning Approach for Deep Quantization of Neural Networks.

Elthakeb, Pilligundla, Mireshghallah, Yazdanbakhsh and Esmaeilzadeh, arXiv 1811.01704 (IEEE Micro
2020); released code he-actlab/releq (commit 4792ae8).

- A PPO agent (`frameworks.core.agents.ppo`) whose LSTM reads the layers in order; policy and value
  are heads on it. In each step it takes one of the candidates, straight to its bits.
- State: what never changes of a layer (index, n, c, k, standard deviation of its weights), the bits
  that it has, the state of quantization and that of relative accuracy
  (`frameworks.reinforcement.releq.walk`),
      State_Q = sum_l b_l / (L b_max),    State_A = Acc / Acc_float.
- Shaped, asymmetric reward (`frameworks.reinforcement.releq.rewards`), the paper's ``plain`` and
  the released scripts' ``shifted`` and ``linear``:
      plain    (1 - State_Q^a) State_A^(b / State_A),  -1 where State_A is below the threshold;
      shifted  2 ((1 - (State_Q - b_min / b_max)^a) State_A^(b / State_A) - 1/2).
- All layers start at their most bits. ``feedback=layer``: the network is retrained shortly and
  measured, and the agent updated, after each layer; bits are kept from one episode to the next.
  ``feedback=episode``, for deeper networks: after the last layer; other steps have reward 0, and
  bits begin anew. The LSTM's memory begins anew with each episode.
- The last episode (with feedback on episodes) takes the most probable actions.

A hard budget, which the paper does not have: what the agent asks for is lowered by HAQ's wall
(`frameworks.core.search.wall`) until it fits. All three rewards then still pay for fewer bits than
the budget allows. The default does not: ``budget`` is ``plain``, but State_Q is

    x = max(C(asked) - limit, 0) / (C(most bits) - limit),

what the agent asked for over the budget, with a = 2 and b = 3, and what the wall leaves of the
budget is given back.

With 100 evaluations, a learning rate of 1e-3; at 1e-4 the agent hardly moves. Where all policies
are known (`benchmarks.studies.landscape`, ResNet-8 with equal bits, 20 seeds, bops like=3) 31 in
100 episodes end 0.18 points behind the best; 100 random ones 0.11 or 0.38. As long as published, 96
end 0.10 behind, random ones 0.10. WRPN, the release's quantizer of most networks, is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from frameworks.core.agents.ppo import PPO, Episode, Settings
from frameworks.core.card import Card
from frameworks.core.evaluation.train import Recipe
from frameworks.core.framework import Framework
from frameworks.core.policy import Policy
from frameworks.core.problem import Problem
from frameworks.core.registry import register
from frameworks.core.search.learning import Learning
from frameworks.core.search.trials import Trials
from frameworks.core.solution import Solution
from frameworks.reinforcement.releq.rewards import REWARDS, SHAPES, Shape, plain
from frameworks.reinforcement.releq.walk import Walk

CHOICES = {
    "feedback": ("episode", "layer"),
    "reward": ("budget", *REWARDS),
    "quantization": ("mean", "energy"),
}


@register
@dataclass
class ReLeQ(Framework):
    """A recurrent PPO agent that chooses the bits of layer after layer, under a shaped reward.

    Attributes:
        episodes: distinct policies evaluated; those that repeat one do not count.
        draws: policies drawn at most, in multiples of these (`frameworks.core.search.trials`).
        feedback: ``episode`` or ``layer``: when a policy is measured.
        reward: ``budget``, ``plain``, ``shifted`` or ``linear``.
        quantization: what State_Q weighs layers by: ``mean`` (alike) or ``energy`` (of memory
            accesses and MACs).
        a: exponent of State_Q; 0: the reward's own, see `frameworks.reinforcement.releq.rewards`.
        b: exponent of State_A; likewise.
        threshold: a State_A below it has reward -1; likewise.
        hidden: units of the LSTM and of the layers of policy and value.
        clip: how far the ratio of probabilities may pull.
        passes: of an update over its episode.
        agent_lr: learning rate of the agent.
        discount: of later rewards.
        trace: lambda of the generalized advantages.
        value_weight: of the value's loss.
        entropy_weight: of the policy's entropy.
        temperature: of the policy's softmax.
        scaled: whether advantages are divided by their root mean square.
        retrain_epochs: epochs of fine-tuning before a policy is measured, where the protocol
            trains; 0 for none.
        retrain_images: training images an epoch; None for all.
        retrain_lr: their learning rate.
    """

    name: ClassVar[str] = "releq"
    card: ClassVar[Card] = Card(
        title="ReLeQ: A Reinforcement Learning Approach for Deep Quantization of Neural Networks",
        year=2018,
        category="reinforcement",
        quantizer="dorefa_pact",
        quantization=("deterministic rounding",),
        granularity="layer",
        searches=("weight",),
        needs=frozenset({"calibration", "train", "valid"}),
        arxiv="1811.01704",
        venue="IEEE Micro 2020",
        deviations=(
            "the paper has no budget: what is asked for is lowered by HAQ's wall. Under the reward "
            "`budget` the accuracy within the budget is what counts, State_Q is what was asked for "
            "over it, and what the wall leaves of it is given back, step by step to what lies "
            "furthest below the wish or least above it, of equal ones in random order; its "
            "exponents 2 and 3 were chosen on synthetic additive losses. `plain` is the paper's "
            "reward, which prefers fewer bits than a budget allows",
            "decisions about activations, float in the paper, are steps with a ninth state column",
            "the paper's sections could not be read: its constants (a 0.2, b 0.4, threshold 0.4, "
            "clip 0.1, three passes, lambda 0.99) are from memory; under them the published bits "
            "of LeNet are best in the released table of all its policies, with the mean of bits "
            "as the released code's State_Q (by energy, they are not)",
            "feedback on episodes is the default; there State_A is that of the float network, as "
            "nothing is measured before the end. Feedback on layers moves from policy to policy by "
            "one layer, and finds fewer: on LeNet's table (60 evaluations, 20 seeds) it regrets "
            "0.017 of the reward, random search 0.017, feedback on episodes 0.009, an agent that "
            "does not learn 0.021 (10 seeds)",
            "updates of whole episodes take all steps in order; released ones may draw them",
            "in the released scripts with feedback on layers the LSTM has no memory (its state is "
            "read, but never fed back), two of whole networks have none, and one reads five static "
            "columns and gives all bits at once; here it remembers the episode, as in the paper",
            "values are fitted to advantage plus value, the released code's to one step's target",
            "advantages are divided by their root mean square so far, and values begin at the "
            "first episode's return; two released scripts of whole networks subtract the mean of "
            "the episode's advantages and divide by their deviation, others do neither, and have "
            "700 to 2000 episodes to fit what all actions earn alike",
            "the discount is 0.999; released scripts have 0.9, 0.999 and 1. The update sees the "
            "state that was acted on; the released code changes it before",
            "`episodes` counts distinct policies; known ones teach the agent and cost nothing. The "
            "last evaluation, or the last draw, takes the most probable actions, in place of the "
            "last ten episodes; the best policy by its own reward is returned",
            "100 evaluations with activations teach it little: on sums over eight decisions (6 to "
            "8 seeds) it regrets 0.10 points, without learning 0.11, `random` 0.18; over 16 (5) "
            "0.60, 0.65 and 0.64, though what it earns rises by twice what it does without",
            "a short retraining has 5 epochs of 1e-3; released scripts have 1 to 10",
            "under `paper`, weights are DoReFa's, and activations, float in the paper, PACT's",
        ),
    )
    evaluates: ClassVar[tuple[str, ...]] = ("episodes",)
    lowers_bits: ClassVar[bool] = True
    searches_choices: ClassVar[bool] = True
    recipe: ClassVar[Recipe | None] = Recipe(epochs=40, batch=256, lr=1e-3, augment=True)

    episodes: int = 700
    draws: float = 3.0
    feedback: str = "episode"
    reward: str = "budget"
    quantization: str = "mean"
    a: float = 0.0
    b: float = 0.0
    threshold: float = 0.0
    hidden: int = 128
    clip: float = 0.1
    passes: int = 3
    agent_lr: float = 1e-4
    discount: float = 0.999
    trace: float = 0.99
    value_weight: float = 1.0
    entropy_weight: float = 0.01
    temperature: float = 0.5
    scaled: bool = True
    retrain_epochs: float = 5
    retrain_images: int | None = None
    retrain_lr: float = 1e-3

    def validate(self) -> None:
        super().validate()
        for name, known in CHOICES.items():
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"{name} = {value!r}: choose from {list(known)}")
        for name, least in {"draws": 1, "hidden": 2, "passes": 1}.items():
            if (value := getattr(self, name)) < least:
                raise ValueError(f"{name} = {value}: must be at least {least}")
        for name in ("clip", "temperature"):
            if (value := getattr(self, name)) <= 0:
                raise ValueError(f"{name} = {value}: must be above 0")
        for name in ("a", "b", "threshold"):
            if (value := getattr(self, name)) < 0:
                raise ValueError(f"{name} = {value}: must not be negative")

    @property
    def shape(self) -> Shape:
        """The constants of the reward."""
        own = SHAPES[self.reward]
        return Shape(self.a or own.a, self.b or own.b, self.threshold or own.threshold)

    def settings(self) -> Settings:
        """The agent's part of the hyper-parameters."""
        names = ("hidden", "clip", "passes", "discount", "trace", "value_weight")
        more = ("entropy_weight", "temperature", "scaled")
        found: dict[str, Any] = {name: getattr(self, name) for name in names + more}
        return Settings(lr=self.agent_lr, **found)

    def search(self, problem: Problem) -> Solution:
        walk = Walk(problem, self.quantization == "energy")
        agent = PPO(len(walk.state()), len(walk.widths), problem.rng("releq"), self.settings())
        trials, episode, tried = self.trials(problem), Episode(), False
        whole, earned = self.feedback == "episode", list[float]()
        for clock in trials:
            last = clock + 1 == self.episodes or len(trials.rewards) + 1 == trials.most
            greedy = whole and last and not tried
            tried = tried or greedy
            walk.follow(agent, episode, single=not whole, greedy=greedy)
            earned.append(self.measured(walk, trials))
            episode.rewards.append(earned[-1])
            if not greedy:
                agent.update([episode])
            if whole:
                walk.reset()
            episode = episode.after() if walk.place else Episode()
        notes = trials.notes()
        if self.reward == "budget":
            # What the agent learns by; "learning" is of the accuracy alone, which is what counts.
            notes["asked"] = Learning("reward of what was asked for", earned).to_json()
        return Solution(trials.best, notes=notes)

    def measured(self, walk: Walk, trials: Trials) -> float:
        """Measure the policy in force; the agent's reward for it."""
        problem = walk.problem
        policy = walk.policy(refill=self.reward == "budget")
        score = trials.score(policy)
        walk.accuracy = score.accuracy / max(problem.float_score().accuracy, 1e-9)
        shape = self.shape
        if self.reward == "budget":
            trials.reward(policy, plain(0.0, walk.accuracy, shape))
            return plain(walk.excess(), walk.accuracy, shape)
        state = walk.quantization(list(problem.space.encode(policy)))
        found = REWARDS[self.reward](state, walk.accuracy, shape, walk.least)
        trials.reward(policy, found)
        return found

    def trials(self, problem: Problem) -> Trials:
        """The measurements that it takes to evaluate so many distinct policies."""
        recipe = Recipe(
            epochs=self.retrain_epochs,
            images=self.retrain_images,
            lr=self.retrain_lr,
            schedule="constant",
            augment=True,
        )
        retrain = recipe if self.retrain_epochs else None

        def measure(policy: Policy) -> Any:
            return problem.evaluate(policy, retrain)

        return Trials(problem, self.episodes, self.draws, measure)
