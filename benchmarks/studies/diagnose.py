"""Where a network suffers from few bits, layer by layer: ``juxtabit diagnose``.

Each layer's weights, and each layer's input activations, alone are quantized to each of the
candidate bits; all else stays float. Two things are told of each:

- the **error** of the tensor itself, as signal to quantization noise in dB,
  ``10 log10(sum x^2 / sum (Q(x) - x)^2)``: about 6 dB a bit where a uniform grid fits, much less
  where outliers or a bad range waste it;
- the **agreement** of the network's top-1 with that of the float network on search-validation
  images, in percent, with BatchNorm corrected as the protocol says, and the KL divergence of its
  outputs from the float network's.

A layer with a good signal and a bad agreement is sensitive; one with a bad signal has a range that
does not fit it. Nothing is trained, and labels are not used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.report.pictures.plot import clipped, number, svg, text
from benchmarks.suite.cell import Run
from frameworks import Policy, Problem

FLOAT = 32
KINDS: tuple[Literal["weight", "act"], ...] = ("weight", "act")
ROW, CELL, LEFT, TOP = 20, 54, 190, 62
"""Sizes of the picture, in pixels."""
HUE = (178, 60, 23)
"""The colour of a layer that agrees with the float network no better than by chance."""
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Finding:
    """One layer with one of its tensors quantized.

    Attributes:
        layer: its name.
        kind: ``weight`` or ``act`` (the layer's input).
        bits: to which it was quantized.
        signal: to noise of the tensor, in dB; infinite where nothing is lost.
        agreement: of the network's top-1 with the float network's, in percent.
        divergence: KL divergence of its outputs from the float network's, in nats.
    """

    layer: str
    kind: Literal["weight", "act"]
    bits: int
    signal: float
    agreement: float
    divergence: float


def diagnose(problem: Problem, progress: Progress = lambda *_: None) -> list[Finding]:
    """Findings of every layer, tensor and bit width, in execution order.

    Args:
        problem: with calibration and search-validation images; its space has the candidates.
        progress: called with (done, total, text).
    """
    space, whole = problem.space, Policy.uniform(problem.layers, FLOAT, FLOAT)
    choices = {"weight": _choices(space.weight_bits), "act": _choices(space.act_bits)}
    wanted = [
        (layer.name, kind, bits)
        for layer in problem.layers
        for kind in KINDS
        for bits in choices[kind]
    ]
    reference = list(_outputs(problem, whole))
    calibration, found = problem.observe(), list[Finding]()
    for done, (name, kind, bits) in enumerate(wanted):
        progress(done, len(wanted), f"{name}, {kind} {bits} bit")
        if kind == "weight":
            tensor, policy = _weight(problem, name), whole.replace(name, weight=bits)
        else:
            tensor, policy = calibration.samples[name], whole.replace(name, act=bits)
        quantized = problem.quantizer(name, kind, bits)(tensor)
        agreement, divergence = _compared(reference, _outputs(problem, policy))
        found.append(Finding(name, kind, bits, signal(tensor, quantized), agreement, divergence))
    return found


def _choices(table: Mapping[str, Sequence[int]]) -> list[int]:
    """All bit widths that layers may have, pinned ones too; none where there is but one."""
    every = sorted({bits for candidates in table.values() for bits in candidates} - {FLOAT})
    return every if len(every) > 1 else []


def signal(tensor: Tensor, quantized: Tensor) -> float:
    """Signal to quantization noise in dB."""
    noise = float((quantized - tensor).double().square().sum())
    power = float(tensor.double().square().sum())
    return math.inf if noise == 0 else 10 * math.log10(max(power, 1e-300) / noise)


def _weight(problem: Problem, name: str) -> Tensor:
    weight = problem.network.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    return weight.detach()


@torch.inference_mode()
def _outputs(problem: Problem, policy: Policy) -> Iterator[Tensor]:
    """Logits of the search-validation images at a policy, batch by batch."""
    model = problem.evaluator().apply(policy)
    for x, _ in problem.valid.batches(256):
        yield model(x).float()


def _compared(reference: Sequence[Tensor], outputs: Iterator[Tensor]) -> tuple[float, float]:
    """Agreement in percent and mean KL divergence."""
    same, divergence, count = 0, 0.0, 0
    for before, after in zip(reference, outputs, strict=True):
        same += int((before.argmax(1) == after.argmax(1)).sum())
        logs = functional.log_softmax(before, 1), functional.log_softmax(after, 1)
        divergence += float(functional.kl_div(logs[1], logs[0], log_target=True, reduction="sum"))
        count += len(before)
    return 100 * same / count, divergence / count


def diagnosed(cell: dict[str, Any], progress: Progress = lambda *_: None) -> list[Finding]:
    """The findings of a cell's network, data and protocol."""
    from benchmarks.records.record import Record

    run = Run(cell, Record(key="", cell=cell, status="failed"), progress, None)
    return diagnose(run.problem(), progress)


# --- what is shown -------------------------------------------------------------------------


def as_rows(found: Sequence[Finding]) -> list[dict[str, Any]]:
    """Plain data, one row a finding; a signal without noise is null."""
    rows = [asdict(finding) for finding in found]
    return [{**r, "signal": r["signal"] if math.isfinite(r["signal"]) else None} for r in rows]


def table(found: Sequence[Finding]) -> str:
    """The findings as text: for each layer and tensor, signal and agreement at each bit width."""
    lines = []
    for kind in KINDS:
        part = {(f.layer, f.bits): f for f in found if f.kind == kind}
        if not part:
            continue
        bits = sorted({bits for _, bits in part})
        names = list(dict.fromkeys(layer for layer, _ in part))
        title = "weights" if kind == "weight" else "input activations"
        width = max(len(title), *(len(name) for name in names))
        lines += ["", f"{title:<{width}}  " + "".join(f"{b:>6} bit       " for b in bits)]
        for name in names:
            cells = (part[name, b] for b in bits)
            lines.append(
                f"{name:<{width}}  "
                + "".join(f"{c.signal:>5.1f} dB {c.agreement:>5.1f} % " for c in cells)
            )
    return "\n".join(lines[1:])


def picture(found: Sequence[Finding], title: str) -> str:
    """A map of the agreement (SVG): a row a layer, a column a tensor and bit width."""
    names = list(dict.fromkeys(f.layer for f in found))
    columns = sorted({(KINDS.index(f.kind), f.bits) for f in found})
    width = LEFT + CELL * len(columns) + 20
    height = TOP + ROW * len(names) + 16
    at = {(f.layer, KINDS.index(f.kind), f.bits): f for f in found}
    parts = [f'<rect width="{width}" height="{height}" fill="#fff"/>', text(8, 18, title)]
    for index, (kind, bits) in enumerate(columns):
        x = LEFT + CELL * (index + 0.5)
        parts.append(text(x, TOP - 8, f"{'WA'[kind]}{bits}", anchor="middle"))
    parts.append(text(8, TOP - 26, "agreement of top-1 with the float network, %"))
    for row, name in enumerate(names):
        y = TOP + ROW * row
        parts.append(text(LEFT - 8, y + 14, clipped(name, 26), anchor="end"))
        for index, (kind, bits) in enumerate(columns):
            finding = at.get((name, kind, bits))
            if finding is not None:
                parts.append(_cell(LEFT + CELL * index, y, finding))
    sentence = f"{title}: agreement with the float network when one layer alone is quantized"
    style = "<style>text{font:12px sans-serif;fill:#222}.light{fill:#fff}</style>"
    return svg(width, height, [style, *parts], sentence)


def _cell(x: float, y: float, finding: Finding) -> str:
    lost = min(max(1 - finding.agreement / 100, 0.0), 1.0) ** 0.5  # small losses are seen, too
    colour = ",".join(f"{round(255 + lost * (end - 255))}" for end in HUE)
    box = (
        f'<rect x="{number(x)}" y="{number(y)}" width="{CELL - 2}" height="{ROW - 2}" '
        f'fill="rgb({colour})"/>'
    )
    shown = text(
        x + CELL / 2 - 1,
        y + 14,
        f"{finding.agreement:.1f}",
        "light" if lost > 0.7 else "",
        "middle",
    )
    return box + shown
