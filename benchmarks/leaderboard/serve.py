"""Showing a site locally."""

from __future__ import annotations

import functools
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HOST, PORT = "127.0.0.1", 8000


class _Quiet(SimpleHTTPRequestHandler):
    """Serves a folder without a line for every file."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


def server(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server of a folder, for this machine alone; port 0 takes a free one.

    Raises:
        ValueError: the port cannot be had.
    """
    handler = functools.partial(_Quiet, directory=str(folder))
    try:
        return ThreadingHTTPServer((HOST, port), handler)
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"--serve {port}: cannot be had ({error}); name another port, or 0 for a free one"
        ) from error
