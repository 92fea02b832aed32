"""Does the best policy change with the hardware? What policies cost on targets they are not for.

HAQ's central claim (Wang et al., arXiv 1811.08886, section 4.1) is that a policy searched for one
device is no good policy for another. Here every policy of a set of records is priced on every
target of that set, as a share of the budget that the target's own cells had: 1 and below fits.

A device that lacks the bits of a layer runs it at the cheapest of those it has that are no fewer,
which keeps the accuracy; a policy that it cannot run even so has no entry.
"""

from __future__ import annotations

import statistics
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.records.names import labels
from benchmarks.records.record import Record
from benchmarks.report.formats.blocks import Block
from benchmarks.report.numbers.cells import Cell, dataset_labels
from benchmarks.report.numbers.current import current
from benchmarks.suite.assets import entry_text, layers_of
from benchmarks.suite.setting import setting_of
from frameworks import Layer, LayerBits, Policy, Target

AVAILABLE = (1, 2, 3, 4, 5, 6, 7, 8, 16, 32)
Share = dict[tuple[str, str], list[float]]
"""Cost over budget by (target a policy was searched for, target it is priced on), over seeds."""


@dataclass(frozen=True)
class Device:
    """A target as the cells of a group have it: what it charges, and its budget."""

    target: Target
    metric: str
    limit: float


def runnable(target: Target, layer: Layer, bits: LayerBits) -> LayerBits | None:
    """The cheapest bits that the hardware runs and that are no fewer; None if there are none."""
    if not isinstance(bits.weight, int):
        fits = all(
            w == 0 or target.supports(layer, w, bits.act) for w in bits.channels(layer.out_channels)
        )
        return bits if target.per_channel and fits else None
    if bits.weight == 0:
        return bits
    found = [
        (w, a)
        for w in AVAILABLE
        for a in AVAILABLE
        if w >= bits.weight and a >= bits.act and target.supports(layer, w, a)
    ]
    if not found:
        return None
    if (bits.weight, bits.act) in found:
        return bits
    fewest = min(w + a for w, a in found)
    least = [LayerBits(*pair) for pair in found if sum(pair) == fewest]
    return min(least, key=lambda b: target.cost([layer], Policy({layer.name: b}))[target.metric])


def share(device: Device, layers: tuple[Layer, ...], policy: Policy) -> float | None:
    """What a policy costs on a device over its budget; None if it cannot run there."""
    bits = {layer.name: runnable(device.target, layer, policy[layer.name]) for layer in layers}
    kept = {name: entry for name, entry in bits.items() if entry is not None}
    if len(kept) < len(bits):
        return None
    return device.target.cost(layers, Policy(kept))[device.metric] / device.limit


AXES = ("framework", "model", "dataset", "protocol")


def shares(cells: Iterable[Cell], faults: list[str] | None = None) -> dict[tuple[str, ...], Share]:
    """Cost over budget for every pair of targets, by (framework, model, dataset, protocol).

    A record that cannot be priced is left out with a warning, which is added to ``faults``.
    """
    named = [] if faults is None else faults
    groups: dict[tuple[str, ...], dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        record = cell.record
        if record.status == "done" and record.budget.get("within"):
            fault = _fault(record)
            if fault:
                _leave_out(record, fault, named)
                continue
            name = f"{record.cell['hardware']['name']} {record.budget['label']}"
            groups[_group(cell)][name].append(record)
    return {key: _priced(members, named) for key, members in groups.items() if len(members) > 1}


def _group(cell: Cell) -> tuple[str, ...]:
    model, dataset, _, protocol, _ = cell.axes
    return cell.framework, model, dataset, protocol


def _fault(record: Record) -> str | None:
    """Why a finished record cannot be priced."""
    lacking = [axis for axis in (*AXES, "hardware") if axis not in record.cell]
    lacking += [f"budget.{key}" for key in ("metric", "limit", "label") if key not in record.budget]
    if lacking:
        return f"it lacks {', '.join(lacking)}"
    return None if record.budget["limit"] > 0 else "budget.limit is 0"


def _leave_out(record: Record, fault: str, faults: list[str]) -> None:
    faults.append(f"{record.key}.json: {fault}")
    warnings.warn(f"left out a record: {faults[-1]}", stacklevel=2)


def _priced(members: Mapping[str, list[Record]], faults: list[str]) -> Share:
    first = next(iter(members.values()))[0].cell
    layers = layers_of(entry_text(first["model"]), entry_text(first["dataset"]))
    names = [layer.name for layer in layers]
    devices = {name: _device(found[0], layers) for name, found in members.items()}
    found: Share = defaultdict(list)
    for origin, records in members.items():
        for record in records:
            if list(record.policy or ()) != names:
                _leave_out(record, f"its policy is not of {first['model']['name']}", faults)
                continue
            policy = Policy.from_json(record.policy or {})
            for name, device in devices.items():
                value = share(device, layers, policy)
                if value is not None:
                    found[origin, name].append(value)
    return found


def _device(record: Record, layers: tuple[Layer, ...]) -> Device:
    target = setting_of(record.cell, layers).target
    return Device(target, str(record.budget["metric"]), float(record.budget["limit"]))


def blocks(records: Iterable[Record], faults: list[str] | None = None) -> list[Block]:
    """A block for each framework (and model, dataset, protocol): rows are what it searched for.

    ``faults`` is that of `shares`.
    """
    cells, _ = current(records)
    priced = shares(cells, faults)
    if not priced:
        return []
    names = [labels(texts) for texts in zip(*priced, strict=True)]
    names[2] = dataset_labels(cell for cell in cells if _group(cell) in priced)
    found = [
        _block([name[text] for name, text in zip(names, key, strict=True)], table)
        for key, table in priced.items()
    ]
    return sorted(found, key=lambda block: block.title)


def _block(names: Sequence[str], table: Share) -> Block:
    targets = sorted({origin for origin, _ in table})
    means = {pair: statistics.fmean(values) for pair, values in table.items()}
    rows = [[origin, *(_text(means.get((origin, name))) for name in targets)] for origin in targets]
    others = [value for (origin, name), value in means.items() if origin != name]
    over = sum(value > 1 + 1e-9 for value in others)
    framework, model, dataset, protocol = names
    return Block(
        f"{framework}: {model} on {dataset}, {protocol}: cost over budget of policies (rows: "
        "searched for; columns: run on)",
        ["searched for", *targets],
        rows,
        notes=[
            f"{over} of {len(others)} policies are over the budget of a target that they were not "
            "searched for; '-': that hardware cannot run the policy.",
        ],
    )


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
