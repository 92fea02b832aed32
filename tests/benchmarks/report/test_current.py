"""Records of different identities are never averaged, paired or dropped as if they were one."""

import pytest

from benchmarks.data.load import DatasetConfig
from benchmarks.models import preprocessing
from benchmarks.records.record import Record, digest
from benchmarks.report.numbers.cells import LATER, PREPARED, RESIDENT, Cell
from benchmarks.report.numbers.current import current
from benchmarks.report.table import build
from benchmarks.studies import transfer
from benchmarks.studies.transfer import blocks
from benchmarks.suite.config import BudgetConfig, ProtocolConfig
from frameworks import batchnorm

POLICY = {"conv": {"weight": 4, "act": 8}}


def make(  # one record, with what tells it apart
    accuracy=90.0, *, framework="haq", seed=0, data="d1", weights="w1", file=None, revision=1,
    threads=1, root="/data/flowers", time=0, status="done", dataset="imagefolder", **fields,
):  # fmt: skip
    hardware = {"name": "table", "path": "t.csv"} if file else {"name": "size"}
    cell = {
        "framework": {"name": framework},
        "model": {"name": "resnet8"},
        "dataset": {"name": dataset, "root": root},
        "hardware": hardware,
        "protocol": {"name": "ptq"},
        "budget": {"like": 4},
        "seed": seed,
    }
    record = Record(key="", cell=cell, status=status)
    record.environment = {"time": f"2026-01-01T00:00:{time:02d}Z"}
    record.identity = {
        "data": {"fingerprint": data},
        "code": {"framework": {"juxtabit": "1", "revision": revision}},
        "files": {"hardware.path": file} if file else {},
        "numerics": {"threads": threads},
    }
    if status == "done":
        record.policy, record.data = POLICY, {"dataset": data, "checkpoint": weights}
        record.accuracy = {"final": accuracy, "float": 95.0}
        record.budget = {"metric": "size", "limit": 10.0, "within": True, "label": "like=4"}
    for name, value in fields.items():
        setattr(record, name, value)
    record.key = digest([cell, record.identity, record.data])
    return record


def means(records):
    """Accuracy and its number of seeds, by model and dataset, in the order of the table."""
    return {
        (group.model, group.dataset, group.hardware): [
            (row.accuracy.mean, row.accuracy.n) if row.accuracy else None for row in group.rows
        ]
        for group in build(records).groups
    }


def test_one_identity_is_one_group_without_a_mark():
    records = [make(90.0), make(92.0, seed=1), make(91.0, framework="uniform")]
    assert means(records) == {("resnet8", "imagefolder", "size"): [(91.0, 2), (91.0, 1)]}
    assert "different" not in build(records).text()


def test_two_data_sets_of_one_name_are_two_groups_with_folder_and_content():
    records = [make(90.0), make(70.0, data="d2", root="/data/birds", seed=1)]
    (flowers, one), (birds, two) = sorted(means(records).items(), key=lambda x: -x[1][0][0])
    assert (one, two) == ([(90.0, 1)], [(70.0, 1)])
    assert flowers[1] == f"imagefolder (content={digest('d1')[:8]}, root=flowers)"
    assert birds[1] == f"imagefolder (content={digest('d2')[:8]}, root=birds)"
    table = build(records)
    for form in (table.text, table.markdown, table.csv, table.html, table.latex):
        assert "flowers" in form()
    assert table.older == 0


def test_changed_files_under_one_root_are_told_apart_by_content():
    names = [name for _, name, _ in means([make(), make(70.0, data="d2", time=1)])]
    assert sorted(names) == sorted(
        f"imagefolder (content={digest(data)[:8]})" for data in ("d1", "d2")
    )


def test_equal_data_under_two_roots_are_one_group():
    records = [make(90.0), make(92.0, seed=1, root="/elsewhere/copy")]
    assert means(records) == {("resnet8", "imagefolder", "size"): [(91.0, 2)]}


def test_two_float_checkpoints_are_two_groups():
    found = means([make(90.0), make(80.0, weights="w2", seed=1)])
    assert sorted(found.values()) == [[(80.0, 1)], [(90.0, 1)]]
    assert {model for model, _, _ in found} == {
        f"resnet8 (weights={digest(text)[:8]})" for text in ("w1", "w2")
    }


def test_checkpoints_of_two_data_sets_need_no_mark():
    found = means([make(), make(dataset="digits", data="d2", weights="w2")])
    assert {model for model, _, _ in found} == {"resnet8"}


