"""Shared parts of the ratios to peers: interleaved times, and what a row says."""

import statistics
import time


def interleaved(benchmark, ours, other, rounds, goal, note):
    """Time both in turns; the ratio (ours over the other) goes into the row."""
    ours(), other()
    ratios, seconds = [], []

    def other_first():
        start = time.perf_counter()
        other()
        seconds.append(time.perf_counter() - start)

    def timed():
        start = time.perf_counter()
        ours()
        ratios.append((time.perf_counter() - start) / seconds[-1])

    benchmark.pedantic(timed, setup=other_first, rounds=rounds, warmup_rounds=0)
    benchmark.extra_info |= {
        "ratio": round(statistics.median(ratios), 5),
        "range": [round(min(ratios), 5), round(max(ratios), 5)],
        "goal": goal,
        "note": note,
    }
    print(f"\n{benchmark.name}: {benchmark.extra_info}")
