"""Whether an exported model computes what the suite's fake-quantized network computes.

Both run on the same images. Layer by layer, on the exported network's inputs
(`benchmarks.export.checks.forced`), every code must be the same but for rounding ties
(`benchmarks.export.checks.ties`), and logits must agree within float arithmetic. The two are run
apart from each other, too, and must agree as far as ties let them
(`benchmarks.export.checks.agreement`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from benchmarks.export.checks.agreement import Agreement
from benchmarks.export.checks.batches import batch_size
from benchmarks.export.checks.forced import Forced
from benchmarks.export.checks.ties import TIE, Tolerance
from benchmarks.export.graphs.runtime import outputs, session
from frameworks import QModel, Split

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Verdict(Agreement):
    """The comparison of two networks on the same images.

    Attributes:
        tied: images with a rounding tie in some layer.
        distance: largest distance from a tie among these, in steps.
        faults: what ties do not explain, a line each, with the layer.
    """

    tied: int
    distance: float
    faults: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether every difference is explained."""
        return not self.faults and not self.beyond()

    def text(self) -> str:
        """A few lines for the terminal."""
        lines = [self.summary()]
        if self.tied:
            lines.append(
                f"{self.tied} images have a rounding tie: a value within {self.distance:.2g} of a "
                "step of the middle between two codes rounds to the other one"
            )
        return "\n".join([*lines, *self.faults, *self.beyond()])


@torch.no_grad()
def verify(
    model: QModel, exported: onnx.ModelProto, split: Split, tie: float = TIE, moved: float = 0.0
) -> Verdict:
    """Compare a quantized network with an exported model of standard operators.

    Args:
        model: the network at its policy.
        exported: the model, with the note where its codes are.
        split: the images.
        tie: largest distance from a rounding tie, in steps.
        moved: by how much rounded biases may move values.

    Raises:
        UnsupportedExport: ONNX Runtime does not load the model.
    """
    plain, allowed = session(exported), Tolerance(tie, moved)
    forced, values = (Forced(model.eval(), exported, allowed, real) for real in (False, True))
    parts: list[tuple[Array, Array, Array]] = []
    for x, y in split.batches(batch_size(model)):
        forced.compare(x)
        if not parts:
            values.compare(x)
        parts.append((model(x).numpy(), outputs(plain, x)[0], y.numpy()))
    ours, theirs, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Verdict.of(
        ours,
        theirs,
        labels,
        tied=forced.tied,
        distance=forced.ties.distance,
        faults=tuple(dict.fromkeys([*forced.lines(), *values.lines()])),
    )
