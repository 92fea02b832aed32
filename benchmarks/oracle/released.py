"""Tables that others have published, in the format of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.oracle.oracle_table import OracleTable
from benchmarks.records.store import read_json
from frameworks import Choice


class Incomplete(ValueError):
    """A list of policies is not a whole space."""


def releq(path: Path) -> OracleTable:
    """The table of ReLeQ's repository: weight bits of a small network, activations float.

    Accuracies (top-1 on their validation images after a short retraining) are all that it has.

    Args:
        path: a JSON file with ``layers.names``, ``rules.bits`` and ``table`` (``bits``, one digit a
            layer, and ``accuracy``).

    Raises:
        Incomplete: policies are missing; it names how many.
    """
    data: dict[str, Any] = read_json(path)
    names, bits = data["layers"]["names"], tuple(data["rules"]["bits"])
    choices = tuple(Choice((name,), "weight", bits) for name in names)
    found = dict(zip(data["table"]["bits"], data["table"]["accuracy"], strict=True))
    table = OracleTable(choices, dict.fromkeys(names, (bits[0], 32)), {}, {})
    keys = ["".join(map(str, row)) for row in table.bits.tolist()]
    if missing := [key for key in keys if key not in found]:
        raise Incomplete(f"{path.name}: {len(missing)} of {len(keys)} policies are missing")
    return OracleTable(
        choices,
        table.pinned,
        {"valid.accuracy": np.array([found[key] for key in keys])},
        {
            "source": data["source"],
            "what": data["what"],
            "float": {"valid.accuracy": data["rules"]["full_precision_accuracy"]},
            "layers": [{"name": name, **facts} for name, facts in _layers(data)],
        },
    )


def _layers(data: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return list(zip(data["layers"]["names"], data["layers"]["table"], strict=True))
