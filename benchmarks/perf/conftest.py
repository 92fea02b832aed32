"""What all benchmarks share: one thread, and two things timed in turns."""

import time

import pytest
import torch

from benchmarks.perf.ratios import spread
from benchmarks.workers.memory import keep_freed_memory
from frameworks import kernels_in_force


def pytest_configure():
    keep_freed_memory()  # as the workers of `juxtabit run` do


def pytest_addoption(parser):
    parser.addoption("--perf-rounds", type=int, default=0, help="repetitions of every row")


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def compare(benchmark, request):
    """Time two things in turns: ``compare(ours, other, rounds=15, title=..., goal=..., note=...)``.

    pytest-benchmark's row is ours; the median ratio to the other and its range go into the row's
    ``extra_info``. With ``speedup=True`` the ratio is the other's time over ours.
    """

    def measure(ours, other, rounds=15, *, speedup=False, **facts):
        rounds = request.config.getoption("--perf-rounds") or rounds
        ours(), other()
        ratios, last = [], []

        def other_first():
            start = time.perf_counter()
            other()
            last[:] = [time.perf_counter() - start]

        def timed():
            start = time.perf_counter()
            ours()
            seconds = time.perf_counter() - start
            ratios.append(last[0] / seconds if speedup else seconds / last[0])

        benchmark.pedantic(timed, setup=other_first, rounds=rounds, warmup_rounds=0)
        benchmark.extra_info.update(
            **spread(ratios, 4),
            threads=torch.get_num_threads(),
            kernels=kernels_in_force(),
            **facts,
        )
        print(f"\n{benchmark.name}: {benchmark.extra_info}")

    return measure
