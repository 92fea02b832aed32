import copy
import itertools
import json
import math
from dataclasses import replace

import pytest
import timm
import torch
from torch.nn import functional

from frameworks import Budget, InfeasibleBudget, Scores, Space, describe
from frameworks.core.layers import Layer
from frameworks.heuristic.hawq_v3.framework import HAWQV3, assign, matched, sensitivity
from frameworks.heuristic.hawq_v3.shortcuts import downsample_ties
from frameworks.testing import toy

FAST = HAWQV3(images=32, batch=16, probes=4)
FREED = replace(FAST, paired=False, bits=[])


def scores_of(names, traces, errors, act_traces=(), act_errors=()):
    return {
        "weight_trace": dict(zip(names, traces, strict=True)),
        "weight_error": {
            n: {str(b): e for b, e in table.items()} for n, table in zip(names, errors, strict=True)
        },
        "act_trace": dict(zip(names, act_traces, strict=False)),
        "act_error": {
            n: {str(b): e for b, e in table.items()}
            for n, table in zip(names, act_errors, strict=False)
        },
    }


def test_sensitivity_is_trace_times_error():
    scores = scores_of("ab", [2.0, -3.0], [{4: 5.0}, {4: 7.0}], [0.5], [{8: 4.0}])
    assert sensitivity(scores, "a", 4, 8) == 2 * 5 + 0.5 * 4
    assert sensitivity(scores, "b", 4, 8) == 3 * 7  # magnitude; no activation score
    assert sensitivity(scores, "pinned", 8, 8) == 0


@pytest.mark.parametrize("seed", range(8))
def test_assignment_equals_brute_force_with_ties(seed):
    g = torch.Generator().manual_seed(seed)
    names, pairs = "abcde", [(2, 2), (2, 4), (4, 2), (4, 4)]

    def tables(count):
        drawn = torch.rand(count, 2, generator=g).sort(1, descending=True).values.tolist()
        return [dict(zip((2, 4), row, strict=True)) for row in drawn]

    scores = scores_of(
        names,
        torch.randn(5, generator=g).exp().tolist(),
        tables(5),
        torch.randn(5, generator=g).exp().tolist(),
        tables(5),
    )
    scale = dict(zip(names, (100 * torch.rand(5, generator=g)).tolist(), strict=True))
    costs = {n: {(w, a): scale[n] * w * a for w, a in pairs} for n in names}
    ties = [("a", "c"), ("d", "c")]

    def total(bits):
        return math.fsum(sensitivity(scores, n, *bits[n]) for n in names)

    low = sum(min(c.values()) for c in costs.values())
    previous = math.inf
    for share in (0, 0.1, 0.3, 0.6, 1):
        limit = low * (1 + 3 * share)
        choices = [dict(zip(names, c, strict=True)) for c in itertools.product(pairs, repeat=5)]
        allowed = [
            bits
            for bits in choices
            if bits["a"] == bits["c"] == bits["d"]
            and sum(costs[n][bits[n]] for n in names) <= limit * (1 + 1e-9)
        ]
        priced = {n: {pair: {"bops": c} for pair, c in costs[n].items()} for n in names}
        found = assign(scores, priced, {"bops": limit}, ties)
        assert found in allowed
        assert total(found) == pytest.approx(min(map(total, allowed)), rel=1e-9)
        assert total(found) <= previous  # a larger budget never harms
        previous = total(found)


def layer(name, block, inputs=8, kind="conv", index=0):
    return Layer(
        name=name, kind=kind, index=index, in_channels=inputs, out_channels=8, kernel=(1,),
        stride=(1,), groups=1, in_size=(4,), out_size=(4,), params=1, macs=1, block=block,
    )  # fmt: skip


