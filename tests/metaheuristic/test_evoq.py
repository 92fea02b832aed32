"""EvoQ's fitness, mutation and calibration by hand; and that it searches."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from frameworks import Score, registry
from frameworks.core.policy import FLOAT
from frameworks.core.quantizers.base import Codes
from frameworks.core.search.sensitivities import Sensitivity, assign
from frameworks.core.solution import Solution
from frameworks.metaheuristic.evoq import framework
from frameworks.metaheuristic.evoq.calibration import calibrate, fitted, outputs, put
from frameworks.metaheuristic.evoq.differences import Differences, difference, uniform_within
from frameworks.metaheuristic.evoq.framework import EvoQ, winner
from frameworks.metaheuristic.evoq.mutation import Mutation
from frameworks.testing import toy

NEEDS = frozenset({"calibration"})
SHORT = {"images": 20, "evaluations": 40, "population": 10, "tournament": 4}


def problem(*args, **more):
    return toy.make_problem(*args, **{"needs": NEEDS, **more})


# --- fitness -------------------------------------------------------------------------------


def test_difference_by_hand():
    v = torch.tensor([[3.0, 4.0]])
    assert difference(v, v) == 0
    assert difference(torch.tensor([[3.0, 3.0]]), v) == pytest.approx(0.04)
    two = torch.tensor([[3.0, 3.0], [0.0, 2.0]])
    assert difference(two, torch.tensor([[3.0, 4.0], [0.0, 1.0]])) == pytest.approx(0.52)
    assert difference(10 * two, 10 * v) == pytest.approx(difference(two, v))
    assert difference(torch.tensor([[float("nan"), 3.0]]), v) == float("inf")


@torch.no_grad()
def by_hand(asked, policy, images):
    """D of the whole network at a policy, without any of the evaluator's savings."""
    v = asked.float_model()(images).double()
    z = asked.correct(asked.quantized(policy))(images).double()
    return float(((z - v).norm(dim=1) / v.norm(dim=1)).square().mean())


def test_fitness_and_sensitivities_are_differences_on_the_samples():
    asked = problem(bits=(2, 4, 8))
    images = asked.images[:20]
    judge = Differences(asked, images)
    middle = asked.space.reference(4, 4)
    assert judge(middle).loss == pytest.approx(by_hand(asked, middle, images), rel=1e-4)
    counted = asked.meter.policies
    found = judge.sensitivities(asked.space.reference(2, 4))
    assert asked.meter.policies == counted
    names = asked.space.names
    for choice, value in zip(asked.space.choices, found, strict=True):
        (name,) = choice.layers
        bits = {"weight": 2} if choice.kind == "weight" else {"act": 4}
        alone = asked.space.reference(2, 2)
        for other in names:
            alone = alone.replace(other, weight=FLOAT, act=FLOAT)
        alone = alone.replace(name, **bits)
        assert value == pytest.approx(by_hand(asked, alone, images), rel=1e-3, abs=1e-9)


def test_the_start_is_the_uniform_policy_of_most_bits_within():
    asked = problem(like=3, bits=(2, 3, 4, 8))
    assert uniform_within(asked, (2, 3, 4, 8)) == asked.space.reference(3, 3)
    assert uniform_within(problem(like=4.5, bits=(2, 4)), (2, 4)) == asked.space.reference(4, 4)
    tight = problem(like=3, bits=(3, 4), paired=True)
    assert uniform_within(tight, (4,)) == tight.cheapest()


# --- mutation ------------------------------------------------------------------------------


class Sized:
    """Layers of these sizes, in bits of all weights; a policy is a list of bits."""

    def __init__(self, sizes, limit, bits):
        choices = tuple(type("C", (), {"bits": tuple(bits), "layers": (i,)}) for i in sizes)
        encode, decode = staticmethod(tuple), staticmethod(tuple)
        self.space = type("S", (), {"choices": choices, "encode": encode, "decode": decode})
        self.sizes, self.limit = sizes, limit

    def within(self, values):
        return sum(n * b for n, b in zip(self.sizes, values, strict=True)) <= self.limit


def test_chances_by_hand():
    mutation = Mutation(Sized([1] * 4, 8, (2,)), [4, 2, 1, 1], np.random.default_rng(0))
    assert mutation.up / mutation.up.sum() == pytest.approx([0.5, 0.25, 0.125, 0.125])
    assert mutation.down / mutation.down.sum() == pytest.approx([1 / 11, 2 / 11, 4 / 11, 4 / 11])
    assert Mutation(Sized([1] * 2, 8, (2,)), [0, 0], None).up.tolist() == [1, 1]
    assert (Mutation(Sized([1] * 2, 8, (2,)), [0, 3], None).down > 0).all()


