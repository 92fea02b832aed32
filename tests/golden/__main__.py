"""``python -m tests.golden``: compute the golden cells and keep their numbers.

Numbers that changed are refused while REVISION in benchmarks/fingerprints/numerics.py is that of
the file.
"""

import sys

import torch

from tests.golden.cells import compute_all, signature
from tests.golden.kept import FILE, RAISE, update


def main():
    torch.set_num_threads(1)
    cells, costs = compute_all()
    changed = update(FILE, signature(), cells, costs)
    for line in changed:
        print(line, file=sys.stderr)
    if changed:
        print(
            f"nothing was written: if these numbers are meant to change, {RAISE}", file=sys.stderr
        )
        return 1
    print(f"{FILE}: {len(cells)} cells of {signature()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
