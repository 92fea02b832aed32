"""Which module calls of a network depend on which layers, and which of their outputs are read.

One forward pass of a `frameworks.QModel` is recorded: the calls of its modules, and between them
every tensor operation with what it reads and writes. The recording never runs anything in the
network's place; it tells what a later pass may skip. A call *needs* the first k layers if none of
the later ones had run when it returned: with the same input batch and the same bits in those k
layers, it returns the same again, bit for bit, whatever the other layers' bits are. So where two
policies agree in their first k layers, the outermost calls that need at most k layers can be
skipped, and of their outputs only those that the remaining operations read are needed
(`Recording.plan`).

Never skipped are modules that are called more than once, take or return anything but one tensor,
write into tensors made before them (but for those that change their input and return it, such as
``ReLU(inplace=True)``), leave a tensor behind that something reads after them (a feature kept for
the parent), or take a number out of a tensor, which may be kept, too. Their submodules may be.
Nothing at all is skipped in a network whose modules keep anything but tensors from a pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from frameworks.core.networks.batchnorm import batchnorms
from frameworks.core.networks.taking.reads import Read
from frameworks.core.networks.taking.watching import Watching

if TYPE_CHECKING:
    from frameworks.core.networks.qmodel import QModel

Forward = Callable[..., Any]
NUMBERS = frozenset({torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default})
"""Operations that take a number out of a tensor."""


@contextmanager
def intercepted(qmodel: QModel, wrap: Callable[[nn.Module, Forward], Forward]) -> Iterator[None]:
    """Within the context, each module's forward is what ``wrap(module, forward)`` makes of it.

    What is inside a quantized layer is left alone, as it changes with the bits.
    """
    inside = {m for _, q in qmodel.qlayers() for m in q.modules() if m is not q}
    modules = [
        m
        for m in qmodel.model.modules()
        if m not in inside and not isinstance(m, torch.jit.ScriptModule)
    ]
    before = [m.__dict__.get("forward") for m in modules]
    try:
        for module in modules:
            module.__dict__["forward"] = wrap(module, module.forward)
        yield
    finally:
        for module, forward in zip(modules, before, strict=True):
            if forward is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = forward


@dataclass
class Call:
    """One call of a module; times are positions in the recorded sequence of operations."""

    module: nn.Module
    start: int
    end: int = 0
    needs: int = 0
    """How many of the first layers had run when it returned."""
    output: int = 0
    """Identity of the memory of what it returned."""
    inplace: bool = False
    """It changes its input and returns it."""
    fits: bool = False
    """It may be skipped, as far as this call alone can tell."""
    overwritten: bool = False
    """Later operations write into what it returned."""


@dataclass(frozen=True)
class Operation:
    """What a tensor operation reads and returns (memory identities)."""

    reads: frozenset[int]
    returns: frozenset[int]
    writes: frozenset[int] = frozenset()
    marker: bool = False
    """The end of a call, and nothing else."""

    def wanted(self, wanted: set[int]) -> bool:
        """Whether it makes anything wanted; a number read from a tensor may steer the rest."""
        return not self.marker and (not self.returns or bool((self.returns | self.writes) & wanted))


@dataclass(frozen=True)
class Plan:
    """How a pass that agrees in its first layers with an earlier one is resumed.

    Attributes:
        skipped: indices of the outermost calls that are skipped.
        needed: those of them whose outputs are read.
        run: indices of the calls that are made, in order of their starts, with the skipped ones.
    """

    skipped: frozenset[int]
    needed: tuple[int, ...]
    run: tuple[int, ...]


def _memory(tree: Any) -> frozenset[int]:
    tensors = (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))
    return frozenset(t.untyped_storage().data_ptr() for t in tensors)


@dataclass
class Recording:
    """The calls of one pass in order of their starts, and what happened between them."""

    layers: int
    calls: list[Call] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    result: frozenset[int] = frozenset()
    norms: list[tuple[nn.Module, int, int]] = field(default_factory=list)
    """BatchNorm modules with the layers that their first and their last call need."""
    usable: bool = True
    _plans: dict[int, Plan] = field(default_factory=dict)

    def plan(self, layers: int) -> Plan:
        """What to skip where the first ``layers`` layers are as in an earlier pass."""
        if layers not in self._plans:
            self._plans[layers] = self._plan(layers)
        return self._plans[layers]

    def resumable(self) -> list[int]:
        """The numbers of equal first layers from which a pass can be resumed, descending."""
        if not self.usable:
            return []
        # A BatchNorm that is called again later has no statistics of its own before that.
        split = {k for _, first, last in self.norms for k in range(first, last)}
        return [k for k in range(self.layers - 1, 0, -1) if k not in split]

    def _plan(self, layers: int) -> Plan:
        skipped: list[int] = []
        run: list[int] = []
        until = -1
        for i, call in enumerate(self.calls):
            if call.start < until:
                continue
            run.append(i)
            if call.fits and call.needs <= layers:
                skipped.append(i)
                until = call.end
        return Plan(frozenset(skipped), self._read(skipped), tuple(run))

    def _read(self, skipped: Sequence[int]) -> tuple[int, ...]:
        """Of skipped calls those whose outputs the rest of the pass reads, walking backwards."""
        ends = {self.calls[i].end: i for i in skipped}
        hidden = {t for i in skipped for t in range(self.calls[i].start, self.calls[i].end)}
        wanted, needed = set(self.result), []
        for time in range(len(self.operations) - 1, -1, -1):
            operation = self.operations[time]
            if time in ends:
                output = self.calls[ends[time]].output
                if output in wanted:
                    needed.append(ends[time])
                    wanted.discard(output)
            elif time not in hidden and operation.wanted(wanted):
                wanted |= operation.reads
        return tuple(sorted(needed))


def _attributes(module: nn.Module) -> list[tuple[int, str, int, int]]:
    """What a module and those inside it keep beside tensors, by identity and by length."""
    return [
        (id(m), name, id(value), len(value) if isinstance(value, list | dict | set) else 0)
        for m in module.modules()
        if not isinstance(m, Read)  # it notes each call
        for name, value in vars(m).items()
        if not (name.startswith("_") or name == "forward" or isinstance(value, Tensor))
    ]


class _Recorder(Watching):
    """Notes every operation, and keeps all tensors so that memory identities stay unique."""

    def __init__(self, qmodel: QModel) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        layers = list(qmodel.qlayers())
        self.recording = Recording(len(layers))
        self.index = {q: i for i, (_, q) in enumerate(layers)}
        self.weights = {q.weight.untyped_storage().data_ptr(): i for q, i in self.index.items()}
        constants = [*qmodel.parameters(), *qmodel.buffers()]
        self.constant = _memory(constants)
        self.own = _memory([list(norm.buffers()) for norm in batchnorms(qmodel)])
        self.made: dict[int, int] = {}
        self.written: list[tuple[int, int]] = []
        self.last_read: dict[int, int] = {}
        self.numbers: list[int] = []
        self.seen = 0
        self.kept: list[Any] = []

    @property
    def now(self) -> int:
        return len(self.recording.operations)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self.kept.append((args, kwargs, out))
        if func in NUMBERS:
            self.numbers.append(self.now)
        written = [
            value
            for value, argument in zip(args, func._schema.arguments, strict=False)
            if argument.alias_info is not None and argument.alias_info.is_write
        ]
        written += [
            kwargs[a.name]
            for a in func._schema.arguments
            if a.name in kwargs and a.alias_info is not None and a.alias_info.is_write
        ]
        self.note(_memory((args, kwargs)), _memory(out), _memory(written))
        return out

    def note(self, reads: frozenset[int], returns: frozenset[int], writes: frozenset[int]) -> None:
        for pointer in reads:
            self.seen = max(self.seen, self.weights.get(pointer, -1) + 1)
            self.last_read[pointer] = self.now
        for pointer in returns - reads:
            self.made.setdefault(pointer, self.now)
        self.written += [(pointer, self.now) for pointer in writes]
        if (writes & self.constant) - self.own:
            self.recording.usable = False
        self.recording.operations.append(Operation(reads, returns, writes))

    def leaves_behind(self, call: Call) -> bool:
        """Whether anything but a call's output goes from inside it to what comes after."""
        inside = range(call.start, call.end)
        return any(time in inside for time in self.numbers) or any(
            time in inside and pointer != call.output and self.last_read.get(pointer, 0) >= call.end
            for pointer, time in self.made.items()
        )

    def wrap(self, module: nn.Module, forward: Forward) -> Forward:
        def run(*args: Any, **kwargs: Any) -> Any:
            call, before = Call(module, self.now), _attributes(module)
            self.recording.calls.append(call)
            if module in self.index:
                self.seen = max(self.seen, self.index[module] + 1)
            out = forward(*args, **kwargs)
            if module in self.index or next(module.children(), None) is None:
                # Whatever way a leaf computes in, its output comes from its inputs.
                self.note(_memory((args, kwargs)), _memory(out), frozenset())
            self.kept.append((args, kwargs, out))
            self._finish(call, args, kwargs, out)
            # What is kept on a module may have come by a way that shows no operation.
            self.recording.usable &= before == _attributes(module)
            return out

        return run

    def _finish(self, call: Call, args: Any, kwargs: Any, out: Any) -> None:
        call.end, call.needs = self.now, self.seen
        self.recording.operations.append(Operation(frozenset(), frozenset(), marker=True))
        if len(args) != 1 or kwargs or not isinstance(args[0], Tensor) or type(out) is not Tensor:
            return
        (call.output,) = _memory(out)
        inside = {p for p, time in self.written if call.start <= time < call.end} - self.own
        before = {p for p in inside if self.made.get(p, -1) < call.start}
        call.inplace = out is args[0] and before == {call.output}
        call.fits = call.inplace or (not before and self.made.get(call.output, -1) >= call.start)


@torch.no_grad()
def record(qmodel: QModel, x: Tensor) -> Recording:
    """Record a pass of a network at a policy (see `frameworks.QModel.fix`), in eval mode.

    Args:
        qmodel: the network; it is left as it was.
        x: a few images ``[N, C, H, W]``; they are not counted by a meter.
    """
    recorder = _Recorder(qmodel)
    with intercepted(qmodel, recorder.wrap), recorder:
        out = qmodel.model(x)
    found = recorder.recording
    found.result = _memory(out)
    recorder.last_read |= dict.fromkeys(found.result, recorder.now)
    times: dict[nn.Module, int] = {}
    for call in found.calls:
        times[call.module] = times.get(call.module, 0) + 1
    for call in found.calls:
        call.fits = call.fits and times[call.module] == 1 and not recorder.leaves_behind(call)
        call.overwritten = any(p == call.output and time > call.end for p, time in recorder.written)
    for norm in batchnorms(qmodel):
        needs = [call.needs for call in found.calls if call.module is norm]
        if needs:
            found.norms.append((norm, needs[0], needs[-1]))
    return found
