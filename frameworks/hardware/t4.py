"""HAWQ-V3's measured latencies on an NVIDIA T4 (arXiv 2011.10680), INT4 and INT8 tensor cores.

``data/t4.json`` holds the 19 layers of ResNet-18 at 224 px between the first convolution and the
classifier, from the official repository's ``ILP.ipynb`` (Zhen-Dong/HAWQ), with the shapes of timm's
``resnet18``. TVM compiled them; the repository's end-to-end times and tuning logs are for a batch
of 8, and the notebook does not name another. Its layers add up to 5.344 ms at INT8 and 3.149 ms at
INT4, more than the 3.3 ms and 2.2 ms that the repository gives for the whole network: use ratios.

A layer is looked up by its shape, not by its name:

- Of the shape of one or more rows: their mean, so that ResNet-18's total stays what was measured.
- Of another shape, at the same bits [own model]: the line through the mean latencies of the
  table's three amounts of multiply-accumulates, from 0 at none; beyond the largest, in proportion.
  Such layers are guesses: the table has 3x3 and 1x1 convolutions of stride 1 and 2 only, and a
  depthwise one is slower than its multiply-accumulates say. `prepare` warns of them, and refuses
  them with ``interpolate=False``.
"""

from __future__ import annotations

import json
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from statistics import fmean
from typing import Any, ClassVar, Literal

import numpy as np

from frameworks.core.layers import Layer
from frameworks.core.policy import PRUNED, LayerBits
from frameworks.core.registry import register_target
from frameworks.core.target import SeparableTarget

SHAPE = ("in_channels", "out_channels", "kernel", "stride", "groups", "in_size", "out_size")
"""The fields of a layer by which its row is found."""


@cache
def rows() -> list[dict[str, Any]]:
    """The table: a layer's shape, ``macs`` and latencies in ms by bits each."""
    text = (files("frameworks.hardware") / "data" / "t4.json").read_text(encoding="utf-8")
    table: list[dict[str, Any]] = json.loads(text)["rows"]
    return table


def _means(keys: Iterable[Any], bits: str) -> dict[Any, float]:
    found = defaultdict(list)
    for key, row in zip(keys, rows(), strict=True):
        found[key].append(row["latency_ms"][bits])
    return {key: fmean(values) for key, values in found.items()}


@cache
def _by_shape(bits: str) -> dict[tuple[Any, ...], float]:
    fields = [[row[field] for field in SHAPE] for row in rows()]
    return _means([tuple(tuple(x) if isinstance(x, list) else x for x in f) for f in fields], bits)


@cache
def _by_macs(bits: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    points = sorted(_means([row["macs"] for row in rows()], bits).items())
    return (0.0, *(macs for macs, _ in points)), (0.0, *(cost for _, cost in points))


@register_target
@dataclass(frozen=True)
class T4(SeparableTarget):
    """Latency of ResNet-18's layers as measured, of others by multiply-accumulates; and size.

    Weights and activations both have 4, or both 8 bits.

    Attributes:
        interpolate: whether layers of other shapes may be priced.
    """

    name: ClassVar[str] = "t4"
    kind: ClassVar[Literal["model", "table", "measured"]] = "table"
    metrics: ClassVar[Mapping[str, str]] = {"latency": "ms", "size": "bytes"}
    per_channel: ClassVar[bool] = False

    interpolate: bool = True

    def prepare(self, layers: Sequence[Layer]) -> None:
        guessed = [layer.name for layer in layers if not self.measured(layer)]
        if not guessed:
            return
        text = f"t4: {len(guessed)} of the model's {len(layers)} layers are not in the table"
        if not self.interpolate:
            raise ValueError(f"{text}: {', '.join(guessed[:8])}")
        warnings.warn(f"{text} and are priced by their multiply-accumulates", stacklevel=2)

    @staticmethod
    def measured(layer: Layer) -> bool:
        """Whether the table has a layer of this shape."""
        return tuple(getattr(layer, field) for field in SHAPE) in _by_shape("8")

    def supports(self, layer: Layer, weight: int, act: int) -> bool:
        known = self.interpolate or self.measured(layer)
        return weight == PRUNED or (known and weight == act and act in (4, 8))

    def layer_cost(self, layer: Layer, bits: LayerBits) -> dict[str, float]:
        self.require(layer, bits)
        return {
            "latency": self._latency(layer, bits),
            "size": layer.stored * bits.mean_weight / 8,
        }

    def _latency(self, layer: Layer, bits: LayerBits) -> float:
        if bits.weight == PRUNED:
            return 0.0
        key = tuple(getattr(layer, field) for field in SHAPE)
        known = _by_shape(str(bits.weight)).get(key)
        if known is not None:
            return layer.calls * known
        macs, costs = _by_macs(str(bits.weight))
        if layer.macs > macs[-1]:
            return layer.macs / macs[-1] * costs[-1]
        return float(np.interp(layer.macs, macs, costs))
