"""What a call asks for, as cells of the suite: the same entries, defaults and errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from benchmarks.records.plaindata import as_plain
from benchmarks.suite.config import PROTOCOLS, Cell, composed, labelled
from benchmarks.suite.options.budgets import budget_spec
from benchmarks.suite.options.spaces import SpaceConfig, narrowing
from benchmarks.suite.setting import check_protocol, setting_of
from frameworks import Framework, Layer, Registry, Target, registry, targets

Method = str | Framework
Methods = Method | Sequence[Method] | Mapping[str, Mapping[str, Any]]
"""Names, frameworks with hyper-parameters of their own, or hyper-parameters by name."""


@dataclass(frozen=True)
class Asked:
    """The arguments that `benchmarks.search` and `benchmarks.juxtapose` share; see there."""

    like: float | None = None
    ratio: float | None = None
    limit: float | None = None
    metric: str | None = None
    metrics: Mapping[str, Mapping[str, float]] | None = None
    target: str | Mapping[str, Any] | Target = "size"
    protocol: str | Mapping[str, Any] = "ptq"
    bits: Sequence[int] | None = None
    quantizer: str | None = None
    space: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        # Once: an iterator gives its candidates to the first who asks, and there are many cells.
        object.__setattr__(self, "bits", candidates(self.bits))

    def cell(self, model: str, framework: dict[str, Any], seed: int) -> Cell:
        """The cell of a framework's entry.

        Raises:
            TypeError, ValueError: an argument is wrong; the message names it and the choices.
        """
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise TypeError(f"seed = {seed!r}: give a whole number")
        self._check_numbers()
        budget = {name: getattr(self, name) for name in ("like", "ratio", "limit", "metric")}
        cell = {
            "framework": framework,
            "model": {"name": model},
            "dataset": {"name": "own data"},
            "hardware": self._hardware(),
            "protocol": self._protocol(),
            "budget": as_plain({**budget, "metrics": self.metrics}, "budget"),
            "seed": seed,
        }
        budget_spec(cell)  # what is wrong with it is said before the network is run
        return labelled(cell)

    def _check_numbers(self) -> None:
        # Python takes True for 1, which nobody means by it.
        for name in ("like", "ratio", "limit"):
            value = as_plain(getattr(self, name), name)
            if isinstance(value, bool) or not isinstance(value, int | float | None):
                raise TypeError(f"{name} = {value!r:.60}: give a number")

    def _hardware(self) -> dict[str, Any]:
        if isinstance(self.target, str):
            return _entry(targets, self.target, {}, "target")
        if isinstance(self.target, Target):
            return _entry_of(self.target)
        name, options = _named(self.target, "target", targets)
        return _entry(targets, name, options, "target")

    def _protocol(self) -> dict[str, Any]:
        names = ", ".join(PROTOCOLS)
        if not isinstance(self.protocol, str | Mapping):
            raise TypeError(
                f"protocol = {self.protocol!r:.60}: give a name, or a mapping with a name and "
                f"further keys; the names are {names}"
            )
        given = {"name": self.protocol} if isinstance(self.protocol, str) else dict(self.protocol)
        name = given.get("name", "ptq")
        if name not in PROTOCOLS:
            raise ValueError(f"protocol = {name!r}: choose from {names}")
        changes = {
            **given,
            **({"weight_bits": list(self.bits), "act_bits": list(self.bits)} if self.bits else {}),
            **({"quantizer": self.quantizer} if self.quantizer else {}),
        }
        found = _merged(composed([f"protocol={name}"]).protocol, changes, "protocol")
        if self.space is not None:
            narrowed = narrowing(_merged(OmegaConf.structured(SpaceConfig), self.space, "space"))
            found |= {"space": narrowed} if narrowed else {}
        return found


def candidates(bits: Any) -> tuple[Any, ...] | None:
    """Candidate bits of a caller, who may give them in any iterable; None stays None.

    Raises:
        TypeError: they are none; the message says what to give.
    """
    if bits is None:
        return None
    try:
        found = () if isinstance(bits, str | bytes) else tuple(bits)
    except TypeError:  # a number, also as an array
        found = ()
    plain = as_plain(found, "bits")
    if not plain or any(isinstance(bit, bool | list) for bit in plain):
        raise TypeError(f"bits = {bits!r:.60}: give several candidates, such as (2, 4, 8)")
    return tuple(plain)


def entries_of(methods: Methods) -> list[dict[str, Any]]:
    """Frameworks' entries with all hyper-parameters.

    Raises:
        TypeError, ValueError: a method is none, or has no such hyper-parameter.
    """
    if isinstance(methods, str | Framework):
        methods = [methods]
    if isinstance(methods, Mapping):
        return [_entry(registry, name, options, "methods") for name, options in methods.items()]
    if not isinstance(methods, Iterable):
        raise TypeError(f"methods is a {type(methods).__name__}: give names or frameworks")
    found = []
    for method in methods:
        if isinstance(method, Framework):
            found.append(_entry_of(method))
        elif isinstance(method, str):
            found.append(_entry(registry, method, {}, "methods"))
        else:
            raise TypeError(f"methods has a {type(method).__name__}: give names or frameworks")
    if not found:
        raise ValueError(f"methods is empty: choose from {', '.join(registry.names())}")
    return found


def default_entry(name: str) -> dict[str, Any]:
    """A framework's entry with the defaults of its hyper-parameters."""
    return _entry(registry, name, {}, "methods")


