"""Passes over fixed batches that go on from where the policy first differs from an earlier one.

What `frameworks.core.evaluation.recording` finds needed is kept per batch, for the prefixes (the
bits of the first k layers) that came up more than once: most policies of a search are never
extended, and what they computed is not worth its memory. All that is kept stays within a limit in
bytes; beyond it, what was used least recently goes, and is computed again when it is wanted. A
resumed pass calls the same kernels on the same numbers in the same batches as a whole one, so its
results are the same to the last bit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from frameworks.core.evaluation.recording import Forward, Recording, intercepted, record
from frameworks.core.policy import LayerBits

if TYPE_CHECKING:
    from frameworks.core.networks.qmodel import QModel

Prefix = tuple[LayerBits, ...]
Key = tuple[Hashable, int, Prefix]
"""A pass, an index of a call (or of a BatchNorm), and the bits that it depends on."""
LIMIT = 1 << 30
"""Bytes of intermediate outputs kept, unless said otherwise."""
REMEMBERED = 1 << 17
"""Prefixes remembered as seen; they are short tuples."""


class Unexpected(RuntimeError):
    """A network called its modules in another order than in its recorded pass."""


class Store:
    """Tensors under keys, within a limit in bytes; the least recently used go first.

    Attributes:
        limit: bytes that may be kept.
        used: bytes that are kept.
        peak: most bytes that were kept.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.used, self.peak = limit, 0, 0
        self._kept: OrderedDict[Key, list[Tensor]] = OrderedDict()

    def __contains__(self, key: Key) -> bool:
        return key in self._kept

    def __getitem__(self, key: Key) -> list[Tensor]:
        self._kept.move_to_end(key)
        return self._kept[key]

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self.used = 0

    def make_room(self, count: int, keep: Collection[Key]) -> bool:
        """Let go of what is not in ``keep`` until ``count`` bytes fit; whether they do."""
        if sum(_bytes(self._kept[key]) for key in keep if key in self._kept) + count > self.limit:
            return False
        oldest = iter(list(self._kept) if self.used + count > self.limit else [])
        while self.used + count > self.limit:
            key = next(oldest)
            if key not in keep:
                self.used -= _bytes(self._kept.pop(key))
        return True

    def add(self, key: Key, tensors: list[Tensor]) -> None:
        """Keep tensors for which there is room."""
        self._kept[key] = tensors
        self.used += _bytes(tensors)
        self.peak = max(self.peak, self.used)


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@dataclass
class _Shape:
    size: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, x: Tensor) -> _Shape:
        return cls(x.size(), x.stride(), x.dtype, x.device)

    def empty(self) -> Tensor:
        return torch.empty_strided(self.size, self.stride, dtype=self.dtype, device=self.device)

    @property
    def bytes(self) -> int:
        return self.size.numel() * self.dtype.itemsize


@dataclass
class _Known:
    """What is known of a pass over certain batches: the shapes in each of them."""

    shapes: list[dict[int, _Shape]] = field(default_factory=list)

    def bytes(self, call: int) -> int:
        return sum(shapes[call].bytes for shapes in self.shapes)


class Resumer:
    """Runs passes of one network whose weights do not change, resumed where they can be.

    Args:
        qmodel: the network.
        limit: bytes of intermediate outputs that may be kept; 0 for none.

    Attributes:
        works: whether anything is kept; a network that calls its modules in changing order, or
            whose resumed passes give other numbers than whole ones, is run as a whole.
        trusted: numbers of first layers, passes resumed after which gave the same as whole ones.
        layers_run: quantized layers that passes went through, of all ``layers_asked``.
    """

    def __init__(self, qmodel: QModel, limit: int = LIMIT) -> None:
        self.qmodel, self.store = qmodel, Store(limit)
        self.layers_run = self.layers_asked = 0
        self.works = limit > 0
        self.trusted: set[int] = {0}
        self._recording: Recording | None = None
        self.index: dict[nn.Module, int] = {}
        self._passes: dict[Hashable, _Known] = {}
        self._seen: OrderedDict[Hashable, None] = OrderedDict()

    def clear(self) -> None:
        """Forget all intermediate outputs, as the weights have changed."""
        self.store.clear()
        self._recording = None
        self._passes.clear()
        self._seen.clear()

    @contextmanager
    def start(self, name: Hashable, x: Tensor, norms: bool = False) -> Iterator[Pass]:
        """Go through a pass over the batches of a name at the bits in force.

        Args:
            name: stands for certain batches in a certain order.
            x: a few images, for the recording.
            norms: the pass corrects BatchNorm.
        """
        if self._recording is None:
            self._recording = record(self.qmodel, x[:2])
            calls = self._recording.calls
            self.index = {call.module: i for i, call in enumerate(calls) if call.fits}
        bits = tuple(q.bits for _, q in self.qmodel.qlayers())
        known = self._passes.setdefault(name, _Known())
        found = Pass(self, self._recording, name, bits, norms, known)
        self.layers_asked += len(bits)
        self.layers_run += len(bits) - found.resumed
        try:
            with intercepted(self.qmodel, found.wrap):
                yield found
        finally:
            if found.first and not found.finished:
                known.shapes.clear()

    def again(self, key: Hashable) -> bool:
        """Whether a pass and prefix came up before; from now on they did."""
        before = key in self._seen
        self._seen[key] = None
        self._seen.move_to_end(key)
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return before


