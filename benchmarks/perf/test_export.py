"""Time and memory of an export at 224 px, beside torch's own export of the float network."""

import statistics
import subprocess
import sys

from benchmarks.perf.ratios import spread

ROUNDS = 3
NOTE = (
    "ResNet-18, 224 x 224, W4 A8: traced, written, and checked layer by layer on 8 images; torch: "
    "`torch.onnx.export` of the float network, run on the same images; a process each"
)


def run(side):
    """Seconds and MiB of one export."""
    command = [sys.executable, "-m", "benchmarks.perf.sides.exported", side]
    ended = subprocess.run(command, check=True, capture_output=True, text=True)
    return [float(x) for x in ended.stdout.splitlines()[-1].split()]


def compare(benchmark, request, index, **facts):
    rounds = request.config.getoption("--perf-rounds") or ROUNDS
    pairs = []

    def other_first():
        pairs.append([run("torch")])

    benchmark.pedantic(
        lambda: pairs[-1].append(run("ours")), setup=other_first, rounds=rounds, warmup_rounds=0
    )
    ratios = [mine[index] / other[index] for other, mine in pairs]
    peaks = [statistics.median(pair[side][1] for pair in pairs) for side in (1, 0)]
    benchmark.extra_info.update(
        **spread(ratios),
        note=f"{NOTE}; peak {peaks[0]:.0f} MiB, torch {peaks[1]:.0f}; seconds with imports",
        **facts,
    )


def test_an_export_at_224_px_over_torchs_own(benchmark, request):
    title = "export at 224 px with its check, over torch's own ONNX export: time"
    compare(benchmark, request, 0, title=title)


def test_memory_of_an_export_at_224_px_over_torchs_own(benchmark, request):
    title = "export at 224 px with its check, over torch's own ONNX export: peak resident memory"
    compare(benchmark, request, 1, title=title)
