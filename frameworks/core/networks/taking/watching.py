"""A way to see each operation of a pass that costs no time to begin with."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode


class Watching(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees the operations of a pass: its ``__torch_dispatch__`` is called in the place of each.

    torch keeps its compiler away from a mode's method by a wrapper that loads the compiler, which
    takes some two seconds of every process. Nothing here is compiled, so there is nothing to keep
    it away from; a network's compiled parts run uncompiled while they are watched, either way.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