def check_cells(cells: Iterable[Cell], layers: tuple[Layer, ...]) -> None:
    """Refuse what is configured wrongly, before anything is computed.

    Raises:
        ValueError: with a message that names the field and the choices.
    """
    for cell in cells:
        check_protocol(cell["protocol"])
        setting = setting_of(cell, layers)
        budget_spec(cell).resolve(setting.target, setting.space)


def _named(entry: Any, where: str, known: Registry[Any]) -> tuple[str, dict[str, Any]]:
    """The name and the options of an entry such as ``{"name": "table", "path": "costs.csv"}``."""
    if not isinstance(entry, Mapping) or "name" not in entry:
        raise TypeError(
            f"{where} = {entry!r:.60}: give a name, or a mapping with a name and options; "
            f"the names are {', '.join(known.names())}"
        )
    return str(entry["name"]), {key: value for key, value in entry.items() if key != "name"}


def _entry(
    known: Registry[Any], name: str, options: Mapping[str, Any], where: str
) -> dict[str, Any]:
    cls = known.get(name)
    try:
        return _entry_of(cls(**options))
    except TypeError as error:
        keys = ", ".join(field.name for field in fields(cls)) or "none"
        raise ValueError(f"{where}: {name}: {error}; the options are {keys}") from error


def _entry_of(thing: Any) -> dict[str, Any]:
    if not is_dataclass(thing):
        raise TypeError(f"{type(thing).__name__} is no dataclass, so its options are not known")
    named: Any = thing
    options = {field.name: getattr(thing, field.name) for field in fields(thing)}
    return {"name": named.name, **as_plain(options, named.name)}


def _merged(base: Any, changes: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A typed configuration with changes.

    Raises:
        TypeError, ValueError: no mapping, a key that there is not, or a value of another type.
    """
    if not isinstance(changes, Mapping):
        keys = ", ".join(map(str, base))
        raise TypeError(f"{where} = {changes!r:.60}: give a mapping; the keys are {keys}")
    try:
        merged: Any = OmegaConf.to_container(OmegaConf.merge(base, dict(changes)))
    except OmegaConfBaseException as error:
        keys = ", ".join(map(str, base))
        reason = str(error).splitlines()[0]
        raise ValueError(f"{where}: {reason} ({error.full_key}); the keys are {keys}") from error
    return dict(merged)
