"""What is measured: every shape of a model's layers, in every class that the device has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from frameworks import Layer, shape_of

CLASSES: dict[str, dict[str, int]] = {
    "cpu": {"float32": 32, "int8": 8},
    "gpu": {"float32": 32, "float16": 16, "int8": 8},
}
"""The arithmetic that a device has kernels for, and the bits of weights and activations in it."""


@dataclass(frozen=True)
class Unit:
    """One measurement: a shape in a class.

    Attributes:
        layers: names of the layers of this shape.
        shape: see `frameworks.shape_of`.
        arithmetic: a key of `CLASSES`.
    """

    layers: tuple[str, ...]
    shape: dict[str, Any]
    arithmetic: str

    @property
    def title(self) -> str:
        """For progress and messages."""
        more = f" and {len(self.layers) - 1} of its shape" if len(self.layers) > 1 else ""
        return f"{self.layers[0]}{more}, {self.arithmetic}"

    @property
    def calls(self) -> int:
        """How often the network runs the layer for one image: modules used more than once, and
        those that see an image as a batch of windows or patches.
        """
        positions = math.prod(self.shape["out_size"])
        inputs = self.shape["in_channels"] // self.shape["groups"]
        weights = self.shape["out_channels"] * inputs * math.prod(self.shape["kernel"])
        ratio: float = self.shape["macs"] / (weights * positions)
        return max(1, round(ratio))


def units_of(layers: Sequence[Layer], device: str) -> list[Unit]:
    """The measurements for a model, layers of one shape together, in execution order.

    Raises:
        ValueError: a layer is of a kind that is not measured.
    """
    odd = next((layer.name for layer in layers if layer.transposed), None)
    if odd is not None:
        raise ValueError(f"layer {odd} is a transposed convolution, which juxtabit lut cannot time")
    groups: list[tuple[dict[str, Any], list[str]]] = []
    for layer in layers:
        shape = shape_of(layer)
        names = next((names for known, names in groups if known == shape), None)
        if names is None:
            groups.append((shape, [layer.name]))
        else:
            names.append(layer.name)
    return [
        Unit(tuple(names), shape, arithmetic)
        for shape, names in groups
        for arithmetic in CLASSES[device]
    ]
