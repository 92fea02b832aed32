from functools import partial

import numpy as np
import pytest
import torch

from frameworks import BudgetSpec, registry
from frameworks.core.agents.ddpg import Settings
from frameworks.reinforcement.adrl import ADRL
from frameworks.reinforcement.adrl import framework as module
from frameworks.reinforcement.adrl.agent import Augmented, Refiner
from frameworks.reinforcement.adrl.indicators import distance, profiling, refined, single
from frameworks.reinforcement.haq import HAQ
from frameworks.testing import toy
from tests.reinforcement import landscapes

SHORT = {"episodes": 8, "warmup": 3, "noise_decay": 0.8, "images": 32}
STEP = toy.make_problem("size").space.choices[0]


@pytest.mark.parametrize(("tolerance", "expected"), [(0.5, 5), (0.0, 7), (100.0, 3)])
@pytest.mark.parametrize("order", [[3, 5, 7], [7, 3, 5]])
def test_the_refiner_takes_the_fewest_bits_near_the_best(tolerance, expected, order):
    accuracies = {3: 60.0, 5: 69.7, 7: 70.0}
    place = refined(lambda choice, bits: accuracies[bits], STEP, order, tolerance)
    assert order[place] == expected


def test_candidates_of_equal_bits_are_one_and_need_no_score():
    assert refined(lambda *_: pytest.fail("asked"), STEP, [4, 4, 4], 0.5) == 0


def augmented(k, refiner, seed=0, **settings):
    return Augmented(2, np.random.default_rng(seed), Settings((8, 6), **settings), k, refiner)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_a_perfect_indicator_gives_the_best_of_k_and_a_random_one_nothing(k):
    state, luck = np.zeros(2, np.float32), np.random.default_rng(1)
    best = augmented(k, lambda state, proposals: int(proposals.argmax()))
    blind = augmented(k, lambda state, proposals: int(luck.integers(k)))
    found = np.array([best.proposed(state, None)[0] for _ in range(4000)])
    assert found.mean() == pytest.approx(k / (k + 1), abs=0.015)
    assert found.var() == pytest.approx(k / ((k + 1) ** 2 * (k + 2)), abs=0.005)
    found = np.array([blind.proposed(state, None)[0] for _ in range(4000)])
    assert (found.mean(), found.var()) == (
        pytest.approx(0.5, abs=0.015),
        pytest.approx(1 / 12, abs=0.005),
    )


def test_each_proposal_has_noise_of_its_own():
    agent = augmented(3, lambda state, proposals: 1)
    state = np.array([0.2, 0.4], np.float32)
    mean = agent.act(state)
    assert mean.shape == (3,)
    drawn = np.array([agent.act(state, 0.2) for _ in range(200)])
    assert np.abs(np.corrcoef(drawn.T)[0, 1]) < 0.2
    assert agent.proposed(state, 0.0).tolist() == mean[1:2].tolist()


def test_the_actors_gradient_goes_through_the_chosen_output():
    agent = augmented(3, lambda state, proposals: int(state[0]))
    states = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    outputs = torch.rand(2, 3, requires_grad=True)
    found = agent.executed(states, outputs)
    assert found.tolist() == [[outputs[0, 2].item()], [outputs[1, 0].item()]]
    found.sum().backward()
    assert outputs.grad.tolist() == [[0, 0, 1], [1, 0, 0]]


def test_the_actors_gradient_may_go_to_all_proposals():
    state = torch.rand(5, 2, generator=torch.Generator().manual_seed(0))
    found = {}
    for every in (False, True):
        agent = Augmented(2, np.random.default_rng(0), Settings((8, 6)), 3, lambda *_: 1, every)
        worth = agent.worth(state)
        worth.backward()
        found[every] = worth.item()
        given = agent.actor.last.weight.grad.abs().sum(1)
        assert (given > 0).tolist() == ([True] * 3 if every else [False, True, False])
    each = [agent.critic(state, agent.actor(state)[:, i : i + 1]).mean() for i in range(3)]
    assert found[False] == pytest.approx(each[1].item())
    assert found[True] == pytest.approx(sum(each).item() / 3)


@pytest.mark.parametrize("gradient", ["chosen", "all"])
def test_the_gradient_is_asked_for_by_name(gradient):
    agent = ADRL(gradient=gradient).agent(toy.make_problem(like=3))
    assert agent.all_learn is (gradient == "all")


def test_one_proposal_is_haq():
    outcomes = []
    for cls, more in ((HAQ, {}), (ADRL, {"proposals": 1, "refill": False})):
        problem = toy.make_problem(like=3, seed=4)
        found = cls(episodes=7, warmup=3, **more).search(problem)
        spent = problem.meter.read()
        outcomes.append(
            (found.policy, found.notes["rewards"], spent.policies, spent.images_forward)
        )
    assert outcomes[0] == outcomes[1]


