"""Where a record comes from: its digest, its key, its version, its card and its code."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.fingerprints.named_files import as_recorded, names_code
from benchmarks.fingerprints.numerics import library
from benchmarks.models.ingredients import codes_of, framework_code
from benchmarks.records.plaindata import as_plain
from benchmarks.records.record import SEAL, digest
from benchmarks.suite.config import Cell
from benchmarks.suite.identity import BadCell, files_of, recorded_key
from benchmarks.verification.findings import Case
from frameworks import UnknownName, registry

_SKIPPED = {"dataset": ("root", "workers", "download")}
_FIRST_SKIPPED = {**_SKIPPED, "model": ("checkpoint",)}
"""What had no part in the keys of earlier versions, and of records of schema 1."""

_LATER_IN_CARDS = frozenset({"quantization"})
"""Entries that cards have got within a version; earlier records of it lack them."""


def check_seal(case: Case) -> None:
    """The digest over the whole record, where it has one."""
    if SEAL not in case.raw:
        case.note(SEAL, "has none, as records of earlier versions; nothing tells of small edits")
        return
    rest = {name: value for name, value in case.raw.items() if name != SEAL}
    message = "the record is not what was written"
    case.compare(SEAL, case.raw[SEAL], digest(rest), message)


def check_key(case: Case) -> None:
    """The key, which is a digest of the configuration and of what the record was made of."""
    record = case.record
    try:
        found = _keys(case)
    except (OSError, KeyError, TypeError, AttributeError) as error:
        case.fault("key", f"cannot be recomputed ({type(error).__name__}: {error})")
        return
    if record.key not in found:
        message = "the cell, or what it was made of, is not what the key was taken of"
        case.fault("key", message, record.key, found[0])


def _keys(case: Case) -> list[str]:
    """The key as this version takes it, and as earlier ones did."""
    cell, identity = case.record.cell, case.record.identity
    if case.raw["schema"] == 1:
        return [_first_key(cell, case.record.code)]
    now = recorded_key(cell, identity)
    if is_current(case):
        return [now]
    files = _files(identity)  # up to 0.3.0 a budget of 4.0 was not one of 4
    plain = {
        axis: as_recorded(_without(entry, _SKIPPED.get(axis, ())), axis, files)
        for axis, entry in cell.items()
    }
    return [now, digest({"cell": plain, "identity": identity})]


def _without(entry: Any, skipped: tuple[str, ...]) -> Any:
    if not isinstance(entry, dict):
        return entry
    return {key: value for key, value in entry.items() if key not in skipped}


def _first_key(cell: Cell, code: Mapping[str, Any]) -> str:
    """The key of a record of schema 1: configuration, version and the method's source."""
    kept = {axis: _without(entry, _FIRST_SKIPPED.get(axis, ())) for axis, entry in cell.items()}
    named = {
        "checkpoint": cell["model"].get("checkpoint"),
        "hardware_file": cell["hardware"].get("path"),
    }
    for name, path in named.items():
        if path and (file := Path(path).expanduser()).is_file():
            kept[name] = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    return digest({"cell": kept, "code": {k: v for k, v in code.items() if k != "git"}})


def is_current(case: Case) -> bool:
    """Whether a record is of this version and revision."""
    here = library()
    return {name: case.record.code.get(name) for name in here} == here


def version_of(case: Case) -> str:
    """The version and revision of a record, in words."""
    code = case.record.code
    revision = f" (revision {code['revision']})" if "revision" in code else ""
    return f"{code.get('juxtabit', 'unknown')}{revision}"


def check_card(case: Case) -> None:
    """The card is the registry's."""
    name = str(case.record.cell["framework"]["name"])
    card = as_plain(registry.get(name).card.to_json(), "card")
    for later in _LATER_IN_CARDS - case.record.card.keys():
        card.pop(later, None)
    case.compare("card", case.record.card, card, f"differs from the card of {name}")


