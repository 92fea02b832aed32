"""Cards: a framework's facts, for the table and the list of frameworks."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Category = Literal["gradient", "reinforcement", "heuristic", "metaheuristic", "baseline"]
Granularity = Literal["layer", "block", "kernel"]
Need = Literal["calibration", "train", "valid", "second_order", "separable_cost", "batchnorm"]
"""What a search must have. ``calibration``: a few unlabelled training images; ``train``: the
labelled training split; ``valid``: the labelled search-validation split; ``second_order``: a
twice differentiable network; ``separable_cost``: a cost that is a sum over layers; ``batchnorm``:
a network with BatchNorm statistics."""

Quantization = Literal[
    "deterministic rounding", "stochastic rounding", "codebook", "learned range", "bit planes"
]
"""A quantization technique, the survey's second axis. ``deterministic rounding``: to the nearest
step of a fixed or measured range; ``stochastic rounding``: up or down by chance; ``codebook``:
values of any distance; ``learned range``: steps or clipping points that are trained; ``bit
planes``: the bits themselves are trained."""

CATEGORIES = ("gradient", "reinforcement", "heuristic", "metaheuristic", "baseline")
GRANULARITIES = ("layer", "block", "kernel")
KINDS = ("weight", "act")
QUANTIZATIONS = (
    "deterministic rounding",
    "stochastic rounding",
    "codebook",
    "learned range",
    "bit planes",
)
NEEDS = ("calibration", "train", "valid", "second_order", "separable_cost", "batchnorm")


@dataclass(frozen=True)
class Card:
    """A framework's facts. A search gets the data that ``needs`` names, and no other."""

    title: str
    year: int
    category: Category
    quantizer: str
    """The paper's own quantizer: a registered scheme's name, used by ``protocol=paper``."""
    granularity: Granularity
    searches: tuple[Literal["weight", "act"], ...]
    needs: frozenset[Need]
    quantization: tuple[Quantization, ...] = ()
    """The techniques of the paper's own quantizer; none if the card does not say."""
    arxiv: str = ""
    venue: str = ""
    hardware_aware: bool = False
    deviations: tuple[str, ...] = field(default=())
    """Where the implementation differs from the paper, and why."""

    def __post_init__(self) -> None:
        if self.category not in CATEGORIES:
            raise ValueError(f"card: category {self.category!r} is none of {list(CATEGORIES)}")
        if self.granularity not in GRANULARITIES:
            raise ValueError(
                f"card: granularity {self.granularity!r} is none of {list(GRANULARITIES)}"
            )
        for name, given, known in (
            ("needs", self.needs, NEEDS),
            ("searches", self.searches, KINDS),
            ("quantization", self.quantization, QUANTIZATIONS),
        ):
            if unknown := set(given) - set(known):
                raise ValueError(f"card: {name} {sorted(unknown)} are none of {list(known)}")

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        plain = asdict(self)
        lists = {k: list(v) for k, v in plain.items() if isinstance(v, tuple)}
        return {**plain, **lists, "needs": sorted(self.needs)}
