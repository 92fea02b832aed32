import json

import pytest

from benchmarks.studies import growth
from frameworks import registry
from tests.end_to_end.commands import ROOT

AXES = {"layers": [4, 8], "bits": [2, 3], "images": [32, 64]}


def test_slope_of_a_power_law():
    assert growth.slope([(x, 3 * x**2.0) for x in (2, 4, 8)]) == pytest.approx(2)
    assert growth.slope([(x, 5.0) for x in (2, 4)]) == pytest.approx(0, abs=1e-12)
    assert growth.slope([(2, 0), (4, 0)]) is None


def test_every_framework_named_exists_and_has_an_expectation_for_every_axis():
    data = growth.growth_data()
    for name, entry in data["frameworks"].items():
        fields = registry.get(name).__dataclass_fields__
        assert set(entry["settings"]) <= set(fields), name
        assert set(entry["expected"]) == set(data["axes"])
        assert entry["source"].endswith(".")


def test_counts_grow_as_counted_and_a_second_run_measures_nothing(tmp_path, monkeypatch):
    names = ["random", "hawq_v3"]
    points = growth.run(tmp_path, names, AXES)
    forward = [growth.series(points, n, "images", [32, 64], "images_forward") for n in names]
    # 8 policies, each on all images and as many for BatchNorm; once each those that set the ranges
    # and those of the control variate.
    assert [y for _, y in forward[0]] == [8 * (32 + 32) + 64, 8 * (64 + 64) + 128]
    assert growth.slope(forward[1]) == pytest.approx(1, abs=0.5)
    text = growth.table(points, names, AXES)
    assert "\n| random | 1 |" in text
    assert growth.picture(points, names, AXES).count("<path") == 6
    kept = json.loads((tmp_path / "growth.json").read_text())["points"]
    monkeypatch.setattr(growth, "measure", None)
    assert growth.run(tmp_path, names, AXES) == kept


def test_the_committed_page_has_all_that_it_names():
    points = json.loads((ROOT / "results/growth/growth.json").read_text())["points"]
    assert [point["skipped"] for point in points.values() if "skipped" in point] == []
