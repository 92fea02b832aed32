import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from frameworks.core.agents.ppo import PPO, Episode, Settings, advantages, entropy, surrogate

ALL = np.ones(3, np.bool_)
NUMBERS = st.floats(-3, 3)


def test_advantages_of_a_reward_at_the_end():
    """A value of 0 everywhere: gamma to the steps that are left."""
    found = advantages([0, 0, 0, 1.0], [0.0] * 4, 0.9, 1.0)
    assert found == pytest.approx([0.729, 0.81, 0.9, 1.0])


def test_advantages_of_one_step_are_reward_minus_value():
    assert advantages([0.7], [0.5], 0.9, 0.3) == pytest.approx([0.2])


def test_advantages_by_hand():
    # Deltas 1 + 0.5 * 4 - 2 = 1 and 3 - 4 = -1.
    assert advantages([1.0, 3.0], [2.0, 4.0], 0.5, 0.5) == pytest.approx([1 - 0.25, -1.0])


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=6), st.floats(0, 1))
def test_a_trace_of_one_gives_returns_and_of_zero_the_steps_own_delta(steps, discount):
    rewards, values = (list(column) for column in zip(*steps, strict=True))
    later = [*values[1:], 0.0]
    for t in range(len(steps)):
        returned = sum(discount**k * r for k, r in enumerate(rewards[t:]))
        assert advantages(rewards, values, discount, 1.0)[t] == pytest.approx(
            returned - values[t], abs=1e-9
        )
        delta = rewards[t] + discount * later[t] - values[t]
        assert advantages(rewards, values, discount, 0.0)[t] == pytest.approx(delta, abs=1e-9)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    # The pull ends where the ratio has moved by 0.1 to the better, not where it went astray.
    [(1.5, 1.0, 1.1), (1.5, -1.0, -1.5), (0.5, 1.0, 0.5), (0.5, -1.0, -0.9), (1.05, 2.0, 2.1)],
)
def test_the_surrogate_by_hand(ratio, advantage, expected):
    found = surrogate(torch.tensor([ratio]), torch.tensor([advantage]), 0.1)
    assert float(found) == pytest.approx(expected)


def test_no_gradient_beyond_the_clip():
    ratio = torch.tensor([1.5, 1.05], requires_grad=True)
    surrogate(ratio, torch.tensor([1.0, 1.0]), 0.1).backward()
    assert ratio.grad.tolist() == [0.0, 0.5]


def test_entropy_by_hand():
    logs = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]).log().requires_grad_()
    found = entropy(logs)
    assert float(found.detach()) == pytest.approx(math.log(2) / 2)
    found.backward()
    assert bool(torch.isfinite(logs.grad).all())


def agent(seed=0, states=2, actions=3, **settings):
    given = {"hidden": 16, "lr": 3e-3, **settings}
    return PPO(states, actions, np.random.default_rng(seed), Settings(**given))


def run(made, states, reward, offered=ALL):
    """An episode over given states; ``reward`` of its actions is paid at the end."""
    episode = Episode()
    for state in states:
        made.act(episode, np.array(state, np.float32), offered)
    episode.rewards = [0.0] * (len(states) - 1) + [reward(episode.actions)]
    return episode


def test_the_first_pass_follows_the_plain_policy_gradient():
    """At a ratio of 1: -A grad log pi; the value's target is the return where lambda is 1."""
    made = agent(entropy_weight=0.0, discount=1.0, trace=1.0, scaled=False)
    episode = run(made, [[0, 1], [1, 0]], lambda actions: 2.0)
    made.loss(episode, made.gains(episode), 1.0).backward()
    found = [p.grad.clone() for p in made.policy.parameters()]
    made.policy.zero_grad()
    logs, values, _ = made.policy(
        torch.from_numpy(np.stack(episode.states))[None], torch.ones(1, 2, 3, dtype=torch.bool)
    )
    pull = sum((2.0 - episode.values[t]) * logs[0, t, episode.actions[t]] for t in range(2)) / 2
    ((values[0] - 2.0).square().mean() - pull).backward()
    for mine, plain in zip(found, made.policy.parameters(), strict=True):
        torch.testing.assert_close(mine, plain.grad, rtol=1e-4, atol=1e-6)


def test_advantages_are_in_units_of_their_root_mean_square_so_far():
    made = agent()
    assert made._scale([[3.0, 4.0]]) == pytest.approx(math.sqrt(12.5))
    assert made._scale([[0.0, 0.0]]) == pytest.approx(math.sqrt(25 / 4))
    assert agent(scaled=False)._scale([[3.0]]) == 1.0
    assert agent()._scale([[0.0]]) == 1.0


def test_what_is_not_offered_is_not_taken():
    made, offered = agent(), np.array([True, False, True])
    taken = {a for _ in range(30) for a in run(made, [[0, 0]] * 2, lambda _: 0.0, offered).actions}
    assert taken == {0, 2}
    only = run(made, [[0, 0]], lambda _: 1.0, np.array([False, True, False]))
    assert only.actions == [1]
    for _ in range(2):
        made.update([only])
    assert all(bool(torch.isfinite(p).all()) for p in made.policy.parameters())


