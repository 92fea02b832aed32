import pytest
import torch

from frameworks.core.supernets.fractional import fractional_rows, hats
from frameworks.core.supernets.relaxations import expected_cost
from frameworks.testing import toy


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        (2.0, [1, 0, 0]),
        (3.0, [0.5, 0.5, 0]),
        (4.0, [0, 1, 0]),
        (7.0, [0, 0.25, 0.75]),
        (8.0, [0, 0, 1]),
        (1.0, [1, 0, 0]),
        (9.5, [0, 0, 1]),
    ],
)
def test_hats_are_shares_of_the_two_neighbours(bits, expected):
    assert hats((2, 4, 8), torch.tensor(bits)).tolist() == pytest.approx(expected)


def test_slope_is_that_of_the_gap_and_none_outside():
    bits = torch.tensor([3.0, 6.0, 1.0, 9.0, 4.0], requires_grad=True)
    hats((2, 4, 8), bits)[:, 2].sum().backward()
    assert bits.grad.tolist() == pytest.approx([0, 0.25, 0, 0, 0.25])


def test_ends_of_the_range_have_the_slope_of_the_interval_inside():
    bits = torch.tensor([2.0, 8.0], requires_grad=True)
    hats((2, 4, 8), bits).square().sum().backward()
    assert bits.grad.tolist() == pytest.approx([-1, 0.5])


def test_gradient_agrees_with_finite_differences():
    bits = torch.tensor([2.3, 3.9, 6.1], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda b: hats((2, 4, 8), b), bits)


@pytest.mark.parametrize("paired", [False, True])
def test_cost_is_exact_at_candidates_and_macs_times_bits_between(paired):
    problem = toy.make_problem("bops", bits=(2, 3, 4), paired=paired)
    space = problem.space
    cost = expected_cost(space, problem.layer_costs())
    for pick in (0, 1, 2):
        values = [choice.bits[pick] for choice in space.choices]
        rows = fractional_rows(space, [torch.tensor(float(v)) for v in values])
        whole = problem.cost(space.decode(values))["bops"]
        assert float(cost(rows)) == pytest.approx(whole, rel=1e-6)
    rows = fractional_rows(space, [torch.tensor(2.5) for _ in space.choices])
    by_hand = 0.0
    for layer in space.layers:
        free = len(space.weight_bits[layer.name]) > 1
        # Equal bits move along the diagonal: halfway between 4 and 9 times the MACs.
        product = (6.5 if paired else 6.25) if free else 64
        by_hand += layer.macs * product
    assert float(cost(rows)) == pytest.approx(by_hand, rel=1e-6)


def test_channels_cost_their_mean():
    problem = toy.make_problem("size", bits=(2, 4))
    space = problem.space
    bits = [torch.tensor([2.0, 4.0, 3.0, 3.0]) for _ in space.choices]
    same = [torch.tensor(3.0) for _ in space.choices]
    assert torch.allclose(fractional_rows(space, bits), fractional_rows(space, same))


def test_hats_have_a_derivative_at_the_first_and_the_last_candidate():
    bits = torch.tensor([2.0, 8.0, 1.9, 8.1], requires_grad=True)
    (hats((2, 4, 8), bits) @ torch.tensor([2.0, 4.0, 8.0])).sum().backward()
    assert bits.grad.tolist() == [1, 1, 0, 0]
