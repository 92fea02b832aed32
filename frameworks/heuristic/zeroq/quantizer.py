"""ZeroQ's quantizer: asymmetric min-max, weights per output channel, activations per tensor.

Cai et al., "ZeroQ: A Novel Zero Shot Quantization Framework", arXiv 2001.00281; constants as in the
released code (``quant_utils.py``). For data between l and h and n = 2^b - 1,

    s = max(h - l, 1e-8) / n,    z = round(l / s) + 2^(b-1)
    q = clip(round(x / s - z), -2^(b-1), 2^(b-1) - 1),    x_hat = s (q + z)

The range is that of the weights of an output channel, or of the activations of a calibration batch
(the code's running minimum and maximum). It is not trained; gradients pass straight through.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from frameworks.core.quantizers.base import Codes, Grid, Quantizer, Scheme, straight_through
from frameworks.core.quantizers.uniform import per_channel
from frameworks.core.registry import register_scheme

NARROWEST = 1e-8


class AsymmetricQuantizer(Quantizer):
    """A grid between two ends, with an integer zero point.

    Args:
        low, high: the ends, scalars or broadcastable to the tensor.
        bits: b.
    """

    step: Tensor
    zero_point: Tensor

    def __init__(self, low: Tensor, high: Tensor, bits: int) -> None:
        super().__init__()
        step = (high - low).clamp_min(NARROWEST) / (2**bits - 1)
        self.register_buffer("step", step.detach().clone())
        self.register_buffer("zero_point", (low / step).round().detach() + 2 ** (bits - 1))
        self.ends = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)

    def forward(self, x: Tensor) -> Tensor:
        return straight_through(x, self.codes(x).dequantize())

    def codes(self, x: Tensor) -> Codes:
        code = torch.round(x.detach() / self.step - self.zero_point).clamp(*self.ends)
        return Codes(code, self.step, self.zero_point)

    def uniform_grid(self) -> Grid | None:
        if self.step.numel() > 1:
            return None
        return Grid(float(self.step), *self.ends, float(self.zero_point))


@register_scheme
class ZeroQScheme(Scheme):
    """Asymmetric min-max ranges."""

    name: ClassVar[str] = "zeroq"

    def weight_quantizer(self, weight: Tensor, bits: int) -> Quantizer:
        rows = weight.detach().flatten(1)
        low, high = rows.amin(1), rows.amax(1)
        return AsymmetricQuantizer(per_channel(low, weight), per_channel(high, weight), bits)

    def activation_quantizer(self, sample: Tensor, bits: int) -> Quantizer:
        return AsymmetricQuantizer(sample.detach().min(), sample.detach().max(), bits)