def check_code(case: Case) -> None:
    """The code is that which is installed here, and the record says the same of it everywhere."""
    record = case.record
    code = record.identity.get("code", {})
    said = {key: value for key, value in record.code.items() if key != "git"}
    case.compare("code", said, code.get("framework"), "differs from identity.code.framework")
    try:
        here = codes_of(record.cell)
    except OSError as error:
        case.fault("model.name", f"its file is not here ({error})")
        return
    for axis, ours in here.items():
        theirs = code.get(axis, {})
        library_of = ours.get("distribution")
        if theirs != ours and library_of in ("timm", "torchvision", "torch"):
            case.note(f"identity.code.{axis}", f"of another version of {library_of} than here")
            continue
        message = f"the {axis} is of other code than is installed here"
        case.compare(f"identity.code.{axis}", theirs, ours, message)
    git = record.code.get("git")
    if isinstance(git, Mapping) and git.get("dirty"):
        case.note("code.git.dirty", "made by a checkout with changes of its own")


def check_installed(case: Case) -> bool:
    """Whether the method is installed here; a fault says what to install."""
    name, code = str(case.record.cell["framework"]["name"]), case.record.code
    try:
        framework_code(name)
    except UnknownName:
        which = f"{code.get('distribution', '?')}=={code.get('version', '?')}"
        case.fault("cell.framework.name", f"{name} is not installed here; it is of {which}")
        return False
    return True


def check_environment(case: Case) -> None:
    """What the record says of the machine is what its key was made of."""
    record = case.record
    numerics, machine = record.identity.get("numerics", {}), record.environment
    kernels, torch = str(machine.get("kernels", "")), str(machine.get("torch", ""))
    here = {
        "threads": machine.get("threads"),
        "kernels": kernels.partition(" ")[0],
        "torch": ".".join(torch.split(".")[:2]),
    }
    said = {name: numerics.get(name) for name in here}
    case.compare("identity.numerics", said, here, "differs from the environment")
    data = record.identity.get("data", {})
    if record.data:
        fingerprint = record.data.get("dataset")
        message = "differs from data.dataset"
        case.compare("identity.data.fingerprint", data.get("fingerprint"), fingerprint, message)
    start = record.identity.get("checkpoint", {})
    if record.data and "fingerprint" in start:
        message = "differs from data.checkpoint"
        said_of = start["fingerprint"], record.data.get("checkpoint")
        case.compare("identity.checkpoint.fingerprint", *said_of, message)


def check_files(case: Case, trust: bool) -> bool:
    """Whether the files that a cell names are here, with the content that was recorded.

    Only then they are read; code in a file is run where records are trusted alone.
    """
    record = case.record
    cell = {**record.cell, "model": {**record.cell["model"], "checkpoint": None}}
    name = str(cell["model"]["name"])
    if names_code(name) and not trust:
        case.fault("cell.model.name", f"{name!a} is code in a file, which is run by --trust alone")
        return False
    if case.raw["schema"] == 1:  # their digests are a part of the key alone
        return not (cell["hardware"].get("path") and _key_differs(case))
    recorded = {k: v for k, v in _files(record.identity).items() if k != "model.checkpoint"}
    try:
        here = files_of(cell)
    except BadCell as error:
        case.fault("cell", str(error))
        return False
    for key in sorted({*recorded, *here}):
        if key not in here:
            case.fault(f"cell.{key}", "the file that it names is not here", recorded[key])
        elif recorded.get(key) != here[key]:
            message = "the file that it names has other content here"
            case.fault(f"cell.{key}", message, recorded.get(key), here[key])
    return recorded == here and not (here and _key_differs(case))


def _key_differs(case: Case) -> bool:
    return any(finding.field == "key" for finding in case.findings)


def _files(identity: Mapping[str, Any]) -> dict[str, Any]:
    found = identity.get("files")
    return dict(found) if isinstance(found, Mapping) else {}


def loads_files(options: Mapping[str, Any]) -> str | None:
    """The entry of a model's options that would have timm read a file or the network."""
    risky = ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
    return next((key for key in risky if key in options), None)
