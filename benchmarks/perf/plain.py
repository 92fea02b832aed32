"""The plain way to score a policy, in a process of its own that shares no cache with a search.

Run as ``python -m benchmarks.perf.plain``; it reads a network, then policies, as pickles from its
input, and answers each policy with its scores and the CPU seconds that they took.
"""

import pickle
import subprocess
import sys
import time

import torch

from benchmarks.workers.memory import keep_freed_memory
from frameworks import Calibration, QModel, measure


def score(network, layers, scheme, samples, correction, policy, splits):
    """Quantize all weights and scan all ranges anew, correct BatchNorm, run every image.

    The samples of activations and the float network's moments are kept, so it is not run again:
    that would be plainer still.
    """
    model = QModel(network, layers, scheme, Calibration(samples)).fix(policy).eval()
    correction(model)
    return [measure(model, split) for split in splits]


class Plain:
    """The other process: call it with a policy and the splits on which it is scored."""

    def __init__(self, problem):
        command = [sys.executable, "-m", "benchmarks.perf.plain"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        samples = problem.observe().samples
        self._send((problem.network, problem.layers, problem.scheme, samples, problem.correction))

    def _send(self, value):
        pickle.dump(value, self.process.stdin)
        self.process.stdin.flush()

    def __call__(self, policy, splits):
        self._send((policy, splits))
        return pickle.load(self.process.stdout)

    def close(self):
        self.process.stdin.close()
        self.process.wait(60)


def main():
    """Answer until the input ends."""
    keep_freed_memory()  # as the process that searches
    torch.set_num_threads(1)
    task = pickle.load(sys.stdin.buffer)
    while True:
        try:
            policy, splits = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        start = time.process_time()
        found = score(*task, policy, splits)
        pickle.dump((found, time.process_time() - start), sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
