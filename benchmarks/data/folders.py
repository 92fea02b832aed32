"""Trees of folders, and any scheme of ``timm.data.create_dataset``."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.data.gate import gate
from benchmarks.data.load import DatasetConfig, MissingData, Splits, register_dataset
from benchmarks.data.ondisk import cut
from benchmarks.data.parts import File, Flavour
from benchmarks.data.schemes import SCHEMES, STREAMS, open_scheme


@register_dataset
def imagefolder(config: DatasetConfig) -> Splits:
    """Any ImageFolder: ``root/train/CLASS/*`` and ``root/val/CLASS/*``, or ``test``, or both.

    With ``val`` and ``test`` searches see ``val``, and nothing is cut from ``train``.
    """
    return _tree(config, _torchvision(), "imagefolder:{root}")


@register_dataset
def imagenet(config: DatasetConfig) -> Splits:
    """ImageNet (ILSVRC 2012), as an ImageFolder."""
    return imagefolder(config)


@register_dataset
def timm(config: DatasetConfig) -> Splits:
    """Any scheme of ``timm.data.create_dataset`` that does not stream: ``torch/``, a folder, ..."""
    if not config.scheme:
        raise ValueError("dataset.scheme: name timm's scheme, such as torch/cifar10 or hfds/mnist")
    name = f"timm:{config.scheme}"
    kind, _, rest = config.scheme.lower().partition("/")
    if kind == "torch" and rest in ("folder", "image_folder"):
        return _tree(config, _torchvision(), name)
    if kind in (*SCHEMES, *STREAMS):
        return cut(open_scheme(config), config, name)
    return _tree(config, _timm(), name)


def _tree(config: DatasetConfig, flavour: Flavour, name: str) -> Splits:
    where = f"dataset {config.name}"
    if not config.root:
        raise MissingData(f"{where}: name its folder with dataset.root=PATH")
    root = Path(config.root).expanduser()
    return cut(gate(root, where, flavour), config, name.replace("{root}", root.name))


def _torchvision() -> Flavour:
    def key(file: File) -> tuple[str, ...]:
        return (file.label, *os.path.split(file.path))

    return Flavour(leaf=False, class_key=str, file_key=key)


def _timm() -> Flavour:
    from timm.utils.misc import natural_key

    # Natural keys of other names may be equal (A and a, 1 and 01), which leaves their order open.
    return Flavour(
        leaf=True,
        class_key=lambda name: (natural_key(name), name),
        file_key=lambda file: (natural_key(file.path), file.path),
    )
