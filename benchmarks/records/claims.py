"""Claims: which cells are being computed, so that several commands share those of a folder.

A claim is a small file beside the records that says who computes a cell. It is a lease: who holds
it touches it every `BEAT` seconds, and where nobody has done so for `LEASE` seconds, the cell is
free again. On the same machine it is so at once when the process is gone.

This works on local file systems and on NFS (version 3 and later, attributes cached for no longer
than the default minute), with any clocks. Where it fails, a cell is computed twice, to the same
record; nothing is lost.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
import warnings
from pathlib import Path
from typing import Any

import psutil

from benchmarks.records.cache import locked

FOLDER = ".claims"
LEASE, BEAT = 180.0, 20.0


class Claims:
    """The claims of this process in a folder of records.

    Args:
        records: the folder; claims lie in a folder of their own in it, which goes with the last.
    """

    def __init__(self, records: Path) -> None:
        self.folder = records / FOLDER
        self._me = {**_whereabouts(), "token": uuid.uuid4().hex}
        self._ours: set[str] = set()
        self._seen: dict[str, tuple[int, float]] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Claims:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        for key in list(self._ours):
            self.free(key)
        with contextlib.suppress(OSError):
            for path in self.folder.iterdir():  # of commands that were ended
                if path.suffix != ".lock" and self._abandoned(path):
                    path.unlink(missing_ok=True)
            if all(path.suffix == ".lock" for path in self.folder.iterdir()):
                for path in self.folder.iterdir():
                    path.unlink(missing_ok=True)
                self.folder.rmdir()

    def take(self, key: str) -> bool:
        """Claim a cell; whether it is this process's now.

        Where claims cannot be written this is said, and all are.
        """
        if key in self._ours:
            return True
        path = self.folder / key
        try:
            taken = self._written(path) or (self._abandoned(path) and self._taken_over(path))
        except OSError as error:
            fault = f"{path}: cannot be written ({error.strerror or error})"
            warnings.warn(f"cells are not shared with other commands: {fault}", stacklevel=2)
            taken = True
        if taken:
            self._ours.add(key)
        return taken

    def free(self, key: str) -> None:
        """Give a claim up."""
        self._ours.discard(key)
        path = self.folder / key
        # Another may have taken it over from a process that was suspended.
        if _read(path).get("token") == self._me["token"]:
            with contextlib.suppress(OSError):
                path.unlink()

    def holder(self, key: str) -> str | None:
        """Who else computes a cell; None: nobody."""
        if key in self._ours:
            return None
        held = _read(self.folder / key)
        return f"process {held.get('pid')} on {held.get('host')}" if held else None

    def _written(self, path: Path) -> bool:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(handle, "w") as file:
            json.dump(self._me, file)
        return True

    def _abandoned(self, path: Path) -> bool:
        """Whether the process that made a claim is gone, or has not been heard of for a lease."""
        held = _read(path)
        if held and all(held.get(key) == self._me[key] for key in ("host", "space")):
            born = _born(held.get("pid"))
            if born is None or born != held.get("born"):
                return True
        try:
            touched = path.stat().st_mtime_ns
        except OSError:
            return True
        # Clocks of several machines may differ: what counts is for how long it has not changed.
        now = time.monotonic()
        before, since = self._seen.get(path.name, (touched, now))
        self._seen[path.name] = (touched, since if before == touched else now)
        return now - self._seen[path.name][1] > LEASE

    def _taken_over(self, path: Path) -> bool:
        """Take a claim that was abandoned; one at a time, so that only one process does."""
        with locked(self.folder / "claims"):
            if not self._abandoned(path):
                return False
            path.unlink(missing_ok=True)
            self._seen.pop(path.name, None)
            return self._written(path)

    def _beat(self) -> None:
        while not self._closed.wait(BEAT):
            for key in list(self._ours):
                with contextlib.suppress(OSError):
                    os.utime(self.folder / key)


def _whereabouts() -> dict[str, Any]:
    """Which process this is, among all of the machines that may see a folder."""
    try:
        space = os.readlink("/proc/self/ns/pid")  # containers of one machine count for themselves
    except OSError:
        space = ""
    pid = os.getpid()
    return {"host": socket.gethostname(), "space": space, "pid": pid, "born": _born(pid)}


def _born(pid: Any) -> float | None:
    """When a process began, which tells it from a later one of the same number."""
    try:
        process = psutil.Process(pid)
        alive = process.status() != psutil.STATUS_ZOMBIE
        return round(process.create_time(), 2) if alive else None
    except (psutil.Error, TypeError, ValueError):
        return None


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
