"""What the C allocator does with freed memory.

Glibc returns large blocks to the system when they are freed, so that every layer of every pass gets
fresh pages, which the kernel has to find and to clear: a third to a half of the time of evaluating
a small network on one CPU.
"""

from __future__ import annotations

import ctypes
import platform
from functools import cache

KEPT = 1 << 30
"""Bytes of freed memory at the end of the heap that are kept for the next allocation."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""The numbers of the two parameters in glibc's malloc.h."""


@cache
def keep_freed_memory() -> bool:
    """Keep up to 1 GiB of freed memory in this process from now on; whether that could be set.

    Numbers are not affected, nor is the most memory that a search uses: its `Meter` starts by
    `release_freed_memory`. With another C library than glibc nothing is done. Setting ``MALLOC_TRIM_THRESHOLD_`` in the environment has the same
    effect.
    """
    if not _glibc():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # Blocks of any size come from the heap; a single one beyond the limit still has its own pages.
    return bool(mallopt(_MMAP_THRESHOLD, KEPT)) and bool(mallopt(_TRIM_THRESHOLD, KEPT))


def release_freed_memory() -> None:
    """Return all freed memory to the system."""
    if _glibc():
        ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))


@cache
def _glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
