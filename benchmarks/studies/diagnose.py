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
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.records.store import write_json, write_text
from benchmarks.report.pictures.plot import clipped, namespaced, number, svg, text
from benchmarks.suite.assets import entry_text, layers_of
from benchmarks.suite.cell import Run
from benchmarks.suite.setting import check, setting_of
from frameworks import Policy, Problem

FLOAT = 32
KINDS: tuple[Literal["weight", "act"], ...] = ("weight", "act")
ROW, CELL, LEFT, TOP = 20, 54, 190, 62
"""Sizes of the picture, in pixels."""
NARROWEST, GAP = 150, 24
"""Width of a map at least, so that its title fits, and what lies between two, in pixels."""
HUE = (178, 60, 23)
"""The colour of a layer that has lost all."""
CLEAR = 40.0
"""A signal that is white in the picture, in dB: about that of 8 bit."""
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
    """The findings of a cell's network, data and protocol.

    Raises:
        ValueError, OSError: the cell is configured wrongly, or has nothing to compare; nothing has
            been trained.
    """
    check(cell)
    space = setting_of(
        cell, layers_of(entry_text(cell["model"]), entry_text(cell["dataset"]))
    ).space
    if not (_choices(space.weight_bits) or _choices(space.act_bits)):
        raise ValueError(
            "one bit width alone leaves nothing to compare: give several, as in "
            "protocol.weight_bits=[2,4,8]"
        )
    run = Run.aside(cell, progress)
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


def write(found: Sequence[Finding], title: str, folder: Path) -> None:
    """Write table, picture and data into a folder."""
    shown = f"{title}: one layer alone quantized\n{table(found)}\n"
    write_text(folder / "diagnosis.txt", shown)
    write_text(folder / "diagnosis.svg", namespaced(picture(found, title)))
    write_json(folder / "diagnosis.json", as_rows(found))


@dataclass(frozen=True)
class Map:
    """One of the picture's maps.

    Attributes:
        title: above it.
        lost: what a finding has lost of it, 0 for nothing and 1 for all.
        text: in the finding's cell.
    """

    title: str
    lost: Callable[[Finding], float]
    text: Callable[[Finding], str]


MAPS = (
    # Small losses are seen, too.
    Map(
        "agreement of top-1, %",
        lambda finding: max(1 - finding.agreement / 100, 0.0) ** 0.5,
        lambda finding: f"{finding.agreement:.1f}",
    ),
    Map(
        "signal to noise, dB",
        lambda finding: 1 - finding.signal / CLEAR,
        lambda finding: f"{finding.signal:.1f}" if math.isfinite(finding.signal) else "exact",
    ),
)


def picture(found: Sequence[Finding], title: str) -> str:
    """Maps of agreement and error (SVG): a row a layer, a column a tensor and bit width."""
    names = list(dict.fromkeys(f.layer for f in found))
    columns = sorted({(KINDS.index(f.kind), f.bits) for f in found})
    across = max(CELL * len(columns), NARROWEST) + GAP
    width, height = LEFT + across * len(MAPS), TOP + ROW * len(names) + 16
    parts = [f'<rect width="{width}" height="{height}" fill="#fff"/>', text(8, 18, title)]
    for row, name in enumerate(names):
        parts.append(text(LEFT - 8, TOP + ROW * row + 14, clipped(name, 26), anchor="end"))
    for index, shown in enumerate(MAPS):
        parts += _map(LEFT + across * index, found, shown, names, columns)
    sentence = (
        f"{title}: agreement with the float network when one layer alone is quantized, and the "
        "error of the tensor itself"
    )
    style = "<style>text{font:12px sans-serif;fill:#222}.light{fill:#fff}</style>"
    return svg(width, height, [style, *parts], sentence)


def _map(
    left: float,
    found: Sequence[Finding],
    shown: Map,
    names: Sequence[str],
    columns: Sequence[tuple[int, int]],
) -> Iterator[str]:
    yield text(left, TOP - 26, shown.title)
    for index, (kind, bits) in enumerate(columns):
        x = left + CELL * (index + 0.5)
        yield text(x, TOP - 8, f"{'WA'[kind]}{bits}", anchor="middle")
    for finding in found:
        column = columns.index((KINDS.index(finding.kind), finding.bits))
        y = TOP + ROW * names.index(finding.layer)
        yield _cell(left + CELL * column, y, shown.lost(finding), shown.text(finding))


def _cell(x: float, y: float, lost: float, label: str) -> str:
    lost = min(max(lost, 0.0), 1.0)
    colour = ",".join(f"{round(255 + lost * (end - 255))}" for end in HUE)
    box = (
        f'<rect x="{number(x)}" y="{number(y)}" width="{CELL - 2}" height="{ROW - 2}" '
        f'fill="rgb({colour})"/>'
    )
    light = "light" if lost > 0.7 else ""
    return box + text(x + CELL / 2 - 1, y + 14, label, light, "middle")
