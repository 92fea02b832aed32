import math
from dataclasses import replace

import pytest
import torch

from frameworks import LayerBits, schemes, steer
from frameworks.core.quantizers.bitplanes import BitPlanes, SignMagnitude
from frameworks.core.space import Space
from frameworks.gradient import bsq
from frameworks.gradient.bsq import BSQ, precision, represent, reweighed_lasso
from frameworks.testing import toy

FAST = BSQ(epochs=2, interval=1, step=1, images=128, batch=32, lr=0.1, alpha=8.0)
FREE = ("blocks.0.conv1", "blocks.0.conv2", "blocks.1.depthwise", "blocks.1.pointwise")


def problem(target="size", **fields):
    return toy.make_problem(target, **{"needs": BSQ.card.needs, "retrains": True, **fields})


def with_planes(of):
    net = of.quantized()
    acts = FAST.activations(of)
    return net, represent(of, net, acts), acts


def test_defaults_are_the_published_ones():
    method = BSQ()
    assert (method.epochs, method.interval, method.step) == (350, 100, 250)
    assert (method.lr, method.weight_decay, method.batch) == (0.1, 1e-4, 128)
    assert (method.alpha, method.act_bits, method.plane_lr) == (5e-3, 4, 1)
    assert [method.rate(e) for e in (0, 249, 250, 349)] == pytest.approx([0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize("scheme", ["bsq", "mse", "dorefa_pact"])
def test_planes_start_at_the_weights(scheme):
    of = problem(scheme=scheme)
    _, planes, _ = with_planes(of)
    assert tuple(planes) == FREE
    for name, each in planes.items():
        weight = of.network.get_submodule(name).weight.detach()
        value = each(weight).detach()
        assert each.count == 7
        if scheme == "dorefa_pact":  # no zero on its grid: s = max|W|
            reach = weight.abs().max()
            expected = torch.round(weight / reach * 127) / 127 * reach
        else:
            quantizer = of.quantizer(name, "weight", 8)
            codes = quantizer.codes(weight)
            expected = codes.scale * codes.code.clamp(-127, 127)
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


def test_lasso_is_weighed_by_share_of_parameters_and_planes():
    of = problem()
    _, planes, _ = with_planes(of)
    params = {layer.name: layer.params for layer in of.layers}
    total = sum(params[name] for name in FREE)
    with torch.no_grad():
        planes[FREE[1]].positive[:5] = planes[FREE[1]].negative[:5] = 0
    planes[FREE[1]].adjust()
    expected = 0.0
    for name, each in planes.items():
        norms = (each.positive**2 + each.negative**2).flatten(1).sum(1)
        expected += params[name] * each.count / total * (norms + 1e-8).sqrt().sum().item()
    assert planes[FREE[1]].count == 2
    assert reweighed_lasso(of, planes).item() == pytest.approx(expected, rel=1e-5)


def test_first_step_of_the_planes_by_hand():
    # One step of SGD on the lasso alone, clamped to [0, 2]:
    # p - lr * (alpha * n * bits / N * p / norm + decay * p)
    of = problem()
    net, planes, _ = with_planes(of)
    optimizer = FAST.optimizer(net, 0)
    name, each = next(iter(planes.items()))
    before = each.positive.detach().clone()
    squares = before**2 + each.negative.detach() ** 2
    norm = squares.flatten(1).sum(1).sqrt().view(-1, *(1,) * (before.dim() - 1))
    (FAST.alpha * reweighed_lasso(of, planes)).backward()
    optimizer.step()
    each.clamp_()
    params = {layer.name: layer.params for layer in of.layers}
    share = params[name] * 7 / sum(params[n] for n in FREE)
    slope = 8.0 * share * before / norm + 1e-4 * before
    torch.testing.assert_close(each.positive.detach(), (before - 0.1 * slope).clamp(0, 2),
                               rtol=1e-3, atol=1e-4)  # fmt: skip


def test_all_but_ranges_train_with_weight_decay():
    net, planes, _ = with_planes(problem("bops"))
    of_planes, weights, ranges = replace(FAST, lr=0.1, plane_lr=20.0).optimizer(net, 1).param_groups
    assert of_planes["lr"] == weights["lr"] == pytest.approx(0.01)  # the search puts in the shares
    assert (of_planes["share"], weights["share"]) == (20, 1)
    for group in (of_planes, weights):
        assert (group["momentum"], group["weight_decay"]) == (0.9, 1e-4)
    assert ranges["weight_decay"] == 0
    assert ranges["share"] == 0.1
    every = [p for each in planes.values() for p in (each.positive, each.negative)]
    assert {id(p) for p in of_planes["params"]} == {id(p) for p in every}
    held = {id(p) for p in weights["params"]}
    assert all(id(each.scale) in held for each in planes.values())
    rest = {id(p) for p in net.parameters() if p.requires_grad} - {id(p) for p in every}
    assert held | {id(p) for p in ranges["params"]} == rest
    assert len(ranges["params"]) == 6


def test_precision_is_raised_to_a_candidate_and_zero_prunes():
    of = problem("bops", bits=(2, 4, 8))
    _, planes, acts = with_planes(of)
    for name, codes in zip(FREE, (0, 1, 3, 9), strict=True):
        planes[name] = BitPlanes(torch.tensor([codes, -codes]), torch.tensor(1.0), 7)
        planes[name].adjust()
    assert [planes[n].count for n in FREE] == [1, 1, 2, 4]
    policy = precision(of, planes, acts, True)
    assert [policy[n].weight for n in FREE] == [0, 2, 4, 8]
    assert policy["stem"].weight == policy["fc"].weight == 8
    of.space.validate(policy)
    assert [precision(of, planes, acts, False)[n].weight for n in FREE] == [2, 2, 4, 8]


class Shared(toy.ToyConvNet):
    """Both convolutions of the first block have one weight."""

    def __init__(self):
        super().__init__()
        self.blocks[0].conv2.weight = self.blocks[0].conv1.weight


@pytest.mark.parametrize("paired", [False, True])
def test_a_weight_that_two_layers_share_is_one_weight(paired):
    of = problem("bops", kind=Shared, scheme="bsq", bits=(2, 4, 8), paired=paired)
    net, planes, acts = with_planes(of)
    assert list(planes) == of.space.free_weights == [FREE[0], *FREE[2:]]
    assert net.qlayer(FREE[1]).weight_quantizer is planes[FREE[0]]
    for code, weight in ((0, 0), (3, 4)):
        planes[FREE[0]] = BitPlanes(torch.tensor([code]), torch.tensor(1.0), 7)
        planes[FREE[0]].adjust()
        policy = precision(of, planes, acts, True)
        of.space.validate(policy)
        assert [policy[n].weight for n in FREE[:2]] == [weight] * 2
        assert policy[FREE[2]].weight == 8


def test_a_shared_weight_is_kept_as_it_was_trained():
    of = problem(kind=Shared, scheme="bsq", like=3, recipe=replace(BSQ.recipe, epochs=0))
    kept = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bsq, "represent", lambda *given: kept.append(given[1]) or represent(*given))
        solution = replace(FAST, alpha=0.05, lr=0.02, plane_lr=5.0).search(of)
    of.space.validate(solution.policy)
    first, second = (kept[0].qlayer(name).eval().weight.detach() for name in FREE[:2])
    assert torch.equal(first, second)
    for name in FREE[:2]:
        torch.testing.assert_close(solution.weights[f"{name}.weight"], first)
    assert set(solution.notes["steps"]) == {FREE[0], *FREE[2:]}
    finished = FAST.finish(of, solution)
    for name in FREE[:2]:
        torch.testing.assert_close(finished.qlayer(name).weight, first, rtol=1e-4, atol=1e-5)


def test_a_pinned_weight_that_two_layers_share_has_one_range():
    of = problem("bops", kind=Shared, like=4)
    ends = {n: (8, 8) for n in ("stem", "fc", FREE[0])}
    of = of.at(space=Space.build(of.layers, (2, 4, 8), (2, 4, 8), pinned=ends))
    net, planes, acts = with_planes(of)
    assert list(planes) == list(FREE[2:])
    assert net.qlayer(FREE[1]).weight_quantizer is net.qlayer(FREE[0]).weight_quantizer
    of.space.validate(precision(of, planes, acts, True))


@pytest.mark.parametrize(("retrains", "prune"), [(False, True), (True, False), (True, True)])
def test_layers_are_pruned_only_on_demand_and_where_the_protocol_trains(retrains, prune):
    of = problem("bops", retrains=retrains)
    policy = replace(FAST, alpha=500.0, prune=prune).search(of).policy
    least = 0 if retrains and prune else 2
    assert {policy[name].weight for name in FREE} == {least}


def test_tied_layers_get_the_most_of_them_and_may_be_pruned_alone():
    of = problem("bops", bits=(2, 4, 8), groups=[FREE[:2]])
    _, planes, acts = with_planes(of)
    planes[FREE[0]] = BitPlanes(torch.tensor([1]), torch.tensor(1.0), 7)
    planes[FREE[0]].adjust()
    policy = precision(of, planes, acts, True)
    assert policy[FREE[0]] == policy[FREE[1]] == LayerBits(8, acts[FREE[0]])
    planes[FREE[0]] = BitPlanes(torch.tensor([0]), torch.tensor(1.0), 7)
    planes[FREE[0]].adjust()
    policy = precision(of, planes, acts, True)
    assert (policy[FREE[0]].weight, policy[FREE[1]].weight) == (0, 8)
    of.space.validate(policy)


def test_activations_follow_weights_in_a_paired_space():
    of = problem("bops", paired=True)
    policy = FAST.search(of).policy
    assert all(b.weight in (0, b.act) for b in policy.values())
    assert len({b.act for b in policy.values()}) > 1


@pytest.mark.parametrize(
    ("like", "most", "expected"), [(4, 4, 4), (4, 3, 3), (8, 4, 4), (3.5, 4, 3), (2, 8, 2)]
)
def test_activation_bits_follow_the_budget(like, most, expected):
    of = problem("bops", like=like)
    acts = replace(FAST, act_bits=most).activations(of)
    assert acts["stem"] == acts["fc"] == 8
    assert {acts[name] for name in FREE} == {expected}


def test_activations_stay_at_their_best_where_they_cost_nothing():
    assert set(FAST.activations(problem("size")).values()) == {8}


def test_weights_of_the_search_are_on_the_found_grids():
    of = problem(scheme="bsq")
    solution = FAST.search(of)
    for name in FREE:
        weight, bits = solution.weights[f"{name}.weight"], solution.policy[name].weight
        (step,) = solution.notes["steps"][name]
        codes = weight / step
        torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-3)
        assert float(codes.abs().max()) <= 2 ** max(bits - 1, 0) - 1 + 1e-3
    model = of.float_model()
    model.load_state_dict(solution.weights)


