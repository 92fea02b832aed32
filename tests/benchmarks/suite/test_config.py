from dataclasses import fields

import pytest
from hydra.errors import ConfigCompositionException, MissingConfigException
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.data.recipes import RecipeConfig, recipe_of
from benchmarks.suite.conf import conf_folder
from benchmarks.suite.config import (
    AXES,
    cell_of,
    composed,
    results_folder,
    suite_cells,
    suite_name,
)
from benchmarks.suite.options.budgets import budget_spec, label_of
from frameworks import Recipe, registry


def test_recipe_config_has_the_recipes_fields_and_defaults():
    ours = {f.name: f.default for f in fields(RecipeConfig)}
    theirs = {f.name: f.default for f in fields(Recipe)}
    assert ours == theirs


def test_an_unknown_recipe_entry_lists_the_choices():
    with pytest.raises(ValueError, match=r"protocol\.fine_tune.*epochs, images, batch"):
        recipe_of({"epoch": 1}, "protocol.fine_tune")


@pytest.mark.parametrize("name", sorted(p.stem for p in (conf_folder() / "suite").glob("*.yaml")))
def test_every_shipped_suite_expands_to_distinct_cells(name):
    cells = suite_cells(composed([f"+suite={name}"]))
    assert cells
    assert len({repr(cell) for cell in cells}) == len(cells)
    for cell in cells:
        assert set(cell) == {*AXES, "budget", "seed"}
        registry.get(cell["framework"]["name"])


@pytest.mark.parametrize("group", ["model", "dataset", "protocol", "tracker"])
def test_every_shipped_option_composes(group):
    for path in (conf_folder() / group).glob("*.yaml"):
        node = composed([f"{group}={path.stem}"])[group]
        assert group in ("model",) or node.name == path.stem


def test_every_framework_is_an_option_with_its_defaults():
    for name in registry.names():
        node = composed([f"framework={name}"]).framework
        assert node.name == name
        assert set(node) == {"name", *(f.name for f in fields(registry.get(name)))}


def test_mistyped_key_and_unknown_option_are_refused():
    with pytest.raises(ConfigCompositionException):
        composed(["framework=random", "framework.evaluation=3"])
    with pytest.raises(MissingConfigException):
        composed(["framework=nonesuch"])


def test_suite_axes_overrides_and_defaults():
    config = composed(["seed=7", "hardware=bops"])
    config.suite = {
        "name": "s",
        "cells": [
            {
                "framework": ["random", "uniform"],
                "budget": [{"like": 3}, {"ratio": 0.5}],
                "seed": [1, 2],
            },
            {"framework": ["random"], "overrides": {"framework": {"random": {"evaluations": 9}}}},
        ],
        "overrides": {"framework": {"random": {"evaluations": 5}}},
    }
    cells = suite_cells(config)
    assert len(cells) == 2 * 2 * 2 + 1
    assert cells[0]["framework"]["name"] == "random"
    assert cells[0]["framework"]["evaluations"] == 5
    assert cells[0]["budget"] == {
        "like": 3,
        **dict.fromkeys(("ratio", "limit", "metric", "metrics")),
    }
    assert cells[-1]["framework"]["evaluations"] == 9
    assert cells[-1]["seed"] == 7
    assert all(cell["hardware"]["name"] == "bops" for cell in cells)


def test_suite_with_an_unknown_axis_lists_the_axes():
    config = composed([])
    config.suite = {"name": "s", "cells": [{"frameworks": ["random"]}]}
    with pytest.raises(ValueError, match=r"unknown axes \['frameworks'\].*framework"):
        suite_cells(config)


def test_unknown_top_level_key_lists_the_keys():
    with pytest.raises(ValueError, match=r"unknown keys \['foo'\].*seed"):
        cell_of(composed(["+foo=1"]))


def test_budget_defaults_to_like_4_and_names_its_entries():
    assert label_of({"budget": {"like": None}}) == "like=4"
    assert budget_spec({"budget": {"ratio": 0.25, "like": None}}).ratio == 0.25
    with pytest.raises(ValueError, match="exactly one"):
        budget_spec({"budget": {"ratio": 0.25, "like": 3}})
    with pytest.raises(ValueError, match="like, ratio, limit, metric"):
        budget_spec({"budget": {"lik": 3}})


@pytest.mark.parametrize(
    "name", ["a", "quick", "runs 2", "a.b", "..a", "\u00e9t\u00e9", "-x", "results=3"]
)
def test_a_suites_name_is_that_of_a_folder(name):
    assert suite_name({"name": name}) == name


@pytest.mark.parametrize(
    "name",
    ["", " ", ".", "..", "../x", "a/b", "/etc", "a\\b", "a\nb", "\x1b[31m", "a\0", " a", "a ",
     "\u202ex", "x" * 100, None, 3, ["a"], "\ud800"],
)  # fmt: skip
def test_a_suites_name_cannot_leave_the_results(name):
    with pytest.raises(ValueError, match=r"^suite\.name: "):
        suite_name({"name": name})


@given(st.text(max_size=30))
def test_any_name_is_refused_or_a_folder_of_the_results(tmp_path_factory, name):
    root = tmp_path_factory.getbasetemp()
    try:
        folder = root / suite_name({"name": name})
    except ValueError:
        return
    assert folder.parent == root
    assert folder.resolve().parent == root.resolve()


@pytest.mark.parametrize("suite", [None, "quick", 3, {}, ["a"]])
def test_a_suite_without_a_name_is_refused(suite):
    with pytest.raises(ValueError, match=r"^suite\.name: None: give a name"):
        suite_name(suite)


@pytest.mark.parametrize("results", ["", "  ", "a\nb", "\x1b[31m", "a\0b"])
def test_results_are_a_folder(results):
    with pytest.raises(ValueError, match=r"^results: "):
        results_folder(results)


@pytest.mark.parametrize(
    "override",
    ["+suite=../x", "+suite=/etc/passwd", "suite=a/../b", "model=../model/resnet8",
     "framework=..", "++dataset=a\\b", "hardware=a\nb"],
)  # fmt: skip
def test_an_option_of_a_group_is_a_name(override):
    with pytest.raises(ValueError, match="an option of a group is a name, not a path"):
        composed([override])


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("space.layers={'head*': [8]}", {"head*": [8]}),
        ('space.layers={"a.0": [8],  "b" : {weight: [4]}}', {"a.0": [8], "b": {"weight": [4]}}),
        ("space.layers={head*: [8], '*': [2, 4]}", {"head*": [8], "*": [2, 4]}),
        ("space.layers={'a[0-9]': [8], 'x y': [2]}", {"a[0-9]": [8], "x y": [2]}),
    ],
)
def test_keys_in_quotes(override, read):
    assert composed([override]).space.layers == read


def test_several_limits_from_the_command_line():
    cell = cell_of(
        composed(["hardware=bops", "budget.metrics={size: {like: 4}, bops: {ratio: 0.2}}"])
    )
    assert cell["budget"]["metrics"] == {"size": {"like": 4}, "bops": {"ratio": 0.2}}
    assert label_of(cell) == "like=4 size and ratio=0.2 bops"


def test_a_suite_in_place_may_hold_paths():
    composed(
        ["+suite={name: x, cells: [{dataset: [digits]}], overrides: {dataset: {a: {root: /x}}}}"]
    )
