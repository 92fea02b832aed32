"""``juxtabit list KIND`` and ``juxtabit frameworks``: what there is to choose from."""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from benchmarks.commands.words import meant, row, say

if TYPE_CHECKING:
    from frameworks import Registry

Entry = dict[str, Any]
"""``name`` and further plain facts; ``text`` is what a line shows of them."""


def list_command(options: argparse.Namespace, _: list[str]) -> int:
    """List one kind; the exit code is 1 where a filter leaves nothing."""
    if options.kind == "frameworks" and not options.filter:
        return frameworks_command(options, [])
    entries = [*KINDS[options.kind](options.filter or ""), *_unavailable(options.kind)]
    if options.filter:
        kept = [e for e in entries if fnmatchcase(e["name"], options.filter)]
        if not kept:
            names = [e["name"] for e in entries]
            say(f"no {options.kind} fits {options.filter!a}{meant(options.filter, names)}")
            return 1
        entries = kept
    if options.json:
        plain = [{k: v for k, v in e.items() if k != "text"} for e in entries]
        print(json.dumps(plain, indent=1, default=str))
        return 0
    width = max((len(e["name"]) for e in entries), default=0)
    for entry in entries:
        row(f"{entry['name']:<{width}}  {entry['text']}".rstrip())
    return 0


def frameworks_command(options: argparse.Namespace, _: list[str]) -> int:
    """The frameworks by category and year, and plugins that cannot be used."""
    from benchmarks.report.listing import listing

    found = listing()
    if options.json:
        print(json.dumps(found, indent=1, default=str))
        return 0
    for entry in _frameworks(""):
        row(f"{entry['name']:<16} {entry['text']}")
    for entry in _unavailable("frameworks"):
        row(f"{entry['name']:<16} {entry['text']}")
    return 0


def _unavailable(kind: str) -> Iterator[Entry]:
    """Plugins that cannot be used, as the rows after those that can: none vanishes."""
    if kind == "frameworks":
        from benchmarks.report.listing import listing

        found = [(u["name"], u["distribution"], u["fault"]) for u in listing()["unavailable"]]
    else:
        known = _registry(kind)
        broken = known.unavailable() if known is not None else []
        found = [(u.name, u.origin.distribution, u.fault) for u in broken]
    for name, source, fault in found:
        text = f"unavailable    {fault}  [{source}]"
        yield {"name": name, "of": source, "unavailable": fault, "text": text}


def _registry(kind: str) -> Registry[Any] | None:
    """What the names of a kind are registered in; None for files."""
    from benchmarks.data.load import datasets
    from benchmarks.models.build import models
    from frameworks import schemes, targets

    known: dict[str, Registry[Any]] = {
        "datasets": datasets, "models": models, "quantizers": schemes, "targets": targets,
    }  # fmt: skip
    return known.get(kind)


def _frameworks(_: str) -> Iterator[Entry]:
    from benchmarks.report.listing import listing

    entries = listing()["frameworks"]
    for entry in sorted(entries, key=lambda e: (e["card"]["category"], e["card"]["year"])):
        card = entry["card"]
        plugin = "" if entry["distribution"] == "juxtabit" else f"  [{entry['distribution']}]"
        text = (
            f"{card['category']:<14} {card['year']}  {card['granularity']:<7} "
            f"{'+'.join(card['searches']):<11} {card['title']}{plugin}"
        )
        yield {**entry, "text": text}


def _models(pattern: str) -> Iterator[Entry]:
    """The project's and plugins' by name; timm's where a pattern asks for them."""
    import timm

    from benchmarks.models.build import models
    from benchmarks.suite.conf import conf_folder

    for path in sorted((conf_folder() / "model").glob("*.yaml")):
        if path.stem != "timm":
            yield {"name": path.stem, "of": "juxtabit", "text": _remark(path.read_text())}
    for name in models.names():
        origin = models.origin(name).distribution
        yield {"name": name, "of": origin, "text": f"[{origin}]"}
    if pattern:
        published = set(timm.list_pretrained())
        for name in timm.list_models(pattern):
            weights = [tag for tag in published if tag.partition(".")[0] == name]
            yield {"name": name, "of": "timm", "weights": sorted(weights), "text": "timm"}
    else:
        count = len(timm.list_models())
        yield {
            "name": "NAME",
            "text": f"any of timm's {count}: juxtabit list models --filter 'res*'",
        }
        yield {"name": "FILE.py:FUNCTION", "text": "a factory of your own"}


def _datasets(_: str) -> Iterator[Entry]:
    from benchmarks.data.load import datasets

    for name in datasets.names():
        yield {"name": name, "text": _first_line(datasets.get(name))}


def _targets(_: str) -> Iterator[Entry]:
    from frameworks import targets

    for name in targets.names():
        cls: Any = targets.get(name)
        metrics = dict(getattr(cls, "metrics", {}))
        shown = ", ".join(f"{metric} in {unit}" for metric, unit in metrics.items())
        yield {
            "name": name,
            "kind": cls.kind,
            "metrics": metrics,
            "text": f"{cls.kind:<9} {shown or 'metrics of its file'}",
        }


def _suites(_: str) -> Iterator[Entry]:
    from benchmarks.suite.conf import conf_folder
    from benchmarks.suite.config import composed, suite_cells

    for path in sorted((conf_folder() / "suite").glob("*.yaml")):
        count = len(suite_cells(composed([f"+suite={path.stem}"])))
        yield {
            "name": path.stem,
            "cells": count,
            "text": f"{count:>4} cells  {_remark(path.read_text())}",
        }


def _quantizers(_: str) -> Iterator[Entry]:
    from frameworks import schemes

    for name in schemes.names():
        yield {"name": name, "text": _first_line(schemes.get(name))}


def _first_line(entry: Any) -> str:
    return (inspect.getdoc(entry) or "").strip().partition("\n")[0]


def _remark(text: str) -> str:
    """The first sentence of a file's leading comment."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines).partition(". ")[0].rstrip(".")


KINDS: dict[str, Callable[[str], Iterator[Entry]]] = {
    "frameworks": _frameworks,
    "models": _models,
    "datasets": _datasets,
    "targets": _targets,
    "suites": _suites,
    "quantizers": _quantizers,
}
