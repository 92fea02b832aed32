"""Files of costs per layer and bits: how they are read and checked, for every target with a table.

The file is one of:

- CSV with the columns ``layer,w_bits,a_bits,cost``, as `frameworks.core.pricing.separated`
  reads it;
- JSON ``{"metric": "latency", "unit": "ms", "rows": [{"layer": "conv1", "w_bits": 8, "a_bits": 8,
  "cost": 0.31}, ...]}``; further keys are free (machine, versions, date);
- JSON ``{"latency_cycles": [[[...]]]}``: ``[layer][w_bits - 1][a_bits - 1]`` with the layers in
  execution order (HAQ, arXiv 1811.08886); the key is METRIC_UNIT;
- JSON ``{"layers": [...], "latency_int4_ms": [...], "latency_int8_ms": [...]}``: a list a bit width
  with equal weight and activation bits (HAWQ-V3, arXiv 2011.10680).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frameworks.core.layers import Layer
from frameworks.core.policy import PRUNED, VALID_BITS, LayerBits
from frameworks.core.pricing.separated import SUFFIXES, read_text, separated, unique

COLUMNS = ("layer", "w_bits", "a_bits", "cost")
Row = tuple[str, Mapping[str, Any]]
"""Where an entry stands, and its four fields. A layer is a name or an index in execution order."""
Pairs = Mapping[tuple[int, int], float]
"""Cost of one layer by (weight bits, activation bits)."""
Entries = dict[str | int, dict[tuple[int, int], float]]


@dataclass(frozen=True)
class CostFile:
    """What a file says.

    Attributes:
        path: the file.
        metric: what the costs are; empty where the file does not say.
        unit: of the costs; empty where the file does not say.
        entries: costs by layer (a name or an index in execution order) and bits.
        data: everything in a JSON file; empty for CSV.
    """

    path: Path
    metric: str
    unit: str
    entries: Entries
    data: Mapping[str, Any]


def read_costs(path: Path) -> CostFile:
    """Read and check a file.

    Raises:
        ValueError: it is not there, is no table, or an entry is wrong; the message names file, row
            and field.
    """
    metric, unit, rows, data = _read(path)
    entries = _checked(rows)
    if not entries:
        raise ValueError(f"{path}: the table has no entries")
    return CostFile(path, metric, unit, entries, data)


def entry_cost(path: str | Path, layer: Layer, entries: Pairs | None, bits: LayerBits) -> float:
    """The cost of a layer at a policy's bits; a layer pruned to 0 bits costs nothing.

    Raises:
        ValueError: the file has no such entry, or the weight bits are per output channel.
    """
    if not isinstance(bits.weight, int):
        raise ValueError(f"{path}: a table has no costs per output channel ({layer.name})")
    if bits.weight == PRUNED:
        return 0.0
    if entries is None:
        raise ValueError(f"{path}: no entry for layer {layer.name}")
    if (bits.weight, bits.act) not in entries:
        raise ValueError(
            f"{path}: no entry for layer {layer.name} at w_bits={bits.weight}, "
            f"a_bits={bits.act}; it has (w_bits, a_bits) {some(map(str, entries))}"
        )
    return entries[bits.weight, bits.act]


def entry_supports(entries: Pairs | None, weight: int, act: int) -> bool:
    """Whether a layer's entries have these bits; any layer can be pruned."""
    return weight == PRUNED or (weight, act) in (entries or {})


def some(words: Any, most: int = 8) -> str:
    """The first few of a list, for a message."""
    shown = list(words)
    return ", ".join(shown[:most]) + (f", ... ({len(shown)})" if len(shown) > most else "")


def _read(path: Path) -> tuple[str, str, Iterator[Row], Mapping[str, Any]]:
    """Metric, unit, rows and further data of a file."""
    if not path.is_file():
        raise ValueError(f"hardware.path: there is no table file {path.absolute()}")
    text = read_text(path)
    if path.suffix.lower() in SUFFIXES:
        return "", "", separated(path, text, COLUMNS, "cost"), {}
    try:
        data = json.loads(text, object_pairs_hook=unique)
    except RecursionError as error:
        raise ValueError(f"{path}: not a readable table: nested too deeply") from error
    except ValueError as error:  # JSON's own, a key twice, or a number of too many digits
        raise ValueError(f"{path}: not a readable table: {error}") from error
    return *_json_rows(path, data), data


