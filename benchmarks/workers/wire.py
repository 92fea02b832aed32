"""What workers tell of their progress: messages that may get lost, and hold nobody up.

They are datagrams between processes: each is there as a whole or not at all, whoever dies while it
is sent. No process and no lock stands between, and where nobody listens, nobody waits.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

LARGEST = 2**14
"""Bytes of a message."""
TICK = 0.5
"""Seconds after which the one who listens looks whether it is the end."""
PATIENCE = 1.0
"""Seconds for which a message is tried again that ought to arrive."""


class Wire:
    """Within the context, what is told at the other end is heard here.

    Args:
        hears: called with each message, in a thread of its own; what it raises is its own affair.

    Attributes:
        end: what workers `tell` at; it can be given to a process that is started.
    """

    def __init__(self, hears: Callable[..., None]) -> None:
        self._hears = hears
        self._own, self.end = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._own.settimeout(TICK)
        self._open = True
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Wire:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._open = False
        tell(self.end)  # so that it need not wait for the next tick
        self._thread.join(2 * TICK)
        self._own.close()
        self.end.close()

    def _listen(self) -> None:
        while self._open:
            with contextlib.suppress(Exception):  # what cannot be shown must not end what can be
                message = json.loads(self._own.recv(LARGEST))
                if message:
                    self._hears(*message)


def tell(end: socket.socket, *message: Any, surely: bool = False) -> bool:
    """Tell something, as plain data; whether it is on its way.

    Args:
        end: of a `Wire`.
        message: what it hears, as arguments.
        surely: try for a moment where the one who listens cannot keep up.
    """
    until = time.monotonic() + (PATIENCE if surely else 0)
    data = json.dumps(message).encode()
    while True:
        try:
            return end.send(data, socket.MSG_DONTWAIT) == len(data)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.01)
        except OSError:
            return False
