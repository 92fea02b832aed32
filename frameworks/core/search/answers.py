"""What a framework's methods return, checked: a wrong answer is named with its file, line and cure.

The suite and `frameworks.core.search.steering` ask a framework through these functions, so that a
method that returns something else than its signature says fails where it can be seen, and nowhere
later.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from frameworks.core.networks.qmodel import QModel
from frameworks.core.networks.taking.take import given_entries
from frameworks.core.policy import Policy
from frameworks.core.solution import Point, Scores, Solution

if TYPE_CHECKING:
    from frameworks.core.framework import Framework, ScoringFramework
    from frameworks.core.problem import Problem


class WrongAnswer(TypeError):
    """A framework returned what it must not; the message says where, what and what to do."""


def place_of(framework: Framework, method: str) -> str:
    """``haq (file, line N, search)``: where a framework's method is written."""
    code = getattr(inspect.unwrap(getattr(type(framework), method)), "__code__", None)
    if code is None:
        return f"framework {framework.name} ({method})"
    file, line = code.co_filename, code.co_firstlineno
    return f"framework {framework.name} ({file}, line {line}, {method})"


def searched(framework: Framework, problem: Problem) -> Solution:
    """`frameworks.Framework.search`, its answer checked.

    Raises:
        WrongAnswer: it is no solution of the problem.
    """
    return _solution(framework, "search", framework.search(problem), problem)


def solved(framework: ScoringFramework, problem: Problem, scores: Scores) -> Solution:
    """`frameworks.ScoringFramework.solve`, its answer checked; raises as `searched`."""
    return _solution(framework, "solve", framework.solve(problem, scores), problem)


def scored(framework: ScoringFramework, problem: Problem) -> Scores:
    """`frameworks.ScoringFramework.score`, its answer checked, but not what ``values`` hold."""
    found: Any = framework.score(problem)
    where = place_of(framework, "score")
    if not isinstance(found, Scores) or not isinstance(found.values, Mapping):
        raise WrongAnswer(f"{where}: returned {_what(found)}: give Scores(values={{...}})")
    if found.images is not None:
        _check_images(where, found.images, problem)
    return found


def skipped(framework: Framework, problem: Problem) -> str | None:
    """`frameworks.Framework.skip`, its answer checked."""
    reason: Any = framework.skip(problem)
    if reason is not None and type(reason) is not str:
        where = place_of(framework, "skip")
        raise WrongAnswer(f"{where}: returned {_what(reason)}: give the reason as text, or None")
    return reason


def finished(framework: Framework, problem: Problem, solution: Solution) -> QModel:
    """`frameworks.Framework.finish`, its answer checked: a network at the bits of the solution's
    policy.

    Raises:
        WrongAnswer: it is no such network.
    """
    found: Any = framework.finish(problem, solution)
    where = place_of(framework, "finish")
    if not isinstance(found, QModel):
        raise WrongAnswer(f"{where}: returned {_what(found)}: give the trained QModel")
    _check_bits(where, found.policy, solution.policy)
    return found


def _check_bits(where: str, found: Policy, wanted: Policy) -> None:
    """A network of other bits would be recorded, and priced, as the policy that it is not."""
    if tuple(found) != tuple(wanted):
        raise WrongAnswer(
            f"{where}: the QModel has the layers {list(found)}: give one of {list(wanted)}"
        )
    odd = next((name for name in wanted if found[name] != wanted[name]), None)
    if odd is not None:
        raise WrongAnswer(
            f"{where}: the QModel has {found[odd]} in {odd}, the solution {wanted[odd]}: train at "
            "solution.policy, such as with problem.fine_tune(solution.policy)"
        )


