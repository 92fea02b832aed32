"""What records are checked against: layers, data and budgets, made once for all that share them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from benchmarks.data.load import CorruptData, DatasetConfig, MissingData
from benchmarks.models.build import ModelConfig, create
from benchmarks.models.preprocessing import RESIDENT
from benchmarks.suite.assets import data_identity, entry_text, splits_of, start_from
from benchmarks.suite.config import Cell
from benchmarks.suite.options.budgets import budget_spec
from benchmarks.suite.setting import Setting, check_protocol, setting_of
from benchmarks.verification.origin import loads_files
from frameworks import Accounting, Budget, Layer, Policy, account, describe

SHAPES: Mapping[str, tuple[tuple[int, int, int], int]] = {
    "digits": ((1, 8, 8), 10),
    "fashion_mnist": ((1, 28, 28), 10),
    "cifar10": ((3, 32, 32), 10),
    "cifar100": ((3, 32, 32), 100),
}
"""Shape of an image and number of classes of the resident data sets, which need not be here."""


class Unchecked(ValueError):
    """Something cannot be recomputed here; the message says what, and what would help."""


@dataclass(frozen=True)
class Data:
    """What is known of a data set that is here.

    Attributes:
        identity: as in a record's identity.
        test, valid: numbers of images.
        start: where the float network of the cell comes from.
    """

    identity: dict[str, Any]
    test: int
    valid: int
    start: dict[str, str]


@dataclass(frozen=True)
class Priced:
    """What a cell's policy is priced by.

    Attributes:
        setting: target and spaces.
        budget: the limits.
        reference: costs of the uniform policies of these bits, where the target prices them.
    """

    setting: Setting
    layers: tuple[Layer, ...]
    accounting: Accounting
    budget: Budget
    reference: Mapping[int, dict[str, float]]


class Grounds:
    """What records are checked against.

    Args:
        trust: whether folders of data and code that records name are read.
    """

    def __init__(self, trust: bool = False) -> None:
        self.trust = trust
        self._network = cache(_network)
        self._settings: dict[str, Setting] = {}
        self._budgets: dict[str, tuple[Budget, dict[int, dict[str, float]]]] = {}
        self._known: dict[str, Data | str] = {}

    def data(self, cell: Cell) -> Data | str:
        """What is known of a cell's data; why nothing is, in words."""
        model, dataset = entry_text(cell["model"]), entry_text(self._dataset(cell))
        if (text := model + dataset) not in self._known:
            self._known[text] = self._looked_at(cell, model, dataset)
        return self._known[text]

    def _looked_at(self, cell: Cell, model: str, dataset: str) -> Data | str:
        if not self._readable(cell):
            return "the folder that it names is read by --trust alone"
        try:
            splits = splits_of(dataset)
            start = start_from(model, dataset).facts()
            found = data_identity(dataset)
        except (MissingData, CorruptData, OSError) as error:
            return str(error)
        return Data(found, len(splits.test), len(splits.valid), start)

    def _readable(self, cell: Cell) -> bool:
        return self.trust or cell["dataset"]["name"] in RESIDENT or not cell["dataset"].get("root")

    def _dataset(self, cell: Cell) -> dict[str, Any]:
        """A data set's entry; nothing is fetched for it, and nowhere but in the usual places."""
        known = {f.name for f in fields(DatasetConfig)}
        entry = {k: v for k, v in cell["dataset"].items() if k in known}
        return entry if self.trust else {**entry, "root": None, "download": False}

    def priced(self, cell: Cell) -> Priced:
        """What a cell's policy is priced by.

        Raises:
            Unchecked: it cannot be made here.
            ValueError: the configuration is none that this version computes.
        """
        check_protocol(cell["protocol"])
        layers, accounting = self.layers(cell)
        shared = {axis: cell[axis] for axis in ("model", "dataset", "hardware", "protocol")}
        text = entry_text({**shared, "framework": cell["framework"]})
        if text not in self._settings:
            self._settings[text] = setting_of(cell, layers)
        setting = self._settings[text]
        text = entry_text({**shared, "budget": cell["budget"]})
        if text not in self._budgets:
            reference = {bits: _uniform(setting, layers, bits) for bits in (8, 32)}
            budget = budget_spec(cell).resolve(setting.target, setting.space)
            self._budgets[text] = budget, reference
        return Priced(setting, layers, accounting, *self._budgets[text])

    def layers(self, cell: Cell) -> tuple[tuple[Layer, ...], Accounting]:
        """The layers of a cell's network, and its weights accounted for.

        Raises:
            Unchecked, ValueError: as `priced`.
        """
        options = cell["model"].get("options") or {}
        if not self.trust and (key := loads_files(options)):
            raise Unchecked(f"model.options.{key} has files read, by --trust alone")
        return self._network(entry_text(cell["model"]), *self._shape(cell))

    def _shape(self, cell: Cell) -> tuple[tuple[int, int, int], int]:
        dataset = cell["dataset"]
        if dataset["name"] in SHAPES:
            return SHAPES[dataset["name"]]
        side, classes = dataset.get("image_size"), dataset.get("classes")
        if side and classes:
            return (3, int(side), int(side)), int(classes)
        if not self._readable(cell):
            raise Unchecked("the folder of images is read by --trust alone")
        try:
            splits = splits_of(entry_text(self._dataset(cell)))
        except (MissingData, CorruptData) as error:
            raise Unchecked(str(error)) from error
        return splits.input_shape, splits.classes


def _network(
    model: str, shape: tuple[int, int, int], classes: int
) -> tuple[tuple[Layer, ...], Accounting]:
    """The layers of a model, and its weights accounted for: its shapes count, not its weights."""
    config = ModelConfig(**{**json.loads(model), "pretrained": False, "checkpoint": None})
    network = create(config, classes, shape)
    layers = describe(network, shape)
    return layers, account(network, layers, shape)


def _uniform(setting: Setting, layers: tuple[Layer, ...], bits: int) -> dict[str, float]:
    try:
        return setting.target.cost(layers, Policy.uniform(layers, bits, bits))
    except (KeyError, ValueError):
        return {}
