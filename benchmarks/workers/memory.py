"""The C library's allocator, set for training: freed memory stays with the process.

By default glibc gives large freed blocks back to the system, and every training step asks for the
same again, page by page. Values do not depend on it.
"""

from __future__ import annotations

import ctypes
import gc
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Names of parameters in ``malloc.h``."""
LARGEST_BLOCK = 32 * 2**20
"""Bytes; the most that glibc takes as the size from which a block is mapped on its own."""
KEPT = 2**31 - 1
"""Bytes of free memory at the end of the heap that are kept; the largest int."""


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees; False where the C library is not glibc."""
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    # Setting one of them alone ends the automatic growth of the other, and costs more than both.
    settings = ((MMAP_THRESHOLD, LARGEST_BLOCK), (TRIM_THRESHOLD, KEPT))
    return all([library.mallopt(name, value) == 1 for name, value in settings])


def give_back() -> None:
    """Give back to the system what is free between two pieces of work: whole pages, everywhere.

    What is kept is for the steps of one training; from cell to cell it would only grow.
    """
    gc.collect()
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
