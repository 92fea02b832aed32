"""The public contracts, held against everything that the registries list."""

import csv
import json
import os
from dataclasses import replace

import pytest

from frameworks import registry, schemes, targets
from frameworks.core.networks.taking.describe import describe
from frameworks.testing import FrameworkContract, SchemeContract, TargetContract, toy

# Hyper-parameters that keep a search below a second or so; unknown names get their defaults.
REDUCED = {
    "random": {"evaluations": 8},
    "random_plain": {"evaluations": 8},
    "random_retrained": {"evaluations": 4, "retrain_images": 64},
    "random_kernel": {"evaluations": 4, "retrain_images": 64},
    "greedy": {"evaluations": 40},
    "exhaustive": {"limit": 20_000},
    "haq": {"episodes": 6, "warmup": 2},
    "haq_kmeans": {"episodes": 6, "warmup": 2},
    "releq": {"episodes": 6, "hidden": 16, "retrain_epochs": 1, "retrain_images": 64},
    "adrl": {"episodes": 6, "warmup": 2, "images": 32},
    "autoq": {"explore": 3, "exploit": 3, "correct": 8, "updates": 2},
    "dnas": {
        **{"epochs": 3, "warmup": 1, "images": 128, "batch": 32},
        **{"theta_lr": 0.5, "sample_every": 1, "samples": 4},
    },
    "edmips": {"epochs": 1, "images": 64, "batch": 32},
    "bsq": {
        **{"epochs": 8, "interval": 2, "step": 7, "images": 256, "batch": 32},
        **{"lr": 0.02, "plane_lr": 40.0, "alpha": 0.2},
    },
    "csq": {"epochs": 4, "warmup": 1, "images": 128, "batch": 32, "lr": 0.02, "mask_lr": 20.0},
    "hmq": {"epochs": 4, "cycle": 1, "images": 128, "batch": 32, "lr": 1e-3, "hmq_lr": 0.5},
    "bp_nas": {
        **{"epochs": 3, "images": 128, "batch": 32, "lr": 0.01, "theta_lr": 0.2, "mu": 0.02},
        **{"prob1": 0.3, "layerwise": True},
    },
    "gmpq": {
        **{"epochs": 2, "images": 64, "batch": 32, "lr": 0.01, "alpha_lr": 1.0, "step": 1},
        **{"eta": 0.01},
    },
    "bayesian_bits": {
        **{"epochs": 3, "images": 256, "batch": 32, "step": 2},
        **{"gate_lr": 0.3, "start": 2.0, "mu": 0.05},
    },
    "djpq": {
        **{"epochs": 3, "images": 128, "batch": 16, "lr": 0.01},
        **{"quantizer_lr": 0.2, "gate_lr": 0.1, "beta": 0.5},
    },
    "waveq": {
        **{"epochs": 4, "images": 256, "batch": 32, "lr": 0.02},
        **{"beta_lr": 20.0, "lambda_w": 0.5, "lambda_beta": 0.1},
    },
    "sdq": {
        **{"epochs": 4, "images": 256, "batch": 32, "lr": 0.002},
        **{"beta_lr": 4.0, "lambda_q": 0.1},
    },
    "fracbits": {"epochs": 2, "images": 128, "batch": 32, "bits_lr": 4.0},
    "fracbits_kernel": {"epochs": 2, "images": 128, "batch": 32, "bits_lr": 40.0},
    "mixed_dnn": {"epochs": 3, "images": 128, "batch": 16, "lr": 0.02},
    "adaquant_ip": {"images": 16, "iterations": 1},
    "hawq": {"images": 32, "batch": 32, "iterations": 8},
    "layer_kl": {"images": 32},
    "layer_kl_refined": {"images": 32, "refine": 12},
    "ompq": {"images": 16},
    "practical_ptq": {"images": 16, "candidates": [[b, a] for b in (2, 3, 4, 8) for a in (b, 8)]},
    "hawq_v2": {"images": 32, "batch": 32, "probes": 4},
    "hawq_v3": {"images": 32, "batch": 32, "probes": 4},
    "mpqco": {"images": 64, "batch": 32},
    "bmpq": {"epochs": 3, "interval": 1, "images": 64, "batch": 32, "lr": 0.02, "scratch": False},
    "limpq": {"epochs": 1, "images": 64, "batch": 32},
    "adq": {"images": 8},
    "evoq": {"images": 20, "evaluations": 10, "population": 5, "tournament": 2},
    "zeroq": {"images": 16, "steps": 20},
    "mohaq": {
        **{"population": 6, "offspring": 4, "generations": 4, "subsets": 2},
        **{"beacons": 1, "epochs": 1, "beacon_rise": 90.0, "beacon_speedup": 1.0},
    },
    "spos": {
        **{"epochs": 1, "images": 64, "batch": 32, "lr": 0.01, "statistics": 32},
        **{"evaluations": 6, "population": 3, "parents": 2, "mutants": 2, "children": 1},
    },
    "apq": {
        **{"cheap": 50, "images": 16, "cheap_epochs": 2, "pairs": 6, "epochs": 20, "hidden": 16},
        **{"population": 6, "generations": 2, "parents": 2, "mutants": 3, "children": 3},
    },
}
# Of those that golden cells keep the numbers of, and which take longest.
SHORTER = {"bayesian_bits": {"images": 128, "gate_lr": 0.5, "mu": 0.1}}


