"""Models of a file of one's own: ``model=PATH.py:FUNCTION``."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from benchmarks.fingerprints.named_files import split_code
from benchmarks.fingerprints.sources import digest_of, files_beside
from benchmarks.models.neighbours import in_place
from benchmarks.records.record import digest
from frameworks import file_digest

_neighbours: dict[str, dict[str, ModuleType]] = {}
"""What the module of each file has imported from beside it."""


def build_of(name: str) -> Callable[..., nn.Module]:
    """The factory that ``PATH.py:FUNCTION`` names; it gets what it takes of the keywords.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be imported, or has no such function; the message lists those it has.
    """
    path, function = split_code(name)
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"model.name: there is no file {path}")
    beside = files_beside(file)
    module = _imported(file, beside, name)
    make = getattr(module, function, None)
    if not callable(make):
        own = [
            n
            for n, v in vars(module).items()
            if callable(v) and getattr(v, "__module__", "") == module.__name__
        ]
        near = get_close_matches(function, own, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"model.name: {path} has no {function!r}{hint} It has {own or 'none'}")

    def build(**keywords: Any) -> nn.Module:
        # It may import its neighbours only now, as do classes that it looks up by name.
        with in_place(file.resolve().parent, beside, _neighbours[module.__name__]):
            return _called(make, keywords, name)

    return build


def _imported(file: Path, beside: Mapping[Path, str], name: str) -> ModuleType:
    """The module of a file, imported anew whenever it or what it imports beside it has changed."""
    # By its folder, too: a copy elsewhere may import there what this one finds loaded.
    parts = digest(str(file.resolve())), file_digest(file), digest_of(beside) if beside else ""
    known = "_".join(["juxtabit_model", *filter(None, parts)])
    if known in sys.modules:
        return sys.modules[known]
    spec = importlib.util.spec_from_file_location(known, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[known], _neighbours[known] = module, {}
    try:
        with in_place(file.resolve().parent, beside, _neighbours[known]):
            spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[known], _neighbours[known]
        raise ValueError(f"model.name: {name}: {type(error).__name__}: {error}") from error
    return module


def _called(make: Callable[..., Any], keywords: dict[str, Any], name: str) -> nn.Module:
    """Call a factory with the keywords that it takes; those of timm's factories are a choice."""
    takes = inspect.signature(make).parameters
    every = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in takes.values())
    usual = ("pretrained", "num_classes", "in_chans")
    given = {k: v for k, v in keywords.items() if every or k in takes or k not in usual}
    made = make(**given)
    if not isinstance(made, nn.Module):
        raise TypeError(f"{name} returned a {type(made).__name__}, not a torch.nn.Module")
    return made
