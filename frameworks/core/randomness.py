"""Random generators derived from one seed and named axes, so that no global state is touched."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive(seed: int, *axes: str) -> int:
    """A 63-bit seed that depends on the cell's seed and the named axes only.

    Two frameworks that ask for the axis ``data`` with the same seed see the same draw.
    """
    text = "/".join([str(int(seed)), *axes])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_rng(seed: int, *axes: str) -> np.random.Generator:
    """A NumPy generator for the named axes."""
    return np.random.default_rng(derive(seed, *axes))


def torch_rng(seed: int, *axes: str) -> torch.Generator:
    """A CPU torch generator for the named axes."""
    return torch.Generator().manual_seed(derive(seed, *axes))


@contextmanager
def seeded(seed: int, *axes: str) -> Iterator[None]:
    """Seed torch's global generator for code that takes no generator, and put it back after."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(derive(seed, *axes))
        yield
