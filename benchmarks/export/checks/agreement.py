"""How far two networks agree that were run apart from each other on the same images.

Rounding ties add up along a network, and with few bits one code changes others behind it, so logits
may move and near-equal classes change places. The limits are beyond what ties do and below what a
wrong layer does: in files that differ by ties alone, at 224 px, 2 to 8 bits and random weights (the
worst case, as all classes are near-equal; ResNet-18, MobileNetV2 and timm's test networks) the
median drift was at most 0.21, and no image lost its first class with a lead of more than 0.31.
Unrelated logits have a drift of 1.4, and leads of 2 and more are lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from benchmarks.export.checks.ties import LOGITS

Array = npt.NDArray[Any]
LEAD = 1.0
"""A class leads clearly by this many standard deviations of an image's logits."""
LOST = 0.1
"""Largest share of images (but one image in any case) that may lose a clear lead."""
DRIFT = 0.7
"""Largest median drift: half of what unrelated logits have."""


@dataclass(frozen=True)
class Agreement:
    """The logits of a network and of a file of it.

    Attributes:
        images: how many.
        equal: images with the same top-1.
        accuracy: top-1 in percent of the suite's network and of the exported one.
        largest: largest difference of two logits.
        moved: images whose logits differ by more than float arithmetic explains.
        drift: standard deviation of the change of an image's logits over that of its logits, the
            median over the images.
        lost: images that have another top-1 in spite of a clear lead.
    """

    images: int
    equal: int
    accuracy: tuple[float, float]
    largest: float
    moved: int
    drift: float
    lost: int

    @classmethod
    def of(cls, ours: Array, theirs: Array, labels: Array, **fields: Any) -> Self:
        """Compare logits ``[N, K]`` of the suite's network and of the file; labels are ``[N]``."""
        tops = ours.argmax(1), theirs.argmax(1)
        right = [100.0 * float((top == labels).mean()) for top in tops]
        scale = LOGITS * np.abs(ours).max()
        change = ours - theirs
        # Of logits that are all equal nothing but float arithmetic is left.
        spread = np.maximum(ours.std(1), max(scale, np.finfo(np.float32).tiny))
        lead = (ours.max(1) - ours[np.arange(len(ours)), tops[1]]) / spread
        return cls(
            images=len(ours),
            equal=int((tops[0] == tops[1]).sum()),
            accuracy=(right[0], right[1]),
            largest=float(np.abs(change).max()),
            moved=int((~(np.abs(change).max(1) <= scale)).sum()),
            drift=float(np.median(change.std(1) / spread)),
            lost=int((~(lead <= LEAD)).sum()),
            **fields,
        )

    def beyond(self) -> list[str]:
        """The limits that are passed, a line each."""
        found = []
        if not np.isfinite(self.largest):
            found.append("the logits: some are not finite")
        elif self.drift > DRIFT:
            found.append(
                f"the logits: they drift by {self.drift:.2f}, more than {DRIFT} of their spread"
            )
        if self.lost > max(1.0, LOST * self.images):
            found.append(
                f"top-1: {self.lost} of {self.images} images have another one in spite of a clear "
                "lead, more than ties explain"
            )
        return found

    def summary(self) -> str:
        """A line for the terminal."""
        ours, theirs = self.accuracy
        return (
            f"top-1 equal on {self.equal} of {self.images} images; accuracy {theirs:.2f} % "
            f"(fake-quantized: {ours:.2f} %); largest difference of a logit {self.largest:.3g}"
        )
