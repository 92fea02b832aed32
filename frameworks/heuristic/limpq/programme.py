"""LIMPQ's objective: what layers lose at each of their bits, by the steps that were learned.

A step that is smaller than that of the next more bits is an outlier of the joint training. The
released search (``quantization_search/search.py``) gives it a value of 1e8; here it is worth so
much more than all others together that it, too, is taken only where nothing else fits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

OUTLIER = 1e3
"""What an outlier is worth, in sums of all steps: as 1e8, and no larger than need be."""


def outliers(row: Mapping[str, float]) -> list[int]:
    """The bits of a layer whose step is smaller than that of the next more bits."""
    bits = sorted(map(int, row), reverse=True)
    return [fewer for more, fewer in pairwise(bits) if row[str(fewer)] < row[str(more)]]


def without_outliers(
    values: Mapping[str, Any], alpha: float
) -> tuple[dict[str, dict[int, float]], dict[str, dict[int, float]]]:
    """What layers lose at each weight and activation bits: alpha s_w and s_a, or for outliers much.

    Args:
        values: the steps as ``weight`` and ``act``: layer to bits to step.
        alpha: the weight of weights.
    """
    steps = [s for kind in ("weight", "act") for r in values[kind].values() for s in r.values()]
    # One value for both kinds, above every sum of the others whatever alpha is.
    most = OUTLIER * max(1.0, alpha) * math.fsum(steps)

    def cleaned(kind: str, factor: float) -> dict[str, dict[int, float]]:
        found = {}
        for name, row in values[kind].items():
            out = outliers(row)
            found[name] = {int(b): most if int(b) in out else factor * s for b, s in row.items()}
        return found

    return cleaned("weight", alpha), cleaned("act", 1.0)
