import numpy as np
import pytest
import torch

from frameworks.core.agents.ddpg import DDPG, Settings
from frameworks.reinforcement.autoq.hiro import DRAWS, SPREAD, GoalMemory, LowSteps, TwoLevels

STATES, COLUMN = 3, 1


def agent(states, seed=0):
    return DDPG(states, np.random.default_rng(seed), Settings((8, 6), batch=4, replay=50))


def record(goal, count=5, seed=0):
    rng = np.random.default_rng(seed)
    states = rng.random((count, STATES), np.float32)
    states[:, COLUMN] = goal
    return LowSteps(states, rng.random((count, 1), np.float32), 0.4, 1.5)


def test_the_goal_that_explains_the_actions_best_is_taken():
    high, low = agent(2), agent(STATES, 1)
    memory = GoalMemory(50, STATES, COLUMN, steps=5)
    did = record(0.9)
    slot = int(high.replay.extend(*(np.zeros((1, n), np.float32) for n in (2, 1)), 0.0,
                                  np.zeros((1, 2), np.float32))[0])  # fmt: skip
    high.replay.action[slot] = 0.9
    memory.store(slot, did)
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


def follower(low):
    """Make a low-level actor follow its goal: one unit carries it through to the output."""
    with torch.no_grad():
        for parameter in low.actor.parameters():
            parameter.zero_()
        low.actor.first.weight[0, COLUMN] = 1
        low.actor.second.weight[0, 0] = 1
        low.actor.last.weight[0, 0] = 8
        low.actor.last.bias.fill_(-4)  # sigmoid(8 g - 4)


def reaching(goal, reached, seed=0):
    """A record whose actions are those that a `follower` makes of another goal than was set."""
    did = record(goal, seed=seed)
    did.actions[:], did.reached = 1 / (1 + np.exp(4 - 8 * reached)), reached
    return did


def test_a_later_correction_starts_from_the_goal_that_was_set():
    high, low = agent(2), agent(STATES, 1)
    follower(low)
    both = TwoLevels(high, low, GoalMemory(50, STATES, COLUMN))
    did = reaching(0.7, 0.7)
    did.reached = 0.1
    both.remember(np.zeros((1, 2), np.float32), np.array([[0.7]], np.float32), 0.0, {0: did})
    high.replay.action[0, 0] = 0.2  # the correction by an earlier controller
    both.goals.correct(high.replay, low.actor, 1, np.random.default_rng(0))
    assert high.replay.action[0, 0] == pytest.approx(0.7)


def test_the_states_that_hold_a_goal_follow_its_correction():
    high, low = agent(3), agent(STATES, 1)
    follower(low)
    both = TwoLevels(high, low, GoalMemory(50, STATES, COLUMN, last=2))
    states = np.random.default_rng(5).random((5, 3)).astype(np.float32)
    before = states.copy()
    actions = np.array([[0.9], [0.25], [0.8], [0.3], [0.1]], np.float32)
    both.remember(states, actions, 1.0, {0: reaching(0.9, 0.4), 2: reaching(0.8, 0.3, seed=1)})
    # The goal of step 0 is in the states of steps 1 and 2, in the second of which the next is set.
    both.goals.correct(high.replay, low.actor, 50, np.random.default_rng(0))
    moved = [0.4, 0.25, 0.3, 0.3, 0.1]
    assert high.replay.action[:5, 0] == pytest.approx(moved)
    assert high.replay.state[:5, 2] == pytest.approx([before[0, 2], 0.4, 0.4, 0.3, 0.3])
    assert high.replay.next_state[:4, 2] == pytest.approx([0.4, 0.4, 0.3, 0.3])
    assert high.replay.state[:5, :2].tolist() == before[:, :2].tolist()


def test_a_ring_that_wraps_keeps_goals_and_states_together():
    high, low = DDPG(2, np.random.default_rng(0), Settings((8, 6), replay=7)), agent(STATES, 1)
    both = TwoLevels(high, low, GoalMemory(7, STATES, COLUMN, last=1))
    for episode in range(5):
        states = np.full((4, 2), episode, np.float32)
        both.remember(states, np.full((4, 1), 0.5, np.float32), 0.0, {1: record(0.5)})
    both.goals.correct(high.replay, low.actor, 7, np.random.default_rng(0))
    # 7 slots: the whole last episode, whose steps 2 and 3 follow a goal, and a part of another.
    slots = [(16 + step) % 7 for step in range(4)]
    goal = high.replay.action[slots[1], 0]
    assert high.replay.state[slots, 0].tolist() == [4] * 4
    assert high.replay.state[slots, 1].tolist() == [4, 4, goal, goal]
    assert high.replay.next_state[slots[:3], 1].tolist() == [4, goal, goal]


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
    both.pay(lambda distance, reward: 10 * distance + reward)
    assert low.replay.reward[:4, 0] == pytest.approx(17)
    assert low.replay.alive[:4, 0].tolist() == [1, 1, 1, 0]
    assert low.replay.next_state[:3].tolist() == did.states[1:].tolist()


def test_all_of_the_low_memory_is_paid_by_the_present_weights():
    high, low = agent(2), DDPG(STATES, np.random.default_rng(0), Settings((8, 6), replay=10))
    both = TwoLevels(high, low, GoalMemory(50, STATES, COLUMN), scale=100.0)
    for reward in (2.0, 3.0, 4.0):  # 4 steps each, so that the first episode is half overwritten
        did = record(0.5, count=4)
        did.distance = reward / 10
        both.remember(np.ones((1, 2), np.float32), np.ones((1, 1), np.float32), reward, {0: did})
    expected = np.array([4, 4, 2, 2, 3, 3, 3, 3, 4, 4])
    for zeta in (0.25, 0.75):
        both.pay(lambda distance, reward, z=zeta: (z - 1) * distance + z * reward)
        paid = (zeta - 1) * expected / 10 + zeta * expected
        assert low.replay.reward[:, 0] == pytest.approx(paid)
    assert high.replay.reward[:3, 0].tolist() == [200, 300, 400]


def test_updates_are_bounded_by_the_steps(monkeypatch):
    high, low = agent(2), agent(STATES, 1)
    both = TwoLevels(high, low, GoalMemory(50, STATES, COLUMN))
    done = {"high": 0, "low": 0}
    for name, made in (("high", high), ("low", low)):
        monkeypatch.setattr(made, "update", lambda n=name: done.update({n: done[n] + 1}))
    both.learn({0: record(0.5, count=3), 2: record(0.5, count=4)}, 0, 5, 2)
    assert done == {"high": 2, "low": 5}
