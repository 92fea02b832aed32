"""The file of a chosen policy: written, checked, and run in ONNX Runtime."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from pathlib import Path

import onnx
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.deploy.outcome import Exported, Likeness
from benchmarks.export.checks.batches import batch_size
from benchmarks.export.command import WARM_BATCH, Request, check_request, written
from benchmarks.export.form import Form
from benchmarks.export.graphs.runtime import outputs, session
from benchmarks.export.latency import compare
from benchmarks.export.rebuild import Rebuilt
from benchmarks.suite.assets import Progress
from benchmarks.suite.cell import Run
from frameworks import Split


def request_of(out: Path) -> Request:
    """A request for an ONNX file.

    Raises:
        ValueError: an extra is missing.
        OSError: the file cannot be written.
    """
    request = Request(record=Path(), to="onnx", out=out)
    check_request(request)
    return request


def export(run: Run, request: Request, progress: Progress) -> Exported:
    """Write a finished run's network, and measure the file on the held-out images.

    Raises:
        RuntimeError: the file does not compute the network.
        ValueError: the network has no such file.
    """
    assert run.final is not None
    assert run.judged is not None
    cpu, splits = torch.device("cpu"), replace(run.splits, test=run.objective.test)
    made = Rebuilt(run.final, run.network, run.judged, splits, 0.0, ()).to(cpu)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        good = written(request, run.record, made)
    if not good:
        raise RuntimeError(
            f"{request.out}: the file does not compute the network\n{said.getvalue()}"
        )
    file, scored = onnx.load(request.out), run.objective.scored.to(cpu)
    progress(0, 1, "timing the file beside the float network's")
    seconds = timed(file, made, scored)
    return Exported(likeness(file, scored, batch_size(made.model)), *seconds)


def timed(file: onnx.ModelProto, made: Rebuilt, images: Split) -> tuple[float, float]:
    """Seconds of a file and of the float network's for one image, as ``export --benchmark``'s."""
    floating = Form().write(made.uniform(32), made.splits.input_shape, made.problem.images).model
    found = compare({"file": file, "float": floating}, images.images(WARM_BATCH))
    return found["file"].best, found["float"].best


def likeness(model: onnx.ModelProto, split: Split, size: int) -> Likeness:
    """How like a file's answers are to shares ``[B, classes]``, in ONNX Runtime."""
    running, same, apart = session(model), 0, 0.0
    for x, shares in split.batches(size):
        logits = torch.from_numpy(outputs(running, x)[0])
        same += int((logits.argmax(1) == shares.argmax(1)).sum())
        apart += _divergence(shares, logits)
    return Likeness(100 * same / len(split), apart / len(split))


def _divergence(shares: Tensor, logits: Tensor) -> float:
    each = functional.kl_div(functional.log_softmax(logits, 1), shares, reduction="none")
    return float(each.sum(1).clamp_min(0).sum())
