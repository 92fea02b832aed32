"""The benchmark suite: data, models, cells, records and tables.

``from benchmarks import juxtapose, search`` compares methods, or runs one, on a network and data
of your own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.calls.methods import juxtapose, search

__version__ = "0.4.0"
__all__ = ["__version__", "juxtapose", "search"]


def __getattr__(name: str) -> Any:
    """The calls, imported when they are asked for: the command's start needs no torch."""
    if name in ("juxtapose", "search"):
        from importlib import import_module

        return getattr(import_module("benchmarks.calls.methods"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
