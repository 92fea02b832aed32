"""ADQ's quantizers as a scheme: codebooks for weights, learned thresholds for activations."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from frameworks.core.quantizers.base import Quantizer, Scheme
from frameworks.core.quantizers.uniform import Mse, UniformQuantizer
from frameworks.core.registry import register_scheme
from frameworks.heuristic.adq.codebook import Codebook, quantile_levels
from frameworks.heuristic.adq.thresholds import Thresholds


@register_scheme
class AdqScheme(Scheme):
    """Weights in a codebook per layer that follows them, activations on uniform levels."""

    name: ClassVar[str] = "adq"

    def weight_quantizer(self, weight: Tensor, bits: int) -> Quantizer:
        return Codebook(quantile_levels(weight, bits))

    def activation_quantizer(self, sample: Tensor, bits: int) -> Quantizer:
        grid = Mse().activation_quantizer(sample, bits)
        assert isinstance(grid, UniformQuantizer)
        return Thresholds(grid.step, -int(grid.q_min), bits)
