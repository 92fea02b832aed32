"""Weight storage, the target of every paper that reports a compression ratio."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from frameworks.core.layers import Layer
from frameworks.core.policy import LayerBits
from frameworks.core.registry import register_target
from frameworks.core.target import SeparableTarget


@register_target
@dataclass(frozen=True)
class Size(SeparableTarget):
    """Bytes of the quantized weights: sum over layers and output channels of n * b / 8.

    All quantizable layers count, pinned ones at their pinned bits. Biases, BatchNorm parameters
    and scales do not count (HAQ's rule, arXiv 1811.08886, released code ``quantize_env.py``).
    """

    name: ClassVar[str] = "size"
    kind: ClassVar[Literal["model", "table", "measured"]] = "model"
    metrics: ClassVar[Mapping[str, str]] = {"size": "bytes"}
    prices_activations: ClassVar[bool] = False

    def layer_cost(self, layer: Layer, bits: LayerBits) -> dict[str, float]:
        return {"size": layer.stored * bits.mean_weight / 8}
