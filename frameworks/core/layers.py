"""Quantizable layers: their shapes, multiply-accumulates and parameters, from one forward pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

QUANTIZABLE = (nn.Conv1d, nn.Conv2d, nn.Linear)


@dataclass(frozen=True)
class Layer:
    """One quantizable convolution or linear layer.

    Sizes are for one sample. ``positions`` is the number of output positions at which the kernel is
    applied (pixels of a convolution, tokens of a linear layer). Of a module that is called more
    than once, sizes are those of the first call and ``macs`` are summed over the calls.
    """

    name: str
    kind: str
    """``conv`` or ``linear``."""
    index: int
    """Position in execution order, from 0."""
    in_channels: int
    out_channels: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    groups: int
    in_size: tuple[int, ...]
    """Spatial size of the input; ``(tokens,)`` or ``()`` for a linear layer."""
    out_size: tuple[int, ...]
    params: int
    """Number of weights (the bias is not counted)."""
    macs: int
    """Multiply-accumulates of one sample."""
    block: str
    """Name of the residual block, transformer block or the like that holds the layer."""

    @property
    def depthwise(self) -> bool:
        """Whether every input channel has its own filters."""
        return self.groups == self.in_channels and self.groups > 1

    @property
    def positions(self) -> int:
        """Output positions of one sample."""
        return math.prod(self.out_size) if self.out_size else 1

    @property
    def calls(self) -> float:
        """How often the layer of these sizes is run for one sample.

        Once as a rule; more often if the model calls it again, or gives it several windows of the
        sample at once. In parts of the first call, if later ones have another size.
        """
        return self.macs / (self.positions * self.params)

    @property
    def in_elements(self) -> int:
        """Input activations of one sample."""
        return self.in_channels * (math.prod(self.in_size) if self.in_size else 1)

    @property
    def out_elements(self) -> int:
        """Output activations of one sample."""
        return self.out_channels * self.positions


def plane(sizes: Sequence[int]) -> tuple[int, int]:
    """A kernel or an image in two dimensions: a sequence is one column, a vector one pixel."""
    rows, columns = (*sizes, 1, 1)[:2]
    return rows, columns


def _block_of(model: nn.Module, name: str) -> str:
    """The outermost numbered ancestor that is a block and not a stage of blocks.

    ``layer2.0.downsample.0`` gives ``layer2.0``; ``blocks.1.0.conv_pw`` gives ``blocks.1.0``
    (``blocks.1`` is a plain container); a layer outside any block is its own block.
    """
    parts = name.split(".")
    for depth in range(1, len(parts)):
        prefix = ".".join(parts[:depth])
        module = model.get_submodule(prefix)
        if not parts[depth - 1].isdigit() or isinstance(module, nn.Sequential | nn.ModuleList):
            continue
        if not _holds_blocks(module):
            return prefix
    return name


def _holds_blocks(module: nn.Module) -> bool:
    containers = (m for m in module.modules() if isinstance(m, nn.Sequential | nn.ModuleList))
    return any(
        sum(isinstance(leaf, QUANTIZABLE) for leaf in child.modules()) > 1
        and not isinstance(child, QUANTIZABLE)
        for container in containers
        if container is not module
        for child in container.children()
    )


def _shape_facts(module: nn.Module, x: Tensor, y: Tensor) -> dict[str, Any]:
    # One sample went in: what stands in the batch dimension is windows or patches of it.
    if isinstance(module, nn.Linear):
        weights = module.weight.numel()
        tokens = y.numel() // module.out_features
        size = (tokens,) if y.dim() > 2 or tokens > 1 else ()
        return dict(
            kind="linear", in_channels=module.in_features, out_channels=module.out_features,
            kernel=(1,), stride=(1,), groups=1, in_size=size, out_size=size,
            params=weights, macs=tokens * weights,
        )  # fmt: skip
    assert isinstance(module, nn.Conv1d | nn.Conv2d)
    weights = module.weight.numel()
    positions = y.numel() // module.out_channels
    return dict(
        kind="conv", in_channels=module.in_channels, out_channels=module.out_channels,
        kernel=tuple(module.kernel_size), stride=tuple(module.stride), groups=module.groups,
        in_size=tuple(x.shape[2:]), out_size=tuple(y.shape[2:]),
        params=weights, macs=positions * weights,
    )  # fmt: skip


@torch.no_grad()
def describe(model: nn.Module, input_shape: Sequence[int]) -> tuple[Layer, ...]:
    """Every quantizable layer that one forward pass reaches, in execution order.

    Args:
        model: any module made of ``Conv2d`` (grouped and depthwise too), ``Conv1d`` and ``Linear``.
        input_shape: shape of one sample, ``(C, H, W)``.

    Raises:
        ValueError: the model has no quantizable layer.
    """
    found: dict[str, Layer] = {}
    names: dict[nn.Module, str] = {
        m: n for n, m in model.named_modules() if isinstance(m, QUANTIZABLE)
    }

    def record(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        name = names[module]
        facts = _shape_facts(module, args[0], output)
        if name in found:
            again = found[name]
            found[name] = replace(again, macs=again.macs + facts["macs"])
        else:
            found[name] = Layer(name=name, index=len(found), block=_block_of(model, name), **facts)

    handles = [module.register_forward_hook(record) for module in names]
    training = {m: m.training for m in model.modules()}
    parameter = next(model.parameters())
    try:
        model.eval()
        model(torch.zeros(1, *input_shape, device=parameter.device, dtype=parameter.dtype))
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in training.items():
            module.training = mode
    if not found:
        raise ValueError("the model has no Conv1d, Conv2d or Linear layer to quantize")
    return tuple(found.values())
