"""Images without labels: what the float network answers takes the labels' place.

With the float network's logits v and the quantized one's z, a search maximises on its images

    agreement   100 mean [argmax v = argmax z],  or
    kl          100 exp(-D),  D = mean KL(softmax(v) || softmax(z)),

where the labels of a split are top-1 classes ``[B]`` or shares ``[B, classes]``; which of the two
they are decides how `frameworks.core.evaluation.evaluate` scores. The second is -D on the scale of
an accuracy: it grows as -D does, is 100 for the float network itself, and its logarithm is -D, so
that rewards, ranks and least accuracies of any search keep their meaning. The cross-entropy of
shares is D and a constant, so that what trains by it lowers D, and at the float network its Hessian
is the Fisher information.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from frameworks.core.split import Batch, Split

BATCH = 125
"""Images of one pass of the float network; fixed, so that answers do not hang on who asks."""


class AnsweredSplit(Split):
    """A split whose labels are the answers of a network, in eval mode.

    Args:
        split: the images; its labels are not looked at.
        network: answers; a copy that no one else changes.
        soft: shares ``[B, classes]`` instead of classes ``[B]``.
        keep: compute the answers now and keep them. Passes that shuffle or augment ask the network
            again: what it says of an image depends on how that is shown.
    """

    def __init__(
        self, split: Split, network: nn.Module, *, soft: bool = False, keep: bool = False
    ) -> None:
        self.split, self.network, self.soft, self.keep = split, network.eval(), soft, keep
        self._answers: Tensor | None = None
        if keep:
            self._answers = torch.cat([self._answer(x) for x, _ in split.batches(BATCH)])

    def __len__(self) -> int:
        return len(self.split)

    @torch.no_grad()
    def _answer(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits.softmax(1) if self.soft else logits.argmax(1)

    def _of(self, split: Split) -> AnsweredSplit:
        return AnsweredSplit(split, self.network, soft=self.soft, keep=self.keep)

    def subset(self, count: int, generator: torch.Generator) -> AnsweredSplit:
        if count >= len(self):
            return self
        return self._of(self.split.subset(count, generator))

    def halves(
        self, share: float, generator: torch.Generator
    ) -> tuple[AnsweredSplit, AnsweredSplit]:
        first, second = self.split.halves(share, generator)
        return self._of(first), self._of(second)

    def batches(
        self, size: int, generator: torch.Generator | None = None, *, augment: bool = False
    ) -> Iterator[Batch]:
        start = 0
        kept = None if generator is not None or augment else self._answers
        for x, _ in self.split.batches(size, generator, augment=augment):
            yield x, self._answer(x) if kept is None else kept[start : start + len(x)]
            start += len(x)

    def images(self, count: int | None = None) -> Tensor:
        return self.split.images(count)

    def to(self, device: torch.device) -> AnsweredSplit:
        if next(self.network.parameters()).device == device:
            return self
        network = copy.deepcopy(self.network).to(device)
        return AnsweredSplit(self.split.to(device), network, soft=self.soft, keep=self.keep)

    def fingerprint(self) -> str:
        found = hashlib.sha256(f"{self.split.fingerprint()} {self.soft}".encode())
        for name, value in sorted(self.network.state_dict().items()):
            found.update(name.encode() + value.detach().contiguous().cpu().numpy().tobytes())
        return found.hexdigest()[:16]