def test_every_decision_is_profiled_once_at_most_at_each_of_its_bits(monkeypatch):
    problem = toy.make_problem(like=3)
    asked = []

    def watched(problem, images):
        score = profiling(problem, images)

        def noted(choice, bits):
            asked.append((choice, bits))
            return score(choice, bits)

        return noted

    monkeypatch.setitem(module.INDICATORS, "profiling", watched)
    found = ADRL(**SHORT).search(problem)
    assert len(asked) == len(set(asked)) == found.notes["profiles"] > 0
    assert len(asked) <= sum(len(choice.bits) for choice in problem.space.choices)
    assert problem.meter.policies == 8  # a layer alone is no policy


def test_a_profile_is_the_accuracy_of_one_layer_quantized_alone():
    problem = toy.make_problem()
    score = profiling(problem, 50)
    sample = problem.valid.subset(50, problem.generator("indicator"))
    for choice in problem.space.choices[:2]:
        policy = single(problem, choice, 2)
        bits = [(entry.weight, entry.act) for entry in policy.values()]
        expected = (2, 32) if choice.kind == "weight" else (32, 2)
        assert bits.count(expected) == 1
        assert bits.count((32, 32)) == len(bits) - 1
        network = problem.correct(problem.quantized(policy))
        x, y = next(sample.batches(50))
        with torch.no_grad():
            right = float((network(x).argmax(1) == y).float().mean())
        assert score(choice, 2) == pytest.approx(100 * right)
    before = problem.meter.read().images_forward
    score(problem.space.choices[2], 3)
    assert problem.meter.read().images_forward > before


def test_a_distance_is_relative_to_the_weights():
    problem = toy.make_problem("size", scheme="minmax")
    score = distance(problem, 0)
    weight = problem.network.get_submodule(STEP.layers[0]).weight.detach()
    quantized = problem.quantizer(STEP.layers[0], "weight", 3)(weight)
    expected = -100 * float((weight - quantized).norm() / weight.norm())
    assert score(STEP, 3) == pytest.approx(expected, rel=1e-5)
    assert score(STEP, 2) < score(STEP, 3) < score(STEP, 8) < 0
    act = toy.make_problem().space.choices[1]
    assert act.kind == "act"
    assert distance(toy.make_problem(), 0)(act, 2) < distance(toy.make_problem(), 0)(act, 8)


def test_of_one_decision_about_weights_and_activations_the_worse_distance_counts():
    """Activations have the larger norm, which would outweigh all that weights suffer."""
    apart, paired = (
        toy.make_problem(scheme="minmax"),
        toy.make_problem(scheme="minmax", paired=True),
    )
    both = next(c for c in paired.space.choices if c.layers == STEP.layers)
    alone = {
        c.kind: distance(apart, 0)(c, 2) for c in apart.space.choices if c.layers == STEP.layers
    }
    assert distance(paired, 0)(both, 2) == min(alone.values()) == alone["weight"]


def test_by_distance_fewer_bits_are_taken_where_they_do_little_harm():
    problem = toy.make_problem(like=3)
    refiner = ADRL(indicator="distance").agent(problem).refiner
    states, choices = ADRL().states(problem), problem.space.choices
    # 6 bits or 8; 2 bits or 8.
    near, far = (
        [refiner(state, np.array([action, 1.0], np.float32)) for state in states]
        for action in (0.6, 0.0)
    )
    assert choices[0].bits[-1] == 8
    assert near == [0] * len(choices)
    assert 1 in far


def test_the_refill_follows_the_indicator_and_asks_nothing_for_one_proposal():
    problem = toy.make_problem(like=2.5)
    search = ADRL(indicator="distance")
    agent = search.agent(problem)
    low = problem.space.lowest()
    found = search.fitted(problem, agent, low)
    assert problem.within(found)
    assert found == search.fitted(problem, agent, low)
    gains = [agent.refiner.gain(c, c.bits[0]) for c in problem.space.choices]
    bits = problem.space.encode(found)
    assert np.corrcoef(gains, bits)[0, 1] > 0
    assert agent.refiner.gain(STEP, STEP.bits[-1]) == 0.0
    alone = ADRL(indicator="distance", proposals=1)
    agent = alone.agent(problem)
    assert problem.within(alone.fitted(problem, agent, low))
    assert not agent.refiner.known


def test_the_refiner_knows_the_step_of_a_state_whatever_was_done_before():
    problem = toy.make_problem()
    search = ADRL()
    states = search.states(problem)
    seen = []
    refiner = Refiner(
        states, search.steps(problem), lambda: lambda choice, bits: seen.append(choice) or 0.0, 0.5
    )
    for state, choice in zip(states, problem.space.choices, strict=True):
        state[8] = 0.123
        refiner(state, np.array([0.0, 1.0], np.float32))
        assert seen[-1] == choice


