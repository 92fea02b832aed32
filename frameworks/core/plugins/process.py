"""What an import does to its process by the way, undone: settings, and prints among the output."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

OUT, ERR = 1, 2


@contextmanager
def undisturbed() -> Iterator[None]:
    """Within the context, what an import sets for the whole process is put back at the end.

    It would otherwise hold for all that is computed later, whichever plugin that uses. What it
    prints goes to the standard error: programs read lists from the standard output.
    """
    import torch  # here, as some that read a list of names do without it

    settings: list[tuple[Callable[[], Any], Callable[[Any], object]]] = [
        (os.getcwd, os.chdir),
        (torch.get_num_threads, torch.set_num_threads),
        (torch.get_default_dtype, torch.set_default_dtype),
        (torch.is_grad_enabled, torch.set_grad_enabled),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    ]
    before = [(read, write, _read(read)) for read, write in settings]
    try:
        with _printing_aside():
            yield
    finally:
        for read, write, value in before:
            if value is not None and _read(read) != value:
                write(value)


def _read(read: Callable[[], Any]) -> Any:
    """A setting; None for the working folder where that was deleted."""
    try:
        return read()
    except FileNotFoundError:
        return None


@contextmanager
def _printing_aside() -> Iterator[None]:
    """Within the context, prints go to the standard error: Python's, and those of the process."""
    with contextlib.redirect_stdout(sys.stderr), _descriptor_aside():
        yield


@contextmanager
def _descriptor_aside() -> Iterator[None]:
    """The same for what writes past Python, as programs that an import starts do."""
    with contextlib.suppress(Exception):  # anything may stand in the stream's place
        sys.__stdout__.flush()  # type: ignore[union-attr]
    try:
        kept = os.dup(OUT)
    except OSError:  # the process has no standard output
        yield
        return
    try:
        with contextlib.suppress(OSError):
            os.dup2(ERR, OUT)
        yield
    finally:
        os.dup2(kept, OUT)
        os.close(kept)
