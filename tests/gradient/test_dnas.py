import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from frameworks import steer
from frameworks.core.supernets.decisions import decided
from frameworks.gradient.dnas import DNAS, _Search, cost_factor
from frameworks.testing import toy

PAIRS = [[2, 2], [4, 4], [8, 8]]
FAST = DNAS(
    **{"epochs": 3, "warmup": 1, "images": 96, "batch": 32, "lr": 0.02, "theta_lr": 0.5},
    **{"sample_every": 1, "samples": 4, "anneal": 0.5, "pairs": PAIRS},
)


def state(parameters):
    return [p.detach().clone() for p in parameters]


def same(before, parameters):
    return all(torch.equal(a, b) for a, b in zip(before, parameters, strict=True))


def record(search):
    """Every image that the super net sees in training, and its masks, from now on."""
    seen, masks = [], []

    def note(module, args):
        seen.append(args[0].clone())
        masks.append([block.masks for block in search.net.blocks.values()])

    search.net.register_forward_pre_hook(note)
    return seen, masks


def test_cost_factor_by_hand():
    start = math.e**2
    assert float(cost_factor(torch.tensor(start), start, 0.9)) == pytest.approx(1)
    assert float(cost_factor(torch.tensor(math.e**4), start, 3.0)) == pytest.approx(8)
    assert float(cost_factor(torch.tensor(math.e), start, 2.0)) == pytest.approx(0.25)


@pytest.mark.parametrize("gamma", [0.9, 3.0])
def test_cost_factor_gradient(gamma):
    cost = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    cost_factor(cost, 9.0, gamma).backward()
    values = torch.tensor([5 + 1e-4, 5 - 1e-4], dtype=torch.float64)
    ends = cost_factor(values, 9.0, gamma)
    assert float(cost.grad) == pytest.approx(float(ends[0] - ends[1]) / 2e-4, rel=1e-5)


def test_loss_is_a_product():
    # d(CE * C) = C dCE + CE dC: both terms reach theta.
    search = _Search(replace(FAST, gamma=2.0, augment=False), toy.make_problem("bops"))
    x, y = next(search.for_theta.batches(32))
    search.net.eval()

    def parts(masks):
        search.net.mask(masks)
        factor = cost_factor(search.cost(masks), search.start_cost, 2.0)
        return functional.cross_entropy(search.net(x), y), factor

    masks = search.choices.probabilities()
    ce, factor = parts(masks)
    theta = search.choices.logits
    (of_ce,) = torch.autograd.grad(ce, theta, retain_graph=True)
    (of_factor,) = torch.autograd.grad(factor, theta)
    product = math.prod(parts(search.choices.probabilities()))
    (of_loss,) = torch.autograd.grad(product, theta)
    torch.testing.assert_close(of_loss, factor * of_ce + ce * of_factor)
    assert float(factor.detach()) == pytest.approx(1, abs=1e-5)  # beta makes it 1 at the start
    assert bool((of_factor.diff(dim=1) > 0).all())  # more bits, more cost


def test_weights_and_theta_train_on_disjoint_parts():
    search = _Search(replace(FAST, images=None, augment=False), toy.make_problem("bops"))
    assert (len(search.for_weights), len(search.for_theta)) == (205, 51)
    seen, _ = record(search)
    search.train_weights(1.0)
    for_weights = {x.numpy().tobytes() for batch in seen for x in batch}
    seen.clear()
    search.train_theta(1.0)
    for_theta = {x.numpy().tobytes() for batch in seen for x in batch}
    assert (len(for_weights), len(for_theta)) == (205, 51)
    assert not for_weights & for_theta
    everything = {x.numpy().tobytes() for x in search.problem.train.images()}
    assert for_weights | for_theta == everything


