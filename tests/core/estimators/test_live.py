"""Bytes of live tensors, and estimates that keep within a bound without a change of their value."""

import pytest
import timm
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from frameworks import layer_traces, twice_differentiable
from frameworks.core.estimators import live as module
from frameworks.core.estimators.hessian import WeightHessian
from frameworks.core.estimators.hutchinson import hutchinson
from frameworks.core.estimators.live import Live, fitting, peak
from frameworks.heuristic.hawq.power_iteration import power_iteration

KIB = 2**10


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def floats(kib):
    return torch.zeros(kib * 256)


def test_bytes_are_those_of_living_tensors():
    given = floats(64)
    with Live() as live:
        one = floats(8)
        assert (live.now, live.peak) == (8 * KIB, 8 * KIB)
        view = one[:10].view(2, 5)  # no bytes of its own
        given.add_(1)
        assert live.now == 8 * KIB
        two = one + 1
        assert live.now == 16 * KIB
        del one
        assert live.now == 16 * KIB  # the view keeps it
        del view, two
        assert (live.now, live.peak) == (0, 16 * KIB)


def test_the_graph_of_a_backward_pass_counts():
    x = floats(16).requires_grad_()

    def work():
        torch.autograd.grad(x.exp().exp().exp().sum(), x)

    # Three results are kept for the backward pass, and one or two gradients beside them.
    assert 4 * 16 * KIB <= peak(work) <= 6 * 16 * KIB


@pytest.mark.parametrize(
    ("bound", "expected"), [(1000, 64), (164, 47), (120, 8), (113, 1), (101, 1)]
)
def test_as_many_images_as_fit(bound, expected):
    # 100 KiB whatever the number of images, and 1 KiB for each; a tenth of the bound is spared.
    def work(count):
        return floats(100), floats(count)

    assert fitting(work, 64, bound * KIB) == expected


def test_images_that_do_not_fit():
    assert fitting(lambda count: floats(8 * count), 64, 7 * KIB) == 0
    assert fitting(lambda count: floats(8 * count), 64, 8 * KIB) == 1


def small(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=12).eval()
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.ones_(m.weight)
    size = {"test_resnet": 64, "test_vit": 160}[name]
    x = torch.randn(6, 3, size, size, generator=generator(1))
    return model, x, torch.arange(6) * 2 % 12


def layers(model):
    return [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]


class Seen(TorchDispatchMode):
    """The largest number of images that go through the network together."""

    def __init__(self, shape):
        super().__init__()
        self.shape, self.most = shape, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution.default and args[0].shape[1:] == self.shape:
            self.most = max(self.most, len(args[0]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["test_resnet", pytest.param("test_vit", marks=pytest.mark.slow)])
def test_traces_do_not_depend_on_the_bound(name):
    # More classes than passes, so that signs are drawn in both parts.
    model, x, y = small(name)
    model, x = model.double(), x.double()
    names = layers(model)
    found, together = [], []
    for bound in (2**40, 2**24, 1):
        with twice_differentiable(model), Seen(x.shape[1:]) as seen:
            found.append(
                layer_traces(
                    model,
                    [(x[:4], y[:4]), (x[4:], y[4:])],
                    generator(),
                    weights=names,
                    inputs=names[-3:],
                    max_probes=4,
                    min_probes=2,
                    tolerance=0,
                    bound=bound,
                )
            )
        together.append(seen.most)
    assert together[0] == 4
    assert together[2] == 2  # to see where the images are; else one at a time
    for other in found[1:]:
        for kind in ("weights", "inputs"):
            for layer, trace in getattr(found[0], kind).items():
                again = getattr(other, kind)[layer]
                assert again.value == pytest.approx(trace.value, rel=1e-9, abs=1e-14)
                assert again.error == pytest.approx(trace.error, rel=1e-7, abs=1e-14)
                assert (again.size, again.probes) == (trace.size, trace.probes)


def test_probes_and_eigenvalues_of_weights_do_not_depend_on_the_bound():
    model, x, y = small("test_resnet")
    model, x = model.double(), x.double()
    groups = {n: [n] for n in layers(model)[-2:]}
    found = []
    for bound in (2**40, 1):
        with twice_differentiable(model):
            operator = WeightHessian(model, groups, [(x, y)], bound=bound)
            assert len(list(operator.graphs())) == (1 if bound > 1 else 6)
            traces = hutchinson(operator, generator(), max_probes=3)
            top = power_iteration(operator, list(groups), generator(), max_iterations=3)
        found.append([*(t.value for t in traces.values()), *(e.value for e in top.values())])
    assert found[1] == pytest.approx(found[0], rel=1e-9)


@pytest.mark.parametrize("name", ["test_resnet", pytest.param("test_vit", marks=pytest.mark.slow)])
def test_estimates_keep_within_the_bound(name):
    model, x, y = small(name)
    x, y = x.repeat(4, 1, 1, 1), y.repeat(4)
    names = layers(model)
    peaks = {}
    for bound in (2**40, 24 * 2**20):

        def work(bound=bound):
            with twice_differentiable(model):
                layer_traces(
                    model, [(x, y)], generator(), weights=names, inputs=names, max_probes=2,
                    min_probes=1, bound=bound,
                )  # fmt: skip

        peaks[bound] = peak(work)
    assert peaks[24 * 2**20] <= 24 * 2**20
    assert peaks[2**40] > 2 * 24 * 2**20


def test_the_bound_is_a_gibibyte():
    assert module.BOUND == 2**30
