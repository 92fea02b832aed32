"""The augmented agent of ADRL: an actor with k proposals, of which a refiner executes one.

    actor      A = (a_1 ... a_k) = mu(s), each with exploration noise of its own
    refiner    the place i of the action that is executed, and stored: a = a_i
    critic     reads one action: y = r - B + gamma Q'(s', a'),  a' refined from mu'(s');
    actor      loss -mean Q(s, a), a refined from mu(s): the gradient goes to the chosen output; or,
               as a switch, -mean Q(s, a_i) over all k of mu(s).

With k = 1 nothing is refined, and this is DDPG (`frameworks.core.agents.ddpg`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from frameworks.core.agents.ddpg import DDPG, Settings
from frameworks.core.agents.layerwise import PREVIOUS, action_to_bits
from frameworks.core.agents.replay import Array
from frameworks.core.space import Choice
from frameworks.reinforcement.adrl.indicators import Indicator, refined


class Refiner:
    """Chooses among proposals by an indicator, each of whose scores is computed once.

    Attributes:
        known: the scores, by decision and bits.

    Args:
        states: of the steps, ``[T, S]``; they differ in more than the previous action.
        steps: the decisions of these.
        indicator: makes the indicator, when the first score is asked for.
        tolerance: see `frameworks.reinforcement.adrl.indicators.refined`.
    """

    def __init__(
        self,
        states: Array,
        steps: Sequence[Choice],
        indicator: Callable[[], Indicator],
        tolerance: float,
    ) -> None:
        self.indicator, self.tolerance = indicator, tolerance
        self.steps = dict(zip(map(_key, states), enumerate(steps), strict=True))
        self.known: dict[tuple[Choice, int], float] = {}
        self._places: dict[tuple[int, ...], int] = {}
        self._made: Indicator | None = None

    def __call__(self, state: Array, proposals: Array) -> int:
        """The place of the proposal ``[k]`` that is taken in a state ``[S]``."""
        number, step = self.steps[_key(state)]
        bits = tuple(action_to_bits(action, step.bits) for action in proposals.tolist())
        known = (number, *bits)
        if known not in self._places:
            self._places[known] = refined(self.score, step, bits, self.tolerance)
        return self._places[known]

    def gain(self, choice: Choice, bits: int) -> float:
        """What the next width of a decision adds to its score; 0 at the most bits."""
        wider = [more for more in choice.bits if more > bits]
        return self.score(choice, wider[0]) - self.score(choice, bits) if wider else 0.0

    def score(self, choice: Choice, bits: int) -> float:
        """The indicator's, from memory where it is known."""
        if (choice, bits) not in self.known:
            self._made = self._made or self.indicator()
            self.known[choice, bits] = self._made(choice, bits)
        return self.known[choice, bits]


def _key(state: Array) -> bytes:
    """What of a state tells its step: all but the previous action."""
    return state[:PREVIOUS].tobytes() + state[PREVIOUS + 1 :].tobytes()


class Augmented(DDPG):
    """DDPG whose actor proposes several actions of one column.

    Args:
        states: columns of a state.
        rng: draws the initial weights, the noise and the batches.
        settings: hyper-parameters.
        proposals: k.
        refiner: chooses; not asked where there is one.
        all_learn: whether the actor's gradient goes to all proposals, not to the chosen one alone.
    """

    def __init__(
        self,
        states: int,
        rng: np.random.Generator,
        settings: Settings | None,
        proposals: int,
        refiner: Refiner,
        all_learn: bool = False,
    ) -> None:
        super().__init__(states, rng, settings, outputs=proposals)
        self.proposals, self.refiner, self.all_learn = proposals, refiner, all_learn

    def proposed(self, state: Array, sigma: float | None) -> Array:
        """The action ``[1]`` refined from k proposals; uniform ones where sigma is None."""
        drawn = self.act(state, sigma) if sigma is not None else self._uniform()
        place = 0 if self.proposals == 1 else self.refiner(state, drawn)
        return drawn[place : place + 1]

    def _uniform(self) -> Array:
        return self.rng.random(self.proposals, np.float32)

    def executed(self, state: Tensor, outputs: Tensor) -> Tensor:
        """The refined one of each row's proposals, with its gradient: ``[N, 1]``."""
        if self.proposals == 1:
            return outputs
        pairs = zip(state.numpy(), outputs.detach().numpy(), strict=True)
        places = torch.tensor([self.refiner(*pair) for pair in pairs])
        return outputs.gather(1, places[:, None])

    def worth(self, state: Tensor) -> Tensor:
        if not self.all_learn:
            return super().worth(state)
        each = self.actor(state).reshape(-1, 1)
        mean: Tensor = self.critic(state.repeat_interleave(self.proposals, 0), each).mean()
        return mean
