"""What rounding adds to frameworks' policies: page and command."""

import json

import pytest

from benchmarks.records.record import Record
from benchmarks.studies import rounding as study
from frameworks import Policy

WAYS = ("nearest", "gptq", "adaround", "adaquant")


def record(name, bits, **cell):
    """A finished cell of the suite's tightest budget."""
    axes = {
        "framework": {"name": name}, "protocol": {"name": "ptq", "quantizer": "mse"},
        "hardware": {"name": "bops"}, "budget": {"like": 2.4}, "seed": 0,
    }  # fmt: skip
    policy = Policy({"a": (bits, 2), "b": (8, 8)}).to_json()
    return Record(name, {**axes, **cell}, "done", policy=policy, bits={"weight": bits, "act": 2})


def scores(*accuracies):
    values = zip(WAYS, accuracies, strict=True)
    return {
        "scores": {way: {"accuracy": a, "loss": 1 - a / 100} for way, a in values},
        "on": f"machine {accuracies[0]}",
    }


RECORDS = [record("haq", 2), record("greedy", 3), record("hawq", 3)]


@pytest.fixture
def found():
    keys = [Policy.from_json(one.policy).key for one in RECORDS]
    return {keys[0]: scores(80, 82, 81, 79), keys[1]: scores(90, 91, 90, 90)}


def test_the_page_has_a_row_for_each_framework_and_sums_of_distinct_policies(found):
    lines = study.page(RECORDS, found, "here").splitlines()
    rows = [line for line in lines if "(0." in line]
    assert [row.split(" | ")[0] for row in rows] == ["| greedy", "| hawq", "| haq"]
    assert "| 3.00/2.00 | 90.0 (0.100) | 91.0 (0.090) | 90.0 (0.100) | 90.0 (0.100) |" in rows[0]
    # Two policies: a sign test of two of two has p = 2 * 0.5^2; two values lie sqrt(2) of their
    # standard deviations apart.
    assert lines[-4] == "| nearest | +0.00 | +0.0 | +0.0 |  |  | 7.07 |"
    assert lines[-3] == "| gptq | +1.50 | +1.0 | +2.0 | 2 of 2 | 0.5 | 6.36 |"
    assert lines[-1] == "| adaquant | -0.50 | -1.0 | +0.0 | 0 of 2 | 0.5 | 7.78 |"
    assert "on machine 80 (1 of 2 policies) and machine 90 (1 of 2 policies)" in lines[2]


def test_the_command_measures_a_policy_once_and_goes_on_where_it_stopped(
    found, tmp_path, monkeypatch
):
    others = [
        record("bsq", 4, seed=1), record("bsq", 4, budget={"like": 3}),
        record("bsq", 4, hardware={"name": "size"}), record("bsq", 4, protocol={"name": "paper"}),
        record("limpq", 4, protocol={"name": "ptq", "quantizer": "lsq"}),
    ]  # fmt: skip
    out, asked = tmp_path / "r.md", []
    (tmp_path / "r.json").write_text(json.dumps(dict(list(found.items())[:1])))
    monkeypatch.setattr(study, "find_records", lambda path: [*RECORDS, *others])
    monkeypatch.setattr(
        study, "measured", lambda one: asked.append(one.key) or scores(90, 91, 90, 90)
    )
    assert study.main(["folder", "--out", str(out)]) == 0
    assert asked == ["greedy"]
    assert out.read_text() == study.page(RECORDS, found, "bops like=2.4, seed 0")
    monkeypatch.setattr(study, "find_records", lambda path: others)
    with pytest.raises(SystemExit, match="no records of ptq"):
        study.main(["folder", "--out", str(out)])
