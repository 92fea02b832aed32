"""Random policies within a budget, layer by layer or kernel by kernel.

Of uniform draws a tight budget leaves hardly any, so a draw over budget is repaired: random
decisions are lowered by one candidate each until it fits. Then (``refill``) decisions are raised in
random order as far as they still fit, so that nothing is left of the budget that a single step
could use.

Kernel by kernel, the weights of a layer have bits per output channel: two candidates are drawn for
the layer, and each kernel draws one that lies between them, so that layers differ in their mean and
in their spread (independent draws over all candidates would give every layer the same mean). A step
of the repair lowers all kernels of a layer, the last one only as many as it takes, in random order;
refilling raises them likewise. What has one kernel is drawn and repaired as layer by layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from frameworks.core.layers import Layer
from frameworks.core.policy import PRUNED, Bits, Policy, known_bits
from frameworks.core.problem import Problem
from frameworks.core.search.wall import chosen, lowered
from frameworks.core.space import Choice, Space

Values = list[Bits]
"""The bits of each decision of a space, in its order."""


def kernels_of(layers: Sequence[Layer], choice: Choice) -> int:
    """Output channels whose weight bits a decision may set apart, 1 where it has one number.

    So it is for activations, for bits that weights and activations share, and for tied layers of
    different width.
    """
    widths = {x.out_channels for x in layers if x.name in choice.layers}
    return widths.pop() if choice.kind == "weight" and len(widths) == 1 else 1


@dataclass(frozen=True)
class Draws:
    """A source of random policies within a problem's budget.

    Attributes:
        problem: the space, the target and the budget.
        rng: draws.
        refill: whether what a repair leaves of the budget is used.
        kernels: whether weights have bits per output channel.
        prune: whether a kernel may be drawn at 0 bits (never all kernels of a layer).
    """

    problem: Problem
    rng: np.random.Generator
    refill: bool = True
    kernels: bool = False
    prune: bool = False

    def __iter__(self) -> Iterator[Policy]:
        """Policies without end; the same one may come again."""
        while True:
            yield self.policy()

    def policy(self) -> Policy:
        """One random policy; within the budget if any policy of its space is."""
        choices = self.problem.space.choices
        drawn = [self._drawn(choice) for choice in choices]
        values = self._lowered(drawn)
        if not self._fits(values):
            values = self._cheaper(drawn)
        if self.refill:
            for i in self.rng.permutation(len(choices)):
                values = self._raised(values, int(i))
        return self._decoded(values)

    def _decoded(self, values: Sequence[Bits]) -> Policy:
        return decoded(self.problem.space, values)

    def _fits(self, values: Sequence[Bits]) -> bool:
        return self.problem.within(self._decoded(values))

    def _drawn(self, choice: Choice) -> Bits:
        count = kernels_of(self.problem.layers, choice) if self.kernels else 1
        if count == 1:
            return int(self.rng.choice(choice.bits))
        options = np.array([PRUNED, *choice.bits] if self.prune else choice.bits)
        low, high = sorted(self.rng.integers(len(options), size=2).tolist())
        bits = options[self.rng.integers(low, high, size=count, endpoint=True)]
        if not bits.any():
            bits[self.rng.integers(count)] = choice.bits[0]
        return tuple(bits.tolist())

    def _lowered(self, values: Values) -> Values:
        """The values after as many random steps down as it takes, or as there are."""
        choices = self.problem.space.choices
        while not self._fits(values):
            steps = [i for i, c in enumerate(choices) if _most(values[i]) > c.bits[0]]
            if not steps:
                break
            i = int(self.rng.choice(steps))
            trial = [*values[:i], lowered(values[i], choices[i].bits), *values[i + 1 :]]
            values = self._mixed(values, trial, i) if self._fits(trial) else trial
        return values

    def _raised(self, values: Values, i: int) -> Values:
        """One decision at the most bits that fit; of its kernels, as many as fit."""
        candidates = self.problem.space.choices[i].bits
        for bits in reversed(candidates) if isinstance(values[i], int) else candidates:
            trial = [*values[:i], _at_least(values[i], bits), *values[i + 1 :]]
            if trial == values:
                continue
            if not self._fits(trial):
                if isinstance(values[i], int):
                    continue
                return self._mixed(trial, values, i)
            if isinstance(values[i], int):
                return trial
            values = trial
        return values

    def _mixed(self, more: Values, less: Values, i: int) -> Values:
        """``less``, which fits, with as many random kernels of a decision as in ``more`` as fit."""
        high, low = more[i], less[i]
        if not isinstance(high, tuple):
            return less
        pairs = list(zip(high, low if isinstance(low, tuple) else (low,) * len(high), strict=True))
        order = self.rng.permutation([k for k, (a, b) in enumerate(pairs) if a != b])

        def trial(count: int) -> Values:
            kept = set(order[:count].tolist())
            bits = tuple(a if k in kept else b for k, (a, b) in enumerate(pairs))
            return [*less[:i], bits, *less[i + 1 :]]

        fits, too_many = 0, len(order)
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            fits, too_many = (middle, too_many) if self._fits(trial(middle)) else (fits, middle)
        return trial(fits)

    def _cheaper(self, values: Values) -> Values:
        """The draw with as many decisions as needed those of the cheapest policy.

        For targets where fewer bits can cost more.
        """
        cheapest = self.problem.cheapest()
        choices = self.problem.space.choices
        for i in self.rng.permutation(len(values)):
            if self._fits(values):
                break
            values = [*values[:i], chosen(cheapest, choices[i]), *values[i + 1 :]]
        return values


def decoded(space: Space, values: Sequence[Bits]) -> Policy:
    """As `Space.decode`, for weight bits per output channel, too."""
    bits: dict[str, tuple[Bits, int]] = {
        name: (space.weight_bits[name][-1], space.act_bits[name][-1]) for name in space.names
    }
    for choice, value in zip(space.choices, values, strict=True):
        for name in choice.layers:
            weight, act = bits[name]
            if choice.kind != "weight":
                assert isinstance(value, int), "activations have the same bits in all channels"
                act = value
            bits[name] = (weight if choice.kind == "act" else value, act)
    return Policy({name: known_bits(w, a) for name, (w, a) in bits.items()})


def _most(bits: Bits) -> int:
    return bits if isinstance(bits, int) else max(bits)


def _at_least(bits: Bits, least: int) -> Bits:
    """No kernel at fewer bits; what is pruned stays."""
    if isinstance(bits, int):
        return max(bits, least)
    return tuple(b if b == PRUNED else max(b, least) for b in bits)
