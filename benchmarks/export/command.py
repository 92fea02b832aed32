"""``juxtabit export``: check what can be checked, rebuild, write, verify, compare."""

from __future__ import annotations

import copy
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from benchmarks.export.codes import exported_layers
from benchmarks.export.errors import require
from benchmarks.export.integers import Integers
from benchmarks.export.packed import load_packed, packed_tensors, save_packed
from benchmarks.export.rebuild import Rebuilt, draft, rebuilt
from benchmarks.record import Record
from benchmarks.store import read_record, write_bytes
from frameworks import QModel, Split, torch_rng

if TYPE_CHECKING:
    import onnx

WARM_BATCH = 1
"""Latency is that of one image, as on a device."""


@dataclass(frozen=True)
class Request:
    """What the command was asked for; see its help."""

    record: Path
    to: Literal["onnx", "qonnx", "packed"]
    out: Path
    calibration: int | None = None
    integer_bias: bool = False
    integer_outputs: bool = False
    verify: bool = True
    images: int | None = None
    benchmark: bool = False

    @property
    def integers(self) -> Integers:
        """What is to run in integers."""
        if self.integer_outputs:
            return Integers.OUTPUTS
        return Integers.BIAS if self.integer_bias else Integers.NONE


def export(request: Request) -> int:
    """Carry out a request; returns the exit code, 1 if the file does not compute what it should.

    Raises:
        ValueError: a record, network or quantizer that cannot be exported, a missing extra.
        OSError: the file cannot be written.
    """
    _check(request)
    record = read_record(request.record)
    # Sums depend on it in their last bits, and so do ranges and what is rounded by them.
    torch.set_num_threads(record.environment.get("threads") or torch.get_num_threads())
    sketch, splits = draft(record)
    # Whatever cannot be exported is found on an untrained network.
    _made(request, sketch, splits.input_shape, splits.train.images(8))
    made = rebuilt(record, _say, request.calibration)
    for warning in made.warnings:
        print(f"note: {warning}")
    print(f"{_title(record)}: {made.accuracy:.2f} % top-1 fake-quantized")
    model = _write(request, record, made)
    test = _part(made.splits.test, request.images)
    failed = request.verify and not _verified(request, made, model, test)
    if request.benchmark:
        assert model is not None
        _compare(request, made, model, test)
    return 1 if failed else 0


def _check(request: Request) -> None:
    """What is wrong with a request, before any work.

    Raises:
        ValueError: options that do not go together, or a missing extra.
        OSError: the file cannot be written.
    """
    if request.to != "onnx" and (request.benchmark or request.integers):
        raise ValueError("--benchmark, --integer-bias and --integer-outputs are for --to onnx")
    if request.to != "packed":
        running = request.verify or request.benchmark
        require("onnx", "onnxscript", *(["onnxruntime"] if running else []))
    if request.out.is_dir():
        raise IsADirectoryError(f"--out {request.out}: is a folder")
    folder = request.out.resolve().parent
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"--out {request.out}: cannot be written ({error.strerror})") from error


def _title(record: Record) -> str:
    cell, bits = record.cell, record.bits
    return (
        f"{cell['framework']['name']} on {cell['model']['name']}, {cell['dataset']['name']} "
        f"({cell['protocol']['name']}, {record.budget.get('label')}, "
        f"W{bits.get('weight', 0):.2f} A{bits.get('act', 0):.2f})"
    )


def _say(done: int, total: int, text: str) -> None:
    if done == 0:
        print(f"{text} ...", flush=True)


def _part(split: Split, count: int | None) -> Split:
    return split if count is None else split.subset(count, torch_rng(0, "verify"))


def _made(
    request: Request, model: QModel, shape: tuple[int, ...], images: Tensor
) -> onnx.ModelProto | None:
    """The model in ONNX or QONNX; for packed weights only the check that there are any.

    Args:
        request: what the command was asked for.
        model: the quantized network.
        shape: shape of one sample.
        images: for the ranges of outputs.
    """
    if request.to == "packed":
        packed_tensors(model)
        return None
    if request.to == "qonnx":
        layers = exported_layers(model)
        from benchmarks.export.qonnx import to_qonnx
        from benchmarks.export.trace import traced

        return to_qonnx(traced(model, shape), layers)
    return _qdq(model, shape, request.integers, images)


