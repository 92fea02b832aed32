"""The graph of a quantized network, with marks where its quantizers are.

torch's exporter writes the float network as ONNX; the quantizers of each layer are replaced by a
node ``juxtabit.Mark`` with the layer's index and the kind of tensor, which the writers of the
formats then replace by what they have.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor

from benchmarks.export.graphs.errors import UnsupportedExport
from frameworks import Float, QModel

DOMAIN, MARK = "juxtabit", "Mark"
WEIGHT, ACTIVATION = 0, 1
OPSET = 21
"""The first opset with 4-bit integers."""
INPUT, OUTPUT = "images", "logits"


class _Mark(Float):
    """A place in the graph."""

    def __init__(self, layer: int, kind: int) -> None:
        super().__init__()
        self.attributes: dict[str, Any] = {"layer": layer, "kind": kind}

    def forward(self, x: Tensor) -> Tensor:
        marked: Tensor = torch.onnx.ops.symbolic(
            f"{DOMAIN}::{MARK}", (x,), attrs=self.attributes, dtype=x.dtype, shape=x.shape
        )
        return marked


def traced(model: QModel, input_shape: tuple[int, ...]) -> Any:
    """The marked graph as an ``onnx.ModelProto``; the batch is of any size.

    Args:
        model: a quantized network; it is not changed.
        input_shape: shape of one sample.

    Raises:
        UnsupportedExport: torch cannot export an operator of the network.
    """
    marked = copy.deepcopy(model).eval()
    for index, (_, q) in enumerate(marked.qlayers()):
        q.use(q.bits, _Mark(index, WEIGHT), _Mark(index, ACTIVATION))
    images = torch.zeros(2, *input_shape)
    batch = torch.export.Dim("batch")
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                marked.model,
                (images,),
                dynamo=True,
                dynamic_shapes=({0: batch},),
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
    except Exception as error:  # the exporter's own types are private
        raise UnsupportedExport(f"this network cannot be exported: {_cause(error)}") from error
    assert program is not None
    return program.model_proto


def _cause(error: BaseException) -> str:
    """The innermost message, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return shorten(f"{type(error).__name__}: {error}", 300, placeholder=" ...")


@contextlib.contextmanager
def _quiet() -> Any:
    """The exporter reports its progress and the inner workings of its failures."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