def test_draws_follow_the_chances():
    mutation = Mutation(Sized([1] * 4, 99, (2,)), [4, 2, 1, 1], np.random.default_rng(0))
    drawn = [mutation.drawn(mutation.up, [0, 1, 2]) for _ in range(7000)]
    shares = np.bincount(drawn, minlength=4) / 7000
    assert shares == pytest.approx([4 / 7, 2 / 7, 1 / 7, 0], abs=0.02)


def test_a_bit_of_a_layer_twice_as_large_costs_two_bits_of_the_other():
    asked = Sized([1000, 500], 6000, range(2, 9))
    mutation = Mutation(asked, [1e9, 1], np.random.default_rng(0))
    assert mutation((4, 4)) == (5, 2)  # 1000 - 2 * 500 = 0
    back = Mutation(asked, [1, 1e9], np.random.default_rng(0))
    assert back((4, 4)) == (3, 5)  # and half a step that is left over
    assert back((3, 5)) == (3, 6)  # is used by the next one


def test_a_step_down_that_is_not_needed_is_taken_back():
    """The small layer is lowered first, in vain: the large one pays for the raise alone."""
    asked = Sized([1000, 10, 1000], 4 * 2010, range(2, 9))
    for seed in range(5):
        mutation = Mutation(asked, [1e9, 1e-3, 1], np.random.default_rng(seed))
        assert mutation((4, 4, 4)) == (5, 4, 3)


def test_a_sensitive_decision_is_raised_and_an_insensitive_one_lowered():
    asked = problem(like=3, bits=(2, 3, 4))
    start = [3] * len(asked.space.choices)

    def price(i):
        return asked.cost(asked.space.decode([*start[:i], 4, *start[i + 1 :]]))["bops"]

    cheap, dear = (pick(range(len(start)), key=price) for pick in (min, max))
    weights = np.full(len(start), 1.0)
    weights[cheap], weights[dear] = 1e4, 1e-4
    mutation = Mutation(asked, weights, np.random.default_rng(0))
    wanted = list(start)
    wanted[cheap], wanted[dear] = 4, 2
    assert list(asked.space.encode(mutation(asked.space.decode(start)))) == wanted


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), like=st.sampled_from([2, 2.4, 3, 5]), paired=st.booleans())
def test_mutants_are_within_the_budget_and_a_step_up(seed, like, paired):
    asked = problem(like=like, bits=(2, 3, 4, 8), paired=paired)
    rng = np.random.default_rng(seed)
    mutation = Mutation(asked, rng.random(len(asked.space.choices)), rng)
    policy = uniform_within(asked, (2, 3, 4, 8))
    for _ in range(6):
        made = mutation(policy)
        assert asked.within(made)
        pairs = zip(asked.space.encode(policy), asked.space.encode(made), strict=True)
        assert sum(b > a for a, b in pairs) <= 1
        policy = made


# --- search --------------------------------------------------------------------------------


class Additive(dict):
    """Losses that add up: every decision loses its weight times 4^-bits."""

    def __init__(self, space, seed):
        super().__init__()
        rng = np.random.default_rng(seed)
        names = [layer.name for layer in space.free_layers]
        bits = sorted({b for c in space.choices for b in c.bits})
        self.table = [
            {n: {b: float(w) * 4.0**-b for b in bits} for n, w in zip(names, row, strict=True)}
            for row in np.exp(rng.normal(0, 1.5, (2, len(names))))
        ]

    def __missing__(self, policy):
        weight, act = self.table
        loss = sum(weight[n][policy[n].weight] + act[n][policy[n].act] for n in weight)
        return Score(100 * np.exp(-loss), loss)


class Interacting(Additive):
    """Neighbours lose something together, too, as errors that meet do."""

    def __missing__(self, policy):
        weight, act = self.table
        each = [weight[n][policy[n].weight] + act[n][policy[n].act] for n in weight]
        pairs = itertools.pairwise(each)
        loss = sum(each) + 2 * sum((a * b) ** 0.5 for a, b in pairs)
        return Score(100 * np.exp(-loss), loss)


def test_it_searches_where_losses_interact():
    """Nearer to the best found by either than random, which may evaluate what sensitivities do."""
    found = {"evoq": [], "random": []}
    for seed in range(8):
        asked = problem("bops", like=3, needs=toy.DATA_NEEDS, seed=seed, bits=(2, 3, 4, 5, 6, 8))
        known = Interacting(asked.space, seed)
        more = len(asked.space.choices) + 1
        for name, options in (
            ("evoq", {"evaluations": 100, "population": 20, "tournament": 5}),
            ("random", {"evaluations": 100 + more}),
        ):
            policy = registry.get(name)(**options).search(asked.at(known=known)).policy
            found[name].append(known[policy].loss)
    ours, drawn = map(np.array, found.values())
    assert (ours <= drawn).sum() >= 7
    assert np.log(ours).mean() < np.log(drawn).mean() - 0.05


