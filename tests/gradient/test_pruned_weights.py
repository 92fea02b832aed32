"""A pruned weight is changed in place like any other, and what is pruned stays 0."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from frameworks import registry
from frameworks.core.evaluation.train import Recipe
from frameworks.core.networks.taking.bake import mask_of
from frameworks.core.quantizers.bitplanes import BitPlanes
from frameworks.core.quantizers.uniform import MinMax
from frameworks.core.solution import Solution
from frameworks.gradient.bp_nas.scale_clip import scale_clip_
from frameworks.gradient.bp_nas.search import Search
from frameworks.gradient.bsq import BSQ
from frameworks.gradient.csq.framework import CSQ
from frameworks.gradient.csq.network import kept_planes
from frameworks.testing import toy

NAME = "blocks.0.conv1"


class Cut(toy.ToyConvNet):
    """Half of one convolution is pruned."""

    def __init__(self):
        super().__init__()
        prune.random_unstructured(self.blocks[0].conv1, "weight", 0.5)


def problem(name, target="size"):
    card = registry.get(name).card
    return toy.make_problem(
        target, kind=Cut, needs=card.needs, scheme=card.quantizer, retrains=True,
        recipe=Recipe(epochs=1, batch=64, lr=0.0),
    )  # fmt: skip


def pruned(of):
    return ~mask_of(of.network.get_submodule(NAME)).bool()


def test_scale_clip_has_the_mean_of_what_a_mask_keeps():
    x, mask = torch.tensor([0.0, 1.0, -2.0, 0.0, 6.0]), torch.tensor([0.0, 1, 1, 0, 1])
    assert scale_clip_(x, 1.0, mask).tolist() == [0, 1, -2, 0, 3]
    assert scale_clip_(x, 1.0, torch.zeros(5)).tolist() == [0, 1, -2, 0, 3]


def test_scale_clip_reshapes_pruned_weights():
    of, method = problem("bp_nas", "bops"), registry.get("bp_nas")(reshape=1.0)
    search, before = Search(method, of), of.network.get_submodule(NAME).weight.detach()
    search.reshape()
    trained = method.finish(of, Solution(of.space.reference(4, 4)))
    once = scale_clip_(before.clone(), 1.0, ~pruned(of))
    again = next(layer for layer in search.net.stored() if mask_of(layer) is not None)
    assert not torch.equal(once, before)
    assert torch.equal(again.weight, once)
    for _ in range(3):  # of the final training, whose rate is 0, it was the first of four steps
        scale_clip_(once, 1.0, ~pruned(of))
    assert torch.equal(trained.qlayer(NAME).inner.weight, once)


@pytest.mark.parametrize(
    "method",
    [
        BSQ(epochs=3, interval=1, step=3, images=128, batch=32, lr=0.02, plane_lr=50.0, alpha=1e-3),
        CSQ(epochs=6, warmup=1, images=128, batch=32, lr=0.02, mask_lr=20.0, plane_lr=5.0),
    ],
    ids=lambda method: method.name,
)
def test_planes_of_a_pruned_weight_are_trained_and_leave_what_is_pruned(method):
    of = problem(method.name)
    solution = method.search(of)
    weight, start = solution.weights[f"{NAME}.weight"], of.network.get_submodule(NAME).weight
    code = weight / solution.notes["steps"][NAME][0]
    torch.testing.assert_close(code, code.round(), rtol=0, atol=1e-3)
    assert not torch.isclose(weight, start)[~pruned(of)].all()
    assert not weight[pruned(of)].any()
    assert f"{NAME}.weight_orig" in solution.weights  # which it is only where the mask can make it
    finished = method.finish(of, solution).qlayer(NAME)
    assert not finished.weight[pruned(of)].any()
    assert not finished.codes().code[pruned(of)].any()


@pytest.mark.parametrize(
    "make",
    [
        lambda w, mask: BitPlanes.of(w, 3, mask),
        lambda w, mask: BitPlanes.coded(w, MinMax().weight_quantizer(w, 4), 3, mask),
        lambda w, mask: kept_planes(w.round(), torch.ones(()), 3, mask),
    ],
    ids=["of", "coded", "kept"],
)
def test_planes_under_a_mask_are_0_without_gradient_where_it_is(make):
    mask = torch.tensor([1.0, 0.0, 1.0, 0.0])
    planes = make(torch.tensor([3.0, 2.0, -1.0, 0.0]), mask)
    out = planes.train()(torch.zeros(4))
    assert out[0] > 0 > out[2]
    assert out[1::2].tolist() == [0, 0]
    assert planes.codes(torch.zeros(4)).code[1::2].tolist() == [0, 0]
    out.sum().backward()
    bits = [p for p in planes.parameters() if isinstance(p, nn.Parameter) and p.dim() > 1]
    assert all(not p.grad[..., 1::2].any() and p.grad[..., ::2].any() for p in bits)
