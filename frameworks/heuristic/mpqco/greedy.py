"""The paper's solution of the multiple-choice knapsack: a filter and a greedy walk.

Proposition 1 leaves out what no best choice needs: of an item's options in the plane of cost and
loss, those that lie above the lower convex hull. Algorithm 1 begins with each item's smallest
option and goes one step along the hull of the item that loses least for what it costs,

    (loss_j - loss_{j+1}) / (cost_{j+1} - cost_j),

the largest first. A step that does not fit ends its item, and the others go on. It takes the number
of steps of all hulls; how far it is from the optimum is at most the step that did not fit first.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

from frameworks.core.solvers.limits import InfeasibleBudget

K = TypeVar("K", bound=Hashable)
Options = Mapping[K, tuple[float, float]]
"""Of an option the loss and the cost."""


def hull(options: Options[K]) -> list[K]:
    """The options on the lower convex hull, the cheapest first, each with less loss than before.

    Of options with equal loss and cost the earlier one is kept.
    """
    kept: list[K] = []
    for option in sorted(options, key=lambda o: (options[o][1], options[o][0])):
        loss, cost = options[option]
        if kept and loss >= options[kept[-1]][0]:
            continue
        while len(kept) > 1:
            (loss0, cost0), (loss1, cost1) = options[kept[-2]], options[kept[-1]]
            if (loss0 - loss1) * (cost - cost0) > (loss0 - loss) * (cost1 - cost0):
                break
            kept.pop()
        kept.append(option)
    return kept


def greedy(
    table: Mapping[str, Options[K]], fits: Callable[[Mapping[str, K]], bool]
) -> dict[str, K]:
    """One option of each item, by steps along the hulls.

    Args:
        table: item to option to (loss, cost).
        fits: whether a choice is within the budget.

    Raises:
        InfeasibleBudget: the smallest options are not.
    """
    hulls = {name: hull(options) for name, options in table.items()}
    chosen = {name: kept[0] for name, kept in hulls.items()}
    if not fits(chosen):
        raise InfeasibleBudget("the cheapest options together are over the budget")
    places = dict.fromkeys(hulls, 0)

    def gain(name: str) -> float:
        steps = hulls[name][places[name] : places[name] + 2]
        (loss0, cost0), (loss1, cost1) = (table[name][option] for option in steps)
        return (loss0 - loss1) / (cost1 - cost0)

    open_ = [name for name in hulls if len(hulls[name]) > 1]
    while open_:
        name = max(open_, key=gain)
        stepped = {**chosen, name: hulls[name][places[name] + 1]}
        if fits(stepped):
            chosen, places[name] = stepped, places[name] + 1
        if chosen is not stepped or places[name] + 1 == len(hulls[name]):
            open_.remove(name)
    return chosen
