"""Traces at 224 px, in their own process: ``python -m benchmarks.perf.sides.traced SIDE [MODEL]``.

``ours`` estimates the traces of all layers' weights on eight images; ``pyhessian`` probes all
weights at once, twice, with PyHessian. Prints the seconds, the peak of resident memory in MiB, and
the memory that was in use before.
"""

import importlib
import resource
import sys
import time
from pathlib import Path

import timm
import torch

from frameworks import describe, layer_traces, seeded, torch_rng, twice_differentiable

SIZE, IMAGES, CLASSES, PROBES = 224, 8, 10, 2
MODEL = "resnet50"


def network(name):
    """Random weights, none of them zero, so that every layer has a gradient."""
    with seeded(0, "perf", name):
        model = timm.create_model(name, num_classes=CLASSES).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)
    return model


def ours(model, x, y):
    layers = [layer.name for layer in describe(model, (3, SIZE, SIZE))]
    with twice_differentiable(model):
        found = layer_traces(
            model, [(x, y)], torch_rng(0, "probes"), weights=layers, max_probes=CLASSES
        )
    return len(found.weights)


def peer(model, x, y):
    pyhessian = importlib.import_module("pyhessian")
    operator = pyhessian.hessian(model, torch.nn.CrossEntropyLoss(), data=(x, y), cuda=False)
    return len(operator.trace(maxIter=PROBES, tol=0))


def resident():
    """MiB in use now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    torch.set_num_threads(1)
    model = network((sys.argv[2:] or [MODEL])[0])
    x = torch.randn(IMAGES, 3, SIZE, SIZE, generator=torch_rng(0, "perf"))
    y = torch.randint(CLASSES, (IMAGES,), generator=torch_rng(0, "labels"))
    before, start = resident(), time.perf_counter()
    {"ours": ours, "pyhessian": peer}[sys.argv[1]](model, x, y)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"\n{seconds} {peak} {before}")