@pytest.mark.parametrize(
    ("accuracies", "ends"),
    [
        ([70.0, 70.1, 70.0], True),
        ([70.0, 71.0, 70.0], False),
        ([60.0, 70.0, 70.1, 70.0], True),
        ([70.0, 70.0], False),
    ],
)
def test_it_ends_once_the_accuracy_moves_no_more(accuracies, ends):
    assert ADRL(window=3, spread=0.1).settled(accuracies) is ends
    assert not ADRL(window=0).settled(accuracies)


def test_an_early_end_saves_evaluations_and_looks_at_no_episode_of_the_warm_up():
    problem = toy.make_problem(like=3)
    found = ADRL(episodes=40, warmup=3, window=4, spread=1e3, images=32, updates=1).search(problem)
    # With repeated policies the warm-up, which counts distinct ones, may take more episodes.
    assert found.notes["draws"] >= 3 + 4
    assert problem.meter.policies <= 3 + 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"indicator": "critic"}, r"indicator = 'critic': choose from \['profiling', 'distance'\]"),
        ({"proposals": 0}, "proposals = 0: must be at least 1"),
        ({"gradient": "none"}, r"gradient = 'none': choose from \['chosen', 'all'\]"),
        ({"tolerance": -0.5}, r"tolerance = -0\.5: must not be negative"),
        ({"window": 1}, "window = 1: must be 0, or at least 2"),
        ({"spread": -1.0}, r"spread = -1\.0: must not be negative"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ADRL(**changes).validate()


def test_limits_on_two_metrics_are_met():
    budget = BudgetSpec(metrics={"size": {"like": 3.0}, "bops": {"like": 3.0}})
    problem = toy.make_problem(budget=budget)
    assert problem.within(ADRL(**SHORT, indicator="distance").search(problem).policy)


# --- does it search?


def known_losses(problem, images):
    """An indicator that knows an additive landscape: what a decision alone loses."""
    places = {choice: place for place, choice in enumerate(problem.space.choices)}
    return lambda choice, bits: 95 - problem.known.lost(places[choice], bits)


def shuffled_losses(problem, images):
    """An indicator that knows nothing: what another decision loses at other bits."""
    choices, rng = problem.space.choices, np.random.default_rng(problem.seed)
    others = dict(zip(choices, rng.permutation(len(choices)), strict=True))
    widths = {c: dict(zip(c.bits, rng.permutation(c.bits), strict=True)) for c in choices}
    return lambda choice, bits: 95 - problem.known.lost(others[choice], int(widths[choice][bits]))


def runs(monkeypatch, seeds, indicator=known_losses, **changes):
    """Regrets on additive landscapes, mean variance of the warm-up's rewards, mean profiles."""
    monkeypatch.setitem(module.INDICATORS, "profiling", indicator)
    regrets, first, profiles = [], [], []
    for seed in seeds:
        problem = landscapes.additive(seed)
        search = ADRL(episodes=40, warmup=8, noise_decay=0.95, window=0, **changes)
        found = search.search(problem)
        regrets.append(landscapes.regret(problem, found.policy))
        first.append(np.var(found.notes["rewards"][:8]))
        profiles.append(found.notes["profiles"])
    return float(np.mean(regrets)), float(np.mean(first)), float(np.mean(profiles))


def test_an_indicator_that_knows_gives_a_gain_and_one_that_does_not_gives_none(monkeypatch):
    seeds = range(4)
    regret, variance, _ = runs(monkeypatch, seeds, updates=0)
    blind, wider, _ = runs(monkeypatch, seeds, shuffled_losses, updates=0)
    assert regret < 0.75 * blind
    assert variance < wider


@pytest.mark.slow
def test_on_an_additive_landscape_the_agent_learns_and_regrets_less_than_its_rivals(monkeypatch):
    seeds = range(10)
    regret, variance, profiles = runs(monkeypatch, seeds)
    still, *_ = runs(monkeypatch, seeds, updates=0)
    blind, *_ = runs(monkeypatch, seeds, shuffled_losses, updates=0)
    single, wider, _ = runs(monkeypatch, seeds, proposals=1, updates=0)
    # As many evaluations as it has, and one more for each profile: not fewer images.
    rival, luck = registry.get("random")(evaluations=40 + round(profiles)), []
    for seed in seeds:
        problem = landscapes.additive(seed)
        luck.append(landscapes.regret(problem, rival.search(problem).policy))
    assert regret < still < single
    assert blind > 0.9 * single
    assert regret < np.mean(luck)
    assert variance < wider


def test_an_indicator_is_made_only_where_it_is_asked():
    asked = []
    refiner = Refiner(np.zeros((0, 9), np.float32), [], partial(asked.append, 1), 0.5)
    assert not asked
    refiner.known[STEP, 4] = 50.0
    assert refiner.score(STEP, 4) == 50.0
    assert not asked
