import importlib.metadata
import os
import sys
from types import SimpleNamespace

import pytest
import torch

from frameworks.core import registry
from frameworks.core.registry import Origin, Registry, UnknownName, frameworks, schemes, targets

HOME = "_juxtabit_test_plugins"


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Write modules into a new package; returns the registry that they register in."""
    home = tmp_path / HOME
    home.mkdir()
    (home / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(modules=None, points=()):
        for name, text in (modules or {}).items():
            (home / f"{name}.py").write_text(text)
        found = [entry(*point) for point in points]
        others = importlib.metadata.entry_points

        def points_of(group=None):
            if group is None:  # torch asks for all
                return others()
            return found if group == "some.group" else []

        monkeypatch.setattr(registry.importlib.metadata, "entry_points", points_of)
        made = Registry("thing", "some.group", [HOME], decorator="add")
        # What the modules of the package register in.
        sys.modules[HOME + "_registry"] = SimpleNamespace(add=made.add)
        return made

    yield make
    for name in [n for n in sys.modules if n.startswith(HOME)]:
        del sys.modules[name]


def entry(name, value, distribution="extra", version="1.2"):
    dist = SimpleNamespace(name=distribution, version=version)
    point = importlib.metadata.EntryPoint(name, value, "some.group")
    vars(point).update(dist=dist if distribution else None)
    return point


def module(*names, after=""):
    classes = "".join(
        f"class {n.title()}:\n    name = {n!r}\nadd({n!r}, {n.title()})\n" for n in names
    )
    return f"from {HOME}_registry import add\n{classes}{after}\n"


def test_modules_of_a_package_register_themselves(packages):
    things = packages({"one": module("bee", "ant"), "two": module("cat")})
    assert things.names() == ["ant", "bee", "cat"]
    assert things.get("cat").__name__ == "Cat"
    assert things.unavailable() == []
    assert things.origin("cat").distribution == "juxtabit"


def test_an_unknown_name_lists_the_choices(packages):
    things = packages({"one": module("bee", "ant")})
    with pytest.raises(UnknownName, match=r"unknown thing 'dog'; choose from ant, bee$"):
        things.get("dog")
    with pytest.raises(UnknownName):
        things.origin("dog")


def test_a_module_that_fails_is_listed_and_breaks_nothing(packages):
    things = packages({"bad": module("half", after="import not_a_package"), "good": module("cat")})
    assert things.names() == ["cat"]
    (broken,) = things.unavailable()
    assert broken.name == "bad"
    assert "Traceback" in broken.error
    assert "No module named 'not_a_package'" in broken.error
    with pytest.raises(UnknownName, match=r"'bad' is installed but unavailable: .*not_a_package"):
        things.get("bad")


def test_a_module_that_exits_ends_nothing(packages):
    things = packages({"bad": "raise SystemExit(3)", "good": module("cat")})
    assert things.names() == ["cat"]
    assert [broken.name for broken in things.unavailable()] == ["bad"]


def test_what_is_refused_does_not_stay():
    def refuse(entry):
        raise TypeError("no thing")

    things = Registry("thing", "no.group", [], refuse)
    with pytest.raises(TypeError, match="no thing"):
        things.add("a", Origin)
    assert things.names() == []


def test_frameworks_must_be_dataclasses_with_a_card():
    bare = type("Bare", (), {"name": "bare"})
    with pytest.raises(TypeError, match="Bare must be a dataclass with a card"):
        registry.register(bare)
    assert "bare" not in frameworks.names()


def test_targets_must_be_dataclasses():
    """One that is none has no keys, and would end every command that composes a configuration."""
    bare = type("Bare", (), {"name": "bare"})
    with pytest.raises(TypeError, match="Bare must be a dataclass: its fields are its keys"):
        registry.register_target(bare)
    assert "bare" not in registry.targets.names()


def test_what_a_failing_module_imported_stays(packages):
    failing = f"from {HOME} import whole\n" + module("half", after="raise RuntimeError('no')")
    things = packages({"a_first": failing, "whole": module("cat")})
    assert things.names() == ["cat"]
    assert [broken.name for broken in things.unavailable()] == ["a_first"]


def test_entry_points_are_adopted_with_their_distribution(packages):
    modules = {
        "mine": "class Fox:\n    name = 'red_fox'\nclass Plain:\n    pass\n",
        "many": module("elk", "owl"),
    }
    points = [
        ("fox", f"{HOME}.mine:Fox"),
        ("other", f"{HOME}.mine:Plain", "more", "7"),
        ("module", f"{HOME}.many", "", ""),
    ]
    things = packages(modules, points)
    things.packages = ()
    assert things.names() == ["elk", "other", "owl", "red_fox"]
    assert things.origin("red_fox") == Origin("extra", "1.2")
    assert things.origin("other") == Origin("more", "7")
    assert things.origin("elk") == Origin("unknown", "unknown")
    things.add("later", Origin)
    assert things.origin("later").distribution == "juxtabit"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (f"{HOME}.missing:Fox", "No module named"),
        (f"{HOME}.one:Fox", "has no attribute 'Fox'"),
    ],
)
def test_entry_points_that_fail_are_listed(packages, value, reason):
    things = packages({"one": module("cat")}, [("fox", value)])
    assert things.names() == ["cat"]
    (broken,) = things.unavailable()
    assert (broken.name, broken.origin) == ("fox", Origin("extra", "1.2"))
    with pytest.raises(UnknownName, match=reason):
        things.get("fox")


@pytest.mark.parametrize(
    ("text", "line", "fault"),
    [
        ("x = 1\ny = = 2\n", 2, "SyntaxError: invalid syntax"),
        ("x = 1\n\nimport not_a_package\n", 3, "ModuleNotFoundError: No module named"),
        ("import json\njson.loads('{')\n", 2, "json.decoder.JSONDecodeError: "),
    ],
)
def test_a_fault_is_one_line_with_file_and_line(packages, tmp_path, text, line, fault):
    things = packages({"bad": text, "good": module("cat")})
    (broken,) = things.unavailable()
    assert broken.fault.startswith(f"{tmp_path / HOME / 'bad.py'}:{line}: {fault}")
    assert "\n" not in broken.fault
    with pytest.raises(UnknownName, match=f"'bad' is installed but unavailable: .*:{line}: "):
        things.get("bad")


def test_a_module_that_registers_nothing_does_not_vanish(packages, monkeypatch, tmp_path):
    (tmp_path / "forgetful.py").write_text("class Fox:\n    name = 'fox'\n")
    (tmp_path / "mindful.py").write_text("from mindful_fox import Fox\n")
    (tmp_path / "mindful_fox.py").write_text(module("fox"))
    things = packages({"one": module("cat")}, [("fox", "forgetful"), ("elk", f"{HOME}.one")])
    assert things.names() == ["cat"]
    (broken,) = things.unavailable()
    assert broken.name == "fox"
    assert broken.fault.startswith(f"{tmp_path / 'forgetful.py'}: ")
    assert broken.fault.endswith("module forgetful registers no thing: put @add above its class")


def test_a_framework_with_an_unknown_quantizer_is_listed_with_its_place():
    class Fox:
        card = SimpleNamespace(quantizer="best")

    with pytest.raises(ValueError, match=r"card\.quantizer = 'best': choose from adq, autoq, "):
        registry._check_quantizer(Fox)
    things = Registry("thing", "no.group", [], whole=registry._check_quantizer)
    things.add("fox", Fox)
    assert things.names() == []
    (broken,) = things.unavailable()
    assert broken.fault.startswith(f"{__file__}:")
    assert "card.quantizer = 'best'" in broken.fault


def test_a_plugin_cannot_take_a_name(packages):
    things = packages(
        {"one": module("cat")},
        [("mine", "collections:OrderedDict"), ("cat", "collections:Counter")],
    )
    assert things.names() == ["cat", "mine"]
    assert things.get("cat").__name__ == "Cat"
    (broken,) = things.unavailable()
    assert "'cat' is already taken by" in broken.error
    assert things.origin("cat").distribution == "juxtabit"


def test_a_name_must_be_text(packages):
    things = packages({"one": module("cat")}, [("slots", "os:DirEntry")])  # its name is no text
    assert things.names() == ["cat"]
    assert "needs a name, not" in things.unavailable()[0].error


def test_the_same_entry_may_be_added_again():
    things = Registry("thing", "no.group", [])
    assert things.add("a", Registry) is Registry
    assert things.add("a", Registry) is Registry
    with pytest.raises(ValueError, match=r"thing 'a' is already taken by .*Registry"):
        things.add("a", Origin)
    assert things.get("a") is Registry


def test_built_in_entries_are_all_importable():
    assert {"uniform", "random", "greedy", "exhaustive"} <= set(frameworks.names())
    assert {"size", "bops", "table"} <= set(targets.names())
    assert {"minmax", "percentile", "mse"} <= set(schemes.names())
    for everything in (frameworks, targets, schemes):
        assert [
            broken
            for broken in everything.unavailable()
            if broken.origin.distribution == "juxtabit"
        ] == []
        assert all(everything.get(name).name == name for name in everything.names())


def test_decorators_register_under_the_name(monkeypatch):
    for attribute, decorate in (
        ("frameworks", registry.register),
        ("targets", registry.register_target),
        ("schemes", registry.register_scheme),
    ):
        fresh = Registry("thing", "no.group", [])
        monkeypatch.setattr(registry, attribute, fresh)
        cls = type("Mine", (), {"name": "mine"})
        assert decorate(cls) is cls
        assert fresh.get("mine") is cls


def test_installed_version():
    assert registry.installed_version("no-such-distribution") == "unknown"
    assert registry.installed_version("torch")[0].isdigit()


CHANGES = {
    "threads": ("torch.set_num_threads(3)", torch.get_num_threads),
    "dtype": ("torch.set_default_dtype(torch.float64)", torch.get_default_dtype),
    "gradients": ("torch.set_grad_enabled(False)", torch.is_grad_enabled),
    "determinism": (
        "torch.use_deterministic_algorithms(True)",
        torch.are_deterministic_algorithms_enabled,
    ),
    "folder": ("import os; os.chdir('/')", os.getcwd),
}


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(("change", "read"), CHANGES.values(), ids=CHANGES)
def test_what_an_import_sets_for_the_process_is_put_back(packages, change, read, fails):
    before = read()
    after = f"import torch\n{change}\n" + ("raise OSError" if fails else "")
    things = packages({"one": module("bee", after=after)})
    assert things.names() == ([] if fails else ["bee"])
    assert read() == before


@pytest.mark.parametrize("name", ["a/b", "a\\b", "a\nb", "..", "a\x1b[2J", " a", "a\u202eb"])
def test_a_name_that_is_no_part_of_a_files_name_is_refused(packages, name):
    with pytest.raises(ValueError, match="leave out separators, control characters"):
        packages().add(name, object)