def reduced(name):
    cls = registry.get(name)
    fields = cls.__dataclass_fields__
    settings = {**REDUCED.get(name, {}), **SHORTER.get(name, {})}
    return cls(**{k: v for k, v in settings.items() if k in fields})


@pytest.fixture(params=registry.names())
def framework(request):
    return reduced(request.param)


class TestFrameworks(FrameworkContract):
    likes = (2.5,)

    def test_meets_budgets(self):
        """Of bit operations that of the search which other tests look at; see the slow test."""
        seen = self.observed()
        self.check(seen.problem, seen.solution)
        problem = self.problem("size", like=2.5)
        self.check(problem, self.search(problem))

    @pytest.mark.slow
    def test_meets_every_budget(self):
        super().test_meets_budgets()

    @pytest.mark.slow
    def test_meets_a_loose_budget(self):
        for target in ("bops", "size"):
            problem = self.problem(target, like=4)
            self.check(problem, self.search(problem))

    @pytest.mark.slow
    def test_computes_where_the_problem_is(self):
        super().test_computes_where_the_problem_is()

    @pytest.fixture(autouse=True)
    def _framework(self, framework, tmp_path):
        self.framework, self.folder = framework, tmp_path

    def problem(self, target="bops", **changes):
        if self.framework.name == "exhaustive":
            changes = {"bits": (2, 8), "paired": True, **changes}
        if self.framework.name.startswith(("layer_kl", "adaquant_ip")):
            # They evaluate every pair of every layer.
            changes = {"bits": (2, 4, 8), **changes}
        if self.framework.name == "given":
            # It brings its policy along, which has to be one of the problem and its budget.
            cheapest = toy.make_problem(target, **{"like": 3, **changes}).cheapest()
            path = self.folder / "policy.json"
            path.write_text(json.dumps(cheapest.to_json()))
            self.framework = replace(self.framework, policy=str(path))
        return super().problem(target, **changes)


# Of each kind of search one: rules, agents, super nets, learned bits, derivatives, populations.
@pytest.mark.parametrize("name", ["random_retrained", "haq", "edmips", "csq", "hawq_v3", "evoq"])
def test_some_of_each_kind_compute_where_the_problem_is(name):
    contract = FrameworkContract()
    contract.framework = reduced(name)
    contract.test_computes_where_the_problem_is()


@pytest.fixture(params=targets.names())
def target(request, tmp_path, measured_table):
    if request.param in ("cpu", "gpu"):
        layers = describe(toy.network(), toy.SHAPE)
        costs = {32: 3.0, 16: 2.0, 8: 1.0, 4: 1.0, 2: 1.0}
        path = measured_table.save(measured_table.make(layers, costs, request.param))
        return targets.get(request.param)(path=path)
    if request.param != "table":
        return targets.get(request.param)()
    path = tmp_path / "table.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["layer", "w_bits", "a_bits", "cost"])
        for layer in describe(toy.network(), toy.SHAPE):
            for w in (2, 4, 8):
                writer.writerows((layer.name, w, a, layer.macs * (w + a)) for a in (2, 4, 8))
    return targets.get("table")(path=str(path))


class TestTargets(TargetContract):
    @pytest.fixture(autouse=True)
    def _target(self, target):
        self.target = target
        if target.name == "table":
            self.monotone = True  # the costs that `target` wrote grow with the bits


class TestPeak(TargetContract):
    target = toy.Peak()


class TestValley(TargetContract):
    target = toy.Valley()


@pytest.fixture(params=schemes.names())
def scheme(request):
    return schemes.get(request.param)()


class TestSchemes(SchemeContract):
    @pytest.fixture(autouse=True)
    def _scheme(self, scheme):
        self.scheme = scheme


@pytest.mark.xdist_group("one")
def test_groups_of_tests_go_to_one_worker(request):
    """Without it every worker makes what a group shares, unseen but for the time."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        pytest.skip("tests run in one process")
    assert request.node.nodeid.endswith("@one"), "give --dist loadgroup, as the Makefile does"


def test_nothing_built_in_is_unavailable():
    for kind in (registry, targets, schemes):
        assert kind.unavailable() == []
