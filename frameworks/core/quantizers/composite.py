"""Composite quantizers: the weighted sum of several quantizations of one tensor.

    Q(x) = sum_k p_k Q_k(x),   dQ/dp_k = Q_k(x),   dQ/dx = sum_k p_k Q_k'(x)

(EdMIPS, arXiv 2004.05795, section 4.2). Uniform grids are summed by one kernel that goes through
the tensor in pieces that stay in the cache and keeps nothing for the backward pass but its input,
so that many branches cost little more than one; its numbers are those of the plain sum. It is a
compiled one where there is a compiler (see `frameworks.core.quantizers.kernels`), else one of
composed operations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from frameworks.core.quantizers import kernels
from frameworks.core.quantizers.base import Quantizer
from frameworks.core.quantizers.uniform import SMALLEST_STEP, UniformQuantizer

PIECE = 2**17
"""Elements of an intermediate, over all branches: half a MiB, a part of the second-level cache."""


def _rows(x: Tensor, channels: int) -> Tensor:
    """A tensor as ``[channels, n]``; for one channel in the order in which it lies in memory."""
    if channels > 1:
        return x.reshape(channels, -1)
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        x = x.permute(0, 2, 3, 1)
    return x.reshape(1, -1)


def _like(x: Tensor, like: Tensor) -> Tensor:
    """The same values in the memory order of another tensor of the same shape."""
    if like.dim() == 4 and like.is_contiguous(memory_format=torch.channels_last):
        return x.contiguous(memory_format=torch.channels_last)
    return x.contiguous()


def _pieces(channels: int, columns: int, branches: int) -> Iterator[tuple[slice, slice]]:
    """Slices of rows and columns whose products are about `PIECE` elements for all branches."""
    if channels == 1:
        width = max(PIECE // branches, 1)
        for start in range(0, columns, width):
            yield slice(0, 1), slice(start, start + width)
        return
    height = max(PIECE // (branches * columns), 1)
    for start in range(0, channels, height):
        yield slice(start, start + height), slice(0, columns)


def _scaled(x: Tensor, steps: Tensor, offset: Tensor | None) -> Tensor:
    """``x / s - o`` for every branch: ``[K, C, n]`` from ``x [C, n]`` and ``steps [K, C, 1]``."""
    v = torch.div(x, steps)
    return v if offset is None else v.sub_(offset)


def _clipped(v: Tensor, low: Tensor, high: Tensor) -> Tensor:
    # Much faster here than clamp with tensor bounds, which has no vector code for broadcasting.
    out = torch.maximum(v, low)
    return torch.minimum(out, high, out=out)


def _coded(clipped: Tensor, offset: Tensor | None) -> Tensor:
    """Codes plus offset, in place; the limits are whole numbers, so clipping may come first."""
    q = clipped.round_()
    return q if offset is None else q.add_(offset)


class _Grids(torch.autograd.Function):
    """The sum over K uniform grids; shapes: steps ``[K, C]``, limits and offsets ``[K, 1, 1]``."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, p: Tensor, steps: Tensor, low: Tensor, high: Tensor,
        offset: Tensor | None, scale: Tensor,
    ) -> Tensor:  # fmt: skip
        x = _like(x, x)
        branches, channels = steps.shape
        out = torch.empty_like(x)
        source, target = _rows(x, channels), _rows(out, channels)
        each = steps[:, :, None]
        share = each * p[:, None, None]
        for rows, columns in _pieces(channels, source.shape[1], branches):
            v = _scaled(source[rows, columns], each[:, rows], offset)
            q = _coded(_clipped(v, low, high), offset)
            if channels == 1:
                torch.mv(q[:, 0].T, share[:, 0, 0], out=target[0, columns])
            else:
                torch.sum(q.mul_(share[:, rows]), 0, out=target[rows])
        ctx.save_for_backward(x, p, steps, low, high, offset, scale)
        return target.view(x.shape) if channels > 1 else out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, p, steps, low, high, offset, scale = ctx.saved_tensors
        grad = _like(grads[0], x)
        branches, channels = steps.shape
        back = torch.empty_like(x)
        source, slope, target = (_rows(t, channels) for t in (x, grad, back))
        each, share = steps[:, :, None], p[:, None, None]
        codes, insides = torch.zeros_like(steps), torch.zeros_like(steps)
        for rows, columns in _pieces(channels, source.shape[1], branches):
            g = slope[rows, columns]
            gx = g * source[rows, columns]
            v = _scaled(source[rows, columns], each[:, rows], offset)
            clipped = _clipped(v, low, high)
            inside = v.eq_(clipped)
            q = _coded(clipped, offset)
            if channels == 1:
                codes[:, 0] += torch.mv(q[:, 0], g[0])
                insides[:, 0] += torch.mv(inside[:, 0], gx[0])
                torch.mul(torch.mv(inside[:, 0].T, p), g[0], out=target[0, columns])
            else:
                codes[:, rows] += q.mul_(g).sum(2)
                insides[:, rows] += (inside * gx).sum(2)
                torch.mul(inside.mul_(share).sum(0), g, out=target[rows])
        for_step = None
        if ctx.needs_input_grad[2]:
            # Equation 3 of LSQ is q + o - (x / s where not clipped), times its gradient scale.
            for_step = (codes - insides / steps) * (p * scale)[:, None]
        for_x = target.view(x.shape) if channels > 1 else back
        return for_x, (codes * steps).sum(1), for_step, None, None, None, None