def test_each_phase_leaves_the_other_alone():
    search = _Search(FAST, toy.make_problem("bops"))
    theta, weights = state([search.choices.logits]), state(search.weights)
    search.train_weights(1.0)
    assert same(theta, [search.choices.logits])
    assert not same(weights, search.weights)
    weights = state(search.weights)
    search.train_theta(1.0)
    assert same(weights, search.weights)
    assert not same(theta, [search.choices.logits])
    assert all(p.requires_grad for p in search.weights)


def test_both_phases_draw_one_mask_per_batch():
    search = _Search(FAST, toy.make_problem("bops"))
    for train, batches, watched in ((search.train_weights, 3, 0), (search.train_theta, 1, 1)):
        seen, masks = record(search)
        train(2.0)
        assert len(seen) == batches + watched  # 80 % and 20 % of 96 images
        rows = torch.stack([torch.stack(row) for row in masks]).detach()
        torch.testing.assert_close(rows.sum(2), torch.ones(batches + watched, 2))
        assert len({row.numpy().tobytes() for row in rows}) == batches + watched


def test_the_objective_watched_is_that_of_sampled_architectures():
    search = _Search(replace(FAST, gamma=2.0), toy.make_problem("bops"))
    with torch.no_grad():
        search.choices.logits.copy_(torch.tensor([[0.0, 40.0, 0.0], [40.0, 0.0, 0.0]]))
    seen, masks = record(search)
    ran = []
    for block in search.net.blocks.values():
        for number, copy in enumerate(block.copies):
            copy.register_forward_hook(lambda *_, number=number: ran.append(number))
    search.train_theta(1.0)
    assert torch.equal(torch.stack(masks[0]), torch.tensor([[0.0, 1, 0], [1, 0, 0]]))
    assert ran[:2] == [1, 0]  # of its copies, each block ran the chosen one alone
    assert len(ran) == 2 + 6
    assert torch.equal(seen[0], seen[1])  # the batch that theta steps on
    (task,), (value,) = search.course.losses, search.course.values
    assert value == pytest.approx(task * float(search.factor(torch.stack(masks[0]))), rel=1e-6)
    assert value != pytest.approx(task)


@pytest.mark.filterwarnings("ignore:Detected call of .lr_scheduler.step")
def test_schedule_of_the_phases():
    search = _Search(replace(FAST, epochs=5, warmup=2, sample_every=2), toy.make_problem("bops"))
    log = []
    for name in ("train_weights", "train_theta", "sample"):
        setattr(search, name, lambda *args, name=name: log.append((name, *args)))
    search.best = ((True, 0.0, 0.0), search.problem.space.lowest())
    search.run()
    tau = [pytest.approx(5 * math.exp(-0.5 * epoch)) for epoch in range(5)]
    assert log == [
        ("train_weights", tau[0]),
        ("train_weights", tau[1]),
        ("train_weights", tau[2]), ("train_theta", tau[2]),
        ("train_weights", tau[3]), ("train_theta", tau[3]), ("sample",),
        ("train_weights", tau[4]), ("train_theta", tau[4]), ("sample",),
    ]  # fmt: skip


def test_optimizers():
    search = _Search(DNAS(pairs=PAIRS), toy.make_problem("bops"))
    weights, ranges = search.sgd.param_groups
    assert (weights["lr"], weights["momentum"], weights["weight_decay"]) == (0.2, 0.9, 5e-4)
    assert (ranges["lr"], ranges["weight_decay"]) == (pytest.approx(0.02), 0)
    (theta,) = search.adam.param_groups
    assert (theta["lr"], theta["weight_decay"]) == (5e-3, 1e-3)


def test_strength_pushes_to_cheap_blocks():
    def chances(gamma):
        search = _Search(replace(FAST, gamma=gamma), toy.make_problem("bops"))
        for _ in range(14):
            search.train_theta(20.0)  # hot masks have little noise
        return search.choices.probabilities().detach()

    strong, weak = chances(5.0), chances(1e-6)
    # The first block has 96 % of the searched operations.
    assert strong[0, 0] > 0.5
    assert weak[0, 0] < 0.4


