import json
import re
import shutil

import pytest

from benchmarks.cli import main


def verified(capsys, *arguments):
    code = main(["verify", *map(str, arguments)])
    return code, capsys.readouterr().out


def test_sound_records_exit_with_0_and_get_a_level(forged, capsys):
    code, out = verified(capsys, forged.root)
    assert code == 0
    assert re.search(r"3 records, no fault: 3 checked; \d+\.\d s", out)
    assert len(json.loads((forged.root / "verification.json").read_text())["records"]) == 3


def test_a_fault_exits_with_1_and_names_file_field_and_values(forged, capsys):
    forged.change("random", lambda data: data["costs"].update(bops=5))
    code, out = verified(capsys, forged.root, "--no-levels")
    assert code == 1
    line = next(line for line in out.splitlines() if line.startswith("FAULT"))
    key = forged.keys["random"]
    assert f"{key}.json: costs.bops: differs from the policy's (recorded 5, recomputed " in line
    assert not (forged.root / "verification.json").exists()


def test_json_says_the_same(forged, capsys):
    forged.change("random", lambda data: data["costs"].update(bops=5))
    code, out = verified(capsys, forged.root, "--json", "--no-levels")
    found = json.loads(out)
    assert code == 1
    assert found["summary"]["faulty"] == 1
    assert found["summary"]["checked"] == 2
    (fault,) = [f for f in found["findings"] if not f["note"]]
    assert (fault["key"], fault["field"], fault["recorded"]) == (
        forged.keys["random"], "costs.bops", 5,
    )  # fmt: skip


@pytest.mark.parametrize("missing", ["nothing", "empty"])
def test_no_records_are_an_error_and_no_success(missing, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["verify", str(tmp_path / missing)]) == 2
    assert str(tmp_path / missing) in capsys.readouterr().err


@pytest.fixture
def board(forged, tmp_path):
    """A board that has the sound records; the submission has another random search's result."""
    shutil.copytree(forged.root, tmp_path / "board")

    def better(data):
        for name in ("ptq", "final"):
            data["accuracy"][name] = 100.0
        data["environment"]["time"] = "2099-01-01T00:00:00Z"

    forged.change("random", better)
    return tmp_path / "board"


def test_a_submission_is_compared_with_the_board(board, forged, capsys):
    code, out = verified(capsys, forged.root, "--against", board, "--markdown")
    assert code == 0
    assert out.startswith("## juxtabit verify: passed\n")
    assert "3 known cells (2 equal), 0 new." in out
    drift = next(line for line in out.splitlines() if line.startswith(f"| {forged.keys['random']}"))
    assert "| 100.00 | +" in drift
    assert re.search(r"\| random \(b\) \| \d -&gt; 1 \|", out)
    assert not (forged.root / "verification.json").exists()


def test_new_rows_are_named(board, forged, capsys):
    for path in (board / "records").glob("*.json"):
        if path.stem == forged.keys["random"]:
            path.unlink()
    _, out = verified(capsys, forged.root, "--against", board, "--markdown")
    assert "2 known cells (2 equal), 1 new." in out
    assert re.search(r"\| random \(b\) \| new -&gt; 1 \|", out)
    _, out = verified(capsys, forged.root, "--against", board)
    assert "2 known cells (2 equal), 1 new" in out
    assert "new -> 1" in out
    _, out = verified(capsys, forged.root, "--against", board, "--json")
    assert json.loads(out)["against"]["new"] == 1


def test_cells_of_another_float_network_are_new_ones(board, forged, capsys):
    for path in (board / "records").glob("*.json"):
        data = json.loads(path.read_text())
        data["data"]["checkpoint"] = "another"
        path.write_text(json.dumps(data))
    _, out = verified(capsys, forged.root, "--against", board, "--markdown")
    assert "0 known cells (0 equal), 3 new." in out
    assert len(re.findall(r"new -&gt; \d", out)) == 3


def test_records_with_faults_have_no_part_in_the_board(board, forged, capsys):
    forged.change("random", lambda data: data["costs"].update(bops=5))
    code, out = verified(capsys, forged.root, "--against", board, "--markdown")
    assert code == 1
    assert out.startswith("## juxtabit verify: FAULTS\n")
    assert "2 known cells (2 equal), 0 new." in out
    assert f"| {forged.keys['random']} | costs.bops | differs from the policy's | 5 |" in out


@pytest.mark.slow
def test_a_real_rerun_by_the_command(forged, capsys):
    code, out = verified(capsys, forged.root, "--rerun", 2, "--seed", 3, "--workers", 1)
    assert code == 0, out
    assert "reran 2 of 3 finished records of this version (seed 3); " in out
    assert "2 rerun, 1 checked" in out
