"""The problem: all that a framework may see and do."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from frameworks.core.budget import Budget, least
from frameworks.core.card import Need
from frameworks.core.evaluation.batches import Kept, Loader, Transform
from frameworks.core.evaluation.distillation import Distillation, Teacher
from frameworks.core.evaluation.evaluate import Evaluator, Score, measure
from frameworks.core.evaluation.tabled import TabledEvaluator
from frameworks.core.evaluation.train import Loss, Recipe, fit, loss_of
from frameworks.core.layers import Layer
from frameworks.core.networks.batchnorm import batchnorms
from frameworks.core.networks.calibrate import Calibration, observe
from frameworks.core.networks.correction import (
    Correction,
    images_at_once,
    reestimate_batchnorm,
)
from frameworks.core.networks.meter import Meter, Spent
from frameworks.core.networks.qmodel import QModel
from frameworks.core.networks.taking.take import load_state, taken
from frameworks.core.policy import Policy
from frameworks.core.quantizers.base import Quantizer, Scheme
from frameworks.core.randomness import derive, numpy_rng, torch_rng
from frameworks.core.rounding.apply import round_weights
from frameworks.core.space import Space
from frameworks.core.split import Split
from frameworks.core.target import Target

Granted = TypeVar("Granted")

STATISTICS_IMAGES = 512, 4096
"""Training images that a trained network's BatchNorm takes its statistics from.

The most, if one pass holds them; where it holds fewer, these, but not less than the first number.
"""


class DataForbidden(RuntimeError):
    """A search asked for data that its card does not name under ``needs``."""


@dataclass(frozen=True)
class Checkpoint:
    """A policy that a search would return if it stopped now, and what it had spent by then."""

    policy: Policy
    spent: Spent
    objective: float | None = None
    """The search's own objective (higher is better), where it has one."""


@dataclass
class Data:
    """The data of a cell as a search may see it; the test split is not part of it.

    A split is None where the framework's card does not name it.
    """

    train: Split | None
    valid: Split | None
    calibration: Tensor | None


