"""HAQ and AutoQ learn at the settings of the suites (digits), unlike agents that never update."""

import dataclasses

import numpy as np
import pytest
from omegaconf import OmegaConf

from benchmarks.config import conf_folder
from frameworks import registry

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def settings():
    """The overrides of the suite `quick`, by framework."""
    suite = OmegaConf.load(conf_folder() / "suite" / "quick.yaml")
    return OmegaConf.to_container(suite.overrides.framework)


def fifths(values):
    """Means of the first and the last fifth."""
    count = len(values) // 5
    return float(np.mean(values[:count])), float(np.mean(values[-count:]))


def runs(problem, given, name, seed):
    """Notes of a search as the suite makes it, and of one that explores alike but never learns."""
    framework = registry.get(name)(**given[name])
    still = dataclasses.replace(framework, updates=0)
    return [f.search(problem("bops", like=2.5, seed=seed)) for f in (framework, still)]


@pytest.mark.parametrize("seed", [0, 1])
def test_haq(digits_problem, settings, seed):
    learned, still = runs(digits_problem, settings, "haq", seed)
    first, last = fifths(learned.notes["rewards"])
    assert last > first
    assert last > fifths(still.notes["rewards"])[1]
    assert learned.notes["distinct"] == settings["haq"]["episodes"]


@pytest.mark.parametrize("seed", [0, 1])
def test_autoq(digits_problem, settings, seed):
    learned, still = runs(digits_problem, settings, "autoq", seed)
    first, last = fifths(learned.notes["rewards"])
    assert last > first
    near, far = (fifths(run.notes["goal_distances"]) for run in (learned, still))
    assert near[1] < 0.7 * near[0]
    assert near[1] < 0.7 * far[1]
    assert learned.policy != still.policy
