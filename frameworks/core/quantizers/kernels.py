"""Compiled kernels: a C file, compiled once for this machine, called on the tensors' memory.

The first use compiles ``quantizers/grid.c`` with the system's C compiler into a cache folder, under
a name that is a digest of source, flags and processor; later processes load that file. Without a
compiler, or with ``JUXTABIT_KERNELS=plain``, callers use their composed torch operations, which
give the same values (step gradients in another order of summation); `kernels_in_force` says which
of the two it is, and why.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

SWITCH = "JUXTABIT_KERNELS"
"""``auto`` (compiled where that is possible; the default) or ``plain``."""
SOURCE = Path(__file__).with_name("grid.c")
FLAGS = ("-std=c99", "-O3", "-march=native", "-fPIC", "-ffp-contract=off")
VARIANTS = (("openmp", ("-fopenmp",)), ("one thread", ()))
"""Threads where the compiler knows OpenMP and torch has brought its runtime, else none."""

_P, _I, _L, _F, _D = (
    ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_float, ctypes.c_double,
)  # fmt: skip
_SIGNATURES = {
    "grid_forward": (None, (_P, _P, _P, _L, _L, _F, _F, _F, _F, _I)),
    "grid_backward": (_I, (_P,) * 5 + (_L, _L, _F, _F, _F, _F, _D, _I)),
    "composite_forward": (None, (_P,) * 5 + (_L, _L, _L, _I)),
    "composite_backward": (_I, (_P,) * 9 + (_L, _L, _L, _I)),
    "mix_forward": (None, (_P, _P, _P, _L, _L, _I)),
    "mix_backward": (None, (_P, _P, _P, _L, _L, _I)),
}


@dataclass(frozen=True)
class _Loaded:
    library: ctypes.CDLL | None
    text: str
    """How it was compiled, or why it was not."""


def library() -> ctypes.CDLL | None:
    """The compiled kernels; None where the composed operations are in force."""
    return _loaded(os.environ.get(SWITCH, "auto")).library


def kernels_in_force() -> str:
    """``compiled (...)`` or ``plain (...)``: what computes the quantizers here, for records."""
    loaded = _loaded(os.environ.get(SWITCH, "auto"))
    return f"{'plain' if loaded.library is None else 'compiled'} ({loaded.text})"


@cache
def _loaded(switch: str) -> _Loaded:
    if switch not in ("auto", "plain"):
        raise ValueError(f"{SWITCH}: {switch!r}; choose auto or plain")
    if switch == "plain":
        return _Loaded(None, f"{SWITCH}=plain")
    reasons = []
    for name, flags in VARIANTS:
        try:
            return _Loaded(_bound(_compiled((*FLAGS, *flags))), name)
        except (OSError, subprocess.SubprocessError, ArithmeticError, AttributeError) as error:
            reasons.append(str(error).strip().splitlines()[-1] if str(error) else repr(error))
    return _Loaded(None, reasons[-1])


def _bound(path: Path) -> ctypes.CDLL:
    found = ctypes.CDLL(str(path), mode=os.RTLD_NOW)
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    _check(found)
    return found


def _check(found: ctypes.CDLL) -> None:
    """Values of a few numbers against those of torch, so that no bad compiler goes unnoticed."""
    x, step = torch.linspace(-3, 3, 67), torch.tensor([0.3])
    y = torch.empty_like(x)
    found.grid_forward(x.data_ptr(), y.data_ptr(), step.data_ptr(), 1, 67, -4, 5, 0.5, 0, 1)
    if not torch.equal(y, ((x / step - 0.5).clamp(-4, 5).round() + 0.5) * step):
        raise ArithmeticError("the compiled kernel gives other numbers")


def _compiled(flags: tuple[str, ...]) -> Path:
    """The shared library compiled with these flags, from the cache or made now.

    Its name ends in a checksum of the file: one that is cut off or not ours must not be loaded.

    Raises:
        OSError: there is no compiler, or no room for the file.
        subprocess.CalledProcessError: the compiler refuses.
    """
    text = "\n".join((SOURCE.read_text(), *flags, platform.platform(), _processor()))
    name = f"grid-{hashlib.sha256(text.encode()).hexdigest()[:20]}"
    folder = _usable(_folder())
    for path in sorted(folder.glob(f"{name}-*.so")):
        if path.is_file() and path.stem == _checked(name, path) and _ours(path):
            return path
    try:
        return _compile(flags, folder, name)
    except OSError:
        if folder == _own_folder() or _compiler() is None:
            raise
        warnings.warn(f"kernels cannot be kept in {folder}: compiled anew each time", stacklevel=2)
        return _compile(flags, _own_folder(), name)


def _checked(name: str, path: Path) -> str:
    return f"{name}-{hashlib.sha256(path.read_bytes()).hexdigest()[:20]}"


def _compiler() -> str | None:
    return shutil.which(os.environ.get("CC", "cc"))


def _compile(flags: tuple[str, ...], folder: Path, name: str) -> Path:
    compiler = _compiler()
    if compiler is None:
        raise OSError("no C compiler")
    with tempfile.TemporaryDirectory(dir=folder) as made:
        parts = (Path(made) / "grid.o", Path(made) / "grid.so")
        commands = (
            [compiler, *flags, "-c", str(SOURCE), "-o", str(parts[0])],
            # Not linked against an OpenMP: torch has one loaded, whose threads it shares.
            [compiler, "-shared", str(parts[0]), "-o", str(parts[1])],
        )
        for command in commands:
            subprocess.run(command, check=True, capture_output=True, timeout=120)
        parts[1].chmod(0o755)
        target = folder / f"{_checked(name, parts[1])}.so"
        # Workers that compile at the same time replace each other's equal files.
        os.replace(parts[1], target)
    return target


def _folder() -> Path:
    cache = os.environ.get("JUXTABIT_CACHE", "~/.cache/juxtabit")
    return Path(cache).expanduser() / "kernels"


def _usable(folder: Path) -> Path:
    """The folder, or one for this process alone where it cannot be written, or others may do so."""
    try:
        for place in (*reversed(folder.parents), folder):
            if not place.exists():
                place.mkdir(mode=0o700, exist_ok=True)
    except OSError:
        return _own_folder()
    if _ours(folder):
        return folder if os.access(folder, os.W_OK) else _own_folder()
    warnings.warn(f"others may write to {folder}: no kernels are loaded from it", stacklevel=2)
    return _own_folder()


def _ours(path: Path) -> bool:
    """Whether nobody but this user (and root) may change a file or folder, or put another there."""
    whole = path.resolve()
    for place in (whole, *whole.parents):
        facts = place.stat()
        others = facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        sticky = place != whole and facts.st_mode & stat.S_ISVTX
        if facts.st_uid not in (0, os.geteuid()) or (others and not sticky):
            return False
    return True


@cache
def _own_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="juxtabit-kernels-"))


def _processor() -> str:
    """What the compiler's ``native`` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))


_in_fork = False


def _mark_fork() -> None:
    global _in_fork
    _in_fork = True


# An OpenMP runtime that the parent has used hangs in a forked child.
os.register_at_fork(after_in_child=_mark_fork)


def threads() -> int:
    """How many threads a kernel may use: torch's, and one in a forked process."""
    return 1 if _in_fork else torch.get_num_threads()


def layout(x: Tensor) -> torch.memory_format | None:
    """The memory format of a dense float32 CPU tensor that kernels can read, else None.

    In both formats the first dimension is the outermost. Tensors of other classes, such as those
    that record operations for a compiler, have no memory to read.
    """
    plain = type(x) is Tensor or type(x) is nn.Parameter
    if not plain or x.dtype is not torch.float32 or x.device.type != "cpu":
        return None
    if x.is_contiguous():
        return torch.contiguous_format
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return None


def recorded() -> bool:
    """Whether torch is recording operations, which must then be torch's own."""
    # torch.jit leaves the name out of its __all__ and has no types.
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return tracing or torch.compiler.is_compiling()
