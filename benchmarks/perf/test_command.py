"""What a user waits for at the command line."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.records.record import Record
from benchmarks.records.store import Store, find_records
from benchmarks.report.table import build

KEPT = Path(__file__).parents[2] / "results" / "fashion_mnist" / "records"
RECORDS = 10_000


def run(*arguments):
    return lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


def test_listing_the_frameworks_over_starting_python(compare):
    compare(
        run("-m", "benchmarks.cli", "frameworks"),
        run("-c", "pass"),
        title="`juxtabit frameworks` over starting Python",
        goal="under 1 s",
        note="no torch is imported; the first listing after an installation imports it once",
    )


def test_a_run_of_one_cell_over_importing_torch(compare, tmp_path, monkeypatch):
    """The command and its worker each load torch, so that two is the least."""
    monkeypatch.chdir(tmp_path)
    small = ["protocol.calibration_images=64", "protocol.valid_images=64", "rerun=true"]
    cell = ["framework=uniform", "baselines=false", "hardware=bops", "budget.like=3"]
    compare(
        run("-m", "benchmarks.cli", "run", *cell, *small),
        run("-c", "import torch"),
        title="`juxtabit run` of one cell over importing torch",
        goal="below 4",
        note="uniform bits of ResNet-8 on digits, with the network that comes with the project",
    )


def many(folder):
    """Ten thousand records: the committed ones again under other models and seeds."""
    kept = [record.to_json() for record in Store(KEPT).records()]
    store = Store(folder)
    for number in range(RECORDS):
        turn, index = divmod(number, len(kept))
        record = json.loads(json.dumps(kept[index]))
        record["key"] = f"{number:020d}"
        record["cell"]["seed"] += 3 * (turn % 3)
        record["cell"]["model"]["name"] = f"net{turn // 3}"
        path = store.path(record["key"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(Record.from_json(record).to_json(), indent=1))
    return folder


def test_a_table_of_10000_records_over_reading_their_json(compare, tmp_path):
    folder = many(tmp_path / "records")

    def read():
        for path in sorted(folder.glob("*.json")):
            json.loads(path.read_text())

    compare(
        lambda: build(find_records(tmp_path)).text(),
        read,
        rounds=5,
        title="`juxtabit table` over 10,000 records, over parsing their JSON alone",
        goal="under 5 s",
    )
