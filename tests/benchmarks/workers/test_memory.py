import ctypes
import os
import subprocess
import sys

import pytest

from benchmarks.workers import memory

STEPS = """
import resource
from benchmarks.workers.memory import keep_freed_memory
import torch
kept = {keep} and keep_freed_memory()
def step():
    blocks = [torch.ones(2**20) for _ in range(32)]
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep):
    command = [sys.executable, "-c", STEPS.format(keep=keep)]
    # The start value of a process; it may or may not grow by itself, depending on what is freed.
    env = {**os.environ, "MALLOC_TRIM_THRESHOLD_": str(128 * 1024)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    kept, count = done.stdout.split()
    return kept == "True", int(count)


def test_freed_memory_is_not_asked_for_again():
    kept, count = faults(True)
    if not kept:
        pytest.skip("the C library is not glibc")
    # 128 MiB in pages of at most 64 KiB, ten times.
    assert count < 2000 < faults(False)[1]


GROWN = """
import os, psutil
from benchmarks.workers.memory import give_back, keep_freed_memory
import torch
keep_freed_memory()
me = psutil.Process()
before = me.memory_info().rss
blocks = [torch.ones(2**20) for _ in range(64)]  # 256 MiB
kept = blocks[-1]  # at the end of the heap: what lies below cannot be cut off
del blocks
grown = me.memory_info().rss - before
give_back()
print(grown, me.memory_info().rss - before)
"""


def test_between_cells_what_is_free_goes_back_to_the_system():
    if not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("the C library is not glibc")
    command = [sys.executable, "-c", GROWN]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    grown, after = map(int, done.stdout.split())
    assert grown > 200 * 2**20
    assert after < 50 * 2**20


def test_another_system_is_left_alone(monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert memory.keep_freed_memory() is False
    memory.give_back()
