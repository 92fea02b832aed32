"""Random signs by what they are for, whatever the order and the portions in which they are asked.

An estimate must not depend on how many images fit into memory at once. So a probe is a function of
a seed, its number and its layer (and of the image, where images have signs of their own), and not
of the draws before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from frameworks.core.randomness import torch_rng


class Signs:
    """Generators that depend on a seed and a key alone.

    Args:
        generator: gives the seed, with one draw.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self.seed = int(torch.randint(2**62, (), generator=generator))

    def at(self, *key: object) -> torch.Generator:
        """The generator of a key, at its start."""
        return torch_rng(self.seed, *map(str, key))


def rademacher(like: Tensor, generator: torch.Generator) -> Tensor:
    """A tensor of -1 and 1 of the same shape; the draw does not depend on the device."""
    drawn = torch.randint(0, 2, like.shape, generator=generator, dtype=torch.int8)
    return (2 * drawn - 1).to(like.device, like.dtype)


def stacked(shape: Sequence[int], like: Tensor, generators: Iterable[torch.Generator]) -> Tensor:
    """One draw of -1 and 1 from each generator, ``[len(generators), *shape]``."""
    drawn = [torch.randint(0, 2, shape, generator=g, dtype=torch.int8) for g in generators]
    return (2 * torch.stack(drawn) - 1).to(like.device, like.dtype)
