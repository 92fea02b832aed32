"""Hooks that a network hung on its modules, where others take the place of these."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

NAMES = (
    "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called",
    "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs",
)  # fmt: skip


def take_hooks(module: nn.Module, old: nn.Module) -> None:
    """What was hung on one module's call belongs to the call of the module in its place."""
    for name in NAMES:
        setattr(module, name, getattr(old, name))
        setattr(old, name, OrderedDict())
