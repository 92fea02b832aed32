"""A whole space as a table: every policy's scores, read and written as parquet.

The format is described in ``docs/oracle.md``, for those who read it without this project.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.records.store import write_bytes
from frameworks import Choice, LayerBits, Policy, Score

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow

VERSION = 1
"""Of the format."""
KEY = b"juxtabit"
"""Under which the file's metadata hold the table's facts, as JSON."""
MEASURES = "accuracy", "loss", "agreement"
"""What there is of each split, as far as it was measured."""


class CorruptTable(ValueError):
    """A file is no table of a whole space, or not as it was written; the message says why."""


class NoParquet(ImportError):
    """Reading parquet needs a package that is not installed."""


def parquet() -> Any:
    """The module `pyarrow.parquet`.

    Raises:
        NoParquet: it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise NoParquet("tables are parquet files: pip install 'juxtabit[oracle]'") from error
    return pyarrow.parquet


@dataclass(frozen=True)
class OracleTable:
    """The scores of every policy of a space.

    Attributes:
        choices: the space's free decisions, in the order of `frameworks.Space.choices`.
        pinned: weight and activation bits of every layer, where no decision changes them.
        columns: one number a policy, by ``split.measure``, ``cost.metric`` and ``seconds``; the
            policies are in lexicographic order of the decisions, the last one changing fastest.
        facts: of what was evaluated, and how.
    """

    choices: tuple[Choice, ...]
    pinned: Mapping[str, tuple[int, int]]
    columns: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]

    def __post_init__(self) -> None:
        for name, values in self.columns.items():
            if values.shape != (len(self),):
                raise CorruptTable(f"{name} has {len(values)} entries for {len(self)} policies")

    def __len__(self) -> int:
        return prod(len(choice.bits) for choice in self.choices)

    @cached_property
    def bits(self) -> np.ndarray:
        """The decisions of every policy ``[policies, decisions]``."""
        return np.array(list(product(*(c.bits for c in self.choices))), np.int8).reshape(
            len(self), len(self.choices)
        )

    def policy(self, row: int) -> Policy:
        """The policy of a row."""
        found = {name: list(bits) for name, bits in self.pinned.items()}
        for choice, bits in zip(self.choices, self.bits[row].tolist(), strict=True):
            for name in choice.layers:
                if choice.kind != "act":
                    found[name][0] = bits
                if choice.kind != "weight":
                    found[name][1] = bits
        return Policy({name: LayerBits(*bits) for name, bits in found.items()})

    def row(self, policy: Policy) -> int:
        """The row of a policy.

        Raises:
            KeyError: the table has none.
        """
        index = 0
        for choice, places in zip(self.choices, self._places, strict=True):
            entry = policy[choice.layers[0]]
            place = places.get(entry.act if choice.kind == "act" else entry.weight, len(self))
            index = index * len(places) + place
        if index >= len(self) or self.policy(index) != policy:
            raise KeyError(f"the table has no policy {policy.to_json()}")
        return index

    @cached_property
    def _places(self) -> list[dict[Any, int]]:
        return [{bits: i for i, bits in enumerate(choice.bits)} for choice in self.choices]

    @property
    def splits(self) -> list[str]:
        """The splits that there are scores of."""
        return [name.split(".")[0] for name in self.columns if name.endswith(".accuracy")]

    def scores(self, split: str) -> Known:
        """The scores on a split, as a problem takes them (``Problem.known``)."""
        return Known(self, split)

    def frame(self) -> pd.DataFrame:
        """The table as it stands in the file."""
        import pandas as pd

        bits = dict(zip(column_names(self.choices), self.bits.T, strict=True))
        return pd.DataFrame({**bits, **self.columns})

    def fingerprint(self) -> str:
        """A digest of all scores and facts."""
        digest = hashlib.sha256(json.dumps(self._head(), sort_keys=True).encode())
        for name, values in sorted(self.columns.items()):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    def _head(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "decisions": [
                {"column": column, "layers": list(c.layers), "kind": c.kind, "bits": list(c.bits)}
                for column, c in zip(column_names(self.choices), self.choices, strict=True)
            ],
            "bits": {name: list(bits) for name, bits in self.pinned.items()},
            "facts": dict(self.facts),
        }

    def write(self, path: Path) -> None:
        """Write the table, whole or not at all."""
        import pyarrow

        made: pyarrow.Table = pyarrow.Table.from_pandas(self.frame(), preserve_index=False)
        head = {**self._head(), "fingerprint": self.fingerprint()}
        made = made.replace_schema_metadata(
            {**(made.schema.metadata or {}), KEY: json.dumps(head).encode()}
        )
        buffer = io.BytesIO()
        parquet().write_table(made, buffer, compression="zstd", compression_level=19)
        write_bytes(path, buffer.getvalue())

    @classmethod
    def read(cls, path: Path) -> OracleTable:
        """Read a table.

        Raises:
            FileNotFoundError: there is none.
            CorruptTable: it is not whole, not as it was written, or of another version.
            NoParquet: see `parquet`.
        """
        module = parquet()
        if not path.is_file():
            raise FileNotFoundError(f"{path}: there is no such table")
        try:
            made = module.read_table(path)
            head = json.loads(made.schema.metadata[KEY])
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise CorruptTable(f"{path}: is no table of juxtabit oracle ({error})") from error
        if head["version"] != VERSION:
            raise CorruptTable(
                f"{path}: has version {head['version']} of the format; this is {VERSION}"
            )
        choices = tuple(
            Choice(tuple(one["layers"]), one["kind"], tuple(one["bits"]))
            for one in head["decisions"]
        )
        frame = made.to_pandas()
        names = column_names(choices)
        columns = {name: frame[name].to_numpy() for name in frame.columns if name not in names}
        try:
            pinned = {name: (bits[0], bits[1]) for name, bits in head["bits"].items()}
            table = cls(choices, pinned, columns, head["facts"])
            whole = bool((frame[names].to_numpy() == table.bits).all())
        except (CorruptTable, KeyError, ValueError) as error:
            raise CorruptTable(f"{path}: {error}") from error
        if not whole or table.fingerprint() != head["fingerprint"]:
            raise CorruptTable(f"{path}: its content is not what was written")
        return table


class Known(Mapping[Policy, Score]):
    """The scores of all policies of a table on one split."""

    def __init__(self, table: OracleTable, split: str) -> None:
        if split not in table.splits:
            raise KeyError(f"the table has no split {split!r}; choose from {table.splits}")
        self.table = table
        # A table of published accuracies has nothing else.
        self._columns = [table.columns.get(f"{split}.{measure}") for measure in MEASURES]

    def __getitem__(self, policy: Policy) -> Score:
        row = self.table.row(policy)
        accuracy, loss, agreement = (None if c is None else float(c[row]) for c in self._columns)
        assert accuracy is not None
        return Score(accuracy, 100 - accuracy if loss is None else loss, agreement)

    def __iter__(self) -> Iterator[Policy]:
        return map(self.table.policy, range(len(self.table)))

    def __len__(self) -> int:
        return len(self.table)


def column_names(choices: Sequence[Choice]) -> list[str]:
    """The columns of decisions: ``weight.LAYER``, ``act.LAYER`` or ``both.LAYER``."""
    return [f"{choice.kind}.{choice.layers[0]}" for choice in choices]
