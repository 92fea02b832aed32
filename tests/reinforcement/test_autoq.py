import math

import numpy as np
import pytest
import torch

from frameworks.core.agents.ddpg import DDPG
from frameworks.core.evaluation.evaluate import Score
from frameworks.core.policy import PRUNED
from frameworks.core.search.wall import affordable
from frameworks.reinforcement.autoq.framework import COLUMNS, FLAG, GOAL, KERNEL, PREVIOUS, AutoQ
from frameworks.reinforcement.autoq.hiro import TwoLevels
from frameworks.testing import toy

SHORT = {"explore": 3, "exploit": 3, "correct": 8, "updates": 2}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def roll_out(problem, autoq=None, noise=0.3):
    autoq = autoq or AutoQ(**SHORT)
    high = DDPG(COLUMNS - 1, problem.rng("high"), autoq.settings())
    low = DDPG(COLUMNS, problem.rng("low"), autoq.settings())
    return autoq.roll_out(problem, high, low, noise, noise)


def test_extrinsic_reward_by_hand():
    problem = toy.make_problem("bops", like=4)
    policy = problem.space.reference(4, 4)
    score = Score(accuracy=80.0, loss=1.0)
    assert AutoQ().extrinsic(problem, policy, score) == pytest.approx(math.log(0.8))
    costs, uniform = problem.cost(policy), problem.cost(problem.space.reference(8, 8))
    expected = 2 * math.log(0.8) - 0.5 * sum(math.log(costs[m] / uniform[m]) for m in costs)
    guaranteed = AutoQ(psi_accuracy=2.0, psi_cost=0.5)
    assert guaranteed.extrinsic(problem, policy, score) == pytest.approx(expected)
    assert math.isfinite(AutoQ().extrinsic(problem, policy, Score(0.0, 9.0)))


def test_intrinsic_reward_by_hand():
    # -(1 - 0.1) * 2 + 0.1 * (-0.5)
    assert AutoQ().intrinsic(2.0, -0.5, 0.1) == pytest.approx(-1.85)
    assert AutoQ().intrinsic(2.0, -0.5, 1.0) == pytest.approx(-0.5)


def test_candidates():
    problem = toy.make_problem(bits=(2, 4, 8))
    weight, act = (next(c for c in problem.space.choices if c.kind == k) for k in ("weight", "act"))
    assert AutoQ().candidates(weight) == (PRUNED, 2, 4, 8)
    assert AutoQ(prune=False).candidates(weight) == (2, 4, 8)
    assert AutoQ().candidates(act) == (2, 4, 8)


def test_a_roll_out_walks_over_layers_and_kernels():
    problem = toy.make_problem(like=3)
    run = roll_out(problem)
    choices = problem.space.choices
    layers = {layer.name: layer for layer in problem.layers}
    assert run.states.shape == (len(choices), COLUMNS - 1)
    assert set(run.low) == {i for i, choice in enumerate(choices) if choice.kind == "weight"}
    for step, did in run.low.items():
        count = layers[choices[step].layers[0]].out_channels
        assert did.states.shape == (count, COLUMNS)
        assert did.states[:, KERNEL] == pytest.approx(np.linspace(0, 1, count))
        assert (did.states[:, FLAG] == 1).all()
        assert len(set(did.states[:, GOAL])) == 1
        assert did.states[1:, PREVIOUS].tolist() == did.actions[:-1, 0].tolist()
        goal, scale = float(did.states[0, GOAL]), choices[step].bits[-1]
        assert did.distance == pytest.approx(abs(goal - did.reached) * scale, abs=1e-4)
    assert problem.within(run.policy)
    problem.space.validate(run.policy)
    kinds = {type(run.policy[choices[step].layers[0]].weight) for step in run.low}
    assert tuple in kinds  # bits of kernels, not of layers


def test_the_controllers_see_what_the_other_did():
    problem = toy.make_problem(like=3)
    run = roll_out(problem)
    for step in range(1, len(run.states)):
        latest = max((s for s in run.low if s < step), default=None)
        if latest is not None:
            assert run.states[step, -1] == pytest.approx(run.low[latest].reached, abs=1e-6)
            assert run.states[step, -2] == pytest.approx(run.low[latest].states[0, GOAL], abs=1e-6)


def test_the_memory_holds_goals_as_they_were_carried_out():
    # A budget this tight cuts nearly every wish of an actor that starts at one half.
    problem = toy.make_problem(like=2.2)
    run = roll_out(problem)
    choices = problem.space.choices
    assert len(run.actions) == len(choices)
    for step, did in run.low.items():
        assert float(run.actions[step, 0]) == float(did.states[0, GOAL])
    spent = problem.space.lowest()
    for step, choice in enumerate(choices):
        most = affordable(problem, spent, choice)
        low, high = AutoQ().candidates(choice)[0], choice.bits[-1]
        assert float(run.actions[step, 0]) <= (most - low) / (high - low) + 1e-6
        if choice.kind != "act":
            break


