"""What is written: a row for each layer and bit width, and all that is known about the figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.lut.measure import Figure, Measurement
from benchmarks.lut.plan import CLASSES, Unit
from benchmarks.suite.options.lut import LIMIT
from frameworks import Layer, MeasuredTable, shape_of

FEWER = tuple(range(2, 8))
"""Bit widths without kernels of their own."""
INSTEAD = {"cpu": ("float32",), "gpu": ("float16", "float32")}
"""What 8 and fewer bits run as where a layer has no int8 kernel, best first."""


def content(layers: Sequence[Layer], found: Measurement, device: str) -> dict[str, Any]:
    """The part of the file that targets read, and the notes."""
    return {
        "schema": MeasuredTable.schema,
        "kind": "measured",
        "device": device,
        "metric": "latency",
        "unit": "ms",
        "notes": notes(found, device),
        "layers": [{"layer": layer.name, **shape_of(layer)} for layer in layers],
        "rows": [row for layer in layers for row in rows_of(layer.name, found, device)],
    }


def rows_of(layer: str, found: Measurement, device: str) -> list[dict[str, Any]]:
    """The rows of a layer: one a class, and those of the bit widths that run as one of them."""
    mine = {unit.arithmetic: (unit, fig) for unit, fig in found.pairs if layer in unit.layers}
    there = [name for name in ("int8", *INSTEAD[device]) if mine[name][1].unsupported is None]
    if not there:
        raise ValueError(f"{layer} cannot be measured: {mine['float32'][1].unsupported}")
    rows = [
        _row(layer, CLASSES[device][name], unit, figure)
        for name, (unit, figure) in mine.items()
        if figure.unsupported is None
    ]
    fewer = FEWER if there[0] == "int8" else (*FEWER, 8)
    unit, figure = mine[there[0]]
    short = [_short(layer, bits, unit, figure) for bits in reversed(fewer)]
    return rows + [{**row, "same_as": there[0]} for row in short]


def _short(layer: str, bits: int, unit: Unit, figure: Figure) -> dict[str, Any]:
    cost = round(figure.best * unit.calls * 1e3, 7)
    return {"layer": layer, "w_bits": bits, "a_bits": bits, "cost": cost}


def _row(layer: str, bits: int, unit: Unit, figure: Figure) -> dict[str, Any]:
    row = {**_short(layer, bits, unit, figure), "arithmetic": unit.arithmetic}
    if layer != unit.layers[0]:
        return {**row, "measured_as": unit.layers[0]}
    return {
        **row,
        "spread": round(figure.spread, 4),
        "range": round(figure.range, 4),
        "medians": [round(seconds * 1e3, 7) for seconds in figure.medians],
        "calls": unit.calls,
        "operators": figure.operators,
    }


def notes(found: Measurement, device: str) -> list[str]:
    """What a reader must know, in sentences."""
    said = [
        "A layer's latency is the median of its repetitions in the best of the processes, for one "
        f"image; it contains a call's own {found.idle.best * 1e6:.1f} us.",
        "Layers were run one by one: conversions between layers of different bits, operators "
        "between layers and their fusion are not in the sum, and each layer's own changes of "
        "memory layout at its ends are.",
        _fewer(device),
    ]
    reasons = {figure.unsupported for figure in found.figures if figure.unsupported}
    said += [f"Left out: {reason}." for reason in sorted(reasons)]
    slower = slower_in_int8(found)
    if slower:
        said.append(f"int8 is slower than float32 here: {', '.join(slower)}.")
    if found.unsteady:
        shaky = ", ".join(found.unsteady)
        said.append(f"Not steady: processes differ by more than {LIMIT:.0%} on {shaky}.")
    return said


def _fewer(device: str) -> str:
    if device == "cpu":
        return (
            "Only 8 bit can be faster than float here: ONNX Runtime has no kernel for fewer bits "
            "on processors (a 4-bit convolution runs as an 8-bit one at best), so 2 to 7 bits have "
            "the row of 8 (same_as: int8). They save memory, not time."
        )
    return (
        "torch has no kernel for fewer than 8 bits: 2 to 7 bits have the row of 8, and where a "
        "layer has no int8 kernel they and 8 bits run as float16, which holds their integers "
        "exactly (same_as). They save memory, not time."
    )


def slower_in_int8(found: Measurement) -> list[str]:
    """Layers that 8 bit slows down, with the factor."""
    floats = {unit.layers: fig for unit, fig in found.pairs if unit.arithmetic == "float32"}
    slower = []
    for unit, figure in found.pairs:
        other = floats[unit.layers]
        if unit.arithmetic != "int8" or figure.unsupported or other.unsupported:
            continue
        if figure.best > other.best:
            ratio = figure.best / other.best
            slower.append(f"{', '.join(unit.layers)} ({ratio:.2f} times)")
    return slower
