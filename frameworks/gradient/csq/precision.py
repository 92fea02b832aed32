"""What the masks of CSQ's planes stand for: bits, their cost, and how far that is from the budget.

With r the cost of the planes that are kept, relative to that of all planes, and r_T that of the
budget, the budget-aware regularization is

    R = (r - r_T) sum_l c_l sum_b m_{l,b},

a pull towards fewer planes above the budget and towards more below it. r is counted anew for every
batch and has no gradient. c_l is what a plane of layer l costs, relative to the mean over planes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from frameworks.core.policy import FLOAT, PRUNED, Policy
from frameworks.core.problem import Problem
from frameworks.core.space import Choice
from frameworks.core.supernets.placed import raised
from frameworks.gradient.csq.planes import span


def plane_count(bits: tuple[int, ...]) -> int:
    """Planes of a weight that may have up to these bits, of which one is the sign."""
    return max(max((b for b in bits if b != FLOAT), default=1) - 1, 1)


class Precision:
    """The masks of all weights whose bits are searched.

    Args:
        problem: gives space, target and budget.
        acts: activation bits of every layer, which stay; weights' where bits are paired.
        prune: whether a layer without planes has 0 bits, and not its fewest.
        weighted: whether a plane counts by its cost (c_l above), or each as 1; each does on targets
            whose cost is not a sum over layers, where a plane has no cost of its own, and where no
            plane costs anything.
    """

    def __init__(
        self, problem: Problem, acts: Mapping[str, int], prune: bool, weighted: bool
    ) -> None:
        self.problem, self.prune = problem, prune
        self.acts = {} if problem.space.paired else acts
        self.choices: dict[int, Choice] = {
            row: c for row, c in enumerate(problem.space.choices) if c.kind != "act"
        }
        self.masks = {
            row: nn.Parameter(torch.zeros(plane_count(c.bits), device=problem.device))
            for row, c in self.choices.items()
        }
        self._loads: dict[Policy, float] = {}
        every = {row: [True] * len(m) for row, m in self.masks.items()}
        self.full = self._load(self._policy(every))
        self.target = problem.budget.limit / self.full
        additive = problem.target.separable
        self.shares = self._shares(every) if weighted and additive else dict.fromkeys(every, 1.0)

    def _shares(self, every: Mapping[int, list[bool]]) -> dict[int, float]:
        none = {row: [False] * len(kept) for row, kept in every.items()}
        saved = {r: self.full - self._load(self._policy({**every, r: none[r]})) for r in every}
        mean = sum(saved.values()) / sum(map(len, every.values()))
        # Planes may cost nothing: where activations bind the hardware, or another limit is nearer.
        if not mean:
            return dict.fromkeys(every, 1.0)
        return {row: each / len(every[row]) / mean for row, each in saved.items()}

    def _load(self, policy: Policy) -> float:
        if policy not in self._loads:
            problem = self.problem
            self._loads[policy] = problem.budget.load(problem.cost(policy))
        return self._loads[policy]

    def _policy(self, kept: Mapping[int, list[bool]]) -> Policy:
        wanted, pruned = {}, []
        for row, keep in kept.items():
            first, last = span(keep)
            wanted.update(dict.fromkeys(self.choices[row].layers, last - first + 1))
            pruned += list(self.choices[row].layers) if self.prune and last == 0 else []
        policy = raised(self.problem.space, wanted, self.acts)
        for name in pruned:
            policy = policy.replace(name, weight=PRUNED)
        return policy

    def _kept(self, keeps: Callable[[Tensor], Tensor]) -> dict[int, list[bool]]:
        return {row: keeps(mask.detach()).tolist() for row, mask in self.masks.items()}

    def policy(self, cut: float = 0.0) -> Policy:
        """The fewest candidate bits that hold the planes whose logits exceed ``cut``."""
        return self._policy(self._kept(lambda mask: mask > cut))

    def share(self) -> float:
        """r, of the planes with m >= 1/2."""
        return self._load(self._policy(self._kept(lambda mask: mask >= 0))) / self.full

    def penalty(self, temperature: float) -> Tensor:
        """``R``, a scalar, at a temperature of the masks' sigmoids."""
        masks = self.masks.items()
        kept = [self.shares[row] * torch.sigmoid(temperature * m).sum() for row, m in masks]
        return (self.share() - self.target) * torch.stack(kept).sum()

    def fit(self) -> float:
        """The lowest of all logits that as a cut leaves the budget met; 0 where that is the same.

        The published cut is 0. Above the budget the planes of the lowest logits go as well, below
        it those come back that went last. Where nothing meets the budget, it is infinite.
        """
        logits = sorted({0.0, *(m for each in self.masks.values() for m in each.tolist())})
        fits = [c for c in (-float("inf"), *logits) if self.problem.within(self.policy(c))]
        if not fits:
            return float("inf")
        same = self.policy(fits[0])
        return 0.0 if self.policy() == same else fits[0]

    def undecided(self, temperature: float) -> float:
        """The mean of ``4 m (1 - m)`` over all masks: 1 at the start, 0 when all are 0 or 1."""
        m = torch.cat([torch.sigmoid(temperature * mask.detach()) for mask in self.masks.values()])
        return float((4 * m * (1 - m)).mean())
