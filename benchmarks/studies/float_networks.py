"""Make the committed float networks: ``python -m benchmarks.studies.float_networks``.

    python -m benchmarks.studies.float_networks             # what is missing or not as indexed
    python -m benchmarks.studies.float_networks --anew NAME ...     # these, or all, trained again

Every network of a committed suite, and those of studies, is trained by the recipe of its dataset
and model on one thread and written to ``results/checkpoints`` with its line in the index. A run
that was stopped goes on with the network that it was at. Records are of the weights that they were
made with: after ``--anew`` the suites are to be run again.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from benchmarks.data.load import DatasetConfig, Splits
from benchmarks.fingerprints.numerics import library, numerics
from benchmarks.models import committed
from benchmarks.models.build import ModelConfig, create
from benchmarks.models.committed import Entry
from benchmarks.models.pretrain import SEED, pretrained, recipe_for
from benchmarks.models.weights import contiguous
from benchmarks.records.cache import cache_folder, locked
from benchmarks.records.record import digest
from benchmarks.records.store import write_bytes, write_json
from benchmarks.suite.assets import data_identity, entry_text, splits_of
from benchmarks.suite.conf import conf_folder
from benchmarks.suite.config import cell_of, composed, suite_cells
from benchmarks.suite.identity import environment
from frameworks import measure

STUDIED = tuple(
    (f"model={model}", "+model.pretrain={epochs: 3}", "dataset=fashion_mnist")
    for model in ("resnet20", "mobilenetv2_small")
)
"""What no suite has and `benchmarks.studies.batchnorm` starts from."""


@dataclass(frozen=True)
class Wanted:
    """A float network that is to be committed: its name, and a cell's entries."""

    name: str
    model: dict[str, Any]
    dataset: dict[str, Any]

    @property
    def configs(self) -> tuple[ModelConfig, DatasetConfig]:
        """The entries as configurations."""
        return ModelConfig(**self.model), DatasetConfig(**self.dataset)

    @property
    def splits(self) -> Splits:
        """The data."""
        return splits_of(entry_text(self.dataset))

    def committed(self) -> Entry | None:
        """The entry that serves it, if there is one and its file is whole."""
        config, dataset = self.configs
        recipe = recipe_for(config, dataset)
        entry = committed.find(config, recipe, SEED, lambda: _fingerprint(self.dataset))
        if entry is None:
            return None
        try:
            committed.load_into(self.network(), entry)
        except committed.BadCommitted as fault:
            _say(f"{fault}; it is made again")
            return None
        return entry

    def network(self) -> nn.Module:
        """The network without its weights."""
        return create(self.configs[0], self.splits.classes, self.splits.input_shape)


def wanted() -> list[Wanted]:
    """All networks that committed suites and studies start from, each once."""
    found: dict[str, Wanted] = {}
    taken: set[str] = set()
    for model, dataset in _pairs():
        key = entry_text({"model": model, "dataset": dataset})
        if key in found or ModelConfig(**model).given:
            continue
        name = f"{model['name']}-{dataset['name']}"
        name = f"{name}-{digest(key)[:6]}" if name in taken else name
        taken.add(name)
        found[key] = Wanted(name, model, dataset)
    return list(found.values())


def _pairs() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for path in sorted((conf_folder() / "suite").glob("*.yaml")):
        config = composed([f"+suite={path.stem}"])
        # The other axes do not matter here, and take long to compose.
        kept = ("model", "dataset", "overrides")
        blocks = [{key: block[key] for key in kept if key in block} for block in config.suite.cells]
        config.suite.cells = blocks
        for cell in suite_cells(config):
            yield cell["model"], cell["dataset"]
    for overrides in STUDIED:
        cell = cell_of(composed(overrides))
        yield cell["model"], cell["dataset"]


def _fingerprint(dataset: dict[str, Any]) -> str:
    return str(data_identity(entry_text(dataset))["fingerprint"])


def make(want: Wanted) -> Entry:
    """Train a network, or take it from the cache, and write its file.

    Raises:
        OSError: it cannot be written.
    """
    config, dataset = want.configs
    made = pretrained(replace(config, retrain=True), dataset, want.splits, _progress(want.name))
    state = contiguous(made.model)
    content = save(state)
    splits = want.splits
    entry = Entry(
        name=want.name,
        dataset={"name": dataset.name, "fingerprint": _fingerprint(want.dataset)},
        **committed.asked_for(config, recipe_for(config, dataset), SEED),
        accuracy={"test": measure(made.model, splits.test).accuracy, "valid": made.accuracy},
        images={"test": len(splits.test), "valid": len(splits.valid)},
        parameters=sum(value.numel() for value in state.values()),
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        fingerprint=made.fingerprint,
        made_with={
            **library(),
            **numerics(),
            **{key: environment()[key] for key in ("torch", "timm", "processor")},
        },
    )
    write_bytes(entry.file, content)
    return entry


def keep(entry: Entry) -> None:
    """Put a network's line into the index, in the place of an earlier one of its name."""
    with locked(cache_folder() / "float_networks"):  # several may be made at the same time
        others = [other for other in committed.entries() if other.name != entry.name]
        lines = sorted([*others, entry], key=lambda line: line.name)
        data = {"schema": 1, "networks": [asdict(line) for line in lines]}
        write_json(committed.folder() / committed.INDEX, data)


def _progress(name: str) -> Any:
    def show(done: int, total: int, text: str) -> None:
        _say(f"{name}: epoch {done} of {total}, {text}")

    return show


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def text_of(entry: Entry) -> str:
    """A line about a network."""
    return (
        f"{entry.name:<32} {entry.accuracy['test']:6.2f} % test {entry.accuracy['valid']:6.2f} % "
        f"valid {entry.parameters:>8} numbers {entry.bytes:>9} bytes {entry.fingerprint}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.float_networks")
    parser.add_argument("names", nargs="*", help="only these, such as resnet8-digits")
    parser.add_argument("--anew", action="store_true", help="train what is there, too")
    options = parser.parse_args(argv)
    found = {want.name: want for want in wanted()}
    if unknown := sorted(set(options.names) - set(found)):
        parser.error(f"unknown {', '.join(unknown)}; choose from {', '.join(found)}")
    torch.set_num_threads(1)
    for name in options.names or found:
        entry = None if options.anew else found[name].committed()
        if entry is None:
            entry = make(found[name])
            keep(entry)
        print(text_of(entry), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
