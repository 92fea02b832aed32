"""An evolutionary search with elite parents, as one-shot architecture searches use it.

Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform Sampling", arXiv
1904.00420, algorithm 1; Wang et al., "APQ", arXiv 2006.08509, has the same with genes in blocks. Of
all members evaluated so far the best k are the parents of the next generation:

    mutants    a parent drawn uniformly; each unit of genes is redrawn with probability p, uniformly
               from all of its values (so that it may stay as it is)
    children   two parents drawn uniformly (which may be one and the same); each unit comes from
               either with probability 1/2
    random     drawn uniformly, to fill up what the other two fall short of

Whatever is not feasible, or was asked for before, is refused and drawn again, at most ``tries``
times for each member wanted (as SPOS does), or for each mutant and child until there is one (as APQ
does), at most ``redraws`` times; after that the generation has no more of them. Where a generation
would be short at first, or empty later, as too few uniform draws are feasible (a tight budget
leaves hardly any), draws are repaired instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Genes = tuple[int, ...]
"""Which of its values each gene has."""
Rank = tuple[float, ...]
"""What a member is worth; the greater, in the order of tuples, the better."""
Scored = tuple[Genes, Rank]


@dataclass(frozen=True)
class Settings:
    """The numbers of the search.

    Attributes:
        population: random members of the first generation.
        parents: k, the best members of all that were evaluated.
        mutants: members of a later generation that are mutated parents.
        children: members of a later generation that are crossed parents.
        mutation: p, the probability that a unit is redrawn.
        tries: draws at most, in multiples of the members wanted.
        redraws: draws at most for each single mutant and child; None for ``tries`` of them all.
    """

    population: int = 50
    parents: int = 10
    mutants: int = 25
    children: int = 25
    mutation: float = 0.1
    tries: int = 10
    redraws: int | None = None

    def __post_init__(self) -> None:
        for name in ("population", "parents", "tries", "redraws"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least 1")
        for name in ("mutants", "children"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must not be negative")
        if self.mutants + self.children < 1:
            raise ValueError("mutants and children are both 0: a generation needs members")
        if not 0 <= self.mutation <= 1:
            raise ValueError(f"mutation = {self.mutation}: give a probability, 0 to 1")


class Genetic:
    """The algorithm with the evaluation outside: `ask` for genomes, `tell` what they are worth.

    Args:
        counts: how many values each gene has; genes are numbers from 0.
        rng: draws everything.
        settings: see there.
        feasible: whether genes may be a member.
        repair: makes genes feasible that are not, for tight limits; None only refuses.
        units: positions of genes that mutate and cross together; each gene alone by default.
        start: genomes that the first generation begins with, if they are feasible.

    Attributes:
        parents: the best members told so far, best first; of equal ones the earlier first.
        draws: how many genomes were drawn, refused ones included.
    """

    def __init__(
        self,
        counts: Sequence[int],
        rng: np.random.Generator,
        settings: Settings,
        *,
        feasible: Callable[[Genes], bool],
        repair: Callable[[Genes], Genes] | None = None,
        units: Sequence[Sequence[int]] | None = None,
        start: Sequence[Genes] = (),
    ) -> None:
        self.units = [list(unit) for unit in units or [[i] for i in range(len(counts))]]
        if sorted(i for unit in self.units for i in unit) != list(range(len(counts))):
            raise ValueError(f"units {self.units} must hold each of {len(counts)} genes once")
        self.counts, self.rng, self.settings = tuple(counts), rng, settings
        self.feasible, self.repair = feasible, repair
        self.parents: list[Scored] = []
        self.draws = 0
        self._start = tuple(start)
        self._known: set[Genes] = set()

    def ask(self) -> list[Genes]:
        """New feasible genomes, none of them asked for before; none if no more are found."""
        s, found = self.settings, list[Genes]()
        if self.parents:
            self._breed(found, s.mutants, self.mutant)
            self._breed(found, s.children, self.child)
            self._fill(found, s.mutants + s.children)
        else:
            waiting = iter(self._start)
            self._add(found, len(self._start), lambda: next(waiting), tries=1)
            self._fill(found, s.population)
        return found

    def tell(self, scored: Sequence[Scored]) -> None:
        """Let evaluated genomes compete with the parents."""
        pool = [*self.parents, *scored]
        pool.sort(key=lambda member: member[1], reverse=True)  # stable, so that the earlier stays
        self.parents = pool[: self.settings.parents]

    def mutant(self) -> Genes:
        """A parent with some units redrawn, feasible or not."""
        genes, fresh = self._parent(), self.uniform()
        return self._mixed(genes, fresh, self.rng.random(len(self.units)) < self.settings.mutation)

    def child(self) -> Genes:
        """Two parents crossed, feasible or not."""
        return self._mixed(self._parent(), self._parent(), self.rng.random(len(self.units)) < 0.5)

    def uniform(self) -> Genes:
        """Genes drawn uniformly, feasible or not."""
        return tuple(self.rng.integers(0, self.counts).tolist())

    def _parent(self) -> Genes:
        return self.parents[int(self.rng.integers(len(self.parents)))][0]

    def _mixed(self, genes: Genes, other: Genes, taken: NDArray[np.bool_]) -> Genes:
        """The genes with those of the other in the units that are taken from it."""
        found = list(genes)
        for unit, take in zip(self.units, taken, strict=True):
            for i in unit if take else ():
                found[i] = other[i]
        return tuple(found)

    def _fill(self, found: list[Genes], count: int) -> None:
        """Add random members until there are so many.

        Repaired ones only where there would be no generation without them.
        """
        self._add(found, count - len(found), self.uniform)
        if self.repair is not None and not (self.parents and found):
            repair = self.repair
            self._add(found, count - len(found), lambda: repair(self.uniform()))

    def _breed(self, found: list[Genes], count: int, make: Callable[[], Genes]) -> None:
        """Add up to ``count`` mutants or children."""
        if self.settings.redraws is None:
            self._add(found, count, make)
            return
        for wanted in range(len(found) + 1, len(found) + count + 1):
            self._add(found, 1, make, tries=self.settings.redraws)
            if len(found) < wanted:
                break

    def _add(
        self, found: list[Genes], count: int, make: Callable[[], Genes], tries: int | None = None
    ) -> None:
        """Add up to ``count`` new feasible members."""
        wanted = len(found) + count
        for _ in range((tries or self.settings.tries) * count):
            if len(found) >= wanted:
                break
            genes = make()
            self.draws += 1
            if genes not in self._known and self.feasible(genes):
                self._known.add(genes)
                found.append(genes)
