"""The kernels of a uniform grid, value = s * (clip(round(x / s - o), low, high) + o).

`on_grid` is the plain function; `fake_quantize` gives the same numbers with gradients, those of LSQ
(Esser et al., arXiv 1902.08153): straight through inside the grid and 0 outside for x, and for s

    q + o - x / s  inside,    q + o  outside                                       (equation 3)

times a given scale. Evaluation and training spend much of their time here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def on_grid(x: Tensor, step: Tensor, low: float, high: float, offset: float = 0.0) -> Tensor:
    """The nearest values of a grid, without a graph: ``s (clip(round(x/s - o), low, high) + o)``.

    The limits are whole numbers, so clipping may come before rounding; in place but for the first
    operation.
    """
    q = x / step
    if offset:
        q -= offset
    q.clamp_(low, high).round_()
    if offset:
        q += offset
    return q.mul_(step)


def fake_quantize(
    x: Tensor, step: Tensor, low: float, high: float, offset: float, gradient_scale: float
) -> Tensor:
    """The nearest values of a grid, differentiably.

    Args:
        x: data.
        step: positive steps, a scalar or broadcastable to ``x``.
        low: smallest code, a whole number.
        high: largest code, a whole number.
        offset: shift of the grid in steps.
        gradient_scale: factor on the gradient of the steps.
    """
    lean = step.numel() == 1 and x.device.type == "cpu"
    function = _TensorGrid if lean else _Grid
    out: Tensor = function.apply(x, step, low, high, offset, gradient_scale)
    return out


class _Grid(torch.autograd.Function):
    """Any steps, any device.

    Only x / s - o is kept for the backward pass; the rest is cheaper to compute again than to keep.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, step: Tensor, low: float, high: float, offset: float, grad: float
    ) -> Tensor:
        v = x / step
        if offset:
            v -= offset
        ctx.save_for_backward(v)
        ctx.low, ctx.high, ctx.offset = low, high, offset
        ctx.step_shape, ctx.grad = step.shape, grad
        q = torch.clamp(v, low, high).round_()
        if offset:
            q += offset
        return q.mul_(step)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad, (v,) = grads[0], ctx.saved_tensors
        q = torch.clamp(v, ctx.low, ctx.high)
        for_x = grad * (q == v)
        if not ctx.needs_input_grad[1]:
            return for_x, None, None, None, None, None
        # q + o where clipped, q + o - x/s where not (equation 3 of LSQ).
        q.round_().mul_(grad)
        if ctx.offset:
            q += grad * ctx.offset - for_x * ctx.offset
        q.addcmul_(for_x, v, value=-1)
        for_step = q.sum_to_size(ctx.step_shape).mul_(ctx.grad)
        return for_x, for_step, None, None, None, None


class _TensorGrid(torch.autograd.Function):
    """The same numbers for one step per tensor, on the CPU: a third of the passes over memory.

    It keeps only its input and output, which the layers around it keep anyway. With the step as a
    number, ``hardtanh_backward(g, x, a, b)``, which is g where a < x < b, is one fused pass.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, step: Tensor, low: float, high: float, offset: float, grad: float
    ) -> Tensor:
        y = on_grid(x, step, low, high, offset)
        ctx.save_for_backward(x, y) if ctx.needs_input_grad[1] else ctx.save_for_backward(x)
        ctx.step, ctx.step_shape, ctx.grad = float(step), step.shape, grad
        # The ends belong to the inside, also where x / s rounds down to them.
        ctx.ends = [
            end + side * (abs(end) * 2.0**-23 + 1e-37)
            for end, side in (((low + offset) * ctx.step, -1), ((high + offset) * ctx.step, 1))
        ]
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad, (x, *rest) = grads[0], ctx.saved_tensors
        for_x = for_step = None
        if ctx.needs_input_grad[0]:
            for_x = torch.ops.aten.hardtanh_backward(grad, x, *ctx.ends)
        if rest:
            # Equation 3 of LSQ times s: y where clipped, y - x where not; here with a minus.
            slope = torch.ops.aten.hardtanh_backward(x, x, *ctx.ends).sub_(rest[0])
            for_step = (_dot(grad, slope) * (-ctx.grad / ctx.step)).view(ctx.step_shape)
        return for_x, for_step, None, None, None, None


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Sum of the products of two tensors of one shape."""
    dense = a.is_contiguous() or (
        a.dim() == 4 and a.is_contiguous(memory_format=torch.channels_last)
    )
    if dense and a.stride() == b.stride():
        line = (a.numel(),), (1,)
        return torch.dot(a.as_strided(*line), b.as_strided(*line))
    return (a * b).sum()
