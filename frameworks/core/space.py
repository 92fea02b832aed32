"""The search space: which bits each layer may take, what is pinned, what is tied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from frameworks.core.layers import Layer
from frameworks.core.policy import PRUNED, VALID_BITS, LayerBits, Policy, known_bits

Kind = Literal["weight", "act", "both"]


@dataclass(frozen=True)
class Choice:
    """One free decision: the bits of the weights and/or activations of one or more tied layers."""

    layers: tuple[str, ...]
    kind: Kind
    bits: tuple[int, ...]
    """Candidates in ascending order, at least two."""


@dataclass(frozen=True)
class Space:
    """The bits that each layer may take.

    Attributes:
        layers: all quantizable layers in execution order.
        weight_bits: candidate weight bits of each layer, ascending; one entry means pinned.
        act_bits: candidate activation bits of each layer, ascending; one entry means pinned.
        groups: layers that must share their bits.
        paired: weights and activations of a layer must have equal bits (HAWQ-V3's int4/int8).
    """

    layers: tuple[Layer, ...]
    weight_bits: Mapping[str, tuple[int, ...]]
    act_bits: Mapping[str, tuple[int, ...]]
    groups: tuple[tuple[str, ...], ...] = ()
    paired: bool = False

    def __post_init__(self) -> None:
        names = [layer.name for layer in self.layers]
        for label, table in (("weight_bits", self.weight_bits), ("act_bits", self.act_bits)):
            if list(table) != names:
                raise ValueError(f"space: {label} must name exactly the layers {names}")
            for name, bits in table.items():
                if not bits or list(bits) != sorted(set(bits)):
                    raise ValueError(f"space: {label}[{name}] = {bits} is not an ascending list")
                if not VALID_BITS.issuperset(bits):
                    raise ValueError(f"space: {label}[{name}] = {bits} are not all bit widths")
        tied = [name for group in self.groups for name in group]
        if len(tied) != len(set(tied)):
            raise ValueError(f"space: a layer is tied twice in {self.groups}")
        for group in self.groups:
            unknown = set(group) - set(names)
            if unknown:
                raise ValueError(f"space: tied layers {sorted(unknown)} are none of {names}")
            for table in (self.weight_bits, self.act_bits):
                if len({table[name] for name in group}) > 1:
                    raise ValueError(f"space: tied layers {group} have different candidates")
        if self.paired:
            for name in names:
                if self.weight_bits[name] != self.act_bits[name]:
                    raise ValueError(f"space: paired bits need equal candidates at {name}")

    @classmethod
    def build(
        cls,
        layers: Sequence[Layer],
        weight: Iterable[int],
        act: Iterable[int],
        *,
        pinned: Mapping[str, tuple[int, int]] | None = None,
        groups: Sequence[Sequence[str]] = (),
        paired: bool = False,
    ) -> Space:
        """The same candidates for every layer but the pinned ones (name to weight, act bits).

        Layers that share their weights are tied, and pinned with each other.
        """
        groups = with_shared(layers, groups)
        pinned = spread(pinned or {}, with_shared(layers, ()))
        unknown = set(pinned) - {layer.name for layer in layers}
        if unknown:
            raise ValueError(
                f"space: pinned layers {sorted(unknown)} are none of {[x.name for x in layers]}"
            )
        weights, acts = tuple(sorted(set(weight))), tuple(sorted(set(act)))
        return cls(
            layers=tuple(layers),
            weight_bits={
                x.name: (pinned[x.name][0],) if x.name in pinned else weights for x in layers
            },
            act_bits={x.name: (pinned[x.name][1],) if x.name in pinned else acts for x in layers},
            groups=tuple(tuple(group) for group in groups),
            paired=paired,
        )

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        """The free decisions in execution order, weights before activations in each layer."""
        tied = {name: group for group in self.groups for name in group}
        order: list[Choice] = []
        for layer in self.layers:
            members = tied.get(layer.name, (layer.name,))
            if members[0] != layer.name:
                continue
            weights, acts = self.weight_bits[layer.name], self.act_bits[layer.name]
            if self.paired:
                candidates: list[tuple[Kind, tuple[int, ...]]] = [("both", weights)]
            else:
                candidates = [("weight", weights), ("act", acts)]
            order += [Choice(members, kind, bits) for kind, bits in candidates if len(bits) > 1]
        return tuple(order)

    @property
    def size(self) -> int:
        """Number of per-layer policies in the space."""
        total = 1
        for choice in self.choices:
            total *= len(choice.bits)
        return total

    @property
    def free_layers(self) -> tuple[Layer, ...]:
        """Layers with any free decision."""
        free = {name for choice in self.choices for name in choice.layers}
        return tuple(layer for layer in self.layers if layer.name in free)

    @property
    def free_weights(self) -> list[str]:
        """Layers with free weight bits; of those that share a weight the one that stores it."""
        return [x.name for x in self.layers if len(self.weight_bits[x.name]) > 1 and not x.shared]

    def decode(self, values: Sequence[int]) -> Policy:
        """The policy with the given bits for each of `choices`."""
        if len(values) != len(self.choices):
            raise ValueError(f"{len(values)} values for {len(self.choices)} choices")
        bits = {name: [self.weight_bits[name][-1], self.act_bits[name][-1]] for name in self.names}
        for choice, value in zip(self.choices, values, strict=True):
            if value not in choice.bits:
                raise ValueError(f"{choice.layers}: {value} bits is none of {choice.bits}")
            for name in choice.layers:
                if choice.kind != "act":
                    bits[name][0] = int(value)
                if choice.kind != "weight":
                    bits[name][1] = int(value)
        return Policy({name: known_bits(w, a) for name, (w, a) in bits.items()})

    def encode(self, policy: Policy) -> tuple[int, ...]:
        """Inverse of `decode`, for policies without per-channel bits."""
        values = []
        for choice in self.choices:
            entry = policy[choice.layers[0]]
            value = entry.act if choice.kind == "act" else entry.weight
            if not isinstance(value, int):
                raise ValueError(f"{choice.layers[0]}: per-channel bits have no encoding")
            values.append(value)
        return tuple(values)

    @property
    def names(self) -> tuple[str, ...]:
        """Layer names in execution order."""
        return tuple(layer.name for layer in self.layers)

    def lowest(self) -> Policy:
        """Every free decision at its fewest bits."""
        return self.decode([choice.bits[0] for choice in self.choices])

    def highest(self) -> Policy:
        """Every free decision at its most bits."""
        return self.decode([choice.bits[-1] for choice in self.choices])

    def reference(self, weight: int, act: int) -> Policy:
        """The uniform policy that budgets refer to: pinned layers as pinned, the rest W/A.

        The bits need not be among the candidates.
        """
        pins = {
            name: (
                self.weight_bits[name][0] if len(self.weight_bits[name]) == 1 else weight,
                self.act_bits[name][0] if len(self.act_bits[name]) == 1 else act,
            )
            for name in self.names
        }
        return Policy(pins)

    def sample(self, rng: np.random.Generator) -> Policy:
        """A policy with every free decision drawn uniformly from its candidates."""
        return self.decode([int(rng.choice(choice.bits)) for choice in self.choices])

    def nearest(self, policy: Policy) -> Policy:
        """The policy of the space with each decision at the candidate nearest to the given bits.

        Ties between two candidates go to the lower one; per-channel bits round their mean.
        """
        values = []
        for choice in self.choices:
            entry = policy[choice.layers[0]]
            wish = entry.act if choice.kind == "act" else entry.mean_weight
            values.append(min(choice.bits, key=lambda bits: (abs(bits - wish), bits)))
        return self.decode(values)

    def validate(self, policy: Policy) -> None:
        """Check that a policy belongs to the space.

        Per-channel weight bits may be any candidate of the layer, or 0 (a pruned channel); whole
        layers may be pruned too. Pairs and ties bind the bits of what is not pruned.

        Raises:
            ValueError: it names another set of layers, or bits that are not allowed.
        """
        if tuple(policy) != self.names:
            raise ValueError(f"policy: layers {list(policy)} are not {list(self.names)}")
        channels = {layer.name: layer.out_channels for layer in self.layers}
        for name, entry in policy.items():
            for bits in set(entry.channels(channels[name])):
                if bits != PRUNED and bits not in self.weight_bits[name]:
                    raise ValueError(
                        f"policy: {name} has {bits} weight bits; "
                        f"allowed are {self.weight_bits[name]}"
                    )
            if entry.act not in self.act_bits[name]:
                raise ValueError(
                    f"policy: {name} has {entry.act} activation bits; "
                    f"allowed are {self.act_bits[name]}"
                )
            kept = set(entry.channels(channels[name])) - {PRUNED}
            if self.paired and kept and kept != {entry.act}:
                raise ValueError(f"policy: {name} needs equal weight and activation bits")
        for layer in self.layers:
            if layer.shared and policy[layer.name].weight != policy[layer.shared].weight:
                raise ValueError(
                    f"policy: {layer.shared} and {layer.name} have one weight and need equal bits"
                )
        for group in self.groups:
            if len(_kept_bits(policy[name] for name in group)) > 1:
                raise ValueError(f"policy: tied layers {group} have different bits")


def with_shared(
    layers: Sequence[Layer], groups: Sequence[Sequence[str]]
) -> tuple[tuple[str, ...], ...]:
    """Groups of tied layers, with those whose weights are stored once in one group."""
    found: list[list[str]] = [list(group) for group in groups]
    for layer in layers:
        if layer.shared:
            pair = [layer.shared, layer.name]
            hit = [group for group in found if set(group) & set(pair)]
            found = [group for group in found if group not in hit]
            found.append(list(dict.fromkeys([*(n for group in hit for n in group), *pair])))
    order = {layer.name: i for i, layer in enumerate(layers)}
    return tuple(tuple(sorted(group, key=lambda n: order.get(n, -1))) for group in found)


def spread(
    pinned: Mapping[str, tuple[int, int]], groups: Sequence[Sequence[str]]
) -> dict[str, tuple[int, int]]:
    """Pinned bits of layers, and of those that are tied to them.

    Raises:
        ValueError: tied layers are pinned at different bits.
    """
    found = dict(pinned)
    for group in groups:
        bits = {pinned[name] for name in group if name in pinned}
        if len(bits) > 1:
            raise ValueError(f"space: tied layers {tuple(group)} are pinned at different bits")
        for name in group if bits else ():
            found[name] = next(iter(bits))
    return found


def _kept_bits(entries: Iterable[LayerBits]) -> set[LayerBits]:
    """The distinct bits of several layers, without pruned channels and pruned layers."""
    found = set()
    for entry in entries:
        bits = (entry.weight,) if isinstance(entry.weight, int) else entry.weight
        kept = tuple(b for b in bits if b != PRUNED)
        if kept:
            found.add(LayerBits(kept, entry.act))
    return found
