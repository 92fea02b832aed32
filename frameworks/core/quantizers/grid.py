"""The kernels of a uniform grid, value = s * (clip(round(x / s - o), low, high) + o).

`on_grid` is the plain function; `fake_quantize` gives the same numbers with gradients, those of LSQ
(Esser et al., arXiv 1902.08153): straight through inside the grid and 0 outside for x, and for s

    q + o - x / s  inside,    q + o  outside                                       (equation 3)

times a given scale. Inside means that clipping leaves x / s - o as it is.

Evaluation and training spend much of their time here. Dense float32 tensors on the CPU go through
the compiled kernels of `frameworks.core.quantizers.kernels`, one pass over memory each way;
everything else, and every machine without a compiler, through the composed operations below, which
give the same values and the same gradients to x.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from frameworks.core.quantizers import kernels


class Limits(NamedTuple):
    """What is constant of a grid: its limits (whole numbers) and its offset, in steps."""

    low: float
    high: float
    offset: float = 0.0


class _Call(NamedTuple):
    """A kernel call that is possible: the library, the memory format and the rows with a step."""

    library: ctypes.CDLL
    order: torch.memory_format
    rows: int


def _call(x: Tensor, step: Tensor) -> _Call | None:
    library, order = kernels.library(), kernels.layout(x)
    if library is None or order is None or kernels.recorded() or kernels.layout(step) is None:
        return None
    rows = _rows(x, step) if x.numel() else 0
    return _Call(library, order, rows) if rows else None


def _rows(x: Tensor, step: Tensor) -> int:
    """The rows of a tensor that have a step each: 1 or ``len(x)``; 0 for other broadcasting."""
    if step.numel() == 1 and step.dim() <= x.dim():
        return 1
    outer = step.dim() == x.dim() and step.numel() == step.shape[0] == len(x)
    return len(x) if outer else 0


def on_grid(
    x: Tensor, step: Tensor, low: float, high: float, offset: float = 0.0, smallest: float = 0.0
) -> Tensor:
    """The nearest values of a grid, without a graph: ``s (clip(round(x/s - o), low, high) + o)``.

    Args:
        x: data.
        step: steps, a scalar or broadcastable to ``x``.
        low: smallest code, a whole number.
        high: largest code, a whole number.
        offset: shift of the grid in steps.
        smallest: steps below it are raised to it, if it is positive.
    """
    call = _call(x, step)
    if call is not None:
        return _forward(call, x, step, Limits(low, high, offset), smallest)
    return _composed(x, step.clamp_min(smallest) if smallest else step, Limits(low, high, offset))


def _forward(call: _Call, x: Tensor, step: Tensor, grid: Limits, smallest: float) -> Tensor:
    y = torch.empty_like(x)
    rows = call.rows
    call.library.grid_forward(
        x.data_ptr(), y.data_ptr(), step.data_ptr(), rows, x.numel() // rows,
        *grid, smallest or -math.inf, kernels.threads(),
    )  # fmt: skip
    return y


def _composed(x: Tensor, step: Tensor, grid: Limits) -> Tensor:
    """In place but for the first operation; the limits are whole, so clipping may come first."""
    q = x / step
    if grid.offset:
        q -= grid.offset
    q.clamp_(grid.low, grid.high).round_()
    if grid.offset:
        q += grid.offset
    return q.mul_(step)


def fake_quantize(
    x: Tensor,
    step: Tensor,
    low: float,
    high: float,
    offset: float,
    gradient_scale: float,
    smallest: float = 0.0,
) -> Tensor:
    """The nearest values of a grid, differentiably.

    Args:
        x: data.
        step: positive steps, a scalar or broadcastable to ``x``.
        low: smallest code, a whole number.
        high: largest code, a whole number.
        offset: shift of the grid in steps.
        gradient_scale: factor on the gradient of the steps.
        smallest: steps below it are raised to it and get no gradient, if it is positive.
    """
    grid, call = Limits(low, high, offset), _call(x, step)
    if call is not None:
        fused: Tensor = _CompiledGrid.apply(x, step, grid, gradient_scale, smallest, call)
        return fused
    if smallest:
        step = step.clamp_min(smallest)
    lean = step.numel() == 1 and x.device.type == "cpu" and x.dtype is torch.float32
    out: Tensor = (_TensorGrid if lean else _Grid).apply(x, step, grid, gradient_scale)
    return out


class _CompiledGrid(torch.autograd.Function):
    """One pass over memory each way; keeps only its input, which the layer before keeps anyway."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, step: Tensor, grid: Limits, scale: float, smallest: float, call: _Call
    ) -> Tensor:
        ctx.save_for_backward(x, step)
        ctx.grid, ctx.scale, ctx.smallest, ctx.call = grid, scale, smallest, call
        return _forward(call, x, step, grid, smallest)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x, step), call, rows = ctx.saved_tensors, ctx.call, ctx.call.rows
        wanted = ctx.needs_input_grad[1]
        if torch.is_grad_enabled():
            # Of a gradient that is itself differentiated; the grid's own slope has none.
            used = step.clamp_min(ctx.smallest) if ctx.smallest else step
            v = x.detach() / used.detach() - ctx.grid.offset
            for_x, for_step = _gradients(grads[0], v, ctx.grid, step.shape if wanted else None)
            if for_step is not None:
                for_step = for_step * (ctx.scale * (step > (ctx.smallest or -math.inf)))
            return for_x, for_step, None, None, None, None
        grad = grads[0].contiguous(memory_format=call.order)
        for_x = torch.empty_like(x)
        for_step = torch.empty_like(step) if wanted else None
        failed = call.library.grid_backward(
            grad.data_ptr(), x.data_ptr(), step.data_ptr(), for_x.data_ptr(),
            None if for_step is None else for_step.data_ptr(), rows, x.numel() // rows,
            *ctx.grid, ctx.smallest or -math.inf, ctx.scale, kernels.threads(),
        )  # fmt: skip
        if failed:
            raise MemoryError("no memory for the gradient of a step")
        return for_x, for_step, None, None, None, None


