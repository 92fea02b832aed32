import numpy as np
import pytest
import torch

from frameworks.core.solvers.ddpg import DDPG, Settings
from frameworks.core.solvers.hiro import DRAWS, SPREAD, GoalMemory, LowSteps, TwoLevels

STATES, COLUMN = 3, 1


def agent(states, seed=0):
    return DDPG(states, np.random.default_rng(seed), Settings((8, 6), batch=4, replay=50))


def record(goal, count=5, seed=0):
    rng = np.random.default_rng(seed)
    states = rng.random((count, STATES), np.float32)
    states[:, COLUMN] = goal
    return LowSteps(states, rng.random((count, 1), np.float32), 0.4, 1.5, -0.3)


def test_the_goal_that_explains_the_actions_best_is_taken():
    high, low = agent(2), agent(STATES, 1)
    memory = GoalMemory(50, STATES, COLUMN, steps=5)
    did = record(0.9)
    slot = int(high.replay.extend(*(np.zeros((1, n), np.float32) for n in (2, 1)), 0.0,
                                  np.zeros((1, 2), np.float32))[0])  # fmt: skip
    high.replay.action[slot] = 0.9
    memory.store(slot, did.states, did.actions[:, 0], did.reached)
    memory.correct(high.replay, low.actor, 1, np.random.default_rng(3))

    rng = np.random.default_rng(3)
    rng.choice(np.array([slot]), 1, replace=False)
    draws = 0.4 + SPREAD * rng.standard_normal((1, DRAWS))[0]
    candidates = np.clip([0.9, 0.4, *draws], 0, 1)

    def likelihood(goal):
        states = did.states.copy()
        states[:, COLUMN] = goal
        with torch.no_grad():
            mean = low.actor(torch.from_numpy(states)).numpy()
        return -0.5 * float(((did.actions - mean) ** 2).sum())

    best = max(candidates, key=likelihood)
    assert float(high.replay.action[slot, 0]) == pytest.approx(best, abs=1e-6)


def test_actions_that_are_no_goals_stay():
    high, low = agent(2), agent(STATES, 1)
    both = TwoLevels(high, low, GoalMemory(50, STATES, COLUMN))
    states = np.zeros((3, 2), np.float32)
    actions = np.array([[0.9], [0.25], [0.8]], np.float32)
    both.remember(states, actions, 1.0, {0: record(0.9), 2: record(0.8, seed=1)})
    assert np.isnan(both.goals.stored[1])
    both.goals.correct(high.replay, low.actor, 50, np.random.default_rng(0))
    assert high.replay.action[1, 0] == np.float32(0.25)


def test_a_slot_used_again_forgets_its_goal():
    high = agent(2)
    both = TwoLevels(high, agent(STATES, 1), GoalMemory(50, STATES, COLUMN))
    states, actions = np.zeros((25, 2), np.float32), np.zeros((25, 1), np.float32)
    both.remember(states, actions, 0.0, {0: record(0.5)})
    assert both.goals.stored[0] == 0.5
    both.remember(states, actions, 0.0, {})
    both.remember(states, actions, 0.0, {})
    assert np.isnan(both.goals.stored).all()


def test_an_episode_fills_both_memories():
    high, low = agent(2), agent(STATES, 1)
    both = TwoLevels(high, low, GoalMemory(50, STATES, COLUMN))
    did = record(0.5, count=4)
    both.remember(np.ones((2, 2), np.float32), np.ones((2, 1), np.float32), 2.0, {1: did})
    assert (len(high.replay), len(low.replay)) == (2, 4)
    assert high.replay.reward[:2, 0].tolist() == [2, 2]
    assert low.replay.reward[:4, 0] == pytest.approx(-0.3)
    assert low.replay.alive[:4, 0].tolist() == [1, 1, 1, 0]
    assert low.replay.next_state[:3].tolist() == did.states[1:].tolist()


def test_updates_are_bounded_by_the_steps(monkeypatch):
    high, low = agent(2), agent(STATES, 1)
    both = TwoLevels(high, low, GoalMemory(50, STATES, COLUMN))
    done = {"high": 0, "low": 0}
    for name, made in (("high", high), ("low", low)):
        monkeypatch.setattr(made, "update", lambda n=name: done.update({n: done[n] + 1}))
    both.learn({0: record(0.5, count=3), 2: record(0.5, count=4)}, 0, 5, 2)
    assert done == {"high": 2, "low": 5}
