"""The code behind a plugin's entry: all that it uses counts, and only what it says."""

import importlib
import sys
from functools import partial
from types import SimpleNamespace

import pytest

from benchmarks.fingerprints import imports, sources
from benchmarks.fingerprints.sources import code_of_entry
from frameworks import Origin, registry

METHOD = '''
"""A method (arXiv 2000.00001)."""

from dataclasses import dataclass


@dataclass
class Method:
    """Finds bits."""

    rounds: int = 3  # how often

    def search(self, problem):
        """Search."""
        return self.rounds + 1
'''


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of modules: ``put`` writes one, ``code`` gives what identifies an entry's code."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def forget():
        for name, module in list(sys.modules.items()):
            # A namespace package has no file.
            place = getattr(module, "__file__", None) or getattr(module, "__path__", "")
            if str(tmp_path) in str(place):
                del sys.modules[name]

    def put(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def code(module, origin=None):
        forget()
        importlib.invalidate_caches()
        return code_of_entry(importlib.import_module(module).Method, origin)

    yield SimpleNamespace(put=put, code=code, folder=tmp_path)
    forget()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  # how often", "  # how many times, says section 4"),
        ('"""Finds bits."""', '"""Finds bits, slowly."""'),
        ('        """Search."""\n', ""),
        ('"""A method (arXiv 2000.00001)."""', '"""Another text."""'),
        ("\n\n    def", "\n\n\n\n    def"),
    ],
)
def test_comments_docstrings_and_blank_lines_do_not_count(site, old, new):
    assert old in METHOD
    site.put("mine.py", METHOD)
    before = site.code("mine")
    site.put("mine.py", METHOD.replace(old, new))
    assert site.code("mine") == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("rounds: int = 3", "rounds: int = 4"),
        ("rounds + 1", "rounds + 2"),
        ("return self", "import math\n        return self"),
        ("@dataclass\nclass", "HELPER = 1\n\n\n@dataclass\nclass"),
    ],
)
def test_code_counts(site, old, new):
    assert old in METHOD
    site.put("mine.py", METHOD)
    before = site.code("mine")
    site.put("mine.py", METHOD.replace(old, new))
    assert site.code("mine") != before


def test_the_name_of_a_script_does_not_count(site, monkeypatch):
    path = site.put("script.py", METHOD)
    site.put("renamed.py", METHOD)
    found = [site.code(name) for name in ("script", "renamed")]
    for name in ("__main__", "__mp_main__"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(__file__=str(path)))
        entry = type("Method", (), {"__module__": name})
        found.append(code_of_entry(entry))
    assert all(code == found[0] for code in found)


USES = {
    "a package's other file": ("pack/__init__.py", "pack/method.py", "pack/deep/helper.py", None),
    "a package's data": ("pack/__init__.py", "pack/method.py", "pack/table.json", None),
    "a module beside": (None, "method.py", "helper.py", "import helper"),
    "a module's part": (None, "method.py", "helper.py", "from helper import choose"),
    "a package beside": ("tools/__init__.py", "method.py", "tools/x/y.py", "import tools"),
    "imported in a function": (None, "method.py", "helper.py", "def f():\n    import helper"),
    "no regular package": (None, "pack/method.py", "pack/helper.py", "from pack import helper"),
    "relative": (None, "pack/method.py", "pack/helper.py", "from .helper import X"),
    "two folders up": (None, "pack/in/method.py", "pack/helper.py", "from ..helper import X"),
    "by another module": ("helper.py", "method.py", "third.py", "import helper"),
    "by import_module": (
        *(None, "method.py", "helper.py"),
        "import importlib\nX = importlib.import_module('helper')",
    ),
    "data beside a file": (
        None,
        "method.py",
        "t.json",
        'def f(): return Path(__file__).with_name("t.json")',
    ),
    "data by a folder's name": (
        *(None, "method.py", "data/t.json"),
        "import os\nHERE = os.path.dirname(__file__)\n\n\ndef f():\n"
        '    with open(os.path.join(HERE, "data", "t.json")) as file:\n        return file.read()',
    ),
    "data of a module beside": ("helper.py", "method.py", "t.json", "import helper"),
}
HERE = 'from pathlib import Path\nT = (Path(__file__).parent / "t.json").read_text()\n'
PACKAGE = {"helper.py": "import third\n"}