def _qdq(
    model: QModel, shape: tuple[int, ...], integers: Integers, images: Tensor
) -> onnx.ModelProto:
    layers = exported_layers(model)
    from benchmarks.export.outputs import with_quantized_outputs
    from benchmarks.export.qdq import to_qdq
    from benchmarks.export.trace import traced

    made = to_qdq(traced(model, shape), layers, integers)
    return with_quantized_outputs(made, images) if integers == Integers.OUTPUTS else made


def _write(request: Request, record: Record, made: Rebuilt) -> onnx.ModelProto | None:
    """Write the file; returns the model if it is ONNX."""
    shape, notes = made.splits.input_shape, _notes(record)
    if request.to == "packed":
        count = save_packed(made.model, request.out, shape, notes)
        size = request.out.stat().st_size
        print(f"wrote {request.out}: {size} bytes, of which {count} are the weights' bits")
        return None
    model = _made(request, made.model, shape, made.problem.images)
    assert model is not None
    _check_model(request, model)
    written = copy.deepcopy(model)
    for key, value in notes.items():
        written.metadata_props.add(key=f"juxtabit.{key}", value=value)
    write_bytes(request.out, written.SerializeToString())
    print(f"wrote {request.out}: {request.out.stat().st_size} bytes")
    return model


def _check_model(request: Request, model: onnx.ModelProto) -> None:
    import onnx.checker

    if request.to == "onnx":
        onnx.checker.check_model(model, full_check=True)


def _notes(record: Record) -> dict[str, str]:
    return {
        "record": record.key,
        "cell": json.dumps(record.cell),
        "policy": json.dumps(record.policy),
    }


def _verified(request: Request, made: Rebuilt, model: onnx.ModelProto | None, test: Split) -> bool:
    if model is None:
        again = load_packed(request.out, made.network)
        with torch.no_grad():
            same = all(torch.equal(made.model(x), again(x)) for x, _ in test.batches(125))
        print(f"the file gives {'the same' if same else 'OTHER'} logits on {len(test)} images")
        return same
    from benchmarks.export.verify import INTEGER_TIE, TIE, verify

    if request.to == "qonnx":
        from benchmarks.export.qonnx import runnable

        model = runnable(model)
    tie = INTEGER_TIE if request.integers == Integers.BIAS else TIE
    if request.integers != Integers.OUTPUTS:
        verdict = verify(made.model, model, test, tie)
        print(verdict.text())
        return verdict.ok
    from benchmarks.export.change import change

    shape, images = made.splits.input_shape, made.problem.images
    exact = verify(made.model, _qdq(made.model, shape, Integers.NONE, images), test, tie)
    print(f"without --integer-outputs: {exact.text()}")
    changed = change(made.model, model, test)
    print(f"with it: {changed.text()}")
    return exact.ok and changed.ok


def _compare(request: Request, made: Rebuilt, model: onnx.ModelProto, test: Split) -> None:
    from benchmarks.export.latency import compare
    from benchmarks.export.runtime import accuracy

    shape = made.splits.input_shape
    # Uniform 8 bit is given a form that ONNX Runtime runs in integers.
    eight = max(request.integers, Integers.BIAS)
    others = {"float": (32, Integers.NONE), "uniform 8 bit": (8, eight)}
    every = {
        name: _qdq(made.uniform(bits), shape, integers, made.problem.images)
        for name, (bits, integers) in others.items()
    }
    every["this policy"] = model
    timings = compare(every, test.images(WARM_BATCH))
    base = timings["float"].best
    print(f"{'':<14} {'top-1 %':>8} {'bytes':>9} {'us':>7} {'us, float kernels':>18} {'ratio':>6}")
    for name, t in timings.items():
        print(
            f"{name:<14} {accuracy(every[name], test):>8.2f} {t.size:>9} {1e6 * t.default:>7.0f} "
            f"{1e6 * t.floating:>18.0f} {t.best / base:>6.2f}"
        )
    print("latency of one image, one thread, median of interleaved runs; ratio of the faster to")
    print("that of float")
