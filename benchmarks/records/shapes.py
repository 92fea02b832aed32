"""What a record holds at every depth: all that tables, exports and other readers rely on."""

from __future__ import annotations

from typing import Any

from benchmarks.records.schema import (
    LARGEST,
    Check,
    Misfit,
    choice,
    complete,
    either,
    listed,
    mapped,
    name,
    number,
    optional,
    plain,
    shaped,
    shown,
    text,
    truth,
    whole,
)

STATUSES = ("done", "failed", "skipped")
BITS = (*range(9), 16, 32)
"""The bit widths that there are; 0 is pruned, 32 is float."""


def percent(value: Any) -> None:
    """An accuracy."""
    try:
        number(0, 100)(value)
    except Misfit:
        raise Misfit(f"is {shown(value)}, not a percentage") from None


_least_zero = number(0)
_bits = choice(BITS, f"not a bit width ({', '.join(map(str, BITS))})")
_policy = mapped(complete({"weight": either(list, listed(_bits, 1), _bits), "act": _bits}))
_named = complete({"name": name}, plain)
_words = listed(text)

_ASKED = dict.fromkeys(("like", "ratio", "limit"), optional(_least_zero))
_CELL = shaped(
    {
        **dict.fromkeys(("framework", "model", "dataset", "hardware", "protocol"), _named),
        "budget": shaped(
            {
                **_ASKED,
                "metric": optional(name),
                "metrics": optional(mapped(shaped(_ASKED))),
            },
            plain,
        ),
        "seed": whole(-(2**63), 2**63),
    },
    plain,
)
_CARD = shaped(
    {
        **dict.fromkeys(("title", "category", "quantizer", "granularity", "arxiv", "venue"), text),
        "year": optional(whole(0, 9999)),
        "hardware_aware": optional(truth),
        **dict.fromkeys(("searches", "needs", "quantization", "deviations"), _words),
    },
    plain,
)
_BOUND = complete({"metric": name, "limit": _least_zero, "unit": text})
_BUDGET = shaped(
    {
        "metric": name,
        "limit": _least_zero,
        "bounds": listed(_BOUND, 1),
        **dict.fromkeys(("unit", "label", "kind"), text),
        "within": truth,
    },
    plain,
)
_SPENT = dict.fromkeys(
    ("policies", "images_forward", "images_backward", "seconds", "peak_memory"), _least_zero
)
_POINT = shaped(dict.fromkeys(("policies", "images", "seconds"), _least_zero), number())
_COSTS = mapped(_least_zero)

_PLAIN = shaped({}, plain)

FIELDS: dict[str, Check] = {
    "key": name,
    "cell": _CELL,
    "status": choice(STATUSES, f"none of {', '.join(STATUSES)}"),
    "card": _CARD,
    "reason": optional(text),
    "error": optional(text),
    "budget": _BUDGET,
    "policy": optional(_policy),
    "bits": mapped(number(0, 32)),
    "costs": _COSTS,
    "float_costs": _COSTS,
    "int8_costs": _COSTS,
    "accuracy": shaped(
        {"kl": optional(_least_zero), "valid_kl": optional(_least_zero)}, optional(percent)
    ),
    "weights": shaped(
        {
            "quantized": _least_zero,
            "left": mapped(_least_zero),
            "unused": mapped(_least_zero),
            "share": number(0, 1),
            "note": text,
            "dropped": truth,
        },
        plain,
    ),
    "search": shaped({**_SPENT, "scoring": shaped(_SPENT, plain)}, plain),
    "curve": listed(_POINT),
    "front": listed(complete({"policy": _policy, "objectives": mapped(number())})),
    "notes": shaped({}, plain),
    "code": shaped(dict.fromkeys(("juxtabit", "distribution", "version", "source"), text), plain),
    "data": shaped(dict.fromkeys(("dataset", "checkpoint", "origin"), text), plain),
    "identity": shaped(
        {
            "data": shaped({"fingerprint": optional(text)}, plain),
            "code": _PLAIN,
            "numerics": _PLAIN,
        },
        plain,
    ),
    "environment": shaped({"time": text, "threads": whole(1, 2**20)}, plain),
    "timings": _COSTS,
    "schema": number(0, LARGEST),
    "digest": name,
}
"""The fields of a record, with what each must be; a record need not have all of them."""
