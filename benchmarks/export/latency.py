"""Latency of exported models beside each other, in ONNX Runtime on one thread of the CPU.

Repetitions are interleaved, so that a slow moment of the machine hits all models alike, and the
median is kept. Each model runs in two ways: as ONNX Runtime takes it by default, and with weights
folded to float and integer kernels left out; the faster one counts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from torch import Tensor

from benchmarks.export.graphs.runtime import outputs, session

REPETITIONS = 101
WARM_UP = 5


@dataclass(frozen=True)
class Timing:
    """One model's latency.

    Attributes:
        default: median seconds, as ONNX Runtime runs the file.
        floating: median seconds with float kernels.
        size: bytes of the file.
    """

    default: float
    floating: float
    size: int

    @property
    def best(self) -> float:
        """The faster of the two."""
        return min(self.default, self.floating)


def compare(
    models: Mapping[str, onnx.ModelProto], images: Tensor, repetitions: int = REPETITIONS
) -> dict[str, Timing]:
    """Time models on the same images ``[N, C, H, W]``."""
    sessions = {
        (name, folded): session(model, folded)
        for name, model in models.items()
        for folded in (False, True)
    }
    seconds: dict[tuple[str, bool], list[float]] = {key: [] for key in sessions}
    for turn in range(WARM_UP + repetitions):
        for key, each in sessions.items():
            started = time.perf_counter()
            outputs(each, images)
            if turn >= WARM_UP:
                seconds[key].append(time.perf_counter() - started)
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    return {
        name: Timing(medians[name, False], medians[name, True], model.ByteSize())
        for name, model in models.items()
    }
