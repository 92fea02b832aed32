import json
import re
from pathlib import Path

import pytest
from hypothesis import given as over
from hypothesis import strategies as st

from benchmarks.suite.cell import compute
from benchmarks.suite.config import cell_of, composed
from benchmarks.suite.identity import BadCell, identity_of, key_of
from benchmarks.suite.setting import check
from frameworks import Policy, describe, targets
from frameworks.baselines.given import Given
from frameworks.baselines.given.reading import by_layer, read_policy, read_spent
from frameworks.testing import toy

LAYERS = describe(toy.network(), toy.SHAPE)
NAMES = [layer.name for layer in LAYERS]
FREE = len(NAMES) - 2
"""The toy problem pins its first and last layer."""


@pytest.fixture
def written(tmp_path):
    """Writes data to a file, JSON unless it is text, and gives its path."""

    def write(data, name="bits.json"):
        path = tmp_path / name
        path.write_text(data if isinstance(data, str) else json.dumps(data))
        return str(path)

    return write


def read(path, act_bits=0, **problem):
    return Given(path, act_bits=act_bits).read(toy.make_problem(**problem).space)


def bits(policy):
    return [(entry.weight, entry.act) for entry in policy.values()]


WEIGHTS = [8, *([4, 2] * FREE)[:FREE], 8]
PAIRS = [(w, 8 if w == 8 else 4) for w in WEIGHTS]
BITS = dict(zip(NAMES, PAIRS, strict=True))
FORMS = {
    "record.json": {
        "status": "done",
        "policy": {n: {"weight": w, "act": a} for n, (w, a) in BITS.items()},
    },
    "by_layer.json": BITS,
    "other_order.json": {
        n: {"w_bits": BITS[n][0], "a_bits": float(BITS[n][1])} for n in reversed(NAMES)
    },
    "fx_names.json": {n.replace(".", "_"): pair for n, pair in BITS.items()},
    "parameters.json": {f"{n}.weight": pair for n, pair in BITS.items()},
    "in_order.json": PAIRS,
    "free_in_order.json": PAIRS[1:-1],
    "rows.json": [{"layer": n, "weight": w, "act": a} for n, (w, a) in BITS.items()],
    "bits.csv": "\n".join(["layer,weight,act", *(f"{n},{w},{a}" for n, (w, a) in BITS.items())]),
    "excel.csv": "\n".join(
        ["note;a_bits;layer;w_bits", *(f"x;{a};{n};{w}" for n, (w, a) in BITS.items())]
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_a_file_is_the_same_policy(written, name):
    policy = read(written(FORMS[name], name))
    assert list(policy) == NAMES
    assert bits(policy) == PAIRS


@pytest.mark.parametrize(
    "column",
    [
        *("note", "factor", "MACs", "exact", "parameters", "habit", "weight_kb", "bits_saved"),
        *("weight shape", "weight %", "act_range", "a_name", "mean bits", "bit ops", "act fn"),
    ],
)
def test_columns_that_do_not_speak_of_bits_are_free(written, column):
    path = written(f"layer,weight,{column}\n{FIRST},4,2\n", "a.csv")
    (entry,) = read_policy(Path(path))
    assert (entry.weight, entry.act) == (4, None)


@pytest.mark.parametrize(
    "column",
    [
        *("w", "A", "wbits", "w_bit", "act_bit", "Act Bits", "weights", "activation_bits", "bits"),
        *("activationBits", "a.bits", "act (bits)", "bits_a", "weight bit-width", "precision"),
    ],
)
def test_columns_that_may_be_misnamed_bits_are_refused(written, column):
    path = Path(written(f"layer,weight,{column}\n{FIRST},4,2\n", "a.csv"))
    with pytest.raises(ValueError, match=re.escape(f"unknown column {column!r}; choose from")):
        read_policy(path)


@pytest.mark.parametrize("text", ["8,4,2,4", "8 4\n2 4\n", "8\n4\n2\n4"])
def test_a_published_list_has_weights_alone(written, text):
    entries = read_policy(Path(written(text, "list.txt")))
    assert [(e.weight, e.act, e.layer) for e in entries] == [(b, None, None) for b in (8, 4, 2, 4)]


def test_activation_bits_that_a_file_has_not(written):
    path = written([2] * FREE)
    assert bits(read(path))[1:-1] == [(2, 8)] * FREE
    assert bits(read(path, act_bits=4)) == [(8, 8), *[(2, 4)] * FREE, (8, 8)]
    assert bits(read(path, paired=True))[1:-1] == [(2, 2)] * FREE


def test_bits_of_every_output_channel(written):
    layer = LAYERS[1]
    mixed = [2, 4] * (layer.out_channels // 2)
    path = written({n: {"weight": mixed if n == layer.name else 4, "act": 4} for n in NAMES})
    assert read(path)[layer.name].weight == tuple(mixed)
    space, target = toy.make_problem().space, targets.get("t4")()
    with pytest.raises(ValueError, match=rf"policy: .* per output channel \({layer.name}\)"):
        Given(path).widened(space, target)


@over(st.fixed_dictionaries({n: st.tuples(st.integers(1, 8), st.integers(1, 8)) for n in NAMES}))
def test_any_policy_comes_back_from_its_own_json_and_is_admitted(tmp_path_factory, pairs):
    policy = Policy({name: pairs[name] for name in NAMES})
    path = tmp_path_factory.mktemp("policy") / "policy.json"
    path.write_text(json.dumps(policy.to_json()))
    problem, framework = toy.make_problem(), Given(str(path))
    wider = framework.widened(problem.space, problem.target)
    wider.validate(policy)
    assert framework.read(wider) == framework.read(problem.space) == policy


def test_the_space_stays_as_it_is_where_it_has_the_policy(written):
    problem = toy.make_problem(paired=True)
    assert Given(written([4] * FREE)).widened(problem.space, problem.target) is problem.space


FIRST, SECOND = NAMES[1:3]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"conv9": 4}, rf"a\.json, layer conv9: the network has no such layer; {NAMES[0]}, "),
        ({FIRST: 4}, rf"a\.json: no bits for {FREE - 1} layers: {SECOND}, "),
        ([4, 4], rf"the last of 2 entries; the network has {len(NAMES)} layers, {FREE} of"),
        ({FIRST: 9}, rf"layer {FIRST}: weight bits: 9 is not a bit width; choose"),
        ({FIRST: [4, 9]}, rf"layer {FIRST}: activation bits: 9 is not a bit width"),
        ({FIRST: 4.5}, r"weight bits: 4\.5 is not a bit width"),
        ({FIRST: "four"}, rf"layer {FIRST}: 'four' is no number of bits"),
        ({FIRST: True}, r"True: give weight bits, \[weight, act\] or"),
        ({FIRST: None}, r"None: give weight bits"),
        ({FIRST: [4, 4, 4]}, r"give weight bits, \[weight, act\]"),
        ({FIRST: {"act": 4}}, r"no weight bits; give 'weight' and 'act', it has act"),
        ({**BITS, FIRST: {"weight": [4, 2], "act": 4}}, r"bits of 2 output channels, "),
        ({FIRST: 4, SECOND: [4, 4]}, rf"layer {FIRST}: it has no activation bits"),
        ({FIRST: 4, f"{FIRST}.weight": 4}, rf"{FIRST} is the same layer"),
        ({"status": "failed", "policy": None}, r"the cell is failed"),
        ([{"layer": FIRST, "weight": 4}, 4], r"name all or none"),
        ([], r"it has no layers"),
        ({FIRST: {"weight": 8, "activation": 2}}, r"unknown key 'activation'; choose from layer, "),
        ({FIRST: {"weight": 8, "w_bits": 2}}, rf"layer {FIRST}: weight and w_bits are the same"),
        (f'{{"{FIRST}": 8, "{FIRST}": 2}}', rf"a\.json: the key '{FIRST}' is there twice"),
        ({FIRST: "1_0"}, rf"layer {FIRST}: '1_0' is no number of bits"),
        ("3", r"a int: give an object by layer, or a list"),
        ("{", r"a\.json: no JSON"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_layer_and_choices(written, data, message):
    path = written(data, "a.json")
    with pytest.raises(ValueError, match=message):
        read(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layer,bits\nconv1,4\n", r"missing columns \['weight'\]"),
        (f"layer,weight,activation\n{FIRST},4,2\n", r"unknown column 'activation'; choose from "),
        (f"layer,weight,A-Bits\n{FIRST},4,2\n", r"unknown column 'A-Bits'; choose from layer, w"),
        (f"layer,weight,w_bits\n{FIRST},4,2\n", r"weight and w_bits are the same; give one"),
        (f"layer,weight\n{FIRST},x\n", r"a\.csv line 2: 'x' is no number of bits"),
        (f"layer,weight\n{FIRST},4\n{FIRST},4\n", rf"layer {FIRST} is there twice"),
        ("", r"a\.csv: it has no layers"),
    ],
)
def test_what_is_wrong_with_a_table_is_said_with_its_line(written, text, message):
    path = written(text, "a.csv")
    with pytest.raises(ValueError, match=message):
        read(path)


def test_layers_that_are_spelled_alike_are_not_guessed(written):
    entries = read_policy(Path(written({"a_b": 4})))
    with pytest.raises(ValueError, match="no such layer"):
        by_layer(entries, ["a.b", "a-b"], [])


# --- as a cell

SMALL = [
    *("dataset.pretrain.epochs=1", "hardware=bops", "budget.like=3", "framework=given"),
    *("protocol.valid_images=60", "protocol.calibration_images=60"),
]


def cell(path, *more):
    return cell_of(composed([*SMALL, f"framework.policy={path}", *more]))


def test_the_row_has_the_files_name_or_the_label(written):
    path = written([4] * 8, "mct.json")
    assert cell(path)["framework"]["label"] == "mct"
    assert cell(path, "framework.label=MCT")["framework"]["label"] == "MCT"


def test_content_and_name_count_for_the_key_and_the_place_does_not(tmp_path):
    keys = {}
    for place, content in (("a/x", 4), ("b/x", 4), ("a/y", 4), ("c/x", 2)):
        path = tmp_path / f"{place}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps([content] * 8))
        keys[place] = key_of(cell(path))
        assert identity_of(cell(path))["files"].keys() == {"framework.policy"}
    assert keys["a/x"] == keys["b/x"]
    assert len({keys["a/x"], keys["a/y"], keys["c/x"]}) == 3


@pytest.mark.parametrize(
    ("data", "more", "message"),
    [
        ([4] * 7, [], r"framework=given: framework\.policy: .*the last of 7 entries"),
        ([7] * 8, ["hardware=t4"], r"framework\.policy: t4 does not run .*; it runs W/A "),
        ([4] * 8, ["framework.act_bits=9"], r"framework\.act_bits = 9: choose from"),
    ],
)
def test_a_policy_that_cannot_be_scored_is_refused_before_any_training(
    written, cache_folder, data, more, message
):
    with pytest.raises(BadCell, match=message):
        check(cell(written(data), *more))


def test_what_the_search_cost_is_what_the_file_says(written):
    policy = FORMS["by_layer.json"]
    path = Path(written({"policy": policy, "seconds": 240, "images": 4096, "version": "2.1"}))
    assert read_spent(path) == {"seconds": 240, "images_forward": 4096}
    problem = toy.make_problem()
    assert Given(str(path)).search(problem).notes == {"elsewhere": read_spent(path)}
    silent = [{"policy": policy}, policy, {"policy": policy, "seconds": None}]
    assert [read_spent(Path(written(data))) for data in silent] == [{}] * 3
    assert Given(written(policy)).search(problem).notes == {}


@pytest.mark.parametrize("value", ["4 min", -1, True, [1]])
def test_a_cost_that_is_no_number_is_refused_before_any_work(written, value):
    path = written({"policy": FORMS["by_layer.json"], "seconds": value})
    problem = toy.make_problem()
    with pytest.raises(ValueError, match=r"seconds = .*: give a number of at least 0"):
        Given(path).widened(problem.space, problem.target)


def test_a_policy_outside_the_space_is_scored_and_marked(written, cache_folder):
    inside, outside = (cell(written([b] * 8, f"{b}.json")) for b in (3, 7))
    records = [compute(c, key_of(c)) for c in (inside, outside)]
    assert [r.status for r in records] == ["done", "done"], records[1].error
    assert "outside" not in records[0].notes
    assert "has 7 weight bits; allowed are (2, 3, 4, 5, 6, 8)" in records[1].notes["outside"]
    assert [r.budget["within"] for r in records] == [False, False]
    assert records[0].search["policies"] == 1
    assert {entry["weight"] for entry in records[1].policy.values()} == {7, 8}
    # Budgets are those of the protocol's space.
    assert records[0].budget["limit"] == records[1].budget["limit"]


def test_a_record_scores_as_the_search_that_made_it(written, cache_folder):
    trained = ["protocol=controlled", "protocol.fine_tune.epochs=1"]
    uniform = cell_of(composed([*SMALL, "framework=uniform", *trained]))
    made = compute(uniform, key_of(uniform))
    again = cell(written(made.to_json(), "made.json"), *trained)
    found = compute(again, key_of(again))
    assert found.status == "done", found.error
    assert (found.policy, found.costs, found.accuracy) == (made.policy, made.costs, made.accuracy)
    assert found.budget["within"]