class Pass:
    """One pass over batches: `run` each of them in turn, then `finish`.

    Attributes:
        resumed: the number of first layers that are taken from an earlier pass.
        sample: the first batch and what `run` gave for it.
    """

    def __init__(
        self, owner: Resumer, recording: Recording, name: Hashable, bits: Prefix, norms: bool,
        known: _Known,
    ) -> None:  # fmt: skip
        self.owner, self.recording, self.name, self.bits = owner, recording, name, bits
        self.norms, self.known = norms, known
        self.first = not known.shapes
        lengths = recording.resumable() if owner.store.limit else []
        self.resumed = 0 if self.first else next((k for k in lengths if self._kept(k)), 0)
        keys = [*self._calls(self.resumed), *self._norms(self.resumed)] if self.resumed else []
        self.old = {key: owner.store[key] for key in keys}
        self.new: dict[Key, list[Tensor]] = {}
        self.stats: list[Key] = []
        again = [k for k in reversed(lengths) if k > self.resumed and self._again(k)]
        if not self.first:
            self._choose(again)
        self.number, self.finished = 0, False
        plan = recording.plan(self.resumed)
        self.skipped = plan.skipped if self.resumed else frozenset()
        self.order = [i for i in plan.run if recording.calls[i].fits]
        self.expected: Iterator[int] = iter(())
        self.sample: tuple[Tensor, Tensor] | None = None

    def _again(self, layers: int) -> bool:
        return self.owner.again((self.name, self.bits[:layers]))

    def _key(self, call: int) -> Key:
        return self.name, call, self.bits[: self.recording.calls[call].needs]

    def _calls(self, layers: int) -> list[Key]:
        return [self._key(call) for call in self.recording.plan(layers).needed]

    def _norms(self, layers: int) -> list[Key]:
        if not self.norms:
            return []
        norms = self.recording.norms
        ends = [(~i, last) for i, (_, _, last) in enumerate(norms) if last <= layers]
        return [(self.name, i, self.bits[:last]) for i, last in ends]

    def _kept(self, layers: int) -> bool:
        store = self.owner.store
        return all(key in store for key in (*self._calls(layers), *self._norms(layers)))

    def _choose(self, candidates: Sequence[int]) -> None:
        """Decide what this pass will keep: outputs for prefixes that came up before."""
        store, total = self.owner.store, 0
        for layers in candidates:
            wanted = [key for key in self._calls(layers) if key not in store]
            wanted = [key for key in wanted if key not in self.new]
            size = sum(self.known.bytes(key[1]) for key in wanted)
            norms = self._norms(layers)
            stats = [key for key in norms if key not in store and key not in self.stats]
            size += sum(_bytes(self._statistics(key[1])) for key in stats)
            keep = {*self.old, *self._calls(layers), *norms}
            if not store.make_room(total + size, keep):
                break
            total += size
            self.new |= {key: [] for key in wanted}
            self.stats += stats

    def _statistics(self, index: int) -> list[Tensor]:
        """The running statistics of the BatchNorm with number ``~index``."""
        return list(self.recording.norms[~index][0].buffers(recurse=False))

    def run(self, x: Tensor) -> Tensor:
        """The network's output for the next batch.

        Raises:
            Unexpected: the modules are called in another order than in the recorded pass.
        """
        self.expected = iter(self.order)
        if self.first:
            self.known.shapes.append({})
        out: Tensor = self.owner.qmodel(x)
        if next(self.expected, None) is not None:
            raise Unexpected("fewer modules were called than in the recorded pass")
        if self.number == 0:
            self.sample = x, out
        self.number += 1
        return out

    def skips(self, module: nn.Module) -> bool:
        """Whether the pass takes what a module gives from an earlier one."""
        return self.owner.index.get(module) in self.skipped

    def finish(self) -> None:
        """After the last batch: keep what was chosen, and set what skipped BatchNorms have."""
        store, self.finished = self.owner.store, True
        for key, tensors in self.new.items():
            store.add(key, tensors)
        for key in self._norms(self.resumed) if self.resumed else []:
            for mine, kept in zip(self._statistics(key[1]), self.old[key], strict=True):
                mine.copy_(kept)
        for key in self.stats:
            store.add(key, [x.clone() for x in self._statistics(key[1])])

    def wrap(self, module: nn.Module, forward: Forward) -> Forward:
        i = self.owner.index.get(module)
        if i is None:
            return forward
        return self._instead(i) if i in self.skipped else self._made(i, forward)

    def _check(self, call: int) -> None:
        if next(self.expected, None) != call:
            raise Unexpected("modules are called in another order than in the recorded pass")

    def _made(self, i: int, forward: Forward) -> Forward:
        keep, overwritten = self.new.get(self._key(i)), self.recording.calls[i].overwritten

        def run(*args: Any, **kwargs: Any) -> Any:
            self._check(i)
            out = forward(*args, **kwargs)
            if self.first:
                self.known.shapes[self.number][i] = _Shape.of(out)
            if keep is not None:
                # A part of a larger tensor would keep the whole of it.
                apart = overwritten or out.untyped_storage().nbytes() > _bytes([out])
                keep.append(out.clone() if apart else out.detach())
            return out

        return run

    def _instead(self, i: int) -> Forward:
        call, kept = self.recording.calls[i], self.old.get(self._key(i))

        def run(x: Tensor) -> Tensor:
            self._check(i)
            if kept is None:
                # Nothing reads the values; the shape may be asked for.
                return x if call.inplace else self.known.shapes[self.number][i].empty()
            out = kept[self.number].clone() if call.overwritten else kept[self.number].detach()
            return cast(Tensor, x.set_(out)) if call.inplace else out  # type: ignore[call-overload]

        return run
