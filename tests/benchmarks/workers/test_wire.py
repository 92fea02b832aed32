"""Messages of workers: whole or lost, and nobody waits for them."""

import multiprocessing
import os
import signal
import threading
import time

import pytest

from benchmarks.workers import wire as module
from benchmarks.workers.wire import Wire, tell


def child(end, count):
    for i in range(count):
        tell(end, "k", i, count, "stage \udc80\x1b[2J", surely=True)
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_process_tells_is_heard_whatever_becomes_of_it():
    heard, all_there = [], threading.Event()

    def hears(*message):
        heard.append(message)
        if len(heard) == 50:
            all_there.set()

    context = multiprocessing.get_context("spawn")
    with Wire(hears) as wire:
        process = context.Process(target=child, args=(wire.end, 50))
        process.start()
        assert all_there.wait(60)
        process.join()
        assert tell(wire.end, "after", 1, 2, "it"), "others go on"
    assert heard[:50] == [("k", i, 50, "stage \udc80\x1b[2J") for i in range(50)]


def test_who_hears_may_fail():
    heard = threading.Event()

    def hears(text):
        if text == "second":
            heard.set()
        raise RuntimeError("rich gives up")

    with Wire(hears) as wire:
        tell(wire.end, "first")
        tell(wire.end, "second")
        assert heard.wait(10)


@pytest.mark.parametrize("surely", [False, True])
def test_nobody_waits_where_nobody_listens(surely, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    wire = Wire(lambda *_: None)  # its thread is not started
    began = time.monotonic()
    sent = [tell(wire.end, "k", i, 2000, "stage", surely=surely and i > 1990) for i in range(2000)]
    assert not all(sent)
    assert time.monotonic() - began < 10
    wire._own.close()
    assert not tell(wire.end, "k")
    wire.end.close()
    assert not tell(wire.end, "k")
