"""Where two passes of a network part."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

TOLERANCE = 1e-3
"""Differences that rounding explains, relative to the largest value."""


def close(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors differ by no more than rounding explains."""
    return bool((first - second).abs().max() <= TOLERANCE * second.abs().max())


def since(model: nn.Module, first: Tensor, second: Tensor) -> str:
    """The first module in which two passes part, looking at the first image of each."""
    one, other = _leaves(model, first), _leaves(model, second)
    parted = (n for n in one if n in other and one[n].shape == other[n].shape)
    name = next((n for n in parted if not close(one[n], other[n])), "")
    return f" (first seen in {name})" if name else ""


def _leaves(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """What each innermost module gave for the first image, in execution order."""
    found: dict[str, Tensor] = {}

    def note(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.dim() and output.is_floating_point():
                found.setdefault(name, output[: max(len(output) // len(images), 1)].clone())

        return hook

    inner = [(n, m) for n, m in model.named_modules() if not list(m.children())]
    handles = [module.register_forward_hook(note(name)) for name, module in inner]
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    return found
