"""Any folder of images, flat or nested, without labels or classes.

Half of the images are for calibration (and training, where a protocol trains), a quarter for
searching (``dataset.valid``) and a quarter is held out. For use with an objective that needs no
labels: what stands in their place is 0 for all.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.data.load import (
    CorruptData,
    DatasetConfig,
    MissingData,
    Splits,
    cut_order,
    cut_size,
    register_dataset,
)
from benchmarks.data.ondisk import OnDisk, cut
from benchmarks.data.parts import images_below
from benchmarks.data.pictures import PictureFiles, Pictures, check_readable, scan
from frameworks import TensorSplit

FEWEST = 4
"""Images that are needed: two to calibrate on, one to search with, one to hold out."""
MOST = 4096
"""Of a larger folder as many are drawn; more of them change ranges and scores by little."""
SHARE = 0.25
"""Of the images that are held out, and of those for searching."""
_NAMED = 5
"""A message names at most so many files."""


@register_dataset
def unlabelled(config: DatasetConfig) -> Splits:
    """Images below ``root``; ``classes`` is how many the network tells apart."""
    if not config.root:
        raise MissingData("dataset unlabelled: name its folder with dataset.root=PATH")
    root = Path(config.root).expanduser()
    if not root.is_dir():
        raise MissingData(f"dataset unlabelled: {root} is no folder")
    paths, pictures = _readable(_drawn(images_below(root)), root)
    order = torch.randperm(len(paths), generator=cut_order()).tolist()
    size = cut_size(len(paths), SHARE if config.valid == DatasetConfig.valid else config.valid)
    if 2 * size >= len(paths):
        raise ValueError(
            f"dataset.valid = {config.valid}: nothing is left of {len(paths)} images to calibrate "
            "on, as it is held out as well; lower it"
        )
    cuts = _cuts(order, size)
    samples = {part: [(paths[i], 0) for i in sorted(index)] for part, index in cuts.items()}
    data = OnDisk(
        [str(number) for number in range(config.classes or 1)],
        {part: [0] * len(pairs) for part, pairs in samples.items()},
        lambda part, transform: PictureFiles(samples[part], pictures, transform),
    )
    return cut(data, config, f"unlabelled:{root.name}")


def cut_tensor(images: Tensor) -> Splits:
    """The same three parts of images ``[N, C, H, W]``, prepared as the network expects them.

    Raises:
        ValueError: they are too few, or no such images.
    """
    if images.dim() < 3 or not images.is_floating_point() or len(images) < FEWEST:
        raise ValueError(
            f"images: {images.dtype} {list(images.shape)}: give at least {FEWEST} float images "
            "[N, C, H, W]"
        )
    order = torch.randperm(len(images), generator=cut_order()).tolist()
    cuts = _cuts(order, cut_size(len(images), SHARE))
    parts = {
        part: TensorSplit(images[sorted(index)], torch.zeros(len(index), dtype=torch.long))
        for part, index in cuts.items()
    }
    shape = images.shape
    return Splits(**parts, classes=1, input_shape=(shape[1], shape[2], shape[-1]))


def _cuts(order: list[int], size: int) -> dict[str, list[int]]:
    return {"test": order[:size], "valid": order[size : 2 * size], "train": order[2 * size :]}


def _drawn(paths: list[str]) -> list[str]:
    if len(paths) <= MOST:
        return paths
    index = torch.randperm(len(paths), generator=cut_order())[:MOST].sort().values
    return [paths[i] for i in index.tolist()]


def _readable(paths: Sequence[str], root: Path) -> tuple[list[str], Pictures]:
    """The files that can be read, each content once, and how they are brought to 8 bit.

    Raises:
        MissingData: they are too few.
        CorruptData: their range cannot be told; the message names a file.
    """
    kept: dict[bytes, str] = {}
    bad: dict[str, str] = {}
    copies: list[str] = []
    for path in paths:
        try:
            # Which range is its own a single file cannot tell: that is for all together, below.
            check_readable(path)
            content = hashlib.sha256(Path(path).read_bytes()).digest()
        except (CorruptData, OSError) as error:
            bad[path] = str(error)
            continue
        if kept.setdefault(content, path) != path:
            copies.append(path)
    for skipped, fault in ((list(bad), "cannot be read"), (copies, "are copies of others")):
        if skipped:
            names = ", ".join(os.path.relpath(path, root) for path in skipped[:_NAMED])
            more = f" and {len(skipped) - _NAMED} more" if len(skipped) > _NAMED else ""
            warnings.warn(
                f"{root}: {len(skipped)} of {len(paths)} images {fault} and are skipped: "
                f"{names}{more}",
                stacklevel=2,
            )
    if len(kept) < FEWEST:
        raise MissingData(
            f"dataset unlabelled: {root} has {len(kept)} images that can be read, of "
            f"{len(paths)} files; at least {FEWEST} are needed"
            + "".join(f"; {fault}" for fault in list(bad.values())[:1])
        )
    return list(kept.values()), scan(kept.values())
