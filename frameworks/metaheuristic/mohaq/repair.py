"""Random genes that keep to a monotone limit, such as a budget.

Of genomes that are drawn uniformly a tight budget leaves hardly any (of 10,000 draws for the 16
decisions of a ResNet-8, six bits each, none has as few bit operations as uniform 2.5 bit). So a
draw that breaks the limit takes random steps down until it keeps to it; others stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Genes = tuple[int, ...]
Fits = Callable[[Genes], bool]
"""Whether genes keep to the limit. A step down must never break it."""


def draw_within(
    count: int, lower: Sequence[int], upper: Sequence[int], fits: Fits, rng: np.random.Generator
) -> list[Genes]:
    """Genomes drawn uniformly between the bounds (inclusive) and `lowered` where they must be."""
    drawn = rng.integers(lower, upper, (count, len(lower)), endpoint=True)
    return [lowered(genes, lower, fits, rng) for genes in drawn.tolist()]


def lowered(
    genes: Sequence[int], lower: Sequence[int], fits: Fits, rng: np.random.Generator
) -> Genes:
    """The genes after as many random steps down as it takes until they fit.

    Args:
        genes: integers, none below its bound.
        lower: bounds of each gene, inclusive.
        fits: see `Fits`.
        rng: draws the gene of each step, among those above their bound.

    Returns:
        Genes that fit; the bounds themselves if nothing does.
    """
    found = tuple(genes)
    while not fits(found):
        above = [i for i, gene in enumerate(found) if gene > lower[i]]
        if not above:
            break
        i = int(rng.choice(above))
        found = (*found[:i], found[i] - 1, *found[i + 1 :])
    return found
