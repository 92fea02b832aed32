"""Traces of all layers beside PyHessian: their time at equal variance, and their memory."""

import statistics
import subprocess
import sys

import pytest
import torch

from benchmarks.models.build import ModelConfig, create
from benchmarks.perf.ratios import spread
from frameworks import describe, layer_traces, torch_rng, twice_differentiable

SHAPE, CLASSES, IMAGES, PROBES = (1, 28, 28), 10, 32, 50
ROUNDS = 2


@pytest.mark.parametrize("name", ["resnet8", "resnet20"])
def test_traces_over_a_loop_with_pyhessian(compare, name):
    """Fifty probes a layer, as HAWQ-V2 takes; ours are exact here, so the ratio favours theirs."""
    pyhessian = pytest.importorskip("pyhessian", reason="PyHessian is an optional peer")
    model = create(ModelConfig(name=name), CLASSES, SHAPE).eval()
    layers = [layer.name for layer in describe(model, SHAPE)]
    generator = torch_rng(0, "perf")
    x = torch.randn(IMAGES, *SHAPE, generator=generator)
    y = torch.randint(CLASSES, (IMAGES,), generator=generator)
    criterion = torch.nn.CrossEntropyLoss()

    def theirs():
        for layer in layers:
            model.requires_grad_(False)
            model.get_submodule(layer).weight.requires_grad_(True)
            operator = pyhessian.hessian(model, criterion, data=(x, y), cuda=False)
            operator.trace(maxIter=PROBES, tol=0)
            model.zero_grad()

    def ours():
        with twice_differentiable(model):
            return layer_traces(
                model, [(x, y)], torch.Generator().manual_seed(0), weights=layers, max_probes=PROBES
            )

    errors = [trace.error for trace in ours().weights.values()]
    note = (
        f"{len(layers)} layers, {IMAGES} images; PyHessian: {PROBES} probes a layer; "
        f"our standard error, median over layers: {statistics.median(errors):g}"
    )
    compare(
        ours,
        theirs,
        rounds=3,
        title=f"traces of all layers over a loop with PyHessian, {name}",
        goal="0.2",
        note=note,
    )


def added(side, model):
    """MiB of resident memory that an estimate adds to its process, and its seconds."""
    command = [sys.executable, "-m", "benchmarks.perf.sides.traced", side, model]
    ended = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, peak, before = map(float, ended.stdout.splitlines()[-1].split())
    return peak - before, seconds


@pytest.mark.parametrize("model", ["resnet50", "efficientnet_b0"])
def test_memory_of_traces_at_224_px_over_pyhessian(benchmark, request, model):
    pytest.importorskip("pyhessian", reason="PyHessian is an optional peer")
    rounds = request.config.getoption("--perf-rounds") or ROUNDS
    pairs = []

    def other_first():
        pairs.append([added("pyhessian", model)])

    benchmark.pedantic(
        lambda: pairs[-1].append(added("ours", model)),
        setup=other_first,
        rounds=rounds,
        warmup_rounds=0,
    )
    ratios = [mine[0] / other[0] for other, mine in pairs]
    memory, seconds = (
        [statistics.median(pair[side][i] for pair in pairs) for side in (1, 0)] for i in (0, 1)
    )
    benchmark.extra_info.update(
        title=f"memory that traces of all layers add at 224 px, over PyHessian, {model}",
        goal="below 1",
        **spread(ratios),
        note=(
            f"8 images at once for PyHessian, portions of at most 1 GiB for us; {memory[0]:.0f} "
            f"MiB, PyHessian {memory[1]:.0f}; {seconds[0]:.0f} s for exact traces, PyHessian "
            f"{seconds[1]:.0f} s for two probes; a process each"
        ),
    )
