"""Configuration: Hydra groups, their schema, and the cells that they describe."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields, make_dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.initialize import get_gh_backup, restore_gh_from_backup
from omegaconf import MISSING as REQUIRED
from omegaconf import DictConfig, OmegaConf

from benchmarks.data.load import DatasetConfig, datasets
from benchmarks.data.recipes import RecipeConfig
from benchmarks.models.build import ModelConfig, models
from benchmarks.models.preprocessing import resolved
from benchmarks.suite.conf import conf_folder
from benchmarks.suite.options.lut import LutConfig
from benchmarks.suite.options.overrides import plain, suite_file, unquoted, with_models
from benchmarks.suite.options.spaces import SpaceConfig, narrowing
from frameworks import registry, targets

PROTOCOLS = ("ptq", "controlled", "paper")
AXES = ("framework", "model", "dataset", "hardware", "protocol")
"""The Hydra groups that make up a cell, next to ``budget`` and ``seed``."""
GROUPS = (*AXES, "tracker", "suite")


@dataclass
class BudgetConfig:
    """See `frameworks.BudgetSpec`; none set means ``like=4``."""

    like: float | None = None
    ratio: float | None = None
    limit: float | None = None
    metric: str | None = None
    metrics: Any = None


@dataclass
class ProtocolConfig:
    """What is the same for every framework.

    Attributes:
        name: ``ptq`` (no training after the search), ``controlled`` (one fine-tuning recipe) or
            ``paper`` (each framework's own quantizer and training).
        quantizer: the common quantization scheme (not under ``paper``).
        weight_bits: candidate weight bits, within 1..8.
        act_bits: candidate activation bits, within 1..8.
        pinned_bits: bits of the first and the last layer, weights and activations; 0: not pinned.
        paired: weights and activations of a layer must have equal bits.
        ties: lists of layers that must have equal bits.
        float_share: the largest share of a network's weights, between 0 and 1, that may stay float
            and free of charge because no layer can be made of them; a network of which more does is
            refused.
        bn: how BatchNorm's statistics follow the quantized layers: ``control`` (a few images, with
            the float network as control variate), ``difference`` (stored statistics plus the
            difference of quantized and float), ``reestimate`` (those of the images alone) or
            ``stored`` (left as they are).
        bias_correction: bring the mean output of every layer back to that of the float network, on
            the calibration images; it helps networks without BatchNorm at few bits.
        calibration_images: unlabelled training images for ranges and BatchNorm's correction.
        valid_images: search-validation images that a search may use.
        fine_tune: fine-tuning recipe (see `frameworks.Recipe`).
        max_epochs: under ``paper``, the longest training of a found policy; papers train for up to
            100 ImageNet epochs. 0: as published.
        max_images: under ``paper``, images of an epoch; 0: all.
        steering_runs: how many times a method that steers by a penalty may run.
        objective: what searches maximise on search-validation images: ``accuracy``; or, without
            labels, ``agreement`` (top-1) with the float network, or ``kl``: minus the mean
            KL(float || quantized). See `benchmarks.suite.objective`.
        rounding: how the weights of an untrained final network are rounded: ``nearest``, or by
            what layers compute on the calibration images: ``gptq``, ``adaround`` or ``adaquant``;
            a framework with a rounding of its own keeps it. Searches round to the nearest.
    """

    name: str = "ptq"
    quantizer: str = "mse"
    weight_bits: list[int] = field(default_factory=lambda: [2, 3, 4, 5, 6, 8])
    act_bits: list[int] = field(default_factory=lambda: [2, 3, 4, 5, 6, 8])
    pinned_bits: int = 8
    paired: bool = False
    ties: list[list[str]] = field(default_factory=list)
    float_share: float = 0.05
    bn: str = "control"
    bias_correction: bool = False
    calibration_images: int = 512
    valid_images: int = 1000
    fine_tune: RecipeConfig = field(default_factory=RecipeConfig)
    max_epochs: float = 0
    max_images: int = 0
    steering_runs: int = 6
    objective: str = "accuracy"
    rounding: str = "nearest"


@dataclass
class TrackerConfig:
    """Where records are mirrored: ``none`` or ``wandb``.

    Attributes:
        name: the tracker.
        project: W&B project.
        mode: ``offline`` (default; upload later with ``wandb sync``), ``online`` or ``disabled``.
        folder: where W&B keeps its files.
    """

    name: str = "none"
    project: str = "juxtabit"
    mode: str = "offline"
    folder: str = "."


@dataclass
class Config:
    """The whole configuration of ``juxtabit run``.

    Attributes:
        space: which layers are searched, and candidates of single layers (see
            `benchmarks.suite.options.spaces.SpaceConfig`); a part of the cell's protocol.
        seed: seed of every random draw of the cell.
        baselines: also run the baselines at the same budget, with as many evaluations or images
            as the framework (see `benchmarks.suite.rivals`).
        results: folder of the results; records go to ``RESULTS/NAME/records``.
        workers: cells computed at the same time; 0: one a core.
        threads: torch threads of a worker. Results depend on it in the last bits, so cells of other
            threads are other cells.
        device: where networks and data are: ``auto`` (an accelerator if there is one), ``cpu``,
            ``cuda``, ``cuda:N`` or ``mps``. Cells of another type of device are other cells.
        amp: ``off``, or ``bf16`` for training steps under torch's autocast; other cells, too.
        rerun: compute cells again that are already there.
        timeout: seconds (or ``30m``, ``2h``) that a cell may take, from its first stage on and
            without waiting for a float network that another cell trains; one that takes longer is
            ended and has failed.
        retrain: train float networks here, those that come with the project, too (see
            ``model.retrain``); such cells are others.
        suite: a named set of cells (``+suite=quick``).
    """

    framework: Any = REQUIRED
    model: ModelConfig = REQUIRED
    dataset: DatasetConfig = REQUIRED
    hardware: Any = REQUIRED
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    space: SpaceConfig = field(default_factory=SpaceConfig)
    protocol: ProtocolConfig = REQUIRED
    tracker: TrackerConfig = REQUIRED
    seed: int = 0
    baselines: bool = True
    results: str = "results"
    workers: int = 0
    threads: int = 1
    device: str = "auto"
    amp: Any = "off"
    rerun: bool = False
    timeout: Any = None
    retrain: bool = False
    suite: Any = None


def _node(name: str, cls: type) -> Any:
    """A structured config with the fields of a plugin's dataclass, after its ``name``.

    A field whose metadata say ``required`` has to be given, whatever its default.
    """
    hints = typing.get_type_hints(cls)
    entries: list[Any] = [("name", str, name)]
    for f in fields(cls):
        factory = f.default_factory
        if f.metadata.get("required"):
            default: Any = field(default=REQUIRED)
        elif factory is not MISSING:
            default = field(default_factory=factory)
        else:
            default = field(default=f.default if f.default is not MISSING else REQUIRED)
        entries.append((f.name, hints[f.name], default))
    made = make_dataclass(cls.__name__, entries)
    try:
        return OmegaConf.structured(made)
    except Exception:  # a type that OmegaConf cannot check: its keys are still checked
        untyped = [(n, Any, d) for n, _, d in entries]
        return OmegaConf.structured(make_dataclass(cls.__name__, untyped))


def _registered() -> tuple[Any, ...]:
    """All that plugins may add options by; it tells whether any was added or replaced."""
    return (
        *((name, registry.get(name)) for name in registry.names()),
        *((name, targets.get(name)) for name in targets.names()),
        *models.names(),
        *datasets.names(),
    )


def register_configs() -> None:
    """Put the schema and every registered framework and target into Hydra's store."""
    _stored(id(ConfigStore.instance().repo), _registered())


