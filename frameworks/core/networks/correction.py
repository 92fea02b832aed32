"""Correcting quantized copies of a network by a few images, in one pass in execution order.

What BatchNorm's statistics are corrected to, and why, is in `frameworks.core.networks.batchnorm`;
here is how: every BatchNorm is watched in a pass in eval mode, takes the moments of its input and
sets its statistics before it normalises. On request the mean output of every quantized layer is
brought back to that of the float one, too, over the same images (Nagel et al., arXiv 1906.04721,
section 4.2, empirical bias correction), for networks whose layers no BatchNorm follows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from frameworks.core.layers import Layer
from frameworks.core.networks.batchnorm import (
    RULES,
    Moments,
    Slopes,
    Statistics,
    batchnorms,
    control,
    corrected,
)
from frameworks.core.networks.places import (
    Found,
    Key,
    Place,
    places,
    set_statistics,
    statistics_of,
    watched,
)

LIMIT = 1 << 30
"""Bytes that the images of one pass may take."""
COPIES = 4
"""Of the largest tensor, that a pass holds at the same time: input, output, a quantizer's own."""


class _Reached(Exception):
    """The place that a pass was for."""

    def __init__(self, place: Place, moments: Moments) -> None:
        self.place, self.moments = place, moments


@dataclass(frozen=True, eq=False)
class Correction:
    """How quantized copies of one network are corrected, over the same images.

    Attributes:
        images: ``[N, C, H, W]``.
        rule: for BatchNorm, see `RULES`; or what gives b and c.
        layers: those whose mean outputs are corrected.
        float_moments: at each place of the float network, one a call.
        float_statistics: running means and variances of its BatchNorms; quantized copies get back
            what they are corrected from.
        chunk: images that go through the network together.
    """

    images: Tensor
    rule: str | Slopes
    layers: tuple[Layer, ...]
    float_moments: Mapping[Key, tuple[Moments, ...]]
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
        *,
        layers: Sequence[Layer] = (),
        limit: int = LIMIT,
    ) -> Correction:
        """The correction for quantized copies of a float network, which is left as it is.

        Args:
            network: its running statistics must be those of its own inputs; one that was trained
                in another state (quantized, or inside a super net) is re-estimated.
            images: a few training images ``[N, C, H, W]``.
            rule: for BatchNorm, see `RULES`; or what gives b and c.
            layers: those whose mean outputs are corrected, too; none by default.
            limit: bytes that the images of one pass may take; where they would take more, every
                place needs a pass of its own (of which each ends there), with equal results.

        Raises:
            ValueError: there is no such rule.
        """
        if isinstance(rule, str) and rule not in RULES:
            raise ValueError(f"bn: {rule!r}; choose from {list(RULES)}")
        stored = tuple(statistics_of(norm) for norm in batchnorms(network))
        every = [place for place in places(network, layers) if place.layer or rule != "stored"]
        if not every:
            return cls(images, rule, (), {}, stored, len(images))
        chunk = max(1, min(len(images), limit // _bytes_per_image(network, every, images[:2])))
        if rule == "reestimate":
            every = [place for place in every if place.layer]
        if not every:
            return cls(images, rule, (), {}, stored, chunk)
        found: dict[Key, tuple[Moments, ...]] = {}
        parts = [_moments(network, every, part) for part in torch.split(images, chunk)]
        for key in parts[0]:
            calls = zip(*(part[key] for part in parts), strict=True)
            found[key] = tuple(Moments.joined(call) for call in calls)
        return cls(images, rule, tuple(layers), found, stored, chunk)

    def works_on(self, model: nn.Module) -> bool:
        """Whether there is anything to correct in a quantized copy."""
        return bool(self.layers) or next(batchnorms(model), None) is not None

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
        for norm, statistics in zip(batchnorms(model), self.float_statistics, strict=True):
            set_statistics(norm, statistics)
        every = places(model, self.layers)
        for place in every:
            place.clear()
        if self.rule == "stored":
            every = [place for place in every if place.layer]
        if not every:
            model.eval()
        elif self.at_once:
            self._at_once(model, every, run or model, skips)
        else:
            self._in_turns(model, every)

    def _at_once(
        self,
        model: nn.Module,
        every: Sequence[Place],
        run: Callable[[Tensor], object],
        skips: Callable[[nn.Module], bool],
    ) -> None:
        calls: dict[Key, list[Moments]] = {}

        def seen(place: Place, x: Tensor) -> None:
            if not skips(place.module) and place.counts(calls):
                calls.setdefault(place.key, []).append(place.look(x))
                place.put(self._corrected(place, calls[place.key]))

        with watched(model, every, seen):
            run(self.images)

    def _in_turns(self, model: nn.Module, every: Sequence[Place]) -> None:
        """A pass for each place in execution order, in chunks, and a whole one."""
        chunks = torch.split(self.images, self.chunk)
        calls: dict[Key, list[Moments]] = {}
        made: list[Found] = []
        while True:
            found = [self._reached(model, every, part, made) for part in chunks]
            reached = [one for one in found if one is not None]
            if not reached:
                return
            place = reached[0].place
            joined = Moments.joined([one.moments for one in reached])
            calls.setdefault(place.key, []).append(joined)
            made.append(self._corrected(place, calls[place.key]))

    def _reached(
        self, model: nn.Module, every: Sequence[Place], part: Tensor, made: Sequence[Found]
    ) -> _Reached | None:
        """The place after those that are corrected, and what is there.

        None once all are corrected; the pass is then a whole one.
        """
        passed: dict[Key, int] = {}

        def seen(place: Place, x: Tensor) -> None:
            if not place.counts(passed):
                return
            number = sum(passed.values())
            passed[place.key] = passed.get(place.key, 0) + 1
            if number == len(made):
                raise _Reached(place, place.look(x))
            place.put(made[number])

        for place in every:
            place.clear()
        with watched(model, every, seen):
            try:
                model(part)
            except _Reached as reached:
                return reached
        return None

    def _corrected(self, place: Place, calls: Sequence[Moments]) -> Found:
        q = Moments.joined(calls)
        # What is called again has had only its first calls yet.
        known = self.float_moments.get(place.key, ())[: len(calls)]
        f = Moments.joined(known) if known else None
        if isinstance(place.key, str):
            assert f is not None
            return (q.mean - f.mean).mean(0)
        assert isinstance(place.module, _BatchNorm)
        stored, eps = self.float_statistics[place.key], place.module.eps
        slopes = RULES[self.rule] if isinstance(self.rule, str) else self.rule
        return corrected(q, None if slopes is None else f, stored, eps, slopes or control)


@torch.no_grad()
def reestimate_batchnorm(model: nn.Module, images: Tensor) -> None:
    """Replace BatchNorm's running statistics by those of these images, in execution order.

    Each BatchNorm normalises with its new statistics before the next one takes its own, so that all
    see what they will see in eval mode. The model is left in eval mode; one without BatchNorm is
    left alone.
    """
    Correction.of(model, images, "reestimate")(model)


@torch.no_grad()
def images_at_once(model: nn.Module, images: Tensor, limit: int = LIMIT) -> int:
    """How many images like these a pass that watches all BatchNorms holds, by a limit in bytes."""
    return max(1, limit // _bytes_per_image(model, places(model, ()), images))


def _moments(network: nn.Module, every: Sequence[Place], x: Tensor) -> dict[Key, list[Moments]]:
    """What is at each place of a float network, one entry a call."""
    found: dict[Key, list[Moments]] = {place.key: [] for place in every}
    with watched(network, every, lambda place, x: found[place.key].append(place.look(x))):
        network(x)
    return found


def _bytes_per_image(network: nn.Module, every: Sequence[Place], x: Tensor) -> int:
    """About what a pass holds for each image: a few copies of the largest tensor at a place."""
    sizes = [1]
    with watched(network, every, lambda place, x: sizes.append(x.numel() * x.element_size())):
        network.forward(x)  # so that a meter does not count it
    return max(1, COPIES * max(sizes) // len(x))
