"""The hot paths have not become much slower: ratios of a short run beside those that are kept.

No time is asserted, only ratios of two things measured in turns; a ratio may be 1.6 times its kept
one, and is measured again before it counts.
"""

from pathlib import Path

import pytest

from benchmarks.studies.performance import main

KEPT = Path(__file__).parents[1] / "results"
ROWS = {
    "training step": "float_step and 1]",
    "evaluation": "evaluating_a_policy",
    "search step of EdMIPS": "edmips",
    "exact choice": "exact_choice and scipy and 53",
}
QUICK = ("training step",)
CASES = [
    pytest.param(rows, id=name, marks=() if name in QUICK else pytest.mark.slow)
    for name, rows in ROWS.items()
]


@pytest.mark.parametrize("rows", CASES)
def test_a_hot_path_is_not_much_slower_than_kept(rows, capfd):
    if not (KEPT / "performance.json").exists():
        pytest.skip("no ratios are kept in results/performance.json")
    assert main(["--guard", "--select", rows, "--rounds", "3", "--out", str(KEPT)]) == 0, (
        capfd.readouterr().out
    )
