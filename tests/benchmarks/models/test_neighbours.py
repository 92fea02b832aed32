"""Modules that a model's file imports from its own folder, and others of the same names."""

import importlib
import sys
import time
from types import ModuleType

import pytest

from benchmarks.models import neighbours
from benchmarks.models.build import ModelConfig, create
from frameworks import registry

NETS = """
from torch import nn
{top}

def build(num_classes, in_chans):
    {within}
    return nn.Sequential(nn.Conv2d(in_chans, WIDTH, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(WIDTH, num_classes))
"""
TOP, WITHIN = ("from wide import WIDTH", "pass"), ("", "from wide import WIDTH")
BLOCKS = """
from torch import nn

class Net(nn.Linear):
    def forward(self, x):
        return super().forward(x.mean((2, 3)))
"""


def put(folder, width, top, within):
    """A file of a network that imports its width."""
    folder.mkdir(exist_ok=True)
    (folder / "nets.py").write_text(NETS.format(top=top, within=within))
    (folder / "wide.py").write_text(f"WIDTH = {width}\n")
    return f"{folder / 'nets.py'}:build"


def width(name):
    return create(ModelConfig(name), 7, (3, 8, 8))[0].out_channels


def test_an_import_within_the_factory_finds_the_files_own(tmp_path):
    within, top = put(tmp_path / "a", 6, *WITHIN), put(tmp_path / "b", 9, *TOP)
    assert [width(name) for name in (within, top, within)] == [6, 9, 6]
    both = put(tmp_path / "c", 4, "import wide", WITHIN[1])
    assert width(both) == 4
    put(tmp_path / "c", 5, "import wide", WITHIN[1])
    assert [width(name) for name in (both, within)] == [5, 6]


def test_an_edit_within_a_second_counts_where_bytecode_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    assert [width(put(tmp_path / "a", w, *TOP)) for w in (4, 5, 6)] == [4, 5, 6]
    assert sys.dont_write_bytecode is False


@pytest.mark.parametrize("how", [TOP, WITHIN])
def test_what_others_have_loaded_is_there_afterwards(tmp_path, monkeypatch, how):
    stranger, name = ModuleType("wide"), put(tmp_path / "a", 6, *how)
    monkeypatch.setitem(sys.modules, "wide", stranger)
    path = list(sys.path)
    assert [width(name), width(name)] == [6, 6]
    assert sys.modules["wide"] is stranger
    monkeypatch.delitem(sys.modules, "wide")
    assert width(name) == 6
    assert "wide" not in sys.modules
    assert sys.path == path


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that is loaded, beside a file of a network that imports it."""
    (tmp_path / "own_pack").mkdir()
    (tmp_path / "own_pack" / "__init__.py").write_text("")
    (tmp_path / "own_pack" / "blocks.py").write_text(BLOCKS)
    (tmp_path / "nets.py").write_text(
        "from own_pack.blocks import Net\ndef build(num_classes, in_chans):\n"
        "    return Net(in_chans, num_classes)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("own_pack.blocks")
    for name in ("own_pack", "own_pack.blocks"):
        del sys.modules[name]


def made(package, tmp_path):
    """The class of the file's network."""
    found = type(create(ModelConfig(f"{tmp_path / 'nets.py'}:build"), 7, (3, 8, 8)))
    assert sys.modules["own_pack.blocks"] is package
    return found


def test_a_plugins_package_is_not_imported_twice(package, tmp_path, monkeypatch):
    registry.names()
    monkeypatch.setitem(registry._entries, "own", package.Net)
    assert made(package, tmp_path) is package.Net


def test_nor_is_a_module_whose_file_has_not_changed_since(package, tmp_path, monkeypatch):
    monkeypatch.setattr(neighbours, "_started", lambda: time.time() + 60)
    assert made(package, tmp_path) is package.Net


def test_one_that_may_have_changed_is(package, tmp_path):
    assert made(package, tmp_path) is not package.Net


def test_a_package_of_another_folder_is_not_the_files(package, tmp_path, monkeypatch):
    registry.names()
    monkeypatch.setitem(registry._entries, "own", package.Net)
    other = tmp_path / "other"
    (other / "own_pack").mkdir(parents=True)
    (other / "own_pack" / "blocks.py").write_text(BLOCKS)
    (other / "nets.py").write_text((tmp_path / "nets.py").read_text())
    assert made(package, other) is not package.Net


def test_when_this_process_began():
    assert time.time() - 86400 < neighbours._started() < time.time()
