"""What a search may choose from on hardware that does not run every pair of bits."""

from itertools import product
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frameworks.core.networks.taking.describe import describe
from frameworks.core.pricing.support import _Grid, supported_space
from frameworks.testing import toy

LAYERS = describe(toy.network(), toy.SHAPE)
BITS = (2, 3, 4, 8)


def hardware(runs, prices=True):
    return SimpleNamespace(
        name="test",
        prices_activations=prices,
        supports=lambda layer, w, a: runs(layer, w, a),
    )


def test_hardware_that_runs_everything_changes_nothing():
    space = supported_space(hardware(lambda *_: True), LAYERS, BITS, BITS)
    assert set(space.weight_bits.values()) == set(space.act_bits.values()) == {BITS}
    assert not space.paired


def test_a_product_of_bits_is_kept_whole():
    runs = lambda layer, w, a: w in (2, 4, 8) and a == 8  # noqa: E731
    space = supported_space(hardware(runs), LAYERS, BITS, BITS)
    assert set(space.weight_bits.values()) == {(2, 4, 8)}
    assert set(space.act_bits.values()) == {(8,)}


def test_hardware_of_equal_bits_makes_a_paired_space():
    runs = lambda layer, w, a: w == a and w in (4, 8)  # noqa: E731
    space = supported_space(hardware(runs), LAYERS, BITS, BITS)
    assert space.paired
    assert set(space.weight_bits.values()) == set(space.act_bits.values()) == {(4, 8)}


def test_layers_may_differ_and_tied_ones_take_what_all_can_run():
    lame = LAYERS[1].name
    runs = lambda layer, w, a: layer.name != lame or w >= 4  # noqa: E731
    group = (lame, LAYERS[2].name)
    space = supported_space(hardware(runs), LAYERS, BITS, BITS, groups=[group])
    assert [space.weight_bits[name] for name in group] == [(4, 8), (4, 8)]
    assert space.weight_bits[LAYERS[0].name] == BITS
    space = supported_space(hardware(runs), LAYERS, BITS, BITS)
    assert space.weight_bits[group[1]] == BITS


def test_activations_that_cost_nothing_are_not_searched():
    free = hardware(lambda *_: True, prices=False)
    space = supported_space(free, LAYERS, BITS, BITS, paired=True)
    assert set(space.act_bits.values()) == {(8,)}
    assert not space.paired


def test_a_layer_without_bits_is_named():
    name = LAYERS[1].name
    with pytest.raises(ValueError, match=rf"test runs layer {name} at none of the weight bits"):
        supported_space(hardware(lambda x, w, a: x.name != name), LAYERS, BITS, BITS)
    with pytest.raises(ValueError, match="none of equal ones of"):
        supported_space(hardware(lambda x, w, a: w < a), LAYERS, BITS, BITS, paired=True)
    pins = {name: (8, 8)}
    with pytest.raises(ValueError, match=rf"does not run pinned layer {name} at 8/8"):
        supported_space(hardware(lambda x, w, a: w < 8), LAYERS, BITS, BITS, pinned=pins)


@given(st.sets(st.tuples(st.sampled_from(BITS), st.sampled_from(BITS)), min_size=1))
def test_the_grid_is_the_largest_there_is(pairs):
    grid = _Grid.largest(pairs)
    assert set(product(grid.weights, grid.acts)) <= pairs
    subsets = [
        [bits for i, bits in enumerate(BITS) if mask >> i & 1] for mask in range(1, 2 ** len(BITS))
    ]
    best = max(
        len(ws) * len(xs) for ws, xs in product(subsets, subsets) if set(product(ws, xs)) <= pairs
    )
    assert len(grid) == best


def test_layers_have_candidates_of_their_own_in_place_of_pins():
    first, second, *others = (layer.name for layer in LAYERS)
    own = {first: ((2, 4), (4,)), second: ((8,), (8,))}
    space = supported_space(
        hardware(lambda *_: True), LAYERS, BITS, BITS, pinned={first: (8, 8)}, own=own
    )
    assert (space.weight_bits[first], space.act_bits[first]) == ((2, 4), (4,))
    assert (space.weight_bits[second], space.act_bits[second]) == ((8,), (8,))
    assert all(space.weight_bits[name] == space.act_bits[name] == BITS for name in others)


def test_candidates_of_their_own_are_those_that_the_hardware_runs():
    name = LAYERS[1].name
    own = {name: ((2, 3), (4, 8))}
    space = supported_space(hardware(lambda x, w, a: w != 2), LAYERS, BITS, BITS, own=own)
    assert (space.weight_bits[name], space.act_bits[name]) == ((3,), (4, 8))
    with pytest.raises(ValueError, match=rf"{name} at none of the weight bits \[2, 3\] and act"):
        supported_space(hardware(lambda x, w, a: w > 3), LAYERS, BITS, BITS, own=own)
    free = supported_space(hardware(lambda *_: True, prices=False), LAYERS, BITS, BITS, own=own)
    assert free.act_bits[name] == (8,)


def test_tied_layers_have_their_own_candidates_together():
    first, second = LAYERS[1].name, LAYERS[2].name
    runs = hardware(lambda *_: True)
    own = {first: ((2,), (4,))}
    space = supported_space(runs, LAYERS, BITS, BITS, groups=[(first, second)], own=own)
    assert space.weight_bits[second] == (2,)
    own[second] = ((3,), (4,))
    with pytest.raises(ValueError, match="are given different candidates"):
        supported_space(runs, LAYERS, BITS, BITS, groups=[(first, second)], own=own)
