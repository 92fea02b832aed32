"""What a plugin may leave behind in its process, and how it is put back.

A worker computes one cell after the other. `contained` puts the process's state back after each
call of a plugin: what changes numbers (torch's dtype, threads, modes) makes the cell a failed one,
the rest is said in its record's notes.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Literal

import numpy as np
import torch


class ChangedProcess(RuntimeError):
    """A plugin left a setting changed that later numbers depend on; the message says which."""


_MKLDNN = ("enabled", "deterministic", "allow_tf32")
"""Flags of ``torch.backends.mkldnn``, in the order of its ``set_flags``."""


@dataclass(frozen=True)
class _Setting:
    """One part of the process's state.

    Attributes:
        kind: ``numbers`` where later results depend on it, ``said`` where they do not, ``silent``
            for what libraries change by the way when they are imported.
    """

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]
    kind: Literal["numbers", "said", "silent"]


def _flags() -> tuple[Any, ...]:
    backends: Any = torch.backends
    cudnn, matmul = backends.cudnn, backends.cuda.matmul
    return (cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32)


def _set_flags(flags: tuple[Any, ...]) -> None:
    backends: Any = torch.backends
    cudnn, matmul = backends.cudnn, backends.cuda.matmul
    cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32 = flags


def _cpu_kernels() -> tuple[Any, ...]:
    """Whether oneDNN's kernels and attention's fast path are used, and how exactly."""
    backends: Any = torch.backends
    mkldnn = backends.mkldnn
    # Newer versions of torch have more flags.
    flags = {name: getattr(mkldnn, name) for name in _MKLDNN if hasattr(mkldnn, name)}
    return flags, backends.mha.get_fastpath_enabled()


def _set_cpu_kernels(before: tuple[Any, ...]) -> None:
    backends: Any = torch.backends
    flags, fast = before
    backends.mkldnn.set_flags(*flags.values())
    backends.mha.set_fastpath_enabled(fast)


def _flushes() -> bool:
    """Whether numbers too small for full precision become zero."""
    return float(torch.full((1,), 1e-39, dtype=torch.float32) * 1) == 0


def _folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was deleted
        return None


def _set_folder(folder: str | None) -> None:
    if folder is not None:
        os.chdir(folder)


_OF_LIBRARIES = ("TORCHINDUCTOR_", "KMP_")
"""Beginnings of variables that torch and scikit-learn set where they are first needed."""


def _environment() -> dict[str, str]:
    """The variables but those that loading a library sets, of which no plugin is at fault."""
    return {k: value for k, value in os.environ.items() if not k.startswith(_OF_LIBRARIES)}


def _set_environment(before: dict[str, str]) -> None:
    for name in _environment():
        del os.environ[name]
    os.environ.update(before)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _set_streams(streams: tuple[Any, ...]) -> None:
    sys.stdin, sys.stdout, sys.stderr = streams


def _collect(enabled: bool) -> None:
    (gc.enable if enabled else gc.disable)()


def _set_device(before: torch.device) -> None:
    # None is the state without a default; naming the CPU would set a mode that costs time.
    torch.set_default_device(None if before.type == "cpu" else before)


def _autocasts() -> bool:
    return torch.is_autocast_enabled("cpu")


def _set_autocast(before: bool) -> None:
    torch.set_autocast_enabled("cpu", before)


_SETTINGS = (
    _Setting("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype, "numbers"),
    _Setting("torch's default device", torch.get_default_device, _set_device, "numbers"),
    _Setting("torch's gradient mode", torch.is_grad_enabled, torch.set_grad_enabled, "numbers"),
    _Setting("torch's threads", torch.get_num_threads, torch.set_num_threads, "numbers"),
    _Setting(
        "torch's deterministic mode",
        torch.get_deterministic_debug_mode,
        torch.set_deterministic_debug_mode,
        "numbers",
    ),
    _Setting(
        "torch's matmul precision",
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
        "numbers",
    ),
    _Setting("torch's autocast", _autocasts, _set_autocast, "numbers"),
    _Setting("torch's flushing of denormals", _flushes, torch.set_flush_denormal, "numbers"),
    _Setting("torch's kernels of the CPU", _cpu_kernels, _set_cpu_kernels, "numbers"),
    _Setting("torch's cuDNN flags", _flags, _set_flags, "numbers"),
    _Setting(
        "torch's anomaly detection", torch.is_anomaly_enabled, torch.set_anomaly_enabled, "said"
    ),
    _Setting("the working folder", _folder, _set_folder, "said"),
    _Setting("environment variables", _environment, _set_environment, "said"),
    _Setting("the mask of new files", _umask, os.umask, "said"),
    _Setting("garbage collection", gc.isenabled, _collect, "said"),
    _Setting(
        "the standard streams", lambda: (sys.stdin, sys.stdout, sys.stderr), _set_streams, "said"
    ),
    _Setting("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit, "silent"),
    _Setting("NumPy's handling of errors", np.geterr, lambda b: np.seterr(**b), "silent"),
)


@contextmanager
def contained(who: str, notes: list[str]) -> Iterator[None]:
    """Within the context, what is changed in the process is put back at the end.

    Args:
        who: names the plugin in the message.
        notes: what was put back, and threads that go on, are added to it.

    Raises:
        ChangedProcess: a setting that changes numbers was left changed, unless another error is
            on its way.
    """
    before = [setting.read() for setting in _SETTINGS]
    process, threads = os.getpid(), set(threading.enumerate())
    changed: list[_Setting] = []
    try:
        with warnings.catch_warnings():
            yield
    finally:
        if os.getpid() != process:
            os._exit(1)  # a fork of the worker that came back from the plugin
        for setting, value in zip(_SETTINGS, before, strict=True):
            if setting.read() != value:
                setting.write(value)
                changed.append(setting)
    notes += [f"{setting.name} put back" for setting in changed if setting.kind == "said"]
    notes += [
        f"the thread {thread.name} goes on"
        for thread in threading.enumerate()
        if thread not in threads and not thread.daemon
    ]
    if names := ", ".join(setting.name for setting in changed if setting.kind == "numbers"):
        raise ChangedProcess(f"{who} left {names} changed: put it back before returning")


class Interrupts:
    """Tells a Ctrl-C from a ``KeyboardInterrupt`` that a plugin raises; puts the handler back.

    ``came`` is true once the process was interrupted from outside.
    """

    def __init__(self) -> None:
        self.came = False
        self._main = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Interrupts:
        if self._main:
            self._before = signal.getsignal(signal.SIGINT)
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._main:
            signal.signal(signal.SIGINT, self._before or signal.default_int_handler)
            signal.setitimer(signal.ITIMER_REAL, 0)  # an alarm would end another cell

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        if callable(self._before):
            self._before(number, frame)
        elif self._before != signal.SIG_IGN:
            raise KeyboardInterrupt
