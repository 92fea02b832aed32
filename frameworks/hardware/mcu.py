"""The memories of a microcontroller: flash for the weights, RAM for the activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

from frameworks.core.layers import Layer
from frameworks.core.policy import PRUNED, LayerBits, Policy
from frameworks.core.registry import register_target
from frameworks.core.target import Target

BITS = (2, 4, 8)
OUTPUT_BITS = 8
"""Bits of the network's output."""
PER_CHANNEL, PER_LAYER = WEIGHTS = ("per_channel", "per_layer")
"""What weights have a range for each: an output channel or a layer."""


@register_target
@dataclass(frozen=True)
class MCU(Target):
    """Flash, RAM and how full they are, after Rusci's memory-driven mixed precision.

    "Memory-Driven Mixed Low Precision Quantization For Enabling Deep Network Inference On
    Microcontrollers", Rusci et al., MLSys 2020 (arXiv 1905.13082). Rules and bytes as in the
    authors' ``quantization/quant_auto.py`` (mrusci/training-mixed-precision-quantized-networks):

    - ram = max over layers of (n_in b_in + n_out b_out) / 8, n being elements of one sample. The
      bits of a layer's output are the input bits of the next layer in execution order, 8 for the
      last one: not a sum over layers.
    - flash = sum over layers of n_w b_w / 8 + extra, with c output channels: integer channel
      normalization (M0 4, N0 1, bias 4, zero point 1 byte a channel) and per-channel weights
      10 c + 8, at the last layer 7 c + 4. These are the extras of the mode MixPC at any bits; its
      weights reach the paper's best accuracy, and those of this project are per channel as well.
      With per-layer weights (MixPL) a layer whose weights and output have 8 bits is folded with
      its BatchNorm, 4 c + 20, any other is normalized, 9 c + 12; the last layer 4 c + 20. Fewer
      bits can then take more: what folding saves may be more than the weights do.
    - fill = max(flash / flash_limit, ram / ram_limit), the share of the device that the tighter
      memory needs [the paper's two constraints as one number: they hold if fill <= 1]. Limits are
      those of the authors' README for an STM32H7, 2,048,000 and 512,000 bytes.

    The layers count as a chain, as in the source. In a residual network the "next layer" of a
    branch's end is the next one executed (a shortcut's convolution, say), and a shortcut held in
    RAM while its branch runs does not count: a lower bound. Elementwise sums, pooling, im2col
    buffers, code and the runtime do not count either. A pruned layer needs neither flash nor RAM of
    its own; its input bits stay the output bits of the layer before.

    Attributes:
        flash_limit: bytes of read-only memory.
        ram_limit: bytes of read-write memory.
        weights: ``per_channel`` or ``per_layer`` ranges of the weights.
    """

    name: ClassVar[str] = "mcu"
    kind: ClassVar[Literal["model", "table", "measured"]] = "model"
    metrics: ClassVar[Mapping[str, str]] = {
        "fill": "of the device",
        "flash": "bytes",
        "ram": "bytes",
    }
    separable: ClassVar[bool] = False
    per_channel: ClassVar[bool] = False

    flash_limit: float = 2_048_000
    ram_limit: float = 512_000
    weights: str = PER_CHANNEL

    def __post_init__(self) -> None:
        if self.weights not in WEIGHTS:
            raise ValueError(f"weights = {self.weights!r}: choose from {list(WEIGHTS)}")
        object.__setattr__(self, "monotone", self.weights == PER_CHANNEL)
        for name in ("flash_limit", "ram_limit"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} = {getattr(self, name)} must be positive")

    def supports(self, layer: Layer, weight: int, act: int) -> bool:
        return weight == PRUNED or (weight in BITS and act in BITS)

    def cost(self, layers: Sequence[Layer], policy: Policy) -> dict[str, float]:
        for layer in layers:
            self.require(layer, policy[layer.name])
        kept = [layer for layer in layers if policy[layer.name].weight != PRUNED]
        outputs = {a.name: policy[b.name].act for a, b in pairwise(layers)}
        ram = max(
            (_ram(x, policy[x.name].act, outputs.get(x.name, OUTPUT_BITS)) for x in kept),
            default=0.0,
        )
        flash = sum(
            layer.stored * policy[layer.name].mean_weight / 8
            + self._extra(layer, policy[layer.name], outputs.get(layer.name))
            for layer in kept
        )
        fill = max(flash / self.flash_limit, ram / self.ram_limit)
        return {"fill": fill, "flash": float(flash), "ram": ram}

    def implied(self, metric: str, limit: float) -> dict[str, float]:
        if metric != "fill":
            return super().implied(metric, limit)
        return {"flash": limit * self.flash_limit, "ram": limit * self.ram_limit}

    def _extra(self, layer: Layer, bits: LayerBits, out: int | None) -> int:
        """Bytes beside a layer's weights; ``out`` is None for the last layer."""
        c = layer.out_channels
        if self.weights == PER_CHANNEL:
            return 7 * c + 4 if out is None else 10 * c + 8
        folded = out is None or (bits.weight == OUTPUT_BITS and out == OUTPUT_BITS)
        return 4 * c + 20 if folded else 9 * c + 12


def _ram(layer: Layer, act: int, out: int) -> float:
    return (layer.in_elements * act + layer.out_elements * out) / 8