@lru_cache(maxsize=1)
def _stored(_: int, __: tuple[Any, ...]) -> None:
    """Once for each store and what is registered: it takes as long as composing from it."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    store.store(name="lut_schema", node=LutConfig)
    for group, node in (
        ("model", ModelConfig),
        ("dataset", DatasetConfig),
        ("protocol", ProtocolConfig),
        ("tracker", TrackerConfig),
    ):
        store.store(group=group, name="schema", node=node)
    for name in models.names():
        store.store(group="model", name=name, node=ModelConfig(name=name))
    shipped = {path.stem for path in (conf_folder() / "dataset").glob("*.yaml")}
    for name in set(datasets.names()) - shipped:
        store.store(group="dataset", name=name, node=DatasetConfig(name=name))
    for name in registry.names():
        store.store(group="framework", name=name, node=_node(name, registry.get(name)))
    for name in targets.names():
        store.store(group="hardware", name=name, node=_node(name, targets.get(name)))


@contextmanager
def hydra() -> Iterator[None]:
    """Hydra, initialised on the shipped groups and the registered plugins."""
    register_configs()
    before = get_gh_backup()  # of a program that uses Hydra itself and calls this one
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_folder()), version_base="1.3", job_name="juxtabit"):
            yield
    finally:
        restore_gh_from_backup(before)


def composed(overrides: Sequence[str], root: str = "config") -> DictConfig:
    """The configuration of a list of Hydra overrides, starting from the file ``root``.

    Raises:
        ValueError: an option of a group is no name.
    """
    overrides, suite = suite_file(overrides)
    overrides = with_models(overrides, model_options())
    check_options(overrides)
    with hydra():
        config = compose(root, unquoted(overrides))
    if suite is not None:
        OmegaConf.update(config, "suite", suite, force_add=True)
    return config


def model_options() -> list[str]:
    """The options of the group ``model``: those that come with the project, and plugins'."""
    return [*(path.stem for path in (conf_folder() / "model").glob("*.yaml")), *models.names()]


