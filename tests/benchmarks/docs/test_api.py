"""The pages of the Python interface build without a warning."""

import sys
import warnings

import pytest

pytest.importorskip("pdoc")

from benchmarks.docs import api


def test_public_names_have_pages_and_links(tmp_path):
    assert api.build(["frameworks", "frameworks.core.networks.places"], tmp_path) == 2
    page = (tmp_path / "frameworks.html").read_text()
    assert 'id="Problem.evaluate"' in page
    assert 'href="#Framework' in page
    assert (tmp_path / "index.html").exists()


def test_a_warning_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "odd_module.py").write_text("class A:\n    def f(self, x: 'Nobody') -> int: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserWarning, match="Nobody"):
        api.build(["odd_module"], tmp_path / "out")
    sys.modules.pop("odd_module")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        api.build(["frameworks.core.policy"], tmp_path / "out")


def test_every_room_has_pages_but_the_measurements_of_speed():
    found = api.packages()
    assert {"frameworks", "frameworks.core", "frameworks.hardware", "benchmarks.docs"} <= set(found)
    assert "benchmarks.perf" not in found


@pytest.mark.slow
def test_all_pages_build(tmp_path, capsys):
    assert api.main(["--out", str(tmp_path)]) == 0
    assert (tmp_path / "benchmarks" / "cli.html").exists()
    assert 'id="juxtapose"' in (tmp_path / "benchmarks.html").read_text()
    assert "modules:" in capsys.readouterr().out
