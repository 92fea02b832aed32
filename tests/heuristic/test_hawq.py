import itertools
import json

import pytest
import torch
from torch import nn

from frameworks import (
    Budget,
    Data,
    InfeasibleBudget,
    Policy,
    Problem,
    Recipe,
    Scores,
    Space,
    describe,
    schemes,
    targets,
)
from frameworks.core.policy import FLOAT, LayerBits
from frameworks.heuristic.hawq.framework import HAWQ, free_blocks, omega, ranking
from frameworks.testing import toy

BITS = (2, 4, 8)


class Chain(nn.Module):
    """Linear layers of 64, 32 and 16 weights between pinned ends."""

    def __init__(self):
        super().__init__()
        sizes = (8, 8, 8, 4, 4, 3)
        self.layers = nn.ModuleList(
            nn.Linear(a, b) for a, b in itertools.pairwise(sizes)
        )  # 64, 64, 32, 16, 12 weights

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x.flatten(1)))
        return self.layers[-1](x)


LAYERS = describe(Chain(), (8, 1, 1))
NAMES = [layer.name for layer in LAYERS]
FREE = NAMES[1:-1]
PINNED = {NAMES[0]: (8, 8), NAMES[-1]: (8, 8)}


def chain_problem(limit, target="size", acts=(8,), groups=(), **fields):
    priced = targets.get(target)()
    acts = acts if priced.prices_activations else (8,)
    return Problem(
        network=Chain(),
        space=Space.build(LAYERS, BITS, acts, pinned=PINNED, groups=groups),
        target=priced,
        budget=Budget(priced.metric, limit),
        scheme=schemes.get("minmax")(),
        data=Data(None, None, None),
        **fields,
    )


def values(eigenvalues, errors=None):
    """Scores of the three free blocks; S = eigenvalue / (64, 32, 16)."""
    errors = errors or [{2: 4.0, 4: 1.0, 8: 0.1}] * 3
    return {
        "blocks": {name: [name] for name in FREE},
        "eigenvalue": dict(zip(FREE, eigenvalues, strict=True)),
        "params": dict(zip(FREE, (64, 32, 16), strict=True)),
        "converged": dict.fromkeys(FREE, True),
        "error": {
            name: {str(b): e for b, e in table.items()}
            for name, table in zip(FREE, errors, strict=True)
        },
    }


def size(*bits):
    return (64 * 8 + 64 * bits[0] + 32 * bits[1] + 16 * bits[2] + 12 * 8) / 8


def weights(solution):
    return [solution.policy[name].weight for name in FREE]


def test_ranking_divides_by_parameters_and_omega_does_not():
    # lambda: 10, 8, 6; S = 10/64, 8/32, 6/16: the order is reversed.
    scores = values([10.0, 8.0, 6.0])
    assert ranking(scores) == FREE[::-1]
    assert [omega(scores, name, 4) for name in FREE] == [10, 8, 6]
    # Twice the (dead) weights halve S.
    scores["params"][FREE[2]] *= 2
    assert ranking(scores) == [FREE[1], FREE[2], FREE[0]]


def test_negative_eigenvalues_count_by_magnitude():
    assert ranking(values([1.0, -8.0, 2.0])) == [FREE[1], FREE[2], FREE[0]]
    assert omega(values([1.0, -8.0, 2.0]), FREE[1], 2) == 32


@pytest.mark.parametrize("seed", range(12))
def test_assignment_is_the_best_that_respects_order_and_budget(seed):
    g = torch.Generator().manual_seed(seed)
    draw = (10 ** torch.empty(3).uniform_(-2, 2, generator=g)).tolist()
    errors = [
        dict(zip(BITS, sorted(torch.rand(3, generator=g).tolist(), reverse=True), strict=True))
        for _ in FREE
    ]
    scores = values(draw, errors)
    order = [FREE.index(name) for name in ranking(scores)]
    low, high = size(2, 2, 2), size(8, 8, 8)
    for share in (0, 0.2, 0.5, 0.8, 1):
        limit = low + share * (high - low)
        solution = HAWQ().solve(chain_problem(limit), Scores(scores))
        allowed = [
            bits
            for bits in itertools.product(BITS, repeat=3)
            if size(*bits) <= limit
            and all(bits[a] >= bits[b] for a, b in itertools.pairwise(order))
        ]

        def total(bits, scores=scores):
            return sum(omega(scores, name, b) for name, b in zip(FREE, bits, strict=True))

        found = weights(solution)
        assert tuple(found) in allowed
        assert total(found) == pytest.approx(min(map(total, allowed)))
        assert all(solution.policy[n] == LayerBits(8, 8) for n in PINNED)


