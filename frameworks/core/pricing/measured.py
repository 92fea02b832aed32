"""Latency tables that ``juxtabit lut`` measured on a device, as targets read them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from frameworks.core.layers import Layer
from frameworks.core.policy import LayerBits
from frameworks.core.pricing.costfile import (
    CostFile,
    Pairs,
    entry_cost,
    entry_supports,
    read_costs,
    some,
)
from frameworks.core.target import SeparableTarget

HOW = "measure one on that device with 'juxtabit lut model=... dataset=... out=FILE device={}'"
SHAPE = (
    *("kind", "in_channels", "out_channels", "kernel", "stride", "groups"),
    *("in_size", "out_size", "macs"),
)
"""The facts of a layer that decide its latency; layers that share them share a measurement."""


def shape_of(layer: Layer) -> dict[str, Any]:
    """The `SHAPE` of a layer as plain data, as measured tables hold it."""
    facts = ((key, getattr(layer, key)) for key in SHAPE)
    shape = {key: list(fact) if isinstance(fact, tuple) else fact for key, fact in facts}
    return {**shape, "kind": "transposed"} if layer.transposed else shape


@dataclass
class MeasuredTable(SeparableTarget):
    """Latency = sum over layers of what ``juxtabit lut`` measured for the layer's bits.

    A layer is found by its name and shape, or else by its shape alone, so that a table also serves
    another model whose layers all have measured shapes. Policies may use exactly the bits that the
    file lists, which are pairs of equal bits: no kernel that is measured has a speed for unequal
    ones. The weights' size in bytes is reported beside it (without biases and scales, as in the
    ``size`` target). Latencies are those of the layers one by one: what lies between them is not
    in the sum.

    Attributes:
        path: a file that ``juxtabit lut`` wrote.
    """

    kind: ClassVar[Literal["model", "table", "measured"]] = "measured"
    metrics: ClassVar[Mapping[str, str]] = {"latency": "ms", "size": "bytes"}
    per_channel: ClassVar[bool] = False
    monotone: ClassVar[bool] = False
    schema: ClassVar[int] = 1
    """The version of the files that are read and written."""

    path: str = ""

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError(f"hardware.path: name a measured table; {HOW.format(self.name)}")
        if not Path(self.path).is_file():
            raise ValueError(
                f"hardware.path: there is no table file {Path(self.path).absolute()}; "
                f"{HOW.format(self.name)}"
            )
        file = read_costs(Path(self.path))
        _check_head(file, self.name, self.schema)
        self._entries = file.entries
        self._shapes = _shapes(file)
        self._by_shape = {_key(shape): name for name, shape in reversed(self._shapes.items())}
        self._made_for = f"{file.data.get('model', '?')} on {file.data.get('dataset', '?')}"
        self._found: dict[Layer, Pairs | None] = {}

    def prepare(self, layers: Sequence[Layer]) -> None:
        missing = [layer for layer in layers if self._find(layer) is None]
        if missing:
            raise ValueError(
                f"{self.path}: measured for {self._made_for}, does not fit this model: "
                f"{len(missing)} of its {len(layers)} layers have no entry; "
                f"{self._difference(missing[0])}; {HOW.format(self.name)}"
            )

    def supports(self, layer: Layer, weight: int, act: int) -> bool:
        return entry_supports(self._find(layer), weight, act)

    def layer_cost(self, layer: Layer, bits: LayerBits) -> dict[str, float]:
        return {
            "latency": entry_cost(self.path, layer, self._find(layer), bits),
            "size": layer.stored * bits.mean_weight / 8,
        }

    def _find(self, layer: Layer) -> Pairs | None:
        if layer not in self._found:
            shape = shape_of(layer)
            same = self._shapes.get(layer.name) == shape
            name = layer.name if same else self._by_shape.get(_key(shape))
            self._found[layer] = None if name is None else self._entries[name]
        return self._found[layer]

    def _difference(self, layer: Layer) -> str:
        """Why a layer is not in the table."""
        wanted, known = shape_of(layer), self._shapes.get(layer.name)
        if known is None:
            text = ", ".join(f"{key}={value}" for key, value in wanted.items())
            return f"it has neither a layer {layer.name} nor one of its shape ({text})"
        key = next(key for key in SHAPE if known[key] != wanted[key])
        return (
            f"layer {layer.name} was measured with {key} = {known[key]} and has "
            f"{key} = {wanted[key]} in the model"
        )


def _check_head(file: CostFile, device: str, schema: int) -> None:
    path, data = file.path, file.data
    if data.get("kind") != "measured":
        raise ValueError(
            f'{path}: no measured table (it has no "kind": "measured"); hardware=table reads '
            f"tables of any origin, and to get a measured one {HOW.format(device)}"
        )
    if data.get("schema") != schema:
        raise ValueError(
            f"{path}: has schema {data.get('schema')!r}, and this version reads {schema}; "
            f"{HOW.format(device)}"
        )
    if data.get("device") != device:
        raise ValueError(
            f"{path}: was measured with device={data.get('device')}, not device={device}; "
            f"{HOW.format(device)}"
        )
    if (file.metric, file.unit) != ("latency", "ms"):
        raise ValueError(f"{path}: holds {file.metric!r} in {file.unit!r}, not latency in ms")


def _shapes(file: CostFile) -> dict[str, dict[str, Any]]:
    """The shape of each layer of a file.

    Raises:
        ValueError: a description is incomplete, or layers and rows do not go together.
    """
    found: dict[str, dict[str, Any]] = {}
    entries = file.data.get("layers")
    for i, entry in enumerate(entries if isinstance(entries, list) else []):
        where = f"{file.path} layers[{i}]"
        if not isinstance(entry, dict):
            raise ValueError(f"{where}: expected an object, found {entry!r}")
        missing = [key for key in ("layer", *SHAPE) if key not in entry]
        if missing:
            raise ValueError(f"{where}: no value for {', '.join(missing)}")
        found[str(entry["layer"])] = {key: entry[key] for key in SHAPE}
    for one, other, text in (
        (found, file.entries, "layers without a row"),
        (file.entries, found, 'rows of layers that "layers" does not describe'),
    ):
        lost = [str(name) for name in one if name not in other]
        if lost:
            raise ValueError(f"{file.path}: {text}: {some(lost)}")
    return found


def _key(shape: Mapping[str, Any]) -> str:
    return json.dumps(shape, sort_keys=True)
