"""Training that diverges: found at the step at which it happens, so that nothing of it is kept."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, nn


def first_nonfinite(model: nn.Module) -> str | None:
    """Name of the first parameter or buffer that holds NaN or an infinite value, if there is one.

    Of buffers only running statistics must be finite: others may mask attention, or be bounds.
    """
    for name, value in model.named_parameters():
        if not value.isfinite().all():
            return name
    for name, buffer in model.named_buffers():
        running = name.endswith(("running_mean", "running_var"))
        if buffer.isnan().any() or (running and buffer.isinf().any()):
            return name
    return None


class Steps:
    """A loss that counts its steps, so that a training that diverges can say at which."""

    def __init__(
        self,
        loss: Callable[[nn.Module, Tensor, Tensor], Tensor],
        epochs: int,
        per_epoch: int,
        lr: float,
    ) -> None:
        self._loss, self._epochs, self._per_epoch, self._lr = loss, epochs, per_epoch, lr
        self._done = 0

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        value = self._loss(model, x, y)
        self._last = value.detach()
        self._done += 1
        return value

    def check(self) -> None:
        """Stop if the last loss is not finite.

        Raises:
            FloatingPointError: the message names epoch and step.
        """
        # After the optimizer's step, where the loss is read anyway.
        if not math.isfinite(value := float(self._last)):
            raise self._diverged(f"loss {value}")

    def check_weights(self, model: nn.Module) -> None:
        """Stop if a weight or buffer is not finite.

        Raises:
            FloatingPointError: the message names it, epoch and step.
        """
        # A last step may have broken them without any loss that shows it.
        if name := first_nonfinite(model):
            raise self._diverged(f"{name} is not finite")

    def _diverged(self, fault: str) -> FloatingPointError:
        epoch, step = divmod(self._done - 1, self._per_epoch)
        return FloatingPointError(
            f"training diverged in epoch {epoch + 1}: {fault} after step {step + 1} of the epoch "
            f"({epoch + 1} of {self._epochs}); train with a smaller lr than {self._lr:g}"
        )
