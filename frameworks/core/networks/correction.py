"""Correcting BatchNorm in quantized copies of a network: one pass over a few images.

What is corrected, and why, is in `frameworks.core.networks.batchnorm`; here is how: every BatchNorm
is watched in a pass in eval mode, takes the moments of its input and sets its statistics before it
normalises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from frameworks.core.networks.batchnorm import (
    RULES,
    Moments,
    Slopes,
    Statistics,
    batchnorms,
    corrected,
)

LIMIT = 1 << 30
"""Bytes that the images of one pass may take."""
COPIES = 4
"""Of the largest input, that a pass holds at the same time: input, output and a quantizer's own."""
Seen = Callable[[int, _BatchNorm, Tensor], None]
"""Called with a BatchNorm's index, itself and its input, before it normalises."""


@contextmanager
def _watched(model: nn.Module, seen: Seen) -> Iterator[None]:
    def hook(index: int) -> Callable[[_BatchNorm, tuple[Any, ...]], None]:
        return lambda module, args: seen(index, module, args[0])

    handles = [norm.register_forward_pre_hook(hook(i)) for i, norm in enumerate(batchnorms(model))]
    try:
        model.eval()
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True, eq=False)
class Correction:
    """How BatchNorm is corrected in quantized copies of one network, over the same images.

    Attributes:
        images: ``[N, C, H, W]``.
        rule: see `RULES`; or what gives b and c.
        float_moments: of each BatchNorm's inputs in the float network, one a call.
        float_statistics: its running means and variances; quantized copies get back what they are
            corrected from.
        chunk: images that go through the network together.
    """

    images: Tensor
    rule: str | Slopes
    float_moments: tuple[tuple[Moments, ...], ...]
    float_statistics: tuple[Statistics, ...]
    chunk: int

    @property
    def at_once(self) -> bool:
        """Whether all images go through the network together, in one pass."""
        return self.chunk >= len(self.images)

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        network: nn.Module,
        images: Tensor,
        rule: str | Slopes = "control",
        limit: int = LIMIT,
    ) -> Correction:
        """The correction for quantized copies of a float network, which is left as it is.

        Args:
            network: its running statistics must be those of its own inputs; one that was trained
                in another state (quantized, or inside a super net) is re-estimated.
            images: a few training images ``[N, C, H, W]``.
            rule: see `RULES`; or what gives b and c.
            limit: bytes that the images of one pass may take; where they would take more, every
                BatchNorm needs a pass of its own (of which each ends there), with equal results.

        Raises:
            ValueError: there is no such rule.
        """
        if isinstance(rule, str) and rule not in RULES:
            raise ValueError(f"bn: {rule!r}; choose from {list(RULES)}")
        norms = list(batchnorms(network))
        stored = tuple(_statistics(norm) for norm in norms)
        if not norms or rule == "stored":
            return cls(images, rule, (), stored, len(images))
        chunk = max(1, min(len(images), limit // _bytes_per_image(network, images[:2])))
        if rule == "reestimate":
            return cls(images, rule, (), stored, chunk)
        parts = [_moments(network, part) for part in torch.split(images, chunk)]
        found = tuple(
            tuple(Moments.joined(calls) for calls in zip(*every, strict=True))
            for every in zip(*parts, strict=True)
        )
        return cls(images, rule, found, stored, chunk)

    @torch.no_grad()
    def __call__(
        self,
        model: nn.Module,
        run: Callable[[Tensor], object] | None = None,
        skips: Callable[[nn.Module], bool] = lambda module: False,
    ) -> None:
        """Correct a quantized copy of the network in place; it is left in eval mode.

        Args:
            model: the copy, at its bits.
            run: called with the images in the place of the model, where they fit one pass.
            skips: whether ``run`` passes by a BatchNorm, which then is left alone.
        """
        norms = list(batchnorms(model))
        for norm, statistics in zip(norms, self.float_statistics, strict=True):
            _set(norm, statistics)
        if not norms or self.rule == "stored":
            model.eval()
        elif self.at_once:
            self._at_once(model, run or model, skips)
        else:
            self._in_turns(model)

    def _at_once(
        self, model: nn.Module, run: Callable[[Tensor], object], skips: Callable[[nn.Module], bool]
    ) -> None:
        calls: dict[int, list[Moments]] = {}

        def seen(i: int, norm: _BatchNorm, x: Tensor) -> None:
            if not skips(norm):
                calls.setdefault(i, []).append(Moments.of(x))
                _set(norm, self._corrected(i, norm, calls[i]))

        with _watched(model, seen):
            run(self.images)

    def _in_turns(self, model: nn.Module) -> None:
        """A pass for each call of a BatchNorm in execution order, in chunks, and a whole one."""
        norms = list(batchnorms(model))
        chunks = torch.split(self.images, self.chunk)
        calls: dict[int, list[Moments]] = {}
        made: list[Statistics] = []
        while True:
            found = [self._reached(model, part, made) for part in chunks]
            parts = [part for part in found if part is not None]
            if not parts:
                return
            i = parts[0][0]
            calls.setdefault(i, []).append(Moments.joined([moments for _, moments in parts]))
            made.append(self._corrected(i, norms[i], calls[i]))

    def _reached(
        self, model: nn.Module, part: Tensor, made: Sequence[Statistics]
    ) -> tuple[int, Moments] | None:
        """The BatchNorm whose call comes after those with new statistics, and what it sees.

        None once all calls have them; the pass is then a whole one.
        """
        number = -1

        def seen(i: int, norm: _BatchNorm, x: Tensor) -> None:
            nonlocal number
            number += 1
            if number == len(made):
                raise _Reached(i, Moments.of(x))
            _set(norm, made[number])

        with _watched(model, seen):
            try:
                model(part)
            except _Reached as reached:
                return reached.index, reached.moments
        return None

    def _corrected(self, index: int, norm: _BatchNorm, calls: Sequence[Moments]) -> Statistics:
        q, stored = Moments.joined(calls), self.float_statistics[index]
        slopes = RULES[self.rule] if isinstance(self.rule, str) else self.rule
        if slopes is None:
            return corrected(q, None, stored, norm.eps)
        # A BatchNorm that is called again has had only its first calls yet.
        f = Moments.joined(self.float_moments[index][: len(calls)])
        return corrected(q, f, stored, norm.eps, slopes)


class _Reached(Exception):
    """The call that a pass was for."""

    def __init__(self, index: int, moments: Moments) -> None:
        self.index, self.moments = index, moments


@torch.no_grad()
def reestimate_batchnorm(model: nn.Module, images: Tensor) -> None:
    """Replace BatchNorm's running statistics by those of these images, in execution order.

    Each BatchNorm normalises with its new statistics before the next one takes its own, so that all
    see what they will see in eval mode. The model is left in eval mode; one without BatchNorm is
    left alone.
    """
    Correction.of(model, images, "reestimate")(model)


def _moments(network: nn.Module, x: Tensor) -> list[list[Moments]]:
    """What each BatchNorm of a network sees, one entry a call."""
    found: list[list[Moments]] = [[] for _ in batchnorms(network)]
    with _watched(network, lambda i, norm, x: found[i].append(Moments.of(x))):
        network(x)
    return found


def _bytes_per_image(network: nn.Module, x: Tensor) -> int:
    """About what a pass holds for each image: a few copies of the largest input of a BatchNorm."""
    sizes = [1]
    with _watched(network, lambda i, norm, x: sizes.append(x.numel() * x.element_size())):
        network(x)
    return max(1, COPIES * max(sizes) // len(x))


def _set(norm: _BatchNorm, statistics: Statistics) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(statistics[0])
    norm.running_var.copy_(statistics[1])


def _statistics(norm: _BatchNorm) -> Statistics:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean.detach().clone(), norm.running_var.detach().clone()
