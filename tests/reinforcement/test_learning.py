"""HAQ and AutoQ learn at the settings of the suites (digits), unlike agents that never update."""

import dataclasses

import numpy as np
import pytest
from omegaconf import OmegaConf

from benchmarks.suite.conf import conf_folder
from frameworks import registry

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def settings():
    """The overrides of the suite `quick`, by framework."""
    suite = OmegaConf.load(conf_folder() / "suite" / "quick.yaml")
    return OmegaConf.to_container(suite.overrides.framework)


SEEDS = range(3)
LONG = {"explore": 20, "exploit": 80, "noise_decay": 0.96, "updates": 32}
"""AutoQ's settings in the suite `fashion_mnist`."""


@pytest.fixture
def searched(digits_problem, settings):
    """Notes by seed of searches as the suite makes them, and of ones that never learn."""

    def run(name, like=2.5, **longer):
        framework = registry.get(name)(**{**settings[name], **longer})
        still = dataclasses.replace(framework, updates=0)
        return [
            [f.search(digits_problem("bops", like=like, seed=seed)).notes for seed in SEEDS]
            for f in (framework, still)
        ]

    return run


def fifths(runs, what):
    """Means of the first and of the last fifth of the searches' curves, over all seeds."""
    parts = [(len(run[what]) // 5, run[what]) for run in runs]
    first = np.mean([np.mean(curve[:count]) for count, curve in parts])
    last = np.mean([np.mean(curve[-count:]) for count, curve in parts])
    return float(first), float(last)


def test_haq(searched, settings):
    learned, still = searched("haq")
    first, last = fifths(learned, "rewards")
    assert last > first
    assert last > fifths(still, "rewards")[1]
    assert [run["distinct"] for run in learned] == [settings["haq"]["episodes"]] * len(SEEDS)


def test_autoq(searched):
    """The low-level controller learns to reach goals in 100 episodes with 32 updates each.

    `quick` has 16 with 4 updates, in which it only begins to. Rewards say little here: at 3 bits on
    digits, policies differ by a few of 360 images. What its high-level controller learns is in the
    notes of the records on Fashion-MNIST.
    """
    learned, still = searched("autoq", like=3, **LONG)
    near, far = (fifths(runs, "goal_distances") for runs in (learned, still))
    assert near[1] < 0.2 * near[0]
    assert near[1] < 0.2 * far[1]