@dataclass
class Problem:
    """Everything that defines a search, and the metered means to carry it out.

    Attributes:
        network: the pretrained float network, as it is taken
            (`frameworks.core.networks.taking.take`); never changed (take a copy with
            `float_model`).
        space: the policies to choose from, with the layers.
        target: what prices a policy.
        budget: the metric and the limit to meet.
        scheme: the quantizers of the protocol.
        seed: the cell's seed; use `rng` and `generator`.
        bn: how BatchNorm is corrected; see `frameworks.core.networks.batchnorm.RULES`.
        bias_correction: whether layers' mean outputs are corrected, too.
        retrains: whether the protocol fine-tunes, so that a search may retrain as its paper does.
        recipe: the protocol's fine-tuning recipe.
        meter: search cost.
        progress: called with (done, total, text) by long searches.
        input_shape: shape of one image; by default what the first layer reads.
        known: scores of the policies of the space (an oracle's table), which evaluations without
            training then are looked up in; None evaluates.
        source: the same architecture with its own checkpoint on another, smaller data set, for
            methods that search there and carry the policy over: layers of the same names, in a
            space of the same bits. Search it by ``source.at(meter=problem.meter)``, so that what it
            costs is counted. None where the configuration names none.
    """

    network: nn.Module
    space: Space
    target: Target
    budget: Budget
    scheme: Scheme
    data: Data
    seed: int = 0
    bn: str = "control"
    bias_correction: bool = False
    retrains: bool = False
    recipe: Recipe = field(default_factory=Recipe)
    meter: Meter = field(default_factory=Meter)
    progress: Callable[[int, int, str], None] = lambda done, total, text: None
    checkpoints: list[Checkpoint] = field(default_factory=list)
    input_shape: tuple[int, ...] = ()
    known: Mapping[Policy, Score] | None = None
    source: Problem | None = None

    def __post_init__(self) -> None:
        self.network = taken(self.network, [layer.name for layer in self.layers if layer.read])
        if not self.input_shape:
            first = self.layers[0]
            self.input_shape = (first.in_channels, *first.in_size)

    # --- facts -----------------------------------------------------------------------------

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All quantizable layers in execution order."""
        return self.space.layers

    def cost(self, policy: Policy) -> dict[str, float]:
        """The policy's cost in every metric of the target."""
        return self.target.cost(self.layers, policy)

    def within(self, policy: Policy) -> bool:
        """Whether the policy meets the budget."""
        return self.budget.allows(self.cost(policy))

    def cheapest(self) -> Policy:
        """A policy of the space that costs least, so that it meets any budget that can be met.

        With limits on several metrics: one that meets them all (`frameworks.core.budget.least`).
        """
        return least(self.target, self.space, self.budget)

    @property
    def monotone(self) -> bool:
        """Whether more bits never cost less of any of the budget's metrics."""
        if self.target.monotone or not self.target.separable:
            return self.target.monotone
        tables = [t for m in self.budget.limits for t in self.layer_costs(m).values()]
        return not any(
            w <= w2 and a <= a2 and cost > cost2
            for costs in tables
            for (w, a), cost in costs.items()
            for (w2, a2), cost2 in costs.items()
        )

    def layer_costs(self, metric: str | None = None) -> dict[str, dict[tuple[int, int], float]]:
        """Cost of each layer at each allowed (weight, activation) bits, for separable targets.

        The costs of a policy's entries add up to its cost. Pairs that the hardware does not
        support, and unequal pairs of a paired space, are left out.

        Args:
            metric: by default the budget's; with limits on several metrics their common price
                (`frameworks.core.budget.Budget.price`), for methods that know one cost.

        Raises:
            ValueError: the target's cost is not a sum over layers.
        """
        return {
            name: {
                pair: costs[metric] if metric else self.budget.price(costs)
                for pair, costs in entries.items()
            }
            for name, entries in self.layer_entries().items()
        }

    def layer_entries(self) -> dict[str, dict[tuple[int, int], dict[str, float]]]:
        """As `layer_costs`, but the cost of each entry in every metric of the target."""
        if not self.target.separable:
            raise ValueError(f"the cost of {self.target.name} is not a sum over layers")
        base = self.space.lowest()
        return {
            layer.name: {
                (w, a): self.target.cost([layer], base.replace(layer.name, weight=w, act=a))
                for w in self.space.weight_bits[layer.name]
                for a in self.space.act_bits[layer.name]
                if (not self.space.paired or w == a) and self.target.supports(layer, w, a)
            }
            for layer in self.layers
        }

    # --- randomness ------------------------------------------------------------------------

    def rng(self, axis: str = "search") -> np.random.Generator:
        """A NumPy generator for a named axis of this cell's seed."""
        return numpy_rng(self.seed, axis)

    def generator(self, axis: str = "search") -> torch.Generator:
        """A torch generator for a named axis of this cell's seed."""
        return torch_rng(self.seed, axis)

    # --- data ------------------------------------------------------------------------------

    @property
    def train(self) -> Split:
        """The labelled training split."""
        return _granted(self.data.train, "train")

    @property
    def valid(self) -> Split:
        """The labelled search-validation split, cut from the training images."""
        return _granted(self.data.valid, "valid")

    @property
    def images(self) -> Tensor:
        """A few training images without labels ``[N, C, H, W]``, the same for every method."""
        return _granted(self.data.calibration, "calibration")

    # --- networks --------------------------------------------------------------------------

    def float_model(self) -> nn.Module:
        """A fresh metered copy of the pretrained network, in eval mode."""
        return self.meter.watch(copy.deepcopy(self.network).eval())

    def observe(self, images: Tensor | None = None) -> Calibration:
        """Samples of every layer's input activations over the given or the calibration images."""
        if images is None:
            return self._calibration
        return observe(self.float_model(), self.layers, images, self.generator("calibration"))

    @cached_property
    def _calibration(self) -> Calibration:
        return observe(self.float_model(), self.layers, self.images, self.generator("calibration"))

    def quantized(self, policy: Policy | None = None, images: Tensor | None = None) -> QModel:
        """A fresh metered quantizable copy of the network, calibrated; at ``policy`` if given.

        Apply further policies with ``fix`` (evaluation) or ``free`` (training).
        """
        qmodel = QModel(self.network, self.layers, self.scheme, self.observe(images))
        self.meter.watch(qmodel)
        if policy is not None:
            qmodel.fix(policy)
        return qmodel.eval()

    def quantizer(self, layer: str, kind: Literal["weight", "act"], bits: int) -> Quantizer:
        """A fresh quantizer of a layer's pretrained weight, or of its input activations.

        Calibrated once per layer and bit width, however many networks a search makes.
        """
        key = (layer, kind, bits)
        if key not in self._quantizers:
            if kind == "weight":
                weight = self.network.get_submodule(layer).weight
                assert isinstance(weight, Tensor)
                self._quantizers[key] = self.scheme.weight(weight.detach(), bits)
            else:
                self._quantizers[key] = self.observe().quantizer(self.scheme, layer, bits)
        return copy.deepcopy(self._quantizers[key])

    @cached_property
    def _quantizers(self) -> dict[tuple[str, str, int], Quantizer]:
        return {}

    def evaluator(self, weights: Mapping[str, Tensor] | None = None) -> Evaluator:
        """Metered and cached evaluation without training, over the pretrained or other weights.

        Args:
            weights: a state dict of the float network, such as a search has trained it.
        """
        if weights is None:
            return self._evaluator
        network, calibration = self._with_weights(weights, settled=True)
        qmodel = self.meter.watch(QModel(network, self.layers, self.scheme, calibration))
        return Evaluator(qmodel, self.valid, self._correction_of(network), self.meter)

    @cached_property
    def _evaluator(self) -> Evaluator:
        if self.known is not None:
            corrects = self.bn != "stored" and next(batchnorms(self.network), None) is not None
            images = len(self.valid) + (len(self.images) if corrects else 0)
            return TabledEvaluator(self.known, images, self.meter)
        return Evaluator(self.quantized(), self.valid, self.correction, self.meter)

    @cached_property
    def correction(self) -> Correction:
        """Corrects quantized copies of the network: BatchNorm, and biases if the protocol says."""
        return Correction.of(self.float_model(), self.images, self.bn, layers=self._biased)

    @property
    def _biased(self) -> tuple[Layer, ...]:
        return self.layers if self.bias_correction else ()

    def _correction_of(self, trained: nn.Module) -> Correction:
        """The correction over other weights.

        They were trained at some bits, or in a super net, and BatchNorm's statistics with them: as
        those of the float network with these weights they would be wrong, so that nothing but the
        images themselves is left to go by.
        """
        rule = "stored" if self.bn == "stored" else "reestimate"
        return Correction.of(trained, self.images, rule, layers=self._biased)

    def correct(self, qmodel: QModel) -> QModel:
        """Correct a network from `quantized`, in place, at the bits in force."""
        self.correction(qmodel)
        return qmodel

    def rounded(
        self,
        qmodel: QModel,
        method: str,
        steps: int | None = None,
        factors: Sequence[float] = (),
    ) -> tuple[str, ...]:
        """Round a network's weights by what its layers compute, in place, and correct BatchNorm.

        While layers are rounded one after the other, BatchNorm's statistics are the float ones:
        those that are right for the nearest levels are wrong behind layers that err less, and what
        is fitted to inputs of such a network misses those of the final one.

        Args:
            qmodel: from `quantized`, at its bits, not corrected yet.
            method: one of `frameworks.rounding.ROUNDINGS`.
            steps, factors: of ``adaquant`` (`frameworks.core.rounding.apply.round_weights`).

        Returns:
            The layers that stay as they were (`frameworks.core.rounding.apply.round_weights`).
        """
        network = self.float_model()
        left = round_weights(qmodel, network, self.images, method, steps, factors)
        self.correct(qmodel)
        return left

    def _with_weights(
        self, weights: Mapping[str, Tensor], *, settled: bool
    ) -> tuple[nn.Module, Calibration]:
        network = self.float_model()
        load_state(network, weights)
        if not settled and self.bn != "stored":
            reestimate_batchnorm(network, self.images)
        generator = self.generator("calibration")
        found = observe(network, self.layers, self.images, generator)
        # The modules are those of the problem's own network: other weights need no other probe.
        return network, replace(found, images=None)

    def evaluate(self, policy: Policy, retrain: Recipe | None = None) -> Score:
        """Score a policy on the search-validation split.

        Without ``retrain`` (or under a protocol that does not train): quantize, correct BatchNorm
        and measure. With it: fine-tune first. Equal policies, retrained by equal recipes, are
        scored and counted once: they would see the same images in the same order.

        Raises:
            ValueError: the policy is not in the space.
        """
        self.space.validate(policy)
        if retrain is None or not self.retrains:
            return self._evaluator(policy)
        key = policy, retrain
        if key not in self._retrained:
            self.meter.policies += 1
            self._retrained[key] = self.score_model(self.fine_tune(policy, retrain))
        return self._retrained[key]

    @cached_property
    def _retrained(self) -> dict[tuple[Policy, Recipe], Score]:
        return {}

    def contend(self, policy: Policy, accuracy: float | None) -> Score | None:
        """As `evaluate` without retraining, but None for a policy below an accuracy in percent.

        For searches that keep the most accurate policy: one that cannot be it any more is not run
        to the end (and still counted whole, see `Evaluator.contend`). None asks for every score.
        """
        self.space.validate(policy)
        return self._evaluator.contend(policy, accuracy)

    def score_model(self, model: nn.Module) -> Score:
        """Score any model on the search-validation split."""
        return measure(model, self.valid)

    def float_score(self) -> Score:
        """The score of the float network on the search-validation split."""
        return self._float_score

    @cached_property
    def _float_score(self) -> Score:
        return self.score_model(self.float_model())

    def fine_tune(
        self,
        policy: Policy,
        recipe: Recipe | None = None,
        *,
        weights: Mapping[str, Tensor] | None = None,
        settled: bool = False,
        prepare: Callable[[QModel], None] | None = None,
        loss: Loss | None = None,
        teacher: Teacher | None = None,
        transform: Transform | None = None,
        loader: Loader | None = None,
        axis: str = "fine-tune",
    ) -> QModel:
        """A quantized network trained at a policy: ranges learned, weights straight-through.

        Args:
            policy: the bits.
            recipe: the protocol's by default.
            weights: a state dict of the float network to start from; the pretrained one by default.
            settled: whether BatchNorm's statistics among them were taken after a training, as
                `train_model` does. Those that a search leaves are of its quantized weights: of a
                channel that is 0 there they have no variance, by which the float one would be
                divided. They are taken anew for the float network, for its ranges.
            prepare: called with the network at the policy's bits before it is trained, to put in
                ranges that a search has learned.
            loss, teacher, transform, loader: as in `train_model`.
            axis: names the random draw of images and order.
        """
        loss = self._metered(loss_of(loss, teacher))
        if weights is None:
            network, calibration, correction = self.network, self.observe(), self.correction
        else:
            network, calibration = self._with_weights(weights, settled=settled)
            correction = self._correction_of(network)
        qmodel = QModel(network, self.layers, self.scheme, calibration)
        self.meter.watch(qmodel)
        qmodel.free(policy)
        if prepare is not None:
            prepare(qmodel)
        correction(qmodel)
        return self.train_model(
            qmodel, recipe, loss=loss, transform=transform, loader=loader, axis=axis
        )

    def train_model(
        self,
        qmodel: QModel,
        recipe: Recipe | None = None,
        *,
        loss: Loss | None = None,
        teacher: Teacher | None = None,
        transform: Transform | None = None,
        loader: Loader | None = None,
        axis: str = "fine-tune",
    ) -> QModel:
        """Train a quantized network in place by a recipe (the protocol's by default).

        While it trains, every BatchNorm normalises a batch by the batch's own statistics, so that
        the running ones are of inputs that eval mode does not show; at few bits that costs points.
        They are taken anew in execution order afterwards, over plain training images, as many as
        it was trained on but at most `STATISTICS_IMAGES` (unless the protocol says ``stored``).
        Where the card does not name the training images, they are the loader's, untransformed.

        Args:
            loss: ``loss(model, x, y)``, a scalar; the mean cross-entropy by default.
            teacher: ``float`` (the pretrained network) or a module, to learn from by
                `frameworks.distillation` at its defaults; for others give that as the ``loss``.
                Its images count as images forward.
            transform: ``transform(x, y, generator)`` gives the batch to train on.
            loader: batches ``(x, y)`` in the place of the training split, which then need not be
                granted: what can be gone through again and again, a function of a generator that
                begins a pass, or a `Split`.
            axis: names the generator of images and order, which transform and loader get, too.

        More on these, and errors: `frameworks.core.evaluation.train.fit`.
        """
        recipe = recipe or self.recipe
        split = self.train if loader is None else self.data.train
        kept = None if split is not None else Kept(transform, *STATISTICS_IMAGES)
        fit(
            qmodel,
            split,
            recipe,
            self.generator(axis),
            weights=qmodel.weight_parameters(),
            ranges=qmodel.range_parameters(),
            loss=self._metered(loss_of(loss, teacher)),
            transform=kept or transform,
            loader=loader,
        )
        self._take_statistics(qmodel, recipe, kept)
        return qmodel

    def take_statistics(self, qmodel: QModel, recipe: Recipe) -> None:
        """Take BatchNorm's statistics as after training by a recipe; see `train_model`.

        For a network that its search has trained, which is the result as it is.
        """
        self._take_statistics(qmodel, recipe, None)

    def _metered(self, loss: Loss) -> Loss:
        """A loss whose teacher, if it has one, is counted."""
        if not isinstance(loss, Distillation):
            return loss
        return loss.metered(self.meter, self.float_model)

    def _take_statistics(self, qmodel: QModel, recipe: Recipe, kept: Kept | None) -> None:
        none = self.bn == "stored" or next(batchnorms(qmodel), None) is None
        if none or not recipe.epochs:
            return
        fewest, most = STATISTICS_IMAGES
        images = self.train.images(2) if kept is None else kept.images
        most = min(most, max(fewest, images_at_once(qmodel, images[:2])))
        if kept is None:
            seen = math.ceil(recipe.epochs * min(recipe.images or math.inf, len(self.train)))
            drawn = self.train.subset(min(most, seen), self.generator("statistics"))
            images = drawn.images()
        reestimate_batchnorm(qmodel, images[:most])

    # --- reporting -------------------------------------------------------------------------

    def checkpoint(self, policy: Policy, objective: float | None = None) -> None:
        """Note the policy that the search would return if it stopped now.

        The suite scores these afterwards, outside the search cost, for the convergence picture.
        """
        if not self.checkpoints or self.checkpoints[-1].policy != policy:
            self.checkpoints.append(Checkpoint(policy, self.meter.read(), objective))

    def at(self, **changes: Any) -> Problem:
        """The same problem with some fields changed, a fresh meter and an empty history."""
        fresh: dict[str, Any] = {"meter": Meter(), "checkpoints": []}
        return replace(self, **{**fresh, **changes})

    @cached_property
    def device(self) -> torch.device:
        """Where the network is, and with it the data: searches compute there."""
        return next(self.network.parameters()).device

    def to(self, device: torch.device) -> Problem:
        """The same problem on a device, with a fresh meter and an empty history."""
        if device == self.device:
            return self
        data = self.data
        return self.at(
            network=placed(copy.deepcopy(self.network), device),
            data=Data(
                None if data.train is None else data.train.to(device),
                None if data.valid is None else data.valid.to(device),
                None if data.calibration is None else data.calibration.to(device),
            ),
            source=None if self.source is None else self.source.to(device),
        )

    def derive(self, *axes: str) -> int:
        """A seed for code that wants a number."""
        return derive(self.seed, *axes)


def placed(network: nn.Module, device: torch.device) -> nn.Module:
    """A network moved to a device, in place, and there in the layout that its images have."""
    if device.type == "cpu":
        return network.to(device)
    return network.to(device).to(memory_format=torch.channels_last)


def _granted(value: Granted | None, need: Need) -> Granted:
    if value is None:
        raise DataForbidden(f"this search may not read {need!r}: its card does not need it")
    return value