def test_ties_of_shortcuts():
    layers = [
        layer("conv1", "conv1"),
        layer("l.0.conv1", "l.0"),
        layer("l.0.conv2", "l.0", 16),
        layer("l.0.downsample.0", "l.0"),
        layer("l.1.conv1", "l.1"),
        layer("m.0.shortcut", "m.0"),  # comes first in a pre-activation block
        layer("m.0.conv1", "m.0"),
        layer("n.0.conv1", "n.0", 32),
        layer("n.0.downsample.0", "n.0"),  # reads something else
        layer("downsample.reduction", "s.0", kind="linear"),
    ]
    assert downsample_ties(layers) == [
        ("l.0.conv1", "l.0.downsample.0"),
        ("m.0.conv1", "m.0.shortcut"),
    ]


@pytest.mark.parametrize(
    ("name", "count"), [("resnet18", 3), ("resnet50", 4), ("test_vit", 0), ("mobilenetv2_050", 0)]
)
def test_ties_of_timm_models(name, count):
    size = 160 if name == "test_vit" else 64
    layers = describe(timm.create_model(name), (3, size, size))
    ties = downsample_ties(layers)
    assert len(ties) == count
    for first, shortcut in ties:
        assert first.rpartition(".")[0] == shortcut.rpartition(".downsample")[0]
        assert first.endswith("conv1")


def tied_network():
    """The toy network with a convolution on the shortcut of its first block."""

    class Shortcut(toy.ConvBlock):
        def __init__(self):
            super().__init__(8)
            self.downsample = torch.nn.Conv2d(8, 8, 1)

        def forward(self, x):
            y = functional.relu(self.bn1(self.conv1(x)))
            return functional.relu(self.downsample(x) + self.bn2(self.conv2(y)))

    class Network(toy.ToyConvNet):
        def __init__(self):
            super().__init__()
            self.blocks[0] = Shortcut()

    return Network


@pytest.mark.parametrize("tie", [True, False])
def test_the_shortcut_follows_the_first_convolution_if_asked(make_problem, tie):
    problem = make_problem("bops", like=4, kind=tied_network())
    names = [layer.name for layer in problem.space.free_layers]
    # The shortcut is the least sensitive layer of all: free, it would get the fewest bits.
    traces = [1e-9 if "downsample" in n else 1.0 for n in names]
    errors = [{b: 4.0**-b for b in (2, 3, 4, 5, 6, 8)} for _ in names]
    scores = Scores(scores_of(names, traces, errors, traces, errors))
    policy = HAWQV3(tie_downsample=tie, bits=[]).solve(problem, scores).policy
    assert (policy["blocks.0.downsample"] == policy["blocks.0.conv1"]) == tie


@pytest.mark.parametrize("kind", [toy.ToyConvNet, toy.ToyViT])
def test_scores_are_plain_data_and_independent_of_the_budget(make_problem, kind):
    first, second = (FREED.score(make_problem(like=like, kind=kind)).values for like in (2.5, 4))
    assert first == second
    assert json.loads(json.dumps(first)) == first
    free = [layer.name for layer in make_problem(kind=kind).space.free_layers]
    for kind_of in ("weight", "act"):
        assert list(first[f"{kind_of}_trace"]) == free
        for errors in first[f"{kind_of}_error"].values():
            assert list(errors) == ["2", "3", "4", "5", "6", "8"]
            assert sorted(errors.values(), reverse=True) == list(errors.values())


