import itertools
import math

import pytest
import torch

from frameworks.core.supernets.relaxations import (
    Choices,
    ExpectedCost,
    choice_rows,
    expected_cost,
    temperature,
)
from frameworks.testing import toy


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def choices_of(*logits):
    choices = Choices([len(row) for row in logits])
    with torch.no_grad():
        for row, values in enumerate(logits):
            choices.logits[row, : len(values)] = torch.tensor(values)
    return choices


def test_temperature_by_hand():
    assert temperature(5.0, 0.025, 0) == 5.0
    assert temperature(5.0, 0.025, 40) == pytest.approx(5 / math.e)
    assert temperature(5.0, math.log(2), 3) == pytest.approx(0.625)


def test_probabilities_are_uniform_over_real_candidates_at_the_start():
    p = Choices([3, 1, 2], start=0.01).probabilities()
    expected = torch.tensor([[1 / 3] * 3, [1, 0, 0], [0.5, 0.5, 0]])
    torch.testing.assert_close(p, expected)


def test_probabilities_by_hand():
    p = choices_of([math.log(1), math.log(3)], [0.0, math.log(2), math.log(5)]).probabilities()
    torch.testing.assert_close(p, torch.tensor([[0.25, 0.75, 0], [1 / 8, 2 / 8, 5 / 8]]))


def test_missing_candidates_get_no_gradient():
    choices = Choices([3, 2])
    (choices.probabilities() * torch.randn(2, 3, generator=generator())).sum().backward()
    assert choices.logits.grad is not None
    assert choices.logits.grad[1, 2] == 0
    assert choices.logits.grad[1, :2].abs().min() > 0


@pytest.mark.parametrize("tau", [5.0, 1.0, 0.1, 1e-3])
def test_gumbel_masks_sum_to_one(tau):
    choices = choices_of([0.0, 3.0, -2.0, 1.0], [1.0, 0.0], [0.5])
    g = generator()
    for _ in range(50):
        masks = choices.gumbel(tau, g)
        torch.testing.assert_close(masks.sum(1), torch.ones(3))
        assert (masks >= 0).all()
        assert masks[1, 2:].sum() == 0
        assert masks[2, 0] == 1


def test_gumbel_by_hand():
    choices = choices_of([0.2, -0.3, 1.0])
    u = torch.rand(1, 3, generator=generator(7)).double()
    e = torch.exp((torch.tensor([[0.2, -0.3, 1.0]]).double() - (-u.log()).log()) / 0.7)
    expected = (e / e.sum()).float()
    torch.testing.assert_close(choices.gumbel(0.7, generator(7)), expected)


def test_cold_masks_are_one_hot_samples_of_the_softmax():
    choices = choices_of([math.log(0.2), math.log(0.5), math.log(0.3)])
    g = generator(3)
    masks = torch.cat([choices.gumbel(1e-3, g) for _ in range(4000)])
    # Two values are that close in about one draw of a thousand.
    assert (masks.max(1).values > 0.99).float().mean() > 0.97
    torch.testing.assert_close(masks.mean(0), torch.tensor([0.2, 0.5, 0.3]), atol=0.03, rtol=0)


def test_hot_masks_are_uniform():
    masks = choices_of([0.0, 5.0, -5.0]).gumbel(1e6, generator())
    torch.testing.assert_close(masks, torch.full((1, 3), 1 / 3), atol=1e-4, rtol=0)


def test_masks_follow_the_generator_alone():
    choices = Choices([4, 3])
    torch.manual_seed(0)
    first = choices.gumbel(1.0, generator(1))
    torch.manual_seed(1)
    assert torch.equal(first, choices.gumbel(1.0, generator(1)))
    assert not torch.equal(first, choices.gumbel(1.0, generator(2)))


def test_gumbel_is_differentiable():
    choices = choices_of([0.3, -0.1])
    masks = choices.gumbel(2.0, generator(5))
    masks[0, 0].backward()
    m = masks.detach()[0]
    torch.testing.assert_close(choices.logits.grad[0], m[0] * m[1] / 2 * torch.tensor([1.0, -1]))


def test_best_takes_the_first_of_equals():
    assert choices_of([1.0, 1.0, 0.0], [-3.0, -1.0], [-5.0]).best() == [0, 1, 0]


def test_samples_follow_the_distribution():
    choices = choices_of([math.log(0.1), math.log(0.9)], [math.log(0.6), math.log(0.4)])
    g = generator()
    picks = torch.tensor([choices.sample(g) for _ in range(2000)], dtype=torch.float)
    torch.testing.assert_close(picks.mean(0), torch.tensor([0.9, 0.4]), atol=0.04, rtol=0)
    assert choices.sample(generator(1)) == choices.sample(generator(1))


def test_hard_masks_are_the_samples():
    choices = choices_of([0.3, 0.0, -0.2], [1.0, 0.0])
    drawn, masks = generator(3), generator(3)
    for _ in range(20):
        picks, hard = choices.sample(drawn), choices.hard(masks)
        assert hard.shape == (2, 3)
        assert hard.argmax(1).tolist() == picks
        assert hard.sum(1).tolist() == [1, 1]
        assert not hard.requires_grad


