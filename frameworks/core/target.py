"""Hardware targets: what turns a policy into costs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from frameworks.core.layers import Layer
from frameworks.core.policy import PRUNED, LayerBits, Policy

Costs = Mapping[str, float]
"""Cost per metric, e.g. ``{"size": 9750.0, "bops": 1.6e9}``."""


class UnsupportedBits(ValueError):
    """The hardware cannot run a layer at the bits that a policy gives it."""


class Target(ABC):
    """One hardware target.

    A subclass is a dataclass, so that its fields are its configuration. A target whose cost is not
    a sum over layers (peak memory, say) overrides `cost` and sets ``separable = False``.
    """

    name: ClassVar[str]
    kind: ClassVar[Literal["model", "table", "measured"]]
    metrics: ClassVar[Mapping[str, str]]
    """Metric name to unit; the first is the one that a budget means by default."""
    separable: ClassVar[bool] = True
    per_channel: ClassVar[bool] = True
    """Whether weight bits may differ between the output channels of a layer."""
    prices_activations: ClassVar[bool] = True
    """Whether activation bits change any cost; if not, the space pins them."""
    monotone: ClassVar[bool] = True
    """Whether more bits never cost less, in any metric. What was measured need not be so."""
    wide: ClassVar[tuple[int, ...]] = ()
    """Bit widths above 8 that the target adds to the protocol's candidates (32: float)."""

    @property
    def metric(self) -> str:
        """The default metric of a budget."""
        return next(iter(self.metrics))

    def prepare(self, layers: Sequence[Layer]) -> None:  # noqa: B027 (a hook, empty by default)
        """Check the target against a model's layers, before any long work.

        Raises:
            ValueError: the target cannot price these layers.
        """

    def supports(self, layer: Layer, weight: int, act: int) -> bool:
        """Whether the hardware runs this layer at these bits."""
        return True

    def implied(self, metric: str, limit: float) -> dict[str, float]:
        """The limits on other metrics that a limit on this one stands for; by default itself.

        A metric that is the largest of several shares is within a limit where each of them is.
        """
        return {metric: limit}

    def require(self, layer: Layer, bits: LayerBits) -> None:
        """Check that the hardware runs a layer at these bits, pruned channels aside.

        Raises:
            UnsupportedBits: it does not; or bits differ between channels that it prices as one.
        """
        if not (self.per_channel or isinstance(bits.weight, int)):
            raise UnsupportedBits(f"{self.name} has no costs per output channel ({layer.name})")
        for weight in sorted(set(bits.channels(layer.out_channels)) - {PRUNED}):
            if not self.supports(layer, weight, bits.act):
                raise UnsupportedBits(
                    f"{self.name} does not run layer {layer.name} at w_bits={weight}, "
                    f"a_bits={bits.act}"
                )

    @abstractmethod
    def cost(self, layers: Sequence[Layer], policy: Policy) -> dict[str, float]:
        """The cost of a policy in every metric."""


class SeparableTarget(Target):
    """A target whose cost is a sum over layers."""

    @abstractmethod
    def layer_cost(self, layer: Layer, bits: LayerBits) -> dict[str, float]:
        """The cost of one layer in every metric."""

    def cost(self, layers: Sequence[Layer], policy: Policy) -> dict[str, float]:
        total = dict.fromkeys(self.metrics, 0.0)
        for layer in layers:
            for metric, value in self.layer_cost(layer, policy[layer.name]).items():
                total[metric] += value
        return total


def kept_channels(layer: Layer, bits: LayerBits) -> Counter[tuple[int, ...]]:
    """The weight bits of the output channels that are left, group by group.

    Each key holds the bits of one group's kept channels, the widest first; its count is the number
    of groups (of a grouped convolution; one otherwise) with exactly these. Pruned channels, and
    groups without any other, are left out.
    """
    size = layer.out_channels // layer.groups
    if isinstance(bits.weight, int):
        return Counter({(bits.weight,) * size: layer.groups} if bits.weight != PRUNED else {})
    channels = bits.channels(layer.out_channels)
    groups = (channels[i : i + size] for i in range(0, layer.out_channels, size))
    kept = (tuple(sorted((b for b in g if b != PRUNED), reverse=True)) for g in groups)
    return Counter(group for group in kept if group)
