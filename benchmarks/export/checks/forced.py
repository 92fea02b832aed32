"""The suite's network fed, at every layer, with what an exported network has there.

An error in one layer moves the codes of all that follow, and so do rounding ties: behind the first
tie a mere comparison of codes says nothing any more. So every layer of the suite's network gets the
exported network's own input, and what it makes of it, up to the inputs of the next layers, must be
what the exported network makes of it. Each layer's weights, scales and padding thus show at the
next layers' inputs, or in the logits, whatever the layers before it did.

Codes are compared as ONNX Runtime computes them by default. Where few codes follow a layer (behind
a pooling, say), small errors change none of them, so the values before the quantizers are compared,
too; to see these, each node is run by itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from benchmarks.export.checks.ties import Ties, Tolerance, distances
from benchmarks.export.graphs.codes import PRUNED
from benchmarks.export.graphs.graph import CODES
from benchmarks.export.graphs.runtime import outputs, session
from frameworks import Grid, QLayer, QModel

Array = npt.NDArray[Any]


class Forced:
    """Compares a network with an exported one, layer by layer.

    Args:
        model: the network at its policy, in eval mode.
        exported: the file, with the note where its codes are.
        allowed: what explains a difference.
        values: compare values before the quantizers, too, each node run by itself.

    Attributes:
        ties: what the comparison of codes has found.
        tied: images with a rounding tie.
        faults: of each layer (or ``logits``) the first difference that nothing explains.
    """

    def __init__(
        self, model: QModel, exported: onnx.ModelProto, allowed: Tolerance, values: bool = False
    ) -> None:
        self.model, self.allowed = model, allowed
        self.ties, self.tied = Ties(), 0
        self.faults: dict[str, str] = {}
        properties = {p.key: p.value for p in exported.metadata_props}
        noted: dict[str, list[tuple[str, int | None, str]]] = json.loads(properties[CODES])
        self.noted = {name: noted[name] for name, _ in model.qlayers() if name in noted}
        calls = [call for each in self.noted.values() for call in each]
        shown = [x for code, _, value in calls for x in ((code, value) if values else (code,))]
        self.shown, self.with_values = list(dict.fromkeys(shown)), values
        self.session = session(exposed(exported, self.shown), as_written=values)

    def compare(self, images: Tensor) -> None:
        """Run both on images ``[N, C, H, W]`` and add to what was found."""
        theirs, *values = outputs(self.session, images)
        self.values = dict(zip(self.shown, values, strict=True))
        self.called = dict.fromkeys(self.noted, 0)
        self.images = np.zeros(len(images), bool)
        with self._forcing():
            ours = self.model(images).numpy()
        self._real("logits", ours, theirs)
        for name, count in self.called.items():
            if count != len(self.noted[name]):
                self._fault(name, f"is called {count} times, in the file {len(self.noted[name])}")
        self.tied += int(self.images.sum())

    def lines(self) -> list[str]:
        """What nothing explains, for the terminal."""
        lines = [
            f"{name if name == 'logits' else f'layer {name}'}: {what}"
            for name, what in self.faults.items()
        ]
        if self.ties.too_many:
            lines.append(
                f"{self.ties.tied} of {self.ties.codes} codes are ties, too many for chance"
            )
        return lines

    @contextmanager
    def _forcing(self) -> Iterator[None]:
        handles = [
            self.model.qlayer(name).register_forward_pre_hook(self._hook(name))
            for name in self.noted
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, name: str) -> Any:
        def force(layer: nn.Module, args: tuple[Tensor, ...]) -> tuple[Any, ...]:
            assert isinstance(layer, QLayer)
            call, self.called[name] = self.called[name], self.called[name] + 1
            if call >= len(self.noted[name]):
                return args
            code, lowest, value = self.noted[name][call]
            found, x = self.values[code], args[0]
            if found.size != x.numel():
                self._fault(name, f"has an input of {found.size} values, not {x.numel()}")
                return args
            if self.with_values:
                self._value(name, layer, x.numpy(), self.values[value].reshape(x.shape))
            return self._input(name, layer, x, found.reshape(x.shape), lowest), *args[1:]

        return force

    def _input(
        self, name: str, layer: QLayer, x: Tensor, value: Array, lowest: int | None
    ) -> Tensor:
        """Compare one input; returns the exported network's."""
        grid = layer.act_quantizer.uniform_grid()
        if grid is None:
            if layer.bits.act != PRUNED:
                self._real(name, x.numpy(), value)
            return torch.from_numpy(value).to(x)
        step = np.float32(grid.step)
        code = value + np.float32(grid.low - (lowest or 0))
        if lowest is None:
            # Of a file with real numbers these must lie on the grid.
            level = value / step - np.float32(grid.offset)
            code = np.round(level)
            self._wrong(name, np.abs(level - code) > Tolerance().steps(level), "is off the grid")
        self._codes(name, x.numpy() / step - np.float32(grid.offset), code, grid)
        real = step * (code + np.float32(grid.offset))
        return torch.from_numpy(real).to(x)

    def _value(self, name: str, layer: QLayer, ours: Array, theirs: Array) -> None:
        """Compare an input before its quantizer, as far as that leaves it."""
        grid = layer.act_quantizer.uniform_grid()
        if grid is not None:
            # What the grid clips anyway the file need not have clipped before.
            inside, other = (np.clip(x, *shared_ends(ours, grid)) for x in (ours, theirs))
            self._real(name, inside, other, self.allowed.clipped(ours, inside, grid.step))
        elif layer.bits.act != PRUNED:
            self._real(name, ours, theirs)

    def _codes(self, name: str, steps: Array, code: Array, grid: Grid) -> None:
        off = distances(steps, code, grid.low, grid.high)
        wrong = self.ties.add(off, self.allowed.steps(steps, grid.step))
        # Layers that see patches or windows as samples have several rows an image; what does not
        # depend on the images (a table of positions) has none, and is that of all.
        count = len(self.images)
        rows = off.reshape(count if off.size % count == 0 else 1, -1)
        self.images |= (rows >= 0).any(1)
        self._wrong(name, wrong, "has other codes than rounding explains")

    def _real(self, name: str, ours: Array, theirs: Array, most: float | None = None) -> None:
        if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
            self._fault(name, "has values that are not finite")
            return
        wrong = np.abs(ours - theirs) > (self.allowed.real(ours) if most is None else most)
        self._wrong(name, wrong, "differs by more than float arithmetic")

    def _wrong(self, name: str, wrong: Array, what: str) -> None:
        if wrong.any():
            self._fault(name, f"{what} ({int(wrong.sum())} of {wrong.size} values)")

    def _fault(self, name: str, what: str) -> None:
        self.faults.setdefault(name, what)


def shared_ends(values: Array, grid: Grid) -> tuple[float, float]:
    """Between which values of another network count as other than these.

    A ReLU6 may end within the outermost code (at 6 where the grid ends at 6.006): beyond it there
    is no other code, so that a file whose quantizer clips has none before it.
    """
    low, high = (float(grid.step * (code + grid.offset)) for code in (grid.low, grid.high))
    half = grid.step / 2
    least, most = float(values.min()), float(values.max())
    return (
        least if low < least <= low + half else low,
        most if high - half <= most < high else high,
    )


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
