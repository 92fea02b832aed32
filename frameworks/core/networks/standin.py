"""Modules that stand in the place of others."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from frameworks.core.networks.taking.reads import Read


class StandIn(nn.Module):
    """A module in another's place: what it has no attribute for, the other one answers.

    Networks read sizes, biases or weights of their layers and blocks without calling them.
    """

    def stood_for(self) -> nn.Module:
        """The module in whose place this one stands."""
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            # An AttributeError inside a property must not end in the other's float weight.
            if name in ("inner", "copies", "weight", "__setstate__"):
                raise
            return getattr(self.stood_for(), name)


class LayerStandIn(StandIn):
    """A layer whose weight is another one than that of ``inner``, in whose place it stands."""

    inner: nn.Module

    def stood_for(self) -> nn.Module:
        return self.inner

    def present_weight(self) -> Tensor:
        """The weight that the layer computes with."""
        raise NotImplementedError

    @property
    def weight(self) -> Tensor:
        """The weight as the network sees it, quantized.

        One that a function is about to read is handed out as it is: the read becomes a call.
        """
        if isinstance(self.inner, Read) and self.inner.armed:
            return self.inner.weight
        return self.present_weight()
