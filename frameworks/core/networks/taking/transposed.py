"""Transposed convolutions with their weights stored as every other layer's: outputs first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from frameworks.core.networks.taking.bake import keep_mask, mask_of
from frameworks.core.networks.taking.storage import Copies, copied_once

KINDS = {
    nn.ConvTranspose1d: functional.conv_transpose1d,
    nn.ConvTranspose2d: functional.conv_transpose2d,
}


class Transposed(nn.Module):
    """A transposed convolution whose ``weight`` is ``[out, in / groups, *kernel]``.

    torch stores ``[in, out / groups, *kernel]``, in which an output channel is no row. The state
    dict keeps torch's layout, so that it is that of the network as it was given.
    """

    def __init__(
        self, module: nn.ConvTranspose1d | nn.ConvTranspose2d, copies: Copies | None = None
    ) -> None:
        super().__init__()
        self.run: Callable[..., Tensor] = KINDS[type(module)]
        self.in_channels, self.out_channels = module.in_channels, module.out_channels
        self.kernel_size, self.stride = module.kernel_size, module.stride
        self.padding, self.output_padding = module.padding, module.output_padding
        self.dilation, self.groups = module.dilation, module.groups
        self.weight = copied_once(
            module.weight,
            copies,
            lambda weight: outputs_first(weight, self.groups),
            ("outputs first", self.groups),
        )
        mask = mask_of(module)
        keep_mask(self, None if mask is None else outputs_first(mask, self.groups))
        self.bias = module.bias
        self.training = module.training

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.run(
            x,
            inputs_first(self.weight, self.groups),
            self.bias,
            self.stride,
            self.padding,
            self.output_padding,
            self.groups,
            self.dilation,
        )
        return out

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = inputs_first(destination[f"{prefix}weight"], self.groups)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        key = f"{prefix}weight"
        if key in state_dict:
            state_dict = {**state_dict, key: outputs_first(state_dict[key], self.groups)}
        super()._load_from_state_dict(state_dict, prefix, *rest)


def outputs_first(weight: Tensor, groups: int) -> Tensor:
    """``[in, out / groups, *kernel]`` to ``[out, in / groups, *kernel]``."""
    return _swapped(weight, groups)


def inputs_first(weight: Tensor, groups: int) -> Tensor:
    """``[out, in / groups, *kernel]`` to ``[in, out / groups, *kernel]``."""
    return _swapped(weight, groups)


def _swapped(weight: Tensor, groups: int) -> Tensor:
    first, second, *kernel = weight.shape
    apart = weight.reshape(groups, first // groups, second, *kernel)
    return apart.transpose(1, 2).reshape(groups * second, first // groups, *kernel)


def is_transposed(module: nn.Module) -> bool:
    """Whether a module is one of torch's transposed convolutions, and no subclass of one."""
    return type(module) in KINDS


def positions(x: Tensor, channels: int) -> int:
    """At how many places of its input a transposed convolution puts its kernel down."""
    return x.numel() // channels
