"""`quantize`: the bits of a network for a device, from images without labels, and the file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from benchmarks.calls.ground import computing_on
from benchmarks.deploy.exported import export, request_of
from benchmarks.deploy.latency import priced
from benchmarks.deploy.outcome import Exported, Likeness, Quantized, chosen_because, described, rank
from benchmarks.deploy.picture import picture
from benchmarks.deploy.trying import Bench
from benchmarks.deploy.wanted import Wanted
from benchmarks.records.store import write_json, write_text
from benchmarks.report.pictures.plot import namespaced
from benchmarks.suite.assets import Progress
from benchmarks.suite.cell import Run
from benchmarks.suite.setting import setting_of
from frameworks import Policy, describe


def quantize(
    model: str | nn.Module,
    images: str | os.PathLike[str] | Tensor,
    out: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    target: str = "size",
    table: str | os.PathLike[str] | None = None,
    metric: str | None = None,
    like: float | None = None,
    ratio: float | None = None,
    limit: float | None = None,
    max_drop: float | None = None,
    method: str | None = None,
    protocol: str = "ptq",
    objective: str = "kl",
    bits: Sequence[int] | None = None,
    classes: int | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: Progress = lambda done, total, text: None,
) -> Quantized:
    """Choose the bits of a network's layers without labels, and write the network as ONNX.

    The method and uniform bits are tried at the budget, and of the two the one that is more like
    the float network on the images to search with is written. Images are split in three: to
    calibrate on, to search with, and to measure on, which no choice has seen.

    Args:
        model: a name of timm's, ``PATH.py:FUNCTION``, or a module in memory.
        images: a folder, flat or nested, of images without labels; for a module also a tensor
            ``[N, C, H, W]`` as the network expects it. A folder's are prepared as the weights of
            the network expect (for a module, as its ``pretrained_cfg`` says).
        out: the ONNX file. Beside it a picture (``.svg``) is written and the record (``KEY.json``),
            which ``juxtabit table`` and, for a model with a name, ``export`` read.
        weights: safetensors, or what ``torch.load`` reads with ``weights_only``; without, timm's
            published ones.
        target: what prices a policy; see ``juxtabit list targets``.
        table: a file that the target reads, such as one of ``juxtabit lut``; without, the latencies
            of ``cpu`` and ``gpu`` are measured on this machine, into ``OUT.TARGET.json``.
        metric: of the target.
        like, ratio, limit: the budget, see `frameworks.BudgetSpec`; ``like=4`` by default.
        max_drop: in place of a budget: the cheapest that loses at most so many points of agreement
            on the images to search with.
        method: a framework's name; ``layer_kl`` by default.
        protocol: ``ptq``, ``controlled`` (fine-tunes on the images to calibrate on, by the float
            network's answers) or ``paper``.
        objective: what is maximised, ``kl`` or ``agreement``; the first tells policies apart with
            few images.
        bits: candidate bits of weights and inputs.
        classes: how many the network tells apart, where its weights do not say it.
        seed: of every random draw.
        device: see `benchmarks.search`.
        progress: called with (done, total, text).

    Returns:
        what was chosen; ``str`` of it says it in about ten lines.

    Raises:
        TypeError, ValueError, OSError: a request that cannot be carried out, or images or weights
            that cannot be read; the message says why.
        RuntimeError: the file does not compute the network; it is kept as ``OUT.failed``.
    """
    wanted = Wanted(
        model,
        images if isinstance(images, Tensor) else Path(images).expanduser(),
        Path(out).expanduser(),
        None if weights is None else str(weights),
        target,
        None if table is None else str(table),
        metric, like, ratio, limit, max_drop, method, protocol, objective, bits, classes, seed,
    )  # fmt: skip
    request = request_of(wanted.out)
    with computing_on(device, "off"), tempfile.TemporaryDirectory() as scores:
        wanted = priced(wanted, progress)
        runs, asked = _tried(wanted, progress, Path(scores))
        best = runs[0]
        progress(0, 1, "writing and checking the file")
        exported = export(best, request, progress)
    return _outcome(wanted, runs, asked, exported)


def _tried(wanted: Wanted, progress: Progress, scores: Path) -> tuple[list[Run], str]:
    """Finished runs of the method and of uniform bits, the better first; the budget in words."""
    names, widest = wanted.methods, wanted.widest
    budget: dict[str, Any] | None = None if wanted.max_drop is None else widest
    cells = [wanted.cell(name, budget) for name in names]
    ground = wanted.ground(cells[0], progress)
    for cell in cells:
        setting_of(cell, describe(ground.network, ground.splits.input_shape))
    bench = Bench(ground, isinstance(wanted.model, str), progress, scores)
    asked = ""
    if wanted.max_drop is not None:
        limit = bench.least(cells[0], wanted.max_drop)
        budget = {**widest, "like": None, "limit": limit}
        cells = [wanted.cell(name, budget) for name in names]
        asked = f"the cheapest within {wanted.max_drop:g} points: "
    runs = [bench.tried(cell) for cell in cells]
    label = runs[0].budget.label
    kept = [run for run in runs if not _drops(wanted, run)] or runs[:1]
    rest = [run for run in runs if run not in kept]
    ordered = sorted(kept, key=lambda run: rank(run.record))
    return [*ordered, *rest], f"{asked}{label} on {wanted.target}"


def _drops(wanted: Wanted, run: Run) -> bool:
    """Whether a run's policy loses more than is allowed."""
    lost = 100 - (run.record.accuracy["valid"] or 0)
    return wanted.max_drop is not None and lost > wanted.max_drop


def _outcome(wanted: Wanted, runs: list[Run], asked: str, exported: Exported) -> Quantized:
    best = runs[0]
    record, out = best.record, wanted.out
    assert best.final is not None
    score = best.objective.score(best.final)
    assert score.agreement is not None
    network = Likeness(score.agreement, score.loss)
    # Records are known by their names: so `juxtabit table` and `export` read this one.
    beside = out.with_suffix(".svg"), out.with_name(f"{record.key}.json")
    title = f"{wanted.name}, {asked}: {network}"
    write_text(beside[0], namespaced(picture(best, title)))
    write_json(beside[1], record.sealed())
    lines = [
        *described(best, wanted.where, asked),
        chosen_because(runs),
        f"network: {network} with the float network, held out",
        f"the file in ONNX Runtime: {exported}",
        f"wrote {out}: {out.stat().st_size:,} bytes (float weights: "
        f"{4 * sum(p.numel() for p in best.network.parameters()):,}); {beside[0].name} (picture), "
        f"{beside[1].name} (record)",
    ]
    policy = Policy.from_json(record.policy or {})
    return Quantized(
        policy,
        record.cell["framework"]["name"],
        network,
        exported.likeness,
        exported.seconds,
        exported.floating,
        out,
        record,
        tuple(run.record for run in runs),
        tuple(lines),
    )
