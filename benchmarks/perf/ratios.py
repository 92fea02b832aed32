"""What a row says of its ratios."""

import statistics
from collections.abc import Sequence
from typing import Any


def spread(ratios: Sequence[float], digits: int = 3) -> dict[str, Any]:
    """The median, the range and the number of some ratios, as ``extra_info`` has them."""
    return {
        "ratio": round(statistics.median(ratios), digits),
        "range": [round(min(ratios), digits), round(max(ratios), digits)],
        "rounds": len(ratios),
    }
