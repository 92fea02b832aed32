"""Numbers as the table shows them. What was not measured is blank."""

from __future__ import annotations

import math

from benchmarks.report.numbers.comparisons import Difference
from benchmarks.report.numbers.statistics import Estimate

AWARE: dict[object, str] = {True: "yes", False: "no"}
"""How a card's ``hardware_aware`` is shown."""
_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def fixed(value: float | None, places: int = 2) -> str:
    """A number with fixed places; what rounds to zero has no sign."""
    return "" if value is None else f"{round(value, places) + 0.0:.{places}f}"


def signed(value: float | None, places: int = 2) -> str:
    """A number with its sign; what rounds to zero has none."""
    if value is None:
        return ""
    text = f"{value:+.{places}f}"
    return text[1:] if float(text) == 0 else text


def si(value: float | None) -> str:
    """Three or four significant digits with a decimal prefix, such as ``29.25k``."""
    if value is None:
        return ""
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    for factor, prefix in _PREFIXES:
        if size >= factor * 0.99995:
            return f"{value / factor:.4g}{prefix}"
    return f"{value:.4g}"


def percent(share: float | None) -> str:
    """A share as a percentage. What is over 100 % never rounds down to it."""
    if share is None:
        return ""
    places = 1
    while share > 1 + 1e-9 and round(100 * share, places) <= 100 and places < 7:
        places += 1
    return f"{100 * share:.{places}f}%"


def seconds(value: float | None) -> str:
    """A duration in the unit that suits it."""
    if value is None:
        return ""
    for factor, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if value >= 2 * factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.3g} s" if value >= 0.01 or value == 0 else f"{value:.1g} s"


def memory(value: float | None) -> str:
    """Bytes as MiB or GiB."""
    if value is None:
        return ""
    return f"{value / 2**30:.3g} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"


def limit(value: float, unit: str) -> str:
    """A budget's limit with its unit."""
    number = f"{value:,.0f}" if 100 <= abs(value) < 1e6 else si(value)
    return f"{number} {unit}".strip()


def estimate(found: Estimate | None) -> str:
    """``90.90 [90.70, 91.05]``; the interval is left out where there is none."""
    if found is None:
        return ""
    if found.low is None or found.high is None:
        return fixed(found.mean)
    return f"{fixed(found.mean)} [{fixed(found.low)}, {fixed(found.high)}]"


def gain(found: Estimate | None) -> str:
    """``+0.52 [+0.40, +0.63]``; the interval is left out where there is none."""
    if found is None:
        return ""
    if found.low is None or found.high is None:
        return signed(found.mean)
    return f"{signed(found.mean)} [{signed(found.low)}, {signed(found.high)}]"


def difference(found: Difference | None) -> str:
    """``+0.52 ± 0.11*``; the star marks two that are told apart.

    It has as many places as it takes for the numbers shown to say so, too.
    """
    if found is None:
        return ""
    if found.low is None or found.high is None:
        return signed(found.mean)
    half = (found.high - found.low) / 2
    for places in range(2, 13):
        mean, width = f"{found.mean:.{places}f}", f"{half:.{places}f}"
        if (abs(float(mean)) > float(width)) == found.significant:
            break
    return f"{signed(found.mean, places)} ± {width}{'*' * found.significant}"


def last_line(text: str | None) -> str:
    """The line of a traceback that says what went wrong."""
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    return lines[-1] if lines else "no message"
