"""The range of a layer's input, chosen together with its weights.

AdaQuant (arXiv 2006.10518, section 3.1) trains the step and zero point of the input beside the
weights. Second moments are of inputs that are quantized already, so that no gradient leads to their
range. What is left of the problem is a line to search along, and it is searched: of a few multiples
of the calibrated range about its zero point, the one is kept at which a short AdaQuant ends with
the least error.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from frameworks.core.policy import FLOAT, PRUNED
from frameworks.core.quantizers.base import Quantizer, Scheme

FACTORS = (1.0, 1.2, 0.85, 0.72, 0.61, 0.52, 0.44, 0.37)
"""Multiples of a range. Of equal ones the first is kept."""
TRIED = 64
"""Images that multiples are tried on, the first ones; what is kept is calibrated on all."""
SHORT = 20
"""A trial takes one in so many of AdaQuant's steps."""


def scaled(
    scheme: Scheme, sample: Tensor, bits: int, factors: Sequence[float] = FACTORS
) -> dict[float, Quantizer]:
    """Quantizers of a layer's input whose ranges are multiples of the calibrated one.

    Each is the scheme's for inputs that many times as large, so that it is of the same kind. Inputs
    without bits to choose a range for have one.

    Args:
        scheme: of the network.
        sample: of the layer's inputs (`frameworks.core.networks.calibrate.Calibration`).
        bits: of the layer's input.
        factors: the multiples.
    """
    some = factors[:1] if bits in (FLOAT, PRUNED) else factors
    return {factor: scheme.activation(sample * factor, bits) for factor in some}


def trial(steps: int) -> int:
    """AdaQuant's steps at each multiple, where it takes so many in the end."""
    return max(1, steps // SHORT)
