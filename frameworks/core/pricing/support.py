"""Spaces that a hardware target can run: the candidates of each layer, as far as it supports them.

Searches choose weight and activation bits apart, so what a layer may take is a grid: every weight
bits with every activation bits. Hardware supports other sets of pairs, too. Of these a layer gets
the largest grid; or, where equal bits offer more (a GPU with 4/4 and 8/8), the space is paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

from frameworks.core.layers import Layer
from frameworks.core.space import Space, spread, with_shared
from frameworks.core.target import Target

Pairs = set[tuple[int, int]]
Candidates = tuple[Sequence[int], Sequence[int]]
"""Weight and activation bits of a layer."""


def supported_space(
    target: Target,
    layers: Sequence[Layer],
    weight: Sequence[int],
    act: Sequence[int],
    *,
    pinned: Mapping[str, tuple[int, int]] | None = None,
    groups: Sequence[Sequence[str]] = (),
    paired: bool = False,
    own: Mapping[str, Candidates] | None = None,
) -> Space:
    """The space of the candidates that the hardware runs; arguments are those of `Space.build`.

    Where the target does not price activations they are pinned at their most bits: searching what
    costs nothing is no search. Tied layers get what all of them can run.

    Args:
        own: weight and activation bits of layers that have candidates of their own, in place of
            the common ones and of being pinned; one candidate pins. Tied layers have them
            together.

    Raises:
        ValueError: the hardware runs a layer at none of the candidates, or not at its pinned bits.
    """
    groups = with_shared(layers, groups)
    own = _together(own or {}, groups)
    pinned = spread(pinned or {}, with_shared(layers, ()))
    pinned = {name: bits for name, bits in pinned.items() if name not in own}
    if not target.prices_activations:
        act, paired = [max(act)], False
        own = {name: (weights, [max(acts)]) for name, (weights, acts) in own.items()}
    by_name = {layer.name: layer for layer in layers}
    for name in pinned.keys() & by_name:
        if not target.supports(by_name[name], *pinned[name]):
            w, a = pinned[name]
            raise ValueError(f"hardware {target.name} does not run pinned layer {name} at {w}/{a}")
    tied = {name: group for group in groups for name in group}
    grids: dict[str, _Grid] = {}
    for layer in layers:
        if layer.name not in pinned:
            members = [by_name[n] for n in tied.get(layer.name, (layer.name,)) if n in by_name]
            pairs = {
                pair
                for pair in product(*own.get(layer.name, (weight, act)))
                if all(target.supports(member, *pair) for member in members)
            }
            grids[layer.name] = _Grid.largest(pairs)
    paired = paired or any(len(grid) < len(grid.equal) for grid in grids.values())
    kept = {name: grid.paired if paired else grid for name, grid in grids.items()}
    for name, grid in kept.items():
        if not len(grid):
            equal = "equal ones of " if paired else ""
            weights, acts = (list(bits) for bits in own.get(name, (weight, act)))
            raise ValueError(
                f"hardware {target.name} runs layer {name} at none of {equal}the weight bits "
                f"{weights} and activation bits {acts}"
            )
    space = Space.build(layers, weight, act, pinned=pinned, groups=groups)
    return Space(
        layers=space.layers,
        weight_bits={n: kept[n].weights if n in kept else b for n, b in space.weight_bits.items()},
        act_bits={n: kept[n].acts if n in kept else b for n, b in space.act_bits.items()},
        groups=space.groups,
        paired=paired,
    )


def _together(
    own: Mapping[str, Candidates], groups: Sequence[Sequence[str]]
) -> dict[str, Candidates]:
    """Candidates of layers, and of those that are tied to them.

    Raises:
        ValueError: tied layers have different ones.
    """
    found = dict(own)
    for group in groups:
        given = {(tuple(own[n][0]), tuple(own[n][1])) for n in group if n in own}
        if len(given) > 1:
            raise ValueError(f"tied layers {tuple(group)} are given different candidates")
        found.update({name: next(iter(given)) for name in group if given})
    return found


@dataclass(frozen=True)
class _Grid:
    """Weight and activation bits that go together in every combination.

    ``equal`` are the bits at which weights and activations can be the same.
    """

    weights: tuple[int, ...]
    acts: tuple[int, ...]
    equal: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.weights) * len(self.acts)

    @property
    def paired(self) -> _Grid:
        """Equal bits only: their number is that of pairs, not of combinations."""
        return _Grid(self.equal, self.equal, self.equal)

    @classmethod
    def largest(cls, pairs: Pairs) -> _Grid:
        """The largest grid within some pairs; of equally large ones that with the most weights."""
        equal = tuple(sorted(w for w, a in pairs if w == a))
        found = cls((), (), equal)
        every = sorted({w for w, _ in pairs})
        for count in range(len(every), 0, -1):
            for weights in combinations(every, count):
                acts = {a for _, a in pairs if all((w, a) in pairs for w in weights)}
                grid = cls(weights, tuple(sorted(acts)), equal)
                found = grid if len(grid) > len(found) else found
        return found