def _gradients(
    grad: Tensor, v: Tensor, grid: Limits, shape: torch.Size | None
) -> tuple[Tensor, Tensor | None]:
    """Gradients to x and, where a shape is given, to the steps of that shape, from x / s - o."""
    q = torch.clamp(v, grid.low, grid.high)
    for_x = grad * (q == v)
    if shape is None:
        return for_x, None
    # q + o where clipped, q + o - x/s where not (equation 3 of LSQ).
    slope = q.round_().mul(grad)
    if grid.offset:
        slope = slope + (grad * grid.offset - for_x * grid.offset)
    slope = slope.addcmul(for_x, v, value=-1)
    return for_x, slope.sum_to_size(shape)


class _Grid(torch.autograd.Function):
    """Any steps, any device.

    Only x / s - o is kept for the backward pass; the rest is cheaper to compute again than to keep.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, grid: Limits, scale: float) -> Tensor:
        v = x / step
        if grid.offset:
            v -= grid.offset
        ctx.save_for_backward(v)
        ctx.grid, ctx.step_shape, ctx.scale = grid, step.shape, scale
        q = torch.clamp(v, grid.low, grid.high).round_()
        if grid.offset:
            q += grid.offset
        return q.mul_(step)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        shape = ctx.step_shape if ctx.needs_input_grad[1] else None
        for_x, for_step = _gradients(grads[0], ctx.saved_tensors[0], ctx.grid, shape)
        return for_x, None if for_step is None else for_step * ctx.scale, None, None


class _TensorGrid(torch.autograd.Function):
    """The same numbers for one step per tensor, on the CPU: a third of the passes over memory.

    It keeps only its input and output, which the layers around it keep anyway. With the step as a
    number, ``hardtanh_backward(g, x, a, b)``, which is g where a < x < b, is one fused pass.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, grid: Limits, scale: float) -> Tensor:
        y = _composed(x, step, grid)
        ctx.save_for_backward(x, y) if ctx.needs_input_grad[1] else ctx.save_for_backward(x)
        ctx.step, ctx.step_shape, ctx.scale = float(step), step.shape, scale
        ctx.ends = _ends(ctx.step, grid)
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
            for_step = (_dot(grad, slope) * (-ctx.scale / ctx.step)).view(ctx.step_shape)
        return for_x, for_step, None, None


def _ends(step: float, grid: Limits) -> tuple[float, float]:
    """The float32 neighbours of a grid's inside, on either side: the first x that are clipped.

    x / s - o is rounded, so these are found by bisection; floats in order are integers in order.
    """
    s, offset, ends = np.float32(step), np.float32(grid.offset), []
    centre = np.float32((grid.low + grid.high) / 2 + grid.offset) * s
    with np.errstate(all="ignore"):
        for side, limit in ((np.float32(-1), -grid.low), (np.float32(1), grid.high)):
            inside, outside = _order(side * centre), _order(np.float32(np.inf))
            while outside - inside > 1:
                middle = (inside + outside) // 2
                within = side * (side * _value(middle) / s - offset) <= limit
                inside, outside = (middle, outside) if within else (inside, middle)
            ends.append(float(side * _value(outside)))
    return ends[0], ends[1]


def _order(x: np.float32) -> int:
    bits = int(x.view(np.int32))
    return bits if bits >= 0 else -(bits & 0x7FFFFFFF)


def _value(order: int) -> np.float32:
    size = np.int32(abs(order)).view(np.float32)
    return size if order >= 0 else -size


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Sum of the products of two tensors of one shape."""
    dense = a.is_contiguous() or (
        a.dim() == 4 and a.is_contiguous(memory_format=torch.channels_last)
    )
    if dense and a.stride() == b.stride():
        line = (a.numel(),), (1,)
        return torch.dot(a.as_strided(*line), b.as_strided(*line))
    return (a * b).sum()
