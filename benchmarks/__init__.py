"""The benchmark suite: data, models, cells, records and tables.

``from benchmarks import juxtapose, search`` compares methods, or runs one, on a network and data
of your own; ``quantize`` writes a network's file from images without labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.calls.methods import juxtapose, search
    from benchmarks.deploy.quantizing import quantize

__version__ = "0.4.0"
__all__ = ["__version__", "juxtapose", "quantize", "search"]
_HOMES = {
    "juxtapose": "benchmarks.calls.methods",
    "quantize": "benchmarks.deploy.quantizing",
    "search": "benchmarks.calls.methods",
}


def __getattr__(name: str) -> Any:
    """The calls, imported when they are asked for: the command's start needs no torch."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
