"""A weight that two layers store once is regularized once, and changed once in place."""

import pytest
import torch

from frameworks import registry
from frameworks.core.solution import Solution
from frameworks.gradient.bp_nas import framework as bp_nas
from frameworks.gradient.bp_nas.pairs import PairNet
from frameworks.gradient.bp_nas.search import Search
from frameworks.gradient.sdq import framework as sdq
from frameworks.gradient.waveq import framework as waveq
from frameworks.testing import toy


class Shared(toy.ToyConvNet):
    """Both convolutions of the block have one weight."""

    def __init__(self):
        super().__init__()
        self.blocks[0].conv2.weight = self.blocks[0].conv1.weight


def problem(name, **changes):
    cls = registry.get(name)
    return toy.make_problem(
        kind=Shared, needs=cls.card.needs, scheme=cls.card.quantizer, retrains=True, **changes
    )


def seen(monkeypatch, module, name, key):
    """What of their first argument a function of a module is called with."""
    calls, plain = [], getattr(module, name)
    monkeypatch.setattr(module, name, lambda x, *rest: calls.append(key(x)) or plain(x, *rest))
    return calls


def steps_of(asked):
    return -(-len(asked.data.train) // asked.recipe.batch) * asked.recipe.epochs


def test_the_free_weights_of_a_space_are_those_that_are_stored():
    space = problem("sdq").space
    first, second = (f"blocks.0.conv{i}" for i in (1, 2))
    assert {x.name: x.shared for x in space.layers if x.shared} == {second: first}
    assert space.free_weights == [x.name for x in space.free_layers if x.name != second]
    assert toy.make_problem(kind=Shared, bits=(4,), like=4).space.free_weights == []


@pytest.mark.parametrize(
    ("module", "name", "function", "key"),
    [
        (sdq, "sdq", "bin_regularizer", torch.Tensor.data_ptr),
        (waveq, "waveq", "raw_weight", lambda layer: layer.weight.data_ptr()),
    ],
)
def test_a_regularizer_of_the_final_training_sees_it_once(monkeypatch, module, name, function, key):
    asked, calls = problem(name), seen(monkeypatch, module, function, key)
    registry.get(name)().finish(asked, Solution(asked.space.reference(4, 4)))
    free = asked.space.free_weights
    assert len(calls) == steps_of(asked) * len(free)
    assert len(set(calls)) == len(free)


def test_scale_clip_reshapes_it_once(monkeypatch):
    asked, method = problem("bp_nas"), registry.get("bp_nas")(reshape=1.0)
    net = PairNet(asked, Search(method, asked).decisions)
    stored = [layer for layer in asked.layers if not layer.shared]
    assert len({m.weight.data_ptr() for m in net.stored()}) == len(net.stored()) == len(stored)
    calls = seen(monkeypatch, bp_nas, "scale_clip_", torch.Tensor.data_ptr)
    method.finish(asked, Solution(asked.space.reference(4, 4)))
    assert len(calls) == steps_of(asked) * len(stored)
