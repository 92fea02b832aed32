"""The command: from records to a folder, and a server of it."""

import json
import threading
import urllib.request

import pytest

from benchmarks.cli import main
from benchmarks.leaderboard.serve import server


@pytest.fixture
def results(tmp_path, records):
    folder = tmp_path / "results" / "suite" / "records"
    folder.mkdir(parents=True)
    for record in records.field(likes=(3,)):
        (folder / f"{record.key}.json").write_text(json.dumps(record.to_json()))
    return tmp_path / "results"


def test_it_writes_a_site_and_says_where(results, tmp_path, capsys):
    out = tmp_path / "site"
    assert main(["leaderboard", str(results), "--out", str(out), "--title", "Ours"]) == 0
    assert capsys.readouterr().out.startswith(f"Site: {out} (")
    page = (out / "index.html").read_text()
    assert "<title>Ours</title>" in page
    assert "strong" in page
    assert main(["leaderboard", str(results), "--out", str(out)]) == 0  # again, over itself


def test_several_folders_make_one_board(results, tmp_path, records):
    other = tmp_path / "other" / "records"
    other.mkdir(parents=True)
    for record in records.seeds("guest", 95.0):
        (other / f"{record.key}.json").write_text(json.dumps(record.to_json()))
    out = tmp_path / "site"
    assert main(["leaderboard", str(results), str(other), "--out", str(out)]) == 0
    assert "guest reaches most: 95.00 %" in (out / "index.html").read_text()


def test_a_corrupt_record_is_named_and_the_rest_is_shown(results, tmp_path, capsys):
    (results / "suite" / "records" / "bad.json").write_text("{")
    out = tmp_path / "site"
    assert main(["leaderboard", str(results), "--out", str(out)]) == 1
    assert "bad.json" in capsys.readouterr().err
    assert (out / "index.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no records in nowhere"),
        (["--out", "."], "name an empty or a new folder"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_written(
    results, tmp_path, capsys, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    assert main(["leaderboard", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize("port", ["-1", "65536", "x"])
def test_a_port_that_is_none_is_refused(port, capsys):
    with pytest.raises(SystemExit):
        main(["leaderboard", "--serve", port])
    assert "--serve" in capsys.readouterr().err


def test_a_site_is_served_to_this_machine_alone(tmp_path):
    (tmp_path / "index.html").write_text("<p>hello")
    with server(tmp_path, 0) as serving:
        host, port = serving.server_address[:2]
        assert host == "127.0.0.1"
        threading.Thread(target=serving.handle_request, daemon=True).start()
        with urllib.request.urlopen(f"http://{host}:{port}/", timeout=5) as answer:
            assert answer.read() == b"<p>hello"
        with pytest.raises(ValueError, match=f"--serve {port}: cannot be had"):
            server(tmp_path, port)
