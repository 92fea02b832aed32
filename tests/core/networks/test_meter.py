import copy
import resource
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from frameworks.core.networks.meter import Meter, Spent
from frameworks.core.networks.qmodel import QModel
from frameworks.testing import toy


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            self.fc = nn.Linear(3, 2)

    def forward(self, x):
        return self.fc(x)


def counts(meter):
    return meter.policies, meter.images_forward, meter.images_backward


def step(net, count):
    loss = functional.cross_entropy(net(torch.ones(count, 3)), torch.zeros(count).long())
    loss.backward()


def test_a_known_loop():
    meter = Meter()
    net = meter.watch(Net())
    with torch.no_grad():
        for size in (5, 5, 2):
            net(torch.ones(size, 3))
    assert counts(meter) == (0, 12, 0)
    for size in (4, 4, 1):
        step(net, size)
    assert counts(meter) == (0, 21, 9)
    net(torch.ones(7, 3))  # a graph, but no gradient
    assert counts(meter) == (0, 28, 9)


def test_two_backward_passes_through_one_forward_count_twice():
    meter = Meter()
    net = meter.watch(Net())
    out = net(torch.ones(6, 3))
    out.sum().backward(retain_graph=True)
    out.square().sum().backward()
    assert counts(meter) == (0, 6, 12)


def test_a_hessian_vector_product_counts_two_backward_passes():
    meter = Meter()
    net = meter.watch(Net())
    loss = functional.cross_entropy(net(torch.ones(6, 3)), torch.zeros(6).long())
    parameters = list(net.parameters())
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    assert counts(meter) == (0, 6, 6)
    torch.autograd.grad(sum(g.sum() for g in gradients), parameters)
    assert counts(meter) == (0, 6, 12)


def test_copies_are_watched_by_the_same_meter():
    meter = Meter()
    net = meter.watch(Net())
    again = copy.deepcopy(net)
    step(again, 3)
    step(net, 2)
    assert counts(meter) == (0, 5, 5)
    assert copy.deepcopy(meter) is meter


def test_what_is_watched_is_known():
    """A copy is, and what holds a watched part."""
    meter, net = Meter(), Net()
    assert not meter.watches(net)
    meter.watch(net)
    assert meter.watches(net)
    assert meter.watches(copy.deepcopy(net))
    assert meter.watches(nn.Sequential(nn.ReLU(), net))
    assert not Meter().watches(net)


def test_other_models_are_not_counted():
    meter = Meter()
    meter.watch(Net())
    step(Net(), 3)
    assert counts(meter) == (0, 0, 0)


def test_a_quantized_copy_of_a_watched_network_is_counted_once():
    problem = toy.make_problem()
    watched = problem.float_model()
    calibration = problem.observe()
    before = problem.meter.images_forward
    qmodel = QModel(watched, problem.layers, problem.scheme, calibration)
    qmodel(torch.zeros(3, *toy.SHAPE))
    assert problem.meter.images_forward == before
    problem.meter.watch(qmodel)(torch.zeros(3, *toy.SHAPE))
    assert problem.meter.images_forward == before + 3


def test_read():
    meter = Meter()
    first = meter.read()
    meter.policies += 2
    second = meter.read()
    assert (first.policies, second.policies) == (0, 2)
    assert 0 <= first.seconds <= second.seconds
    assert first.peak_memory > 10 * 2**20  # torch alone is larger


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_peak_memory_sees_a_large_tensor():
    meter = Meter()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    torch.ones(32 * 2**20)  # 128 MiB, given back at once
    assert meter.read().peak_memory - resident > 100 * 2**20


def test_sum():
    total = Spent(1, 20, 300, 0.5, 7) + Spent(2, 30, 400, 0.25, 5)
    assert total == Spent(3, 50, 700, 0.75, 7)
    assert total.to_json() == {
        "policies": 3,
        "images_forward": 50,
        "images_backward": 700,
        "seconds": 0.75,
        "peak_memory": 7,
    }


@pytest.mark.parametrize("retrain", [False, True])
def test_all_networks_of_a_problem_are_counted(retrain):
    problem = toy.make_problem(retrains=True)
    policy = problem.space.reference(4, 4)
    recipe = problem.recipe if retrain else None
    problem.evaluate(policy, recipe)
    # Ranges, the control variate and the correction of BatchNorm on 64 images, then 128 are scored;
    # in between an epoch of 256, and BatchNorm's statistics over as many.
    forward = 64 + 64 + 64 + 128 + (2 * 256 if retrain else 0)
    assert counts(problem.meter) == (1, forward, 256 if retrain else 0)