def _solution(framework: Framework, method: str, found: Any, problem: Problem) -> Solution:
    where = place_of(framework, method)
    if not isinstance(found, Solution):
        cure = "give Solution(policy)"
        raise WrongAnswer(f"{where}: returned {_what(found)}, not a Solution: {cure}")
    _check_policy(f"{where}: policy", found.policy, problem)
    try:
        problem.space.validate(found.policy)
    except ValueError as error:
        raise WrongAnswer(f"{where}: {error}") from error
    if found.weights is not None:
        _check_weights(where, found.weights, problem.network)
    if found.images is not None:
        _check_images(where, found.images, problem)
    _check_front(where, found.front, problem)
    if not isinstance(found.notes, Mapping):
        raise WrongAnswer(f"{where}: notes is {_what(found.notes)}: give a dict")
    if found.cross_entropy is not None:
        _check_number(f"{where}: cross_entropy", found.cross_entropy)
    for checkpoint in problem.checkpoints:
        _check_policy(f"{where}: a policy given to problem.checkpoint", checkpoint.policy, problem)
    return found


def _what(value: object) -> str:
    return "None" if value is None else f"a {type(value).__qualname__}"


def _check_policy(what: str, policy: object, problem: Problem) -> None:
    if not isinstance(policy, Policy):
        raise WrongAnswer(f"{what} is {_what(policy)}: give Policy({{layer: (weight, act), ...}})")
    names = problem.space.names
    if tuple(policy) != tuple(names):
        raise WrongAnswer(f"{what} has the layers {list(policy)}: give all, in order: {names}")


def _check_weights(where: str, weights: object, network: nn.Module) -> None:
    """Weights fit the float network exactly, by its names and those it was given with besides."""
    if not isinstance(weights, Mapping):
        raise WrongAnswer(f"{where}: weights is {_what(weights)}: give a state dict")
    needed = network.state_dict()
    expected = given_entries(network) | needed
    if odd := sorted(
        map(str, (weights.keys() - expected.keys()) | (needed.keys() - weights.keys()))
    ):
        raise WrongAnswer(
            f"{where}: weights and the float network differ in {odd[:5]}: give its state dict"
        )
    for name, value in weights.items():
        if not isinstance(value, Tensor) or value.shape != expected[name].shape:
            shape = list(value.shape) if isinstance(value, Tensor) else _what(value)
            wanted = list(expected[name].shape)
            raise WrongAnswer(f"{where}: weights[{name!r}] is {shape}: give a tensor {wanted}")
        _check_finite(f"{where}: weights[{name!r}]", value)


def _check_images(where: str, images: object, problem: Problem) -> None:
    wanted = f"give a floating tensor [N, {', '.join(map(str, problem.input_shape))}]"
    if not isinstance(images, Tensor) or not images.is_floating_point():
        raise WrongAnswer(f"{where}: images is {_what(images)}: {wanted}")
    if images.dim() < 2 or tuple(images.shape[1:]) != tuple(problem.input_shape) or not len(images):
        raise WrongAnswer(f"{where}: images has the shape {list(images.shape)}: {wanted}")
    _check_finite(f"{where}: images", images)


def _check_finite(what: str, value: Tensor) -> None:
    if not bool(torch.isfinite(value.detach()).all()):
        raise WrongAnswer(f"{what} is not finite: a training or a search diverged")


def _check_front(where: str, front: object, problem: Problem) -> None:
    if not isinstance(front, tuple | list):
        raise WrongAnswer(f"{where}: front is {_what(front)}: give a tuple of Point")
    for index, point in enumerate(front):
        what = f"{where}: front[{index}]"
        if not isinstance(point, Point) or not isinstance(point.objectives, Mapping):
            raise WrongAnswer(f"{what} is {_what(point)}: give Point(policy, {{name: number}})")
        _check_policy(f"{what}.policy", point.policy, problem)
        for name, value in point.objectives.items():
            _check_objective(f"{what}.objectives[{name!r}]", name, value)


def _check_objective(what: str, name: object, value: object) -> None:
    if not isinstance(name, str):
        raise WrongAnswer(f"{what}: an objective's name is text")
    number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    found = _check_number(what, number)
    if not abs(found) < float("inf"):
        raise WrongAnswer(f"{what} is {found}: leave such points out")


def _check_number(what: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise WrongAnswer(f"{what} is {_what(value)}: give a number")
    return float(value)
