"""Putting a network into a state in which its loss can be differentiated twice, and gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

ONCE_ONLY = ("derivative for", "once_differentiable", "is not compatible with .grad()")
"""What torch's messages say where an operation has no second derivative."""


class _Composed(TorchFunctionMode):
    """Composes two functions of operations whose derivatives are right.

    Hard sigmoids are the one common activation without a second derivative in torch. BatchNorm by
    running statistics is a line in each channel; torch's own derivative (2.15, CPU) is wrong for a
    single image whose gradient has its channels last, as behind a transposition to tokens.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.hardsigmoid:
            return functional.relu6(args[0] + 3) / 6
        if func is functional.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm`, composed where it takes running statistics."""
    if training or running_mean is None or running_var is None:
        return functional.batch_norm(
            input, running_mean, running_var, weight, bias, training, momentum, eps
        )
    scale = (running_var + eps).rsqrt() * (1 if weight is None else weight)
    shift = (0 if bias is None else bias) - running_mean * scale
    shape = (1, -1, *(1,) * (input.dim() - 2))
    return input * scale.view(shape) + shift.view(shape)


@contextmanager
def twice_differentiable(model: nn.Module) -> Iterator[None]:
    """Make a model's loss twice differentiable and its Hessian deterministic, and undo it after.

    Eval mode (BatchNorm by running statistics, as a line), no in-place activations, attention by
    plain matrix products (the fused kernels have no second derivative), composed hard sigmoids,
    full float32 on a GPU.

    Raises:
        ValueError: the model is not in float32 or float64.
    """
    odd = {p.dtype for p in model.parameters()} - {torch.float32, torch.float64}
    if odd:
        raise ValueError(f"second derivatives need float32 weights, not {sorted(map(str, odd))}")
    modes = {module: module.training for module in model.modules()}
    trained = {parameter: parameter.requires_grad for parameter in model.parameters()}
    inplace = [m for m in model.modules() if getattr(m, "inplace", False) is True]
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(_Composed())
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autocast("cuda", enabled=False))
        if torch.cuda.is_available():
            stack.enter_context(torch.backends.cudnn.flags(enabled=True, allow_tf32=False))
        try:
            model.eval()
            for module in inplace:
                module.inplace = False  # type: ignore[assignment]
            yield
        finally:
            for module in inplace:
                module.inplace = True  # type: ignore[assignment]
            for module, mode in modes.items():
                module.training = mode
            for parameter, mode in trained.items():
                parameter.requires_grad_(mode)


def gradients(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    weights: Sequence[Tensor] | None = None,
    *,
    create_graph: bool = False,
) -> tuple[Tensor, ...]:
    """Gradients of outputs, each weighed; 0 for what an output does not depend on.

    The graph is kept.

    Raises:
        ValueError: an operation of the network has no second derivative; it is named.
    """
    pairs = [(y, None if weights is None else weights[i]) for i, y in enumerate(outputs)]
    pairs = [(y, w) for y, w in pairs if y.requires_grad]
    if not pairs or not inputs:
        return tuple(torch.zeros_like(x) for x in inputs)
    try:
        return torch.autograd.grad(
            [y for y, _ in pairs], inputs, [w for _, w in pairs], retain_graph=True,
            create_graph=create_graph, allow_unused=True, materialize_grads=True,
        )  # fmt: skip
    except RuntimeError as error:
        if not any(words in str(error) for words in ONCE_ONLY):
            raise
        raise ValueError(
            "second-order methods need a network whose operations can be differentiated twice; "
            f"torch says: {str(error).splitlines()[0]}"
        ) from error


def gradients_to_differentiate(loss: Tensor, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Gradients of a loss, with their graph.

    torch leaves an operation that is written for one derivative out of the second one without a
    word, as long as the gradient that comes in is a constant. So it is made to be none, which
    leaves a mark in the graph.

    Raises:
        ValueError: an operation of the network has no second derivative.
    """
    one = torch.ones_like(loss, requires_grad=True)
    found = gradients([loss * one], inputs, create_graph=True)
    waiting = [x.grad_fn for x in found if x.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if node.name() == "torch::autograd::Error":
            raise ValueError(
                "second-order methods need a network whose operations can be differentiated twice; "
                "this one has a function marked with @once_differentiable"
            )
        after = {step for step, _ in node.next_functions if step is not None} - seen
        seen |= after
        waiting += after
    return found