def test_entropy_by_hand():
    assert Choices([3, 5]).entropy() == pytest.approx(1)
    assert choices_of([0.0, 200.0]).entropy() == 0
    half = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / math.log(2)
    assert choices_of([0.0, math.log(3)]).entropy() == pytest.approx(half, rel=1e-5)


def test_entropy_leaves_out_choices_of_one_candidate():
    assert Choices([4, 1]).entropy() == pytest.approx(1)
    assert Choices([1, 1]).entropy() == 0


def test_expected_cost_by_hand():
    # 3 * (2, 5) . p0 + p0^T [[1, 2], [3, 4]] p1 + 10, in units of 2.
    terms = [
        (0, None, torch.tensor([[6.0], [15.0]])),
        (0, 1, torch.tensor([[1.0, 2.0], [3.0, 4.0]])),
        (None, 1, torch.tensor([[0.0, 8.0]])),
        (None, None, torch.tensor([[10.0]])),
    ]
    p = torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    first, second = 0.25 * 6 + 0.75 * 15, 0.25 * 1.5 + 0.75 * 3.5
    cost = ExpectedCost(terms, rows=2, unit=2.0)(p)
    assert float(cost) == pytest.approx((first + second + 4 + 10) / 2)


SPACES = [
    dict(target="bops", bits=(2, 4, 8)),
    dict(target="size", bits=(2, 3, 8)),
    dict(target="bops", bits=(2, 4, 8), paired=True),
    dict(target="bops", bits=(2, 4), groups=[("blocks.0.conv2", "blocks.1.pointwise")]),
]


@pytest.mark.parametrize("kind", SPACES, ids=["bops", "size", "paired", "tied"])
def test_expected_cost_is_the_mean_over_all_policies(kind):
    problem = toy.make_problem(**kind, like=3)
    space = problem.space
    counts = [len(choice.bits) for choice in space.choices]
    choices = Choices(counts)
    with torch.no_grad():
        choices.logits.copy_(torch.randn(choices.logits.shape, generator=generator(2)))
    p = choices.probabilities().detach()
    total = mass = 0.0
    for picks in itertools.product(*map(range, counts)):
        chance = math.prod(float(p[i, k]) for i, k in enumerate(picks))
        policy = space.decode([c.bits[k] for c, k in zip(space.choices, picks, strict=True)])
        total += chance * problem.cost(policy)[problem.budget.metric]
        mass += chance
    assert mass == pytest.approx(1, rel=1e-5)
    cost = expected_cost(space, problem.layer_costs(), unit=7.0)
    assert float(cost(p)) == pytest.approx(total / 7, rel=1e-5)


def test_expected_cost_gradient_by_finite_differences():
    problem = toy.make_problem("bops", bits=(2, 4, 8))
    base = problem.cost(problem.space.lowest())["bops"]
    cost = expected_cost(problem.space, problem.layer_costs(), unit=base).double()
    choices = Choices([len(c.bits) for c in problem.space.choices]).double()
    with torch.no_grad():
        choices.logits.copy_(torch.randn(choices.logits.shape, generator=generator(4)))
    cost(choices.probabilities()).backward()
    gradient = choices.logits.grad.clone()
    numeric = torch.zeros_like(gradient)
    for index in itertools.product(*map(range, gradient.shape)):
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                choices.logits[index] += sign * 1e-5
                ends.append(float(cost(choices.probabilities())))
                choices.logits[index] -= sign * 1e-5
        numeric[index] = (ends[0] - ends[1]) / 2e-5
    torch.testing.assert_close(gradient, numeric, atol=1e-7, rtol=1e-5)


def test_unsupported_pairs_count_as_the_dearest():
    problem = toy.make_problem("bops", bits=(2, 8))
    costs = {name: dict(table) for name, table in problem.layer_costs().items()}
    name = problem.space.free_layers[0].name
    del costs[name][2, 8]
    p = torch.zeros(len(problem.space.choices), 2)
    p[:, 0] = 1
    p[1] = torch.tensor([0.0, 1])  # the first layer at W2A8, all else at W2A2
    expected = sum(t[2, 2] for n, t in costs.items() if (2, 2) in t and n != name)
    expected += sum(t[8, 8] for t in costs.values() if len(t) == 1) + costs[name][8, 8]
    assert float(expected_cost(problem.space, costs)(p)) == pytest.approx(expected, rel=1e-5)


def test_choice_rows():
    space = toy.make_problem("bops", groups=[("blocks.0.conv1", "blocks.0.conv2")]).space
    rows = choice_rows(space)
    assert rows["stem"] == rows["fc"] == (None, None)
    assert rows["blocks.0.conv1"] == rows["blocks.0.conv2"] == (0, 1)
    assert rows["blocks.1.depthwise"] == (2, 3)
    only_weights = choice_rows(toy.make_problem("size").space)
    assert only_weights["blocks.0.conv1"] == (0, None)
    paired = choice_rows(toy.make_problem("bops", paired=True).space)
    assert paired["blocks.0.conv1"] == (0, 0)
