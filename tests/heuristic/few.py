"""A target that runs few of the pairs that a space allows, and says so when asked for a price."""

from dataclasses import dataclass, replace

from frameworks.hardware.bops import Bops
from frameworks.testing import toy

PAIRS = {(2, 2), (2, 8), (4, 4), (4, 8), (8, 4), (8, 8)}
OWN = {"blocks.0.conv2": {(4, 8), (8, 4), (8, 8)}}


@dataclass(frozen=True)
class Few(Bops):
    """Bit operations of the pairs that run; one layer has fewer than the others."""

    def supports(self, layer, weight, act):
        return (weight, act) in OWN.get(layer.name, PAIRS)

    def layer_cost(self, layer, bits):
        self.require(layer, bits)
        return super().layer_cost(layer, bits)


def few(needs, **changes):
    """A problem whose space has every weight bits with every activation bits all the same."""
    problem = toy.make_problem("bops", bits=(2, 4, 8), needs=needs, **changes)
    most = problem.cost(problem.space.highest())["bops"]
    return replace(problem, target=Few(), budget=replace(problem.budget, limit=0.6 * most))


def unsupported(problem, policy):
    """The layers that a policy has at bits which do not run."""
    return [
        layer.name
        for layer in problem.layers
        if not problem.target.supports(layer, policy[layer.name].weight, policy[layer.name].act)
    ]
