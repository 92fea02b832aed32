"""Tables: rows, lookups, files; and the published one."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.oracle.oracle_table import CorruptTable, OracleTable
from benchmarks.oracle.released import Incomplete, releq
from frameworks import Choice, Policy

CHOICES = (
    Choice(("a", "twin"), "weight", (2, 4)),
    Choice(("a", "twin"), "act", (4, 8)),
    Choice(("b",), "both", (2, 3, 8)),
)
PINNED = {"first": (8, 8), "a": (2, 4), "twin": (2, 4), "b": (2, 2)}
ROWS = list(itertools.product((2, 4), (4, 8), (2, 3, 8)))


def made(**facts):
    accuracy = np.array([10.0 * i for i in range(12)])
    loss = np.arange(12, dtype=np.float32) / 7
    return OracleTable(CHOICES, PINNED, {"valid.accuracy": accuracy, "valid.loss": loss}, facts)


def test_rows_are_policies_in_lexicographic_order():
    table = made()
    assert len(table) == 12
    for row, (weight, act, both) in enumerate(ROWS):
        policy = Policy(
            {"first": (8, 8), "a": (weight, act), "twin": (weight, act), "b": (both, both)}
        )
        assert table.policy(row) == policy
        assert table.row(policy) == row


@pytest.mark.parametrize(
    "change",
    [
        {"a": (3, 4), "twin": (3, 4)},  # no candidate
        {"twin": (4, 4)},  # not as the layer it is tied to
        {"first": (4, 8)},  # pinned
        {"b": (2, 3)},  # unequal
    ],
)
def test_a_policy_outside_the_space_has_no_row(change):
    base = {"first": (8, 8), "a": (2, 4), "twin": (2, 4), "b": (2, 2)}
    with pytest.raises(KeyError, match="the table has no policy"):
        made().row(Policy({**base, **change}))


def test_a_file_reads_as_it_was_written(tmp_path):
    table = made(network="toy")
    table.write(tmp_path / "t.parquet")
    again = OracleTable.read(tmp_path / "t.parquet")
    assert (again.choices, again.pinned, again.facts) == (CHOICES, PINNED, {"network": "toy"})
    assert again.fingerprint() == table.fingerprint()
    assert again.scores("valid")[table.policy(7)].accuracy == 70.0


def test_pandas_alone_reads_it(tmp_path):
    made().write(tmp_path / "t.parquet")
    frame = pd.read_parquet(tmp_path / "t.parquet")
    assert list(frame.columns) == ["weight.a", "act.a", "both.b", "valid.accuracy", "valid.loss"]
    assert frame[["weight.a", "act.a", "both.b"]].to_numpy().tolist() == [list(row) for row in ROWS]


def test_a_changed_score_is_found(tmp_path):
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "t.parquet"
    made().write(path)
    table = pyarrow.parquet.read_table(path)
    frame = table.to_pandas()
    frame.loc[3, "valid.accuracy"] += 1
    changed = pyarrow.Table.from_pandas(frame, preserve_index=False)
    pyarrow.parquet.write_table(changed.replace_schema_metadata(table.schema.metadata), path)
    with pytest.raises(CorruptTable, match="not what was written"):
        OracleTable.read(path)


def test_what_is_no_table_is_said(tmp_path):
    path = tmp_path / "t.parquet"
    path.write_text("weights,accuracy\n")
    with pytest.raises(CorruptTable, match=r"t\.parquet: is no table"):
        OracleTable.read(path)
    with pytest.raises(FileNotFoundError, match="no such table"):
        OracleTable.read(tmp_path / "none.parquet")


def test_a_part_of_a_space_is_no_table():
    with pytest.raises(CorruptTable, match="11 entries for 12 policies"):
        OracleTable(CHOICES, PINNED, {"valid.accuracy": np.zeros(11)}, {})


def test_a_split_that_is_not_there_lists_those_that_are():
    with pytest.raises(KeyError, match=r"no split 'test'; choose from \['valid'\]"):
        made().scores("test")


@given(st.integers(0, 11))
def test_known_scores_go_through_all_policies(row):
    known = made().scores("valid")
    policy = list(known)[row]
    assert known[policy].accuracy == 10.0 * row
    assert known[policy].loss == pytest.approx(row / 7, rel=1e-6)


def published(tmp_path, bits=(2, 3)):
    """A published table of two layers."""
    lists = ["".join(map(str, row)) for row in itertools.product(bits, repeat=2)]
    data = {
        "what": "a table",
        "source": {"repository": "someone/something"},
        "layers": {"names": ["c", "f"], "table": [{"n": 1}, {"n": 2}]},
        "rules": {"bits": list(bits), "full_precision_accuracy": 99.0},
        "table": {"bits": lists, "accuracy": [float(row) for row in lists]},
    }
    path = tmp_path / "published.json"
    path.write_text(json.dumps(data))
    return path, data


def test_a_published_table(tmp_path):
    path, _ = published(tmp_path)
    table = releq(path)
    scores = table.scores("valid")
    assert scores[Policy({"c": (3, 32), "f": (2, 32)})].accuracy == 32.0
    assert table.facts["float"] == {"valid.accuracy": 99.0}


def test_a_published_list_with_gaps_is_refused(tmp_path):
    path, data = published(tmp_path)
    for part in data["table"].values():
        del part[1]
    path.write_text(json.dumps(data))
    with pytest.raises(Incomplete, match="1 of 4 policies are missing"):
        releq(path)
