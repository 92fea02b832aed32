"""What makes the cells of the shipped suites comparable: budgets and counts."""

from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import pytest

from benchmarks.data.recipes import recipe_of
from benchmarks.records.store import read_record
from benchmarks.suite.assets import entry_text, layers_of
from benchmarks.suite.conf import conf_folder
from benchmarks.suite.config import AXES, composed, suite_cells
from benchmarks.suite.options.budgets import budget_spec, label_of
from benchmarks.suite.setting import setting_of
from frameworks import registry
from frameworks.core.budget import cheapest

ROOT = Path(__file__).resolve().parents[3]
SUITES = sorted(p.stem for p in (conf_folder() / "suite").glob("*.yaml"))
BETWEEN = {"t4": (4, 8), "diana": (2, 8)}
"""Targets of two uniform policies, of which the cheaper one leaves nothing to choose and the dearer
one everything: their budgets lie between, and uniform bits fit without using all."""

LOOSE = {"toolkits": {"size like=2.5", "bops like=2.5"}}
"""Budgets between uniform bits, as other toolkits are asked for them: uniform bits leave a part."""


@cache
def cells_of(suite):
    return suite_cells(composed([f"+suite={suite}"]))


@cache
def settings_of(suite):
    """The setting, the budget and the label of each group of cells."""
    found = {}
    for cell in cells_of(suite):
        axes = {axis: cell[axis] for axis in AXES if axis != "framework"}
        group = repr({**axes, "budget": cell["budget"]})
        if group not in found:
            layers = layers_of(entry_text(cell["model"]), entry_text(cell["dataset"]))
            setting = setting_of(cell, layers)
            budget = budget_spec(cell).resolve(setting.target, setting.space)
            found[group] = setting, budget, f"{cell['hardware']['name']} {label_of(cell)}"
    return list(found.values())


def uniform_costs(setting):
    """Costs of every uniform policy that belongs to the space, by its bits."""
    space, found = setting.space, {}
    weights = {b for x in space.free_layers for b in space.weight_bits[x.name]}
    acts = {b for x in space.free_layers for b in space.act_bits[x.name]}
    for pair in product(weights, acts):
        policy = space.reference(*pair)
        if policy == space.nearest(policy):
            found[pair] = setting.target.cost(space.layers, policy)
    return found


@pytest.mark.filterwarnings("ignore:t4:UserWarning")
@pytest.mark.parametrize("suite", SUITES)
def test_uniform_bits_fit_every_budget_of_a_suite_exactly(suite, monkeypatch):
    monkeypatch.chdir(conf_folder().parent)  # measured tables are named from there
    for setting, budget, label in settings_of(suite):
        costs = uniform_costs(setting)
        fitting = {b: c for b, c in costs.items() if budget.allows(c)}
        assert fitting, f"{suite}, {label}: no uniform policy fits"
        if setting.target.name in BETWEEN:
            assert {w for w, _ in costs} == set(BETWEEN[setting.target.name])
            assert {w for w, _ in fitting} == {BETWEEN[setting.target.name][0]}
            continue
        share = max(
            min(cost[metric] / limit for metric, limit in budget.limits.items())
            for cost in fitting.values()
        )
        if label in LOOSE.get(suite, ()):
            assert share < 0.999, f"{suite}, {label}: uniform bits fit exactly"
            continue
        assert share > 0.999, f"{suite}, {label}: uniform bits use {share:.2%}"


@pytest.mark.filterwarnings("ignore:t4:UserWarning")
@pytest.mark.parametrize("suite", SUITES)
def test_every_budget_of_a_suite_leaves_a_choice(suite, monkeypatch):
    """At the cheapest policy's cost there is one policy, and nothing to compare."""
    monkeypatch.chdir(conf_folder().parent)
    for setting, budget, label in settings_of(suite):
        least = setting.target.cost(
            setting.space.layers, cheapest(setting.target, setting.space, budget.metric)
        )[budget.metric]
        assert least < 0.995 * budget.limit, f"{suite}, {label}"


@pytest.mark.parametrize("suite", SUITES)
def test_all_searches_of_a_group_evaluate_as_many_policies(suite):
    asked = {}
    for cell in cells_of(suite):
        entry = dict(cell["framework"])
        framework = registry.get(entry.pop("name"))(**entry)
        if framework.evaluations_asked is not None:
            axes = [cell[axis] for axis in AXES if axis != "framework"]
            group = asked.setdefault(repr([*axes, cell["budget"]]), {})
            group[framework.name] = framework.evaluations_asked
    assert asked or suite in ("toolkits", "second_looks")  # policies that were found before
    for counts in asked.values():
        assert {"random", "random_plain", "greedy", "haq"} <= counts.keys() or "haq" not in counts
        assert ("autoq" in counts) <= ("random_kernel" in counts)
        assert len(set(counts.values())) == 1, f"{suite}: {counts}"


def test_second_looks_at_trainings_are_those_of_the_methods_as_the_suite_cuts_them():
    protocol = next(
        cell["protocol"]
        for cell in cells_of("fashion_mnist")
        if cell["protocol"]["name"] == "paper"
    )
    most = {"epochs": protocol["max_epochs"], "images": protocol["max_images"]}
    looks = [x for x in cells_of("second_looks") if x["protocol"]["name"] == "controlled"]
    common = {
        **{"uniform bits": "uniform", "Mixed Precision DNNs' bits": "mixed_dnn"},
        **{"CSQ's bits": "csq", "WaveQ's bits": "waveq"},
    }
    seen = {}
    for cell in looks:
        name, _, training = cell["framework"]["label"].partition(", ")
        fine_tune = recipe_of(cell["protocol"]["fine_tune"], "fine_tune")
        if training:  # the baselines', of what the method has found there
            assert (training, cell["protocol"]["quantizer"]) == ("common training", "mse")
            assert fine_tune == recipe_of(protocol["fine_tune"], "fine_tune")
            found = read_record(ROOT / cell["framework"]["policy"]).cell
            assert found["framework"]["name"] == common[name]
            assert {"rounding": "nearest", **found["protocol"]} == protocol, name
            assert name == "uniform bits" or found["seed"] == cell["seed"]
        else:
            name = name.removeprefix("uniform bits as ")
            method = registry.get(name.lower().replace("-", "_"))
            assert cell["protocol"]["quantizer"] == method.card.quantizer
            assert fine_tune == replace(method.recipe, **most), name
        seen.setdefault(name, []).append(cell["seed"])
    methods = ("GMPQ", "FracBits", "BP-NAS", "DJPQ", "HMQ", *common)
    assert seen == {each: [0, 1, 2] for each in methods}
