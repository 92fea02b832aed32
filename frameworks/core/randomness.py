"""Random generators derived from one seed and named axes, so that no global state is touched."""

from __future__ import annotations

import hashlib
import random
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
    """Seed the global generators for code that takes no generator, and put them back after.

    Those of torch, NumPy and Python.
    """
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count()) if started else ()
    number = derive(seed, *axes)
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(number)
            np.random.seed(number % 2**32)  # noqa: NPY002
            random.seed(number)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002
