"""Files of policies: records, lists of a paper, what another toolkit has found.

A file is one of

- a record of this suite, or any JSON object with a ``policy``;
- JSON by layer, ``{"conv1": 8, "layer1.0.conv1": [4, 8], "fc": {"weight": 8, "act": 8}}``: weight
  bits alone, weight and activation bits, or both by name, where ``weight`` may be a list with the
  bits of every output channel;
- a JSON list of such entries in execution order, as papers print them (``[8, 4, 4, 8]``), or of
  objects that name their ``layer``;
- CSV with the columns ``layer``, ``weight`` and, if it has any, ``act``;
- text with nothing but weight bits, in execution order.

An object with a ``policy`` may also say what its search cost, as measured where it ran:
``seconds``, ``images`` (forward) and ``images_backward``.

``w_bits`` and ``a_bits``, as tables of costs have them, are the same as ``weight`` and ``act``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frameworks.core.policy import Bits, LayerBits
from frameworks.core.pricing.costfile import some
from frameworks.core.pricing.separated import SUFFIXES, read_text, separated, unique

WEIGHT, ACT = ("weight", "w_bits", "weight_bits"), ("act", "a_bits", "act_bits")
"""Names of an entry's bits."""
KEYS = ("layer", *WEIGHT, *ACT)
"""What an entry may have."""
_GAP, _KIND = r"[\s_.()-]*", "(?:w|weights?|a|acts?|activations?)"
_WIDTH = f"(?:bits?|bit{_GAP}widths?|precisions?)"
_OF_BITS = re.compile(
    f"(?:{_KIND}|(?:{_KIND}{_GAP})?{_WIDTH}|{_WIDTH}{_GAP}{_KIND}){_GAP}", re.IGNORECASE
)
"""What a column of bits may be called by mistake; those for notes, sizes and the like are free."""
SPENT = {
    "seconds": "seconds",
    "images": "images_forward",
    "images_backward": "images_backward",
}
"""What a file may say of its search's cost, and how records call that."""


@dataclass(frozen=True)
class Entry:
    """The bits of one layer.

    Attributes:
        where: file and layer or line, for messages.
        weight: weight bits, one number or one per output channel.
        act: activation bits; None where the file has none.
        layer: the layer's name; None where the file is in execution order.
    """

    where: str
    weight: Bits
    act: int | None
    layer: str | None = None


