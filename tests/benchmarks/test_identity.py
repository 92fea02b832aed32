import copy
import importlib.util
import subprocess
import sys

import pytest

from benchmarks import identity
from benchmarks.config import cell_of, composed
from benchmarks.identity import BadCell, environment, git_state, key_of
from frameworks import registry

SOURCE = '''
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
def digest_of(tmp_path, monkeypatch):
    """The digest of a module with the given source, by another file name each time."""

    def digest(source, name="method"):
        number = len(list(tmp_path.iterdir()))
        path = tmp_path / f"{name}{number}.py"
        path.write_text(source)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, path.stem, module)
        spec.loader.exec_module(module)
        return identity._source_digest(module.Method)

    return digest


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
def test_comments_docstrings_and_blank_lines_do_not_count(digest_of, old, new):
    assert old in SOURCE
    assert digest_of(SOURCE.replace(old, new)) == digest_of(SOURCE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("rounds: int = 3", "rounds: int = 4"),
        ("rounds + 1", "rounds + 2"),
        ("return self", "import math\n        return self"),
        ("@dataclass\nclass", "HELPER = 1\n\n\n@dataclass\nclass"),
    ],
)
def test_code_counts(digest_of, old, new):
    assert old in SOURCE
    assert digest_of(SOURCE.replace(old, new)) != digest_of(SOURCE)


def test_code_without_a_source_is_said_to_be_unknown():
    scope = {"__name__": "nowhere"}
    exec("class Method: pass", scope)
    assert identity._source_digest(scope["Method"]) == "unknown"


@pytest.fixture(scope="module")
def base():
    return cell_of(composed(["framework=random"]))


def changed(cell, path, value):
    other = copy.deepcopy(cell)
    node = other
    for part in path[:-1]:
        node = node[part]
    assert node[path[-1]] != value
    node[path[-1]] = value
    return other


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("dataset", "root"), "/elsewhere"),
        (("dataset", "workers"), 7),
        (("dataset", "download"), True),
    ],
)
def test_where_things_are_does_not_count(base, path, value):
    assert key_of(changed(base, path, value)) == key_of(base)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("framework", "evaluations"), 99),
        (("model", "name"), "resnet20"),
        (("model", "options"), {"x": 1}),
        (("dataset", "valid"), 0.3),
        (("hardware", "name"), "bops"),
        (("protocol", "quantizer"), "minmax"),
        (("protocol", "weight_bits"), [2, 4]),
        (("budget", "ratio"), 0.5),
        (("seed",), 1),
    ],
)
def test_what_changes_the_outcome_counts(base, path, value):
    assert key_of(changed(base, path, value)) != key_of(base)


def test_the_order_of_entries_does_not_count(base):
    turned = {axis: base[axis] for axis in reversed(base)}
    assert key_of(turned) == key_of(base)


def test_versions_count(base, monkeypatch):
    key = key_of(base)
    with monkeypatch.context() as patch:
        patch.setattr("benchmarks.__version__", "99.0")
        assert key_of(base) != key
    origin = type(registry.origin("random"))("plugin", "2.0")
    monkeypatch.setattr(registry, "origin", lambda name: origin)
    plugin = key_of(base)
    assert plugin != key
    monkeypatch.setattr(registry, "origin", lambda name: type(origin)("plugin", "2.1"))
    assert key_of(base) not in (key, plugin)


def test_a_checkpoint_that_cannot_be_read_is_said_so(base, tmp_path):
    with pytest.raises(BadCell, match=r"model\.checkpoint: .* cannot be read"):
        key_of(changed(base, ("model", "checkpoint"), str(tmp_path / "none")))


def test_git_state(monkeypatch, tmp_path):
    """Commit and dirty flag; None outside a checkout or where git is broken."""
    package = tmp_path / "benchmarks"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr("benchmarks.__file__", str(package / "__init__.py"))
    read = git_state.__wrapped__
    assert read() is None

    def git(*arguments):
        mine = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run(["git", *mine, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q")
    assert read() is None, "no commit yet"
    git("add", ".")
    git("commit", "-q", "-m", "x")
    state = read()
    assert len(state["sha"]) == 40
    assert state["dirty"] is False
    (tmp_path / "notes.txt").write_text("not code")
    assert read()["dirty"] is False
    (package / "new.py").write_text("")
    assert read() == {**state, "dirty": True}


def test_the_environment_is_complete():
    facts = environment()
    assert facts["processor"]
    assert facts["torch"].split(".")[0].isdigit()
    assert all(name in facts for name in ("time", "python", "timm", "platform", "cores", "gpu"))


def test_a_table_is_known_by_its_content(tmp_path):
    path = tmp_path / "t.csv"
    keys = []
    for cost in (None, 1, 2, 1):
        if cost is not None:
            path.write_text(f"layer,w_bits,a_bits,cost\nconv1,8,8,{cost}\n")
        keys.append(key_of(cell_of(composed(["hardware=table", f"hardware.path={path}"]))))
    assert len(set(keys)) == 3
    assert keys[1] == keys[3]


def test_the_environment_names_the_kernels_in_force(monkeypatch):
    monkeypatch.setenv("JUXTABIT_KERNELS", "plain")
    assert environment()["kernels"] == "plain (JUXTABIT_KERNELS=plain)"
    monkeypatch.setenv("JUXTABIT_KERNELS", "fast")
    with pytest.raises(ValueError, match="choose auto or plain"):
        environment()
