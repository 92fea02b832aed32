"""The committed tables: what they hold, and random rows of them evaluated once more."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.oracle.landscape import Asked, Landscape
from benchmarks.oracle.oracle_table import OracleTable
from frameworks import torch_rng

FOLDER = Path("results/oracle")
NAMES = "resnet8-weights", "resnet8-equal"
ROWS = 100


@pytest.fixture(params=NAMES)
def table(request):
    return OracleTable.read(FOLDER / f"{request.param}.parquet")


def test_a_table_has_the_whole_space_once(table):
    assert len(table) == 3**8 == len({table.policy(row) for row in range(len(table))})
    assert table.facts["images"] == {"valid": 1000, "test": 2000}
    assert all(np.isfinite(column).all() for column in table.columns.values())
    assert table.facts["cell"]["model"]["name"] == "resnet8"
    assert table.facts["identity"]["checkpoint"]["origin"] == "committed"


def test_more_bits_everywhere_score_better(table):
    assert table.columns["valid.accuracy"][-1] > table.columns["valid.accuracy"][0] + 3


def test_tables_are_small():
    sizes = [path.stat().st_size for path in FOLDER.glob("*.parquet")]
    assert len(sizes) == 3
    assert sum(sizes) < 10e6


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_random_rows_are_what_an_evaluation_gives(name):
    """Each on its own, from nothing resumed before the draw's own order."""
    table = OracleTable.read(FOLDER / f"{name}.parquet")
    cell = {**table.facts["cell"], "framework": {"name": "uniform"}, "budget": {"like": 4.0}}
    landscape = Landscape(Asked(cell, table.facts["images"]["test"]))
    draw = torch_rng(0, "rows", name)
    rows = np.sort(np.array([int(r) for r in torch.randperm(len(table), generator=draw)[:ROWS]]))
    for row in rows:
        found = landscape.measured(table.policy(int(row)))
        for column, value in found.items():
            if column != "seconds":
                assert table.columns[column][row] == pytest.approx(value, rel=1e-9), (row, column)
