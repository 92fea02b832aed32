"""NSGA-II over integer genes (Deb, Pratap, Agarwal and Meyarivan, IEEE TEC 6(2), 2002).

All objectives are minimised. A member a constraint-dominates b if it is no worse in any objective
and better in one, both feasible; or if it violates its constraints less. One generation is

    parents     binary tournaments by (rank, crowding distance)
    offspring   simulated binary crossover (SBX) and polynomial mutation, rounded to integers;
                what is in the population already is made again
    survivors   the fronts of population and offspring in the order of their ranks, the last one
                that does not fit whole by descending crowding distance

The operators (see `frameworks.core.evolution.variation`) work on reals that reach half a step over
the bounds, so that rounding gives the outermost integers their full share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frameworks.core.evolution.variation import Reals, polynomial, sbx

Genes = tuple[int, ...]
Integers = NDArray[np.int64]

MAX_TRIES = 100
"""Rounds of mating in a row without a new genome after which the space counts as exhausted."""
EDGE = 0.5 - 1e-9


@dataclass(frozen=True)
class Member:
    """An evaluated genome.

    Attributes:
        genes: integers within the bounds.
        objectives: to be minimised.
        violation: how far the constraints are missed in all; 0 is feasible.
    """

    genes: Genes
    objectives: tuple[float, ...]
    violation: float = 0.0


class NSGA2:
    """The algorithm with the evaluation outside: `ask` for genomes, `tell` what they are worth.

    Args:
        lower, upper: bounds of each gene, inclusive.
        rng: draws everything.
        population: members that survive a generation.
        offspring: genomes of one generation; as many as the population if None.
        crossover: probability that a pair is crossed.
        crossover_eta: distribution index of SBX; the smaller, the further from the parents.
        mutation: probability that a gene is mutated; one over the number of genes if None.
        mutation_eta: distribution index of polynomial mutation.
        start: genomes that must be in the first generation; the rest is drawn uniformly.

    Attributes:
        members: the population, best first.
    """

    def __init__(
        self,
        lower: Sequence[int],
        upper: Sequence[int],
        rng: np.random.Generator,
        *,
        population: int = 100,
        offspring: int | None = None,
        crossover: float = 0.9,
        crossover_eta: float = 15.0,
        mutation: float | None = None,
        mutation_eta: float = 20.0,
        start: Sequence[Genes] = (),
    ) -> None:
        self.lower, self.upper = np.asarray(lower, np.int64), np.asarray(upper, np.int64)
        if self.lower.shape != self.upper.shape or (self.lower > self.upper).any():
            raise ValueError(f"genes: bounds {list(lower)} and {list(upper)} do not match")
        if population < 2 or (offspring is not None and offspring < 1):
            raise ValueError("nsga2: at least 2 members and 1 offspring are needed")
        self.rng = rng
        self.size, self.offspring = population, offspring or population
        self.crossover, self.crossover_eta = crossover, crossover_eta
        self.mutation = 1 / max(len(self.lower), 1) if mutation is None else mutation
        self.mutation_eta = mutation_eta
        self.members: list[Member] = []
        self._start = tuple(start)

    @property
    def front(self) -> list[Member]:
        """The feasible members that no member dominates."""
        best = fronts(self.members)[0] if self.members else []
        return [self.members[i] for i in best if self.members[i].violation <= 0]

    def ask(self) -> list[Genes]:
        """New genomes to evaluate, none of them in the population; none if there are no more."""
        if self.members:
            return self._new(self.offspring, self._mate, [])
        return self._new(self.size, self._draw, list(dict.fromkeys(self._start)))

    def tell(self, evaluated: Sequence[Member]) -> None:
        """Let the evaluated genomes compete with the population."""
        pool = [*self.members, *evaluated]
        kept: list[int] = []
        for front in fronts(pool):
            room = self.size - len(kept)
            distance = crowding([pool[i].objectives for i in front])
            order = np.argsort(-distance, kind="stable")
            kept += [front[i] for i in order[:room]]
        self.members = [pool[i] for i in kept]

    def _new(self, count: int, make: Callable[[int], Integers], found: list[Genes]) -> list[Genes]:
        known = {member.genes for member in self.members} | set(found)
        tries = 0
        while len(found) < count and tries < MAX_TRIES:
            tries += 1
            for row in make(count - len(found)).tolist():
                genes = tuple(row)
                if genes not in known and len(found) < count:
                    known.add(genes)
                    found.append(genes)
                    tries = 0
        return found

    def _draw(self, count: int) -> Integers:
        shape = (count, len(self.lower))
        return self.rng.integers(self.lower, self.upper, shape, endpoint=True)

    def _mate(self, count: int) -> Integers:
        """At least ``count`` children ``[n, genes]``."""
        pairs = (count + 1) // 2
        genes = np.array([member.genes for member in self.members], float)
        parents = genes[self._tournament(2 * pairs)]
        low, high = self.lower - EDGE, self.upper + EDGE
        children = np.concatenate(
            sbx(parents[:pairs], parents[pairs:], low, high, self.crossover_eta, self.rng)
        )
        apart = np.tile(self.rng.random(pairs) >= self.crossover, 2)
        children[apart] = parents[apart]
        # Between the two operators the genes are integers, as they are between two generations.
        children = np.clip(np.rint(children), self.lower, self.upper)
        mutated = polynomial(children, low, high, self.mutation_eta, self.rng)
        chosen = self.rng.random(children.shape) < self.mutation
        children = np.where(chosen, mutated, children)
        whole: Integers = np.clip(np.rint(children), self.lower, self.upper).astype(np.int64)
        return whole

    def _tournament(self, count: int) -> Integers:
        """Winners of binary tournaments: the lower rank, then the larger distance, then chance."""
        rank, distance = np.zeros(len(self.members)), np.zeros(len(self.members))
        for number, front in enumerate(fronts(self.members)):
            rank[front] = number
            distance[front] = crowding([self.members[i].objectives for i in front])
        a, b = self.rng.integers(len(self.members), size=(2, count))
        better = (rank[a] < rank[b]) | ((rank[a] == rank[b]) & (distance[a] >= distance[b]))
        winners: Integers = np.where(better, a, b)
        return winners


def dominates(members: Sequence[Member]) -> NDArray[np.bool_]:
    """Matrix ``[i, j]``: member i constraint-dominates member j."""
    values = np.array([member.objectives for member in members], float)
    violation = np.maximum([member.violation for member in members], 0.0)
    no_worse = (values[:, None] <= values[None]).all(-1)
    better = (values[:, None] < values[None]).any(-1)
    feasible = violation == 0
    both = feasible[:, None] & feasible[None]
    less: NDArray[np.bool_] = violation[:, None] < violation[None]
    return np.where(both, no_worse & better, less)


def fronts(members: Sequence[Member]) -> list[list[int]]:
    """Fast non-dominated sort: the indices of each front, the best front first."""
    if not members:
        return []
    above = dominates(members)
    waiting = above.sum(0)
    found: list[list[int]] = []
    placed = np.zeros(len(members), bool)
    while not placed.all():
        front = np.flatnonzero((waiting == 0) & ~placed)
        found.append(front.tolist())
        placed[front] = True
        waiting = waiting - above[front].sum(0)
    return found


def crowding(objectives: Sequence[Sequence[float]]) -> Reals:
    """Crowding distance of each member of one front; those at the ends have infinity."""
    values = np.array(objectives, float)
    distance = np.zeros(len(values))
    for column in values.T:
        order = np.argsort(column, kind="stable")
        spread = column[order[-1]] - column[order[0]]
        distance[order[[0, -1]]] = np.inf
        if spread > 0:
            distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / spread
    return distance
