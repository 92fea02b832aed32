"""Search cost, measured: policies evaluated, images forward and backward, seconds, memory."""

from __future__ import annotations

import resource
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Spent:
    """What a search has cost so far.

    Policies and images say how much was asked for, not how fast the answer came: of an evaluation
    that was resumed from another policy's (`frameworks.core.evaluation.resume`), or left because
    the policy could not win any more (`frameworks.Evaluator.contend`), every image counts as one
    image forward, as in a plain one. Only scores that are known as a whole are free. What was saved
    shows in the seconds.
    """

    policies: int = 0
    images_forward: int = 0
    images_backward: int = 0
    seconds: float = 0.0
    peak_memory: int = 0
    """Largest resident memory of the process (of the GPU, if one is used), in bytes."""

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.policies + other.policies,
            self.images_forward + other.images_forward,
            self.images_backward + other.images_backward,
            self.seconds + other.seconds,
            max(self.peak_memory, other.peak_memory),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


class Meter:
    """Counts what the models it watches do.

    The count comes from hooks, not from the methods: every image that enters a watched model is
    one image forward, and every gradient that returns to its output is one image backward (a
    Hessian-vector product counts twice, as it costs two backward passes).
    """

    def __init__(self) -> None:
        self.policies = 0
        self.images_forward = 0
        self.images_backward = 0
        self._started = time.perf_counter()
        _reset_peak_memory()

    def __deepcopy__(self, memo: dict[int, Any]) -> Meter:
        # A copy of a watched model is watched by the same meter.
        return self

    def watch(self, model: Model) -> Model:
        """Count the passes of a model from now on; returns the model."""
        model.register_forward_hook(self._after_forward)
        return model

    def watches(self, model: nn.Module) -> bool:
        """Whether passes of the model, or of a part of it, are counted already."""
        hooks = (hook for part in model.modules() for hook in part._forward_hooks.values())
        return any(getattr(hook, "__self__", None) is self for hook in hooks)

    def _after_forward(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        count = len(args[0])
        self.images_forward += count
        if isinstance(output, Tensor) and output.requires_grad:

            def passed(gradient: Tensor) -> None:
                self.images_backward += count

            output.register_hook(passed)  # type: ignore[no-untyped-call]

    def read(self) -> Spent:
        """The cost since the meter was made."""
        return Spent(
            self.policies,
            self.images_forward,
            self.images_backward,
            time.perf_counter() - self._started,
            _peak_memory(),
        )


def _reset_peak_memory() -> None:
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _peak_memory() -> int:
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return torch.cuda.max_memory_allocated()
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
