"""BMPQ's quantizer: symmetric weights scaled by their largest magnitude, PACT activations.

Kundu et al., arXiv 2112.13843 (reconstructed, see the card of `frameworks.heuristic.bmpq`):

    s = max|w| / (2^(q-1) - 1),    w_q = s round(w / s),    dL/dw = dL/dw_q,

with s taken of the present weights in every pass, one for a layer; activations have a trained clip.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from frameworks.core.quantizers.base import Quantizer, Scheme
from frameworks.core.quantizers.bitplanes import DynamicRange
from frameworks.core.quantizers.pact import calibrated_pact
from frameworks.core.quantizers.uniform import MinMax
from frameworks.core.registry import register_scheme


@register_scheme
class BMPQScheme(Scheme):
    """Dynamic symmetric weights, PACT; one bit, which the paper does not have, is the sign."""

    name: ClassVar[str] = "bmpq"

    def weight_quantizer(self, weight: Tensor, bits: int) -> Quantizer:
        if bits == 1:
            return MinMax().weight_quantizer(weight, bits)
        return DynamicRange(bits, signed=True)

    def activation_quantizer(self, sample: Tensor, bits: int) -> Quantizer:
        return calibrated_pact(sample, bits)
