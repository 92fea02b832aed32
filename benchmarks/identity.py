"""What identifies a cell and the code and machine that computed it."""

from __future__ import annotations

import ast
import hashlib
import inspect
import os
import platform
import subprocess
import textwrap
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

import benchmarks
from benchmarks.config import Cell
from benchmarks.record import digest
from frameworks import kernels_in_force, registry

_NOT_IDENTITY = {"dataset": ("root", "workers", "download"), "model": ("checkpoint",)}


class BadCell(ValueError):
    """A cell cannot be computed as configured; the message names the field and the choices."""


def key_of(cell: Cell) -> str:
    """The key of a cell's record: its configuration and the code that computes it.

    Paths and worker counts do not matter; of a hardware target's file its content does, too. The
    code is the package's version, the plugin's version and the source of the framework's module
    without comments and docstrings.
    """
    identity = {
        axis: {k: v for k, v in value.items() if k not in _NOT_IDENTITY.get(axis, ())}
        if isinstance(value, dict)
        else value
        for axis, value in cell.items()
    }
    if cell["model"].get("checkpoint"):
        identity["checkpoint"] = _file_digest(cell["model"]["checkpoint"])
    table = cell["hardware"].get("path")
    if table and Path(table).is_file():
        identity["hardware_file"] = _file_digest(table)
    return digest({"cell": identity, "code": code_of(cell["framework"]["name"])})


def code_of(framework: str) -> dict[str, str]:
    """What identifies the code of a framework."""
    origin = registry.origin(framework)
    return {
        "juxtabit": benchmarks.__version__,
        "distribution": origin.distribution,
        "version": origin.version if origin.distribution != "juxtabit" else benchmarks.__version__,
        "source": _source_digest(registry.get(framework)),
    }


@lru_cache
def _source_digest(cls: type) -> str:
    module = inspect.getmodule(cls)
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(module or cls)))
    except (OSError, TypeError):
        return "unknown"
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_docstring(body[0]):
            body[:] = body[1:] or [ast.Pass()]
    return digest(ast.dump(tree))


def _is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _file_digest(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).expanduser().read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise BadCell(f"model.checkpoint: {path} cannot be read ({error})") from error


@lru_cache
def git_state() -> dict[str, Any] | None:
    """Commit and dirty flag of the checkout that holds the code, if it is one."""
    root = Path(benchmarks.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *args], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        dirty = git("status", "--porcelain", "--", "frameworks", "benchmarks", "conf")
        return {"sha": git("rev-parse", "HEAD"), "dirty": bool(dirty)}
    except (OSError, subprocess.CalledProcessError):
        return None


def environment() -> dict[str, Any]:
    """The machine and the versions that computed a record."""
    import timm

    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "kernels": kernels_in_force(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(x.split(":", 1)[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
