"""Weights that are computed from other tensors on each call, baked into plain ones.

A layer under ``spectral_norm``, ``weight_norm``, a pruning mask or any other parametrization has no
weight of its own that could be quantized or trained. Its present weight takes their place. Pruned
entries stay pruned: the mask is kept beside the weight (`mask_of`), and what trains, rounds or
quantizes the layer starts from a 0 there. A grid without a level 0 (of one bit, of codebooks, of
the schemes ``dorefa_pact``, ``fracbits``, ``hwgq`` and ``sdq``) has them at its level nearest to 0.
Masks of vectors, such as biases, are not kept: nothing applies them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook
from torch.nn.utils.weight_norm import WeightNorm
from torch.overrides import TorchFunctionMode

from frameworks.core.networks.taking.storage import copied_together

Model = TypeVar("Model", bound=nn.Module)
MASK = "kept_"
"""Begins the name of the buffer with a pruned tensor's mask; the tensor's own name ends it."""


@dataclass(frozen=True)
class Baked:
    """One tensor that was computed, and the module as it was given, to translate states by.

    Attributes:
        path: the module's name.
        tensor: the tensor's name in it, such as ``weight``.
        keys: the entries of the given module's state that stand for it.
        given: a copy of the module before baking.
    """

    path: str
    tensor: str
    keys: tuple[str, ...]
    given: nn.Module

    @torch.no_grad()
    def express(self, value: Tensor) -> dict[str, Tensor]:
        """The given network's entries for a plain value; none where it cannot express it."""
        module = copy.deepcopy(self.given)
        if not self._set(module, value):
            return {}
        state = module.state_dict()
        return {self._full(key): state[key].detach().clone() for key in self.keys}

    @torch.no_grad()
    def plain(self, state: dict[str, Tensor]) -> Tensor:
        """The plain value behind entries of the given network's state."""
        module = copy.deepcopy(self.given).eval()
        own = {**module.state_dict(), **{key: state[self._full(key)] for key in self.keys}}
        module.load_state_dict(own)
        _bake_module(module)
        value = getattr(module, self.tensor)
        assert isinstance(value, Tensor)
        return value.detach()

    @property
    def given_names(self) -> list[str]:
        """The entries of the given network's state."""
        return [self._full(key) for key in self.keys]

    @property
    def given_entries(self) -> dict[str, Tensor]:
        """What these are in the network as it was given."""
        state = self.given.state_dict()
        return {self._full(key): state[key] for key in self.keys}

    @property
    def name(self) -> str:
        """The entry of the plain network's state."""
        return self._full(self.tensor)

    def _full(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def _set(self, module: nn.Module, value: Tensor) -> bool:
        """Give a module a value by its own rule; whether it then computes that value."""
        name = self.tensor
        if parametrize.is_parametrized(module, name):
            try:
                setattr(module, name, value)
            except (NotImplementedError, RuntimeError):  # a rule without an inverse
                return False
            found = getattr(module, name)
        elif f"{name}_mask" in self.keys:
            mask, old = getattr(module, f"{name}_mask"), getattr(module, f"{name}_orig")
            old.copy_(torch.where(mask.bool(), value, old))
            found = old * mask
        elif f"{name}_g" in self.keys:
            rule = next(hook for _, hook in _computing(module) if getattr(hook, "name", "") == name)
            getattr(module, f"{name}_v").copy_(value)
            dim = rule.dim if rule.dim != -1 else None
            axes = [axis for axis in range(value.dim()) if axis != dim]
            getattr(module, f"{name}_g").copy_(value.norm(2, axes, keepdim=dim is not None))
            found = rule.compute_weight(module)
        else:
            return False
        return bool(torch.allclose(found, value, rtol=1e-4, atol=1e-6))


def mask_of(module: nn.Module, tensor: str = "weight") -> Tensor | None:
    """The mask of a pruned tensor, which is 0 where the tensor has to stay 0."""
    return module._buffers.get(f"{MASK}{tensor}")


def stored_weight(module: nn.Module) -> Tensor:
    """A layer's weight as it is stored, to be changed in place; what is pruned counts nowhere."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight


def raw_weight(module: nn.Module) -> Tensor:
    """A layer's weight before any quantizer, with pruned entries at 0.

    Not to be changed in place: under a mask it is a tensor of its own (see `stored_weight`).
    """
    weight, mask = stored_weight(module), mask_of(module)
    return weight if mask is None else weight * mask


def keep_mask(module: nn.Module, mask: Tensor | None, tensor: str = "weight") -> None:
    """Give a tensor a mask (see `mask_of`), if there is one."""
    if mask is not None:
        module.register_buffer(f"{MASK}{tensor}", mask.detach().clone(), persistent=False)


def computed(model: nn.Module) -> bool:
    """Whether any module computes a tensor of its own from others on each call."""
    return any(
        parametrize.is_parametrized(m) or next(_computing(m), None) is not None
        for m in model.modules()
    )


def bake(model: nn.Module) -> list[Baked]:
    """Bake every computed tensor of a network in eval mode, in place.

    Raises:
        ValueError: two modules store one tensor and are not pruned alike; they are named.
    """
    _check_ties(model)
    found: list[Baked] = []
    for path, module in list(model.named_modules()):
        if not parametrize.is_parametrized(module) and next(_computing(module), None) is None:
            continue
        given = copied(module)
        for tensor, keys in _tensors(module):
            found.append(Baked(path, tensor, keys, given))
        _bake_module(module)
    return found


def copied(model: Model) -> Model:
    """A deep copy in which parameters in one memory still are.

    Of computed tensors with a graph, which torch refuses to copy, it has the values, wherever a
    module keeps them.
    """
    with _Values():
        return copy.deepcopy(model, dict[int, Any](copied_together(model)))


class _Values(TorchFunctionMode):
    """Copies of tensors with a graph are their values, within the context."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            value, memo = args
            return memo.setdefault(id(value), value.detach().clone())
        return func(*args, **(kwargs or {}))


def _check_ties(model: nn.Module) -> None:
    """Raise where a tensor is stored once and pruned differently: a mask would reach all of it."""
    held: dict[nn.Parameter, list[tuple[str, Tensor | None]]] = {}
    for path, module in model.named_modules():
        pruned = {
            f"{name}_orig": getattr(module, f"{name}_mask")
            for name, hook in _computing(module)
            if isinstance(hook, prune.BasePruningMethod)
        }
        for name, parameter in module._parameters.items():
            if parameter is not None:
                whose = f"{path}.{name.removesuffix('_orig') if name in pruned else name}"
                held.setdefault(parameter, []).append((whose.lstrip("."), pruned.get(name)))
    for (first, mask), *others in held.values():
        for other, its in others:
            if (mask is None) != (its is None) or (
                mask is not None and its is not None and not torch.equal(mask, its)
            ):
                raise ValueError(
                    f"{first} and {other} are one tensor, but are not pruned alike; prune both by "
                    "one mask (torch.nn.utils.prune.custom_from_mask), or give each its own tensor"
                )


def _computing(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Names of tensors that torch's older hooks compute, and the hooks."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm | SpectralNorm):
            yield hook.name, hook
        elif isinstance(hook, prune.BasePruningMethod):
            yield hook._tensor_name, hook


def _rules(module: nn.Module) -> dict[str, nn.Module]:
    """The parametrizations of a module by tensor."""
    rules = module.parametrizations
    assert isinstance(rules, nn.ModuleDict)
    return dict(rules.items())


def _tensors(module: nn.Module) -> Iterator[tuple[str, tuple[str, ...]]]:
    state = module.state_dict()
    if parametrize.is_parametrized(module):
        for name in _rules(module):
            prefix = f"parametrizations.{name}."
            yield name, tuple(key for key in state if key.startswith(prefix))
    for name, _ in _computing(module):
        suffixes = ("_orig", "_mask", "_g", "_v", "_u")
        yield name, tuple(f"{name}{s}" for s in suffixes if f"{name}{s}" in state)


@torch.no_grad()
def _bake_module(module: nn.Module) -> None:
    if parametrize.is_parametrized(module):
        # torch's own removal changes the class, which copies of a module share.
        values = {name: getattr(module, name) for name in _rules(module)}
        trained = {
            name: any(parameter.requires_grad for parameter in rule.parameters())
            for name, rule in _rules(module).items()
        }
        module.__class__ = parametrize.type_before_parametrizations(module)
        del module._modules["parametrizations"]
        for name, value in values.items():
            module.register_parameter(name, nn.Parameter(value.detach().clone(), trained[name]))
    for name, hook in list(_computing(module)):
        if isinstance(hook, WeightNorm):
            remove_weight_norm(module, name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(module, name)
            # torch leaves this hook, which it wraps, behind.
            hooks = module._load_state_dict_pre_hooks
            for key, wrapped in list(hooks.items()):
                if isinstance(getattr(wrapped, "hook", wrapped), SpectralNormLoadStateDictPreHook):
                    del hooks[key]
        else:
            mask = getattr(module, f"{name}_mask")
            prune.remove(module, name)  # type: ignore[no-untyped-call]
            keep_mask(module, mask if mask.dim() > 1 else None, name)
