"""What quantized outputs change, and whether integers compute what the file says.

The file is no longer the suite's network, so that its top-1 may be another on some images; that is
counted, and not explained away. What must hold is

- that the file is the one without these quantizers, which `benchmarks.export.verify` checks, plus
  quantizers (`benchmarks.export.outputs`);
- that ONNX Runtime's integer kernels compute it: it is run a second time with each node by itself,
  in float, as the standard has it, and every quantizer there gets the codes of the integers as its
  result (as in `benchmarks.export.checks.forced`), so that each step shows by itself.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from benchmarks.export.checks.agreement import Agreement
from benchmarks.export.checks.batches import batch_size
from benchmarks.export.checks.forced import exposed
from benchmarks.export.checks.ties import TIE, Ties, Tolerance, distances
from benchmarks.export.graphs.graph import CODES
from benchmarks.export.graphs.runtime import outputs, session
from benchmarks.export.graphs.trace import INPUT
from frameworks import QModel, Split

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Change(Agreement):
    """A network and its file with quantized outputs, on the same images.

    Attributes:
        tied: codes at which the file's integers and its float arithmetic differ by rounding ties.
        faults: where they differ otherwise, a line each.
    """

    tied: int
    faults: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether the integers compute what the file says."""
        return not self.faults

    def text(self) -> str:
        """A few lines for the terminal."""
        lines = [
            self.summary(),
            "what differs is the price of the outputs in 8 bits, which are not the policy's",
        ]
        if self.tied:
            lines.append(f"rounding ties between its integers and float: {self.tied} codes")
        if self.faults:
            lines.append("the integers are not what the file says:")
        return "\n".join([*lines, *self.faults])


@torch.no_grad()
def change(model: QModel, exported: onnx.ModelProto, split: Split, tie: float = TIE) -> Change:
    """Compare a quantized network with a file of it whose outputs are quantized, too.

    Args:
        model: the network at its policy.
        exported: the file.
        split: the images.
        tie: largest distance from a rounding tie, in steps.

    Raises:
        UnsupportedExport: ONNX Runtime does not load the file.
    """
    twice = Twice(exported, Tolerance(tie))
    parts = []
    for x, y in split.batches(batch_size(model)):
        parts.append((model.eval()(x).numpy(), twice.compare(x), y.numpy()))
    ours, theirs, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    faults = [f"value {name}: {what}" for name, what in twice.faults.items()]
    if not np.isfinite(ours).all() or not np.isfinite(theirs).all():
        faults.append("the logits: some are not finite")
    if twice.ties.too_many:
        faults.append(f"{twice.ties.tied} codes are ties, too many for chance")
    return Change.of(ours, theirs, labels, tied=twice.ties.tied, faults=tuple(faults))


class Twice:
    """A file's quantizers in integers and in float.

    Args:
        model: the file.
        allowed: what explains a difference.
    """

    def __init__(self, model: onnx.ModelProto, allowed: Tolerance) -> None:
        self.allowed, self.ties = allowed, Ties()
        self.faults: dict[str, str] = {}
        self.constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self.nodes = quantizers(model)
        self.whole = session(exposed(model, [node.output[0] for node in self.nodes]))
        self.steps = session(_cut(model, self.nodes), as_written=True)

    def compare(self, images: Tensor) -> Array:
        """Run both on images ``[N, C, H, W]``; returns the logits of the integers."""
        logits, *codes = outputs(self.whole, images)
        given = {INPUT: images.contiguous().numpy()}
        for node, code in zip(self.nodes, codes, strict=True):
            given[_given(node)] = code.astype(self._grid(node)[1].dtype)
        ours, *values = self.steps.run(None, given)
        for node, value, code in zip(self.nodes, values, codes, strict=True):
            self._compare(node, value, code)
        wrong = ~(np.abs(ours - logits) <= self.allowed.real(ours))
        self._note("logits", wrong)
        return logits

    def _grid(self, node: onnx.NodeProto) -> tuple[Array, Array]:
        """Scale and zero point; of a grid that is spelled out there are none."""
        if node.op_type == "Round":
            return np.ones((), np.float32), np.zeros((), np.float32)
        return self.constants[node.input[1]], self.constants[node.input[2]]

    def _compare(self, node: onnx.NodeProto, value: Array, code: Array) -> None:
        scale, point = self._grid(node)
        # QuantizeLinear adds the zero point after it has rounded.
        zero = float(point)
        low, high = -np.inf, np.inf
        if node.op_type != "Round":
            low, high = -zero, np.iinfo(point.dtype).max - zero
        steps = value / scale
        off = distances(steps, code - np.float32(zero), low, high)
        self._note(node.input[0], self.ties.add(off, self.allowed.steps(steps)))

    def _note(self, name: str, wrong: Array) -> None:
        if wrong.any():
            self.faults.setdefault(name, f"{int(wrong.sum())} of {wrong.size} differ")


def quantizers(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes that round activations, also those of grids that are spelled out."""
    properties = {p.key: p.value for p in model.metadata_props}
    noted = {value for calls in json.loads(properties[CODES]).values() for value, _, _ in calls}
    return [
        node
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" or (node.op_type == "Round" and node.output[0] in noted)
    ]


def _given(node: onnx.NodeProto) -> str:
    return f"{node.output[0]}.given"


def _cut(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    """A model in which all that reads a quantizer's result reads an input in its place.

    After the logits it gives what the quantizers would round.
    """
    cut = exposed(model, [node.input[0] for node in nodes])
    kinds = {t.name: t.data_type for t in cut.graph.initializer}
    names = {node.output[0]: _given(node) for node in nodes}
    for node in cut.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)
    for node in nodes:
        kind = TensorProto.FLOAT if node.op_type == "Round" else kinds[node.input[2]]
        cut.graph.input.append(helper.make_tensor_value_info(_given(node), kind, None))
    return cut
