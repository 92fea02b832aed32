"""Distillation: a network learns from another one's outputs beside the labels.

Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531,
section 2: with the logits v of the teacher, z of the network and a temperature T,

    loss = w T^2 KL(softmax(v / T) || softmax(z / T)) + (1 - w) CE(z, y).

The gradients of the soft targets shrink with 1 / T^2; T^2 brings them back, so that the two parts
keep their shares when T changes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from frameworks.core.networks.meter import Meter

FLOAT: Literal["float"] = "float"
"""The name of a problem's pretrained float network as a teacher."""
Teacher = nn.Module | Literal["float"]


@dataclass(frozen=True, eq=False)
class Distillation:
    """A loss with a teacher, made by `distillation`."""

    teacher: Teacher
    temperature: float
    weight: float

    def __post_init__(self) -> None:
        if not isinstance(self.teacher, nn.Module) and self.teacher != FLOAT:
            raise ValueError(f"teacher = {self.teacher!r}: give {FLOAT!r} or a torch module")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature = {self.temperature}: give a finite number above 0")
        if not 0 <= self.weight <= 1:
            raise ValueError(f"weight = {self.weight}: give a number from 0 to 1")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        taught, found = self._taught(x), model(x)
        if found.shape != taught.shape:
            raise ValueError(
                f"teacher: it gives {list(taught.shape)}, the network {list(found.shape)}: give a "
                "teacher of the same classes"
            )
        student, target = (
            functional.log_softmax(z / self.temperature, dim=1) for z in (found, taught)
        )
        apart = functional.kl_div(student, target, reduction="none", log_target=True)
        soft = apart.sum(1).mean()
        loss = self.weight * self.temperature**2 * soft
        # Of images without labels there is nothing to look at.
        if self.weight == 1:
            return loss
        return loss + (1 - self.weight) * functional.cross_entropy(found, y)

    def metered(self, meter: Meter, pretrained: Callable[[], nn.Module]) -> Distillation:
        """The same loss with a teacher that is counted, and the network that ``float`` names."""
        teacher = self.teacher if isinstance(self.teacher, nn.Module) else pretrained()
        if not meter.watches(teacher):
            # Not by a hook of its own, which would stay: it may be the problem's network.
            teacher = meter.watch(nn.Sequential(teacher))
        return replace(self, teacher=teacher)

    def on(self, device: torch.device) -> Distillation:
        """The same loss with its teacher on a device: a copy, where it lies elsewhere."""
        module = self._module
        if all(p.device == device for p in module.parameters()):
            return self
        return replace(self, teacher=copy.deepcopy(module).to(device))

    @property
    def _module(self) -> nn.Module:
        if isinstance(self.teacher, nn.Module):
            return self.teacher
        raise ValueError(
            f"teacher: {FLOAT!r} is known to problem.fine_tune and problem.train_model alone; give "
            "problem.float_model()"
        )

    @torch.no_grad()
    def _taught(self, x: Tensor) -> Tensor:
        with _in_eval_mode(self._module):
            logits: Tensor = self._module(x)
        return logits


def distillation(
    teacher: Teacher = FLOAT, temperature: float = 4.0, weight: float = 0.9
) -> Distillation:
    """A loss ``loss(model, x, y)`` by which a network learns from a teacher; formula above.

    The teacher computes in eval mode and without gradients, and is left in the modes it had. With
    soft labels ``[B, classes]`` the cross-entropy is of these.

    Args:
        teacher: a module that gives logits of the same shape ``[B, classes, ...]``, or ``float``:
            the pretrained network of the problem that trains.
        temperature: T, above 0. The larger, the more the classes that are not the first count.
        weight: w, the share of the teacher, from 0 to 1; at 1 labels are not looked at.

    Raises:
        ValueError: one of these cannot be used.
    """
    return Distillation(teacher, temperature, weight)


@contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True