@pytest.mark.parametrize(("package", "start", "used", "line"), USES.values(), ids=USES)
def test_all_that_a_method_uses_counts(site, package, start, used, line):
    if package:
        site.put(package, HERE if used.endswith("t.json") else PACKAGE.get(package, ""))
    site.put(used, "X = choose = 1\n")
    site.put(start, f"{METHOD}\n{line or ''}\n")
    module = start.removesuffix(".py").replace("/", ".")
    before = site.code(module)
    assert site.code(module) == before
    site.put(used, "X = choose = 2\n")
    after = site.code(module)
    assert after != before
    site.put("unrelated.py", "X = 2")
    assert site.code(module) == after


READS = {
    "a key of one letter": 'X = json.loads(Path(__file__).with_name("t.json").read_text())["w"]',
    "a frame": 'X = pandas.read_json(Path(__file__).with_name("t.json")).to_numpy()',
    "a replaced text": 'X = (Path(__file__).parent / "t.json").read_text().replace("a", "b")',
    "a variable's name": 'saved = Path(__file__).with_name("t.json").read_text()',
    "a suffix": 'X = Path(__file__).with_suffix(".json").read_text()',
    "two folders": 'X = Path(__file__).parent / "data" / "v1" / "t.json"',
    "listed": 'HERE = Path(__file__).parent / "data"\nX = list(HERE.rglob("*.json"))',
    "in a loop": 'for name in ("t.json", "u.json"):\n    X = Path(__file__).parent / name',
    "a parameter": (
        "def read(name):\n    return (Path(__file__).parent / name).read_text()\n\n\n"
        'X = read("t.json")'
    ),
    "a constant": 'NAME = "t.json"\nX = open(Path(__file__).parent / NAME)',
    "beside what is written": (
        'HERE = Path(__file__).parent / "data"\nX = (HERE / "t.json").read_text()\n'
        '(HERE / "out.csv").write_text("x")'
    ),
}


@pytest.mark.parametrize("lines", READS.values(), ids=READS)
def test_what_a_file_finds_by_its_place_counts(site, lines):
    """In a folder or two where the line says one; as it is never run, nothing is imported."""
    where = "data/v1/" if "v1" in lines or "rglob" in lines else "data/" if "data" in lines else ""
    used = "method.json" if "with_suffix" in lines else f"{where}t.json"
    site.put("method.py", METHOD + "\n\ndef f():\n    " + lines.replace("\n", "\n    ") + "\n")
    site.put(used, "1")
    before = site.code("method")
    site.put("data/unrelated.txt" if "rglob" not in lines else "unrelated.json", "1")
    assert site.code("method") == before
    site.put(used, "2")
    assert site.code("method") != before


@pytest.mark.parametrize(
    "lines",
    [
        '(Path(__file__).parent / "t.json").write_text("x")',
        'open(Path(__file__).with_name("t.json"), "w").write("x")',
        'with open(Path(__file__).with_name("t.json"), mode="a") as file:\n    pass',
        'frame.to_csv(Path(__file__).with_name("t.json"))',
        'T = Path(__file__).with_name("t.json")\nwith T.open("a") as f:\n    f.write("x")',
        'HERE = Path(__file__).parent\nT = HERE / "t.json"\njson.dump(1, open(T, "w"))',
        'def keep(path):\n    path.write_text("x")\n\n\nkeep(Path(__file__).parent / "t.json")',
        "open('t.json')",  # in the working folder
    ],
)
def test_what_a_file_writes_or_does_not_find_by_its_place_does_not_count(site, lines):
    site.put("t.json", "1")
    site.put("method.py", METHOD + "\n\ndef f():\n    " + lines.replace("\n", "\n    ") + "\n")
    before = site.code("method")
    site.put("t.json", "2")
    assert site.code("method") == before


def test_a_folder_above_is_not_walked(site):
    lines = "HERE = Path(__file__).parent\nX = list((HERE / '..').rglob('*'))"
    site.put("pack/method.py", METHOD + "\n\ndef f():\n    " + lines.replace("\n", "\n    "))
    before = site.code("pack.method")
    site.put("unrelated.txt", "1")
    assert site.code("pack.method") == before


