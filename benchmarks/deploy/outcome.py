"""What was chosen, what its file computes, and how that is said in about ten lines."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.deploy.trying import searched_on
from benchmarks.records.record import Record
from benchmarks.report.numbers.format import si
from benchmarks.suite.cell import Run
from frameworks import Layer, Policy

FEW = 100
"""Images below which one more or less is a point of agreement or more."""


@dataclass(frozen=True)
class Likeness:
    """How like a network is to the float network, on the images that were held out.

    Attributes:
        agreement: images in percent with the same top-1.
        kl: mean KL(float || this) in nats.
    """

    agreement: float
    kl: float

    def __str__(self) -> str:
        return f"{self.agreement:.2f} % agreement, KL {self.kl:.4f}"


@dataclass(frozen=True)
class Exported:
    """What a file computes in ONNX Runtime, and how fast.

    Attributes:
        likeness: to the float network.
        seconds: of one image on one thread of this machine's processor.
        floating: the same of a file of the float network.
    """

    likeness: Likeness
    seconds: float
    floating: float

    def __str__(self) -> str:
        share = self.seconds / self.floating
        return (
            f"{self.likeness}, {1e3 * self.seconds:.3g} ms an image on one thread, {share:.2f} of "
            "float"
        )


@dataclass(frozen=True)
class Quantized:
    """The outcome of `benchmarks.quantize`.

    Attributes:
        policy: weight and activation bits by layer.
        method: that found it.
        network: its likeness to the float network on the held-out images.
        exported: that of the file, as ONNX Runtime computes it.
        seconds: that the file takes in ONNX Runtime for one image, on one thread of the processor.
        float_seconds: the same of the float network's file.
        path: the file; the picture (``.svg``) and the record (``KEY.json``) lie beside it.
        record: all that was measured.
        rivals: the records of the methods that were tried, the chosen one first.
    """

    policy: Policy
    method: str
    network: Likeness
    exported: Likeness
    seconds: float
    float_seconds: float
    path: Path
    record: Record = field(repr=False)
    rivals: tuple[Record, ...] = field(repr=False)
    lines: tuple[str, ...] = field(repr=False)

    def __str__(self) -> str:
        return "\n".join(self.lines)


def described(run: Run, where: str, asked: str) -> list[str]:
    """Lines on the network, the images, the budget and the bits of a finished run."""
    record, layers = run.record, run.setting.space.layers
    counts = [len(run.splits.train), searched_on(run), len(run.splits.test)]
    calibrated = min(counts[0], int(run.protocol["calibration_images"]))
    policy = Policy.from_json(record.policy or {})
    found = [
        f"{record.cell['model']['name']}: {len(layers)} layers, "
        f"{si(sum(layer.params for layer in layers))} weights",
        f"images: {where}: {calibrated} to calibrate, {counts[1]} to search, {counts[2]} held out"
        + (f" (one of these is {100 / counts[2]:.2g} points)" if counts[2] < FEW else ""),
        f"budget: {asked}: {_costs(record)}",
        f"bits: weights {record.bits['weight']:.2f}, inputs {record.bits['act']:.2f} on average; "
        "a digit a layer, in order (F is float, 0 left out)",
        f"  weights {strip(policy, layers, 'weight')}",
        f"  inputs  {strip(policy, layers, 'act')}",
    ]
    return found


def _costs(record: Record) -> str:
    budget, metric = record.budget, record.budget["metric"]
    cost = record.costs[metric]
    parts = [f"{metric} {si(cost)} {budget['unit']}".strip()]
    parts.append(f"{cost / budget['limit']:.1%} of the limit")
    for name, costs in (("float", record.float_costs), ("8 bit", record.int8_costs)):
        if costs.get(metric):
            parts.append(f"{cost / costs[metric]:.1%} of {name}")
    return ", ".join(parts)


def strip(policy: Policy, layers: tuple[Layer, ...], kind: str) -> str:
    """A letter a layer: its bits, F for 32; ~ where channels differ."""
    letters = {16: "H", 32: "F"}
    found = []
    for layer in layers:
        entry = policy[layer.name]
        bits = entry.weight if kind == "weight" else entry.act
        found.append(letters.get(bits, str(bits)) if isinstance(bits, int) else "~")
    return "".join(found)


def chosen_because(runs: list[Run]) -> str:
    """Why the first of some finished runs was taken."""
    texts = [f"{r.record.cell['framework']['name']} {_searched(r.record)}" for r in runs]
    tried = f"chosen: {texts[0]}"
    if len(texts) > 1:
        tried += f", beside {', '.join(texts[1:])}"
    return f"{tried} (on the images to search with)"


def _searched(record: Record) -> str:
    kl, agreement = record.accuracy.get("valid_kl"), record.accuracy["valid"]
    return f"{agreement:.2f} %" if kl is None else f"KL {kl:.4f}"


def rank(record: Record) -> tuple[bool, float, float]:
    """Sorts records: within the budget, the most alike, then the cheapest, first."""
    kl, agreement = record.accuracy.get("valid_kl"), record.accuracy["valid"] or 0.0
    cost = record.costs[record.budget["metric"]]
    return not record.budget["within"], -agreement if kl is None else kl, cost