def test_finishing_starts_from_the_search_s_weights_and_scales():
    of = problem(scheme="bsq", retrains=True, recipe=replace(BSQ.recipe, epochs=0))
    solution = FAST.search(of)
    trained = FAST.finish(of, solution)
    assert trained.policy == solution.policy
    for name in FREE:
        q = trained.qlayer(name)
        weight = solution.weights[f"{name}.weight"]
        if solution.policy[name].weight:
            assert isinstance(q.weight_quantizer, SignMagnitude)
        torch.testing.assert_close(q.weight, weight, rtol=1e-4, atol=1e-5)


def test_more_strength_leaves_fewer_bits():
    costs = []
    for alpha in (1e-3, 8.0, 500.0):
        of = problem("bops")
        costs.append(of.cost(replace(FAST, alpha=alpha).search(of).policy)["bops"])
    assert costs[0] > costs[1] > costs[2]
    pinned = {"stem", "fc"}
    of = problem("bops")
    rest = sum(64 * layer.macs for layer in of.layers if layer.name in pinned)
    assert costs[2] == rest  # all searched layers are gone, and cost nothing


def test_adjustment_happens_at_intervals_and_at_the_end():
    with pytest.MonkeyPatch.context() as patch:
        calls = []
        adjust = BSQ.adjust
        patch.setattr(BSQ, "adjust", lambda *args: calls.append(args) or adjust(*args))
        replace(FAST, epochs=5, interval=2).search(problem())
        assert len(calls) == 4  # epochs 0, 2 and 4, and the end