class _CompiledGrids(torch.autograd.Function):
    """The same sum in one pass over memory each way; ``grids [K, 3]`` are limits and offsets."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, p: Tensor, steps: Tensor, grids: Tensor, scale: Tensor
    ) -> Tensor:
        p, out = p.contiguous(), torch.empty_like(x)
        branches, rows = steps.shape
        library = kernels.library()
        assert library is not None
        library.composite_forward(
            x.data_ptr(), out.data_ptr(), steps.data_ptr(), p.data_ptr(), grids.data_ptr(),
            branches, rows, x.numel() // rows, kernels.threads(),
        )  # fmt: skip
        ctx.save_for_backward(x, p, steps, grids, scale)
        ctx.library = library
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, p, steps, grids, scale = ctx.saved_tensors
        branches, rows = steps.shape
        order = kernels.layout(x)
        assert order is not None
        grad = grads[0].contiguous(memory_format=order)
        for_x, for_p, for_steps = torch.empty_like(x), torch.empty_like(p), torch.empty_like(steps)
        failed = ctx.library.composite_backward(
            grad.data_ptr(), x.data_ptr(), steps.data_ptr(), p.data_ptr(), grids.data_ptr(),
            scale.data_ptr(), for_x.data_ptr(), for_p.data_ptr(), for_steps.data_ptr(),
            branches, rows, x.numel() // rows, kernels.threads(),
        )  # fmt: skip
        if failed:
            raise MemoryError("no memory for the gradients of shares and steps")
        return for_x, for_p, for_steps, None, None


class Composite(nn.Module):
    """The weighted sum of several quantizations of one tensor.

    Args:
        quantizers: one per branch, calibrated. If all are uniform grids with steps of one shape,
            the fused kernel is used; otherwise each branch is computed on its own.
    """

    q_min: Tensor
    q_max: Tensor
    offset: Tensor
    grids: Tensor

    def __init__(self, quantizers: Sequence[Quantizer]) -> None:
        super().__init__()
        self.quantizers = tuple(quantizers)
        self.branches = nn.ModuleList(quantizers)
        self.uniform = [q for q in quantizers if type(q) is UniformQuantizer]
        shapes = {q.step.shape for q in self.uniform}
        self.fused = len(self.uniform) == len(quantizers) and len(shapes) == 1
        if self.fused:
            for name in ("q_min", "q_max", "offset"):
                values = torch.stack([getattr(q, name) for q in self.uniform])
                self.register_buffer(name, values[:, None, None])
            self.shifted = bool((self.offset != 0).any())
            grids = torch.cat([self.q_min, self.q_max, self.offset], 2).flatten(1)
            self.register_buffer("grids", grids.contiguous(), persistent=False)

    def forward(self, x: Tensor, p: Tensor) -> Tensor:
        """The sum with shares ``p [K]`` of the branches."""
        if self.fused:
            return self._grids(x, p)
        return sum(
            (share * q(x) for share, q in zip(p, self.quantizers, strict=True)), x.new_zeros(())
        )

    def _grids(self, x: Tensor, p: Tensor) -> Tensor:
        steps = torch.stack([q.step.reshape(-1) for q in self.uniform]).clamp_min(SMALLEST_STEP)
        offset = self.offset if self.shifted else None
        # LSQ's gradient scale, as in UniformQuantizer.
        scale = (self.q_max.flatten().clamp_min(1) * (x.numel() / steps.shape[1])).rsqrt()
        if self._compiles(x, p, steps):
            fused: Tensor = _CompiledGrids.apply(x, p, steps, self.grids, scale)
            return fused
        out: Tensor = _Grids.apply(x, p, steps, self.q_min, self.q_max, offset, scale)
        return out

    def _compiles(self, x: Tensor, p: Tensor, steps: Tensor) -> bool:
        """Whether the compiled kernel can do it: dense tensors, steps of rows or of the whole."""
        if kernels.library() is None or kernels.recorded() or x.numel() == 0:
            return False
        dense = all(kernels.layout(t) is not None for t in (x, p.detach(), steps, self.grids))
        shape, rows = self.uniform[0].step.shape, steps.shape[1]
        outer = rows == 1 or (rows == len(x) == shape[0] and len(shape) == x.dim())
        return dense and outer

    def learn_range(self, learn: bool = True) -> None:
        """Let the ranges of all branches be trained, or not."""
        for quantizer in self.quantizers:
            quantizer.learn_range(learn)
