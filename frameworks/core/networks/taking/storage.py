"""Which tensors are the same numbers in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Place = tuple[Any, ...]


def storage_of(weight: Tensor) -> Place:
    """What two tensors have in common that begin at the same number in memory."""
    return weight.untyped_storage()._cdata, weight.storage_offset()


def same_place(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same numbers in the same shape and order."""
    # The stride of an axis of one entry is never walked.
    steps = ([s for s, size in zip(x.stride(), x.shape, strict=True) if size > 1]
             for x in (one, other))  # fmt: skip
    return (
        storage_of(one) == storage_of(other)
        and one.shape == other.shape
        and next(steps) == next(steps)
    )


def overlap(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have numbers in memory in common."""
    if storage_of(one)[0] != storage_of(other)[0] or not (one.numel() and other.numel()):
        return False
    size = one.untyped_storage().nbytes() // one.element_size()
    places, held = torch.arange(size), torch.zeros(size, dtype=torch.bool)
    held[_view(places, one)] = True
    return bool(held[_view(places, other)].any())


def in_different_shapes(one: str, other: str) -> ValueError:
    """What is raised for two layers of which a policy cannot give each its bits."""
    return ValueError(
        f"layers {one} and {other} store their weights in one tensor in different shapes; "
        "a policy cannot give it bits"
    )


def copied_together(model: nn.Module) -> dict[int, nn.Parameter]:
    """Copies of parameters in one memory, in one memory again, by the identity of what they copy.

    A deep copy gives each parameter a memory of its own.
    """
    held: dict[Any, list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if not nn.parameter.is_lazy(parameter):
            held.setdefault(storage_of(parameter)[0], []).append(parameter)
    found = {}
    for first, *more in held.values():
        if more and {parameter.dtype for parameter in more} == {first.dtype}:
            memory = torch.empty(0, dtype=first.dtype, device=first.device)
            memory.set_(first.untyped_storage().clone())  # type: ignore[no-untyped-call]
            for parameter in (first, *more):
                view = _view(memory, parameter)
                found[id(parameter)] = nn.Parameter(view, parameter.requires_grad)
    return found


def _view(memory: Tensor, like: Tensor) -> Tensor:
    return memory.as_strided(like.shape, like.stride(), like.storage_offset())


class _Copy(NamedTuple):
    name: str
    given: Tensor
    form: Any
    made: nn.Parameter
    layer: bool


class Copies:
    """The parameters of a network that is written out, by what they are copies of.

    Attributes:
        path: the name of the module that is being written out.
    """

    def __init__(self) -> None:
        self.path = ""
        self._known: dict[Any, list[_Copy]] = {}

    def keep(
        self, name: str, given: Tensor, made: nn.Parameter, form: Any = None, layer: bool = True
    ) -> None:
        """Note a parameter.

        Args:
            name: where it is.
            given: what it is a copy of; itself, if it stays.
            made: the parameter.
            form: how the copy was changed.
            layer: whether it is the weight of a layer.
        """
        known = self._known.setdefault(storage_of(given)[0], [])
        known.append(_Copy(name, given, form, made, layer))

    def find(self, given: Tensor, form: Any) -> nn.Parameter | None:
        """The parameter that is there for a tensor already, if it is.

        Raises:
            ValueError: a layer has the tensor's numbers, or some of them, in another shape.
        """
        known = self._known.get(storage_of(given)[0], [])
        for copy in known:
            if copy.form == form and same_place(copy.given, given):
                return copy.made
        for copy in known:
            if copy.layer and overlap(copy.given, given):
                raise in_different_shapes(copy.name, self.path)
        return None


def copied_once(
    weight: Tensor,
    copies: Copies | None,
    change: Callable[[Tensor], Tensor] = lambda x: x,
    form: Any = None,
) -> nn.Parameter:
    """A parameter with a changed copy of a tensor: the same one for what is stored once.

    Args:
        weight: the tensor.
        copies: the parameters made so far, and those that stay; None for a new one.
        change: gives the copy its form.
        form: tells forms apart; None if the copy is not changed.
    """
    known = None if copies is None else copies.find(weight, form)
    if known is None:
        known = nn.Parameter(change(weight.detach()).clone(), weight.requires_grad)
        if copies is not None:
            copies.keep(copies.path, weight, known, form)
    return known
