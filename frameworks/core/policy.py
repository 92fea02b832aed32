"""Policies: the bit widths of every quantizable layer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from frameworks.core.layers import Layer

Bits = int | tuple[int, ...]
"""Weight bits: one number for the layer, or one number per output channel."""
Pair = tuple[int, int]
"""Weight and activation bits of a layer whose channels are all alike."""

FLOAT = 32
"""The bit width that stands for "not quantized"."""
PRUNED = 0
"""The bit width that stands for "removed"."""
VALID_BITS = frozenset({PRUNED, *range(1, 9), 16, FLOAT})


def _checked(bits: int, where: str) -> int:
    if isinstance(bits, bool) or not isinstance(bits, Real) or bits not in VALID_BITS:
        raise ValueError(f"{where}: {bits!r} is not a bit width; choose from {sorted(VALID_BITS)}")
    return int(bits)


@dataclass(frozen=True)
class LayerBits:
    """Weight and activation bits of one layer.

    A per-channel tuple whose entries are all equal is stored as that one number, so that equal
    policies compare and hash equal.
    """

    weight: Bits
    act: int

    def __post_init__(self) -> None:
        if isinstance(self.weight, Sequence):
            channels = tuple(_checked(bits, "weight bits") for bits in self.weight)
            if not channels:
                raise ValueError("weight bits: a per-channel tuple needs at least one entry")
            weight: Bits = channels[0] if len(set(channels)) == 1 else channels
        else:
            weight = _checked(self.weight, "weight bits")
        object.__setattr__(self, "weight", weight)
        object.__setattr__(self, "act", _checked(self.act, "activation bits"))

    @property
    def mean_weight(self) -> float:
        """Mean weight bits over the output channels."""
        if isinstance(self.weight, int):
            return float(self.weight)
        return sum(self.weight) / len(self.weight)

    def channels(self, count: int) -> tuple[int, ...]:
        """Weight bits of each of ``count`` output channels."""
        if isinstance(self.weight, int):
            return (self.weight,) * count
        if len(self.weight) != count:
            raise ValueError(f"{len(self.weight)} per-channel bits for {count} output channels")
        return self.weight


@lru_cache(maxsize=4096)
def known_bits(weight: Bits, act: int) -> LayerBits:
    """A layer's bits, checked once and not for each policy in which the layer stays as it is."""
    return LayerBits(weight, act)


class Policy(Mapping[str, LayerBits]):
    """An immutable, hashable map from layer name to `LayerBits`, in execution order."""

    def __init__(self, bits: Mapping[str, LayerBits | tuple[Bits, int]]) -> None:
        self._bits = {
            name: entry if isinstance(entry, LayerBits) else LayerBits(*entry)
            for name, entry in bits.items()
        }
        self._hash = hash(tuple(self._bits.items()))

    @classmethod
    def uniform(cls, layers: Sequence[Layer], weight: int, act: int) -> Policy:
        """The same bits for every layer, pinned layers included."""
        return cls({layer.name: LayerBits(weight, act) for layer in layers})

    def __getitem__(self, name: str) -> LayerBits:
        return self._bits[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._bits)

    def __len__(self) -> int:
        return len(self._bits)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Policy) and tuple(self.items()) == tuple(other.items())

    def __repr__(self) -> str:
        inner = ", ".join(f"{n}=W{b.mean_weight:g}A{b.act}" for n, b in self.items())
        return f"Policy({inner})"

    def replace(self, name: str, *, weight: Bits | None = None, act: int | None = None) -> Policy:
        """A copy with the weight and/or activation bits of one layer changed."""
        old = self._bits[name]
        new = LayerBits(old.weight if weight is None else weight, old.act if act is None else act)
        return Policy({**self._bits, name: new})

    def mean_weight_bits(self, layers: Sequence[Layer]) -> float:
        """Average weight bits, weighted by the numbers of weights that are stored."""
        total = sum(layer.stored for layer in layers)
        return sum(layer.stored * self[layer.name].mean_weight for layer in layers) / total

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Plain data: ``{layer: {"weight": 4 | [4, 2, ...], "act": 4}}``."""
        return {
            name: {
                "weight": b.weight if isinstance(b.weight, int) else list(b.weight),
                "act": b.act,
            }
            for name, b in self.items()
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Mapping[str, Any]]) -> Policy:
        """Inverse of `to_json`."""
        return cls(
            {
                name: LayerBits(
                    tuple(entry["weight"])
                    if isinstance(entry["weight"], list)
                    else entry["weight"],
                    entry["act"],
                )
                for name, entry in data.items()
            }
        )

    @property
    def key(self) -> str:
        """A short digest of the canonical JSON, stable across processes and machines."""
        text = json.dumps(self.to_json(), separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]
