"""Equal search cost: every method that evaluates policies evaluates as many distinct ones."""

import pytest

from frameworks import registry
from frameworks.core.evaluation.evaluate import Evaluator
from frameworks.core.problem import Problem
from frameworks.testing import toy

COUNT = 24
SHORT = {"retrain_images": 32, "warmup": 4, "explore": 4, "exploit": COUNT - 4, "updates": 1}
GIVEN = {
    "random": {"evaluations": COUNT},
    "greedy": {"evaluations": COUNT},
    "haq": {"episodes": COUNT, **SHORT},
    "haq_kmeans": {"episodes": COUNT, **SHORT},
    "releq": {"episodes": COUNT, "hidden": 16, "retrain_epochs": 1, **SHORT},
    # Profiles are of single layers, which are no policies of the space.
    "adrl": {"episodes": COUNT, "indicator": "distance", "window": 0, **SHORT},
    "autoq": SHORT,
    "mohaq": {
        **{"evaluations": COUNT, "population": 6, "offspring": 6, "generations": 100, "subsets": 2},
        **{"beacons": 2, "epochs": 1, "images": 32, "beacon_rise": 90.0, "beacon_speedup": 1.0},
    },
    "spos": {
        **{"evaluations": COUNT, "epochs": 1, "images": 32, "batch": 32, "lr": 0.01},
        **{"statistics": 32, "population": 6, "parents": 3, "mutants": 4, "children": 4},
    },
    "apq": {
        # Layers quantized alone are no policies, but an evaluator is set to them.
        **{"pairs": COUNT, "cheap_epochs": 0, "epochs": 2, "hidden": 8},
        **{"population": 6, "generations": 2, "parents": 2, "mutants": 3, "children": 3},
    },
}


@pytest.fixture
def seen(monkeypatch):
    """Every policy that an evaluator was set to or a network was trained at, in order."""
    policies = []

    def recording(cls, name):
        plain = getattr(cls, name)

        def watched(self, policy, *args, **options):
            policies.append(policy)
            return plain(self, policy, *args, **options)

        monkeypatch.setattr(cls, name, watched)

    recording(Evaluator, "apply")
    recording(Problem, "fine_tune")
    return policies


def searched(name, seed, **changes):
    cls = registry.get(name)
    fields = cls.__dataclass_fields__
    framework = cls(**{k: v for k, v in GIVEN[name].items() if k in fields})
    target = "size" if name == "haq_kmeans" else "bops"
    problem = toy.make_problem(target, like=3.5, seed=seed, **changes)
    assert framework.skip(problem) is None
    return problem, framework.search(problem)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("retrains", [False, True])
@pytest.mark.parametrize("name", sorted(GIVEN))
def test_as_many_distinct_policies_as_were_given(name, retrains, seed, seen):
    problem, solution = searched(name, seed, retrains=retrains)
    if name == "greedy":  # it stops at its limit or where it is done
        assert COUNT - 2 < problem.meter.policies <= COUNT or problem.within(solution.policy)
    else:
        assert problem.meter.policies == COUNT
    assert len(set(seen)) == problem.meter.policies
    if name not in ("random", "greedy"):
        assert solution.notes["distinct"] == COUNT <= solution.notes["draws"]


@pytest.mark.parametrize(
    "name", ["haq", "haq_kmeans", "releq", "adrl", "autoq", "mohaq", "spos", "apq"]
)
def test_a_space_of_few_policies_ends_a_search_by_its_draws(name, seen):
    # Two bits for each of four layers, and for the layer's whole kernels only where they are even.
    problem, solution = searched(name, 0, bits=(2, 3), groups=[GROUP])
    assert len(set(seen)) == problem.meter.policies == solution.notes["distinct"] < COUNT
    bounds = {"mohaq": 6 + 100 * 6, "spos": 1 + 10 * (2 * 6 + 4 + 4 + 2 * 8), "apq": 50 * COUNT}
    most = bounds.get(name, 3 * COUNT)
    assert solution.notes["draws"] <= most


GROUP = [layer.name for layer in toy.make_problem().space.free_layers]
