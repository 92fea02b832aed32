"""What a network must be so that its layers can be quantized, found out before any training.

Each fault is a `ValueError` that names the model, the layer or tensor, and what to do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.models.parting import close, since
from frameworks import copied, first_nonfinite, seeded

PROBES = 4
"""Images that a network is tried on."""
CALLED = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Linear)
UNKNOWN = (nn.Conv3d, nn.ConvTranspose3d)


def uncompiled(model: nn.Module) -> nn.Module:
    """The network that ``torch.compile`` wraps; the argument itself where it does not.

    Under the compiler a layer's call is not seen each time, and another layer in its place is
    compiled anew.
    """
    return model.get_submodule("_orig_mod") if _compiled(model) else model


def _compiled(module: nn.Module) -> bool:
    # By its name: to import the type is to load the compiler.
    return type(module).__name__ == "OptimizedModule"


def check_modules(model: nn.Module, where: str) -> None:
    """What can be told without running a network.

    Args:
        model: on any device, freshly made or loaded.
        where: names it in messages.

    Raises:
        ValueError: it has no parameters, or layers or types that are not supported, or a part of it
            is compiled.
    """
    for name, module in model.named_modules():
        if isinstance(module, UNKNOWN):
            kind = type(module).__name__
            raise ValueError(f"{where}: layer {name} is a {kind}; only 1D and 2D ones are taken")
        if _compiled(module):
            raise ValueError(
                f"{where}: {name} is compiled by torch.compile, so that not every call of its "
                f"layers is seen; use the module itself, {name}._orig_mod"
            )
    parameters = dict(model.named_parameters())
    if not parameters:
        raise ValueError(f"{where} has no parameters, so nothing to quantize")
    for name, value in parameters.items():
        if value.is_meta:
            raise ValueError(f"{where}: {name} is on the meta device; give it values")
        if value.dtype != torch.float32:
            dtype = str(value.dtype).removeprefix("torch.")
            raise ValueError(f"{where}: {name} is {dtype}; convert the model with .float()")


def check_network(model: nn.Module, images: Tensor, classes: int | None, where: str) -> None:
    """Everything about a network that its searches, its costs and its export rely on.

    Args:
        model: a float network; its weights, mode and the global random state are left alone.
        images: a few of the data set's images ``[N, C, H, W]``.
        classes: how many logits it must give; None: any number.
        where: names the network in messages.

    Raises:
        ValueError: it gives anything but one float tensor ``[N, classes]``, has values that are not
            finite, calls layers with keywords, takes other layers for other images, or its output
            depends on chance, on earlier calls or on the other images of a batch.
    """
    check_modules(model, where)
    if name := first_nonfinite(model):
        raise ValueError(f"{where}: {name} has NaN or infinite values")
    with _evaluating(model), seeded(0, "network check"):
        probe = _Probe(model, classes, where)
        together = probe.run(images)
        apart = torch.cat([probe.run(image[None]) for image in images])
        probe.same_layers(torch.zeros_like(images[:1]))
        if close(together, apart):
            return
        if not close(together, probe.run(images)):
            raise ValueError(
                f"{where} gives other logits for the same images in eval mode"
                f"{since(model, images, images)}; leave dropout and other chance to training "
                "(functional.dropout needs training=self.training) and keep nothing between calls"
            )
        raise ValueError(
            f"{where}: the logits of an image depend on the other images of its batch"
            f"{since(model, images, images[:1])}; in eval mode every image must stand alone"
        )


def check_training(model: nn.Module, images: Tensor, classes: int, where: str) -> None:
    """What a network must give in train mode, of which `check_network` knows nothing.

    Args:
        model: a float network; it is copied to where ``images`` are, and the global random state is
            left alone.
        images: two images or more, as BatchNorm needs.
        classes: how many logits it must give.
        where: names the network in messages.

    Raises:
        ValueError: it fails, gives anything but one tensor of logits, or is frozen as a whole.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            f"{where}: all parameters are frozen, and it is to be trained; let those that may "
            "change have requires_grad=True"
        )
    network = copied(model).to(images.device).train()
    with torch.no_grad(), seeded(0, "training check"):
        try:
            output = network(images)
        except Exception as error:
            raise ValueError(f"{where} fails in train mode: {error}") from error
    _logits(output, len(images), classes, f"{where} in train mode")


