"""Whether an exported model computes what the suite's fake-quantized network computes.

Both run on the same images. Where logits differ by more than float arithmetic does, the codes of
every layer's input are compared, in execution order. Float sums in another order differ in their
last bits, and a value that lies between two codes may then round to the other one: a rounding tie.
An image is explained if at the first layer at which its codes differ, they do so at values that are
at most `TIE` of a step away from the middle between the two codes; what follows is the consequence.
Biases in int32 move values further (`INTEGER_TIE`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from benchmarks.export.graph import CODES
from benchmarks.export.runtime import outputs, session
from frameworks import Grid, QModel, Quantizer, Split

Array = npt.NDArray[Any]
TIE = 1e-3
"""Largest distance from a tie, in steps, that float arithmetic explains."""
INTEGER_TIE = 0.1
"""The same for biases that are rounded to units of both scales."""
LOGITS = 1e-4
"""Relative difference of logits that float arithmetic explains without any change of a code."""
BATCH = 125


@dataclass(frozen=True)
class Verdict:
    """The comparison of two networks on the same images.

    Attributes:
        images: how many.
        equal: images with the same top-1.
        accuracy: top-1 in percent of the suite's network and of the exported one.
        largest: largest difference of two logits.
        moved: images whose logits differ by more than float arithmetic explains.
        tied: those of them that rounding ties explain.
        distance: largest distance from a tie among these, in steps.
    """

    images: int
    equal: int
    accuracy: tuple[float, float]
    largest: float
    moved: int = 0
    tied: int = 0
    distance: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether every difference is explained."""
        return self.moved == self.tied

    def text(self) -> str:
        """A few lines for the terminal."""
        ours, theirs = self.accuracy
        lines = [
            f"top-1 equal on {self.equal} of {self.images} images; accuracy {theirs:.2f} % "
            f"(fake-quantized: {ours:.2f} %); largest difference of a logit {self.largest:.3g}"
        ]
        if self.tied:
            lines.append(
                f"{self.tied} images have a rounding tie: a value within {self.distance:.2g} of a "
                "step of the middle between two codes rounds to the other one"
            )
        if not self.ok:
            lines.append(f"{self.moved - self.tied} images differ for no such reason")
        return "\n".join(lines)


@torch.no_grad()
def verify(model: QModel, exported: onnx.ModelProto, split: Split, tie: float = TIE) -> Verdict:
    """Compare a quantized network with an exported model of standard operators.

    Args:
        model: the network at its policy.
        exported: the model, with the note where its codes are.
        split: the images.
        tie: largest distance from a rounding tie, in steps.
    """
    plain = session(exported)
    tracker = _Codes(model, exported)
    found: list[tuple[int, ...]] = []
    largest = distance = 0.0
    for x, y in split.batches(BATCH):
        ours, theirs = model.eval()(x).numpy(), outputs(plain, x)[0]
        difference = np.abs(ours - theirs).max(1)
        reach = LOGITS * max(1.0, float(np.abs(ours).max()))
        moved = difference > reach
        distances = tracker.distances(x[torch.from_numpy(moved)], reach) if moved.any() else []
        tied = [d for d in distances if d <= tie]
        largest, distance = max(largest, float(difference.max())), max([distance, *tied])
        tops = ours.argmax(1), theirs.argmax(1)
        found.append(
            (
                len(y),
                int((tops[0] == tops[1]).sum()),
                *(int((top == y.numpy()).sum()) for top in tops),
                int(moved.sum()),
                len(tied),
            )
        )
    images, equal, right, exported_right, many, explained = (
        sum(c) for c in zip(*found, strict=True)
    )
    accuracy = (100.0 * right / images, 100.0 * exported_right / images)
    return Verdict(images, equal, accuracy, largest, many, explained, distance)


class _Codes:
    """The codes of every layer's input in both networks."""

    def __init__(self, model: QModel, exported: onnx.ModelProto) -> None:
        self.model = model
        self.grids = {name: q.act_quantizer.uniform_grid() for name, q in model.qlayers()}
        properties = {p.key: p.value for p in exported.metadata_props}
        noted: dict[str, tuple[str, int | None]] = json.loads(properties[CODES])
        self.layers = [name for name in self.grids if name in noted]
        self.lowest = [noted[name][1] for name in self.layers]
        self.session = session(exposed(exported, [noted[name][0] for name in self.layers]))

    def distances(self, images: Tensor, reach: float) -> list[float]:
        """For each image how far from a tie its first differing codes are; inf: no tie."""
        with _inputs(self.model, self.layers) as inputs:
            ours = self.model(images).numpy()
        theirs, *codes = outputs(self.session, images)
        first = np.where(np.abs(ours - theirs).max(1) > reach, np.inf, 0.0)
        open_ = np.ones(len(images), bool)
        for name, code, lowest in zip(self.layers, codes, self.lowest, strict=True):
            grid = self.grids[name]
            assert grid is not None
            code = code.astype(np.float32)
            if lowest is None:
                code = np.round(code / np.float32(grid.step) - grid.offset) - grid.low
            quantizer = self.model.qlayer(name).act_quantizer
            each = _off(inputs[name], quantizer, grid, code - (lowest or 0) + grid.low)
            # Layers that see patches or windows as samples have several rows an image.
            each = each.reshape(len(images), -1).max(1)
            hit = open_ & (each > 0)
            first[hit], open_ = each[hit], open_ & ~hit
        return [float(d) for d in first]


def _off(x: Tensor, quantizer: Quantizer, grid: Grid, code: Array) -> Array:
    """How far values are from what rounds to the other network's code; 0 where codes are equal."""
    steps = (x / torch.tensor(grid.step, dtype=x.dtype) - grid.offset).numpy()
    code = code.reshape(steps.shape)
    ours = np.round(quantizer(x).numpy() / np.float32(grid.step) - grid.offset)
    # A value exactly on a tie still counts as one.
    off: Array = np.where(ours == code, 0.0, np.maximum(np.abs(steps - code) - 0.5, 1e-12))
    return off


@contextmanager
def _inputs(model: QModel, layers: list[str]) -> Iterator[dict[str, Tensor]]:
    """The inputs of layers (at the first call) in the forward pass that follows."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen.setdefault(name, args[0].detach().contiguous())

        return hook

    handles = [model.qlayer(name).register_forward_pre_hook(keep(name)) for name in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def exposed(exported: onnx.ModelProto, values: list[str]) -> onnx.ModelProto:
    """A copy of a model that gives some values, as float32, after its result."""
    model = onnx.ModelProto()
    model.CopyFrom(exported)
    # Layers may share their codes.
    for index, value in enumerate(values):
        name = f"{value}.seen{index}"
        model.graph.node.append(helper.make_node("Cast", [value], [name], to=TensorProto.FLOAT))
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return model
