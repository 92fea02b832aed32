"""Traces of all layers beside a loop over the layers with PyHessian, at equal variance."""

import statistics

import pytest
import torch

from benchmarks.models import ModelConfig, create
from frameworks import describe, layer_traces, torch_rng, twice_differentiable

SHAPE, CLASSES, IMAGES, PROBES = (1, 28, 28), 10, 32, 50


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
