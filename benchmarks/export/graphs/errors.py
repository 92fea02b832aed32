"""What can go wrong with an export, found before any long work."""

from __future__ import annotations

from importlib.util import find_spec


class UnsupportedExport(ValueError):
    """A network or quantizer has no form in the format asked for; the message names it."""


class MissingExtra(ImportError, ValueError):
    """A package of the extra ``export`` is not installed."""


def require(*packages: str) -> None:
    """Check that optional packages are there, without importing them.

    Raises:
        MissingExtra: with the command that installs them.
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"this export needs {', '.join(missing)}: pip install 'juxtabit[export]'"
        )