def test_what_the_uniform_policy_leaves_is_filled_before_it_is_mutated():
    asked = problem(like=2.6, bits=(2, 3, 4))
    mutation = Mutation(asked, [1.0] * len(asked.space.choices), np.random.default_rng(0))
    start = uniform_within(asked, (2, 3, 4))
    values = list(asked.space.encode(mutation.filled(start)))
    assert start == asked.space.reference(2, 2)
    assert asked.within(asked.space.decode(values))
    for i, value in enumerate(values):
        if value < 4:
            assert not asked.within(asked.space.decode([*values[:i], value + 1, *values[i + 1 :]]))


def regrets(name, seeds, **options):
    found = []
    for seed in range(seeds):
        asked = problem("bops", like=3, needs=toy.DATA_NEEDS, seed=seed, bits=(2, 3, 4, 5, 6, 8))
        known = Additive(asked.space, seed)
        best = known[assign(asked, Sensitivity(*known.table))]
        searched = asked.at(known=known)
        policy = registry.get(name)(**options).search(searched).policy
        assert searched.meter.policies == options["evaluations"]
        found.append(known[policy].loss / best.loss - 1)
    return np.array(found)


@pytest.mark.parametrize("seed", range(4))
def test_mutants_lose_less_where_they_go_by_sensitivities(seed):
    """Of the start's own mutants, so many that chance is out: what follows selects among these."""
    asked = problem("bops", like=3, needs=toy.DATA_NEEDS, seed=seed, bits=(2, 3, 4, 5, 6, 8))
    known = Additive(asked.space, seed)
    judge = Differences(asked.at(known=known), asked.images[:20])
    start = uniform_within(asked, (2, 3, 4, 5, 6, 8))
    found = []
    for sensitivities in (judge.sensitivities(start), [1.0] * len(asked.space.choices)):
        mutation = Mutation(asked, sensitivities, np.random.default_rng(seed))
        filled = mutation.filled(start)
        found.append(np.array([known[mutation(filled)].loss for _ in range(100)]))
    apart = np.sqrt(sum(losses.var() / len(losses) for losses in found))
    assert found[0].mean() < found[1].mean() - 3 * apart


def test_it_searches():
    """Nearer to the optimum than random at equal evaluations."""
    options = {"evaluations": 100, "population": 20, "tournament": 5}
    guided = regrets("evoq", 12, **options)
    assert (guided >= -1e-9).all()
    assert guided.mean() < 0.5 * regrets("random", 12, evaluations=100).mean()


def test_what_it_evaluates_gets_better():
    asked = problem("bops", like=3)
    searched = asked.at(known=Additive(asked.space, 0))
    method = EvoQ(evaluations=60, population=12, tournament=4)
    assert method.search(searched).notes["learning"]["improved"]


def test_every_evaluation_is_of_a_new_policy_and_the_best_is_returned():
    asked = problem(like=3)
    solution = EvoQ(**SHORT).search(asked)
    notes = solution.notes
    assert asked.meter.policies == notes["distinct"] == 40 <= notes["draws"]
    assert notes["reward"] == max(notes["rewards"]) == asked.checkpoints[-1].objective
    images = asked.images[:20]
    assert by_hand(asked, solution.policy, images) == pytest.approx(-notes["reward"], rel=1e-3)
    start = uniform_within(asked, (2, 3, 4, 5, 6, 8))
    assert asked.checkpoints[0].policy == start
    assert by_hand(asked, solution.policy, images) < by_hand(asked, start, images)
    assert len(notes["sensitivities"]) == len(asked.space.choices)
    assert notes["learning"]["curve"]


def test_a_population_of_one_is_searched_too():
    asked = problem(like=3)
    notes = EvoQ(evaluations=8, images=20, population=1, tournament=1).search(asked).notes
    assert asked.meter.policies == notes["distinct"] == 8


def test_a_space_of_few_policies_ends_by_draws():
    asked = problem(like=3.5, bits=(2, 4), groups=[[x.name for x in problem().space.free_layers]])
    notes = EvoQ(**{**SHORT, "evaluations": 10}).search(asked).notes
    assert notes["distinct"] <= 4
    assert notes["draws"] == 3 * 10


