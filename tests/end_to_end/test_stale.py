"""The command never gives an old result as a new one: data, plugins and threads that changed."""

import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

RUN = [
    *("model=timm", "hardware=size", "budget.like=8", "baselines=false", "workers=1"),
    *("dataset.image_size=8", "dataset.valid=6", "dataset.pretrain.epochs=1"),
    *("protocol.valid_images=6", "protocol.calibration_images=6"),
]

PACKAGE = {
    "stale_pack/__init__.py": "import stale_pack.method, stale_pack.data\n",
    "stale_pack/helper.py": "def choose(problem):\n    return problem.space.lowest()\n",
    "stale_pack/size.py": "WIDTH = 4\n",
    "stale_pack/pixels.py": "LEVEL = 1.0\n",
    "stale_pack/method.py": '''
from dataclasses import dataclass
from typing import ClassVar
from frameworks import Card, Framework, Problem, Solution, register
from stale_pack.helper import choose

@register
@dataclass
class Stale(Framework):
    """A method in two files."""
    name: ClassVar[str] = "stale"
    card: ClassVar[Card] = Card(
        title="t", year=2026, category="heuristic", quantizer="mse", granularity="layer",
        searches=("weight",), needs=frozenset({"calibration", "valid"}),
    )
    def search(self, problem: Problem) -> Solution:
        return Solution(choose(problem))
''',
    "stale_pack/net.py": """
from torch import nn
from stale_pack.size import WIDTH

def stale_net(pretrained=False, num_classes=10, in_chans=3, **_):
    return nn.Sequential(
        nn.Conv2d(in_chans, WIDTH, 3), nn.ReLU(), nn.Conv2d(WIDTH, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes),
    )
""",
    "stale_pack/data.py": """
import torch
from benchmarks.data.load import Splits, register_dataset
from frameworks import TensorSplit, torch_rng
from stale_pack.pixels import LEVEL

@register_dataset
def stale_data(config):
    x = LEVEL * torch.randn(24, 3, 8, 8, generator=torch_rng(0, "x"))
    y = torch.arange(24) % 3
    parts = [TensorSplit(x[a : a + 8], y[a : a + 8]) for a in (0, 8, 16)]
    return Splits(*parts, 3, (3, 8, 8))
""",
}


def folder(path, seed):
    """An image folder of three classes."""
    rng = np.random.default_rng(seed)
    for part, count in (("train", 6), ("val", 3)):
        for name in "abc":
            (path / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 255, (8, 8, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(path / part / name / f"{i}.png")
    return path


# A session of the command, with cells in its own process, as a worker takes seconds to start.
SESSION = """
import json, sys
import numpy as np
import torch
from PIL import Image
from benchmarks.suite import cell
from benchmarks.suite import run
from benchmarks.cli import main

def serially(agenda, crew, keep, board):
    torch.set_num_threads(crew.threads)
    for key, entry in agenda.todo.items():
        keep(cell.compute(entry, key, scores=crew.folder / "scores"))
    return []

run._compute = serially
for arguments in json.loads(sys.argv[1]):
    if arguments[0] == "invert":
        Image.fromarray(255 - np.asarray(Image.open(arguments[1]))).save(arguments[1])
    else:
        assert main(["run", *arguments]) == 0
"""


@pytest.fixture
def place(tmp_path):
    """A plugin and an image folder; ``computed(*steps)``: how many cells each run computed."""
    for name, text in PACKAGE.items():
        path = tmp_path / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    info = tmp_path / "site/stale_pack-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stale_pack\nVersion: 1.0\n")
    points = {"frameworks": "stale_pack = stale_pack", "datasets": "stale_pack = stale_pack"}
    points["models"] = "stale_net = stale_pack.net:stale_net"
    (info / "entry_points.txt").write_text(
        "".join(f"[juxtabit.{kind}]\n{point}\n" for kind, point in points.items())
    )
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in PACKAGE))
    folder(tmp_path / "flowers", 0)

    def computed(*steps):
        ended = subprocess.run(
            [sys.executable, "-B", "-c", SESSION, json.dumps(steps)],
            cwd=tmp_path, capture_output=True, text=True, timeout=240,
            env={**os.environ, "JUXTABIT_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1",
                 "PYTHONPATH": os.pathsep.join(["site", os.environ.get("PYTHONPATH", "")])},
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        return [
            int(line.split()[0])
            for line in ended.stdout.splitlines()
            if "had to be computed" in line
        ]

    return SimpleNamespace(root=tmp_path, computed=computed)


def records(place):
    """What was written, oldest first."""
    paths = place.root.glob("results/runs/records/*.json")
    found = [json.loads(path.read_text()) for path in paths]
    return sorted(found, key=lambda record: record["environment"]["time"])


FOLDER = [*RUN, "dataset=imagefolder", "model.name=stale_net", "framework=stale"]
TIMM = [*RUN, "dataset=timm", "dataset.scheme=folder/", *FOLDER[-2:], "dataset.root=flowers"]
RESIDENT = [*RUN, "dataset=digits", "dataset.name=stale_data", *FOLDER[-2:]]


@pytest.mark.slow
def test_other_data_and_threads_make_other_cells_and_other_places_do_not(place):
    folder(place.root / "x/flowers", 1)
    shutil.copytree(place.root / "flowers", place.root / "copy")
    here = [*FOLDER, "dataset.root=flowers"]
    counts = place.computed(
        here,
        [*FOLDER, "dataset.root=x/flowers"],
        [*FOLDER, "dataset.root=copy", "dataset.workers=1"],
        TIMM,
        TIMM,
        ["invert", "flowers/val/b/1.png"],
        here,
        TIMM,
        here,
        [*here, "threads=2"],
        here,
    )
    assert counts == [1, 1, 0, 1, 0, 1, 1, 0, 1, 0]
    data = [record["identity"]["data"] for record in records(place)]
    assert {entry["known by"] for entry in data} == {"content"}
    # Two folders, one of them before and after; timm reads the same as we do.
    assert len({entry["fingerprint"] for entry in data}) == 3


def test_a_plugins_changed_file_makes_another_cell_and_checkpoint_and_a_comment_does_not(place):
    package = place.root / "site/stale_pack"
    assert place.computed(RESIDENT) == [1]
    for path in package.glob("*.py"):
        path.write_text(path.read_text() + "# a comment\n")
    assert place.computed(RESIDENT) == [0]
    (package / "size.py").write_text("WIDTH = 5\n")
    assert place.computed(RESIDENT) == [1]
    one, two = records(place)
    assert one["identity"]["code"]["model"] != two["identity"]["code"]["model"]
    assert one["data"]["checkpoint"] != two["data"]["checkpoint"]
