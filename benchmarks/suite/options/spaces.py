"""The space of a cell: the protocol's candidates, what is pinned, and what a run narrows down."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from frameworks import Layer, Space, Target, supported_space

Bits = tuple[tuple[int, ...], tuple[int, ...]]
"""Candidate weight and activation bits of a layer."""
EXAMPLE = "space.layers={'head*': [8], stem: {weight: [4, 8], act: [8]}}"


@dataclass
class SpaceConfig:
    """What of the protocol's space is searched, by names of layers or patterns such as ``block*``.

    Attributes:
        restrict: the layers that are searched; all others stay at ``rest``. None for all.
        rest: bits of the layers that are not searched, weights and activations.
        layers: candidates of layers of their own, by name or pattern: a list for weights and
            activations, or ``{weight: [...], act: [...]}``. They come before the protocol's, before
            pinned ends and before ``restrict``; of several patterns that fit, the last one counts.
    """

    restrict: list[str] | None = None
    rest: int = 8
    layers: Any = None


def narrowing(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration's ``space`` changes; empty for the whole space of the protocol.

    Raises:
        ValueError: bits for the layers that are not searched, where all are.
    """
    default = SpaceConfig()
    kept = {n: value for n, value in config.items() if value not in (getattr(default, n), {})}
    if "rest" in kept and "restrict" not in kept:
        raise ValueError(
            f"space.rest = {kept['rest']}: it is for the layers that are not searched, and all "
            "are; name those that are with space.restrict=[NAME,NAME]"
        )
    return kept


def space_of(protocol: Mapping[str, Any], target: Target, layers: tuple[Layer, ...]) -> Space:
    """The space of a protocol on a target.

    Raises:
        ValueError: bits that are none, or a layer that there is not or the hardware cannot run.
    """
    for key in ("weight_bits", "act_bits"):
        _check_bits(f"protocol.{key}", protocol[key])
    pinned_bits = protocol["pinned_bits"]
    if pinned_bits and not 1 <= pinned_bits <= 8:
        raise ValueError(f"protocol.pinned_bits = {pinned_bits}: must lie within 1..8, or be 0")
    ends = {layers[0].name, layers[-1].name} if pinned_bits else set()
    weights, acts = (sorted({*protocol[key], *target.wide}) for key in ("weight_bits", "act_bits"))
    common = tuple(weights), tuple(acts if target.prices_activations else protocol["act_bits"])
    own = _own(protocol.get("space") or {}, target, layers, common, ends)
    try:
        return supported_space(
            target,
            layers,
            *common,
            pinned=dict.fromkeys(ends, (pinned_bits, pinned_bits)),
            groups=protocol["ties"],
            paired=protocol["paired"],
            own=own,
        )
    except ValueError as error:
        raise ValueError(f"protocol: {error}") from error


def _own(
    config: Mapping[str, Any],
    target: Target,
    layers: Sequence[Layer],
    common: Bits,
    ends: Iterable[str],
) -> dict[str, Bits]:
    """The candidates of the layers that have not the protocol's.

    Activations that the target does not price keep the protocol's bits unless they are named.
    """
    names = [layer.name for layer in layers]
    found: dict[str, Bits] = {}
    if config.get("restrict") is not None:
        rest = config.get("rest", SpaceConfig.rest)
        _check_bits("space.rest", [rest])
        searched = set(_matched("space.restrict", config["restrict"], names)) - set(ends)
        if not searched:
            raise ValueError(
                f"space.restrict = {list(config['restrict'])}: no layer is left to search; the "
                "first and the last are pinned (protocol.pinned_bits=0 frees them)"
            )
        others: Bits = (rest,), ((rest,) if target.prices_activations else common[1])
        found = {name: others for name in names if name not in {*searched, *ends}}
    for pattern, given in _table(config.get("layers") or {}).items():
        bits = _candidates(f"space.layers.{pattern}", given, common, target.prices_activations)
        found.update(dict.fromkeys(_matched("space.layers", [pattern], names), bits))
    return found


def _table(given: Any) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise ValueError(f"space.layers = {given!r}: give candidates by layer, as in {EXAMPLE}")
    return given


def _candidates(where: str, given: Any, common: Bits, acts: bool) -> Bits:
    """A layer's candidates as configured; a kind that is left out has the protocol's."""
    if isinstance(given, Mapping):
        if not given or given.keys() - {"weight", "act"}:
            raise ValueError(
                f"{where} = {dict(given)}: the entries are weight and act, as in {EXAMPLE}"
            )
        weight, act = given.get("weight", common[0]), given.get("act", common[1])
    else:
        weight, act = given, given if acts else common[1]
    for bits in (weight, act):
        _check_bits(where, bits)
    return tuple(sorted(set(weight))), tuple(sorted(set(act)))


def _check_bits(where: str, bits: Any) -> None:
    if not isinstance(bits, list | tuple) or not all(type(b) is int for b in bits):
        raise ValueError(f"{where} = {bits!r}: give a list of bit widths, as in {EXAMPLE}")
    if not bits or any(not 1 <= b <= 8 for b in bits):
        raise ValueError(f"{where} = {list(bits)}: bits must lie within 1..8")


def _matched(where: str, patterns: Iterable[str], names: Sequence[str]) -> list[str]:
    """The layers that fit any of some patterns, in execution order.

    Raises:
        ValueError: a pattern that none fits.
    """
    found: set[str] = set()
    for pattern in patterns:
        fitting = {name for name in names if fnmatchcase(name, pattern)}
        if not fitting:
            near = get_close_matches(pattern, names, n=1)
            hint = f"; did you mean {near[0]}?" if near else "."
            raise ValueError(
                f"{where}: no layer fits {pattern!r}{hint} The layers are {list(names)}"
            )
        found |= fitting
    return [name for name in names if name in found]
