"""The two cut rules of memory-driven mixed precision (arXiv 1905.13082; its code, quant_auto.py).

They know sizes only: elements of activations, bytes of weights. Bits start at 8 and are halved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from frameworks.core.layers import Layer
from frameworks.core.policy import Policy
from frameworks.core.solvers.limits import TOLERANCE, InfeasibleBudget
from frameworks.core.space import Space

Kind = Literal["weight", "act"]
MOST = 8
"""Bits that every decision starts with, as far as it may have them."""
OUTPUT_BITS = 8
"""Bits of the network's output, which is never cut."""


class Cuts:
    """The bits of a space's decisions, which are only ever cut.

    Attributes:
        made: the cuts in order: a layer, ``weight`` or ``act``, and the new bits.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self.made: list[tuple[str, Kind, int]] = []
        self._values = [
            max((b for b in choice.bits if b <= MOST), default=choice.bits[0])
            for choice in space.choices
        ]
        self._index = {
            (name, kind): i
            for i, choice in enumerate(space.choices)
            for name in choice.layers
            for kind in (("weight", "act") if choice.kind == "both" else (choice.kind,))
        }

    def bits(self, name: str, kind: Kind) -> int:
        """The present bits of a layer's weights or input."""
        if (name, kind) in self._index:
            return self._values[self._index[name, kind]]
        pinned = self.space.weight_bits if kind == "weight" else self.space.act_bits
        return pinned[name][0]

    def below(self, name: str, kind: Kind) -> int | None:
        """What a cut leaves: the most bits at or below half; None at the end.

        Where no candidate is that low, the next lower one is taken.
        """
        if (name, kind) not in self._index:
            return None
        index = self._index[name, kind]
        value, candidates = self._values[index], self.space.choices[index].bits
        halves = [b for b in candidates if b <= value / 2]
        lower = [b for b in candidates if b < value]
        return max(halves or lower, default=None)

    def cut(self, name: str, kind: Kind) -> None:
        """Cut the bits of a layer, and of those that are tied to it."""
        bits = self.below(name, kind)
        assert bits is not None, "what is pinned or at its fewest bits is not cut"
        self._values[self._index[name, kind]] = bits
        self.made.append((name, kind, bits))

    def tied(self, name: str) -> tuple[str, ...]:
        """The layers whose weights are cut together with this one's."""
        index = self._index.get((name, "weight"))
        return (name,) if index is None else self.space.choices[index].layers

    def policy(self) -> Policy:
        """The policy of the present bits."""
        return self.space.decode(self._values)


def cut_activations(layers: Sequence[Layer], cuts: Cuts, limit: float) -> None:
    """Cut activation bits until no layer's input and output take more than the limit together.

    Layer i reads tensor i and writes tensor i + 1. Where they take more, the one with more bits is
    cut, of equal ones the larger (the output if they are equal). Forward sweeps cut outputs only,
    backward sweeps inputs only, in turns until nothing is left over; what cannot be cut (the
    network's input and output, what is pinned or at its fewest bits) leaves it to the other one.

    Args:
        layers: in execution order.
        cuts: changed in place.
        limit: of read-write memory, in bytes.

    Raises:
        InfeasibleBudget: a layer's tensors are too large at their fewest bits.
    """
    forward, left = True, True
    while left:
        left = False
        for i in range(len(layers)) if forward else reversed(range(len(layers))):
            while held(layers, cuts, i) > limit * (1 + TOLERANCE):
                tensor = _larger(layers, cuts, i, limit)
                if (tensor > i) != forward:
                    left = True
                    break
                cuts.cut(layers[tensor].name, "act")
        forward = not forward


def held(layers: Sequence[Layer], cuts: Cuts, i: int) -> float:
    """Bytes of a layer's input and output."""
    layer = layers[i]
    inputs = layer.in_elements * _tensor_bits(layers, cuts, i)
    return (inputs + layer.out_elements * _tensor_bits(layers, cuts, i + 1)) / 8


def _tensor_bits(layers: Sequence[Layer], cuts: Cuts, tensor: int) -> int:
    return cuts.bits(layers[tensor].name, "act") if tensor < len(layers) else OUTPUT_BITS


def _larger(layers: Sequence[Layer], cuts: Cuts, i: int, limit: float) -> int:
    """Of tensors i and i + 1, the one that is to be cut."""
    layer = layers[i]
    sizes = {
        i: (_tensor_bits(layers, cuts, i), layer.in_elements),
        i + 1: (_tensor_bits(layers, cuts, i + 1), layer.out_elements),
    }
    inner = [t for t in sizes if 0 < t < len(layers)]
    can = [t for t in inner if cuts.below(layers[t].name, "act") is not None]
    if not can:
        raise InfeasibleBudget(
            f"read-write memory: {layer.name} holds {held(layers, cuts, i):.6g} bytes with its "
            f"input and output at their fewest bits; the limit is {limit:.6g}"
        )
    return max(can, key=lambda t: (sizes[t], t))


def cut_weights(
    layers: Sequence[Layer], cuts: Cuts, fits: Callable[[Policy], bool], margin: float
) -> None:
    """Cut weight bits until the policy fits.

    Each cut goes to the first of the layers whose share of all weight bytes is more than the
    largest share less a margin; pinned layers, and those at their fewest bits, are left out.

    Args:
        layers: in execution order.
        cuts: changed in place.
        fits: whether a policy meets the limits of read-only memory.
        margin: the paper's delta, in shares.

    Raises:
        InfeasibleBudget: all are at their fewest bits, and do not fit.
    """
    while not fits(cuts.policy()):
        sizes = {x.name: x.stored * cuts.bits(x.name, "weight") / 8 for x in layers}
        total = sum(sizes.values())
        shares = {
            name: sum(sizes[other] for other in cuts.tied(name)) / total
            for name in sizes
            if cuts.tied(name)[0] == name and cuts.below(name, "weight") is not None
        }
        if not shares:
            raise InfeasibleBudget(
                f"read-only memory: {total:.6g} bytes of weights at their fewest bits, and what "
                "belongs to them, are over the limit"
            )
        top = max(shares.values())
        cuts.cut(next(n for n, s in shares.items() if s > top - margin or s == top), "weight")