def test_it_finds_the_best_arm_of_a_bandit():
    made = agent(entropy_weight=0.0, lr=5e-3)
    arms = (0.2, 0.9, 0.5)
    for _ in range(120):
        made.update([run(made, [[1, 0]], lambda actions: arms[actions[0]])])
    last = [run(made, [[1, 0]], lambda _: 0.0).actions[0] for _ in range(20)]
    assert np.mean([arms[a] for a in last]) > 0.85


def trained_on(arms, updates, **settings):
    """An agent that played a bandit so often, and its probabilities of the arms."""
    made = agent(entropy_weight=0.0, **settings)
    for _ in range(updates):
        made.update([run(made, [[1, 0]], lambda actions: arms[actions[0]])])
    with torch.no_grad():
        return made.policy(*read([1.0, 0.0]))[0][0, 0].exp().numpy()


def test_it_tells_arms_apart_that_earn_nearly_alike():
    assert trained_on((0.80, 0.82, 0.84), 120, lr=5e-3)[2] > 0.9


def test_what_all_actions_earn_alike_teaches_nothing():
    low, high = (trained_on((b, b + 0.5, b + 1.0), 20, scaled=False) for b in (0.0, 10.0))
    assert low == pytest.approx(high, abs=1e-3)
    assert np.ptp(low) > 0.1


def test_the_first_update_sets_the_values_to_the_mean_return_and_no_more():
    made = agent(discount=1.0)
    before = made.policy.logits.weight.detach().clone()
    first = [run(made, [[0, 1], [1, 0]], lambda actions, r=r: r) for r in (0.6, 1.0)]
    made.update(first)
    assert torch.equal(before, made.policy.logits.weight)
    later = run(made, [[0, 1], [1, 0]], lambda actions: 2.0)
    assert np.mean(later.values) == pytest.approx(0.8)
    made.update([later])
    assert not torch.equal(before, made.policy.logits.weight)


def test_a_reward_just_as_expected_does_not_blow_the_loss_up():
    made = agent(entropy_weight=0.0)
    for _ in range(2):
        episode = run(made, [[1, 0]], lambda actions: 0.7)
        made.update([episode])
    scale = made._scale([[0.0]])
    assert scale == pytest.approx(0.7e-2)
    assert abs(float(made.loss(episode, made.gains(episode), scale).detach())) < 1


def test_it_remembers_what_only_the_first_step_showed():
    """The reward is for naming the cue in the last step: 1 at best, 1/2 without a memory."""
    made = agent(3, 2, 2, lr=1e-2, discount=1.0)
    two, draw = np.ones(2, np.bool_), np.random.default_rng(1)
    earned = []
    for _ in range(160):
        cue = int(draw.integers(2))
        states = [[2 * cue - 1, 0], [0, 1], [0, 1]]
        episode = run(made, states, lambda actions, cue=cue: float(actions[-1] == cue), two)
        earned.append(episode.rewards[-1])
        made.update([episode])
    assert np.mean(earned[-30:]) > 0.9
    assert np.mean(earned[:30]) < 0.8


def test_same_generator_same_agent():
    def trained(seed):
        made = agent(seed)
        for _ in range(3):
            made.update([run(made, [[0, 1], [1, 1]], lambda actions: float(sum(actions)))])
        return [p.detach().numpy().tobytes() for p in made.policy.parameters()]

    assert trained(0) == trained(0) != trained(1)


def test_the_most_probable_action_needs_no_draw():
    made = agent()
    before = made.rng.bit_generator.state
    first, second = Episode(), Episode()
    state = np.array([0.3, 0.1], np.float32)
    assert made.act(first, state, ALL, greedy=True) == made.act(second, state, ALL, greedy=True)
    assert made.rng.bit_generator.state == before
    with torch.no_grad():
        logs, _, _ = made.policy(*read(state.tolist()))
    assert first.logs[0] == pytest.approx(float(logs.max()))


def test_an_episode_that_goes_on_reads_as_if_it_was_one():
    made, states = agent(), [[0.1, 1.0], [0.7, 0.2]]
    whole, first = Episode(), Episode()
    for state in states:
        made.act(whole, np.array(state, np.float32), ALL, greedy=True)
    made.act(first, np.array(states[0], np.float32), ALL, greedy=True)
    second = first.after()
    made.act(second, np.array(states[1], np.float32), ALL, greedy=True)
    assert second.values == pytest.approx(whole.values[1:])
    second.rewards = [1.0]
    # A ratio of 1 at its start: the loss is that of the memory in force when it acted.
    gain = 1.0 - second.values[0]
    with torch.no_grad():
        spread = float(entropy(made.policy(*read(states[1]), first.memory)[0]))
    found = made.loss(second, made.gains(second), 1.0)
    assert float(found.detach()) == pytest.approx(gain**2 - gain - 0.01 * spread, rel=1e-4)


def read(state):
    return torch.tensor([[state]]), torch.ones(1, 1, 3, dtype=torch.bool)
