import copy

import numpy as np
import pytest
import torch
from scipy.stats import truncnorm
from torch.nn import functional

from frameworks.core.agents.ddpg import DDPG, Settings, truncated_normal


def agent(seed=0, **settings):
    return DDPG(3, np.random.default_rng(seed), Settings(hidden=(8, 6), **settings))


def filled(seed=0, **settings):
    made = agent(seed, **settings)
    rng = np.random.default_rng(5)
    for _ in range(4):
        states = rng.random((5, 3), np.float32)
        actions = rng.random((5, 1), np.float32)
        made.replay.extend(states, actions, float(rng.random()), np.roll(states, -1, axis=0))
    return made


@pytest.mark.parametrize(("mean", "sigma"), [(0.5, 0.1), (0.05, 0.3), (0.9, 0.5)])
def test_noise_is_a_truncated_normal(mean, sigma):
    draws = truncated_normal(
        np.full(20_000, mean, np.float32), sigma, np.random.default_rng(0).random(20_000)
    )
    known = truncnorm((0 - mean) / sigma, (1 - mean) / sigma, mean, sigma)
    assert draws.min() >= 0
    assert draws.max() <= 1
    assert draws.mean() == pytest.approx(known.mean(), abs=0.01)
    assert draws.std() == pytest.approx(known.std(), abs=0.01)


def test_no_noise_is_the_actor_itself():
    made, state = agent(), np.array([0.1, 0.2, 0.3], np.float32)
    expected = made.actor(torch.from_numpy(state)[None])[0].detach().numpy()
    assert made.act(state).tolist() == expected.tolist()


def test_target_by_hand():
    made = filled(discount=0.9, baseline_decay=0.25)
    batch = made.replay.sample(6, np.random.default_rng(1))
    mean = float(batch.reward.mean())
    with torch.no_grad():
        action = made.actor_target(batch.next_state)
        later = made.critic_target(batch.next_state, action)
    expected = batch.reward - mean + 0.9 * later * batch.alive
    torch.testing.assert_close(made.target(batch), expected)
    assert made.baseline == pytest.approx(mean)  # the first batch's mean
    other = made.replay.sample(6, np.random.default_rng(2))
    moved = mean + 0.25 * (float(other.reward.mean()) - mean)
    made.target(other)
    assert made.baseline == pytest.approx(moved)


def test_without_a_baseline_rewards_are_taken_as_they_are():
    made = filled(discount=0.0, baseline_decay=0.0)
    batch = made.replay.sample(6, np.random.default_rng(1))
    torch.testing.assert_close(made.target(batch), batch.reward)


def test_update_against_plain_autograd():
    made = filled(batch=8, tau=0.2, actor_lr=0.01, critic_lr=0.02)
    actor, critic = copy.deepcopy(made.actor), copy.deepcopy(made.critic)
    slow = [p.clone() for p in (*made.actor_target.parameters(), *made.critic_target.parameters())]
    peek = copy.deepcopy(made)
    batch = peek.replay.sample(8, peek.rng)
    target = peek.target(batch)
    critic_steps = torch.optim.Adam(critic.parameters(), 0.02)
    functional.mse_loss(critic(batch.state, batch.action), target).backward()
    critic_steps.step()
    actor_steps = torch.optim.Adam(actor.parameters(), 0.01)
    (-critic(batch.state, actor(batch.state)).mean()).backward()
    actor_steps.step()
    made.update()
    for mine, plain in ((made.actor, actor), (made.critic, critic)):
        for p, q in zip(mine.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
    fast = (*made.actor.parameters(), *made.critic.parameters())
    targets = (*made.actor_target.parameters(), *made.critic_target.parameters())
    for after, before, now in zip(targets, slow, fast, strict=True):
        torch.testing.assert_close(after, 0.8 * before + 0.2 * now, rtol=1e-4, atol=1e-6)


def test_it_learns_a_bandit():
    # One step an episode; the reward is greatest at an action of 0.8.
    settings = Settings((32, 32), critic_lr=5e-3, actor_lr=1e-3, baseline_decay=0, batch=32)
    made = DDPG(1, np.random.default_rng(0), settings)
    state = np.zeros((1, 1), np.float32)
    for turn in range(200):
        action = (
            made.random_action() if turn < 60 else made.act(state[0], 0.3 * 0.98 ** (turn - 60))
        )
        made.replay.extend(state, action[None], -4 * float((action[0] - 0.8) ** 2), state)
        if turn >= 60:
            for _ in range(8):
                made.update()
    assert float(made.act(state[0])[0]) == pytest.approx(0.8, abs=0.1)


def test_same_generator_same_agent():
    first, second, third = (filled(seed, batch=8) for seed in (0, 0, 1))
    for made in (first, second, third):
        made.update()
    state = np.array([0.5, 0.1, 0.9], np.float32)
    assert first.act(state, 0.3).tobytes() == second.act(state, 0.3).tobytes()
    assert first.act(state).tobytes() != third.act(state).tobytes()


def test_a_given_quantile_is_the_noise():
    agent = DDPG(3, np.random.default_rng(0), Settings((8, 6)))
    state = np.ones(3, np.float32)
    mean = float(agent.act(state)[0])
    # Truncated to [0, 1] on both sides, so that the median is not quite the mean.
    low, median, high = (float(agent.act(state, 0.2, q)[0]) for q in (0.05, 0.5, 0.95))
    assert low < median < high
    assert median == pytest.approx(mean, abs=0.02)
    assert float(agent.act(state, 0.2, 0.5)[0]) == median  # nothing is drawn
    assert float(agent.act(state, 0.0, 0.95)[0]) == mean
