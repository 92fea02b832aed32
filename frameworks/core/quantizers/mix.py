"""Weighted sums of tensors with constant shares: one pass over memory each way where compiled."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from frameworks.core.quantizers import kernels


def mixed(parts: Sequence[Tensor], shares: Tensor) -> Tensor:
    """``sum_k shares[k] parts[k]`` for tensors of one shape, with gradients to the parts alone.

    Args:
        parts: at least one.
        shares: as many, on the CPU; they get no gradient.
    """
    if _compiles(parts, shares):
        fused: Tensor = _Mix.apply(shares, *parts)
        return fused
    first, *rest = shares.tolist()
    out: Tensor = parts[0] * first
    for share, part in zip(rest, parts[1:], strict=True):
        out = out.add_(part, alpha=share)  # one pass over memory instead of two
    return out


def _compiles(parts: Sequence[Tensor], shares: Tensor) -> bool:
    """Whether the compiled kernel can do it: dense tensors of one shape and one memory order."""
    if kernels.library() is None or kernels.recorded() or kernels.layout(shares) is None:
        return False
    alike = {(part.shape, kernels.layout(part)) for part in parts}
    return len(alike) == 1 and alike.pop()[1] is not None


def _addresses(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*(t.data_ptr() for t in tensors))


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shares: Tensor, *parts: Tensor) -> Tensor:
        out, library = torch.empty_like(parts[0]), kernels.library()
        assert library is not None
        library.mix_forward(
            _addresses(parts), shares.data_ptr(), out.data_ptr(),
            len(parts), out.numel(), kernels.threads(),
        )  # fmt: skip
        ctx.save_for_backward(shares)
        ctx.order, ctx.library = kernels.layout(out), library
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (shares,) = ctx.saved_tensors
        grad = grads[0].contiguous(memory_format=ctx.order)
        made = [torch.empty_like(grad) for _ in shares]
        ctx.library.mix_backward(
            grad.data_ptr(), shares.data_ptr(), _addresses(made),
            len(made), grad.numel(), kernels.threads(),
        )  # fmt: skip
        return None, *made
