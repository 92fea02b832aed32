"""HAWQ: Hessian AWare Quantization of Neural Networks with Mixed-Precision, arXiv 1905.03696.

Dong et al., ICCV 2019. For each block i with n_i weights and Hessian H_i = d^2 L / dW_i^2:

- lambda_i, the top eigenvalue of H_i, by power iteration on Hessian-vector products;
- S_i = lambda_i / n_i ranks the blocks: a block with larger S_i never gets fewer bits;
- Omega_i = lambda_i * ||Q(W_i) - W_i||_2^2 orders the fine-tuning: in stages, the block with the
  largest perturbation is quantized and trained first, those quantized before stay quantized, the
  others are still float.

The ranking gives relative bits only. The paper chose the numbers by hand under the order; here
they are those of least total Omega under the order and the budget (an exact integer programme),
once for each uniform activation bit width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from frameworks.core.card import Card
from frameworks.core.estimators.derivatives import twice_differentiable
from frameworks.core.estimators.hessian import WeightHessian
from frameworks.core.estimators.perturbation import weight_error
from frameworks.core.evaluation.train import Recipe
from frameworks.core.framework import ScoringFramework
from frameworks.core.networks.qmodel import QModel
from frameworks.core.policy import FLOAT, LayerBits, Policy
from frameworks.core.problem import Problem
from frameworks.core.registry import register
from frameworks.core.solution import Scores, Solution
from frameworks.core.solvers.limits import InfeasibleBudget
from frameworks.core.solvers.milp import Entry, multiple_choice
from frameworks.core.space import Space
from frameworks.core.supernets.decisions import tied_blocks
from frameworks.heuristic.hawq.power_iteration import power_iteration

Blocks = dict[str, list[str]]
"""Block name to the names of its layers with free weight bits, both in execution order."""
LayerCosts = Mapping[str, Mapping[tuple[int, int], Mapping[str, float]]]


@register
@dataclass
class HAWQ(ScoringFramework):
    """Top Hessian eigenvalue per block, the order S, and fine-tuning in stages by Omega.

    Attributes:
        images: training images behind the Hessian.
        batch: images of one gradient graph.
        iterations: at most this many power iterations.
        tolerance: change of the eigenvalue over 20 of them, as a share of it, that ends them.
        act_bits: uniform activation bits (4 for the paper's ResNet-20, 8 for SqueezeNext); 0: each
            candidate is tried, and the one with the best search-validation accuracy is taken.
        freeze_done: in the stages, stop training the layers of blocks quantized before.
    """

    name: ClassVar[str] = "hawq"
    card: ClassVar[Card] = Card(
        title="HAWQ: Hessian AWare Quantization of Neural Networks with Mixed-Precision",
        arxiv="1905.03696",
        year=2019,
        venue="ICCV",
        category="heuristic",
        quantizer="minmax",
        quantization=("deterministic rounding",),
        granularity="block",
        searches=("weight", "act"),
        needs=frozenset({"calibration", "train", "valid", "second_order", "separable_cost"}),
        deviations=(
            "The paper ranks the blocks and chooses the bits by hand; here it is the assignment of "
            "least total Omega among those that respect the ranking and the budget. Of few blocks "
            "that leaves little: ResNet-8 has three; all its nine records on `bops` are uniform.",
            "The paper has mixed activations, too, but never published their order. Here they are "
            "uniform, those of the best search-validation accuracy (act_bits fixes them).",
            "Of the fine-tuning by Omega only the order is known: its code, epochs and rates, and "
            "whether blocks of earlier stages are frozen, were not published. Here they train "
            "(freeze_done), and the stages share the recipe's epochs equally.",
            "Power iteration ends when the eigenvalue stood still over 20 products, not one, which "
            "leaves some too low; a negative one counts by its magnitude.",
        ),
    )
    recipe: ClassVar[Recipe | None] = Recipe(
        epochs=90, batch=128, lr=1e-3, momentum=0.9, weight_decay=1e-4, augment=True
    )

    images: int = 256
    batch: int = 128
    iterations: int = 500
    tolerance: float = 1e-3
    act_bits: int = 0
    freeze_done: bool = False

    def score(self, problem: Problem) -> Scores:
        blocks = free_blocks(problem.space)
        split = problem.train.subset(self.images, problem.generator("hessian"))
        model = problem.float_model()
        problem.progress(0, 1, "top eigenvalues by power iteration")
        with twice_differentiable(model):
            eigenvalues = power_iteration(
                WeightHessian(model, blocks, list(split.batches(self.batch))),
                list(blocks),
                problem.generator("power iteration"),
                max_iterations=self.iterations,
                tolerance=self.tolerance,
            )
        params = {layer.name: layer.params for layer in problem.layers}
        return Scores(
            {
                "blocks": blocks,
                "eigenvalue": {name: found.value for name, found in eigenvalues.items()},
                "iterations": {name: found.iterations for name, found in eigenvalues.items()},
                "converged": {name: found.converged for name, found in eigenvalues.items()},
                "params": {name: sum(params[n] for n in blocks[name]) for name in blocks},
                "error": {name: block_errors(problem, blocks[name]) for name in blocks},
            }
        )

    def solve(self, problem: Problem, scores: Scores) -> Solution:
        values, best = scores.values, None
        policies = self._policies(problem, values)
        for done, policy in enumerate(policies):
            problem.progress(done, len(policies), "activation bits")
            score = problem.evaluate(policy) if len(policies) > 1 else None
            rank = (score.accuracy, -score.loss) if score else (0.0, 0.0)
            if best is None or rank > best[:2]:
                best = (*rank, policy)
                problem.checkpoint(policy)
        assert best is not None
        return Solution(best[2], notes=self._notes(values, best[2]))

    def _policies(self, problem: Problem, values: Mapping[str, Any]) -> list[Policy]:
        """The assignment for each uniform activation bit width that leaves room for the weights."""
        found: dict[Policy, None] = {}
        error: InfeasibleBudget | None = None
        costs = problem.layer_entries()
        for act in self._act_candidates(problem.space):
            try:
                found[self._assignment(problem, values, costs, act)] = None
            except InfeasibleBudget as raised:
                error = error or raised
        if not found and error is not None:
            raise error
        return list(found)

    def _act_candidates(self, space: Space) -> list[int]:
        candidates = sorted({b for bits in space.act_bits.values() if len(bits) > 1 for b in bits})
        if space.paired or not candidates:
            return [FLOAT]  # no choice: pairs decide, or every layer's are pinned
        return [nearest(candidates, self.act_bits)] if self.act_bits else candidates

    def _assignment(
        self, problem: Problem, values: Mapping[str, Any], costs: LayerCosts, act: int
    ) -> Policy:
        """The bits of least total Omega that fall along S, within the budget."""
        space, limits = problem.space, problem.budget.limits
        blocks: Blocks = values["blocks"]

        def pair(name: str, weight: int) -> tuple[int, int]:
            return weight, weight if space.paired else nearest(space.act_bits[name], act)

        def options(names: Sequence[str], omegas: Mapping[int, float]) -> dict[int, Entry]:
            return {
                w: (value, {m: sum(costs[n][pair(n, w)][m] for n in names) for m in limits})
                for w, value in omegas.items()
                if all(pair(n, w) in costs[n] for n in names)
            }

        table = {
            block: options(names, {int(b): omega(values, block, b) for b in values["error"][block]})
            for block, names in blocks.items()
        }
        home = {name: block for block, names in blocks.items() for name in names}
        pinned = {n: bits[-1] for n, bits in space.weight_bits.items() if n not in home}
        table |= {f"pinned {name}": options([name], {w: 0.0}) for name, w in pinned.items()}
        if not all(table.values()):
            raise InfeasibleBudget(f"the target does not support {act}-bit activations everywhere")
        bits = multiple_choice(table, limits, descending=ranking(values))
        weights = {
            name: pinned[name] if name in pinned else bits[home[name]] for name in space.names
        }
        return Policy({name: pair(name, weight) for name, weight in weights.items()})

    @staticmethod
    def _notes(values: Mapping[str, Any], policy: Policy) -> dict[str, Any]:
        """The ranking, the stages in descending Omega, and what has not converged."""
        blocks: Blocks = values["blocks"]
        order = {b: omega(values, b, policy[names[0]].weight) for b, names in blocks.items()}
        stages = sorted(order, key=lambda block: -order[block])
        return {
            "ranking": ranking(values),
            "omega": order,
            "stages": [blocks[block] for block in stages],
            "not_converged": [block for block, done in values["converged"].items() if not done],
        }

    def finish(self, problem: Problem, solution: Solution) -> QModel:
        stages: list[list[str]] = solution.notes["stages"]
        waiting = {name for names in stages for name in names}
        qmodel = problem.quantized()
        start = {n: LayerBits(FLOAT, FLOAT) for n in waiting}
        qmodel.free(Policy({name: start.get(name, b) for name, b in solution.policy.items()}))
        problem.correct(qmodel)
        if not stages:
            return problem.train_model(qmodel)
        recipe = replace(problem.recipe, epochs=problem.recipe.epochs / len(stages))
        for i, names in enumerate(stages):
            problem.progress(i, len(stages), "stages of fine-tuning")
            for name in names:
                qmodel.qlayer(name).free(solution.policy[name])
            problem.train_model(qmodel, recipe, axis=f"fine-tune stage {i}")
            if self.freeze_done:
                for name in names:
                    qmodel.qlayer(name).requires_grad_(False)
        return qmodel


def free_blocks(space: Space) -> Blocks:
    """The layers with free weight bits by block; blocks with tied layers are put together."""
    free = {n for choice in space.choices if choice.kind != "act" for n in choice.layers}
    blocks = {
        group[0]: [x.name for x in space.layers if x.block in group and x.name in free]
        for group in tied_blocks(space)
    }
    return {block: names for block, names in blocks.items() if names}


def block_errors(problem: Problem, names: Sequence[str]) -> dict[str, float]:
    """``||Q_b(W) - W||^2`` over a block at each bit width that all its layers may take."""
    shared = sorted(set.intersection(*(set(problem.space.weight_bits[name]) for name in names)))
    return {str(bits): sum(weight_error(problem, name, bits) for name in names) for bits in shared}


def ranking(values: Mapping[str, Any]) -> list[str]:
    """The blocks in descending S = |lambda| / n; equal ones in execution order."""
    sensitivity = {b: abs(x) / values["params"][b] for b, x in values["eigenvalue"].items()}
    return sorted(sensitivity, key=lambda block: -sensitivity[block])


def omega(values: Mapping[str, Any], block: str, bits: object) -> float:
    """``|lambda| * ||Q_b(W) - W||^2``, the block's second-order perturbation."""
    return float(abs(values["eigenvalue"][block]) * values["error"][block][str(bits)])


def nearest(candidates: Sequence[int], wish: int) -> int:
    """The candidate nearest to the wish, the lower of two."""
    return min(candidates, key=lambda bits: (abs(bits - wish), bits))
