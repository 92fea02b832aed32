"""The table as one CSV: measured rows, overall rows, then published numbers.

The column ``half`` tells them apart: ``measured``, ``overall``, ``reported``. Numbers are not
rounded; what was not measured is empty. What a policy costs in the budget's metric is in the
column of that metric, ``cost_bops`` say; ``ptq_accuracy`` is that before training, under a
protocol that trains.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.records.escape import csv as escape
from benchmarks.report.formats.reported import Reported
from benchmarks.report.numbers.groups import Group
from benchmarks.report.numbers.marks import collapsed, dropped, learning, objective, remark
from benchmarks.report.numbers.overall import Overall
from benchmarks.report.numbers.rows import Row
from benchmarks.report.numbers.statistics import Estimate

_KEYS = ("half", "protocol", "model", "dataset", "hardware", "hardware_kind", "budget", "metric")
_CARD = ("category", "year", "quantizer", "granularity", "searches", "hardware_aware", "arxiv")
_TEST = ("n", "p", "level", "significant")
_SEARCH = ("policies", "images_forward", "images_backward", "seconds", "peak_memory")


def _interval(prefix: str, found: Estimate | None, *more: str) -> dict[str, Any]:
    """The columns of an estimate: mean, interval and ``more``."""
    keys = ("mean", "low", "high", *more)
    names = [prefix if key == "mean" else f"{prefix}_{key}" for key in keys]
    return {name: getattr(found, key, None) for name, key in zip(names, keys, strict=True)}


def measured(group: Group, row: Row) -> dict[str, Any]:
    """The columns of a measured row."""
    values: dict[str, Any] = {
        "half": "measured",
        "protocol": group.protocol,
        "model": group.model,
        "dataset": group.dataset,
        "hardware": group.hardware,
        "hardware_kind": group.kind,
        "budget": group.budget,
        "metric": group.metric,
        "limit": group.limit,
        "unit": group.unit,
        "bounds": group.bound if len(group.bounds) > 1 else "",
        "rank": row.rank,
        "best": row.best,
        "framework": row.label,
        "baseline": row.baseline,
        "status": row.status,
        "done": len(row.cells),
        "failed": len(row.failed),
        "skipped": len(row.skipped),
        "over_budget": row.over,
        **_interval("accuracy", row.accuracy),
        **_interval("behind_best", row.gains.get("best"), *_TEST),
        **_interval("gain_uniform", row.gains.get("uniform"), *_TEST),
        **_interval("gain_random", row.gains.get("random"), *_TEST),
        "budget_share": group.share(row),
        "budget_metric": group.binding(row),
        "float_accuracy": row.mean("accuracy", "float"),
        "ptq_accuracy": row.untrained,
        "weight_bits": row.mean("bits", "weight"),
        "act_bits": row.mean("bits", "act"),
        "front_points": row.front,
        **{f"search_{key}": row.mean("search", key) for key in _SEARCH},
        **{key: row.card.get(key) for key in _CARD},
        "reason": "; ".join(row.faults),
        **_said(row),
    }
    if group.shows == "agreement":
        values |= {"shows": group.shows, "kl": row.mean("accuracy", "kl")}
    values["searches"] = "+".join(row.card.get("searches", ()))
    for metric in sorted({m for record in row.records for m in record.costs}):
        values[f"cost_{metric}"] = row.mean("costs", metric)
    return values


def _said(row: Row) -> dict[str, Any]:
    """What the row's searches say of themselves; empty where none does."""
    learned = [said for record in row.records if (said := learning(record)) is not None]
    return {
        "objective": "; ".join(dict.fromkeys(map(objective, learned))),
        "learned": sum(said["improved"] for said in learned) if learned else None,
        "did_not_learn": sum(not said["improved"] for said in learned) if learned else None,
        "collapsed": sum(map(collapsed, row.records)) or None,
        "remarks": "; ".join(dict.fromkeys(filter(None, map(remark, row.records)))),
        "weights_dropped": sum(map(dropped, row.records)) or None,
    }


def _overall(overall: Overall) -> Iterator[dict[str, Any]]:
    for standing in overall.standings:
        tallies = {
            f"{result}_{against}": count
            for against, counts in standing.records.items()
            for result, count in zip(("won", "tied", "lost"), counts, strict=True)
        }
        yield {
            "half": "overall",
            "protocol": overall.protocol,
            "framework": standing.label,
            "baseline": standing.baseline,
            "groups": standing.groups,
            "groups_tried": standing.tried,
            "best": standing.best,
            **_interval("behind_best", standing.behind, *_TEST),
            **_interval("gain_uniform", standing.gain, "n"),
            "groups_best": standing.leads,
            "groups_judged": standing.judged,
            **tallies,
            "profile_area": standing.area,
            "search_images": standing.images,
            "search_seconds": standing.seconds,
        }


def render(
    groups: Sequence[Group], standings: Sequence[Overall], numbers: Sequence[Reported]
) -> str:
    """The whole file."""
    rows = [measured(group, row) for group in groups for row in group.rows]
    rows += [row for overall in standings for row in _overall(overall)]
    rows += [{"half": "reported", **vars(number)} for number in numbers]
    columns = dict.fromkeys([*_KEYS, *(key for row in rows for key in row)])
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(map(escape, columns))
    writer.writerows([escape(row.get(column, "")) for column in columns] for row in rows)
    return file.getvalue()
