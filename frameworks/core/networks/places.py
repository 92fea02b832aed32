"""Where quantized copies of a network are corrected: BatchNorms' inputs and layers' outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from frameworks.core.layers import Layer
from frameworks.core.networks.batchnorm import Moments, Statistics, batchnorms

Key = int | str
"""Index of a BatchNorm; name of a layer."""
Found = Statistics | Tensor
"""A BatchNorm's statistics, or what is taken off each output channel of a layer ``[C]``."""


class Place(NamedTuple):
    """The input of a BatchNorm, or the output of a layer."""

    key: Key
    module: nn.Module
    layer: Layer | None = None

    def look(self, x: Tensor) -> Moments:
        """The moments of what is there; of a layer's output the means are enough."""
        if self.layer is None:
            return Moments.of(x)
        if self.layer.kind == "linear" and x.dim() > 2:
            x = x.movedim(-1, 1)
        mean = x.double() if x.dim() == 2 else x.flatten(2).double().mean(2)
        return Moments(mean, torch.zeros_like(mean), 1)

    def put(self, found: Found) -> None:
        """Correct it."""
        if isinstance(found, Tensor):
            weight = next(self.module.parameters())
            self.module.shift = found.to(weight.device, weight.dtype)
        else:
            set_statistics(self.module, found)

    def clear(self) -> None:
        """Take a shift off again."""
        if self.layer is not None:
            self.module.shift = None  # type: ignore[assignment]

    def counts(self, calls: Mapping[Key, object]) -> bool:
        """Whether a call is looked at, after others: of a layer the first one alone."""
        return self.layer is None or self.key not in calls


def places(model: nn.Module, layers: Sequence[Layer] = ()) -> list[Place]:
    """The places of a float network, or of a quantized copy, where they are the same."""
    named = getattr(model, "qlayer", model.get_submodule)
    return [
        *(Place(i, norm) for i, norm in enumerate(batchnorms(model))),
        *(Place(layer.name, named(layer.name), layer) for layer in layers),
    ]


Seen = Callable[[Place, Tensor], None]
"""Called with a place and the tensor there, before anything reads it."""


@contextmanager
def watched(model: nn.Module, every: Sequence[Place], seen: Seen) -> Iterator[None]:
    """Within the context, in eval mode, ``seen`` is called at places when a pass comes by."""

    def norm_hook(place: Place) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda module, args: seen(place, args[0])

    def layer_hook(place: Place) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
        def hook(module: nn.Module, args: Any, out: Tensor) -> Tensor | None:
            before = getattr(module, "shift", None)
            seen(place, out)
            # A shift that was set just now; one from before is in the output already.
            if before is not None or getattr(module, "shift", None) is None:
                return None
            shifted: Tensor = module.shifted(out)  # type: ignore[operator]
            return shifted

        return hook

    handles = [
        place.module.register_forward_pre_hook(norm_hook(place))
        if place.layer is None
        else place.module.register_forward_hook(layer_hook(place))
        for place in every
    ]
    try:
        model.eval()
        yield
    finally:
        for handle in handles:
            handle.remove()


def set_statistics(norm: nn.Module, statistics: Statistics) -> None:
    """Give a BatchNorm its running mean and variance."""
    assert isinstance(norm, _BatchNorm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(statistics[0])
    norm.running_var.copy_(statistics[1])


def statistics_of(norm: _BatchNorm) -> Statistics:
    """A copy of a BatchNorm's running mean and variance."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean.detach().clone(), norm.running_var.detach().clone()