@pytest.mark.parametrize("target", ["bops", pytest.param("size", marks=pytest.mark.slow)])
def test_the_budget_is_met_by_steering(target):
    of = problem(target, like=4)
    steps = {"epochs": 16, "interval": 4, "step": 14, "images": 256, "batch": 16}
    solution = steer(replace(FAST, **steps, lr=0.05, plane_lr=2.0, alpha=0.3), of)
    assert of.within(solution.policy)
    of.space.validate(solution.policy)
    assert "collapsed" not in solution.notes
    assert solution.notes["learning"]["improved"]


def test_a_strong_lasso_in_few_steps_is_seen_to_destroy_the_network():
    of = problem("bops", like=3)
    solution = steer(replace(FAST, alpha=500.0), of, 1)
    assert of.within(solution.policy)
    assert solution.cross_entropy > 0.75 * math.log(toy.CLASSES)
    assert solution.notes["collapsed"] is True


def test_divergence_is_reported():
    with pytest.raises(FloatingPointError, match="diverged in pass"):
        replace(FAST, lr=1e20).search(problem())


def test_skips_where_weights_are_pinned():
    assert "nothing to search" in FAST.skip(problem("size", bits=(8,), like=8))
    assert FAST.skip(problem()) is None
    assert schemes.get(BSQ.card.quantizer).name == "bsq"
