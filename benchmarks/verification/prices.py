"""What a policy costs, whether it may be, and what follows from it: recomputed exactly."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from benchmarks.records.plaindata import as_plain
from benchmarks.verification.findings import Case
from benchmarks.verification.grounds import Grounds, Priced, Unchecked
from frameworks import Policy, UnsupportedBits


def check_prices(case: Case, grounds: Grounds, current: bool) -> None:
    """Budget, policy, costs, bits, weights and front of a record."""
    record = case.record
    if record.status == "failed":
        return
    try:
        priced = grounds.priced(record.cell)
    except Unchecked as reason:
        case.fault("costs", f"cannot be recomputed here: {reason}")
        return
    except Exception as error:  # of a target or method of a plugin, too
        _refused(case, error, current)
        return
    _check_budget(case, priced)
    if record.weights:
        said = {name: value for name, value in record.weights.items() if name != "dropped"}
        case.compare("weights", said, priced.accounting.to_json(), "differs from the network's")
    if record.status == "done":
        _check_policy(case, priced)


def _refused(case: Case, error: Exception, current: bool) -> None:
    message = f"this version refuses the cell: {type(error).__name__}: {error}"
    if current:
        case.fault("cell", message)
    else:
        case.note("cell", f"costs are not recomputed; {message}")


def _check_budget(case: Case, priced: Priced) -> None:
    budget = priced.budget
    here: dict[str, Any] = {
        "metric": budget.metric,
        "limit": budget.limit,
        "unit": budget.unit,
        "label": budget.label,
        "kind": priced.setting.target.kind,
    }
    if budget.others:
        here["bounds"] = [asdict(bound) for bound in budget.bounds]
    said = {name: value for name, value in case.record.budget.items() if name != "within"}
    case.compare("budget", said, here, "differs from what the configuration asks for")


def _check_policy(case: Case, priced: Priced) -> None:
    record, setting = case.record, priced.setting
    policy = Policy.from_json(record.policy or {})
    try:
        setting.admitted.validate(policy)
        costs = _costs(priced, policy)
    except (ValueError, KeyError) as error:
        case.fault("policy", f"outside the space: {str(error).removeprefix('policy: ')}")
        return
    case.compare("costs", record.costs, costs, "differs from the policy's")
    case.compare("float_costs", record.float_costs, _plain(priced.reference[32]), _UNIFORM)
    case.compare("int8_costs", record.int8_costs, _plain(priced.reference[8]), _UNIFORM)
    within = priced.budget.allows(costs)
    if record.budget.get("within") is not within:
        said = "is over" if not within else "is within"
        over = ", ".join(
            f"{bound.metric} {costs[bound.metric]:.10g} of {bound.limit:.10g} {bound.unit}"
            for bound in priced.budget.bounds
        )
        message = f"the policy {said} the budget: {over}"
        case.fault("budget.within", message, record.budget.get("within"), within)
    case.compare("bits", record.bits, _bits(priced, policy), "differs from the policy's")
    outside, said_outside = setting.outside(policy), record.notes.get("outside")
    if (outside is None) != (said_outside is None):
        message = "whether the policy leaves the protocol's space"
        case.fault("notes.outside", message, said_outside, outside)
    _check_front(case, priced)


_UNIFORM = "differs from the uniform network's"


def _plain(costs: Any) -> Any:
    return as_plain(dict(costs), "costs")


def _costs(priced: Priced, policy: Policy) -> dict[str, float]:
    """The cost in every metric; a bit width that the hardware lacks is refused."""
    target = priced.setting.target
    try:
        found: dict[str, float] = _plain(target.cost(priced.layers, policy))
    except UnsupportedBits as error:
        raise ValueError(str(error)) from error
    return found


def _bits(priced: Priced, policy: Policy) -> dict[str, float]:
    """Mean bits, summed in the order in which a cell sums them."""
    layers = priced.layers
    elements = sum(layer.in_elements for layer in layers)
    return {
        "weight": policy.mean_weight_bits(layers),
        "act": sum(x.in_elements * policy[x.name].act for x in layers) / elements,
    }


def _check_front(case: Case, priced: Priced) -> None:
    """The points of a front are policies of the space; objectives that are costs are their own."""
    for i, point in enumerate(case.record.front):
        where = f"front[{i}]"
        policy = Policy.from_json(point["policy"])
        try:
            priced.setting.admitted.validate(policy)
            costs = _costs(priced, policy)
        except (ValueError, KeyError) as error:
            message = str(error).removeprefix("policy: ")
            case.fault(f"{where}.policy", f"outside the space: {message}")
            continue
        said = {k: v for k, v in point["objectives"].items() if k in costs}
        here = {name: costs[name] for name in said}
        case.compare(f"{where}.objectives", said, here, "differs from the policy's cost")
