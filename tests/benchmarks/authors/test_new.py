import ast
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from benchmarks.authors.new import CATEGORIES, write_package
from benchmarks.cli import main

ROOT = Path(__file__).resolve().parents[3]


def test_the_guide_prints_what_the_command_writes():
    (printed,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL
    )
    source = files("benchmarks.authors").joinpath("package", "method.txt")
    assert printed == source.read_text(encoding="utf-8")


def test_a_new_package_passes_its_contract(tmp_path, capsys):
    assert main(["new", "my_method", "--category", "gradient", "--into", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    folder = tmp_path / "my_method"
    assert all(str(folder / name) in shown for name in ("my_method.py", "pyproject.toml"))
    assert "class MyMethod(Framework)" in (folder / "my_method.py").read_text()
    assert 'category="gradient"' in (folder / "my_method.py").read_text()
    assert 'my_method = "my_method"' in (folder / "pyproject.toml").read_text()
    assert not re.search(r"\bmine\b", "".join(p.read_text() for p in folder.iterdir()), re.I)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)],
        cwd=folder, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": f"{folder}:{ROOT}", "PATH": "", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_category_can_be_begun(tmp_path, category):
    method, *_ = write_package("begun", category, tmp_path)
    ast.parse(method.read_text())
    assert f'category="{category}"' in method.read_text()


@pytest.mark.parametrize(
    ("name", "category", "message"),
    [
        ("Mine", "gradient", "lower-case letters"),
        ("a-b", "gradient", "lower-case letters"),
        ("haq", "gradient", "there is a framework of this name, from juxtabit"),
        ("class", "gradient", "a word of Python's own cannot be a module"),
        ("numpy", "gradient", r"there is a module of this name, which numpy\.py would hide"),
        ("sys", "gradient", "there is a module of this name"),
        ("mine", "magic", "choose from gradient, reinforcement"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(tmp_path, name, category, message):
    with pytest.raises(ValueError, match=message):
        write_package(name, category, tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_over(tmp_path):
    write_package("mine", "heuristic", tmp_path)
    with pytest.raises(FileExistsError, match="not empty"):
        write_package("mine", "heuristic", tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for into in ("/proc/x", str(tmp_path / "file"), str(tmp_path / "file" / "deeper")):
        assert main(["new", "mine", "--category", "gradient", "--into", into]) == 2
        assert capsys.readouterr().err.startswith(f"juxtabit: --into {into}: the folder ")


def test_a_folder_without_files_is_taken(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))  # as by `python -m`, where one calls it
    (tmp_path / "mine").mkdir()
    assert len(write_package("mine", "heuristic", tmp_path)) == 3
