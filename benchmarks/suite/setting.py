"""Settings: what a cell's configuration stands for, checked before anything is computed."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

from benchmarks.data.load import DatasetConfig
from benchmarks.data.recipes import recipe_of
from benchmarks.models.build import ModelConfig
from benchmarks.models.preprocessing import UNLABELLED
from benchmarks.models.pretrain import recipe_for
from benchmarks.suite.assets import entry_text, layers_of, taken_of
from benchmarks.suite.conf import conf_folder
from benchmarks.suite.config import PROTOCOLS, Cell, ProtocolConfig
from benchmarks.suite.identity import BadCell
from benchmarks.suite.objective import DEFAULT, OBJECTIVES, objective_of
from benchmarks.suite.options.budgets import budget_spec
from benchmarks.suite.options.source import source_of
from benchmarks.suite.options.spaces import space_of
from frameworks import (
    Accounting,
    Framework,
    Layer,
    Policy,
    Recipe,
    Scheme,
    Space,
    Target,
    batchnorm,
    registry,
    rounding,
    schemes,
    targets,
)


@dataclass(frozen=True)
class Setting:
    """What a cell's configuration stands for, before any training.

    Attributes:
        space: the protocol's, which budgets are relative to.
        admitted: the policies that the framework may return; see `frameworks.Framework.widened`.
    """

    framework: Framework
    target: Target
    scheme: Scheme
    space: Space
    admitted: Space
    recipe: Recipe

    def outside(self, policy: Policy) -> str | None:
        """Where a policy leaves the protocol's space, in words; None for one of that space."""
        try:
            self.space.validate(policy)
        except ValueError as error:
            return str(error).removeprefix("policy: ")
        return None


_said: set[tuple[str, str]] = set()
"""What this process has said of networks."""


def setting_of(cell: Cell, layers: tuple[Layer, ...]) -> Setting:
    """Check a cell against a model's layers.

    Raises:
        ValueError: a name, key, bit width or recipe is not valid (`BadCell` and its kin).
    """
    protocol = cell["protocol"]
    if protocol["name"] not in PROTOCOLS:
        raise BadCell(f"protocol.name: {protocol['name']!r}; choose from {list(PROTOCOLS)}")
    cls = registry.get(cell["framework"]["name"])
    framework = _instance(cls, cell["framework"], "framework")
    try:
        framework.validate()
    except ValueError as error:
        raise BadCell(f"framework={cls.name}: framework.{error}") from error
    target = _instance(targets.get(cell["hardware"]["name"]), cell["hardware"], "hardware")
    target.prepare(layers)
    paper = protocol["name"] == "paper"
    scheme = schemes.get(cls.card.quantizer if paper else protocol["quantizer"])()
    recipe = recipe_of(protocol["fine_tune"], "protocol.fine_tune")
    try:
        space = space_of(protocol, target, layers)
    except ValueError as error:
        raise BadCell(str(error)) from error
    try:
        admitted = framework.widened(space, target)
    except ValueError as error:
        raise BadCell(f"framework={cls.name}: framework.{error}") from error
    return Setting(framework, target, scheme, space, admitted, recipe)


def accounted(cell: Cell) -> Accounting:
    """What of a cell's network has bits and a price, and what stays float.

    Raises:
        BadCell: more stays float than the protocol allows.
    """
    return allowed(cell, taken_of(entry_text(cell["model"]), entry_text(cell["dataset"]))[1])


def allowed(cell: Cell, found: Accounting) -> Accounting:
    """What of a network stays float, if the protocol allows it; raises as `accounted`."""
    most = cell["protocol"].get("float_share", ProtocolConfig.float_share)
    if found.share > most:
        raise BadCell(
            f"model {cell['model']['name']}: {found.text()}; protocol.float_share = {most} allows "
            f"{most:.2%}: set protocol.float_share={math.ceil(100 * found.share) / 100} to compare "
            "policies of the other weights all the same"
        )
    return found


def check(cell: Cell) -> None:
    """Everything that can be wrong with a cell, found without training anything.

    What of the network stays float is said in a warning, once in a process.

    Raises:
        ValueError, FileNotFoundError: with a message that names the field and the choices.
    """
    check_protocol(cell["protocol"])
    if cell["dataset"]["name"] == UNLABELLED and objective_of(cell["protocol"]) == DEFAULT:
        raise BadCell(
            "protocol.objective = accuracy: the images of dataset=unlabelled have no labels; "
            "choose agreement or kl"
        )
    left = accounted(cell).text()
    if left and (said := (cell["model"]["name"], left)) not in _said:
        _said.add(said)  # once, and not for each of the cells that share a network
        warnings.warn(f"model {said[0]}: {left}", stacklevel=2)
    layers = layers_of(entry_text(cell["model"]), entry_text(cell["dataset"]))
    source_of(cell, conf_folder())
    setting = setting_of(cell, layers)
    budget_spec(cell).resolve(setting.target, setting.space)
    recipe_for(ModelConfig(**cell["model"]), DatasetConfig(**cell["dataset"]))


def check_protocol(protocol: dict[str, Any]) -> None:
    """Refuse numbers that mean nothing, NaN among them, before any work is done by them."""
    bounds = {
        "valid_images": (1, math.inf),
        "calibration_images": (1, math.inf),
        "float_share": (0, 1),
        "steering_runs": (1, math.inf),
        "max_images": (0, math.inf),
        "max_epochs": (0, math.inf),
    }
    rule = protocol.get("bn", ProtocolConfig.bn)
    if rule not in batchnorm.RULES:
        raise BadCell(f"protocol.bn: {rule!r}; choose from {list(batchnorm.RULES)}")
    if (objective := objective_of(protocol)) not in OBJECTIVES:
        raise BadCell(f"protocol.objective: {objective!r}; choose from {list(OBJECTIVES)}")
    way = protocol.get("rounding", ProtocolConfig.rounding)
    if way not in rounding.ROUNDINGS:
        raise BadCell(f"protocol.rounding: {way!r}; choose from {list(rounding.ROUNDINGS)}")
    for key, (least, most) in bounds.items():
        # Cells of earlier versions lack some keys.
        value = protocol.get(key, getattr(ProtocolConfig, key))
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not least <= value <= most or math.isinf(value):
            wanted = f"from {least} to {most}" if most < math.inf else f"of at least {least}"
            raise BadCell(f"protocol.{key} = {value!a}: give a number {wanted}")


def _params(entry: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in entry.items() if k != "name"}


def _instance(cls: type, entry: dict[str, Any], axis: str) -> Any:
    try:
        return cls(**_params(entry))
    except (TypeError, ValueError) as error:
        raise BadCell(f"{axis}={entry['name']}: {error}") from error
