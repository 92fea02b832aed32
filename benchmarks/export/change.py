"""What quantized outputs change, and whether integers compute what the file says.

The file is no longer the suite's network, so that its top-1 may be another on some images; that is
counted, and not explained away. What must hold is that ONNX Runtime's integer kernels compute the
file: it is run a second time with each node by itself, in float, as the standard has it, and the
codes of all quantizers are compared as in `benchmarks.export.verify`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from benchmarks.export.runtime import outputs, session
from benchmarks.export.verify import BATCH, LOGITS, TIE, exposed
from frameworks import QModel, Split

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Change:
    """A network and its file with quantized outputs, on the same images.

    Attributes:
        images: how many.
        equal: images with the same top-1.
        accuracy: top-1 in percent of the suite's network and of the file.
        moved: images at which the file's integers and its float arithmetic differ.
        tied: those of them that rounding ties explain.
    """

    images: int
    equal: int
    accuracy: tuple[float, float]
    moved: int
    tied: int

    @property
    def ok(self) -> bool:
        """Whether the integers compute what the file says."""
        return self.moved == self.tied

    def text(self) -> str:
        """A few lines for the terminal."""
        ours, theirs = self.accuracy
        lines = [
            f"top-1 equal on {self.equal} of {self.images} images; accuracy {theirs:.2f} % "
            f"(fake-quantized: {ours:.2f} %)",
            "what differs is the price of the outputs in 8 bits, which are not the policy's",
        ]
        if self.tied:
            lines.append(f"rounding ties between its integers and float: {self.tied} images")
        if not self.ok:
            lines.append(
                f"on {self.moved - self.tied} images the integers are not what the file says; "
                "8-bit sums saturate on x86 processors without VNNI"
            )
        return "\n".join(lines)


@torch.no_grad()
def change(model: QModel, exported: onnx.ModelProto, split: Split, tie: float = TIE) -> Change:
    """Compare a quantized network with a file of it whose outputs are quantized, too.

    Args:
        model: the network at its policy.
        exported: the file.
        split: the images.
        tie: largest distance from a rounding tie, in steps.
    """
    running, twice = session(exported), _Twice(exported)
    counts: list[tuple[int, ...]] = []
    for x, y in split.batches(BATCH):
        logits = outputs(running, x)[0]
        tops = model.eval()(x).numpy().argmax(1), logits.argmax(1)
        distances = twice.distances(x, logits)
        moved = distances > 0
        right = (int((top == y.numpy()).sum()) for top in tops)
        tied = int((moved & (distances <= tie)).sum())
        counts.append((len(y), int((tops[0] == tops[1]).sum()), *right, int(moved.sum()), tied))
    images, equal, ours, theirs, many, explained = (sum(c) for c in zip(*counts, strict=True))
    accuracy = (100.0 * ours / images, 100.0 * theirs / images)
    return Change(images, equal, accuracy, many, explained)


class _Twice:
    """A file's quantizers in integers and in float."""

    def __init__(self, model: onnx.ModelProto) -> None:
        nodes = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
        constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self.grids = [(constants[n.input[1]], constants[n.input[2]]) for n in nodes]
        self.plain = session(model, as_written=True)
        self.real = session(exposed(model, [n.input[0] for n in nodes]), as_written=True)
        self.whole = session(exposed(model, [n.output[0] for n in nodes]))

    def distances(self, images: Tensor, logits: Array) -> Array:
        """How far each image's first differing code is from a tie; 0: no difference, inf: no tie.

        Args:
            images: ``[N, C, H, W]``.
            logits: what integers give, ``[N, K]``.
        """
        ours = outputs(self.plain, images)[0]
        reach = LOGITS * max(1.0, float(np.abs(ours).max()))
        moved = np.abs(ours - logits).max(1) > reach
        found = np.where(moved, np.inf, 0.0)
        if moved.any():
            found[moved] = self._first(images[torch.from_numpy(moved)])
        return found

    def _first(self, images: Tensor) -> Array:
        values, codes = (outputs(s, images)[1:] for s in (self.real, self.whole))
        first = np.full(len(images), np.inf)
        for value, code, (scale, point) in zip(values, codes, self.grids, strict=True):
            each = _off(value, code, scale, point).reshape(len(images), -1).max(1)
            hit = np.isinf(first) & (each > 0)
            first[hit] = each[hit]
        return first


def _off(value: Array, code: Array, scale: Array, point: Array) -> Array:
    """How far values are from what rounds to a code, in steps; 0 where they round to it."""
    # QuantizeLinear adds the zero point after it has rounded.
    zero = point.astype(np.float32)
    steps, code = value / scale, code - zero
    ours = np.clip(np.round(steps), -zero, np.iinfo(point.dtype).max - zero)
    # A value exactly on a tie still counts as one.
    off: Array = np.where(ours == code, 0.0, np.maximum(np.abs(steps - code) - 0.5, 1e-12))
    return off