@pytest.mark.parametrize("used", ["t.json", "lib/t.json"])
def test_data_of_one_name_in_two_folders_both_count(site, used):
    site.put("lib/helper.py", HERE)
    site.put("method.py", f"{METHOD}\nfrom lib import helper\n\n{HERE}")
    site.put("t.json", "1")
    site.put("lib/t.json", "1")
    before = site.code("method")
    site.put(used, "2")
    assert site.code("method") != before


def test_texts_that_can_be_no_names_of_files_are_none(site):
    site.put("method.py", f"{METHOD}\nX = (__file__, {'n' * 5000!r}, 'a\\0b', ' ', '..')\n")
    assert site.code("method")["source"]


def test_a_new_file_of_a_package_counts(site):
    site.put("pack/__init__.py", "")
    site.put("pack/method.py", METHOD)
    before = site.code("pack.method")
    site.put("pack/new.py", "X = 1")
    assert site.code("pack.method") != before


@pytest.mark.parametrize(
    "written",
    [
        "__pycache__/method.cpython-312.pyc",
        ".ipynb_checkpoints/method.py",
        "outputs/2026/run.yaml",
        "run.log",
        "results/runs/records/0123456789abcdef0123.json",
        "results/runs/scores/x.json",
    ],
)
def test_what_running_writes_into_a_package_does_not_count(site, written):
    site.put("pack/__init__.py", "")
    site.put("pack/method.py", METHOD)
    site.put("pack/results/runs/records/0123456789abcdef0123.json", "{}")
    before = site.code("pack.method")
    site.put(f"pack/{written}", "[1]")
    assert site.code("pack.method") == before


def test_a_distribution_counts_as_a_whole(site, monkeypatch):
    """Both of its packages, under the same version; its metadata do not."""
    info = site.folder / "mine-1.0.dist-info"
    site.put("mine-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    files = ["mine/__init__.py", "mine_core/__init__.py", "mine-1.0.dist-info/METADATA"]
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in [*files, "../bin/mine"]))
    site.put(files[0], METHOD)
    site.put(files[1], "X = 1")
    origin = Origin("mine", "1.0")
    before = site.code("mine", origin)
    assert (before["distribution"], before["version"]) == ("mine", "1.0")
    (info / "INSTALLER").write_text("other")
    assert site.code("mine", origin) == before
    site.put(files[1], "X = 2")
    assert site.code("mine", origin) != before
    assert site.code("mine", Origin("mine", "1.1"))["version"] == "1.1"


def test_installed_libraries_count_by_version(site, monkeypatch):
    site.put(
        "mine.py", METHOD + "\nimport scipy.stats, json, torch\ndef f(): import no_such_module\n"
    )
    before = site.code("mine")
    assert list(before["imports"]) == ["scipy"]
    monkeypatch.setattr(sources, "installed", lambda top: {top: "99"})
    monkeypatch.setattr(sources, "_sources", {})
    assert site.code("mine") != before


def test_a_link_to_sources_is_no_installed_library(site, monkeypatch):
    monkeypatch.setattr(imports, "_distributions", lambda: {"helper": ["timm"]})
    site.put("helper.py", "X = 1")
    site.put("mine.py", METHOD + "\nimport helper\n")
    before = site.code("mine")
    assert before["imports"] == {}
    site.put("helper.py", "X = 2")
    assert site.code("mine") != before


def test_code_without_a_file_is_new_in_every_process():
    scope = {"__name__": "nowhere"}
    exec("class Method: pass", scope)
    found = code_of_entry(scope["Method"])
    assert found["source"].startswith("unreadable ")
    assert code_of_entry(scope["Method"]) == found
    sources._unreadable.cache_clear()
    sources._sources.clear()
    assert code_of_entry(scope["Method"]) != found


def test_code_that_python_cannot_read_counts_as_it_stands(site):
    site.put("pack/__init__.py", "")
    site.put("pack/method.py", METHOD)
    site.put("pack/template.py", "{{ name }} = (")
    before = site.code("pack.method")
    site.put("pack/template.py", "{{ name }} = ((")
    assert site.code("pack.method") != before


def test_our_own_code_is_the_librarys_and_timms_is_timms():
    import timm

    assert code_of_entry(registry.get("haq")) == {"distribution": "juxtabit"}
    assert code_of_entry(partial(timm.create_model, "resnet18")) == {
        "distribution": "timm",
        "version": timm.__version__,
    }
