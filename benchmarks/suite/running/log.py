"""The log of a run: what plugins print while cells are computed, and why cells failed.

Each worker writes to a file of its own (`part`), which is added to the log when its cell is
through, so that nothing is mixed and nothing of a worker that died is lost.
"""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks.records import escape
from benchmarks.records.record import Record
from benchmarks.workers.capture import text_of

WARNING = "juxtabit: warning: "
"""How the line of a warning begins; see `benchmarks.records.escape.show_warning`."""
_STAMP = time.strftime("%Y-%m-%d_%H-%M-%S")
"""One log for all runs of a process in a folder."""


def part(folder: Path, run: int, key: str) -> Path:
    """Where what is printed by a cell is kept meanwhile.

    Args:
        folder: of the run.
        run: the number of the process that runs it.
        key: the cell's.
    """
    return folder / "logs" / f".{run}-{key}.part"


class Log:
    """The log of this process's runs in a folder; the file is there once it has something to say.

    Attributes:
        fault: why it could not be written; None if it could.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "logs" / f"{_STAMP}-{os.getpid()}.log"
        self.fault: str | None = None
        self._warned: set[str] = set()

    @property
    def written(self) -> Path | None:
        """The file, if there is one."""
        return self.path if self.path.exists() else None

    def take(self, record: Record, name: str) -> None:
        """What a cell of this name printed is added; a record of one that failed names the log."""
        printed = self.collect(record.key)
        failed = record.status == "failed"
        if printed or failed:
            error = f"FAILED\n{record.error}" if failed else ""
            self.add(f"{name} ({record.key})", printed, error)
        if failed and self.written:
            record.notes["log"] = str(self.path.relative_to(self.folder))

    def close(self, keys: Iterable[str], printed: str) -> None:
        """At the end: what cells printed that were not finished, and the process itself."""
        for key in keys:
            self.add(f"a cell that was not finished ({key})", self.collect(key))
        self.add("while starting, and between cells", printed)
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()  # where nothing was to be said
        if self.fault:
            warnings.warn(f"the log is not whole: {self.fault}", stacklevel=2)

    def collect(self, key: str) -> str:
        """What a cell has printed so far; its part is gone afterwards."""
        path = part(self.folder, os.getpid(), key)
        try:
            printed = path.read_bytes()
            path.unlink()
        except OSError:
            return ""
        return text_of(printed)

    def add(self, heading: str, *texts: str) -> None:
        """Texts under a heading, each warning only once; nothing if there is nothing to say."""
        lines = [line for text in texts for line in self._news(escape.lines(text))]
        if not any(line.strip() for line in lines):
            return
        block = "\n".join([f"=== {escape.line(heading)} ===", *lines, "", ""])
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(block)
        except OSError as error:
            self.fault = f"{self.path}: cannot be written ({error.strerror or error})"

    def _news(self, text: str) -> Iterator[str]:
        for line in text.splitlines():
            if not line.startswith(WARNING):
                yield line
            elif line not in self._warned:
                self._warned.add(line)
                yield line
