"""``juxtabit export``: check what can be checked, rebuild, write, verify, compare.

Until a file has passed its check it is called NAME.failed, and one that does not pass keeps that
name: NAME is only ever given to what computes the network (or was not to be checked).
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from benchmarks.export.formats.integers import Integers
from benchmarks.export.formats.packed import load_packed, packed_tensors, save_packed
from benchmarks.export.graphs.errors import require
from benchmarks.export.rebuild import Rebuilt, draft, rebuilt
from benchmarks.fingerprints.numerics import Place, computing_in, place_named
from benchmarks.records.record import Record
from benchmarks.records.store import read_record, write_bytes
from frameworks import Split, torch_rng

if TYPE_CHECKING:
    import onnx

    from benchmarks.export.form import Form

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
    device: str | None = None

    @property
    def integers(self) -> Integers:
        """What is to run in integers."""
        if self.integer_outputs:
            return Integers.OUTPUTS
        return Integers.BIAS if self.integer_bias else Integers.NONE

    @property
    def form(self) -> Form:
        """How the network is written, where that is as ONNX."""
        from benchmarks.export.form import Form

        return Form(self.to == "qonnx", self.integers)

    @property
    def draft(self) -> Path:
        """Where the file is until it has passed its check, and stays if it does not."""
        return self.out.with_name(f"{self.out.name}.failed")


def export(request: Request) -> int:
    """Carry out a request; returns the exit code, 1 if the file does not compute what it should.

    Raises:
        ValueError: a record, network or quantizer that cannot be exported, a missing extra.
        OSError: the file cannot be written.
    """
    check_request(request)
    record = read_record(request.record)
    # Sums depend on it in their last bits, and so do ranges and what is rounded by them.
    torch.set_num_threads(record.environment.get("threads") or torch.get_num_threads())
    chosen = place_for(request, record)
    _tried(request, record)
    with computing_in(chosen):
        made = rebuilt(record, _say, request.calibration).to(torch.device("cpu"))
    for warning in made.warnings:
        print(f"note: {warning}")
    print(f"{_title(record)}: {made.accuracy:.2f} % top-1 fake-quantized")
    return 0 if written(request, record, made) else 1


def place_for(request: Request, record: Record) -> Place:
    """Where a record's network is made anew: as asked for, or where the record was, if it can be.

    Raises:
        ValueError: there is no such device here.
    """
    known = record.identity.get("numerics", {})
    amp = known.get("amp", "off")
    if request.device is not None:
        return place_named(request.device, amp)
    try:
        return place_named(known.get("device", "cpu"), amp)
    except ValueError as error:
        print(f"note: {error}: made anew on the cpu, where sums differ in their last bits")
        return place_named("cpu", amp)


def written(request: Request, record: Record, made: Rebuilt) -> bool:
    """Write a record's network as a request asks for; whether the file is right."""
    test = _part(made.splits.test, request.images)
    write = _packed if request.to == "packed" else _onnx
    return write(request, record, made, test)


def check_request(request: Request) -> None:
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


def _tried(request: Request, record: Record) -> None:
    """Find what cannot be exported on an untrained network.

    Raises:
        ValueError: the policy or its form has no file.
    """
    sketch, splits = draft(record)
    if request.to == "packed":
        packed_tensors(sketch)
        return
    images, form = splits.train.images(8), request.form
    written = form.write(sketch, splits.input_shape, images)
    if request.verify:
        form.try_on(sketch, written, images)


def _packed(request: Request, record: Record, made: Rebuilt, test: Split) -> bool:
    """Write packed weights; whether they are right."""
    count = save_packed(made.model, request.draft, made.splits.input_shape, _notes(record))
    note = f", of which {count} are the weights' bits"
    return _kept(request, note, lambda: _same(request.draft, made, test))


@torch.no_grad()
def _same(path: Path, made: Rebuilt, test: Split) -> bool:
    from benchmarks.export.checks.batches import batch_size

    again, size = load_packed(path, made.network), batch_size(made.model)
    same = all(torch.equal(made.model(x), again(x)) for x, _ in test.batches(size))
    print(f"the file gives {'the same' if same else 'OTHER'} logits on {len(test)} images")
    return same


def _onnx(request: Request, record: Record, made: Rebuilt, test: Split) -> bool:
    """Write and compare a network as ONNX; whether the file is right."""
    form = request.form
    written = form.write(made.model, made.splits.input_shape, made.problem.images)
    noted = copy.deepcopy(written.model)
    for key, value in _notes(record).items():
        noted.metadata_props.add(key=f"juxtabit.{key}", value=value)
    write_bytes(request.draft, noted.SerializeToString())
    good = _kept(request, "", lambda: form.check(request.draft, made.model, written, test))
    if request.benchmark and good:
        _compare(request, made, written.model, test)
    return good


def _kept(request: Request, note: str, check: Callable[[], bool]) -> bool:
    """Give a file its name once it has passed its check."""
    if request.verify and not check():
        print(f"{request.out} is not written: the file is wrong, and kept as {request.draft}")
        return False
    request.draft.replace(request.out)
    print(f"wrote {request.out}: {request.out.stat().st_size} bytes{note}")
    return True


def _notes(record: Record) -> dict[str, str]:
    return {
        "record": record.key,
        "cell": json.dumps(record.cell),
        "policy": json.dumps(record.policy),
    }


def _compare(request: Request, made: Rebuilt, model: onnx.ModelProto, test: Split) -> None:
    from benchmarks.export.form import Form
    from benchmarks.export.graphs.runtime import accuracy
    from benchmarks.export.latency import compare

    shape = made.splits.input_shape
    # Uniform 8 bit is given a form that ONNX Runtime runs in integers.
    eight = max(request.integers, Integers.BIAS)
    others = {"float": (32, Integers.NONE), "uniform 8 bit": (8, eight)}
    every = {
        name: Form(integers=integers).write(made.uniform(bits), shape, made.problem.images).model
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
