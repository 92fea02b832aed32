"""The integers of a quantized network, checked against what it computes with.

Weights are kept as unsigned codes u of b bits, ``0 <= u < 2^b``, with value = scale * (u + offset);
the offset takes up the lower end of the grid, -2^(b-1) where codes are signed. All of these are
whole numbers or halves, so the sum is exact and the value has the bits of the fake-quantized one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.export.graphs.errors import UnsupportedExport
from frameworks import Codes, Float, Grid, Layer, LayerBits, QLayer, QModel, Quantizer

FLOAT, PRUNED = 32, 0


@dataclass(frozen=True)
class Weights:
    """The weight of one layer: float (``code`` is None), on a grid, or in a codebook.

    Attributes:
        value: the quantized weight ``[C, ...]`` as the network uses it.
        bits: bits of each output channel ``[C]``.
        code: unsigned integers like ``value``; None for a float weight.
        scale: ``[C, 1, ...]``, or a single number ``[1, 1, ...]``.
        offset: as ``scale``.
        codebook: ``[levels]`` or ``[C, levels]``, in the place of scale and offset.
    """

    value: Tensor
    bits: Tensor
    code: Tensor | None = None
    scale: Tensor | None = None
    offset: Tensor | None = None
    codebook: Tensor | None = None

    @property
    def on_grid(self) -> bool:
        """Whether the codes lie on a uniform grid for each channel."""
        return self.code is not None and self.codebook is None

    def dequantized(self) -> Tensor:
        """The real values, computed from the codes."""
        if self.code is None:
            return self.value
        zero = self.value.new_zeros(())
        scale, offset = (zero if x is None else x for x in (self.scale, self.offset))
        return Codes(self.code, scale, offset, self.codebook).dequantize()


@dataclass(frozen=True)
class Exported:
    """One layer of a network to be exported."""

    layer: Layer
    bits: LayerBits
    weights: Weights
    grid: Grid | None
    """The input's grid; None where activations are float or pruned."""


def exported_layers(model: QModel) -> list[Exported]:
    """The integers of every layer, in execution order.

    Raises:
        UnsupportedExport: a layer's activations have no fixed uniform grid, or its codes need more
            bits than the policy says.
    """
    return [
        Exported(q.layer, q.bits, weights_of(name, q), grid_of(name, q.bits.act, q.act_quantizer))
        for name, q in model.qlayers()
    ]


def grid_of(name: str, bits: int, quantizer: Quantizer) -> Grid | None:
    """The grid of a layer's activations; None where they are float or pruned.

    Raises:
        UnsupportedExport: the quantizer is not one fixed uniform grid, or a larger one.
    """
    if bits in (FLOAT, PRUNED) or isinstance(quantizer, Float):
        return None
    grid = quantizer.uniform_grid()
    if grid is None:
        raise UnsupportedExport(
            f"layer {name}: activations of {type(quantizer).__name__} are not on a fixed uniform "
            "grid, which is what exported networks have"
        )
    if grid.high - grid.low >= 2**bits:
        raise UnsupportedExport(f"layer {name}: the activations' grid needs more than {bits} bits")
    return grid


@torch.no_grad()
def weights_of(name: str, q: QLayer) -> Weights:
    """The weight of a layer with its codes.

    Raises:
        UnsupportedExport: the codes need more bits than the policy says, or are not the weight.
    """
    value = q.weight.detach().contiguous()
    codes = q.codes()
    bits = torch.tensor(q.bits.channels(len(value)))
    if codes is None:
        if bool((bits != FLOAT).any()):
            raise UnsupportedExport(f"layer {name}: has float weights in some channels only")
        return Weights(value, bits)
    made = _unsigned(value, bits, codes)
    assert made.code is not None
    levels = (2.0 ** bits.double()).view(-1, *(1,) * (value.dim() - 1))
    if bool((made.code < 0).any()) or bool((made.code >= levels).any()):
        raise UnsupportedExport(f"layer {name}: its codes do not fit the policy's bits")
    if not torch.equal(made.dequantized(), value):
        raise UnsupportedExport(
            f"layer {name}: {type(q.weight_quantizer).__name__} does not give its integer codes"
        )
    return made


def _unsigned(value: Tensor, bits: Tensor, codes: Codes) -> Weights:
    code = codes.code.contiguous()
    if codes.codebook is not None:
        return Weights(value, bits, code, codebook=codes.codebook)
    shape = (-1, *(1,) * (value.dim() - 1))
    lowest, highest = code.flatten(1).amin(1), code.flatten(1).amax(1)
    # Where a layer has negative codes, a channel's lower end is that of two's complement; but one
    # bit may have the codes 0 and 1 beside channels with signed codes.
    half = 2.0 ** (bits - 1)
    signed = (bits != PRUNED) & (highest < half) & bool((lowest < 0).any())
    base = torch.where(signed, -half, 0.0).to(value).view(shape)
    scale, offset = (x.to(value).reshape(shape) for x in (codes.scale, codes.offset))
    return Weights(value, bits, code - base, scale, offset + base)
