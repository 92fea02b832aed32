"""A factory for any network: the project's own, timm's, a plugin's, or one of a file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.fingerprints.named_files import names_code
from benchmarks.models.files import build_of
from benchmarks.models.network_check import check_modules, uncompiled
from benchmarks.models.small import OWN
from frameworks import Registry, UnknownName, seeded


@dataclass
class ModelConfig:
    """Which network.

    Attributes:
        name: ``resnet8``, ``resnet20``, ``resnet56`` or ``mobilenetv2_small``; any of
            timm's names; a plugin's; or ``PATH.py:FUNCTION``, a factory of one's own,
            which gets ``num_classes`` and ``in_chans`` if it takes them.
        pretrained: start from timm's published weights (needs the network to be online).
        checkpoint: weights to use instead of pretraining: a safetensors file, or one that
            ``torch.load`` reads with ``weights_only=True`` (.pt, .pth, .ckpt).
        retrain: train here although the project has a network of this model, data and recipe (see
            `benchmarks.models.committed`); ``retrain=true`` and ``juxtabit run --retrain`` set it
            for all.
        options: further keyword arguments of the model.
        pretrain: entries that replace those of the dataset's pretraining recipe.
    """

    name: str = "resnet8"
    pretrained: bool = False
    checkpoint: str | None = None
    retrain: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    pretrain: dict[str, Any] = field(default_factory=dict)

    @property
    def given(self) -> str | None:
        """The key that gives the weights, so that nothing is trained."""
        return "checkpoint" if self.checkpoint else "pretrained" if self.pretrained else None


def _known_to_timm(module: str) -> bool:
    """Whether a module, or one below it, has registered a network with timm."""
    if "timm" not in sys.modules:
        return False
    import timm

    homes = {timm.model_entrypoint(name).__module__ for name in timm.list_models()}
    return any(home == module or home.startswith(f"{module}.") for home in homes)


models: Registry[Callable[..., nn.Module]] = Registry(
    "model",
    "juxtabit.models",
    [],
    decorator="timm.models.register_model",
    entries="function",
    elsewhere=_known_to_timm,
)
"""Factories of plugins, called with timm's keywords; a plugin may register with timm instead."""


def create(config: ModelConfig, classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """A freshly initialised model (or with timm's weights) for a dataset.

    Raises:
        UnknownName: timm knows no such model; the message lists the nearest names.
        ValueError: the model does not accept the options or the input.
    """
    make = _factory(config.name)
    _check_published(config, classes)
    with seeded(0, "init", config.name):
        try:
            made = make(
                pretrained=config.pretrained,
                num_classes=classes,
                in_chans=input_shape[0],
                **config.options,
            )
        except (RuntimeError, TypeError, AssertionError) as error:
            raise _misfit(config, input_shape, error) from error
        model = uncompiled(made)
        check_modules(model, f"model {config.name}")
        model.eval()
        try:
            with torch.no_grad():
                model(torch.zeros(1, *input_shape))
        except Exception as error:
            raise _misfit(config, input_shape, error) from error
    return model.to(memory_format=torch.channels_last)


def _factory(name: str) -> Callable[..., nn.Module]:
    """What makes a network, called with timm's keywords."""
    if names_code(name):
        return build_of(name)
    if name in models.names():
        return models.get(name)
    if name in OWN:
        return OWN[name]
    import timm

    if timm.is_model(name):
        return partial(timm.create_model, name)
    refuse_broken(name)
    near = get_close_matches(name, timm.list_models(), 8)
    *others, last = OWN
    raise UnknownName(
        f"unknown model {name!r}; juxtabit's own are {', '.join(others)} and {last}, and any name "
        "of timm.list_models() works" + (f" (the nearest are {', '.join(near)})" if near else "")
    )


def refuse_broken(name: str) -> None:
    """Say why the model of a plugin that is installed cannot be used.

    Raises:
        UnknownName: with the fault; nothing happens of a name of anything else.
    """
    if any(broken.name == name for broken in models.unavailable()):
        models.get(name)


def pretrained_cfg(config: ModelConfig) -> dict[str, Any]:
    """What timm knows of a model's published weights and their images; empty if nothing.

    A model that is registered without such facts, a plugin's say, may carry them itself.
    """
    if (known := _published(config.name)) is not None:
        return dict(known.to_dict())
    try:
        made = create(replace(config, pretrained=False, checkpoint=None), 10, (3, 224, 224))
    except ValueError:
        return {}
    return dict(getattr(made, "pretrained_cfg", None) or {})


def _published(name: str) -> Any:
    """The facts in timm's registry; None for a model that is not there, or has none there."""
    if names_code(name) or name in OWN:
        return None
    if name in models.names() and "timm" not in sys.modules:  # one of timm's has imported it
        return None
    import timm

    try:
        return timm.get_pretrained_cfg(name, allow_unregistered=True)
    except RuntimeError as error:
        raise UnknownName(f"model.name: {error}; timm.list_pretrained() lists the tags") from error


def _check_published(config: ModelConfig, classes: int) -> None:
    """A classifier that the published weights do not have would stay random."""
    if not config.pretrained or names_code(config.name) or config.name in models.names():
        return
    known = _published(config.name)
    if known is None:
        raise ValueError(
            f"model.pretrained: {config.name} has no published weights; use model.checkpoint=FILE "
            "or model.pretrained=false"
        )
    if known.num_classes != classes:
        raise ValueError(
            f"model.pretrained: the published weights of {config.name} know {known.num_classes} "
            f"classes, the data set has {classes}; use model.checkpoint=FILE with weights for "
            "them, or model.pretrained=false to train"
        )


def _misfit(config: ModelConfig, shape: tuple[int, int, int], error: Exception) -> ValueError:
    return ValueError(f"model {config.name} does not work on inputs of {shape}: {error}")
