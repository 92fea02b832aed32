"""Any torch model with settable bits, by swapping its Conv and Linear modules."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from frameworks.core.calibrate import Calibration
from frameworks.core.layers import Layer
from frameworks.core.policy import FLOAT, PRUNED, Bits, LayerBits, Policy
from frameworks.core.quantizers.base import Codes, Float, Quantizer, Scheme, joined


def run_layer(inner: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """The layer's own forward pass with another weight.

    Plain layers take the short way; a subclass with a forward of its own (timm's padding and
    weight-standardising convolutions) is called as it is.
    """
    if type(inner) is nn.Conv2d or type(inner) is nn.Conv1d:
        plain: Tensor = inner._conv_forward(x, weight, inner.bias)
        return plain
    if type(inner) is nn.Linear:
        return functional.linear(x, weight, inner.bias)
    out: Tensor = functional_call(inner, {"weight": weight}, (x,))
    return out


class QLayer(nn.Module):
    """A layer whose weight and input activations pass through quantizers.

    In ``fixed`` mode (evaluation of many policies on unchanged weights) quantized weights and
    calibrated activation quantizers are kept per bit width, the latter with the calibration: all
    networks of a problem share them.
    """

    def __init__(
        self, inner: nn.Module, layer: Layer, scheme: Scheme, calibration: Calibration
    ) -> None:
        super().__init__()
        self.inner = inner
        self.layer = layer
        self.scheme = scheme
        self.bits = LayerBits(FLOAT, FLOAT)
        self.weight_quantizer: Quantizer = Float()
        self.act_quantizer: Quantizer = Float()
        self._calibration = calibration
        if layer.name not in calibration.samples:
            raise KeyError(f"the calibration has no sample of layer {layer.name}")
        self._fixed_weight: Tensor | None = None
        self._weights: dict[int, Tensor] = {}

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            # Some models read sizes, the bias or the weight of a layer without calling it.
            # (An AttributeError inside the property below must not end in the float weight.)
            if name in ("inner", "weight", "__setstate__"):
                raise
            return getattr(super().__getattr__("inner"), name)

    @property
    def _raw(self) -> Tensor:
        return cast(Tensor, self.inner.weight)

    @property
    def weight(self) -> Tensor:
        """The weight as the network sees it, quantized."""
        return self._weight()

    def _weight(self) -> Tensor:
        if self._fixed_weight is not None:
            return self._fixed_weight
        out: Tensor = self.weight_quantizer(self._raw)
        return out

    def forward(self, x: Tensor) -> Tensor:
        return run_layer(self.inner, self.act_quantizer(x), self._weight())

    def _quantized(self, bits: int) -> Tensor:
        if bits not in self._weights:
            raw = self._raw.detach()
            self._weights[bits] = self.scheme.weight(raw, bits)(raw).detach()
        return self._weights[bits]

    def _fixed(self, bits: Bits) -> Tensor:
        if isinstance(bits, int):
            return self._quantized(bits)
        out = torch.zeros_like(self._raw)
        each = torch.tensor(bits)
        for value in set(bits) - {PRUNED}:
            rows = each == value
            out[rows] = self._quantized(value)[rows]
        return out

    @torch.no_grad()
    def codes(self) -> Codes | None:
        """The integers behind `weight`; None where it, or a channel of it, is float."""
        bits, raw = self.bits.weight, self._raw.detach()
        if FLOAT in ((bits,) if isinstance(bits, int) else bits):
            return None
        if self._fixed_weight is None:
            return self.weight_quantizer.codes(raw)
        if isinstance(bits, int):
            return self.scheme.weight(raw, bits).codes(raw)
        each, parts = torch.tensor(bits), []
        for value in sorted(set(bits)):
            rows = torch.nonzero(each == value).flatten()
            # The ranges are those of the whole tensor, as in `_fixed`.
            whole = self.scheme.weight(raw, value).codes(raw)
            parts.append((rows, _rows_of(whole, rows)))
        return joined(parts, raw)

    def use(self, bits: LayerBits, weight: Quantizer, act: Quantizer) -> None:
        """Put in quantizers made elsewhere, which stand for these bits."""
        self.bits = bits
        self._fixed_weight = None
        self.weight_quantizer, self.act_quantizer = weight, act

    def _activation(self, bits: int) -> Quantizer:
        return self._calibration.quantizer(self.scheme, self.layer.name, bits)

    def fix(self, bits: LayerBits) -> None:
        """Use these bits with ranges from calibration and without gradients to the weight."""
        self.bits = bits
        self.act_quantizer = self._activation(bits.act)
        self._fixed_weight = self._fixed(bits.weight)

    def free(self, bits: LayerBits) -> None:
        """Use these bits with trainable weight and ranges, starting from calibration."""
        self.bits = bits
        self._fixed_weight = None
        self._weights.clear()
        self.weight_quantizer = self.scheme.weight(self._raw.detach(), bits.weight)
        self.act_quantizer = copy.deepcopy(self._activation(bits.act))
        self.weight_quantizer.learn_range()
        self.act_quantizer.learn_range()


def _rows_of(codes: Codes, rows: Tensor) -> Codes:
    """The codes of some output channels."""
    count = len(codes.code)

    def cut(x: Tensor) -> Tensor:
        return x[rows] if x.dim() > 1 and len(x) == count else x

    book = None if codes.codebook is None else cut(codes.codebook)
    return Codes(codes.code[rows], cut(codes.scale), cut(codes.offset), book)


class QModel(nn.Module):
    """A copy of a float model in which every quantizable layer is a `QLayer`.

    Args:
        model: the float model; it is copied and not changed.
        layers: its layers, from `frameworks.core.layers.describe`.
        scheme: how tensors are quantized.
        calibration: samples of the layers' inputs, from `frameworks.core.calibrate.observe`.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[Layer],
        scheme: Scheme,
        calibration: Calibration,
    ) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        self.model._forward_hooks.clear()
        self.layers = tuple(layers)
        self.scheme = scheme
        self.calibration = calibration
        self._names = {layer.name: layer for layer in layers}
        self.freed = 0
        """How often `free` was called: what was computed before holds for other weights."""
        for layer in layers:
            inner = self.model.get_submodule(layer.name)
            wrapped = QLayer(inner, layer, scheme, calibration)
            for name, module in list(self.model.named_modules(remove_duplicate=False)):
                if module is inner:
                    self.model = swap_module(self.model, name, wrapped)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x)
        return out

    def qlayer(self, name: str) -> QLayer:
        """The quantized layer of a name."""
        module = self.model.get_submodule(name)
        assert isinstance(module, QLayer)
        return module

    def qlayers(self) -> Iterator[tuple[str, QLayer]]:
        """Names and quantized layers in execution order."""
        for name in self._names:
            yield name, self.qlayer(name)

    @property
    def policy(self) -> Policy:
        """The bits in force."""
        return Policy({name: q.bits for name, q in self.qlayers()})

    def fix(self, policy: Policy) -> QModel:
        """Apply a policy for evaluation: quantized weights are cached per layer and bit width."""
        for name, q in self.qlayers():
            q.fix(policy[name])
        return self

    def free(self, policy: Policy) -> QModel:
        """Apply a policy for training: weights and ranges are trainable."""
        self.freed += 1
        for name, q in self.qlayers():
            q.free(policy[name])
        return self

    def float_state(self) -> dict[str, Tensor]:
        """A state dict of the float model with the present weights, before any quantizer."""
        modules = self.model.named_modules(remove_duplicate=False)
        owners = [f"{name}." if name else "" for name, m in modules if isinstance(m, QLayer)]
        state: dict[str, Tensor] = {}
        for key, value in self.model.state_dict().items():
            owner = next((prefix for prefix in owners if key.startswith(prefix)), None)
            if owner is not None:
                if not key.startswith(f"{owner}inner."):
                    continue  # a range of a quantizer
                key = owner + key.removeprefix(f"{owner}inner.")
            state[key] = value.detach().clone()
        return state

    def weight_parameters(self) -> list[nn.Parameter]:
        """Everything trainable that is not a range."""
        ranges = {id(p) for p in self.range_parameters()}
        return [p for p in self.parameters() if p.requires_grad and id(p) not in ranges]

    def range_parameters(self) -> list[nn.Parameter]:
        """Trainable steps and clipping values."""
        return [
            p
            for _, q in self.qlayers()
            for quantizer in (q.weight_quantizer, q.act_quantizer)
            for p in quantizer.parameters()
            if p.requires_grad
        ]


def swap_module(root: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """Put a module in the place of a name; returns the root (new if the name is the root)."""
    if not name:
        return module
    parent, _, leaf = name.rpartition(".")
    setattr(root.get_submodule(parent), leaf, module)
    return root
