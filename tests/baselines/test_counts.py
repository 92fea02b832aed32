"""Equal counts: every search that evaluates policies evaluates exactly as many distinct ones."""

from dataclasses import replace

import pytest

from frameworks import registry
from frameworks.core.evaluation.evaluate import Evaluator
from frameworks.core.policy import FLOAT
from frameworks.testing import toy

N = 12
ASKED = {
    "haq": {"episodes": N, "warmup": 4},
    "haq_kmeans": {"episodes": N, "warmup": 4},
    "releq": {"episodes": N, "hidden": 16},
    "adrl": {"episodes": N, "warmup": 4, "images": 32},
    "autoq": {"explore": 4, "exploit": N - 4, "correct": 8, "updates": 2, "prune": False},
    "evoq": {"evaluations": N, "images": 16, "population": 6, "tournament": 3},
    "layer_kl_refined": {"images": 16, "refine": N},
    "mohaq": {"evaluations": N, "population": 6, "offspring": 4, "generations": 40, "subsets": 1},
    "apq": {
        **{"pairs": N, "cheap": 50, "images": 16, "cheap_epochs": 1, "epochs": 2, "hidden": 8},
        **{"population": 6, "generations": 2, "parents": 2, "mutants": 3, "children": 3},
    },
    "spos": {"evaluations": N, "epochs": 0, "population": 4, "parents": 2, "mutants": 2},
}
"""How a framework is told a number of evaluations, where not by ``evaluations`` alone."""


def asked(name):
    cls = registry.get(name)
    found = cls()
    if name in ASKED:
        return replace(found, **ASKED[name])
    if "evaluations" in found.hyperparameters():
        return replace(found, evaluations=N)
    return found


SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))]
EVALUATING = [name for name in registry.names() if asked(name).evaluations_asked is not None]


def counted(name, seed, monkeypatch):
    """Distinct policies that a search ran, by its problem's own count of what was new to it."""
    framework = asked(name)
    # The size variant of HAQ leaves activations at their most bits.
    target = "size" if name == "haq_kmeans" else "bops"
    problem = toy.make_problem(target, like=3, seed=seed, needs=framework.card.needs)
    assert framework.skip(problem) is None
    seen = set()
    apply = Evaluator.apply

    def noted(self, policy):
        # A layer quantized alone, all else in float, is no policy of the space.
        if all(FLOAT not in (bits.weight, bits.act) for bits in policy.values()):
            seen.add(policy)
        return apply(self, policy)

    monkeypatch.setattr(Evaluator, "apply", noted)
    framework.search(problem)
    return len(seen), problem.meter.policies


def test_the_evaluating_methods_are_known():
    known = {"random", "random_plain", "random_retrained", "random_kernel", "greedy"}
    assert known | ASKED.keys() <= set(EVALUATING)
    assert all(asked(name).evaluations_asked == N for name in EVALUATING)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", [name for name in EVALUATING if name != "greedy"])
def test_every_search_evaluates_as_many_distinct_policies_as_it_is_asked_to(
    name, seed, monkeypatch
):
    assert counted(name, seed, monkeypatch) == (N, N)


@pytest.mark.parametrize("seed", SEEDS)
def test_greedy_evaluates_no_more_and_at_most_one_less(seed, monkeypatch):
    """A step from a policy that is new takes two evaluations, and there may be one left."""
    found, metered = counted("greedy", seed, monkeypatch)
    assert found == metered
    assert N - 1 <= found <= N
