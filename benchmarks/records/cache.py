"""Where files are kept that can be made again: checkpoints and the list of frameworks."""

from __future__ import annotations

import os
import stat
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

VARIABLE = "JUXTABIT_CACHE"
WAITING = "waiting for another process"
"""The stage of a cell that needs what another process is making."""


def cache_folder() -> Path:
    """``$JUXTABIT_CACHE``, or ``~/.cache/juxtabit``; where that cannot be used, a private folder.

    It is not used where others may write to it, or where this process may not. The private one is
    put into the environment, so that worker processes and compiled kernels use it, too, and the
    one warning is the only one.
    """
    folder = Path(os.environ.get(VARIABLE, "~/.cache/juxtabit")).expanduser()
    fault = unusable(folder)
    if fault is None:
        return folder
    private = private_folder()
    warnings.warn(f"cache {folder}: {fault}; {private} is used in its place", stacklevel=2)
    os.environ[VARIABLE] = str(private)
    return private


def unusable(folder: Path) -> str | None:
    """Why a folder is no cache for this process; it is made if it is not there."""
    try:
        for place in (*reversed(folder.absolute().parents), folder):
            if not place.exists():
                place.mkdir(mode=0o700, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder)
        os.close(handle)
        os.unlink(name)
        return untrusted(folder)
    except OSError as error:
        return f"cannot be written ({error.strerror or error})"


def untrusted(path: Path) -> str | None:
    """Who else may change a file or folder, or replace it or a folder that it is in."""
    whole = path.resolve()
    for place in (whole, *whole.parents):
        facts = place.stat()
        if facts.st_uid not in (0, os.geteuid()):
            return f"{place} belongs to another user"
        sticky = place != whole and facts.st_mode & stat.S_ISVTX
        if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not sticky:
            return f"others may write to {place} ('chmod go-w' helps)"
    return None


def private_folder() -> Path:
    """A folder in the system's temporary one that only this user may enter, the same each time."""
    folder = Path(tempfile.gettempdir()) / f"juxtabit-{os.geteuid()}"
    if not folder.is_symlink() and unusable(folder) is None:
        return folder
    return Path(tempfile.mkdtemp(prefix="juxtabit-"))


def trusted_file(path: Path) -> bool:
    """Whether a file of a cache is there and only this user (and root) may change it."""
    return path.is_file() and untrusted(path) is None


@contextmanager
def locked(path: Path, waits: Callable[[bool], None] = lambda _: None) -> Iterator[None]:
    """Within the context, no other process is in the same one for this path.

    Where the lock cannot be made (a full disk, say) this is said, and it goes on without.

    Args:
        path: what is locked; the lock lies beside it.
        waits: called with True where another process has it, and with False when it is free.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(f"{path}.lock")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            waits(True)
            lock.acquire()
            waits(False)
    except OSError as error:
        warnings.warn(f"{path}: goes on without a lock ({error.strerror or error})", stacklevel=3)
        yield
        return
    try:
        yield
    finally:
        lock.release()
