"""One layer whose weight and input activations pass through quantizers."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from frameworks.core.layers import Layer
from frameworks.core.networks.calibrate import Calibration
from frameworks.core.networks.standin import LayerStandIn
from frameworks.core.networks.taking.bake import raw_weight
from frameworks.core.networks.taking.hooks import take_hooks
from frameworks.core.policy import FLOAT, PRUNED, Bits, LayerBits
from frameworks.core.quantizers.base import Codes, Float, Quantizer, Scheme, joined


def run_layer(inner: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """The layer's own forward pass with another weight.

    Plain layers take the short way; one with a forward of its own (timm's padding and
    weight-standardising convolutions, a module whose forward was replaced) is called as it is.
    """
    if "forward" not in vars(inner):
        if type(inner) is nn.Conv2d or type(inner) is nn.Conv1d:
            plain: Tensor = inner._conv_forward(x, weight, inner.bias)
            return plain
        if type(inner) is nn.Linear:
            return functional.linear(x, weight, inner.bias)
    out: Tensor = functional_call(inner, {"weight": weight}, (x,))
    return out


class QLayer(LayerStandIn):
    """A layer whose weight and input activations pass through quantizers.

    In ``fixed`` mode (evaluation of many policies on unchanged weights) quantized weights and
    calibrated activation quantizers are kept per bit width, the latter with the calibration: all
    networks of a problem share them.
    """

    def __init__(
        self, inner: nn.Module, layer: Layer, scheme: Scheme, calibration: Calibration
    ) -> None:
        super().__init__()
        self.inner = inner
        self.layer = layer
        self.scheme = scheme
        self.bits = LayerBits(FLOAT, FLOAT)
        self.weight_quantizer: Quantizer = Float()
        self.act_quantizer: Quantizer = Float()
        self._calibration = calibration
        if layer.name not in calibration.samples:
            raise KeyError(f"the calibration has no sample of layer {layer.name}")
        self.shift: Tensor | None
        self.register_buffer("shift", None, persistent=False)
        self._fixed_weight: Tensor | None = None
        self._rounded: Codes | None = None
        self._weights: dict[int, tuple[Quantizer, Tensor]] = {}
        take_hooks(self, inner)

    @property
    def _raw(self) -> Tensor:
        return raw_weight(self.inner)

    def present_weight(self) -> Tensor:
        if self._fixed_weight is not None:
            return self._fixed_weight
        out: Tensor = self.weight_quantizer(self._raw)
        return out

    def forward(self, x: Tensor) -> Tensor:
        return self.shifted(run_layer(self.inner, self.act_quantizer(x), self.present_weight()))

    def shifted(self, out: Tensor) -> Tensor:
        """An output without ``shift``, which a bias correction sets for each channel ``[C]``."""
        if self.shift is None:
            return out
        last = self.layer.kind == "linear" or out.dim() == 2
        return out - (self.shift if last else self.shift.view(-1, *(1,) * (out.dim() - 2)))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QLayer:
        """Move what is kept of the weight, too: it is no buffer, as checkpoints leave it out."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self._fixed_weight is not None:
            self._fixed_weight = fn(self._fixed_weight)
        if self._rounded is not None:
            self._rounded = self._rounded.apply(fn)
        self._weights = {b: (_moved(q, fn), fn(w)) for b, (q, w) in self._weights.items()}
        return self

    def _quantized(self, bits: int) -> tuple[Quantizer, Tensor]:
        """The calibrated quantizer of the unchanged weight, and what it gives."""
        if bits not in self._weights:
            raw = self._raw.detach()
            quantizer = self.scheme.weight(raw, bits)
            self._weights[bits] = quantizer, quantizer(raw).detach()
        return self._weights[bits]

    def _fixed(self, bits: Bits) -> Tensor:
        if isinstance(bits, int):
            return self._quantized(bits)[1]
        out = torch.zeros_like(self._raw)
        each = torch.tensor(bits)
        for value in set(bits) - {PRUNED}:
            rows = each == value
            out[rows] = self._quantized(value)[1][rows]
        return out

    @torch.no_grad()
    def codes(self) -> Codes | None:
        """The integers behind `weight`; None where it, or a channel of it, is float."""
        if self._rounded is not None:
            return self._rounded
        bits, raw = self.bits.weight, self._raw.detach()
        if FLOAT in ((bits,) if isinstance(bits, int) else bits):
            return None
        if self._fixed_weight is None:
            return self.weight_quantizer.codes(raw)
        if isinstance(bits, int):
            return self._quantized(bits)[0].codes(raw)
        each, parts = torch.tensor(bits), []
        for value in sorted(set(bits)):
            rows = torch.nonzero(each == value).flatten()
            # The ranges are those of the whole tensor, as in `_fixed`.
            whole = self._quantized(value)[0].codes(raw)
            parts.append((rows, _rows_of(whole, rows)))
        return joined(parts, raw)

    def use(self, bits: LayerBits, weight: Quantizer, act: Quantizer) -> None:
        """Put in quantizers made elsewhere, which stand for these bits."""
        self.bits = bits
        self._fixed_weight = self._rounded = None
        self.weight_quantizer, self.act_quantizer = weight, act

    def round(self, codes: Codes) -> None:
        """Use these integers for the weights, at the bits in force (`frameworks.core.rounding`)."""
        self._rounded, self._fixed_weight = codes, codes.dequantize()

    def _activation(self, bits: int) -> Quantizer:
        return self._calibration.quantizer(self.scheme, self.layer.name, bits)

    def fix(self, bits: LayerBits) -> None:
        """Use these bits with ranges from calibration and without gradients to the weight."""
        self.bits, self.shift, self._rounded = bits, None, None
        self.act_quantizer = self._activation(bits.act)
        self._fixed_weight = self._fixed(bits.weight)

    def free(self, bits: LayerBits) -> None:
        """Use these bits with trainable weight and ranges, starting from calibration."""
        self.bits, self.shift = bits, None
        self._fixed_weight = self._rounded = None
        self._weights.clear()
        self.weight_quantizer = self.scheme.weight(self._raw.detach(), bits.weight)
        self.act_quantizer = copy.deepcopy(self._activation(bits.act))
        self.weight_quantizer.learn_range()
        self.act_quantizer.learn_range()


def _moved(quantizer: Quantizer, fn: Callable[[Tensor], Tensor]) -> Quantizer:
    moved: Quantizer = quantizer._apply(fn)  # type: ignore[no-untyped-call]
    return moved


def _rows_of(codes: Codes, rows: Tensor) -> Codes:
    """The codes of some output channels."""
    count = len(codes.code)

    def cut(x: Tensor) -> Tensor:
        return x[rows] if x.dim() > 1 and len(x) == count else x

    book = None if codes.codebook is None else cut(codes.codebook)
    return Codes(codes.code[rows], cut(codes.scale), cut(codes.offset), book)
