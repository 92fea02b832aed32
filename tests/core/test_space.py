import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frameworks.core.layers import Layer
from frameworks.core.policy import LayerBits, Policy
from frameworks.core.space import Choice, Space


def layer(name, index):
    return Layer(
        name=name, index=index, kind="conv", in_channels=2, out_channels=4, kernel=(3, 3),
        stride=(1, 1), groups=1, in_size=(5, 5), out_size=(5, 5), params=72, macs=1800, block=name,
    )  # fmt: skip


LAYERS = tuple(layer(name, i) for i, name in enumerate("abcd"))
PINS = {"a": (8, 8), "d": (8, 4)}


def build(weight=(2, 4, 8), act=(4, 8), **options):
    return Space.build(LAYERS, weight, act, **options)


def test_build_sorts_and_pins():
    space = build((8, 2, 4, 2), [8, 4], pinned=PINS)
    assert space.weight_bits == {"a": (8,), "b": (2, 4, 8), "c": (2, 4, 8), "d": (8,)}
    assert space.act_bits == {"a": (8,), "b": (4, 8), "c": (4, 8), "d": (4,)}
    assert space.names == ("a", "b", "c", "d")
    assert [x.name for x in space.free_layers] == ["b", "c"]


def test_choices_are_in_execution_order_weights_first():
    assert build(pinned=PINS).choices == (
        Choice(("b",), "weight", (2, 4, 8)),
        Choice(("b",), "act", (4, 8)),
        Choice(("c",), "weight", (2, 4, 8)),
        Choice(("c",), "act", (4, 8)),
    )


def test_one_candidate_is_no_choice():
    space = build(act=(8,))
    assert {choice.kind for choice in space.choices} == {"weight"}
    assert space.size == 3**4
    assert build((4,), (4,)).choices == ()
    assert build((4,), (4,)).size == 1
    assert build((4,), (4,)).decode([]) == Policy.uniform(LAYERS, 4, 4)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, 6**4),
        ({"pinned": PINS}, 6**2),
        ({"pinned": PINS, "groups": [("b", "c")]}, 6),
        ({"groups": [("a", "c"), ("b", "d")]}, 6**2),
        ({"act": (2, 4, 8), "paired": True}, 3**4),
        ({"act": (2, 4, 8), "paired": True, "groups": [("a", "b", "c")]}, 3**2),
    ],
)
def test_size_counts_the_distinct_policies(options, size):
    space = build(**options)
    combinations = itertools.product(*(choice.bits for choice in space.choices))
    policies = {space.decode(values) for values in combinations}
    assert space.size == size == len(policies)
    for policy in policies:
        space.validate(policy)
        assert space.decode(space.encode(policy)) == policy


def test_tied_layers_move_together():
    space = build(groups=[("b", "d")])
    assert [choice.layers for choice in space.choices] == [
        ("a",), ("a",), ("b", "d"), ("b", "d"), ("c",), ("c",),
    ]  # fmt: skip
    policy = space.decode([2, 4, 8, 8, 4, 4])
    assert policy == Policy({"a": (2, 4), "b": (8, 8), "c": (4, 4), "d": (8, 8)})
    with pytest.raises(ValueError, match="tied layers"):
        space.validate(policy.replace("d", weight=4))


def test_paired_bits():
    space = build(act=(2, 4, 8), pinned={"a": (8, 8)}, paired=True)
    assert {choice.kind for choice in space.choices} == {"both"}
    policy = space.decode([2, 4, 8])
    assert policy == Policy({"a": (8, 8), "b": (2, 2), "c": (4, 4), "d": (8, 8)})
    with pytest.raises(ValueError, match="c needs equal"):
        space.validate(policy.replace("c", act=8))


def test_pairs_and_ties_do_not_bind_what_is_pruned():
    space = build(act=(2, 4, 8), paired=True, groups=[("b", "d")])
    policy = space.decode([2, 4, 8])
    space.validate(policy.replace("c", weight=0))
    space.validate(policy.replace("b", weight=(0, 4, 4, 0)))
    space.validate(policy.replace("b", weight=0))
    with pytest.raises(ValueError, match="b needs equal"):
        space.validate(policy.replace("b", weight=(0, 4, 8, 0)))
    unequal = policy.replace("b", weight=(0, 8, 8, 0), act=8)
    with pytest.raises(ValueError, match="tied layers"):
        space.validate(unequal)


def test_lowest_and_highest():
    space = build(pinned=PINS)
    assert space.lowest() == Policy({"a": (8, 8), "b": (2, 4), "c": (2, 4), "d": (8, 4)})
    assert space.highest() == Policy({"a": (8, 8), "b": (8, 8), "c": (8, 8), "d": (8, 4)})


def test_reference_keeps_pins_and_takes_any_bits():
    assert build(pinned=PINS).reference(3, 5) == Policy(
        {"a": (8, 8), "b": (3, 5), "c": (3, 5), "d": (8, 4)}
    )
    assert build(act=(8,)).reference(3, 5) == Policy.uniform(LAYERS, 3, 8)


def test_nearest_rounds_and_gives_ties_to_the_lower():
    space = build(pinned=PINS)
    wish = Policy({"a": (1, 1), "b": (3, 6), "c": ((8, 8, 8, 4), 5), "d": (2, 2)})
    assert space.nearest(wish) == Policy({"a": (8, 8), "b": (2, 4), "c": (8, 4), "d": (8, 4)})
    assert space.nearest(Policy.uniform(LAYERS, 6, 32)) == Policy(
        {"a": (8, 8), "b": (4, 8), "c": (4, 8), "d": (8, 4)}
    )