def test_the_most_accurate_sample_within_the_budget_is_kept():
    problem = toy.make_problem("bops", like=4)
    search = _Search(replace(FAST, samples=40), problem)
    search.sample()
    policies = [search.best[1]]
    for _ in range(3):
        search.sample()
        policies.append(search.best[1])
    scores = [problem.evaluate(policy) for policy in policies]
    ranks = [(score.accuracy, -score.loss) for score in scores]
    assert all(problem.within(policy) for policy in policies)
    assert ranks == sorted(ranks)
    # All that fit were drawn: (2,2), (4,4) and (8,8) of both blocks.
    fits = [decided(problem.space, search.decisions, (i, j)) for i in range(3) for j in range(3)]
    scores = [problem.evaluate(policy) for policy in fits if problem.within(policy)]
    assert ranks[-1] == max((score.accuracy, -score.loss) for score in scores)


def test_without_a_sample_within_the_budget_the_cheapest_is_kept():
    problem = toy.make_problem("bops", like=2)
    search = _Search(replace(FAST, pairs=[[4, 4], [8, 8]], samples=40), problem)
    search.sample()
    assert not problem.within(search.best[1])
    assert {search.best[1][x.name].weight for x in problem.space.free_layers} == {4}
    assert problem.meter.policies == 0


@pytest.mark.parametrize(("target", "like"), [("bops", 2.5), ("size", 3)])
def test_the_budget_is_met_by_steering(target, like):
    problem = toy.make_problem(target, like=like, needs=DNAS.card.needs)
    solution = steer(FAST, problem)
    assert problem.within(solution.policy)
    problem.space.validate(solution.policy)
    assert solution.policy["stem"].weight == solution.policy["fc"].weight == 8
    assert len(solution.notes["steering"]) <= 6
    assert any(c.policy == solution.policy for c in problem.checkpoints)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": toy.ToyViT},
        {"paired": True},
        {"scheme": "dorefa_pact"},
        {"groups": [("blocks.0.conv1", "blocks.1.depthwise")]},
    ],
    ids=["vit", "paired", "dorefa_pact", "tied"],
)
def test_other_spaces_networks_and_schemes(changes):
    problem = toy.make_problem("bops", like=4, **changes)
    policy = replace(FAST, epochs=2).search(problem).policy
    problem.space.validate(policy)


def test_a_block_has_one_pair_of_bits():
    policy = FAST.search(toy.make_problem("bops")).policy
    assert policy["blocks.0.conv1"] == policy["blocks.0.conv2"]
    assert policy["blocks.1.depthwise"] == policy["blocks.1.pointwise"]


def test_notes():
    notes = FAST.search(toy.make_problem("bops")).notes
    assert notes["temperature"] == pytest.approx(5 * math.exp(-1))
    assert notes["gamma"] == 0.9
    assert notes["candidates"] == [3, 3]
    assert notes["learning"]["objective"] == "cross-entropy * cost factor of sampled architectures"
    assert len(notes["learning"]["curve"]) == 2  # one batch of theta's in each of two epochs
    assert 0 < notes["entropy"] <= 1


def test_same_seed_same_result():
    def found(seed):
        problem = toy.make_problem("bops", seed=seed)
        solution = replace(FAST, epochs=2).search(problem)
        return solution.policy, solution.notes, [c.policy for c in problem.checkpoints]

    torch.manual_seed(1)
    first = found(0)
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    assert found(0) == first
    assert found(1)[1] != first[1]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_nothing_to_search_is_skipped():
    assert "one candidate" in replace(FAST, pairs=[[4, 4]]).skip(toy.make_problem("bops"))
    assert FAST.skip(toy.make_problem("bops")) is None
    assert "sum over layers" in FAST.skip(toy.make_problem(toy.Peak()))


def test_divergence_is_reported():
    with pytest.raises(FloatingPointError, match="diverged in pass 1"):
        replace(FAST, lr=1e20).search(toy.make_problem("bops"))
