import pytest
import torch
from torch.nn import functional

from frameworks.core.networks.batchnorm import batchnorms
from frameworks.core.supernets.decisions import (
    block_candidates,
    block_decisions,
    block_rows,
    decided,
)
from frameworks.core.supernets.supernet import CompositeNet, StochasticNet
from frameworks.testing import toy

X = toy.split("valid", 128).images(32)


def stochastic(problem, pairs=((2, 2), (3, 4), (8, 8))):
    decisions = block_decisions(problem, pairs)
    candidates = block_candidates(decisions, problem.space)
    return decisions, StochasticNet(problem, candidates, block_rows(decisions))


def one_hot(counts, picks):
    masks = torch.zeros(len(counts), max(counts))
    masks[range(len(picks)), list(picks)] = 1
    return masks


def counts_of(space):
    return [len(choice.bits) for choice in space.choices]


@pytest.mark.parametrize("kind", [toy.ToyConvNet, toy.ToyViT])
@pytest.mark.parametrize("target", ["bops", "size"])
@pytest.mark.parametrize("picks", [(0, 0), (2, 1), (1, 2)])
def test_one_hot_stochastic_net_is_the_quantized_network(kind, target, picks):
    problem = toy.make_problem(target, kind=kind)
    decisions, net = stochastic(problem)
    picks = picks[: len(decisions)]
    net.mask(one_hot([3] * len(decisions), picks))
    policy = decided(problem.space, decisions, picks)
    with torch.no_grad():
        assert torch.equal(net.eval()(X), problem.quantized(policy)(X))


def test_one_hot_stochastic_net_trains_as_the_quantized_network_does():
    problem = toy.make_problem("bops")
    decisions, net = stochastic(problem)
    net.mask(one_hot([3, 3], (1, 0)))
    alone = problem.quantized().free(decided(problem.space, decisions, (1, 0)))
    y = torch.arange(32) % toy.CLASSES
    for model in (net, alone):
        functional.cross_entropy(model.train()(X), y).backward()
    chosen = net.blocks["blocks.0"].copies[1].conv1.inner.weight.grad
    torch.testing.assert_close(chosen, alone.model.blocks[0].conv1.inner.weight.grad)
    step = net.blocks["blocks.1"].copies[0].pointwise.act_quantizer.step.grad
    torch.testing.assert_close(step, alone.model.blocks[1].pointwise.act_quantizer.step.grad)
    assert not bool(net.blocks["blocks.0"].copies[0].conv1.inner.weight.grad.any())


def test_masked_sum_of_copies():
    problem = toy.make_problem("bops")
    _, net = stochastic(problem)
    masks = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]])
    net.mask(masks)
    block = net.eval().blocks["blocks.0"]
    x = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    parts = [copy(x) for copy in block.copies]
    expected = sum(mask * part for mask, part in zip(masks[0], parts, strict=True))
    torch.testing.assert_close(block(x), expected)
    assert len({float(part.detach().sum()) for part in parts}) == 3


def test_every_copy_has_weights_and_norms_of_its_own():
    problem = toy.make_problem("bops")
    _, net = stochastic(problem)
    copies = net.blocks["blocks.0"].copies
    weights = {copy.conv1.inner.weight.data_ptr() for copy in copies}
    norms = {copy.bn1.running_mean.data_ptr() for copy in copies}
    assert len(weights) == len(norms) == 3
    original = problem.network.get_submodule("blocks.0.conv1").weight
    assert original.data_ptr() not in weights
    assert len(list(batchnorms(net))) == 1 + 3 * 2 * 2


def test_tied_blocks_share_a_row():
    problem = toy.make_problem("bops", groups=[("blocks.0.conv1", "blocks.1.depthwise")])
    decisions, net = stochastic(problem)
    assert len(decisions) == 1
    net.mask(torch.tensor([[0.0, 1.0, 0.0]]))
    policy = decided(problem.space, decisions, [1])
    with torch.no_grad():
        assert torch.equal(net.eval()(X), problem.quantized(policy)(X))


