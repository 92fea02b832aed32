"""Passes over a folder: ``python -m benchmarks.perf.sides.read FOLDER MEMORY PASSES WORKERS``.

Loads the folder as ``dataset=imagefolder`` at 224 px with ``dataset.memory=MEMORY`` GiB and goes
through its training images so often, doing nothing with them. Prints the seconds of all passes, the
resident memory that was added to what the imports take, at its peak, and what all images would take
decoded, both in MiB. ``python -m benchmarks.perf.sides.read --make FOLDER COUNT`` writes such a
folder of two classes, JPEG of 320 by 240.
"""

import resource
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image


def make(folder, count):
    rng = np.random.default_rng(0)
    for part, images in (("train", count), ("val", 4)):
        for i in range(images):
            path = Path(folder) / part / f"class{i % 2}" / f"{i:05}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = rng.integers(0, 256, (15, 20, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC).save(path)


def read(folder, memory, passes, workers):
    from benchmarks.data.load import DatasetConfig, load

    config = DatasetConfig(
        "imagefolder", root=folder, memory=memory, workers=workers, valid=2, image_size=224
    )
    train = load(config).train
    whole = len(train) * 3 * 224 * 224 * 4 / 2**20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    for _ in range(passes):
        assert sum(len(x) for x, _ in train.batches(32)) == len(train)
    seconds = time.perf_counter() - start
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10, whole


if __name__ == "__main__":
    if sys.argv[1] == "--make":
        make(sys.argv[2], int(sys.argv[3]))
    else:
        folder, memory, passes, workers = sys.argv[1:]
        import torch

        torch.set_num_threads(1)
        print("\n", *read(folder, float(memory), int(passes), int(workers)))
