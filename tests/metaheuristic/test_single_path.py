import pytest
import torch

from frameworks.core.evaluation.evaluate import measure
from frameworks.core.networks.correction import reestimate_batchnorm
from frameworks.core.policy import LayerBits
from frameworks.metaheuristic.spos.single_path import SinglePath, path_evaluator
from frameworks.testing import toy

X = toy.split("valid", 128).images(32)


def super_net(problem):
    space = problem.space
    candidates = {
        name: [LayerBits(w, a) for w in space.weight_bits[name] for a in space.act_bits[name]]
        for name in space.names
    }
    return SinglePath(problem, candidates)


def policies(problem, count=3):
    rng = problem.rng("test")
    return [problem.space.sample(rng) for _ in range(count)]


@pytest.mark.parametrize(("kind", "scheme"), [(toy.ToyConvNet, "dorefa_pact"), (toy.ToyViT, "lsq")])
def test_a_path_is_the_network_at_its_policy(kind, scheme):
    problem = toy.make_problem(kind=kind, scheme=scheme, bits=(2, 8))
    net = super_net(problem)
    for policy in policies(problem):
        net.fix(policy)
        assert net.policy == policy
        assert torch.equal(net(X), problem.quantized(policy)(X))


def test_one_weight_for_all_bits_and_a_range_for_each_pair():
    problem = toy.make_problem(scheme="dorefa_pact", bits=(2, 4))
    net = super_net(problem)
    weights = {id(p) for p in net.weight_parameters()}
    assert len(weights) == len(list(problem.network.parameters()))
    # Four free layers with four pairs, two pinned ones; DoReFa's weights have no range.
    assert len(net.range_parameters()) == 4 * 4 + 2
    before = [id(q.inner.weight) for _, q in net.qlayers()]
    net.fix(problem.space.highest())
    assert before == [id(q.inner.weight) for _, q in net.qlayers()]


def test_only_what_a_path_uses_is_trained():
    problem = toy.make_problem(scheme="dorefa_pact", bits=(2, 4))
    net = super_net(problem).train()
    low = problem.space.lowest()
    ranges = {id(p): p.detach().clone() for p in net.range_parameters()}
    sgd = torch.optim.SGD(net.range_parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(2):
        sgd.zero_grad()
        net.fix(low)
        net(X).square().mean().backward()
        sgd.step()
    used = {
        id(p) for name, bits in low.items() for q in net.pairs[name][bits] for p in q.parameters()
    }
    changed = {id(p) for p in net.range_parameters() if not torch.equal(p, ranges[id(p)])}
    assert changed == used


def test_layers_that_are_stored_once_have_one_weight_quantizer():
    problem = toy.make_problem()
    layers = problem.layers
    net = super_net(problem)
    bits = next(iter(net.pairs[layers[1].name]))
    net.pairs["owner"] = net.pairs[layers[1].name]
    weight, act = net._pair(problem, layers[1].name, bits, "owner")
    assert weight is net.pairs["owner"][bits][0]
    assert act is not net.pairs["owner"][bits][1]


def test_paths_are_scored_with_statistics_of_their_own():
    """Against a network of that path alone, corrected from scratch."""
    problem = toy.make_problem(bits=(2, 3))
    net = super_net(problem)
    with torch.no_grad():
        for p in net.weight_parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=problem.generator("noise")))
    evaluator = path_evaluator(net, problem, 64)
    for policy in policies(problem, 4):
        score = evaluator(policy)
        single = super_net(problem)
        single.load_state_dict(net.state_dict(), strict=False)
        single.fix(policy)
        reestimate_batchnorm(single, evaluator.correction.images)
        assert score == measure(single, problem.valid)
    assert problem.meter.policies == 4


def test_without_new_statistics_paths_rank_wrongly():
    """Why they are taken anew: those left by other paths cost accuracy."""
    problem = toy.make_problem(bits=(2, 8))
    net = super_net(problem)
    low, high = problem.space.lowest(), problem.space.highest()
    evaluator = path_evaluator(net, problem, 64)
    good = evaluator(low)
    net.fix(high)
    reestimate_batchnorm(net, evaluator.correction.images)
    net.fix(low)
    assert measure(net, problem.valid).loss > good.loss
