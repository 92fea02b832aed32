"""The hypervolume of points: how much of the space of objectives they dominate.

Zitzler and Thiele, "Multiobjective evolutionary algorithms: a comparative case study and the
strength Pareto approach", IEEE TEC 3(4), 1999. It grows when a point moves to the better in any
objective, which makes it the one figure of a search for a whole front.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence


def hypervolume(points: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """The volume between the points and a reference that is no better, all minimised; exact.

    The space is cut along the last objective at each point; a slab is as high as the gap to the
    next one and as wide as what the points up to it dominate in the other objectives.
    Points that are no better than the reference in some objective count for nothing.
    """
    inside = [p for p in points if all(a < b for a, b in zip(p, reference, strict=True))]
    if not inside:
        return 0.0
    if len(reference) == 1:
        return reference[0] - min(point[0] for point in inside)
    inside.sort(key=lambda point: point[-1])
    ends = [*(point[-1] for point in inside), reference[-1]]
    others = [point[:-1] for point in inside]
    return sum(
        (end - start) * hypervolume(others[: count + 1], reference[:-1])
        for count, (start, end) in enumerate(itertools.pairwise(ends))
        if end > start
    )