def test_tied_layers_of_different_width_count_as_one_kernel():
    names = [layer.name for layer in toy.make_problem().layers]
    problem = toy.make_problem(groups=[names[2:4]], like=4)
    widths = {layer.out_channels for layer in problem.layers if layer.name in names[2:4]}
    run = roll_out(problem, AutoQ(prune=False, **SHORT))
    step = next(i for i, c in enumerate(problem.space.choices) if c.layers == tuple(names[2:4]))
    assert len(run.low[step].states) == (widths.pop() if len(widths) == 1 else 1)
    assert run.policy[names[2]] == run.policy[names[3]]


def test_best_reward_is_returned_and_goals_come_closer_than_nothing():
    problem = toy.make_problem(like=3)
    solution = AutoQ(**SHORT).search(problem)
    notes = solution.notes
    assert len(notes["rewards"]) == len(notes["goal_distances"]) == 6
    assert notes["reward"] == max(notes["rewards"])
    score = problem.evaluate(solution.policy)
    assert notes["reward"] == pytest.approx(AutoQ().extrinsic(problem, solution.policy, score))


def test_the_budget_is_met_where_the_cost_is_no_sum():
    problem = toy.make_problem(toy.Peak(), like=3)
    assert problem.within(AutoQ(**SHORT).search(problem).policy)


def test_while_exploring_the_low_level_learns_alone(monkeypatch):
    seen = []
    monkeypatch.setattr(DDPG, "update", lambda self: seen.append(self.replay.state.shape[1]))
    AutoQ(explore=4, exploit=0, updates=3).search(toy.make_problem(like=3))
    assert seen == [COLUMNS] * 12
    seen.clear()
    AutoQ(explore=1, exploit=1, updates=3).search(toy.make_problem(like=3))
    assert seen == [COLUMNS] * 3 + [COLUMNS - 1] * 3 + [COLUMNS] * 3


def test_shared_noise_moves_the_mean_of_a_layer():
    problem, static = toy.make_problem(like=3), np.zeros(KERNEL, np.float32)
    low = DDPG(COLUMNS, problem.rng("low"), AutoQ().settings())
    spread = {}
    for shared in (0.0, 0.5):
        autoq = AutoQ(shared=shared)
        steps = [autoq.step_kernels(low, static, 0.5, 0.5, 64, 0.1)[1] for _ in range(60)]
        spread[shared] = np.std([actions.mean() for actions in steps])
        # Each kernel's own action is as noisy as ever.
        assert np.std([actions[5, 0] for actions in steps]) == pytest.approx(0.1, rel=0.3)
    assert spread[0.0] == pytest.approx(0.1 / 8, rel=0.4)
    assert spread[0.5] == pytest.approx(0.1 * math.sqrt(0.5 + 0.5 / 64), rel=0.3)


def test_the_high_level_learns_from_scaled_and_the_low_level_from_intrinsic_rewards(monkeypatch):
    seen = []
    learn = TwoLevels.learn

    def watched(self, low, *args):
        seen.append(
            (self, [did.distance for did in low.values()], [len(x.states) for x in low.values()])
        )
        return learn(self, low, *args)

    monkeypatch.setattr(TwoLevels, "learn", watched)
    autoq = AutoQ(reward_scale=10.0, zeta_start=0.1, zeta_end=0.7, explore=2, exploit=2, updates=1)
    rewards = autoq.search(toy.make_problem(like=3)).notes["rewards"]
    assert len(rewards) == len(seen) == 4
    learner = seen[-1][0]
    high, low = learner.high.replay, learner.low.replay
    assert set(high.reward[: len(high), 0]) == {np.float32(10 * reward) for reward in rewards}
    # After the last episode zeta is 0.7 for all that the low level remembers.
    expected = [
        -0.3 * distance + 0.7 * reward
        for reward, (_, distances, counts) in zip(rewards, seen, strict=True)
        for distance, count in zip(distances, counts, strict=True)
        for _ in range(count)
    ]
    assert low.reward[: len(low), 0] == pytest.approx(expected, abs=1e-5)


def test_low_noise_decays_apart_from_the_high_one(monkeypatch):
    sigmas = {COLUMNS: set(), COLUMNS - 1: set()}
    act = DDPG.act

    def watched(self, state, sigma=0.0, quantile=None):
        sigmas[len(state)].add(round(sigma, 6))
        return act(self, state, sigma, quantile)

    monkeypatch.setattr(DDPG, "act", watched)
    settings = {"noise": 0.4, "low_noise": 0.2, "noise_decay": 0.5, "updates": 1}
    AutoQ(explore=1, exploit=3, **settings).search(toy.make_problem(like=3))
    assert sigmas == {COLUMNS - 1: {0.4, 0.2, 0.1}, COLUMNS: {0.2, 0.1, 0.05}}


def test_same_seed_same_rewards_and_another_seed_differs():
    runs = [AutoQ(**SHORT).search(toy.make_problem(like=3, seed=seed)) for seed in (0, 0, 1)]
    assert runs[0].policy == runs[1].policy
    assert runs[0].notes == runs[1].notes
    assert runs[0].notes["rewards"] != runs[2].notes["rewards"]
