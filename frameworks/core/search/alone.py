"""What a layer quantized alone does to a network's answers, for each pair of bits it may take.

For layers i that are decided together with weights of w and inputs of a bits, all else float, over
a few calibration images:

    Omega_i(w, a) = mean of KL(softmax(f(x)) || softmax(f_{i, w, a}(x))),

with BatchNorm corrected as in every evaluation. Weights and inputs of a layer are quantized as a
pair, as their errors do not add up within it. It needs no labels and no gradients, and one pass for
each layer and pair that the hardware runs, which goes on from the layer that differs. A layer alone
is no policy of the space, so that none is counted; the images are.
"""

from __future__ import annotations

from collections.abc import Iterator

from frameworks.core.policy import FLOAT, PRUNED, Pair, Policy
from frameworks.core.problem import Problem
from frameworks.core.search.likeness import likeness


def divergences(problem: Problem, images: int) -> dict[str, dict[str, float]]:
    """The mean divergence in nats of each decided group (by its first layer) at ``"w a"`` bits.

    Args:
        problem: gives the network, the space and the calibration images.
        images: so many of these are used, at most.
    """
    evaluator = likeness(problem, images)
    steps = [(names, pair) for names, pairs in decided(problem) for pair in pairs]
    found: dict[str, dict[str, float]] = {}
    counted = problem.meter.policies
    for done, (names, (weight, act)) in enumerate(steps):
        problem.progress(done, len(steps), "layers quantized alone")
        loss = evaluator(alone(problem, names, (weight, act))).loss
        # What is decided as one loses as one: its first layer has all of the loss.
        found.setdefault(names[0], {})[f"{weight} {act}"] = loss
    problem.meter.policies = counted
    return found


def decided(problem: Problem) -> Iterator[tuple[tuple[str, ...], list[Pair]]]:
    """Layers whose bits are decided together, with the pairs that the hardware runs all of them at.

    A space allows each weight bits with each activation bits; the target may run fewer pairs.
    """
    space, supports = problem.space, problem.target.supports
    tied = {name: group for group in space.groups for name in group}
    by_name = {layer.name: layer for layer in space.layers}
    for layer in space.free_layers:
        names = tied.get(layer.name, (layer.name,))
        if names[0] != layer.name:
            continue
        weights, acts = space.weight_bits[layer.name], space.act_bits[layer.name]
        pairs = [(w, a) for w in weights for a in acts if w == a or not space.paired]
        yield names, [p for p in pairs if all(supports(by_name[name], *p) for name in names)]


def runs(problem: Problem, policy: Policy) -> bool:
    """Whether the target runs each layer of a policy at its bits."""
    return all(
        problem.target.supports(layer, weight, policy[layer.name].act)
        for layer in problem.layers
        for weight in set(policy[layer.name].channels(layer.out_channels)) - {PRUNED}
    )


def alone(problem: Problem, names: tuple[str, ...], pair: Pair) -> Policy:
    """The policy that quantizes some layers, and leaves all else in float."""
    policy = Policy.uniform(problem.layers, FLOAT, FLOAT)
    for name in names:
        policy = policy.replace(name, weight=pair[0], act=pair[1])
    return policy
