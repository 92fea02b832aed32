"""From a network of your own and a folder of images to a policy and an ONNX file that has its bits.

    python examples/practitioner.py                      # a demonstration on digits, in a minute
    python examples/practitioner.py --images FOLDER --weights net.pth --out net.onnx

FOLDER holds ``train/CLASS/*`` and ``val/CLASS/*``. To use it for your own work, put your network
into `network` and the preprocessing that it was trained with into `PREPARE`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks import juxtapose, search
from frameworks import registry

PREPARE = transforms.Compose(
    [transforms.Grayscale(), transforms.ToTensor(), transforms.Normalize([0.3], [0.37])]
)


def network(classes: int) -> nn.Module:
    """A small convolutional network; yours comes here."""

    def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]

    layers = [*block(1, 16, 1), *block(16, 32, 2), *block(32, 32, 1), *block(32, 64, 2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


def digits(folder: Path) -> None:
    """scikit-learn's digits as a folder of images."""
    from PIL import Image
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        part = "val" if i % 4 == 0 else "train"
        place = folder / part / str(label)
        place.mkdir(parents=True, exist_ok=True)
        pixels = (image.reshape(8, 8) * 255 / 16).astype("uint8")
        Image.fromarray(pixels).save(place / f"{i}.png")


def trained(model: nn.Module, loader: DataLoader[tuple[torch.Tensor, int]], epochs: int) -> None:
    """Train it; with weights of your own there is no need to."""
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()


def main() -> None:
    """Load, search, compare, export."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="folder with train/ and val/; else digits")
    parser.add_argument(
        "--weights", type=Path, help="a state dict of `network`; else it is trained"
    )
    parser.add_argument("--out", type=Path, default=Path("practitioner.onnx"))
    parser.add_argument("--like", type=float, default=3, help="as large as so many uniform bits")
    parser.add_argument("--episodes", type=int, default=40, help="policies that HAQ tries")
    asked = parser.parse_args()
    torch.set_num_threads(1)  # of layers as small as these, threads only wait for each other

    with tempfile.TemporaryDirectory() as made:
        folder = asked.images or Path(made)
        if not asked.images:
            digits(folder)
        train = DataLoader(ImageFolder(folder / "train", PREPARE), batch_size=64, shuffle=True)
        valid = DataLoader(ImageFolder(folder / "val", PREPARE), batch_size=64)
        torch.manual_seed(0)
        model = network(len(train.dataset.classes))  # type: ignore[attr-defined]
        if asked.weights:
            model.load_state_dict(torch.load(asked.weights, weights_only=True))
        else:
            trained(model, train, epochs=5)

        methods = [registry.get("haq")(episodes=asked.episodes), "hawq_v3"]
        budget = {"like": asked.like, "target": "size"}
        table = juxtapose(model, train, valid, methods, **budget)
        print(table.attrs["title"])
        print(table[["accuracy", "gain", "of_budget", "weight_bits", "images", "seconds"]].round(2))

        ours = table[~table.baseline & (table.status == "done")]
        best = next(m for m in methods if getattr(m, "name", m) == ours.index[0])
        found = search(model, train, valid, best, **budget)
        for name, bits in found.policy.items():
            print(f"{name:<4} weights {bits.weight} bit, activations {bits.act} bit")
        found.export(asked.out)


if __name__ == "__main__":
    main()
