"""A given policy: no search, but what a paper, another toolkit or an earlier run has found.

It is priced, evaluated, and trained where the protocol trains, as any policy found here, and so
has a row of its own in the table. `frameworks.baselines.given.reading` says what files may look
like.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from frameworks.baselines.given.reading import Entry, by_layer, read_policy, read_spent
from frameworks.core.card import Card
from frameworks.core.framework import Framework
from frameworks.core.layers import Layer
from frameworks.core.policy import PRUNED, VALID_BITS, LayerBits, Policy
from frameworks.core.pricing.costfile import some
from frameworks.core.problem import Problem
from frameworks.core.registry import register
from frameworks.core.solution import Solution
from frameworks.core.space import Space, with_shared
from frameworks.core.target import Target, UnsupportedBits


@register
@dataclass
class Given(Framework):
    """The policy of a file, whatever it costs.

    One that the protocol's space does not have is scored all the same, and the record says so, as
    long as the hardware runs it. Pinned layers that the file leaves out are as the protocol pins
    them. Where a file has no activation bits, these are ``act_bits``; else, in a paired space, the
    weights'; else the most that the protocol has.

    Attributes:
        policy: the file: a record, JSON, CSV, or a list of bits in execution order.
        label: what the row is called; the file's name without its ending by default. Policies of
            one label, each for another seed, are one row.
        act_bits: activation bits of layers that are not pinned, for files without; 0: see above.
    """

    name: ClassVar[str] = "given"
    card: ClassVar[Card] = Card(
        title="A given policy",
        year=2026,
        category="baseline",
        quantizer="mse",
        quantization=("deterministic rounding",),
        granularity="layer",
        searches=("weight", "act"),
        needs=frozenset({"calibration", "valid"}),
        deviations=("no search; its cost here is that of one evaluation",),
    )

    policy: str = field(default="", metadata={"required": True})
    label: str = ""
    act_bits: int = 0

    def validate(self) -> None:
        super().validate()
        if self.act_bits not in VALID_BITS:
            raise ValueError(f"act_bits = {self.act_bits}: choose from {sorted(VALID_BITS)}")

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.policy).expanduser()

    def widened(self, space: Space, target: Target) -> Space:
        try:
            policy = self.read(space)
            read_spent(self.path)  # here, as a wrong one is to be refused before any work
            for layer in space.layers:
                _require(target, layer, policy[layer.name])
            return _including(space, policy)
        except (ValueError, OSError) as error:
            raise ValueError(f"policy: {error}") from error

    def read(self, space: Space) -> Policy:
        """The file's policy of a space's layers.

        Raises:
            ValueError: it cannot be read, or does not fit; the message names file and layer.
        """
        if not self.policy:
            raise ValueError("give a file, such as framework.policy=bits.json")
        path = self.path
        layers = {layer.name: layer for layer in space.layers}
        free = [name for name in layers if len(space.weight_bits[name]) > 1]
        found = by_layer(read_policy(path), layers, free)
        for layer in space.layers:
            if layer.shared and layer.name not in found and layer.shared in found:
                found[layer.name] = found[layer.shared]
        if missing := [name for name in free if name not in found]:
            raise ValueError(f"{path}: no bits for {len(missing)} layers: {some(missing, 60)}")
        return Policy({name: self._bits(space, layers[name], found.get(name)) for name in layers})

    def _bits(self, space: Space, layer: Layer, entry: Entry | None) -> LayerBits:
        weights, acts = space.weight_bits[layer.name], space.act_bits[layer.name]
        if entry is None:
            return LayerBits(weights[0], acts[-1])
        weight, act = entry.weight, entry.act
        if not isinstance(weight, int) and len(weight) != layer.out_channels:
            raise ValueError(
                f"{entry.where}: bits of {len(weight)} output channels, {layer.name} has "
                f"{layer.out_channels}"
            )
        if act is None and self.act_bits and len(acts) > 1:
            act = self.act_bits
        elif act is None and space.paired and isinstance(weight, int) and weight != PRUNED:
            act = weight
        return LayerBits(weight, acts[-1] if act is None else act)

    def search(self, problem: Problem) -> Solution:
        policy = self.read(problem.space)
        problem.checkpoint(policy, problem.evaluate(policy).accuracy)
        spent = read_spent(self.path)
        return Solution(policy, notes={"elsewhere": spent} if spent else {})


def _require(target: Target, layer: Layer, bits: LayerBits) -> None:
    """Refuse bits that the hardware does not run, with those that it does."""
    try:
        target.require(layer, bits)
    except UnsupportedBits as error:
        pairs = [(w, a) for w in sorted(VALID_BITS) for a in sorted(VALID_BITS)]
        runs = [f"{w}/{a}" for w, a in pairs if w and a and target.supports(layer, w, a)]
        raise UnsupportedBits(f"{error}; it runs W/A {some(runs, 40)}") from error


def _including(space: Space, policy: Policy) -> Space:
    """The space, or one of the same layers that has the policy, too, without pairs and ties.

    Raises:
        ValueError: layers that share their weights have different bits.
    """
    try:
        space.validate(policy)
        return space
    except ValueError:
        groups = with_shared(space.layers, ())
    weights = {
        layer.name: {
            *space.weight_bits[layer.name],
            *policy[layer.name].channels(layer.out_channels),
        }
        for layer in space.layers
    }
    acts = {name: {*space.act_bits[name], policy[name].act} for name in space.names}
    wider = Space(
        space.layers,
        {name: tuple(sorted(bits - {PRUNED})) for name, bits in weights.items()},
        {name: tuple(sorted(bits)) for name, bits in acts.items()},
        groups,
    )
    wider.validate(policy)
    return wider
