"""Cells in words: their names, and how they ended."""

from __future__ import annotations

from benchmarks.progress.times import duration
from benchmarks.records.record import Record
from benchmarks.suite.config import Cell
from benchmarks.suite.options.budgets import label_of


def title(cell: Cell) -> str:
    """Short name of a cell."""
    framework = cell["framework"].get("label") or cell["framework"]["name"]
    return (
        f"{framework} {cell['model']['name']} {cell['dataset']['name']} "
        f"{cell['hardware']['name']} {label_of(cell)} {cell['protocol']['name']} "
        f"seed={cell['seed']}"
    )


def outcome(record: Record) -> str:
    """How a cell ended."""
    seconds = duration(record.timings.get("total", 0.0))
    if record.status == "failed":
        reason = (record.error or "").strip().splitlines()
        return f"FAILED in {seconds} ({reason[-1] if reason else 'no message'})"
    if record.status == "skipped":
        return f"skipped ({record.reason})"
    over = "" if record.budget["within"] else " OVER BUDGET"
    return f"{record.accuracy['final']:.2f} %{over} in {seconds}"
