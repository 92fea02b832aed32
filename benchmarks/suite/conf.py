"""Where the YAML groups lie: read by the configuration, and by what must start without torch."""

from __future__ import annotations

from pathlib import Path


def conf_folder() -> Path:
    """The folder of the YAML groups: inside an installed package, or beside it in a checkout."""
    here = Path(__file__).resolve().parents[1]
    return next(p for p in (here / "conf", here.parent / "conf") if (p / "config.yaml").exists())
