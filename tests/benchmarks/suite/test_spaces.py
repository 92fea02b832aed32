"""What a run narrows the protocol's space to, from the configuration."""

import pytest

from benchmarks.suite.assets import entry_text, layers_of
from benchmarks.suite.config import cell_of, composed, suite_cells
from benchmarks.suite.identity import BadCell, key_of
from benchmarks.suite.options.spaces import SpaceConfig, narrowing
from benchmarks.suite.setting import check, setting_of

BITS = (2, 3, 4, 5, 6, 8)


def space(*overrides):
    cell = cell_of(composed(list(overrides)))
    layers = layers_of(entry_text(cell["model"]), entry_text(cell["dataset"]))
    return setting_of(cell, layers).space


def searched(made):
    return [layer.name for layer in made.free_layers]


def test_the_whole_space_is_no_part_of_a_cell():
    plain = cell_of(composed([]))
    assert "space" not in plain["protocol"]
    assert cell_of(composed(["space.rest=8", "space.layers={}"])) == plain
    assert narrowing(vars(SpaceConfig())) == {}
    narrow = cell_of(composed(["space.restrict=[blocks.0*]"]))
    assert narrow["protocol"]["space"] == {"restrict": ["blocks.0*"]}
    assert key_of(narrow, 1) != key_of(plain, 1)


@pytest.mark.parametrize("more", [[], ["space.layers={'*': [4]}"]])
def test_bits_of_the_rest_need_layers_that_are_searched(more):
    with pytest.raises(ValueError, match=r"space\.rest = 4: .*space\.restrict=\[NAME,NAME\]"):
        cell_of(composed(["space.rest=4", *more]))


def test_some_layers_are_searched_and_the_others_stay():
    whole = space("hardware=bops")
    names = searched(whole)
    made = space("hardware=bops", f"space.restrict=[{names[0]},{names[-1][:-1]}?]", "space.rest=5")
    assert searched(made) == [names[0], names[-1]]
    ends = whole.names[0], whole.names[-1]
    for name in made.names:
        expected = BITS if name in (names[0], names[-1]) else (8,) if name in ends else (5,)
        assert made.weight_bits[name] == made.act_bits[name] == expected


def test_activations_that_cost_nothing_stay_at_the_protocols_bits():
    name = searched(space("hardware=size"))[0]
    made = space(
        "hardware=size",
        f"space.restrict=[{name}]",
        "space.rest=4",
        f"space.layers={{{name}: [2, 3]}}",
    )
    assert made.weight_bits[name] == (2, 3)
    assert set(made.act_bits.values()) == {(8,)}


def test_candidates_by_pattern_the_last_one_counts():
    names = space().names
    made = space(
        "hardware=bops",
        f"space.layers={{'*': [4, 2], '{names[1]}': {{weight: [8]}}, '{names[-1]}': [8]}}",
    )
    assert made.weight_bits[names[0]] == made.act_bits[names[0]] == (2, 4)  # pinned else
    assert (made.weight_bits[names[1]], made.act_bits[names[1]]) == ((8,), BITS)
    assert made.weight_bits[names[-1]] == (8,)


def test_a_suite_narrows_all_its_cells():
    suite = "+suite={name: x, cells: [{framework: [uniform, random], protocol: [ptq, controlled]}]}"
    cells = suite_cells(composed([suite, "space.layers={'*': [4]}"]))
    assert [c["protocol"]["space"] for c in cells] == [{"layers": {"*": [4]}}] * 4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("space.restrict=[blocs]", r"space.restrict: no layer fits 'blocs'.*The layers are"),
        ("space.restrict=[]", "space.restrict = .*no layer is left to search"),
        ("space.layers={x: [8]}", "space.layers: no layer fits 'x'"),
        ("space.layers={'*': 8}", "give a list of bit widths, as in"),
        ("space.layers={'*': [9]}", r"space.layers.\* = \[9\]: bits must lie within 1..8"),
        ("space.layers={'*': [true]}", "give a list of bit widths"),
        ("space.layers={'*': {weights: [8]}}", "the entries are weight and act"),
    ],
)
def test_odd_spaces_are_refused_by_name(override, message):
    with pytest.raises(BadCell, match=message):
        space(override)


def test_the_ends_alone_are_nothing_to_search():
    first = space().names[0]
    with pytest.raises(BadCell, match="pinned_bits=0 frees them"):
        space(f"space.restrict=['{first}']")
    free = space(f"space.restrict=['{first}']", "protocol.pinned_bits=0", "hardware=bops")
    assert searched(free) == [first]


def test_a_mistyped_layer_is_helped():
    name = searched(space())[0]
    with pytest.raises(BadCell, match=f"did you mean {name}"):
        space(f"space.restrict=['{name}x']")


def test_a_budget_that_the_restriction_rules_out_is_found_before_any_work():
    name = searched(space())[0]
    cell = cell_of(composed([f"space.restrict=['{name}']", "hardware=size", "budget.ratio=0.3"]))
    with pytest.raises(ValueError, match="no policy costs at most"):
        check(cell)
