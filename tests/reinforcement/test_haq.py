import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frameworks.core.agents.ddpg import DDPG
from frameworks.core.agents.layerwise import PREVIOUS, action_to_bits
from frameworks.core.registry import frameworks as registry
from frameworks.core.search.wall import chosen
from frameworks.reinforcement.haq import HAQ
from frameworks.testing import toy

SHORT = {"episodes": 8, "warmup": 3, "noise_decay": 0.8}


@pytest.mark.parametrize(
    ("action", "bits"),
    # b = round(7 a + 2 - 1/2) over 2..8: slices of 1/7.
    [(0.0, 2), (0.1, 2), (0.2, 3), (0.3, 4), (0.5, 5), (0.6, 6), (0.75, 7), (0.9, 8), (1.0, 8)],
)
def test_action_to_bits_by_hand(action, bits):
    assert action_to_bits(action, range(2, 9)) == bits


@given(st.floats(0, 1), st.floats(0, 1))
def test_more_action_never_means_fewer_bits(a, b):
    low, high = sorted((a, b))
    candidates = (2, 3, 4, 6, 8)
    assert action_to_bits(low, candidates) <= action_to_bits(high, candidates)
    assert action_to_bits(a, candidates) in candidates


def test_all_bits_have_equal_slices():
    actions = (np.arange(7000) + 0.5) / 7000
    counts = np.bincount([action_to_bits(a, range(2, 9)) for a in actions])[2:]
    assert counts.tolist() == [1000] * 7


def test_states_by_hand():
    problem = toy.make_problem()
    haq = HAQ()
    states = haq.states(problem)
    layers = {layer.name: layer for layer in problem.layers}
    first = layers[problem.space.choices[0].layers[0]]
    assert states.shape == (len(problem.space.choices), 10)
    assert states.min() >= 0
    assert states.max() <= 1

    def scaled(value, of):
        values = [of(layer) for layer in problem.layers]
        return (value - min(values)) / (max(values) - min(values))

    expected = [
        0,
        scaled(first.in_channels, lambda x: x.in_channels),
        scaled(first.out_channels, lambda x: x.out_channels),
        scaled(first.stride[0], lambda x: x.stride[0] if x.kind == "conv" else 0),
        scaled(first.kernel[0], lambda x: x.kernel[0]),
        scaled(first.params, lambda x: x.params),
        scaled(np.prod(first.in_size), lambda x: np.prod(x.in_size)),
        scaled(first.index, lambda x: x.index),
        1,
        1,
    ]
    assert states[0] == pytest.approx(expected, abs=1e-6)
    flags = [choice.kind == "weight" for choice in problem.space.choices]
    assert states[:, -1].tolist() == flags
    depthwise = [layers[choice.layers[0]].depthwise for choice in problem.space.choices]
    assert states[:, 0].tolist() == depthwise
    assert any(depthwise)


def test_a_roll_out_hands_the_bits_on_and_keeps_the_raw_actions():
    problem = toy.make_problem(like=3)
    haq = HAQ(**SHORT)
    agent = DDPG(10, problem.rng("test"), haq.settings())
    states, actions, policy = haq.roll_out(problem, agent, clock=5)
    choices = problem.space.choices
    for t in range(1, len(choices)):
        before = action_to_bits(float(actions[t - 1, 0]), choices[t - 1].bits)
        assert states[t, PREVIOUS] == pytest.approx(before / choices[t - 1].bits[-1])
    assert problem.within(policy)
    # The wall lowers, so nothing is above the raw action.
    for choice, action in zip(choices, actions[:, 0], strict=True):
        assert chosen(policy, choice) <= action_to_bits(float(action), choice.bits)


def test_rewards_are_tenths_of_points_over_the_float_network():
    problem = toy.make_problem(like=3)
    solution = HAQ(**SHORT).search(problem)
    score = problem.evaluate(solution.policy)
    expected = 0.1 * (score.accuracy - problem.float_score().accuracy)
    assert solution.notes["reward"] == pytest.approx(expected)
    assert solution.notes["reward"] == max(solution.notes["rewards"])
    assert len(solution.notes["rewards"]) == 8


def test_no_update_in_the_warm_up(monkeypatch):
    calls = []
    monkeypatch.setattr(DDPG, "update", lambda self: calls.append(len(self.replay)))
    problem = toy.make_problem(like=3)
    HAQ(episodes=5, warmup=3, updates=2).search(problem)
    steps = len(problem.space.choices)
    assert calls == [4 * steps] * 2 * steps + [5 * steps] * 2 * steps


def test_noise_falls_after_the_warm_up(monkeypatch):
    sigmas = []
    act = DDPG.act

    def watched(self, state, sigma=0.0):
        sigmas.append(sigma)
        return act(self, state, sigma)

    monkeypatch.setattr(DDPG, "act", watched)
    problem = toy.make_problem(like=3)
    HAQ(episodes=5, warmup=2, noise=0.4, noise_decay=0.5).search(problem)
    steps = len(problem.space.choices)
    assert sigmas == pytest.approx([0.4] * steps + [0.2] * steps + [0.1] * steps)


def test_it_retrains_only_where_the_protocol_does():
    for retrains in (False, True):
        problem = toy.make_problem(like=3, retrains=retrains)
        HAQ(episodes=2, warmup=2, retrain_images=64).search(problem)
        assert (problem.meter.read().images_backward > 0) is retrains


def test_the_budget_is_met_where_the_cost_is_no_sum():
    problem = toy.make_problem(toy.Peak(), like=3)
    assert problem.within(HAQ(**SHORT).search(problem).policy)


def test_kmeans_leaves_activations_alone():
    problem = toy.make_problem("size", like=3, scheme="haq_kmeans")
    searched = registry.get("haq_kmeans")(**SHORT)
    assert searched.states(problem).shape[1] == 9
    solution = searched.search(problem)
    assert {bits.act for bits in solution.policy.values()} == {8}
    assert problem.within(solution.policy)


def test_kmeans_says_when_weights_cannot_meet_the_budget():
    problem = toy.make_problem("bops", like=2)
    assert "cannot meet the budget" in registry.get("haq_kmeans")().skip(problem)


def test_same_seed_same_rewards_and_another_seed_differs():
    runs = [HAQ(**SHORT).search(toy.make_problem(like=3, seed=seed)).notes for seed in (0, 0, 1)]
    assert runs[0]["rewards"] == runs[1]["rewards"]
    assert runs[0]["rewards"] != runs[2]["rewards"]