Cell = dict[str, Any]


def cell_of(config: DictConfig) -> Cell:
    """The cell of a configuration, as plain data; images are prepared as its model expects."""
    return _completed(_plain_cell(config), config)


def _completed(cell: Cell, config: DictConfig) -> Cell:
    return resolved(labelled(_retrained(cell, config)))


def labelled(cell: Cell) -> Cell:
    """A cell whose row is called as the file of its given policy, unless it has a label.

    The label counts for the cell's key, so that files of one content keep their rows apart; the
    folder that a file lies in does not.
    """
    entry = cell["framework"]
    if entry.get("label") or not isinstance(policy := entry.get("policy"), str) or not policy:
        return cell
    return {**cell, "framework": {**entry, "label": Path(policy).stem}}


def _retrained(cell: Cell, config: DictConfig) -> Cell:
    """A cell that trains its network where that is asked for and its weights are not given."""
    model = cell["model"]
    if not config.retrain or ModelConfig(**model).given:
        return cell
    return {**cell, "model": {**model, "retrain": True}}


def _plain_cell(config: DictConfig) -> Cell:
    plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    unknown = set(plain) - {f.name for f in fields(Config)}
    if unknown:
        known = ", ".join(f.name for f in fields(Config))
        raise ValueError(f"unknown keys {sorted(unknown)}; the keys are {known}")
    return _narrowed({axis: plain[axis] for axis in (*AXES, "budget", "seed")}, plain["space"])


def _narrowed(cell: Cell, space: Mapping[str, Any]) -> Cell:
    """A cell whose protocol says what of its space is searched, if that is not all of it."""
    changes = narrowing(space)
    return {**cell, "protocol": {**cell["protocol"], "space": changes}} if changes else cell


def check_options(overrides: Sequence[str]) -> None:
    """Refuse options of groups that would be read from outside the groups' folders.

    Raises:
        ValueError: an option is no name.
    """
    for override in overrides:
        group, _, option = override.partition("=")
        inline = option.lstrip().startswith("{")
        if group.lstrip("+~") in GROUPS and not inline and _leads_away(plain(option)):
            raise ValueError(f"{override!a}: an option of a group is a name, not a path")


def _leads_away(name: str) -> bool:
    """Whether a name is none of a file or folder within another."""
    return bool(set(name) & set("/\\")) or name.strip() in (".", "..") or not name.isprintable()


