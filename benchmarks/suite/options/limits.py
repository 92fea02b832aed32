"""Durations as people write them: ``timeout=90``, ``30m`` or ``2h``."""

from __future__ import annotations

import math
import re
from typing import Any

UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(name: str, given: Any) -> float | None:
    """The seconds of a duration; None for none.

    Args:
        name: the key that it was given for.
        given: a number of seconds; a text of numbers with units, as in ``1h30m``; or None.

    Raises:
        ValueError: it is no duration, or not longer than nothing.
    """
    if given is None:
        return None
    text = str(given).strip().lower()
    parts = re.findall(r"(\d+\.?\d*|\.\d+)\s*([smhd]?)", text)
    whole = re.fullmatch(r"((\d+\.?\d*|\.\d+)\s*([smhd]\s*|$))+", text)
    found = sum(float(number) * UNITS[unit] for number, unit in parts)
    if isinstance(given, bool) or not whole or not 0 < found < math.inf:
        raise ValueError(
            f"{name} = {given!a}: give seconds, or a number with a unit (s, m, h, d), "
            f"as in {name}=90, {name}=30m or {name}=2h; {name}=null sets no limit"
        )
    return found
