"""Layers on the processor, through ONNX Runtime."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lut.onnx_graphs import Array, graph_of, idle_graph
from benchmarks.lut.timing import Prepared, Unsupported, clocked


def missing() -> str | None:
    """Why nothing can be measured here."""
    lost = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if lost:
        return f"not installed: {' and '.join(lost)} (pip install 'juxtabit[lut]')"
    return None


def facts() -> dict[str, Any]:
    """Versions of the runtime, for the record."""
    import onnx
    import onnxruntime

    return {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}


def prepare(shape: dict[str, Any], arithmetic: str, threads: int) -> Prepared:
    """A layer in a session of its own, its input and output bound once."""
    return _session(*graph_of(shape, arithmetic), threads)


def idle(threads: int) -> Prepared:
    """A call that does nothing: what every figure contains of Python and the runtime."""
    return _session(*idle_graph(), threads)


def _session(model: bytes, x: Array, y: Array, threads: int) -> Prepared:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "layer.onnx"
        options.optimized_model_filepath = str(optimized)
        try:
            session = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the runtime has a class for each kind of refusal
            raise Unsupported(f"ONNX Runtime: {error}") from error
        operators = _operators(optimized)
    binding = session.io_binding()
    binding.bind_ortvalue_input(
        "x", onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(x))
    )
    binding.bind_ortvalue_output("y", onnxruntime.OrtValue.ortvalue_from_numpy(y))
    return Prepared(clocked(lambda: session.run_with_iobinding(binding)), operators)


def _operators(path: Path) -> tuple[str, ...]:
    import onnx

    return tuple(node.op_type for node in onnx.load(str(path)).graph.node)