spaces = st.builds(
    lambda weight, act, pin, tie, paired: build(
        weight,
        weight if paired else act,
        pinned={"a": (8, 8)} if pin else None,
        groups=[("b", "d")] if tie else (),
        paired=paired,
    ),
    st.sets(st.integers(1, 8), min_size=1),
    st.sets(st.integers(1, 8), min_size=1),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
wishes = st.lists(
    st.tuples(st.integers(0, 8) | st.just(32), st.integers(1, 8)), min_size=4, max_size=4
).map(lambda bits: Policy(dict(zip("abcd", bits, strict=True))))


@given(spaces, wishes)
def test_nearest_is_in_the_space_and_idempotent(space, wish):
    near = space.nearest(wish)
    space.validate(near)
    assert space.nearest(near) == near


@given(spaces, wishes)
def test_nearest_is_the_closest_of_every_decision(space, wish):
    near = space.nearest(wish)
    for choice, value in zip(space.choices, space.encode(near), strict=True):
        entry = wish[choice.layers[0]]
        wanted = entry.act if choice.kind == "act" else entry.weight
        distances = {bits: abs(bits - wanted) for bits in choice.bits}
        assert value == min(b for b, d in distances.items() if d == min(distances.values()))


@given(spaces, st.integers(0, 2**32))
def test_samples_belong_to_the_space_and_repeat(space, seed):
    policy = space.sample(np.random.default_rng(seed))
    space.validate(policy)
    assert policy == space.sample(np.random.default_rng(seed))
    assert space.decode(space.encode(policy)) == policy


def test_samples_are_uniform():
    space, rng = build(pinned=PINS), np.random.default_rng(0)
    drawn = [space.sample(rng)["b"].weight for _ in range(3000)]
    for bits in (2, 4, 8):
        assert abs(drawn.count(bits) - 1000) < 5 * math.sqrt(3000 * 2 / 9)


@pytest.mark.parametrize("bits", [-1, 9, 10, 12, 33, 2.5])
def test_candidates_must_be_bit_widths(bits):
    with pytest.raises(ValueError, match=r"weight_bits\[a\].*not all bit widths"):
        build((4, bits))
    with pytest.raises(ValueError, match=r"act_bits\[a\].*not all bit widths"):
        build((4,), (4, bits))
    with pytest.raises(ValueError, match=r"weight_bits\[b\].*not all bit widths"):
        build(pinned={"b": (bits, 4)})


def test_no_candidates_or_unsorted_ones_are_refused():
    with pytest.raises(ValueError, match="not an ascending list"):
        build(())
    for bad in ((), (4, 2), (2, 2)):
        with pytest.raises(ValueError, match="not an ascending list"):
            replace(build(), weight_bits={**build().weight_bits, "b": bad})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pinned": {"z": (8, 8)}}, r"pinned layers \['z'\] are none of"),
        ({"groups": [("a", "z")]}, r"tied layers \['z'\] are none of"),
        ({"groups": [("a", "b"), ("b", "c")]}, "tied twice"),
        ({"groups": [("a", "a")]}, "tied twice"),
        ({"groups": [("a", "b")], "pinned": PINS}, "different candidates"),
        ({"paired": True}, "paired bits need equal candidates at a"),
        ({"act": (2, 4, 8), "paired": True, "pinned": PINS}, "equal candidates at d"),
    ],
)
def test_contradictions_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_tables_must_name_the_layers_in_order():
    space = build()
    for table in ({"a": (2,)}, {name: (2,) for name in "abdc"}):
        with pytest.raises(ValueError, match="act_bits must name exactly the layers"):
            replace(space, act_bits=table)


def test_decode_refuses_other_bits_and_other_counts():
    space = build(pinned=PINS)
    with pytest.raises(ValueError, match="3 bits is none of"):
        space.decode([3, 4, 4, 4])
    with pytest.raises(ValueError, match="3 values for 4 choices"):
        space.decode([2, 4, 4])


def test_decode_takes_numpy_numbers_and_gives_plain_ones():
    entry = build(pinned=PINS).decode(np.array([2, 4, 8, 8]))["b"]
    assert entry == LayerBits(2, 4)
    assert type(entry.weight) is int


def test_encode_refuses_bits_of_single_channels():
    space = build()
    with pytest.raises(ValueError, match="b: per-channel bits"):
        space.encode(space.lowest().replace("b", weight=(2, 4, 8, 8)))


def test_validate():
    space = build(pinned=PINS)
    good = space.lowest()
    space.validate(good.replace("b", weight=(2, 4, 8, 0)))
    space.validate(good.replace("c", weight=0))
    with pytest.raises(ValueError, match="b has 3 weight bits"):
        space.validate(good.replace("b", weight=3))
    with pytest.raises(ValueError, match="b has 3 weight bits"):
        space.validate(good.replace("b", weight=(2, 3, 8, 0)))
    with pytest.raises(ValueError, match="a has 4 weight bits"):
        space.validate(good.replace("a", weight=4))
    with pytest.raises(ValueError, match="c has 2 activation bits"):
        space.validate(good.replace("c", act=2))
    with pytest.raises(ValueError, match="2 per-channel bits for 4 output channels"):
        space.validate(good.replace("b", weight=(2, 4)))
    with pytest.raises(ValueError, match="policy: layers"):
        space.validate(Policy({name: good[name] for name in "bacd"}))
    with pytest.raises(ValueError, match="policy: layers"):
        space.validate(Policy({name: good[name] for name in "abc"}))
