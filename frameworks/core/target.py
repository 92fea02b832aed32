"""Hardware targets: what turns a policy into costs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from frameworks.core.layers import Layer
from frameworks.core.policy import PRUNED, LayerBits, Policy

Costs = Mapping[str, float]
"""Cost per metric, e.g. ``{"size": 9750.0, "bops": 1.6e9}``."""


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
    """Whether more bits never cost less."""

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

    def require(self, layer: Layer, bits: LayerBits) -> None:
        """Check that the hardware runs a layer at these bits, pruned channels aside.

        Raises:
            ValueError: it does not; or bits differ between channels that it prices as one.
        """
        if not (self.per_channel or isinstance(bits.weight, int)):
            raise ValueError(f"{self.name} cannot price bits per output channel ({layer.name})")
        for weight in sorted(set(bits.channels(layer.out_channels)) - {PRUNED}):
            if not self.supports(layer, weight, bits.act):
                raise ValueError(
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
