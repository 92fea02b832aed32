"""Published numbers beside the measured ones."""

import pytest

from benchmarks.report.formats import reported
from benchmarks.report.table import build
from tests.benchmarks.report.made import ROOT, make, seeds


def test_committed_reported_numbers_are_verified_and_complete():
    numbers = reported.read(ROOT / "results" / "reported.csv")
    known = {"haq", "hawq", "hawq_v2", "hawq_v3", "dnas", "edmips", "autoq", "mpqco"}
    known |= {"limpq", "ompq", "practical_ptq", "adq", "apq", "memory_driven", "adaquant_ip"}
    known |= {"releq", "adrl", "bsq", "bayesian_bits", "zeroq", "mohaq", "bmpq"}
    known |= {"bp_nas", "gmpq", "fracbits", "fracbits_kernel", "mixed_dnn", "waveq", "sdq"}
    known |= {"csq", "hmq", "djpq"}
    assert {n.framework for n in numbers} == known
    assert {n.mark for n in numbers} <= {"verified", "verified-2nd"}
    top1 = {
        (n.model, n.setting): (n.value, n.float_value)
        for n in numbers
        if n.framework == "hawq_v3" and n.metric == "top-1 (%)"
    }
    assert top1["resnet18", "W=A in 4, 8; f=0.5 of BOPs"] == (70.22, 71.47)
    assert top1["resnet50", "uniform W4A4"] == (74.24, 77.72)
    points = [(n.framework, n.model, n.dataset, n.setting, n.source, n.metric) for n in numbers]
    assert len(points) == len(set(points))


def test_reported_half_is_optional_and_limited_to_what_was_measured(tmp_path):
    nothing = tmp_path / "none.csv"
    nothing.write_text(",".join(reported.COLUMNS) + "\n")
    assert "As published" not in build([make()], nothing).text()
    assert {n.framework for n in build([make("haq")]).reported} == {"haq"}


def test_a_framework_without_published_numbers_stands_beside_the_others():
    table = build([*seeds("haq", [90.0] * 3), *seeds("spos", [89.0] * 3), *seeds("greedy", [88.0])])
    names = {n.framework for n in table.reported}
    assert "haq" in names
    assert "spos" not in names
    text = table.text().split("Published beside measured")[1]
    lines = [line.split() for line in text.splitlines() if line.startswith("  ")]
    assert ["spos", "resnet8", "fashion_mnist", "-2.45"] in lines
    assert ["haq", "resnet8", "fashion_mnist", "-1.45"] in lines
    assert any(line[:2] == ["haq", "resnet50"] and len(line) > 4 for line in lines)
    assert not any("greedy" in line for line in lines)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("haq,m,d,top-1,s,much,,README,verified", "line 2: could not convert"),
        ("haq,m,d,top-1,s,1,,README,memory", "mark 'memory' is none of"),
        ("haq,m,d,top-1,s,1,,,verified", "without a source"),
        ("haq,m,d,top-1,s,1", "not 9 fields"),
    ],
)
def test_bad_reported_lines_are_refused(tmp_path, line, fault):
    path = tmp_path / "reported.csv"
    path.write_text(",".join(reported.COLUMNS) + f"\n{line}\n")
    with pytest.raises(ValueError, match=fault):
        build([], path)
