"""Policies over seeds, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.records.record import Record

SIDES = ("weight", "act")


def layer_bits(records: Sequence[Record], side: str) -> dict[str, float]:
    """Mean bits of each layer over some records of one network, in the order of its layers.

    Bits by output channel count with their mean. Layers that not all records have are left out.
    """
    policies = [record.policy for record in records if record.policy]
    if not policies:
        return {}
    names = [name for name in policies[0] if all(name in policy for policy in policies)]
    return {
        name: math.fsum(_mean(policy[name][side]) for policy in policies) / len(policies)
        for name in names
    }


def _mean(bits: int | list[int]) -> float:
    return math.fsum(bits) / len(bits) if isinstance(bits, list) else float(bits)
