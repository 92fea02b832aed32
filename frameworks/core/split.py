"""Data as searches see it: a split that hands out batches."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from frameworks.core.contents import CONTENT, Known

Batch = tuple[Tensor, Tensor]
CPU = torch.device("cpu")


class Split(ABC):
    """A labelled set of images. Batches are reproducible from the generator that is passed in."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def subset(self, count: int, generator: torch.Generator) -> Split:
        """``count`` random images (all, if there are no more), drawn without replacement."""

    @abstractmethod
    def halves(self, share: float, generator: torch.Generator) -> tuple[Split, Split]:
        """Two disjoint random parts, the first with ``share`` of the images."""

    def parts(self, count: int, generator: torch.Generator) -> list[Split]:
        """``count`` disjoint random parts of equal size (up to rounding), together the whole."""
        found: list[Split] = []
        rest: Split = self
        for left in range(count, 1, -1):
            part, rest = rest.halves(1 / left, generator)
            found.append(part)
        return [*found, rest]

    @abstractmethod
    def batches(
        self, size: int, generator: torch.Generator | None = None, *, augment: bool = False
    ) -> Iterator[Batch]:
        """Images ``[B, C, H, W]`` and labels ``[B]``, shuffled if a generator is given."""

    def to(self, device: torch.device) -> Split:
        """The same images, handed out on a device. All draws are those of the CPU's generators.

        Raises:
            TypeError: a split of a plugin's own knows the CPU alone.
        """
        if device.type == "cpu":
            return self
        raise TypeError(f"{type(self).__name__} cannot hand out images on {device}: write its `to`")

    @abstractmethod
    def fingerprint(self) -> str:
        """A digest of the content."""

    def known(self) -> Known:
        """The fingerprint, and what it was taken of."""
        return Known(self.fingerprint(), CONTENT)

    def images(self, count: int | None = None) -> Tensor:
        """The first ``count`` images as one tensor ``[N, C, H, W]``."""
        wanted = len(self) if count is None else min(count, len(self))
        parts: list[Tensor] = []
        have = 0
        for x, _ in self.batches(min(256, max(wanted, 1))):
            parts.append(x[: wanted - have])
            have += len(parts[-1])
            if have >= wanted:
                break
        return torch.cat(parts)


class TensorSplit(Split):
    """Images and labels that are resident as tensors, channels-last in memory.

    ``pad`` and ``flip`` say how ``augment=True`` changes images: a random crop after zero padding,
    a random horizontal flip.
    """

    def __init__(self, x: Tensor, y: Tensor, *, pad: int = 0, flip: bool = False) -> None:
        if len(x) != len(y) or len(x) == 0:
            raise ValueError(f"split: {len(x)} images and {len(y)} labels")
        self.x = x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
        self.y = y
        self.pad, self.flip = pad, flip

    def __len__(self) -> int:
        return len(self.x)

    def _take(self, index: Tensor) -> TensorSplit:
        return TensorSplit(self.x[index], self.y[index], pad=self.pad, flip=self.flip)

    def subset(self, count: int, generator: torch.Generator) -> TensorSplit:
        if count >= len(self):
            return self
        return self._take(torch.randperm(len(self), generator=generator)[:count])

    def halves(self, share: float, generator: torch.Generator) -> tuple[TensorSplit, TensorSplit]:
        order = torch.randperm(len(self), generator=generator)
        cut = min(max(round(share * len(self)), 1), len(self) - 1)
        return self._take(order[:cut]), self._take(order[cut:])

    def batches(
        self, size: int, generator: torch.Generator | None = None, *, augment: bool = False
    ) -> Iterator[Batch]:
        if generator is None:
            for start in range(0, len(self), size):
                yield self.x[start : start + size], self.y[start : start + size]
            return
        order = torch.randperm(len(self), generator=generator)
        for start in range(0, len(self), size):
            index = order[start : start + size]
            x = self.x[index]
            yield (self._augmented(x, generator) if augment else x), self.y[index]

    def to(self, device: torch.device) -> TensorSplit:
        if self.x.device == device:
            return self
        return TensorSplit(self.x.to(device), self.y.to(device), pad=self.pad, flip=self.flip)

    def _augmented(self, x: Tensor, generator: torch.Generator) -> Tensor:
        if self.flip:
            mirrored = (torch.rand(len(x), generator=generator) < 0.5).to(x.device)
            x = torch.where(mirrored[:, None, None, None], x.flip(-1), x)
        if self.pad:
            batch, _, height, width = x.shape
            padded = functional.pad(x, (self.pad,) * 4)
            shift = torch.randint(2 * self.pad + 1, (batch, 2), generator=generator)
            rows = (shift[:, :1] + torch.arange(height)).view(batch, 1, height, 1).to(x.device)
            columns = (shift[:, 1:] + torch.arange(width)).view(batch, 1, 1, width).to(x.device)
            images = torch.arange(batch, device=x.device).view(batch, 1, 1, 1)
            x = padded[images, :, rows, columns]
            x = x.squeeze(1).permute(0, 3, 1, 2)
        return x.contiguous(memory_format=torch.channels_last)

    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr((tuple(self.x.shape), str(self.x.dtype))).encode())
        digest.update(self.x.contiguous().cpu().numpy().tobytes())
        digest.update(self.y.contiguous().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]
