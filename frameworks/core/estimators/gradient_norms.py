"""Squared norms of each image's own gradient of a layer's weight.

A layer that reads X ``[I, T]`` of an image (patches of T positions) and whose output has the
gradient D ``[O, T]`` has the gradient G = D X^T. It is formed, or, where that is cheaper,

    ||G||^2 = sum_tt' (X^T X)_tt' (D^T D)_tt'

(as in Rochette et al., arXiv 1912.06015).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from frameworks.core.estimators.layouts import FRONT, Layout, is_linear


def gradient_norms(
    module: nn.Module, read: Tensor, deltas: Sequence[Tensor] | Tensor, layout: Layout = FRONT
) -> Tensor:
    """Squared norms of each image's weight gradient, summed over images.

    Args:
        module: a layer for which `frameworks.core.estimators.layouts.plain` holds.
        read: its input ``[B, I, ...]`` (linear: ``[B, ..., I]``), B as the layout says.
        deltas: K gradients of its output ``[B, O, ...]`` (linear: ``[B, ..., O]``).
        layout: where the images are in the input and the output.

    Returns:
        ``[K]``, in float64.
    """
    x, d = _patches(module, read, layout), _positions(module, deltas, layout)
    (count, batch, groups, outputs, positions), inputs = d.shape, x.shape[2]
    if positions * (inputs + count * outputs) < count * outputs * inputs:
        gram = x.transpose(-1, -2) @ x
        values = (d.transpose(-1, -2) @ d * gram).flatten(1)
    else:
        rows = d.movedim(0, 2).reshape(batch, groups, count * outputs, positions)
        gradients = (rows @ x.transpose(-1, -2)).view(batch, groups, count, -1)
        values = gradients.square().movedim(2, 0).flatten(1)
    return values.sum(1, dtype=torch.float64)


def _patches(module: nn.Module, read: Tensor, layout: Layout) -> Tensor:
    """What each output position reads: ``[B, groups, I, T]``."""
    if is_linear(module):
        apart = layout.apart(read)
        return apart.reshape(len(apart), 1, -1, apart.shape[-1]).transpose(-1, -2)
    assert isinstance(module, nn.Conv1d | nn.Conv2d)
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    read = functional.pad(read, module._reversed_padding_repeated_twice, mode=mode)
    lead = (1,) if isinstance(module, nn.Conv1d) else ()
    unfolded = functional.unfold(
        read.unsqueeze(2) if lead else read,
        kernel_size=(*lead, *module.kernel_size),
        dilation=(*lead, *module.dilation),
        stride=(*lead, *module.stride),
    )
    grouped = unfolded.view(len(read), module.groups, -1, unfolded.shape[-1])
    return layout.apart(grouped).movedim(1, -2).flatten(-2)


def _positions(module: nn.Module, deltas: Sequence[Tensor] | Tensor, layout: Layout) -> Tensor:
    """Output gradients as ``[K, B, groups, O, T]``."""
    apart = torch.stack([layout.apart(delta) for delta in deltas])  # [K, B, rows, O, ...]
    count, batch = apart.shape[:2]
    if is_linear(module):
        return apart.reshape(count, batch, 1, -1, apart.shape[-1]).transpose(-1, -2)
    assert isinstance(module, nn.Conv1d | nn.Conv2d)
    channels = apart.shape[3] // module.groups
    grouped = apart.reshape(count, batch, -1, module.groups, channels, apart[0, 0, 0, 0].numel())
    return grouped.movedim(2, -2).flatten(-2)
