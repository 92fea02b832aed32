"""Tensors that pretend to lie on a GPU, so that code is placed right before it ever meets one.

Within `pretended_gpu` a network or tensor moved to ``cuda`` has real values in main memory, but
says that it is on ``cuda:0``, and an operation that mixes it with a tensor of the CPU raises
`Misplaced`, as torch does on a machine with a GPU. So whole searches can be run and compared.

torch's own ``FakeTensorMode`` has no values, which searches steer by, and without a GPU it cannot
run a backward pass; it lies below here for one thing: under it, torch does not ask for the driver.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

GPU = torch.device("cuda", 0)
_aten = torch.ops.aten
_ACROSS = {_aten.copy_.default, _aten._to_copy.default}
"""Operations that bring data from one device to another."""
_INDEXED = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default}
"""Operations whose indices may lie on the CPU wherever the data are."""
_OF_CPU = ("numpy", "__array__")
_calls: list[Callable[..., Any]] = []
"""Functions of torch that are at work on pretending tensors."""


class Misplaced(RuntimeError):
    """An operation met tensors, or a generator, of two devices."""


class _Pretending(Tensor):
    """A tensor with its values in main memory that says it is on the GPU."""

    held: Tensor
    device = property(lambda self: GPU)
    is_cuda = property(lambda self: True)

    @staticmethod
    def __new__(cls: type[_Pretending], held: Tensor) -> _Pretending:
        made: _Pretending = Tensor._make_subclass(cls, held.detach(), False)
        made.held = held
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"{self.held} pretending to be on {GPU}"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            with _plainly():
                copy = _Pretending(self.held.detach().clone())
            copy.requires_grad_(self.requires_grad)
            if getattr(self, "_is_param", False):
                copy._is_param = True
            memo[id(self)] = copy
        found: Tensor = memo[id(self)]
        return found

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        with torch._C.DisableTorchFunctionSubclass():
            if args and isinstance(args[0], _Pretending):
                _calls.append(func)
                try:
                    return _called(func, args, kwargs)
                finally:
                    _calls.pop()
            if getattr(func, "__name__", "") == "to" and isinstance(args[1], _Pretending):
                return args[0].to(GPU, args[1].dtype)
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return _run(func, args, kwargs or {})


class _Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees the operations that have no pretending tensor among their arguments."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return _run(func, args, kwargs or {})


def _called(func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """A method of a pretending tensor: those that ask for a device go by what it pretends."""
    name, first, rest = getattr(func, "__name__", ""), args[0], list(args[1:])
    if name in _OF_CPU:
        raise Misplaced(f"{name}: can't convert a tensor on {GPU}; call .cpu() first")
    if name == "tolist":
        return first.held.tolist()
    if name == "new_tensor":
        return torch.tensor(rest[0], **{"dtype": first.dtype, "device": GPU, **kwargs})
    if name == "cpu":
        return _moved(first, torch.device("cpu"))
    if name != "to":
        return func(*args, **kwargs)
    if rest and isinstance(rest[0], Tensor):
        rest[:1] = [rest[0].device, rest[0].dtype]
    kwargs.pop("copy", None)
    device, dtype, _, memory_format = torch._C._nn._parse_to(*rest, **kwargs)
    moved = first if device is None or device.type == GPU.type else _moved(first, device)
    if dtype in (None, moved.dtype) and memory_format is None:
        return moved
    # `to` itself would ask for the device that the values are on.
    return _aten._to_copy.default(moved, dtype=dtype or moved.dtype, memory_format=memory_format)


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    moved: Tensor = _aten._to_copy.default(tensor, device=device)
    return moved


def _run(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """An operation on the values, with what comes out placed where it would lie."""
    tensors = [*_tensors(args), *_tensors(kwargs.values())]
    placed = any(isinstance(tensor, _Pretending) for tensor in tensors)
    device = kwargs.get("device")
    if not placed and device is None:  # the CPU's alone
        with _plainly():
            return func(*args, **kwargs)
    name = func.__name__.partition(".")[0]
    if name.startswith("new_") or name.endswith("_like"):
        device = GPU if placed else device  # torch itself asks where the values are
    elif not tensors and _calls and device is not None:
        device = GPU  # made by torch on its way through an operation
    if func in _ACROSS and device is None:
        on_gpu = isinstance(args[0], _Pretending)
    else:
        on_gpu = placed if device is None else torch.device(device).type == GPU.type
    _check(func, args, kwargs, tensors, on_gpu)
    if device is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    known = {id(t.held): t for t in tensors if isinstance(t, _Pretending)}

    def place(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) in known:  # an operation in place
            return known[id(value)]
        return _Pretending(value) if on_gpu else value

    with _plainly():
        held = {key: _each(_held, value) for key, value in kwargs.items()}
        return _each(place, func(*_each(_held, args), **held))


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among the arguments of an operation, which come alone or in lists."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _each(function: Callable[[Any], Any], value: Any) -> Any:
    """A value, or all that is in a list or tuple, through a function."""
    if isinstance(value, list | tuple):
        return type(value)(_each(function, entry) for entry in value)
    return function(value)


@contextmanager
def _plainly() -> Iterator[None]:
    """Within the context operations compute: torch's fake mode is off, as ours in its own call."""
    fake = torch._C._unset_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE)
    try:
        yield
    finally:
        if fake is not None:
            torch._C._set_dispatch_mode(fake)


def _held(value: Any) -> Any:
    return value.held if isinstance(value, _Pretending) else value


def _check(
    func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], tensors: Sequence[Tensor], gpu: bool
) -> None:
    """Raise where torch would on a machine with a GPU."""
    cpu = [t for t in tensors if not isinstance(t, _Pretending) and t.dim() > 0]
    placed = [t for t in tensors if isinstance(t, _Pretending)]
    if func in _INDEXED:  # indices may come from the CPU
        given = {id(index) for index in args[1]}
        cpu = [t for t in cpu if id(t) not in given]
    if func is _aten.cat.default or func is _aten.stack.default:  # numbers do not join tensors
        cpu = [t for t in tensors if not isinstance(t, _Pretending)]
    mixed = bool(cpu and placed) and func not in _ACROSS
    if mixed:
        shapes = ", ".join(
            f"{'cuda' if isinstance(t, _Pretending) else 'cpu'} {list(t.shape)}" for t in tensors
        )
        raise Misplaced(f"{func}: tensors of two devices: {shapes}")
    generator = kwargs.get("generator")
    drawn = [*args, generator]
    if gpu and any(isinstance(g, torch.Generator) and g.device.type == "cpu" for g in drawn):
        raise Misplaced(f"{func}: a generator of the CPU draws numbers on {GPU}; draw, then move")


@contextmanager
def some_gpu() -> Iterator[torch.device]:
    """A GPU that is there; a pretended one where there is none."""
    if torch.cuda.is_available():
        yield GPU
        return
    with pretended_gpu() as gpu:
        yield gpu


@contextmanager
def pretended_gpu() -> Iterator[torch.device]:
    """Within the context ``tensor.to(device)`` and ``module.to(device)`` pretend a GPU."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with (
            torch.backends.cudnn.flags(enabled=False),
            sdpa_kernel(SDPBackend.MATH),
            FakeTensorMode(),
            _Mode(),  # type: ignore[no-untyped-call]
        ):
            yield GPU
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)
