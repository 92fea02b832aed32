"""Networks as ONNX, in the form that was asked for, and whether the file of one is right."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx.checker
import torch
from torch import Tensor

from benchmarks.export.checks.ties import INTEGER_TIE, Tolerance
from benchmarks.export.formats.integers import Integers
from benchmarks.export.formats.qdq import to_qdq
from benchmarks.export.formats.qonnx import runnable, to_qonnx
from benchmarks.export.graphs.codes import exported_layers
from benchmarks.export.graphs.errors import UnsupportedExport
from benchmarks.export.graphs.trace import traced
from benchmarks.export.outputs import altered, rounded_biases, with_quantized_outputs
from frameworks import QModel, Split


@dataclass(frozen=True)
class Written:
    """A network as ONNX.

    Attributes:
        model: what goes into the file.
        plain: the same before outputs were quantized.
    """

    model: onnx.ModelProto
    plain: onnx.ModelProto


@dataclass(frozen=True)
class Form:
    """How a network is written as ONNX.

    Attributes:
        qonnx: with Quant nodes; else with standard operators.
        integers: what of these is to run in integers.
    """

    qonnx: bool = False
    integers: Integers = Integers.NONE

    def write(self, model: QModel, shape: tuple[int, ...], images: Tensor) -> Written:
        """A quantized network in this form.

        Args:
            model: the network at its policy.
            shape: shape of one sample.
            images: what ranges of outputs are taken from, ``[N, C, H, W]``.

        Raises:
            UnsupportedExport: there is no such form of this network.
        """
        layers = exported_layers(model)
        graph = traced(model, shape)
        if self.qonnx:
            made = to_qonnx(graph, layers)
            return Written(made, made)
        plain = to_qdq(graph, layers, self.integers)
        outputs = self.integers == Integers.OUTPUTS
        made = with_quantized_outputs(plain, images) if outputs else plain
        onnx.checker.check_model(made, full_check=True)
        return Written(made, plain)

    def tolerance(self, plain: onnx.ModelProto) -> Tolerance:
        """What explains differences between a network and its file without quantized outputs."""
        if self.integers == Integers.OUTPUTS:
            return Tolerance(moved=rounded_biases(plain))
        return Tolerance(INTEGER_TIE) if self.integers == Integers.BIAS else Tolerance()

    def running(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """A model of this form as ONNX Runtime takes it."""
        return runnable(model) if self.qonnx else model

    @torch.no_grad()
    def try_on(self, model: QModel, written: Written, images: Tensor) -> None:
        """Find out on a few images ``[N, C, H, W]`` whether the form suits a network.

        Raises:
            UnsupportedExport: ONNX Runtime does not load the file, or computes something else.
        """
        from benchmarks.export.checks.forced import Forced
        from benchmarks.export.graphs.runtime import session

        session(self.running(written.model))
        plain = self.running(written.plain)
        forced = Forced(model.eval(), plain, self.tolerance(written.plain))
        forced.compare(images)
        if forced.faults:
            raise UnsupportedExport(
                "ONNX Runtime would not compute this network from its file, as an untrained one "
                f"shows; {forced.lines()[0]}"
            )

    def check(self, path: Path, model: QModel, written: Written, test: Split) -> bool:
        """Whether a file computes what its network does; says so on the terminal.

        Args:
            path: the file.
            model: the network at its policy.
            written: what the file was made from.
            test: the images.
        """
        from benchmarks.export.verify import verify

        file = onnx.load(path)
        whole = self.integers == Integers.OUTPUTS
        plain, allowed = written.plain if whole else file, self.tolerance(written.plain)
        verdict = verify(model, self.running(plain), test, allowed.tie, allowed.moved)
        print(f"{'without --integer-outputs: ' if whole else ''}{verdict.text()}")
        return verdict.ok and (not whole or _changed(model, file, plain, test))


def _changed(model: QModel, file: onnx.ModelProto, plain: onnx.ModelProto, test: Split) -> bool:
    """Whether a file with quantized outputs is the one without them, and computes what it says."""
    from benchmarks.export.change import change

    others = altered(plain, file)
    if others:
        print(f"not the same in the file, quantizers aside: {', '.join(others[:5])}")
    changed = change(model, file, test)
    print(f"with it: {changed.text()}")
    return changed.ok and not others
