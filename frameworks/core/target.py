"""Hardware targets: what turns a policy into costs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from frameworks.core.layers import Layer
from frameworks.core.policy import LayerBits, Policy

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