def test_pinned_layers_stay_outside_the_super_nets():
    problem = toy.make_problem("bops")
    for net in (CompositeNet(problem), stochastic(problem)[1]):
        for name in ("stem", "fc"):
            layer = net.qmodel.model.get_submodule(name)
            assert (layer.bits.weight, layer.bits.act) == (8, 8)


@pytest.mark.parametrize("kind", [toy.ToyConvNet, toy.ToyViT])
@pytest.mark.parametrize("space", [{}, {"paired": True}, {"target": "size"}, {"bits": (2, 32)}])
def test_one_hot_composite_net_is_the_quantized_network(kind, space):
    problem = toy.make_problem(**{"target": "bops", "kind": kind, **space})
    net = CompositeNet(problem).eval()
    counts = counts_of(problem.space)
    for shift in (0, 1):
        picks = [(i + shift) % count for i, count in enumerate(counts)]
        values = [c.bits[k] for c, k in zip(problem.space.choices, picks, strict=True)]
        net.mix(one_hot(counts, picks))
        with torch.no_grad():
            expected = problem.quantized(problem.space.decode(values))(X)
            torch.testing.assert_close(net(X), expected, rtol=1e-4, atol=1e-5)


def test_composite_layers_use_the_shares_of_their_choices():
    problem = toy.make_problem("bops", bits=(2, 4), groups=[("blocks.0.conv1", "blocks.0.conv2")])
    net = CompositeNet(problem)
    p = torch.softmax(torch.arange(12.0).view(6, 2) ** 0.5, 1)
    net.mix(p)
    first, second = net.mixed["blocks.0.conv1"], net.mixed["blocks.0.conv2"]
    assert torch.equal(first.weight_shares, p[0])
    assert torch.equal(second.weight_shares, p[0])
    assert torch.equal(first.act_shares, p[1])
    assert torch.equal(second.act_shares, p[1])
    assert torch.equal(net.mixed["blocks.1.pointwise"].act_shares, p[5])


def test_composite_net_has_one_weight_per_layer():
    problem = toy.make_problem("bops")
    weights, ranges = CompositeNet(problem).parts()
    assert len(weights) == len(list(problem.network.parameters()))
    # Six bit widths for weights and inputs of four layers, one for the two pinned layers.
    assert len(ranges) == 4 * (6 + 6) + 2 * (1 + 1)
    assert not {id(p) for p in weights} & {id(p) for p in ranges}


def test_stochastic_net_parts():
    problem = toy.make_problem("bops")
    _, net = stochastic(problem)
    weights, ranges = net.parts()
    outside = 3 + 2  # stem with its norm, classifier
    assert len(weights) == outside + 3 * (2 * 3 + 2 * 3)
    assert len(ranges) == 3 * 2 * (2 + 2) + 2 * 2


def test_shares_get_gradients_through_the_composite_net():
    problem = toy.make_problem("bops", bits=(2, 4))
    net = CompositeNet(problem)
    p = torch.full((len(problem.space.choices), 2), 0.5, requires_grad=True)
    net.mix(p)
    net(X).square().sum().backward()
    assert bool((p.grad != 0).all())


def test_passes_are_metered_once():
    problem = toy.make_problem("bops")
    _, net = stochastic(problem)
    composite = CompositeNet(problem)
    before = problem.meter.read()
    net.mask(torch.full((2, 3), 1 / 3))
    net(X).sum().backward()
    composite.mix(torch.full((8, 6), 1 / 6))
    composite(X).sum().backward()
    after = problem.meter.read()
    assert after.images_forward - before.images_forward == 2 * len(X)
    assert after.images_backward - before.images_backward == 2 * len(X)


def test_the_pretrained_network_does_not_change():
    problem = toy.make_problem("bops")
    before = {k: v.clone() for k, v in problem.network.state_dict().items()}
    for net in (CompositeNet(problem), stochastic(problem)[1]):
        for parameter in net.parameters():
            parameter.data.add_(1)
    after = problem.network.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
