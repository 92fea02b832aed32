"""Errors in words: what is wrong, and what the choices are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.commands.launch import unknown_launcher
from benchmarks.commands.words import meant

if TYPE_CHECKING:
    from omegaconf.errors import OmegaConfBaseException

_LISTS = "is not a ListConfig"


def explained(error: BaseException) -> str:
    """The message of an error; for Hydra's, the innermost one with the valid keys."""
    from hydra.errors import MissingConfigException
    from omegaconf.errors import OmegaConfBaseException

    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, MissingConfigException) and inner.missing_cfg_file:
            group, _, name = inner.missing_cfg_file.rpartition("/")
            options = [x for x in inner.options or () if x != "schema"]
            if group == "hydra/launcher":
                return unknown_launcher(name, options)
            known = f"unknown {group} {name!r}{meant(name, options)}"
            return _unavailable(group, name) or f"{known}; choose from {', '.join(options)}"
        if isinstance(inner, OmegaConfBaseException):
            return _of_config(inner)
        inner = inner.__cause__ or inner.__context__
    text = str(error).strip()
    if not text:
        return f"{type(error).__name__} without a message"
    # What is raised on purpose explains itself; of anything else the type says more.
    explains = isinstance(error, ValueError | OSError)
    return text if explains else f"{type(error).__name__}: {text} (JUXTABIT_DEBUG=1 shows where)"


def _of_config(error: OmegaConfBaseException) -> str:
    """What OmegaConf refuses: the value of a key, or a key, with those that there are."""
    from omegaconf import OmegaConf

    text, parent = (error.msg or str(error)).splitlines()[0], error.parent_node
    keys = sorted(map(str, parent)) if parent is not None and OmegaConf.is_dict(parent) else []
    key = str(error.full_key or "")
    name = key.rpartition(".")[2]
    if name in keys:
        return f"{key}: " + (f"give a list, as in {key}=[NAME,NAME]" if _LISTS in text else text)
    where = f" ({key})" if key else ""
    return f"{text}{where}{meant(name, keys)}" + (
        f"; the keys are {', '.join(keys)}" if keys else ""
    )


def _unavailable(group: str, name: str) -> str | None:
    """Why a plugin that is installed is no option of a group."""
    from benchmarks.data.load import datasets
    from benchmarks.models.build import models
    from frameworks import Registry, UnknownName, registry, targets

    known: dict[str, Registry[Any]] = {
        "framework": registry, "hardware": targets, "dataset": datasets, "model": models,
    }  # fmt: skip
    if group not in known or name not in {u.name for u in known[group].unavailable()}:
        return None
    try:
        known[group].get(name)
    except UnknownName as unknown:
        return str(unknown)
    return None
