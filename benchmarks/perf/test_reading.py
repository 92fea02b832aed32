"""A folder of images at 224 px: kept where it fits the stated memory, streamed where not."""

import statistics
import subprocess
import sys

import pytest

from benchmarks.perf.ratios import spread

ROUNDS, COUNT, PASSES = 3, 384, 3
FITTING, THIRD = 0.25, 0.0718
"""GiB: more than the decoded images, and a third of them."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("images")
    command = [sys.executable, "-m", "benchmarks.perf.sides.read", "--make", str(made), str(COUNT)]
    subprocess.run(command, check=True)
    return made


def run(folder, memory):
    """Seconds, MiB added at the peak, MiB of all images."""
    command = [sys.executable, "-m", "benchmarks.perf.sides.read", folder, memory, PASSES, 0]
    ended = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    return [float(x) for x in ended.stdout.splitlines()[-1].split()]


def compare(benchmark, request, folder, index, **facts):
    rounds = request.config.getoption("--perf-rounds") or ROUNDS
    pairs = []
    benchmark.pedantic(
        lambda: pairs[-1].append(run(folder, FITTING)),
        setup=lambda: pairs.append([run(folder, THIRD)]),
        rounds=rounds,
        warmup_rounds=0,
    )
    streamed, kept = zip(*pairs, strict=True)
    ratios = [mine[index] / other[index] for other, mine in pairs]
    peaks = [statistics.median(one[1] for one in side) for side in (kept, streamed)]
    benchmark.extra_info.update(
        **spread(ratios),
        note=f"{COUNT} JPEG at 224 px, read in the process itself, {kept[0][2]:.0f} MiB decoded, "
        f"{PASSES} passes; streamed with a third of that as dataset.memory; added at the peak: "
        f"{peaks[0]:.0f} MiB kept, {peaks[1]:.0f} MiB streamed",
        **facts,
    )


def test_passes_over_kept_images_over_streamed_ones(benchmark, request, folder):
    title = "three passes over a folder that fits dataset.memory, over one three times larger: time"
    compare(benchmark, request, folder, 0, title=title, goal="about a third")


def test_memory_of_streamed_images(benchmark, request, folder):
    title = "peak memory of the same, kept over streamed"
    compare(benchmark, request, folder, 1, title=title)