def test_the_fittest_of_those_drawn_is_the_parent():
    rng = np.random.default_rng(0)
    members = [("a", 3.0), ("b", 1.0), ("c", 2.0), ("d", 9.0)]
    assert winner(members, 4, rng) == "b"
    assert {winner(members, 1, rng) for _ in range(60)} == {"a", "b", "c", "d"}
    assert {winner(members, 2, rng) for _ in range(60)} == {"a", "b", "c"}


def test_the_population_keeps_the_fittest(monkeypatch):
    """Every tournament is among the best of all that was evaluated."""
    seen = []

    def noted(members, count, rng):
        seen.append([found for _, found in members])
        return winner(members, count, rng)

    monkeypatch.setattr(framework, "winner", noted)
    asked = problem("bops", like=3)
    method = EvoQ(evaluations=30, population=6, tournament=2)
    rewards = method.search(asked.at(known=Additive(asked.space, 0))).notes["rewards"]
    assert len(seen) >= 24
    for members in seen:
        assert len(members) == 6
    assert sorted(seen[-1]) == sorted(-r for r in rewards[:-1])[:6]


def test_a_tournament_larger_than_the_population_is_refused():
    with pytest.raises(ValueError, match="tournament = 10: give 1 to population = 5"):
        EvoQ(population=5).validate()


# --- calibration ---------------------------------------------------------------------------


def test_scale_and_shift_are_those_of_least_squares():
    draw = torch.Generator().manual_seed(0)
    z = torch.randn(3, 200, generator=draw).double()
    y = 2 * z - 1 + 0.1 * torch.randn(3, 200, generator=draw)
    y[2] = -y[2]
    alpha, beta = fitted(z, y)
    for row in range(2):
        slope, constant = np.polyfit(z[row].numpy(), y[row].numpy(), 1)
        assert float(alpha[row]) == pytest.approx(slope)
        assert float(beta[row]) == pytest.approx(constant)
    assert float(alpha[2]) == 1  # falling: only the mean is put right
    assert float((z[2] + beta[2]).mean()) == pytest.approx(float(y[2].mean()))
    assert fitted(torch.ones(1, 9).double(), torch.full((1, 9), 4.0).double())[1].item() == 3


@pytest.mark.parametrize("name", ["stem", "blocks.1.depthwise", "fc"])
def test_a_layer_gives_alpha_z_plus_beta(name):
    asked = problem()
    made = asked.quantized(asked.space.reference(3, 3))
    q, images = made.qlayer(name), asked.images[:8]
    q.shift = torch.linspace(-0.1, 0.1, q.layer.out_channels)
    before = outputs(made, q, q, images)
    alpha = torch.linspace(0.5, 2, len(before)).double()
    beta = torch.linspace(-1, 1, len(before)).double()
    put(q, q.codes(), alpha, beta)
    after = outputs(made, q, q, images)
    torch.testing.assert_close(after, alpha[:, None] * before + beta[:, None], atol=1e-5, rtol=1e-5)
    assert isinstance(q.codes(), Codes)
    assert torch.equal(q.codes().dequantize(), q.present_weight())


def test_calibration_lowers_the_output_difference_and_changes_no_code():
    asked = problem()
    policy, images = asked.space.reference(2, 2), asked.images[:20]
    wanted = asked.float_model()(images)
    plain, made = asked.quantized(policy), asked.quantized(policy)
    changed = calibrate(made, asked.float_model(), images)
    assert changed
    before, after = difference(plain(images), wanted), difference(made(images), wanted)
    assert after < 0.5 * before
    for name, q in made.qlayers():
        old = plain.qlayer(name)
        assert torch.equal(q.codes().code, old.codes().code)
        if name not in changed:
            assert torch.equal(q.present_weight(), old.present_weight())
            assert q.shift is None


def test_the_published_network_is_the_calibrated_one():
    asked = problem()
    policy = asked.space.reference(3, 2)
    made = EvoQ(images=20).finish(asked, Solution(policy))
    by = asked.quantized(policy)
    calibrate(by, asked.float_model(), asked.images[:20])
    assert made.policy == policy
    assert torch.equal(made(asked.images), by(asked.images))


def test_networks_without_convolutions_are_searched_and_calibrated():
    asked = problem("size", kind=toy.ToyViT, like=3)
    solution = EvoQ(**SHORT).search(asked)
    assert asked.within(solution.policy)
    made = EvoQ(**SHORT).finish(asked, solution)
    assert isinstance(made, nn.Module)
    wanted = asked.float_model()(asked.images[:20])
    plain = asked.quantized(solution.policy)(asked.images[:20])
    assert difference(made(asked.images[:20]), wanted) <= difference(plain, wanted)
