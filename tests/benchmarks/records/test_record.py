import json
from dataclasses import fields

import pytest

from benchmarks.records.record import SCHEMA, CorruptRecord, Record, digest


def whole():
    """A finished record with something in every field."""
    return Record(
        key="k1",
        cell={"framework": {"name": "haq", "episodes": 3}, "seed": 0},
        status="done",
        card={"title": "HAQ", "searches": ["weight", "act"]},
        reason="why",
        error="what",
        budget={"metric": "bops", "limit": 1.5, "within": True},
        policy={"conv": {"weight": [2, 4], "act": 8}},
        bits={"weight": 3.0, "act": 8.0},
        costs={"bops": 1.25},
        float_costs={"bops": 32.0},
        int8_costs={"bops": 2.0},
        accuracy={"float": 91.0, "ptq": 90.125, "fine_tuned": None, "final": 90.125},
        search={"policies": 3, "seconds": 0.5},
        curve=[{"policies": 1, "objective": 89.0}],
        front=[{"policy": {}, "objectives": {"error": 1.0}}],
        notes={"trace": [0.1, None]},
        weights={"quantized": 9, "left": {"p": 1}, "unused": {}, "share": 0.1, "note": "p"},
        identity={"numerics": {"threads": 1}},
        code={"juxtabit": "0.1.0", "git": None},
        data={"dataset": "a-b-c"},
        environment={"torch": "2"},
        timings={"total": 1.0},
    )


def test_every_field_survives_the_round_trip():
    record = whole()
    empty = Record(key="k", cell={}, status="failed")
    for field in fields(Record):
        if field.name != "schema":
            assert getattr(record, field.name) != getattr(empty, field.name), field.name
    again = Record.from_json(json.loads(json.dumps(record.to_json(), allow_nan=False)))
    assert again == record
    assert again.to_json() == record.to_json()


def test_a_copy_shares_nothing_with_the_record():
    record = whole()
    plain = record.to_json()
    plain["cell"]["framework"]["name"] = "other"
    plain["curve"].clear()
    assert record == whole()


@pytest.mark.parametrize("status", ["failed", "skipped"])
def test_what_did_not_finish_needs_no_accuracy(status):
    record = Record(key="k", cell={}, status=status, error="e", reason="r")
    assert Record.from_json(record.to_json()) == record


@pytest.mark.parametrize("schema", [0, 1, 3, 99, "2", None])
def test_an_unknown_schema_is_refused(schema):
    message = f"x.json: schema {schema}, this version reads {SCHEMA}"
    with pytest.raises(CorruptRecord) as caught:
        Record.from_json(whole().to_json() | {"schema": schema}, "x.json")
    assert str(caught.value) == message


@pytest.mark.parametrize("final", [None, "90", float("nan"), -1, 100.5, [90], True])
def test_an_accuracy_that_is_no_percentage_is_refused(final):
    data = whole().to_json()
    data["accuracy"]["final"] = final
    with pytest.raises(CorruptRecord, match=r"accuracy\.final is .* not a percentage"):
        Record.from_json(data)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("key", 7),
        ("cell", "haq"),
        ("accuracy", [90.0]),
        ("costs", None),
        ("curve", {"policies": 1}),
        ("policy", [1, 2]),
        ("error", 3),
        ("timings", "long"),
    ],
)
def test_a_field_of_another_kind_is_refused_and_named(name, value):
    with pytest.raises(CorruptRecord, match=f"record: field {name} "):
        Record.from_json(whole().to_json() | {name: value})


@pytest.mark.parametrize("missing", ["key", "cell", "status", "schema"])
def test_what_identifies_a_record_must_be_there(missing):
    data = whole().to_json()
    del data[missing]
    with pytest.raises(CorruptRecord, match=rf"missing fields \['{missing}'\]"):
        Record.from_json(data)


def test_a_digest_is_known():
    """Keys must not change between versions of Python or of this code."""
    assert digest({"b": [1, 2.5, None], "a": "x"}) == "ce74053d7a9997b7a9ff"
    assert digest({"a": "x", "b": [1, 2.5, None]}) == digest({"b": [1, 2.5, None], "a": "x"})
    assert digest([1, 2]) != digest([2, 1])


def test_a_record_of_schema_1_is_read_with_what_it_says_of_its_identity():
    old = whole().to_json() | {"schema": 1}
    del old["identity"]
    old["environment"] = {"torch": "2.15.0+cu132", "threads": 1, "kernels": "compiled (openmp)"}
    record = Record.from_json(old)
    assert record.schema == SCHEMA
    assert record.identity == {
        "data": {"fingerprint": "a-b-c"},
        "code": {"framework": {"juxtabit": "0.1.0"}},
        "numerics": {"threads": 1, "kernels": "compiled", "torch": "2.15"},
    }
    assert Record.from_json(record.to_json()) == record


@pytest.mark.parametrize("name", ["code", "data", "environment"])
def test_an_odd_field_of_schema_1_is_refused_and_named(name):
    old = whole().to_json() | {"schema": 1, name: 7}
    del old["identity"]
    with pytest.raises(CorruptRecord, match=f"field {name} is 7, not an object"):
        Record.from_json(old)
