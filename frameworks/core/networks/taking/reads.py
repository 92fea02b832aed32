"""Weights that are read by a function instead of being called as a module.

Some networks call ``functional.linear(x, self.qkv.weight, bias)`` (timm's BEiT, EVA-02, Swin V2) or
convolve with a bare parameter. No module's forward runs then, so there is nothing to be hooked,
wrapped or measured. Where a network is taken, such a weight gets a `Read` module, and while the
network runs, a function that reads the weight is turned into a call of the module in its place:
first its output without bias, then the bias that the function was given.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

READERS = frozenset({functional.linear, functional.conv1d, functional.conv2d})
"""Functions ``f(input, weight, bias=None, ...)`` of a weight ``[out, in, ...]``."""
SUFFIX = "_read"
"""Ends the name of the module that stands for a bare parameter."""
_LISTENS = "_listens"
_ORDER = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


class Read(nn.Module):
    """Stands for a weight ``[out, in, ...]`` that a function reads.

    In the place of a function it gives the function's output without bias: the function's own is
    added to it. ``bias`` is that of the module in whose place it stands, which the network may read
    and hand to the function, or get by calling the module (a linear one).
    """

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None = None) -> None:
        super().__init__()
        self.weight = weight
        self.bias = bias
        self.armed = False
        """Whether the network runs: its weight is then handed out as it is, to be recognised."""
        self.function: Callable[[Tensor, Tensor], Tensor] = functional.linear
        self.redirected = False
        """Whether it is called in the place of a function."""
        self.running = False
        self.facts: dict[str, Any] = {}
        """Stride, padding, dilation and groups of a convolution."""

    @property
    def out_features(self) -> int:
        """Output features, or channels."""
        return len(self.weight)

    @property
    def in_features(self) -> int:
        """Input features, or channels."""
        return self.weight.shape[1] * int(self.facts.get("groups", 1))

    def forward(self, x: Tensor) -> Tensor:
        self.running = True
        try:
            if self.redirected or self.bias is None:
                return self.function(x, self.weight)
            return functional.linear(x, self.weight, self.bias)
        finally:
            self.running = False


def reading(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """The arguments of a call by name, if it is one of `READERS`."""
    if func not in READERS:
        return None
    return {**dict(zip(_ORDER, args, strict=False)), **kwargs}


class Redirected(TorchFunctionMode):
    """While it is in force, functions that read a weight of ``places`` call the module there.

    Args:
        places: by the identity of a weight: its `Read`, and the module in whose call it takes part
            (itself, or what wraps it).
    """

    def __init__(self, places: dict[int, tuple[Read, nn.Module]]) -> None:
        super().__init__()
        self.places = places

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        named = reading(func, args, kwargs)
        place = None if named is None else self.places.get(id(named.get("weight")))
        if named is None or place is None or place[0].running:
            return func(*args, **kwargs)
        read, module = place
        x, bias = named.pop("input"), named.pop("bias", None)
        del named["weight"]
        read.function, read.facts = partial(func, **named) if named else func, named
        read.redirected = True
        try:
            out = module(x)
        finally:
            read.redirected = False
        if bias is None:
            return out
        return out + bias.reshape(-1, *(1,) * (read.weight.dim() - 2))


def places(root: nn.Module) -> dict[int, tuple[Read, nn.Module]]:
    """Every `Read` of a network by the identity of its weight, with the module that wraps it."""
    found: dict[int, tuple[Read, nn.Module]] = {}
    for module in root.modules():
        inner = module if isinstance(module, Read) else module._modules.get("inner")
        if isinstance(inner, Read):
            found.setdefault(id(inner.weight), (inner, module))
    return found


def listen(root: nn.Module) -> None:
    """Let a network's root redirect reads; its class becomes one derived from its own."""
    kind = type(root)
    plain = kind.forward

    @functools.wraps(plain)  # torch's exporter looks at the arguments' names
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        found = places(self)
        for read, _ in found.values():
            read.armed = True
        try:
            with Redirected(found):
                return plain(self, *args, **kwargs)
        finally:
            for read, _ in found.values():
                read.armed = False

    facts = {"forward": forward, _LISTENS: True, "__module__": kind.__module__}
    root.__class__ = type(kind.__name__, (kind,), facts)


def listens(root: nn.Module) -> bool:
    """Whether `listen` was called."""
    return bool(getattr(type(root), _LISTENS, False))


def bare(root: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Owner and name of the bare parameter that a layer's name stands for."""
    path, _, leaf = name.rpartition(".")
    return root.get_submodule(path), leaf.removesuffix(SUFFIX)


class Observed(TorchFunctionMode):
    """Calls ``seen(weight)`` with the weight of each call of a function of `READERS`."""

    def __init__(self, seen: Callable[[Any], None]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = reading(func, args, kwargs or {})
        if named is not None:
            self.seen(named.get("weight"))
        return func(*args, **(kwargs or {}))
