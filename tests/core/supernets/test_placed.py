import pytest
import torch

from frameworks.core.quantizers.base import Quantizer
from frameworks.core.supernets.placed import PlacedNet, raised
from frameworks.testing import toy

FREE = ["blocks.0.conv1", "blocks.0.conv2", "blocks.1.depthwise", "blocks.1.pointwise"]


class Doubled(Quantizer):
    """Twice the tensor, with a range that does nothing, to be seen in the output."""

    def __init__(self):
        super().__init__()
        self.range = torch.nn.Parameter(torch.ones(()), requires_grad=False)

    def forward(self, x):
        return 2 * x * self.range

    def codes(self, x):
        raise NotImplementedError


def test_every_free_tensor_gets_the_methods_quantizer_and_no_other():
    problem = toy.make_problem("bops", bits=(2, 4))
    net = PlacedNet(problem, lambda spot: Doubled())
    for kind in ("weight", "act"):
        assert [spot.layer.name for spot, _ in net.placed(kind)] == FREE
    for name, qlayer in net.qmodel.qlayers():
        placed = isinstance(qlayer.weight_quantizer, Doubled)
        assert placed == (name in FREE), name
        assert all(p.requires_grad for p in qlayer.act_quantizer.parameters()), name
    spot, quantizer = next(iter(net.placed("weight")))
    assert spot.bits == (2, 4)
    assert torch.equal(quantizer(spot.tensor), 2 * spot.tensor)
    assert spot.signed


def test_rows_are_those_of_the_choices():
    problem = toy.make_problem("bops", groups=[FREE[:2]])
    net = PlacedNet(problem, lambda spot: Doubled())
    for spot, _ in (*net.placed("weight"), *net.placed("act")):
        choice = problem.space.choices[spot.row]
        assert spot.layer.name in choice.layers
        assert choice.kind == spot.kind
    rows = {spot.layer.name: spot.row for spot, _ in net.placed("weight")}
    assert rows[FREE[0]] == rows[FREE[1]]


def test_paired_tensors_are_of_one_choice():
    net = PlacedNet(toy.make_problem("bops", paired=True), lambda spot: Doubled())
    weights = {spot.layer.name: spot.row for spot, _ in net.placed("weight")}
    assert weights == {spot.layer.name: spot.row for spot, _ in net.placed("act")}


def test_where_none_is_made_the_protocol_has_its_own():
    problem = toy.make_problem("bops", bits=(2, 4))
    net = PlacedNet(problem, lambda spot: Doubled() if spot.kind == "weight" else None)
    assert not list(net.placed("act"))
    images = problem.images[:4]
    sample = net.qmodel.qlayer(FREE[0]).act_quantizer
    own = problem.quantizer(FREE[0], "act", 4)
    assert torch.equal(sample(images), own(images))


def test_the_network_runs_and_ranges_are_trained():
    problem = toy.make_problem("bops", bits=(2, 4))
    net = PlacedNet(problem, lambda spot: Doubled())
    net.qmodel(problem.images[:4]).sum().backward()
    grads = [q.range.grad for _, q in (*net.placed("weight"), *net.placed("act"))]
    assert len(grads) == 8
    assert all(g is not None for g in grads)


@pytest.mark.parametrize(
    ("weight", "act", "expected"),
    [({}, {}, (2, 2)), ({FREE[1]: 3}, {FREE[0]: 4}, (4, 4)), ({FREE[0]: 9}, {}, (8, 2))],
)
def test_wanted_bits_are_raised_to_candidates_tied_layers_together(weight, act, expected):
    space = toy.make_problem("bops", bits=(2, 4, 8), groups=[FREE[:2]]).space
    policy = raised(space, weight, act)
    for name in FREE[:2]:
        assert (policy[name].weight, policy[name].act) == expected
    assert (policy[FREE[2]].weight, policy[FREE[2]].act) == (2, 2)


def test_in_a_paired_space_the_larger_of_both_kinds_counts():
    space = toy.make_problem("bops", bits=(2, 4, 8), paired=True).space
    policy = raised(space, {FREE[0]: 2}, {FREE[0]: 3})
    assert (policy[FREE[0]].weight, policy[FREE[0]].act) == (4, 4)
