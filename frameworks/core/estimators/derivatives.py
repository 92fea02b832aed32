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


class _HardSigmoids(TorchFunctionMode):
    """Composes hard sigmoids, the one common activation without a second derivative in torch."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.hardsigmoid:
            return functional.relu6(args[0] + 3) / 6
        return func(*args, **(kwargs or {}))


@contextmanager
def twice_differentiable(model: nn.Module) -> Iterator[None]:
    """Make a model's loss twice differentiable and its Hessian deterministic, and undo it after.

    Eval mode (BatchNorm by running statistics), no in-place activations, attention by plain matrix
    products (the fused kernels have no second derivative), composed hard sigmoids, full float32 on
    a GPU.

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
        stack.enter_context(_HardSigmoids())
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