def test_hand_worked_order_binds():
    # S ranks the smallest layer first. Free of the order, bits 4, 4, 2 would cost the least Omega
    # (64 * 2.1), as the third layer hardly minds 2 bits; but it may not have fewer than the others,
    # and 4, 4, 4 does not fit.
    errors = [{2: 4, 4: 1, 8: 0}, {2: 4, 4: 1, 8: 0}, {2: 0.1, 4: 0.01, 8: 0}]
    scores = values([64.0, 64.0, 64.0], errors)
    solution = HAWQ().solve(chain_problem(size(4, 4, 2)), Scores(scores))
    assert ranking(scores) == [FREE[2], FREE[1], FREE[0]]
    assert weights(solution) == [2, 4, 8]


def test_stages_are_in_descending_omega_and_differ_from_the_ranking():
    scores = values([10.0, 8.0, 6.0])
    notes = HAWQ().solve(chain_problem(size(4, 4, 4)), Scores(scores)).notes
    assert notes["ranking"] == FREE[::-1]
    order = [notes["omega"][stage[0]] for stage in notes["stages"]]
    assert order == sorted(order, reverse=True)
    assert notes["stages"][0] == [FREE[0]]
    assert json.loads(json.dumps(notes)) == notes


def test_infeasible_budget():
    with pytest.raises(InfeasibleBudget, match="smallest is"):
        HAWQ().solve(chain_problem(size(2, 2, 2) - 1), Scores(values([1.0, 1.0, 1.0])))


def test_tied_blocks_are_one_block():
    problem = chain_problem(1e9, groups=((FREE[0], FREE[2]),))
    assert free_blocks(problem.space) == {FREE[0]: [FREE[0], FREE[2]], FREE[1]: [FREE[1]]}


def test_blocks_of_a_residual_network(make_problem):
    problem = make_problem()
    assert free_blocks(problem.space) == {
        "blocks.0": ["blocks.0.conv1", "blocks.0.conv2"],
        "blocks.1": ["blocks.1.depthwise", "blocks.1.pointwise"],
    }


@pytest.mark.parametrize("kind", [toy.ToyConvNet, toy.ToyViT])
def test_scores_are_plain_data_and_independent_of_the_budget(make_problem, kind):
    framework = HAWQ(images=32, batch=16)
    first, second = (
        framework.score(make_problem(like=like, kind=kind)).values for like in (2.5, 4)
    )
    assert first == second
    assert json.loads(json.dumps(first)) == first
    assert set(first["eigenvalue"]) == set(first["blocks"])
    assert all(value != 0 for value in first["eigenvalue"].values())
    for errors in first["error"].values():
        assert list(errors) == ["2", "3", "4", "5", "6", "8"]
        assert sorted(errors.values(), reverse=True) == list(errors.values())


def test_block_error_is_the_squared_norm_over_its_layers(make_problem):
    problem = make_problem()
    scores = HAWQ(images=16, batch=16, iterations=1).score(problem).values
    total = 0.0
    for name in ("blocks.0.conv1", "blocks.0.conv2"):
        weight = problem.network.get_submodule(name).weight.detach()
        total += float((problem.scheme.weight(weight, 4)(weight) - weight).square().sum())
    assert scores["error"]["blocks.0"]["4"] == pytest.approx(total, rel=1e-6)
    assert scores["params"]["blocks.0"] == 2 * 8 * 8 * 9


@pytest.mark.parametrize("target", ["size", "bops"])
@pytest.mark.parametrize("paired", [False, True])
def test_policies_are_within_budget_and_block_wise(make_problem, target, paired):
    problem = make_problem(target, like=3, paired=paired)
    solution = HAWQ(images=32).search(problem)
    problem.space.validate(solution.policy)
    assert problem.within(solution.policy)
    for names in free_blocks(problem.space).values():
        assert len({solution.policy[name] for name in names}) == 1
    if target == "bops" and not paired:
        free = problem.space.free_layers
        assert len({solution.policy[layer.name].act for layer in free}) == 1


