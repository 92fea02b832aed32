"""Exported models in ONNX Runtime, on the CPU and one thread."""

from __future__ import annotations

from textwrap import shorten
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from torch import Tensor

from benchmarks.export.graphs.errors import UnsupportedExport
from benchmarks.export.graphs.trace import INPUT
from frameworks import Split

Array = npt.NDArray[Any]


def session(
    model: onnx.ModelProto, float_kernels: bool = False, as_written: bool = False
) -> onnxruntime.InferenceSession:
    """A session of a model.

    Args:
        model: a model of standard operators.
        float_kernels: fold weights to float and leave no layer to integer kernels.
        as_written: run each node by itself, as the standard has it.

    Raises:
        UnsupportedExport: ONNX Runtime does not load the model.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if as_written:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if float_kernels:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's own types are private
        raise UnsupportedExport(
            f"ONNX Runtime {onnxruntime.__version__} does not load this model: "
            f"{shorten(str(error), 300, placeholder=' ...')}"
        ) from error


def outputs(of: onnxruntime.InferenceSession, images: Tensor) -> list[Array]:
    """All results for images ``[N, C, H, W]``."""
    return [np.asarray(value) for value in of.run(None, {INPUT: images.contiguous().numpy()})]


def accuracy(model: onnx.ModelProto, split: Split, batch: int = 125) -> float:
    """Top-1 accuracy of a model in percent."""
    running = session(model)
    right = sum(
        int((outputs(running, x)[0].argmax(1) == y.numpy()).sum()) for x, y in split.batches(batch)
    )
    return 100.0 * right / len(split)
