"""Records: the JSON of one finished, failed or skipped cell."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from benchmarks.records.schema import Misfit, shown
from benchmarks.records.shapes import FIELDS

SCHEMA = 2
"""Records of schema 1, which had no ``identity``, are read as well."""


SEAL = "digest"
"""The entry of a record's file that is the digest of all others; earlier records have none."""


class CorruptRecord(ValueError):
    """A record cannot be read; the message names the file and the fault."""


def digest(data: Any) -> str:
    """A digest of plain data, independent of the order of keys."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:20]


@dataclass
class Record:
    """One cell's outcome. Accuracies are top-1 in percent; a number not measured is None.

    Attributes:
        key: digest of the cell and the code that computed it; the file's name.
        cell: the resolved configuration: framework and its ``params``, model, dataset, hardware,
            budget, protocol, seed.
        status: ``done``, ``failed`` (see ``error``) or ``skipped`` (see ``reason``).
        card: the framework's card.
        budget: ``metric``, ``limit``, ``unit``, ``label`` and, when done, ``within``; where several
            metrics are limited, ``bounds``: ``metric``, ``limit`` and ``unit`` of each, the one
            above first.
        policy: bits by layer.
        bits: mean ``weight`` and ``act`` bits, by parameters and by input activations.
        costs: the policy's cost in every metric of the target; ``float_costs`` and ``int8_costs``
            are those of the unquantized and the uniform 8-bit network.
        accuracy: ``float``, ``ptq`` (the policy without training), ``fine_tuned`` (None under a
            protocol that does not train) and ``final`` (what the table ranks), all on the test
            split; ``valid``: the policy without training on the search-validation split. Under an
            objective without labels these are agreements with the float network (whose own is 100),
            and ``kl`` is the mean KL(float || final network) on the test images, in nats;
            ``valid_kl`` that of the policy without training on the search-validation images, where
            it is the objective.
        weights: the network's weights: how many are ``quantized``, which are ``left`` in float or
            ``unused`` (numbers by parameter), the ``share`` left, and a ``note`` that says so;
            ``dropped``: the search returned trained weights, which the protocol does not use.
        search: measured cost: policies, images_forward, images_backward, seconds, peak_memory;
            ``scoring`` is the part that was shared with other budgets.
        curve: what the search would have returned over time: policies, images (forward plus
            backward), seconds, and the search-validation accuracy (or other objective, in percent)
            without training of the best policy within the budget so far.
        front: points of a Pareto front with policy and objectives.
        notes: what the framework noted.
        identity: what the key was made of beside the configuration; see
            `benchmarks.suite.identity.identity_of`.
        code: versions, plugin, git sha and dirty flag.
        data: fingerprints of the dataset and of the float checkpoint, and the checkpoint's
            ``origin``: ``committed``, ``trained here``, a ``file`` of the user's or ``timm``.
        environment: machine and library versions.
        timings: seconds of each stage.
    """

    key: str
    cell: dict[str, Any]
    status: Literal["done", "failed", "skipped"]
    card: dict[str, Any] = field(default_factory=dict)
    reason: str | None = None
    error: str | None = None
    budget: dict[str, Any] = field(default_factory=dict)
    policy: dict[str, Any] | None = None
    bits: dict[str, float] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)
    float_costs: dict[str, float] = field(default_factory=dict)
    int8_costs: dict[str, float] = field(default_factory=dict)
    accuracy: dict[str, float | None] = field(default_factory=dict)
    weights: dict[str, Any] = field(default_factory=dict)
    search: dict[str, Any] = field(default_factory=dict)
    curve: list[dict[str, float]] = field(default_factory=list)
    front: list[dict[str, Any]] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    identity: dict[str, Any] = field(default_factory=dict)
    code: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    schema: int = SCHEMA

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def sealed(self) -> dict[str, Any]:
        """Plain data as it is kept: with the digest of all else, by which accidents are found."""
        plain = self.to_json()
        return {**plain, SEAL: digest(plain)}

    @classmethod
    def from_json(cls, data: Any, where: str = "record") -> Record:
        """Read and check plain data.

        Raises:
            CorruptRecord: it is not a record of this schema, or contradicts itself.
        """
        if not isinstance(data, dict):
            raise CorruptRecord(f"{where}: not a JSON object")
        unknown = set(data) - set(FIELDS)
        missing = {"key", "cell", "status", "schema"} - set(data)
        if missing or unknown:
            raise CorruptRecord(
                f"{where}: missing fields {sorted(missing)}, unknown fields {sorted(unknown)}"
            )
        schema = data["schema"]
        old = schema == 1 and schema is not True and "identity" not in data
        if schema is True or not (old or schema == SCHEMA):
            raise CorruptRecord(f"{where}: schema {_bare(schema)}, this version reads {SCHEMA}")
        for name, value in data.items():
            try:
                FIELDS[name](value)
            except Misfit as fault:
                raise CorruptRecord(f"{where}: field {fault.within(name)}") from None
        if old:
            data = _upgraded(data)
        record = cls(**{name: value for name, value in data.items() if name != SEAL})
        if record.status == "done":
            _check_finished(record, where)
        return record


def _bare(value: Any) -> str:
    return shown(value).strip("'")


def _upgraded(data: dict[str, Any]) -> dict[str, Any]:
    """A record of schema 1 with what it says of its identity."""
    code, known, machine = (data.get(name, {}) for name in ("code", "data", "environment"))
    identity = {
        "data": {"fingerprint": known.get("dataset")},
        "code": {"framework": {k: code[k] for k in code if k != "git"}},
        "numerics": {
            "threads": machine.get("threads"),
            "kernels": str(machine.get("kernels", "")).partition(" ")[0],
            "torch": ".".join(str(machine.get("torch", "")).split(".")[:2]),
        },
    }
    return {**data, "schema": SCHEMA, "identity": identity}


def _check_finished(record: Record, where: str) -> None:
    final = record.accuracy.get("final")
    if final is None:
        raise CorruptRecord(f"{where}: accuracy.final is {final}, not a percentage")
    if not record.policy:
        raise CorruptRecord(f"{where}: a finished cell needs a policy")
