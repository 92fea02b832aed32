"""Where files are kept that can be made again: checkpoints and the list of frameworks."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``$JUXTABIT_CACHE``, or ``~/.cache/juxtabit``."""
    return Path(os.environ.get("JUXTABIT_CACHE", "~/.cache/juxtabit")).expanduser()
