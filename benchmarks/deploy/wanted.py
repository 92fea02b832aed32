"""What ``juxtabit quantize`` is asked for, as a cell of the suite and what it is computed on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from benchmarks.calls.asked import candidates
from benchmarks.calls.ground import ground_from
from benchmarks.data.load import DatasetConfig, Splits, load
from benchmarks.data.unlabelled import cut_tensor
from benchmarks.models.network_check import uncompiled
from benchmarks.models.preprocessing import UNLABELLED, prepared_as
from benchmarks.suite.assets import Progress
from benchmarks.suite.config import PROTOCOLS, Cell, cell_of, composed
from benchmarks.suite.ground import Ground, ground_of
from benchmarks.suite.setting import check
from frameworks import registry, targets

METHOD = "layer_kl"
"""A pass over a few images for each layer and bit width, no gradients, and each budget is solved
exactly. On EfficientNet-Lite0 with 32 photos, one thread, that took under three minutes of a
processor; the Hessian traces of HAWQ-V3, with their 1000 classes, were not done after four."""
BESIDE = "uniform"
"""Is always tried, too: a search that does not beat it is not worth its file."""
WIDEST = 8
"""Bits of the largest budget."""


@dataclass(frozen=True)
class Wanted:
    """A request; see `benchmarks.deploy.quantizing.quantize`."""

    model: str | nn.Module
    images: str | Path | Tensor
    out: Path
    weights: str | None = None
    target: str = "size"
    table: str | None = None
    metric: str | None = None
    like: float | None = None
    ratio: float | None = None
    limit: float | None = None
    max_drop: float | None = None
    method: str | None = None
    protocol: str = "ptq"
    objective: str = "kl"
    bits: Sequence[int] | None = None
    classes: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", candidates(self.bits))
        given = [k for k in ("like", "ratio", "limit", "max_drop") if getattr(self, k) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)}: give one budget")
        if self.max_drop is not None and not 0 <= self.max_drop < 100:
            raise ValueError(f"max_drop = {self.max_drop}: give points of agreement, 0 to 100")
        if self.weights and isinstance(self.model, nn.Module):
            raise ValueError("weights: a network that is given as a module has its own")
        if self.objective not in ("agreement", "kl"):
            raise ValueError(f"objective = {self.objective!r}: choose agreement or kl")
        if self.metric and self.limit is None and self.like is None and self.ratio is None:
            raise ValueError("metric: give like, ratio or limit of it, too")

    @property
    def name(self) -> str:
        """Of the model, for people."""
        return self.model if isinstance(self.model, str) else type(uncompiled(self.model)).__name__

    @property
    def where(self) -> str:
        """Of the images, for people."""
        if isinstance(self.images, Tensor):
            return f"a tensor {list(self.images.shape)}"
        return str(self.images)

    @property
    def methods(self) -> list[str]:
        """The frameworks that are tried."""
        return list(dict.fromkeys([self.method or METHOD, BESIDE]))

    @property
    def widest(self) -> dict[str, Any]:
        """The largest budget, as the entries of a cell."""
        return {"like": WIDEST, "ratio": None, "limit": None, "metric": self.metric}

    def cell(self, framework: str, budget: dict[str, Any] | None = None) -> Cell:
        """The cell of a framework.

        Raises:
            ValueError: a name is unknown; the message lists the choices.
        """
        registry.get(framework)
        targets.get(self.target)
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"protocol = {self.protocol!r}: choose from {', '.join(PROTOCOLS)}")
        named = isinstance(self.model, str)
        config = composed(
            [
                f"framework={framework}",
                *([f"model={self.model}"] if named else []),
                f"protocol={self.protocol}",
                f"dataset={UNLABELLED}",
                f"hardware={self.target}",
            ]
        )
        for key, value in self._changes(budget).items():
            OmegaConf.update(config, key, value)
        if named:
            return cell_of(config)
        return {**_plain(config), "model": {"name": self.name}}

    def _changes(self, budget: dict[str, Any] | None) -> dict[str, Any]:
        changes: dict[str, Any] = {
            "protocol.objective": self.objective,
            "dataset.root": None if isinstance(self.images, Tensor) else str(self.images),
            "dataset.classes": self.classes,
            "seed": self.seed,
        }
        if isinstance(self.model, str):
            # Without either the network would be trained, and there is nothing to train it on.
            given = {"checkpoint": self.weights} if self.weights else {"pretrained": True}
            changes |= {f"model.{key}": value for key, value in given.items()}
        if self.table:
            changes["hardware.path"] = self.table
        if self.bits:
            changes |= {"protocol.weight_bits": [*self.bits], "protocol.act_bits": [*self.bits]}
        own = {k: getattr(self, k) for k in ("like", "ratio", "limit", "metric")}
        return changes | {f"budget.{k}": v for k, v in (own if budget is None else budget).items()}

    def ground(self, cell: Cell, progress: Progress) -> Ground:
        """The images and the float network.

        Raises:
            ValueError, OSError: they cannot be used; the message says why.
        """
        if isinstance(self.model, str) and not isinstance(self.images, Tensor):
            check(cell)
            return ground_of(cell, progress)
        if isinstance(self.model, str):
            raise TypeError("images: a model that is given by its name takes a folder of images")
        splits = self._splits(self.model, cell)
        return ground_from(self.model, splits.train, splits.valid, splits.test)

    def _splits(self, model: nn.Module, cell: Cell) -> Splits:
        if isinstance(self.images, Tensor):
            return cut_tensor(self.images)
        entry = {**cell["dataset"], **prepared_as(getattr(model, "pretrained_cfg", None))}
        return load(DatasetConfig(**{**entry, "classes": self.classes or 1}))


def _plain(config: DictConfig) -> Cell:
    axes = ("framework", "model", "dataset", "hardware", "protocol", "budget", "seed")
    found: Any = OmegaConf.to_container(OmegaConf.masked_copy(config, list(axes)), resolve=True)
    return dict(found)