def test_activation_bits_can_be_fixed(make_problem):
    problem = make_problem("bops", like=4)
    solution = HAWQ(images=16, act_bits=3).search(problem)
    assert {solution.policy[layer.name].act for layer in problem.space.free_layers} == {3}
    assert problem.meter.policies == 0  # nothing to choose by validation


def test_activation_bits_are_chosen_by_validation(make_problem):
    problem = make_problem("bops", like=4)
    framework = HAWQ(images=16)
    scores = framework.score(problem)
    best = framework.solve(problem, scores)
    scored = []
    for act in (2, 3, 4, 5, 6, 8):
        try:
            policy = HAWQ(act_bits=act).solve(problem, scores).policy
        except InfeasibleBudget:
            continue
        score = problem.evaluate(policy)
        scored.append((score.accuracy, -score.loss, policy))
    assert len(scored) > 2
    assert best.policy == max(scored, key=lambda entry: entry[:2])[2]


def test_finishing_quantizes_in_stages(make_problem, monkeypatch):
    problem = make_problem("bops", like=4, recipe=Recipe(epochs=2, batch=32, lr=0.01))
    solution = HAWQ(images=16).search(problem)
    stages = solution.notes["stages"]
    assert len(stages) == 2
    seen = []
    train = Problem.train_model

    def spy(self, qmodel, recipe=None, *, axis="fine-tune"):
        seen.append((qmodel.policy, recipe.epochs, axis))
        return train(self, qmodel, recipe, axis=axis)

    monkeypatch.setattr(Problem, "train_model", spy)
    trained = HAWQ().finish(problem, solution)
    assert trained.policy == solution.policy
    assert [epochs for _, epochs, _ in seen] == [1.0, 1.0]
    assert len({axis for *_, axis in seen}) == 2
    quantized = set(problem.space.names) - {name for stage in stages for name in stage}
    for (policy, *_), stage in zip(seen, stages, strict=True):
        quantized |= set(stage)
        for name in problem.space.names:
            expected = solution.policy[name] if name in quantized else LayerBits(FLOAT, FLOAT)
            assert policy[name] == expected


@pytest.mark.parametrize("freeze", [False, True])
def test_frozen_blocks_stop_training(make_problem, freeze):
    problem = make_problem("bops", like=4, recipe=Recipe(epochs=2, batch=32, lr=0.01))
    solution = HAWQ(images=16).search(problem)
    trained = HAWQ(freeze_done=freeze).finish(problem, solution)
    for name in (name for stage in solution.notes["stages"] for name in stage):
        assert trained.qlayer(name).inner.weight.requires_grad != freeze


def test_stages_are_byte_equal_when_repeated(make_problem):
    def run(seed):
        problem = make_problem("bops", like=4, seed=seed)
        solution = HAWQ(images=16).search(problem)
        state = HAWQ().finish(problem, solution).state_dict()
        return [value for value in state.values() if value.is_floating_point()]

    first, again, other = run(0), run(0), run(1)
    assert all(map(torch.equal, first, again))
    assert not all(map(torch.equal, first, other))


def test_nothing_free_is_trained_in_one_stage(make_problem):
    problem = make_problem("bops", like=4, bits=(4,))
    solution = HAWQ(images=16).search(problem)
    assert solution.policy == problem.space.lowest()
    assert solution.notes["stages"] == []
    assert HAWQ().finish(problem, solution).policy == solution.policy


def test_float_policy_is_not_a_candidate():
    solution = HAWQ().solve(chain_problem(1e9), Scores(values([1.0, 1.0, 1.0])))
    assert solution.policy == Policy.uniform(LAYERS, 8, 8)


def test_eigenvalues_that_are_not_converged_are_noted(make_problem):
    problem = make_problem("bops", like=4)
    few, many = (HAWQ(images=16, iterations=n).search(problem).notes for n in (3, 500))
    assert few["not_converged"] == list(free_blocks(problem.space))
    assert many["not_converged"] == []