def test_traces_are_averages_over_the_parameters(make_problem):
    # A linear classifier: the Hessian of its weights is the mean of H_softmax (x) a a^T, so the
    # trace is the mean of |a|^2 * sum_c p_c (1 - p_c).
    space_of = make_problem("bops", like=4)
    layers = space_of.layers
    pinned = {x.name: (8, 8) for x in layers[:-1]}
    problem = make_problem("bops", like=4)
    problem.space = Space.build(layers, (2, 4, 8), (2, 4, 8), pinned=pinned)
    framework = HAWQV3(images=64, batch=32, probes=400, tolerance=0, paired=False)
    scores = framework.score(problem).values
    images = problem.train.subset(64, problem.generator("hessian")).images()
    model = problem.float_model()
    inputs = []
    model.fc.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    with torch.no_grad():
        p = model(images).softmax(1)
    spread = (p * (1 - p)).sum(1)
    a = inputs[0]
    trace = float((a.square().sum(1) * spread).mean())
    assert scores["weight_trace"]["fc"] == pytest.approx(trace / a.shape[1] / 4, rel=0.15)
    # And over its input: W^T (diag p - p p^T) W.
    w = model.fc.weight.detach()
    second = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    mean = float(torch.einsum("ci,ncd,di->n", w, second, w).mean())
    assert scores["act_trace"]["fc"] == pytest.approx(mean / a.shape[1], rel=0.15)
    # The errors are squared norms: of the weights, and of one image's activations.
    q = problem.scheme.weight(w, 4)(w)
    assert scores["weight_error"]["fc"]["4"] == pytest.approx(float((q - w).square().sum()))
    sample = problem.observe().samples["fc"]
    mse = (problem.scheme.activation(sample, 2)(sample) - sample).square().mean()
    assert scores["act_error"]["fc"]["2"] == pytest.approx(float(mse) * a.shape[1])


def test_paired_spaces_have_no_activation_term(make_problem):
    problem = make_problem("bops", like=4, paired=True, bits=(4, 8))
    scores = FAST.score(problem)
    assert scores.values["act_trace"] == {}
    solution = FAST.solve(problem, scores)
    problem.space.validate(solution.policy)
    total = sum(
        abs(trace) * scores.values["weight_error"][name][str(solution.policy[name].weight)]
        for name, trace in scores.values["weight_trace"].items()
    )
    assert solution.notes["omega"] == pytest.approx(total)


def test_free_activations_do_not_all_fall_to_the_fewest_bits(make_problem):
    problem = make_problem("bops", like=4)
    policy = FREED.search(problem).policy
    acts = [policy[layer.name].act for layer in problem.space.free_layers]
    assert max(acts) > 2


def test_negative_traces_are_noted(make_problem):
    problem = make_problem("size", like=4)
    names = [layer.name for layer in problem.space.free_layers]
    errors = [{b: 4.0**-b for b in (2, 3, 4, 5, 6, 8)} for _ in names]
    scores = scores_of(names, [-1.0, *[1.0] * (len(names) - 1)], errors)
    assert FAST.solve(problem, Scores(scores)).notes["negative_traces"] == [names[0]]


@pytest.mark.parametrize("target", ["size", "bops"])
@pytest.mark.parametrize("like", [2.5, 4])
def test_uses_the_budget_and_keeps_to_it(make_problem, target, like):
    problem = make_problem(target, like=like)
    solution = FREED.search(problem)
    problem.space.validate(solution.policy)
    used = problem.cost(solution.policy)[target] / problem.budget.limit
    assert 0.9 < used <= 1 + 1e-9


def plain_scores(problem):
    """All layers alike, errors that fall with the bits."""
    names = [layer.name for layer in problem.space.free_layers]
    errors = [{b: 4.0**-b for b in (2, 3, 4, 5, 6, 8)} for _ in names]
    return Scores(scores_of(names, [1.0] * len(names), errors))


def test_as_published_bits_are_4_or_8_and_weights_and_activations_have_the_same(make_problem):
    problem = make_problem("bops", like=6)
    scores = HAWQV3(images=16, batch=16, probes=2).score(problem)
    assert scores.values["act_trace"] == {}
    solution = HAWQV3().solve(problem, scores)
    free = [solution.policy[layer.name] for layer in problem.space.free_layers]
    assert {bits.weight for bits in free} == {4, 8}
    assert all(bits.weight == bits.act for bits in free)
    assert solution.notes["candidates"] == [4, 8]
    # The best such policy, by brute force.
    costs = problem.layer_costs()
    names = [layer.name for layer in problem.space.free_layers]
    fixed = sum(min(c.values()) for n, c in costs.items() if n not in names)
    totals = []
    for bits in itertools.product((4, 8), repeat=len(names)):
        pairs = dict(zip(names, bits, strict=True))
        if fixed + sum(costs[n][b, b] for n, b in pairs.items()) <= problem.budget.limit:
            totals.append(sum(sensitivity(scores.values, n, b, b) for n, b in pairs.items()))
    assert solution.notes["omega"] == pytest.approx(min(totals))


