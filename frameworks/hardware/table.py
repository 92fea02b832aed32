"""Any table of costs per layer and bits: measured latencies, a simulator's cycles, energies.

`frameworks.core.pricing.costfile` says what the files may look like, those of HAQ (arXiv
1811.08886) and HAWQ-V3 (arXiv 2011.10680) among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from frameworks.core.layers import Layer
from frameworks.core.policy import LayerBits
from frameworks.core.pricing.costfile import Pairs, entry_cost, entry_supports, read_costs, some
from frameworks.core.registry import register_target
from frameworks.core.target import SeparableTarget


@register_target
@dataclass
class Table(SeparableTarget):
    """Cost = sum over layers of the file's entry for the layer's weight and activation bits.

    Policies may use exactly the bits that the file lists. Budgets given as ``like=k`` or
    ``ratio=r`` need its entries at k/k or 8/8 for every layer. A layer pruned to 0 bits costs
    nothing.

    Attributes:
        path: the file.
        metric: what it holds; the file's own word, or ``latency``, by default.
        unit: of the cost; the file's own by default.
    """

    name: ClassVar[str] = "table"
    kind: ClassVar[Literal["model", "table", "measured"]] = "table"
    per_channel: ClassVar[bool] = False
    monotone: ClassVar[bool] = False

    path: str
    metric: str = ""
    unit: str = ""

    def __post_init__(self) -> None:
        file = read_costs(Path(self.path))
        self.metric = self.metric or file.metric or "latency"
        self.unit = self.unit or file.unit
        self.metrics = {self.metric: self.unit}  # type: ignore[misc]
        self._entries = file.entries

    def prepare(self, layers: Sequence[Layer]) -> None:
        missing = [layer.name for layer in layers if self._find(layer) is None]
        if missing:
            known = [str(name) for name in self._entries]
            raise ValueError(
                f"{self.path}: no entry for {len(missing)} of the model's {len(layers)} layers: "
                f"{some(missing)}; the table has {some(known)}"
            )
        if all(isinstance(key, int) for key in self._entries) and len(self._entries) != len(layers):
            raise ValueError(
                f"{self.path}: the table has {len(self._entries)} layers in execution order, "
                f"the model has {len(layers)}"
            )

    def supports(self, layer: Layer, weight: int, act: int) -> bool:
        return entry_supports(self._find(layer), weight, act)

    def layer_cost(self, layer: Layer, bits: LayerBits) -> dict[str, float]:
        return {self.metric: entry_cost(self.path, layer, self._find(layer), bits)}

    def _find(self, layer: Layer) -> Pairs | None:
        return self._entries.get(layer.name, self._entries.get(layer.index))
