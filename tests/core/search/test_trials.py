import pytest

from frameworks.core.evaluation.evaluate import Score
from frameworks.core.search.trials import Trials
from frameworks.testing import toy


def run(draws, evaluations, most, rewards=None):
    """Trials over a list of policies (by number); clocks, trials and what was measured."""
    problem, measured = toy.make_problem(like=8), []

    def measure(policy):
        measured.append(policy)
        return Score(50.0 + len(measured), 1.0 / len(measured))

    policies = [problem.space.decode([bits] * len(problem.space.choices)) for bits in (2, 3, 4, 5)]
    trials, clocks = Trials(problem, evaluations, most, measure), []
    for clock, draw in zip(trials, draws, strict=False):
        clocks.append(clock)
        score = trials.score(policies[draw])
        trials.reward(
            policies[draw], score.accuracy if rewards is None else rewards[len(clocks) - 1]
        )
    return clocks, trials, measured, policies


def test_the_clock_counts_distinct_policies_and_the_search_ends_with_them():
    clocks, trials, measured, policies = run([0, 0, 1, 0, 1, 2, 3, 3], 3, 9.0)
    assert clocks == [0, 1, 1, 2, 2, 2]
    assert measured == policies[:3]
    assert trials.rewards == [51, 51, 52, 51, 52, 53]
    assert trials.best == policies[2]
    notes = trials.notes()
    assert (notes["distinct"], notes["draws"], notes["reward"]) == (3, 6, 53)
    assert notes["learning"]["objective"] == "reward"
    assert notes["learning"]["curve"] == trials.rewards


def test_episodes_are_bounded():
    clocks, trials, *_ = run([0] * 99, 4, 2.5)
    assert clocks == [0] + [1] * 9
    assert trials.notes()["distinct"] == 1


def test_of_equal_rewards_the_least_loss_is_best_and_only_better_ones_are_checkpoints():
    # Losses 1, 1/2 and 1/3 in the order of their first draw.
    _, trials, _, policies = run([0, 1, 2], 3, 2.0, rewards=[1.0, 1.0, 0.5])
    assert trials.best == policies[1]
    assert [c.policy for c in trials.problem.checkpoints] == policies[:2]


def test_an_episode_without_a_reward_is_an_error():
    problem = toy.make_problem()
    clocks = iter(Trials(problem, 2, 2.0, problem.evaluate))
    assert next(clocks) == 0
    with pytest.raises(AssertionError, match="one reward"):
        next(clocks)