def _json_rows(path: Path, data: Any) -> tuple[str, str, Iterator[Row]]:
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(data).__name__}")
    if isinstance(data.get("rows"), list):
        rows = ((f"{path} row {i}", row) for i, row in enumerate(data["rows"]))
        return str(data.get("metric", "")), str(data.get("unit", "")), rows
    for key, value in data.items():
        flat = re.fullmatch(r"([a-z]+)_int\d+_(\w+)", key)
        if flat and isinstance(value, list) and isinstance(data.get("layers"), list):
            return flat[1], flat[2], _list_rows(path, data, flat[1], flat[2])
        cube = re.fullmatch(r"([a-z]+)_(\w+)", key)
        if cube and _is_cube(value):
            return cube[1], cube[2], _cube_rows(path, key, value)
    raise ValueError(f'{path}: no table found: give "rows": [{{{", ".join(COLUMNS)}}}, ...]')


def _is_cube(value: Any) -> bool:
    for _ in range(3):
        if not isinstance(value, list) or not value:
            return False
        value = value[0]
    return True


def _cube_rows(path: Path, key: str, cube: Sequence[Sequence[Sequence[Any]]]) -> Iterator[Row]:
    for i, plane in enumerate(cube):
        for w, line in enumerate(_list(f"{path} {key}[{i}]", plane)):
            for a, cost in enumerate(_list(f"{path} {key}[{i}][{w}]", line)):
                where = f"{path} {key}[{i}][{w}][{a}]"
                yield where, {"layer": i, "w_bits": w + 1, "a_bits": a + 1, "cost": cost}


def _list(where: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{where}: expected a list of costs, found {value!r:.60}")
    return value


def _list_rows(path: Path, data: Mapping[str, Any], metric: str, unit: str) -> Iterator[Row]:
    for key, costs in data.items():
        found = re.fullmatch(rf"{metric}_int(\d+)_{unit}", key)
        if not found:
            continue
        if len(_list(f"{path} {key}", costs)) != len(data["layers"]):
            raise ValueError(f"{path} {key}: {len(costs)} costs for {len(data['layers'])} layers")
        for i, (layer, cost) in enumerate(zip(data["layers"], costs, strict=True)):
            bits = int(found[1])
            where = f"{path} {key}[{i}]"
            yield where, {"layer": layer, "w_bits": bits, "a_bits": bits, "cost": cost}


def _checked(rows: Iterator[Row]) -> Entries:
    """The entries, each field checked.

    Raises:
        ValueError: a missing field, unknown bits, a cost that is not a number of at least 0, or an
            entry given twice; the message names file, row and field.
    """
    entries: Entries = {}
    for where, row in rows:
        if not isinstance(row, Mapping):
            raise ValueError(f"{where}: expected an object with {list(COLUMNS)}, found {row!r:.60}")
        missing = [c for c in COLUMNS if row.get(c) is None or row[c] == ""]
        if missing:
            raise ValueError(f"{where}: no value for {', '.join(missing)}")
        pair = (_bits(row, "w_bits", where), _bits(row, "a_bits", where))
        name = _layer(row["layer"], where)
        layer = entries.setdefault(name, {})
        if pair in layer:
            raise ValueError(f"{where}: layer {name} has w_bits, a_bits {pair} twice")
        layer[pair] = _cost(row["cost"], where)
    return entries


def _layer(value: Any, where: str) -> str | int:
    name = value.strip() if isinstance(value, str) else value
    if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
        raise ValueError(
            f"{where}: layer = {value!r:.60} is no name (text) and no index (a whole number)"
        )
    return name


def _number(value: Any) -> float:
    # Python reads 1_000 as a number, and nothing else that writes tables does.
    odd = isinstance(value, bool) or (isinstance(value, str) and "_" in value)
    try:
        return math.nan if odd else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _bits(row: Mapping[str, Any], column: str, where: str) -> int:
    bits = _number(row[column])
    if bits not in VALID_BITS:
        raise ValueError(f"{where}: {column} = {row[column]!r:.60} is none of {sorted(VALID_BITS)}")
    return int(bits)


def _cost(value: Any, where: str) -> float:
    cost = _number(value)
    if not (math.isfinite(cost) and cost >= 0):
        raise ValueError(f"{where}: cost = {value!r:.60} is not a number of at least 0")
    return cost