def read_policy(path: Path) -> list[Entry]:
    """The entries of a file, in its order: all of them name their layers, or none does.

    Raises:
        ValueError: there is no such file, it is none of the forms above, or an entry is no bit
            width; the message names the file and the layer.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path.absolute()}")
    text = read_text(path)
    entries = list(_table(path, text) if path.suffix.lower() in SUFFIXES else _json(path, text))
    if not entries:
        raise ValueError(f"{path}: it has no layers")
    names = [entry.layer for entry in entries if entry.layer is not None]
    if 0 < len(names) < len(entries):
        raise ValueError(f"{path}: some entries name a layer and others do not; name all or none")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path}: layer {twice[0]} is there twice")
    without = [entry.where for entry in entries if entry.act is None]
    if 0 < len(without) < len(entries):
        raise ValueError(
            f"{without[0]}: it has no activation bits, and others have; give all of them or none"
        )
    return entries


def read_spent(path: Path) -> dict[str, float]:
    """What a file says that its search cost, by the names of records; empty if it does not.

    Raises:
        ValueError: it says so by something else than a number.
    """
    data = None if path.suffix.lower() in SUFFIXES else _data(path, read_text(path))
    if not isinstance(data, dict) or "policy" not in data:
        return {}
    said = {key: data[key] for key in SPENT if data.get(key) is not None}
    for key, value in said.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= value < math.inf:
            raise ValueError(f"{path}: {key} = {value!r:.60}: give a number of at least 0")
    return {SPENT[key]: value for key, value in said.items()}


def _data(path: Path, text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=unique)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: no JSON ({error}); tables end with {some(SUFFIXES)}") from error
    except ValueError as error:  # a key twice, or a number of too many digits
        raise ValueError(f"{path}: {error}") from error


def _json(path: Path, text: str) -> Iterator[Entry]:
    data = _data(path, text)
    if isinstance(data, dict) and "policy" in data:
        if data["policy"] is None:
            status = data.get("status", "without one")
            raise ValueError(f"{path}: there is no policy in it, the cell is {status}")
        data = data["policy"]
    if isinstance(data, dict):
        for name, value in data.items():
            yield _entry(f"{path}, layer {name}", value, name)
    elif isinstance(data, list):
        for i, value in enumerate(data):
            named = isinstance(value, Mapping) and "layer" in value
            name = str(value["layer"]) if named else None
            yield _entry(f"{path}, layer {name if named else i}", value, name)
    else:
        raise ValueError(f"{path}: a {type(data).__name__}: give an object by layer, or a list")


def _table(path: Path, text: str) -> Iterator[Entry]:
    if re.fullmatch(r"[\d\s,;]*", text):
        for i, number in enumerate(re.findall(r"\d+", text)):
            yield _entry(f"{path}, layer {i}", number, None)
        return
    header = re.split(r"[,;\t|]", text.partition("\n")[0])
    names = [name.strip().strip('"') for name in header]
    weight = next((name for name in WEIGHT if name in names), WEIGHT[0])
    act = [name for name in ACT if name in names]
    for where, row in separated(path, text, ("layer", weight, *act), weight):
        if odd := [name for name in row if name not in KEYS and _OF_BITS.fullmatch(name)]:
            choices = ", ".join(KEYS)
            raise ValueError(f"{where}: unknown column {odd[0]!r}; choose from {choices}")
        known = {name: value for name, value in row.items() if name in KEYS}
        yield _entry(where, known, str(row["layer"] or "").strip())


def _entry(where: str, value: Any, layer: str | None) -> Entry:
    weight, act = _parts(where, value)
    try:
        bits = LayerBits(_weight(weight), 8 if act is None else _number(act))
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{where}: {error}") from error
    return Entry(where, bits.weight, None if act is None else bits.act, layer)


def _parts(where: str, value: Any) -> tuple[Any, Any]:
    """Weight and activation bits as they stand in the file."""
    if isinstance(value, Mapping):
        weight, act = _one_of(where, value, WEIGHT), _one_of(where, value, ACT)
        if weight is None:
            has = some(map(str, value)) or "nothing"
            raise ValueError(f"{where}: no weight bits; give 'weight' and 'act', it has {has}")
        if unknown := [name for name in value if name not in KEYS]:
            raise ValueError(f"{where}: unknown key {unknown[0]!r}; choose from {', '.join(KEYS)}")
        return weight, act
    if isinstance(value, list) and len(value) == 2:
        return value[0], value[1]
    if isinstance(value, list | bool) or not isinstance(value, int | float | str):
        raise ValueError(
            f"{where}: {value!r:.60}: give weight bits, [weight, act] or "
            '{"weight": bits, "act": bits}'
        )
    return value, None


def _one_of(where: str, value: Mapping[str, Any], names: Sequence[str]) -> Any:
    """What stands under the one of these names that an entry has; None where it has none."""
    given = [name for name in names if value.get(name) not in (None, "")]
    if len(given) > 1:
        raise ValueError(f"{where}: {' and '.join(given)} are the same; give one of them")
    return value[given[0]] if given else None


def _weight(value: Any) -> Any:
    return tuple(map(_number, value)) if isinstance(value, list) else _number(value)


def _number(value: Any) -> Any:
    """A value as a number, which `LayerBits` looks at."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = None
    if number is None or (isinstance(value, str) and "_" in value):  # Python reads 1_6 as 16
        raise ValueError(f"{value!r:.60} is no number of bits")
    return int(number) if number.is_integer() else number


def by_layer(
    entries: Sequence[Entry], names: Iterable[str], free: Iterable[str]
) -> dict[str, Entry]:
    """Entries by the network's layers.

    Names are compared as such, then as other toolkits write them: ``layer1_0_conv1`` and
    ``layer1.0.conv1.weight`` are ``layer1.0.conv1``. A list in execution order is one of all layers
    or of those that are not pinned.

    Args:
        entries: a file's.
        names: all layers in execution order.
        free: those that are not pinned.

    Raises:
        ValueError: an entry is of no layer, or a list has another length; the message has the
            choices.
    """
    known, unpinned = list(names), list(free)
    if entries[0].layer is None:
        order = {len(unpinned): unpinned, len(known): known}.get(len(entries))
        if order is None:
            raise ValueError(
                f"{entries[-1].where}: it is the last of {len(entries)} entries; the network has "
                f"{len(known)} layers, {len(unpinned)} of them not pinned: {some(known, 60)}"
            )
        return dict(zip(order, entries, strict=True))
    spelled: dict[str, list[str]] = {}
    for name in known:
        spelled.setdefault(_spelled(name), []).append(name)
    found: dict[str, Entry] = {}
    for entry in entries:
        alike = [entry.layer] if entry.layer in known else spelled.get(_spelled(entry.layer), [])
        if len(alike) != 1:
            raise ValueError(f"{entry.where}: the network has no such layer; {some(known, 60)}")
        if alike[0] in found:
            raise ValueError(f"{entry.where}: {found[alike[0]].where} is the same layer")
        found[alike[0]] = entry
    return found


def _spelled(name: str | None) -> str:
    return re.sub(r"\W", "_", (name or "").removesuffix(".weight"))
