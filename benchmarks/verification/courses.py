"""Whether a record's accuracies, search cost and curve agree with each other and with the data."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from benchmarks.suite.cell import CURVE_POINTS
from benchmarks.suite.objective import DEFAULT, objective_of
from benchmarks.verification.findings import Case
from benchmarks.verification.grounds import Data, Grounds

_ROUNDING = 1e-9


def check_course(case: Case, grounds: Grounds, current: bool) -> None:
    """Accuracies, curve, search and timings; of a record of this version data and weights, too."""
    record = case.record
    if record.status == "skipped" and not record.reason:
        case.fault("reason", "a skipped cell says why")
    if record.status == "failed" and not record.error:
        case.fault("error", "a failed cell says why")
    data = grounds.data(record.cell)
    if isinstance(data, str):
        case.note("data", f"not compared: {data}")
    else:
        _check_data(case, data, current)
    if record.status != "done":
        return
    _check_accuracy(case)
    if not isinstance(data, str):
        _check_counts(case, data)
    _check_curve(case)
    _check_times(case)


def _check_data(case: Case, data: Data, current: bool) -> None:
    """The data are those that are here; a committed float network is the committed one."""
    record = case.record
    if record.data:
        said, here = record.data.get("dataset"), data.identity.get("fingerprint")
        case.compare("data.dataset", said, here, "differs from the data that are here")
    if current:
        said = record.identity.get("checkpoint")
        case.compare("identity.checkpoint", said, data.start, "is another float network's")


def _check_accuracy(case: Case) -> None:
    accuracy, protocol = case.record.accuracy, case.record.cell["protocol"]
    trained = accuracy.get("fine_tuned")
    trains = protocol["name"] != "ptq"
    if trains is not (trained is not None):
        message = f"protocol {protocol['name']} {'trains' if trains else 'does not train'}"
        case.fault("accuracy.fine_tuned", message, trained)
    last = "fine_tuned" if trains else "ptq"
    if accuracy.get("final") != accuracy.get(last):
        message = f"differs from accuracy.{last}"
        case.fault("accuracy.final", message, accuracy.get("final"), accuracy.get(last))
    for name in ("float", "valid", "ptq"):
        if accuracy.get(name) is None:
            case.fault(f"accuracy.{name}", "is missing")
    objective = objective_of(protocol)
    free = objective != DEFAULT
    if free and accuracy.get("float") != 100:
        message = f"of objective {objective} the float network agrees with itself"
        case.fault("accuracy.float", message, accuracy.get("float"), 100.0)
    for name, there in (("kl", free), ("valid_kl", objective == "kl")):
        if (name in accuracy) is not there:
            message = f"is there exactly where the objective asks for it, which is {objective}"
            case.fault(f"accuracy.{name}", message, accuracy.get(name))


def _check_counts(case: Case, data: Data) -> None:
    """An accuracy is a whole number of images."""
    drawn = min(int(case.record.cell["protocol"]["valid_images"]), data.valid)
    counts = {**dict.fromkeys(("float", "ptq", "fine_tuned", "final"), data.test), "valid": drawn}
    for name, count in counts.items():
        value = case.record.accuracy.get(name)
        if value is None:
            continue
        nearest = 100 * round(value * count / 100) / count
        if abs(nearest - value) > _ROUNDING:
            message = f"is not that of a whole number of {count} images"
            case.fault(f"accuracy.{name}", message, value, nearest)


def _check_curve(case: Case) -> None:
    record = case.record
    curve, search = record.curve, record.search
    if len(curve) > CURVE_POINTS:
        case.fault("curve", f"has more than {CURVE_POINTS} points", len(curve), CURVE_POINTS)
    if not curve:
        if record.budget.get("within"):
            case.fault("curve", "is empty, although a policy within the budget was found")
        return
    for i, (before, after) in enumerate(pairwise(curve), 1):
        for name in ("policies", "images", "seconds", "objective"):
            if after.get(name, 0) < before.get(name, 0):
                message = f"falls from curve[{i - 1}], and it cannot"
                case.fault(f"curve[{i}].{name}", message, after.get(name))
    last, end = curve[-1], f"curve[{len(curve) - 1}]"
    images = search.get("images_forward", 0) + search.get("images_backward", 0)
    for name, most in (("policies", search.get("policies", 0)), ("images", images)):
        if last.get(name, 0) > most:
            case.fault(f"{end}.{name}", "is more than the search's own", last.get(name), most)
    valid = _reached(case)
    if record.budget.get("within") and valid is not None and last["objective"] < valid:
        message = "is less than the found policy reaches itself (accuracy.valid)"
        case.fault(f"{end}.objective", message, last["objective"], valid)


def _reached(case: Case) -> float | None:
    """What the curve's last point is at least; None where it has another measure.

    A curve has accuracies of policies at the nearest levels; weights that were rounded otherwise in
    the end may be better.
    """
    kept: Any = case.record.accuracy.get("valid")
    rounded = "rounding" in case.record.identity
    other = rounded or objective_of(case.record.cell["protocol"]) == "kl"
    return None if other or kept is None else float(kept)


def _check_times(case: Case) -> None:
    timings = case.record.timings
    longest = max((v for k, v in timings.items() if k != "total"), default=0.0)
    if timings.get("total", 0.0) < longest:
        message = "is less than one of its stages"
        case.fault("timings.total", message, timings.get("total"), longest)
    scoring = case.record.search.get("scoring", {}).get("seconds", 0.0)
    spent = case.record.search.get("seconds", 0.0)
    if spent > timings.get("search", 0.0) + scoring:
        case.fault("search.seconds", "is more than the stage took", spent, timings.get("search"))