def test_a_budget_below_4_bits_takes_all_the_bits_of_the_protocol(make_problem):
    problem = make_problem("bops", like=2.5)
    solution = HAWQV3().solve(problem, plain_scores(problem))
    assert problem.within(solution.policy)
    assert solution.notes["candidates"] == [2, 3, 4, 5, 6, 8]
    free = [solution.policy[layer.name] for layer in problem.space.free_layers]
    assert all(bits.weight == bits.act for bits in free)
    assert len({bits.weight for bits in free}) > 1


def test_a_protocol_without_8_bits_has_its_own_candidates(make_problem):
    problem = make_problem("bops", like=3, bits=(2, 3, 4))
    solution = HAWQV3().solve(problem, plain_scores(problem))
    assert solution.notes["candidates"] == [2, 3, 4]
    assert HAWQV3(bits=[3, 4]).solve(problem, plain_scores(problem)).notes["candidates"] == [3, 4]


def test_pinned_activations_leave_the_weights_free(make_problem):
    problem = make_problem("size", like=6)
    solution = HAWQV3().solve(problem, plain_scores(problem))
    free = [solution.policy[layer.name] for layer in problem.space.free_layers]
    assert {bits.weight for bits in free} == {4, 8}
    assert {bits.act for bits in free} == {8}


def test_pairs_that_the_hardware_lacks_give_way_to_the_nearest():
    costs = {
        "a": {(4, 4): 1.0, (4, 8): 2.0, (8, 4): 2.0, (8, 8): 4.0},
        "b": {(2, 8): 1.0, (4, 8): 2.0, (6, 4): 1.0, (6, 8): 3.0},
        "c": {(4, 8): 2.0, (8, 8): 4.0},
    }
    assert matched(costs, []) == {
        "a": {(4, 4): 1.0, (8, 8): 4.0},
        "b": {(2, 8): 1.0, (4, 8): 2.0, (6, 8): 3.0},
        "c": {(4, 8): 2.0, (8, 8): 4.0},
    }
    tied = matched(costs, [("a", "c")])
    assert tied["a"].keys() == tied["c"].keys() == {(4, 8), (8, 8)}


def test_bits_that_are_no_bit_widths_are_refused():
    with pytest.raises(ValueError, match="bits = \\[4, 9\\]"):
        HAWQV3(bits=[4, 9]).validate()


def test_space_groups_are_kept(make_problem):
    group = ("blocks.0.conv2", "blocks.1.pointwise")
    problem = make_problem("bops", like=3, groups=(group,))
    policy = FAST.search(problem).policy
    problem.space.validate(policy)
    assert policy[group[0]] == policy[group[1]]


def test_infeasible_budgets_say_so(make_problem):
    problem = make_problem("bops", like=4)
    problem.budget = Budget("bops", 1.0)
    with pytest.raises(InfeasibleBudget, match="the smallest is"):
        FAST.solve(problem, FAST.score(problem))


def test_same_seed_same_bytes_and_another_seed_differs(make_problem):
    first, again, other = (FAST.score(make_problem(seed=seed)).values for seed in (0, 0, 1))
    assert json.dumps(first) == json.dumps(again)
    assert first["weight_trace"] != other["weight_trace"]


def test_the_network_is_left_alone(make_problem):
    problem = make_problem("bops", like=4)
    problem.network = copy.deepcopy(problem.network)
    problem.network.zero_grad(set_to_none=True)
    before = {k: v.clone() for k, v in problem.network.state_dict().items()}
    FAST.search(problem)
    assert all(torch.equal(v, before[k]) for k, v in problem.network.state_dict().items())
    assert all(p.grad is None for p in problem.network.parameters())
    assert problem.meter.images_backward > 0
    assert problem.meter.policies == 0


def test_nothing_free(make_problem):
    problem = make_problem("bops", like=4, bits=(4,))
    assert FAST.search(problem).policy == problem.space.lowest()
