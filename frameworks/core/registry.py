"""Registries: what is installed, by name, from this package and from plugins.

Built-in entries are found by importing the modules of the built-in packages; third parties name
theirs in an entry-point group. A module that fails to import is kept with its error.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from frameworks.core.card import Card

if TYPE_CHECKING:
    from frameworks.core.framework import Framework
    from frameworks.core.quantizers.base import Scheme
    from frameworks.core.target import Target

T = TypeVar("T")
F = TypeVar("F", bound="Framework")
H = TypeVar("H", bound="Target")
Q = TypeVar("Q", bound="Scheme")
DISTRIBUTION = "juxtabit"


class UnknownName(ValueError):
    """Nothing is registered under a name; the message lists what is."""


class NothingRegistered(TypeError):
    """A plugin's module was imported, and nothing of it is known now; ``file`` is where it is."""

    def __init__(self, message: str, file: str) -> None:
        super().__init__(message)
        self.file = file


@dataclass(frozen=True)
class Origin:
    """Where an entry comes from."""

    distribution: str
    version: str


@dataclass(frozen=True)
class Unavailable:
    """A plugin that could not be imported."""

    name: str
    error: str
    origin: Origin
    where: str = ""
    """``FILE:LINE`` of the fault, if it is known."""

    @property
    def fault(self) -> str:
        """The fault in one line: file, line, and what is wrong."""
        reason = self.error.strip().splitlines()[-1]
        return f"{self.where}: {reason}" if self.where else reason


