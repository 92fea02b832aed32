"""Images that stay on disk: read batch by batch, and kept where they fit a stated memory."""

from __future__ import annotations

import hashlib
import itertools
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from frameworks.core.contents import Known, identify_dataset, transforms_of
from frameworks.core.randomness import seeded
from frameworks.core.split import CPU, Batch, Split


class Room:
    """Bytes that decoded images of one process may take, shared by the splits of a data set."""

    def __init__(self, size: float) -> None:
        self.free = size

    def take(self, size: int) -> bool:
        """Take so many bytes, if there are."""
        if size > self.free:
            return False
        self.free -= size
        return True

    def give_back(self, size: int) -> None:
        """Give back what was taken."""
        self.free += size


class DatasetSplit(Split):
    """Images that stay on disk: any torch dataset, read by worker processes.

    A search reads its search-validation images some hundred times. Those that fit are decoded
    once: the first whole pass keeps what it reads, and later ones hand it out, in the same order
    and with the same values as from disk. Augmented passes always read.

    Args:
        dataset: gives (image, class number); its transform must not be random if ``room`` is given.
        augmented: the same dataset under the training transform, if it has one.
        name: for messages.
        workers: reading processes.
        device: where batches are handed out; kept images stay on the CPU.
        room: where decoded images may be kept; None: nowhere.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        augmented: Dataset[Any] | None = None,
        name: str,
        workers: int = 0,
        device: torch.device = CPU,
        room: Room | None = None,
    ) -> None:
        self.dataset, self.augmented = dataset, augmented
        self.name, self.workers, self.device, self.room = name, workers, device, room
        self._kept: tuple[Tensor, Tensor] | None = None
        if len(self) == 0:
            raise ValueError(f"split: {name} has no images")

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def _take(self, index: list[int]) -> DatasetSplit:
        augmented = None if self.augmented is None else Subset(self.augmented, index)
        return self._with(Subset(self.dataset, index), augmented, self.device)

    def _with(
        self, dataset: Dataset[Any], augmented: Dataset[Any] | None, device: torch.device
    ) -> DatasetSplit:
        return DatasetSplit(
            dataset,
            augmented=augmented,
            name=self.name,
            workers=self.workers,
            device=device,
            room=self.room,
        )

    def to(self, device: torch.device) -> DatasetSplit:
        return self._with(self.dataset, self.augmented, device)

    def subset(self, count: int, generator: torch.Generator) -> DatasetSplit:
        if count >= len(self):
            return self
        return self._take(torch.randperm(len(self), generator=generator)[:count].tolist())

    def halves(self, share: float, generator: torch.Generator) -> tuple[DatasetSplit, DatasetSplit]:
        order = torch.randperm(len(self), generator=generator).tolist()
        cut = min(max(round(share * len(self)), 1), len(self) - 1)
        return self._take(order[:cut]), self._take(order[cut:])

    def batches(
        self, size: int, generator: torch.Generator | None = None, *, augment: bool = False
    ) -> Iterator[Batch]:
        augmented = self.augmented if augment else None
        order = torch.arange(len(self))
        if generator is not None:
            order = torch.randperm(len(self), generator=generator)
        seed = int(torch.randint(2**62, (), generator=generator or torch.Generator()))
        if augmented is not None:
            parts = self._read(augmented, order, size, seed)
        elif self._kept is not None:
            images, labels = self._kept
            parts = ((images[index], labels[index]) for index in torch.split(order, size))
        else:
            parts = self._keeping(order, self._read(self.dataset, order, size, seed))
        for x, y in parts:
            x = x.contiguous(memory_format=torch.channels_last)
            yield x.to(self.device, non_blocking=True), y.to(self.device, non_blocking=True)

    def _read(
        self, source: Dataset[Any], order: Tensor, size: int, seed: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        loader: DataLoader[Any] = DataLoader(
            source,
            batch_size=size,
            sampler=order.tolist(),
            generator=torch.Generator().manual_seed(seed),
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
        )
        batches = iter(loader)
        for number in range(len(loader)):
            # Transforms draw from the global generators, which only worker processes seed.
            with seeded(seed, "batch", str(number)):
                x, y = next(batches)
            yield x, torch.as_tensor(y)

    def _keeping(
        self, order: Tensor, parts: Iterator[tuple[Tensor, Tensor]]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Hand on what is read, and keep it once all of it was, if there is room."""
        first = next(parts)
        parts = itertools.chain([first], parts)
        need = len(self) * sum(x[0].numel() * x.element_size() for x in first)
        if self.room is None or not self.room.take(need):
            yield from parts
            return
        every = tuple(x.new_empty((len(self), *x.shape[1:])) for x in first)
        done = 0
        try:
            for x, y in parts:
                index = order[done : done + len(x)]
                every[0][index], every[1][index] = x, y
                done += len(x)
                yield x, y
        finally:
            if done == len(self) and self._kept is None:
                self._kept = every[0], every[1]
                weakref.finalize(self, self.room.give_back, need)
            else:  # the pass was left before its end, or another one has kept them meanwhile
                self.room.give_back(need)

    def fingerprint(self) -> str:
        return self.known().digest

    def known(self) -> Known:
        """By files, arrays or samples; see `frameworks.core.contents.identify_dataset`."""
        plain = identify_dataset(self.dataset)
        if self.augmented is None:
            return plain
        both = plain.digest + transforms_of(self.augmented)
        return Known(hashlib.sha256(both.encode()).hexdigest()[:16], plain.basis)
