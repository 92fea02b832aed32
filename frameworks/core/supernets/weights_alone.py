"""What methods that search weight bits alone have in common beside `activations`."""

from __future__ import annotations

from frameworks.core.problem import Problem


def weights_pinned(name: str, problem: Problem) -> str | None:
    """Why a method of this name has nothing to decide, as all weight bits are pinned; or None."""
    if all(len(bits) == 1 for bits in problem.space.weight_bits.values()):
        return f"{name}: nothing to search, as the space pins the bits of all weights"
    return None
