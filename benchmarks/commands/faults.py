"""Errors in words: what is wrong, and what the choices are."""

from __future__ import annotations

from benchmarks.commands.launch import unknown_launcher
from benchmarks.commands.words import meant


def explained(error: BaseException) -> str:
    """The message of an error; for Hydra's, the innermost one with the valid keys."""
    from hydra.errors import MissingConfigException
    from omegaconf import OmegaConf
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
            text = (inner.msg or str(inner)).splitlines()[0]
            parent = inner.parent_node
            keys = (
                sorted(map(str, parent)) if parent is not None and OmegaConf.is_dict(parent) else []
            )
            where = f" ({inner.full_key})" if inner.full_key else ""
            near = meant(str(inner.full_key or "").rpartition(".")[2], keys)
            return f"{text}{where}{near}" + (f"; the keys are {', '.join(keys)}" if keys else "")
        inner = inner.__cause__ or inner.__context__
    text = str(error).strip()
    if not text:
        return f"{type(error).__name__} without a message"
    # What is raised on purpose explains itself; of anything else the type says more.
    explains = isinstance(error, ValueError | OSError)
    return text if explains else f"{type(error).__name__}: {text} (JUXTABIT_DEBUG=1 shows where)"


def _unavailable(group: str, name: str) -> str | None:
    """Why a plugin that is installed is no option of a group."""
    from frameworks import UnknownName, registry, targets

    try:
        if group == "framework":
            registry.get(name)
        elif group == "hardware":
            targets.get(name)
    except UnknownName as unknown:
        return str(unknown)
    return None