def suite_name(suite: Any) -> str:
    """The name of a suite: that of a folder within the results, and of nothing else.

    Raises:
        ValueError: it is none.
    """
    name = suite.get("name") if isinstance(suite, Mapping) else None
    if not isinstance(name, str) or not name.strip() or len(name.encode(errors="replace")) > 99:
        raise ValueError(f"suite.name: {name!a}: give a name of 1 to 99 letters")
    if _leads_away(name) or name != name.strip():
        raise ValueError(
            f"suite.name: {name!a}: it names a folder within the results; leave out separators, "
            "control characters and blanks around it"
        )
    return name


def results_folder(given: Any) -> Path:
    """The folder of all results.

    Raises:
        ValueError: it is no path.
    """
    text = str(given)
    if not text.strip() or not text.isprintable():
        raise ValueError(f"results: {text!a}: give a folder, without control characters")
    return Path(text).expanduser()


def suite_cells(config: DictConfig) -> list[Cell]:
    """All cells of a suite: for each of its blocks the product of the block's axes.

    A block lists options by axis (``framework: [haq, hawq]``); an axis that it leaves out takes
    the configuration's. ``overrides`` has entries by axis and option that replace defaults, for
    instance ``overrides: {framework: {haq: {episodes: 60}}}``; a block may have its own.

    Raises:
        ValueError: an unknown axis or key; the message lists the valid ones.
    """
    suite: Any = OmegaConf.to_container(config.suite, resolve=True)
    base = _plain_cell(config)
    space: Any = OmegaConf.to_container(config.space, resolve=True)
    options = _Options()
    cells: list[Cell] = []
    for block in suite["cells"]:
        unknown = set(block) - {*AXES, "budget", "seed", "overrides"}
        if unknown:
            raise ValueError(
                f"suite {suite['name']}: unknown axes {sorted(unknown)}; "
                f"choose from {[*AXES, 'budget', 'seed', 'overrides']}"
            )
        changes = _merged(suite.get("overrides", {}), block.get("overrides", {}))
        axes = [
            [options.get(axis, name, changes) for name in block[axis]]
            if axis in block
            else [options.changed(axis, base[axis], changes)]
            for axis in AXES
        ]
        budgets = [{**_EMPTY_BUDGET, **b} for b in block.get("budget", [base["budget"]])]
        seeds = block.get("seed", [base["seed"]])
        for seed, budget, *parts in product(seeds, budgets, *axes):
            cell = {**dict(zip(AXES, parts, strict=True)), "budget": budget, "seed": seed}
            cells.append(_completed(_narrowed(cell, space), config))
    return cells


_EMPTY_BUDGET = {f.name: None for f in fields(BudgetConfig)}


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    merged: Any = OmegaConf.to_container(
        OmegaConf.merge(OmegaConf.create(dict(first)), OmegaConf.create(dict(second)))
    )
    return typing.cast("dict[str, Any]", merged)


@lru_cache(maxsize=512)
def _option(axis: str, name: str, _: tuple[Any, ...]) -> Any:
    """An option of a group as it is while the same plugins are registered.

    Of frameworks and targets there are no files: what the store holds of one is all that composing
    would find, in some tenths of a second each.
    """
    known: Any = {"framework": registry, "hardware": targets}.get(axis)
    if known is not None and name in known.names():
        return OmegaConf.create({axis: _node(name, known.get(name))})[axis]
    return composed([f"{axis}={name}"])[axis]


class _Options:
    """Group options as plain data."""

    def get(self, axis: str, name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """An option of a group with the suite's changes."""
        node = _option(axis, name, _registered())
        return self._apply(node, changes.get(axis, {}).get(name, {}))

    def changed(self, axis: str, plain: Any, changes: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration's own option with the suite's changes."""
        return {**plain, **changes.get(axis, {}).get(plain["name"], {})}

    @staticmethod
    def _apply(node: DictConfig, changes: Mapping[str, Any]) -> dict[str, Any]:
        merged: Any = OmegaConf.to_container(OmegaConf.merge(node, OmegaConf.create(dict(changes))))
        return typing.cast("dict[str, Any]", merged)