def installed_version(distribution: str) -> str:
    """The version of an installed distribution, or ``unknown``."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


_OWN = Origin(DISTRIBUTION, installed_version(DISTRIBUTION))
_importing = _OWN
"""Whose modules are being imported: a plugin may bring frameworks and quantizers in one file."""


def _origin_of(entry: object) -> Origin:
    """Who brings an entry: a plugin may be the first that imports a built-in module."""
    top = getattr(entry, "__module__", "").partition(".")[0]
    return _OWN if top in ("frameworks", "benchmarks") else _importing


class Registry(Generic[T]):
    """Names to classes (or factories) of one kind.

    Args:
        kind: the word for an entry in messages.
        group: entry-point group of third-party entries.
        packages: built-in packages whose modules register themselves on import.
        check: raises if something cannot be an entry, before it can break a listing.
        beside: registries whose modules may register entries here as well.
        decorator: what a plugin's module must use; one that registers nothing is at fault.
        whole: looks at an entry once all are there; raises if it cannot be used.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        packages: Sequence[str],
        check: Callable[[T], None] = lambda entry: None,
        beside: Sequence[Registry[Any]] = (),
        decorator: str = "",
        whole: Callable[[T], None] = lambda entry: None,
    ) -> None:
        self.kind, self.group, self.packages = kind, group, tuple(packages)
        self._check, self._beside = check, tuple(beside)
        self._decorator, self._whole = decorator, whole
        self._entries: dict[str, T] = {}
        self._origins: dict[str, Origin] = {}
        self._unavailable: dict[str, Unavailable] = {}
        self._loaded = False

    def add(self, name: str, entry: T) -> T:
        """Register an entry.

        Raises:
            ValueError: another entry has the name, or it cannot be a part of a file's name.
            TypeError: it is not what the registry holds, or its name is no text.
        """
        if not isinstance(name, str) or not name:
            raise TypeError(f"{self.kind} {_qualified(entry)} needs a name, not {name!r}")
        if set(name) & set("/\\") or not name.isprintable() or name.strip(" .") != name:
            raise ValueError(
                f"{self.kind} {_qualified(entry)}: the name {name!a} becomes a part of files' "
                "names; leave out separators, control characters and blanks or dots around it"
            )
        self._check(entry)
        known = self._entries.get(name)
        if known is not None and _qualified(known) != _qualified(entry):
            raise ValueError(f"{self.kind} {name!r} is already taken by {_qualified(known)}")
        self._entries[name] = entry
        self._origins[name] = _origin_of(entry)
        return entry

    def names(self) -> list[str]:
        """All usable names, sorted."""
        self._load()
        return sorted(self._entries)

    def get(self, name: str) -> T:
        """The entry of a name.

        Raises:
            UnknownName: there is none; the message lists the choices, or says why it failed.
        """
        self._load()
        if name in self._entries:
            return self._entries[name]
        if name in self._unavailable:
            fault = self._unavailable[name].fault
            raise UnknownName(f"{self.kind} {name!r} is installed but unavailable: {fault}")
        near = get_close_matches(name, self.names(), 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UnknownName(
            f"unknown {self.kind} {name!r}{hint}; choose from {', '.join(self.names())}"
        )

    def origin(self, name: str) -> Origin:
        """The distribution that brought an entry."""
        self.get(name)
        return self._origins[name]

    def unavailable(self) -> list[Unavailable]:
        """Plugins and built-in modules that failed to import."""
        self._load()
        return sorted(self._unavailable.values(), key=lambda entry: entry.name)

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        for package in self.packages:
            for info in pkgutil.iter_modules(importlib.import_module(package).__path__):
                self._guarded(info.name, partial(_import, f"{package}.{info.name}"))
        global _importing
        for point in importlib.metadata.entry_points(group=self.group):
            dist = point.dist
            _importing = Origin(dist.name, dist.version) if dist else Origin("unknown", "unknown")
            self._guarded(point.name, partial(self._adopt, point))
            _importing = _OWN
        for registry in self._beside:
            registry.names()
        for name, entry in list(self._entries.items()):
            try:
                self._whole(entry)
            except ValueError as error:
                del self._entries[name]
                text, where = f"{type(error).__name__}: {error}", _place_of(entry)
                self._unavailable[name] = Unavailable(name, text, self._origins[name], where)

    def _adopt(self, point: importlib.metadata.EntryPoint) -> None:
        loaded: Any = point.load()
        if not hasattr(loaded, "__path__") and not hasattr(loaded, "__file__"):
            self.add(getattr(loaded, "name", point.name), loaded)
            return
        # One package may have many entry points, and register all that it has at the first.
        homes = [getattr(entry, "__module__", "") for entry in self._entries.values()]
        package = loaded.__name__.partition(".")[0]
        if self._decorator and not any(home.partition(".")[0] == package for home in homes):
            raise NothingRegistered(
                f"module {loaded.__name__} registers no {self.kind}: put @{self._decorator} above "
                "its class",
                getattr(loaded, "__file__", None) or loaded.__name__,
            )

    def _guarded(self, name: str, load: Callable[[], object]) -> None:
        known = set(self._entries)
        try:
            with _as_before():
                load()
        except (Exception, SystemExit) as error:  # a plugin that exits must not end the command
            for half_made in set(self._entries) - known:
                # A module that failed is gone; whole ones that it imported on its way stay.
                if getattr(self._entries[half_made], "__module__", None) not in sys.modules:
                    del self._entries[half_made]
            text, where = traceback.format_exc(), _where(error)
            self._unavailable[name] = Unavailable(name, text, _importing, where)


def _import(name: str) -> None:
    """Import a module; of a method's folder, all files, as some register parts by name."""
    module = importlib.import_module(name)
    for info in pkgutil.iter_modules(getattr(module, "__path__", ())):
        importlib.import_module(f"{name}.{info.name}")


@contextmanager
def _as_before() -> Iterator[None]:
    """Within the context, what an import sets for the whole process is put back at the end.

    It would otherwise hold for all that is computed later, whichever plugin that uses.
    """
    import torch  # here, as some that read a list of names do without it

    def determinism() -> tuple[bool, bool]:
        warns = torch.is_deterministic_algorithms_warn_only_enabled()
        return torch.are_deterministic_algorithms_enabled(), warns

    settings: list[tuple[Callable[[], Any], Callable[[Any], object]]] = [
        (os.getcwd, os.chdir),
        (torch.get_num_threads, torch.set_num_threads),
        (torch.get_default_dtype, torch.set_default_dtype),
        (torch.is_grad_enabled, torch.set_grad_enabled),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        (determinism, lambda b: torch.use_deterministic_algorithms(b[0], warn_only=b[1])),
    ]
    before = [(read, write, _read(read)) for read, write in settings]
    try:
        yield
    finally:
        for read, write, value in before:
            if value is not None and _read(read) != value:
                write(value)


def _read(read: Callable[[], Any]) -> Any:
    """A setting; None for the working folder where that was deleted."""
    try:
        return read()
    except FileNotFoundError:
        return None


def _where(error: BaseException) -> str:
    """``FILE:LINE`` of what an import failed at: the last line of a plugin's own."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    if isinstance(error, NothingRegistered):
        return error.file
    own = (str(Path(__file__).parents[2]), "<frozen", os.path.dirname(os.__file__))
    frames = [(f.filename, f.lineno) for f in traceback.extract_tb(error.__traceback__)]
    theirs = [f for f in frames if "site-packages" in f[0] or not f[0].startswith(own)]
    file, line = (theirs or frames)[-1]
    return f"{file}:{line}"


def _place_of(entry: object) -> str:
    """``FILE:LINE`` where a class is written."""
    try:
        source, line = inspect.getsourcefile(entry), inspect.getsourcelines(entry)[1]  # type: ignore[arg-type]
    except (OSError, TypeError):
        return ""
    return f"{source}:{line}"


def _qualified(entry: object) -> str:
    return f"{getattr(entry, '__module__', '?')}.{getattr(entry, '__qualname__', entry)}"


def _check_framework(cls: type[Framework]) -> None:
    if not is_dataclass(cls) or not isinstance(getattr(cls, "card", None), Card):
        raise TypeError(f"framework {_qualified(cls)} must be a dataclass with a card")


def _check_target(cls: type[Target]) -> None:
    if not is_dataclass(cls):
        raise TypeError(f"hardware {_qualified(cls)} must be a dataclass: its fields are its keys")


def _check_quantizer(cls: type[Framework]) -> None:
    """A card names a quantizer that there is; looked at late, as plugins bring their own."""
    if cls.card.quantizer not in schemes.names():
        raise ValueError(
            f"card.quantizer = {cls.card.quantizer!r}: choose from {', '.join(schemes.names())}"
        )


frameworks: Registry[type[Framework]] = Registry(
    "framework",
    "juxtabit.frameworks",
    [
        f"frameworks.{p}"
        for p in ("baselines", "gradient", "reinforcement", "heuristic", "metaheuristic")
    ],
    _check_framework,
    decorator="register",
    whole=_check_quantizer,
)
targets: Registry[type[Target]] = Registry(
    "hardware",
    "juxtabit.hardware",
    ["frameworks.hardware"],
    _check_target,
    decorator="register_target",
)
schemes: Registry[type[Scheme]] = Registry(
    "quantizer",
    "juxtabit.quantizers",
    ["frameworks.core.quantizers"],
    beside=[frameworks],
    decorator="register_scheme",
)


def register(cls: type[F]) -> type[F]:
    """Class decorator: make a framework known under its ``name``."""
    frameworks.add(cls.name, cls)
    return cls


def register_target(cls: type[H]) -> type[H]:
    """Class decorator: make a hardware target known under its ``name``."""
    targets.add(cls.name, cls)
    return cls


def register_scheme(cls: type[Q]) -> type[Q]:
    """Class decorator: make a quantization scheme known under its ``name``."""
    schemes.add(cls.name, cls)
    return cls
