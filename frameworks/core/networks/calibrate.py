"""Calibration: what the input activations of each layer look like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from frameworks.core.layers import Layer
from frameworks.core.networks.taking.take import taken
from frameworks.core.quantizers.base import Quantizer, Scheme

SAMPLE = 16384
"""Activations kept per layer; enough for an MSE scan, small enough to scan hundreds of times."""
MOST = 8 * SAMPLE
"""Activations kept of a layer that is called many times, such as a recurrent one."""


@dataclass(frozen=True)
class Calibration:
    """A one-dimensional sample of each layer's input activations in the float network.

    The exact minimum and maximum are always in the sample.
    """

    samples: Mapping[str, Tensor]
    images: Tensor | None = field(default=None, repr=False, compare=False)
    """Two of the images, by which a network of these layers is probed; None for no probe."""
    probed: list[bool] = field(default_factory=list, repr=False, compare=False)
    """Not empty once it was."""
    _quantizers: dict[tuple[int, str, int], tuple[Scheme, Quantizer]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def __deepcopy__(self, memo: dict[int, Any]) -> Calibration:
        # Nothing here changes but by what is found again: copies of a network share it.
        return self

    def quantizer(self, scheme: Scheme, layer: str, bits: int) -> Quantizer:
        """The quantizer of a layer's input activations, scanned for once; copy it to train it."""
        # A scheme need not be hashable; held in the entry, its identity stays its own.
        key = (id(scheme), layer, bits)
        if key not in self._quantizers:
            self._quantizers[key] = scheme, scheme.activation(self.samples[layer], bits)
        return self._quantizers[key][1]


@torch.no_grad()
def observe(
    model: nn.Module, layers: Sequence[Layer], images: Tensor, generator: torch.Generator
) -> Calibration:
    """Run images ``[N, C, H, W]`` through a float model in eval mode and keep samples."""
    network = taken(model, [layer.name for layer in layers if layer.read])
    samples: dict[str, Tensor] = {}

    def keep(name: str, x: Tensor) -> None:
        flat = x.detach().flatten()
        if flat.numel() > SAMPLE:
            index = torch.randint(flat.numel(), (SAMPLE - 2,), generator=generator)
            flat = torch.cat([flat[index.to(flat.device)], flat.min()[None], flat.max()[None]])
        samples[name] = flat.clone() if name not in samples else torch.cat([samples[name], flat])

    handles = [
        network.get_submodule(layer.name).register_forward_pre_hook(
            lambda module, args, name=layer.name: keep(name, args[0])
        )
        for layer in layers
    ]
    try:
        network.eval()
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    for name, found in samples.items():
        if len(found) > MOST:
            index = torch.randperm(len(found), generator=generator)[: MOST - 2].to(found.device)
            samples[name] = torch.cat([found[index], found.min()[None], found.max()[None]])
    return Calibration(samples, images[:2])
