"""The way of layers' outputs through a network's functions to the layers that read them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

Readers = Mapping[str, str | None]
"""By layer: the next one that reads what was made of its output; None where no layer does."""
Seen = Callable[[str, Tensor], object]
"""What is told the tensor that stands for a layer."""


@contextmanager
def watched(model: nn.Module, read_by: Readers, seen: Seen) -> Iterator[None]:
    """In forward passes within the context, the tensor that stands for each layer is seen once.

    That is what its reader reads; or, where this has fewer elements than the layer's output, the
    last tensor of the output's shape that it was made of. A layer without a reader: its output.
    """
    ways = _Ways(read_by, seen)
    handles = [
        model.get_submodule(name).register_forward_hook(partial(ways.gave, name))
        for name in read_by
    ]
    handles += [
        model.get_submodule(name).register_forward_pre_hook(partial(ways.reads, name))
        for name in dict.fromkeys(read_by.values())
        if name is not None
    ]
    try:
        with ways:
            yield
    finally:
        for handle in handles:
            handle.remove()


class _Made(NamedTuple):
    """A tensor made of a layer's output, and the last of the output's shape on the way to it."""

    tensor: Tensor
    number: int
    last: Tensor


class _Ways(TorchFunctionMode):
    """Follows what layers gave, function by function, until it is read."""

    def __init__(self, read_by: Readers, seen: Seen) -> None:
        super().__init__()
        self.read_by, self.seen = read_by, seen
        self.waiting = set(read_by)
        self.numbers = count()
        self.made: dict[str, dict[int, _Made]] = {}
        """By layer and the identity of a tensor, which is its own as long as it is kept."""

    def gave(self, name: str, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        """A layer gave its output; the first time counts."""
        if name not in self.waiting:
            return
        self.waiting.remove(name)
        if self.read_by[name] is None:
            self.seen(name, output)
        else:
            self.made[name] = {id(output): _Made(output, next(self.numbers), output)}

    def reads(self, reader: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        """A layer reads what was made of others' outputs."""
        x = args[0]
        for name in [name for name in self.made if self.read_by[name] == reader]:
            made = self.made.pop(name)
            fewer = x.numel() < _output(made).numel()
            self.seen(name, made[id(x)].last if fewer and id(x) in made else x)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = [id(x) for x in _tensors([*args, *(kwargs or {}).values()])]
        for made in self.made.values():
            origins = [made[key] for key in given if key in made]
            for x in _tensors([result] if origins else []):
                own = x.shape == _output(made).shape
                latest = max(origins, key=lambda origin: origin.number)
                made[id(x)] = _Made(x, next(self.numbers), x) if own else latest._replace(tensor=x)
        return result


def _output(made: Mapping[int, _Made]) -> Tensor:
    """The layer's output, of which all was made."""
    return next(iter(made.values())).tensor


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among some values and what they hold."""
    return (value for value in tree_leaves(list(values)) if isinstance(value, Tensor))
