"""Overrides of the command line as people write them, made into those that Hydra reads.

- ``model=NAME`` for any model of timm, ``model=PATH.py:FUNCTION`` for one of a file;
- ``+suite=PATH.yaml`` for a suite from any folder;
- keys of dictionaries in quotes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from benchmarks.fingerprints.named_files import names_code

_QUOTED_KEY = re.compile(r"""(?<=[{,\s])(['"])((?:(?!\1).)*)\1\s*:""")
_SUITE = re.compile(r"\+?suite=(.+\.ya?ml)")


def unquoted(overrides: Iterable[str]) -> list[str]:
    """Overrides with the quotes of dictionary keys resolved, which Hydra's grammar lacks.

    ``space.layers={'head*': [8]}`` is ``space.layers={head*: [8]}``; what Hydra would not read
    without quotes is escaped.
    """
    return [
        _QUOTED_KEY.sub(lambda found: escaped(found[2]) + ":", text) if "={" in text else text
        for text in overrides
    ]


def escaped(text: str) -> str:
    """A text as Hydra reads it without quotes."""
    return re.sub(r"""([\\()\[\]{}:=, \t'"])""", r"\\\1", text)


def plain(value: str) -> str:
    """What Hydra reads in a value that is written in quotes or escaped, as it writes a sweep's."""
    found = re.fullmatch(r"""(['"])(.*)\1""", value)
    if found is not None:
        return found[2].replace(f"\\{found[1]}", found[1])
    return re.sub(r"\\([\\()\[\]{}:=, \t])", r"\1", value)


def with_models(overrides: Sequence[str], options: Iterable[str]) -> list[str]:
    """``model=NAME`` for a name that is no option of the group, as timm's own or a file's model.

    Args:
        overrides: of one job, without sweeps.
        options: the options of the group ``model``.
    """
    known, found = set(options), []
    for override in overrides:
        key, _, value = override.partition("=")
        name = plain(value)
        own = names_code(name) or not (set(name) & set("/\\{}") or name.startswith("."))
        if key == "model" and name and own and name not in known:
            found += ["model=timm", f"model.name={escaped(name)}"]
        else:
            found.append(override)
    return found


def suite_file(overrides: Sequence[str]) -> tuple[list[str], dict[str, Any] | None]:
    """The overrides without a suite's file, and what it holds.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no suite.
    """
    files = [found[1] for override in overrides if (found := _SUITE.fullmatch(override))]
    rest = [override for override in overrides if not _SUITE.fullmatch(override)]
    if not files:
        return rest, None
    path = Path(files[-1].strip("'\"")).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"suite: there is no file {path}")
    try:
        suite = OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:
        raise ValueError(f"suite: {path} cannot be read: {error}") from error
    if not isinstance(suite, Mapping) or not isinstance(suite.get("cells"), list):
        raise ValueError(
            f"suite: {path} is no suite: it needs cells, a list of blocks such as "
            "{framework: [haq, hawq], model: [resnet8], budget: [{like: 3}], seed: [0, 1, 2]}"
        )
    return rest, {"name": path.stem, **{str(key): value for key, value in suite.items()}}