class _Probe:
    """Runs a network and notes which layers are called, and how."""

    def __init__(self, model: nn.Module, classes: int | None, where: str) -> None:
        self.model, self.classes, self.where = model, classes, where
        self.names: dict[nn.Module, str] = {
            m: n for n, m in model.named_modules() if isinstance(m, CALLED)
        }
        self.calls: list[Counter[str]] = []
        self.fault = ""

    def run(self, images: Tensor) -> Tensor:
        """Checked logits ``[N, classes]`` of images."""
        before = {name: value.clone() for name, value in self.model.named_buffers()}
        given = images.clone(memory_format=torch.preserve_format)
        output = self._call(given)
        if not torch.equal(given, images):
            raise ValueError(f"{self.where} changes its input in place; let it work on a copy")
        for name, value in self.model.named_buffers():
            if name not in before or not torch.equal(before[name], value):
                raise ValueError(f"{self.where}: a forward pass in eval mode changes {name}")
        return _logits(output, len(images), self.classes, self.where)

    def same_layers(self, zeros: Tensor) -> None:
        """Compare the layers that all runs have reached, and those that zeros reach."""
        real = self.calls[:]
        self._call(zeros)
        (described,) = self.calls[len(real) :]
        for calls in real:
            if never := sorted(n for n in calls | described if calls[n] != described[n]):
                raise ValueError(
                    f"{self.where}: the layers that run depend on the values of an image: "
                    f"{', '.join(never[:4])} may be never reached by the calibration images, or "
                    "not as often as by others; run the same layers for every image"
                )

    def _call(self, images: Tensor) -> Any:
        self.calls.append(Counter())
        handles = [m.register_forward_pre_hook(self._note, with_kwargs=True) for m in self.names]
        try:
            output = self.model(images)
        except Exception as error:
            fault = f"{self.where} fails on a batch of {len(images)} images: {error}"
            raise ValueError(self.fault or fault) from error
        finally:
            for handle in handles:
                handle.remove()
        if self.fault:
            raise ValueError(self.fault)
        return output

    def _note(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        name = self.names[module]
        self.calls[-1][name] += 1
        if kwargs or len(args) != 1 or not isinstance(args[0], Tensor):
            how = f"the keyword {', '.join(kwargs)}" if kwargs else f"{len(args)} arguments"
            self.fault = self.fault or (
                f"{self.where}: layer {name} is called with {how}; give it one tensor, and no "
                "keyword: layer(x)"
            )


def _logits(output: Any, images: int, classes: int | None, where: str) -> Tensor:
    """The one float tensor ``[images, classes]`` that a network must give."""
    sizes = "" if classes is None else f" = [{images}, {classes}]"
    wanted = f"one float tensor of logits [images, classes]{sizes}"
    if not isinstance(output, Tensor):
        kind = type(output).__name__
        count = f" of {len(output)} outputs" if isinstance(output, tuple | list | dict) else ""
        raise ValueError(f"{where} gives a {kind}{count}, not {wanted}; return its logits alone")
    pair = output.dim() == 2 and len(output) == images
    if not pair or classes not in (None, output.shape[1]):
        raise ValueError(f"{where} gives {list(output.shape)}, not {wanted}")
    if output.dtype != torch.float32:
        raise ValueError(f"{where} gives {output.dtype}, not {wanted}; end it with .float()")
    if not output.isfinite().all():
        raise ValueError(f"{where} gives NaN or infinite logits for images of the data set")
    return output


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; every module's mode is put back."""
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            model.eval()
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
