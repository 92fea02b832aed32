"""The learned grids of a network: where they start, and how they are kept."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from frameworks.core.quantizers.base import Quantizer
from frameworks.core.supernets.placed import PlacedNet, Spot, TensorKind
from frameworks.gradient.mixed_dnn.quantizer import FORMS, ParametricQuantizer, first_step

KINDS: tuple[TensorKind, ...] = ("weight", "act")
Grids = dict[str, dict[str, list[float | str | bool]]]
"""By kind and layer: form, whether signed, and the two learned numbers."""


def grid(form: str, bits: int, spot: Spot) -> ParametricQuantizer:
    """The first grid of a tensor, at these bits or the nearest that its candidates reach."""
    bits = max(min(bits, spot.bits[-1]), 1 + int(spot.signed))
    return ParametricQuantizer(first_step(spot.tensor, bits, spot.signed), bits, spot.signed, form)


def learned(net: PlacedNet) -> list[ParametricQuantizer]:
    """All grids of a network, one that several layers share once."""
    every = [q for kind in KINDS for _, q in net.placed(kind)]
    return [q for q in every if isinstance(q, ParametricQuantizer)]


def written(net: PlacedNet) -> Grids:
    """What `restored` needs, as plain data."""
    kept: Grids = {"weight": {}, "act": {}}
    for (name, kind), quantizer in net.quantizers.items():
        assert isinstance(quantizer, ParametricQuantizer)
        numbers = [float(getattr(quantizer, n).detach()) for n in FORMS[quantizer.form]]
        kept[kind][name] = [quantizer.form, quantizer.signed, *numbers]
    return kept


@torch.no_grad()
def restored(old: Quantizer, kept: Sequence[float | str | bool] | None) -> Quantizer:
    """A grid as it was written, on the device of another quantizer; that one if none was kept."""
    if kept is None:
        return old
    form, signed, *numbers = kept
    assert isinstance(form, str)
    made = ParametricQuantizer(torch.ones(()), 2, bool(signed), form)
    for name, number in zip(FORMS[form], numbers, strict=True):
        getattr(made, name).fill_(number)
    return made.to(next((t.device for t in (*old.parameters(), *old.buffers())), "cpu"))