def test_two_files_of_a_hardware_table_are_two_groups():
    found = means([make(90.0, file="f1"), make(80.0, file="f2", seed=1)])
    assert sorted(found.values()) == [[(80.0, 1)], [(90.0, 1)]]


@pytest.mark.parametrize("changed", [{"revision": 2}, {"threads": 2}])
def test_of_one_cell_the_newest_is_taken_and_the_other_counted(changed):
    table = build([make(90.0), make(80.0, time=1, **changed)])
    (row,) = table.groups[0].rows
    assert (row.accuracy.mean, row.accuracy.n, table.older) == (80.0, 1, 1)
    assert "1 older record of the same cells left out" in table.text()


@pytest.mark.parametrize("changed", [{"revision": 2}, {"threads": 2}])
def test_seeds_of_two_makes_are_never_averaged(changed):
    records = [make(90.0), make(91.0, seed=1), make(80.0, seed=1, time=1, **changed)]
    table = build(records)
    (row,) = table.groups[0].rows
    assert (row.accuracy.mean, row.accuracy.n, table.older) == (80.0, 1, 2)


def test_a_cell_that_failed_early_goes_with_the_newest_of_its_name():
    failed = make(status="failed", seed=3, identity={}, error="E: gone")
    cells, _ = current([make(), make(data="d2", weights="w2", time=5), failed])
    marked = {cell.record.status: cell.axes for cell in cells if cell.record is not cells[0]}
    newest = next(c.axes for c in cells if c.record.data.get("dataset") == "d2")
    assert marked["failed"] == newest
    (alone,), _ = current([failed])
    assert alone.axes == Cell.of(failed).axes


def test_a_failed_cell_drops_no_finished_one():
    records = [make(90.0), make(status="failed", seed=1, time=1, revision=2)]
    (row,) = build(records).groups[0].rows
    assert (row.accuracy.n, len(row.failed)) == (1, 1)


def of_both_versions(name, **more):
    """A record as schema 1 had its cell, and one of the same cell as it is now."""
    old, new = make(90.0, dataset=name), make(91.0, dataset=name, framework="uniform")
    old.cell["dataset"]["image_size"] = 224
    new.cell["dataset"] |= dict.fromkeys(PREPARED) | more
    new.cell["protocol"]["float_share"] = 0.05
    return [old, new]


@pytest.mark.parametrize("name", sorted(RESIDENT))
def test_records_of_both_versions_are_one_group(name):
    assert list(means(of_both_versions(name)).values()) == [[(91.0, 1), (90.0, 1)]]


def test_images_on_disk_that_were_prepared_otherwise_are_two_groups():
    assert len(means(of_both_versions("imagefolder", image_size=224))) == 1
    assert len(means(of_both_versions("imagefolder", image_size=96))) == 2


def test_what_stands_for_absent_keys_are_the_configurations_defaults():
    assert frozenset(preprocessing.RESIDENT) == RESIDENT
    assert set(PREPARED) == {"image_size", *preprocessing.SCRATCH}
    # How BatchNorm was treated then is none of today's ways.
    assert LATER["protocol"]["bn"] not in batchnorm.RULES
    configs = {"protocol": ProtocolConfig(), "dataset": DatasetConfig(), "budget": BudgetConfig()}
    for axis, config in configs.items():
        kept = {key: value for key, value in LATER[axis].items() if key != "bn"}
        assert {key: getattr(config, key) for key in kept} == kept


def test_odd_identities_stop_no_table():
    odd = [{"data": 3}, {"code": [], "numerics": "x"}, {"code": {"framework": 1}, "files": 2}]
    for identity in odd:
        assert build([make(identity=identity)]).groups


def test_policies_of_two_data_sets_are_not_priced_together(monkeypatch):
    monkeypatch.setattr(transfer, "_priced", lambda members, _: {("a", "a"): [len(members)]})
    records = [make(data=data, weights=data) for data in ("d1", "d2")]
    for record in [make(data=data, weights=data) for data in ("d1", "d2")]:
        record.cell["hardware"] = {"name": "bops"}
        records.append(record)
    titles = [block.title for block in blocks(records)]
    assert len(titles) == 2
    assert all(f"content={digest(d)[:8]}" in "".join(titles) for d in ("d1", "d2"))
    assert blocks([]) == []
    assert titles == sorted(titles)
