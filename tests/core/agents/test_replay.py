import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from frameworks.core.agents.replay import Replay


def episode(start, count):
    rows = np.arange(start, start + count, dtype=np.float32)
    states = np.stack([rows, -rows], 1)
    return states, rows[:, None] / 10, rows * 2, np.roll(states, -1, axis=0)


@given(capacity=st.integers(1, 12), counts=st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_it_holds_the_newest_transitions(capacity, counts):
    replay, added, last = Replay(capacity, 2, 1), 0, set()
    for count in counts:
        slots = replay.extend(*episode(added, count))
        assert slots.tolist() == [(added + i) % capacity for i in range(count)]
        added += count
        last.add(added - 1)
    kept = range(max(0, added - capacity), added)
    assert len(replay) == len(kept)
    for row in kept:
        slot = row % capacity
        assert replay.state[slot].tolist() == [row, -row]
        assert replay.action[slot] == np.float32(row / 10)
        assert replay.reward[slot] == row * 2
        assert replay.alive[slot] == (row not in last)


def test_one_reward_goes_to_every_step():
    replay = Replay(4, 2, 1)
    states, actions, _, later = episode(0, 3)
    replay.extend(states, actions, 0.5, later)
    assert replay.reward[:3, 0].tolist() == [0.5, 0.5, 0.5]
    assert replay.alive[:3, 0].tolist() == [1, 1, 0]


def test_samples_are_distinct_while_there_are_enough():
    replay = Replay(10, 2, 1)
    replay.extend(*episode(0, 6))
    rng = np.random.default_rng(0)
    for _ in range(20):
        batch = replay.sample(6, rng)
        assert sorted(batch.index.tolist()) == list(range(6))
        assert torch.equal(batch.state[:, 0], torch.from_numpy(batch.index).float())
        assert torch.equal(batch.reward[:, 0], 2 * batch.state[:, 0])
    assert len(replay.sample(9, rng).index) == 9
