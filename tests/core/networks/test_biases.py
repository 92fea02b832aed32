"""Bias correction: quantized layers' mean outputs are brought back to those of the float ones."""

import copy

import pytest
import torch
from torch import nn

from benchmarks.export.formats.qdq import to_qdq
from benchmarks.export.graphs.codes import exported_layers
from benchmarks.export.graphs.trace import traced
from benchmarks.export.verify import verify
from frameworks import Correction, Meter, Policy, QModel, describe, measure, observe
from frameworks.core.evaluation.evaluate import Evaluator
from frameworks.core.networks.places import places
from frameworks.core.quantizers.uniform import MinMax
from frameworks.core.randomness import seeded, torch_rng
from frameworks.testing import toy


class Mixed(nn.Module):
    """A convolution, a linear layer over pixels, and one that is called twice."""

    def __init__(self):
        super().__init__()
        self.stem, self.mix = nn.Conv2d(3, 6, 3), nn.Linear(6, 6)
        self.twice, self.head = nn.Linear(6, 6, bias=False), nn.Linear(6, 4)

    def forward(self, x):
        x = self.mix(self.stem(x).relu().movedim(1, -1)).relu()
        x = self.twice(self.twice(x).relu()).relu()
        return self.head(x.mean((1, 2)))


def mixed():
    with seeded(0):
        return Mixed().eval()


@pytest.fixture
def images():
    return toy.split("train", 256).images(40)


def quantized(net, layers, images, bits):
    seen = observe(net, layers, images, torch_rng(0))
    return QModel(net, layers, MinMax(), seen).fix(Policy.uniform(layers, bits, bits)).eval()


def first_outputs(model, layers, images):
    """Each layer's mean output a channel in its first call, from plain hooks."""
    found = {}

    def note(layer):
        def hook(module, args, out):
            out = out.movedim(-1, 1) if layer.kind == "linear" and out.dim() > 2 else out
            means = out.transpose(0, 1).flatten(1).mean(1)
            found.setdefault(layer.name, means)

        return hook

    every = [p.module.register_forward_hook(note(p.layer)) for p in places(model, layers)]
    with torch.no_grad():
        model(images)
    for handle in every:
        handle.remove()
    return found


@pytest.mark.parametrize("limit", [1 << 30, 40 << 10])
def test_mean_outputs_are_those_of_the_float_network(limit, images):
    net = mixed()
    layers = describe(net, (3, 8, 8))
    model = quantized(net, layers, images, 2)
    correction = Correction.of(net, images, layers=layers, limit=limit)
    assert correction.at_once == (limit == 1 << 30)
    float_means = first_outputs(net, layers, images)
    before = first_outputs(model, layers, images)
    correction(model)
    after = first_outputs(model, layers, images)
    for name, wanted in float_means.items():
        assert not torch.allclose(before[name], wanted, atol=1e-3)
        torch.testing.assert_close(after[name], wanted, atol=1e-4, rtol=1e-4)


def test_float_networks_and_new_policies_have_no_shift(images):
    net = mixed()
    layers = describe(net, (3, 8, 8))
    correction = Correction.of(net, images, layers=layers)
    model = quantized(net, layers, images, 32)
    correction(model)
    assert all(torch.equal(q.shift, torch.zeros(q.layer.out_channels)) for _, q in model.qlayers())
    correction(model.fix(Policy.uniform(layers, 2, 2)))
    assert any(q.shift.abs().max() > 0 for _, q in model.qlayers())
    assert all(q.shift is None for _, q in model.fix(Policy.uniform(layers, 3, 3)).qlayers())
    assert all(q.shift is None for _, q in model.free(Policy.uniform(layers, 3, 3)).qlayers())


@pytest.mark.parametrize("kind", [toy.ToyViT, toy.ToyConvNet])
def test_evaluations_are_those_of_the_plain_way(kind):
    problem = toy.make_problem(kind=kind, bias_correction=True)
    rng = problem.rng()
    policies = [problem.space.sample(rng) for _ in range(3)]
    values = [list(problem.space.encode(policy)) for policy in policies]
    mixes = [problem.space.decode(a[:3] + b[3:]) for a in values for b in values]
    different = 0
    for policy in mixes:
        model = problem.correct(problem.quantized(policy))
        assert problem.evaluate(policy) == measure(model, problem.valid)
        plain = Evaluator(problem.quantized(), problem.valid, Correction.of(
            problem.network, problem.images), Meter())  # fmt: skip
        different += plain(policy) != problem.evaluate(policy)
    assert different >= 3


def test_weights_taken_from_a_corrected_network_have_the_shift_in_their_biases(images):
    net = mixed()
    layers = describe(net, (3, 8, 8))
    model = quantized(net, layers, images, 2)
    Correction.of(net, images, layers=layers)(model)
    state = model.float_state()
    shift = model.qlayer("stem").shift
    torch.testing.assert_close(state["stem.bias"], net.stem.bias.detach() - shift)
    assert set(state) == set(net.state_dict())


def test_exported_files_have_the_shift(images):
    problem = toy.make_problem(kind=toy.ToyViT, bias_correction=True)
    model = problem.correct(problem.quantized(problem.space.reference(3, 4)))
    plain = copy.deepcopy(model)
    for _, q in plain.qlayers():
        q.shift = None
    made = to_qdq(traced(model, problem.input_shape), exported_layers(model))
    assert verify(model, made, problem.valid).ok
    assert not verify(plain, made, problem.valid).ok
