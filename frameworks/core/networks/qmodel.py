"""Any torch model with settable bits, by swapping its Conv and Linear modules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from frameworks.core.layers import Layer
from frameworks.core.networks.calibrate import Calibration
from frameworks.core.networks.meter import Meter
from frameworks.core.networks.probe import probe, same_function
from frameworks.core.networks.qlayer import QLayer
from frameworks.core.networks.taking.bake import copied
from frameworks.core.networks.taking.take import given_state, swap_module, taken
from frameworks.core.policy import Policy
from frameworks.core.quantizers.base import Scheme


class QModel(nn.Module):
    """A copy of a float model in which every quantizable layer is a `QLayer`.

    The first network made with a calibration is probed: every layer's weight bits alone and input
    bits alone must reach its call (`frameworks.core.networks.probe`).

    Args:
        model: the float model; it is copied and not changed.
        layers: its layers, from `frameworks.core.networks.taking.describe`.
        scheme: how tensors are quantized.
        calibration: samples of the layers' inputs, from `frameworks.observe`.

    Raises:
        ValueError: a layer's bits do not reach what the network computes; it is named.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[Layer],
        scheme: Scheme,
        calibration: Calibration,
    ) -> None:
        super().__init__()
        made = taken(model, [layer.name for layer in layers if layer.read])
        self.model = copied(model) if made is model else made
        _unmetered(self.model)
        self.layers = tuple(layers)
        self.scheme = scheme
        self.calibration = calibration
        self._names = {layer.name: layer for layer in layers}
        self.freed = 0
        """How often `free` was called: what was computed before holds for other weights."""
        names: dict[nn.Module, list[str]] = {}
        for name, module in self.model.named_modules(remove_duplicate=False):
            names.setdefault(module, []).append(name)
        # A layer inside another one first, as its name leads elsewhere once that one is wrapped.
        for layer in sorted(layers, key=lambda layer: -layer.name.count(".")):
            inner = self.model.get_submodule(layer.name)
            wrapped = QLayer(inner, layer, scheme, calibration)
            for name in names[inner]:
                self.model = swap_module(self.model, name, wrapped)
        for layer in layers:
            if layer.shared:  # two parameters in one memory would be trained twice
                self.qlayer(layer.name).inner.weight = self.qlayer(layer.shared).inner.weight
        if calibration.images is not None and not calibration.probed:
            with _uncounted(model):
                same_function(model, self.model, calibration.images)
            probe(self.model, dict(self.qlayers()), calibration.images)
            calibration.probed.append(True)

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
            if q.layer.shared:
                # What is stored once has one range.
                q.weight_quantizer = self.qlayer(q.layer.shared).weight_quantizer
        return self

    def float_state(self) -> dict[str, Tensor]:
        """A state dict of the float model with the present weights, before any quantizer.

        What was computed or written otherwise in the network as given is there under both names.
        """
        modules = self.model.named_modules(remove_duplicate=False)
        owners = [f"{name}." if name else "" for name, m in modules if isinstance(m, QLayer)]
        owners.sort(key=len, reverse=True)  # what lies inside a layer first
        state: dict[str, Tensor] = {}
        for given, value in self.model.state_dict().items():
            key: str | None = given
            for owner in owners:
                if key is not None and key.startswith(owner):
                    inside = key.startswith(f"{owner}inner.")  # all else are ranges of quantizers
                    key = owner + key.removeprefix(f"{owner}inner.") if inside else None
            if key is not None:
                state[key] = value.detach().clone()
        for name, q in self.qlayers():
            if q.shift is not None and f"{name}.bias" in state:
                state[f"{name}.bias"] -= q.shift
        return given_state(self.model, state)

    def weight_parameters(self) -> list[nn.Parameter]:
        """Everything trainable that is not a range."""
        ranges = {id(p) for p in self.range_parameters()}
        return [p for p in self.parameters() if p.requires_grad and id(p) not in ranges]

    def range_parameters(self) -> list[nn.Parameter]:
        """Trainable steps and clipping values."""
        found = {
            id(p): p
            for _, q in self.qlayers()
            for quantizer in (q.weight_quantizer, q.act_quantizer)
            for p in quantizer.parameters()
            if p.requires_grad
        }
        return list(found.values())


def _unmetered(model: nn.Module) -> None:
    """Take off the meters' hooks that a copy of a watched network has."""
    for key, hook in list(model._forward_hooks.items()):
        if isinstance(getattr(hook, "__self__", None), Meter):
            del model._forward_hooks[key]


@contextmanager
def _uncounted(model: nn.Module) -> Iterator[None]:
    """Within the context a watched network is not counted."""
    hooks = dict(model._forward_hooks)
    _unmetered(model)
    try:
        yield
    finally:
        model._forward_hooks.clear()
        model._forward_hooks.update(hooks)
